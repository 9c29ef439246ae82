//! Addresses that are kept for identities, as the store has them: while a pod uses one, while it waits here for the next
//! pod of its identity, and before the node claims it for such a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use schemas::reservation::Reservation;
use store::{Change, Store};

use crate::agent::Agent;
use crate::identity::{self, Identity};

/// Texts of the store's catalogue under `fixed/ADDRESS`: the pool, and for whom, as slots name it.
const PREFIX: &str = "fixed/";

/// For whom an address is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFor {
    /// The pool that it is of.
    pub pool: String,
    /// The owner, as slots name it: see [`schemas::reservation`].
    pub owner: String,
}

/// By address.
pub type Kept = BTreeMap<IpAddr, KeptFor>;

/// What the store has. A text that cannot be read is told, and keeps nothing.
pub fn load(store: &Store) -> Kept {
    let texts = match store.catalogue(PREFIX) {
        Ok(texts) => texts.texts,
        Err(error) => {
            tracing::error!(%error, "which addresses are kept for whom cannot be read");
            return Kept::new();
        }
    };
    let mut kept = Kept::new();
    for (key, text) in texts {
        match (key[PREFIX.len()..].parse(), text.split_once(' ')) {
            (Ok(address), Some((pool, owner))) => {
                kept.insert(address, KeptFor { pool: pool.to_owned(), owner: owner.to_owned() });
            }
            _ => tracing::error!(key, text, "for whom this address is kept cannot be read: it is kept for nobody"),
        }
    }
    kept
}

/// Without a cluster: an identity is over when no pod of it is declared any more. Runs for as long as the agent.
pub async fn keep(agent: Arc<Agent>) {
    let mut version = agent.ledger.version();
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        end_undeclared(&agent);
        tokio::select! {
            // The ledger outlives this.
            changed = version.changed() => if changed.is_err() { return },
            () = &mut stopping => return,
        }
    }
}

/// Lets those go whose identities are over.
pub fn end_undeclared(agent: &Agent) {
    if !agent.has_synced() || agent.ledger.kept().is_empty() {
        return;
    }
    let present = identity::present(&agent.catalogue());
    agent.ledger.unkeep(|_, kept| {
        let owner = kept.owner.parse::<Reservation>();
        !owner.is_ok_and(|Reservation { namespace, name, .. }| present.contains(&Identity { namespace, name }))
    });
}

/// The change with which an address is kept.
pub fn put(change: Change, address: IpAddr, kept: &KeptFor) -> Change {
    change.put_catalogue(&format!("{PREFIX}{address}"), &format!("{} {}", kept.pool, kept.owner))
}

/// The change with which it is kept no more.
pub fn delete(change: Change, address: IpAddr) -> Change {
    change.delete_catalogue(&format!("{PREFIX}{address}"))
}
