//! Who leads: the holder of a Lease.

use std::convert::Infallible;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{DefaultBackoff, watch_object};
use kube::{Api, Client, ResourceExt};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError, LeaseParams};
use serde_json::json;
use tokio::time::Instant;

use super::health::Health;

/// The Lease's name.
pub(super) const LEASE: &str = "dragline-controller";
/// How long a Lease holds without being renewed, in seconds.
const DURATION: u64 = 15;
/// How long before its end it is renewed, in seconds. One attempt, as long as the election's client waits, must fit
/// twice.
const GRACE: u64 = 9;
/// After this time in which it was not seen to be renewed, which is done every six seconds, a Lease has no holder.
const UNRENEWED: Duration = Duration::from_secs(DURATION + 3);
/// What the API server takes as a field manager's name.
const MAX_FIELD_MANAGER: usize = 128;
/// A free Lease is taken in less.
const TAKEN: Duration = Duration::from_secs(1);
/// How long an end waits for the Lease to be given back; afterwards it expires by itself.
const RELEASE: Duration = Duration::from_secs(5);

/// One who wants to lead.
pub(super) struct Candidate<'a> {
    /// Answers within [`GRACE`], or fails.
    pub(super) client: Client,
    /// For what takes longer.
    pub(super) watching: Client,
    pub(super) namespace: &'a str,
    /// No other candidate has it.
    pub(super) identity: &'a str,
}

impl Candidate<'_> {
    /// Leads whenever it can, until `stop` completes. `work` is started for each term and dropped at its end; a term
    /// also ends when `work` does.
    pub(super) async fn run<W: Future<Output = ()>>(
        &self,
        health: &Health,
        stop: impl Future<Output = ()>,
        work: impl Fn() -> W,
    ) {
        tokio::pin!(stop);
        let mut backoff = DefaultBackoff::default();
        loop {
            let manager = tokio::select! {
                manager = self.manager() => manager,
                () = &mut stop => return,
            };
            let failed = match manager {
                Ok(manager) => {
                    health.reached();
                    let ended = tokio::select! {
                        ended = self.terms(&manager, health, &work) => Some(ended),
                        () = &mut stop => None,
                    };
                    health.leads(false);
                    match ended {
                        None => return release(&manager).await,
                        Some(Err(Ended::Work)) => {
                            release(&manager).await;
                            Ended::Work
                        }
                        // It is asked for anew, by one that does not wait for the end that it would have had.
                        Some(Err(Ended::GivenBack)) => continue,
                        Some(Err(failed)) => failed,
                        Some(Ok(never)) => match never {},
                    }
                }
                Err(error) => Ended::Lease(error),
            };
            tracing::warn!(error = %failed, "not leading; trying again");
            let pause = backoff.next().unwrap_or(Duration::from_secs(30));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut stop => return,
            }
        }
    }

    /// Asks for the Lease, and creates it where it is missing.
    async fn manager(&self) -> Result<LeaseManager, LeaseManagerError> {
        let names: Vec<char> = format!("dragline-{}", self.identity).chars().collect();
        let tail = names.len().saturating_sub(MAX_FIELD_MANAGER);
        let parameters = LeaseParams::new(self.identity, DURATION, GRACE)
            .with_field_manager(names[tail..].iter().collect::<String>());
        LeaseManagerBuilder::new(self.client.clone(), LEASE)
            .with_namespace(self.namespace)
            .with_parameters(parameters)
            .build()
            .await
    }

    /// Term after term, until one ends badly. What is done is dropped before a term's end is told.
    async fn terms<W: Future<Output = ()>>(
        &self,
        manager: &LeaseManager,
        health: &Health,
        work: &impl Fn() -> W,
    ) -> Result<Infallible, Ended> {
        loop {
            tokio::select! {
                is_holder = manager.changed() => if !is_holder? { continue },
                () = self.given_back() => return Err(Ended::GivenBack),
            }
            tracing::info!("leading");
            health.leads(true);
            tokio::select! {
                biased;
                changed = manager.changed() => { changed?; }
                () = work() => return Err(Ended::Work),
            }
            health.leads(false);
            tracing::warn!("no longer leading: somebody else holds the Lease {LEASE}");
        }
    }

    /// Completes when the Lease is free and is not being taken. One that nobody renews is made free, whatever the time says
    /// until which it holds: its holder's clock may be hours ahead of this one.
    async fn given_back(&self) {
        let api: Api<Lease> = Api::namespaced(self.watching.clone(), self.namespace);
        let mut seen = Box::pin(watch_object(api, LEASE).default_backoff());
        let mut held: Option<(String, Instant)> = None;
        loop {
            let unrenewed = async {
                match &held {
                    Some((_, since)) => tokio::time::sleep_until(*since + UNRENEWED).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                event = seen.next() => event,
                () = unrenewed => {
                    if let Some((version, since)) = &mut held {
                        self.free(version).await;
                        // It is free now, which is seen, or has been renewed, or nobody can be asked.
                        *since = Instant::now();
                    }
                    continue;
                }
            };
            let Some(event) = event else { return std::future::pending().await };
            // Without seeing it, one waits for its end.
            let Ok(lease) = event else { continue };
            let version = lease.as_ref().and_then(ResourceExt::resource_version).unwrap_or_default();
            let is_held = lease.and_then(|lease| lease.spec?.holder_identity).is_some();
            if !is_held {
                if held.is_none() {
                    // It is being taken, or it was given back before this looked and is believed to be held.
                    tokio::time::sleep(TAKEN).await;
                }
                return;
            }
            if held.as_ref().is_none_or(|(known, _)| *known != version) {
                held = Some((version, Instant::now()));
            }
        }
    }

    /// Takes the Lease from its holder, unless it has been written since.
    async fn free(&self, version: &str) {
        tracing::warn!("the Lease {LEASE} has not been renewed for {UNRENEWED:?}: it is taken from its holder");
        let nobody = json!({
            "metadata": {"resourceVersion": version},
            "spec": {"holderIdentity": null, "acquireTime": null, "renewTime": null, "leaseDurationSeconds": null},
        });
        let api: Api<Lease> = Api::namespaced(self.client.clone(), self.namespace);
        match api.patch(LEASE, &PatchParams::default(), &Patch::Merge(nobody)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(error) => tracing::warn!(%error, "the Lease {LEASE} cannot be taken from its holder"),
        }
    }
}

/// Why a term has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The Lease cannot be asked for, or renewed: somebody else may hold it soon.
    #[error("the Lease {LEASE} cannot be held: {0}")]
    Lease(#[from] LeaseManagerError),
    /// The one who held it has given it back.
    #[error("the Lease {LEASE} is free")]
    GivenBack,
    /// A part has failed.
    #[error("the work has ended")]
    Work,
}

/// Gives the Lease back, so that the next one need not wait for its end. Without having led it does nothing.
async fn release(manager: &LeaseManager) {
    match tokio::time::timeout(RELEASE, manager.release()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the Lease {LEASE} could not be given back: it expires by itself"),
        Err(_) => tracing::warn!("the Lease {LEASE} could not be given back in time: it expires by itself"),
    }
}
