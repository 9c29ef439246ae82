//! Addresses claimed out of an ended quarantine: somebody unknown has been seen to use them, so each is looked for on the
//! wire before a pod gets it.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use netlink::{Kernel, ProbeError};
use schemas::name::Mac;
use tokio::sync::Semaphore;

/// So many questions are out at once on the node: each is a broadcast a second.
static QUESTIONS: Semaphore = Semaphore::const_new(4);
/// The first and the longest wait after a question that could not be asked.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// For how long an address that somebody unknown uses is kept from everybody.
pub(super) const QUARANTINE_SECONDS: u64 = 3600;

/// What has been found out of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Nobody has it.
    Free,
    /// It cannot be asked for from this node, and why. It is given all the same: its quarantine has passed, and what no
    /// link of the node leads to can never be asked for from here; else the node would keep it, and never give it.
    Unaskable(String),
    /// Somebody has it.
    Used(Mac),
}

/// The addresses that are being looked for.
pub(super) struct Suspects {
    kernel: Kernel,
    /// It has been said that the pool's addresses cannot be asked for from here.
    is_blind: bool,
    looking: FuturesUnordered<BoxFuture<'static, (IpAddr, Found)>>,
}

impl Suspects {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self { kernel, is_blind: false, looking: FuturesUnordered::new() }
    }

    /// Begins to look for an address.
    pub(super) fn look_for(&self, address: IpAddr) {
        let kernel = self.kernel.clone();
        self.looking.push(Box::pin(async move { (address, look_for(kernel, address).await) }));
    }

    /// The next address that something has been found out of; None when none is looked for.
    pub(super) async fn next(&mut self) -> Option<(IpAddr, Found)> {
        self.looking.next().await
    }

    /// Tells the log what has been found out.
    pub(super) fn report(&mut self, pool: &str, address: IpAddr, found: &Found) {
        match found {
            Found::Free => tracing::info!(pool, %address, "nobody uses this address any more"),
            Found::Unaskable(reason) if !std::mem::replace(&mut self.is_blind, true) => {
                tracing::warn!(pool, reason, "addresses of this pool are given after their quarantine without a look");
            }
            Found::Unaskable(_) => {}
            Found::Used(mac) => tracing::warn!(
                pool,
                %address,
                %mac,
                "somebody uses this address whom dragline does not know: nobody is given it for an hour"
            ),
        }
    }
}

async fn look_for(kernel: Kernel, address: IpAddr) -> Found {
    let mut wait = BACKOFF.0;
    loop {
        let asked = {
            // It is never closed; if it were, asking all at once is better than never.
            let _permit = QUESTIONS.acquire().await;
            let kernel = kernel.clone();
            tokio::task::spawn_blocking(move || kernel.look_for(address)).await
        };
        match asked {
            Ok(Ok(None)) => return Found::Free,
            Ok(Ok(Some(mac))) => return Found::Used(mac),
            Ok(Err(error @ ProbeError::NotOnLink { .. })) => return Found::Unaskable(error.to_string()),
            Ok(Err(error)) => {
                tracing::warn!(%address, %error, "it is not known yet whether somebody uses this address")
            }
            Err(error) => tracing::error!(%address, %error, "the look for this address ended badly"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}
