//! Which of the pools' addresses this node holds: for each pool that the node has to do with, a [`plan::lease::Tenant`]
//! decides, and a task of its own carries out.
//!
//! An address is given to a pod only if three agree: the ledger (it is recorded as leased, and nobody's), the tenant (it is
//! spare, and not on its way back), and the agent's standing (it is the node, and has been in contact). Tenants are asked
//! inside the ledger's own lock, so that no address is given and given up at once; and as of the standing that was looked
//! at, since a tenant learns later than the agent that the node has been away and its addresses may be others' now.

mod keeper;
pub(crate) mod requests;
mod suspects;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plan::lease::tenant::{Kept, Waiter};
use plan::lease::{Layout, Windows, size_for};
use schemas::slot::Holder;
use store::Change;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::demand::{self, Want};
use super::{Standing, State, fixed};
use crate::agent::Agent;
use crate::catalogue::{Catalogue, Pool};
use keeper::Keeper;

/// What belongs to one change comes in several steps.
const SETTLE: Duration = Duration::from_millis(2);
/// Texts of the store's catalogue: pools of which this node has claimed addresses, by name.
pub(crate) const KEY_POOL: &str = "tenant/";

/// The tenants of this node, by pool.
#[derive(Default)]
pub struct Tenants {
    keepers: Mutex<BTreeMap<String, Keeper>>,
}

impl Tenants {
    fn keepers(&self) -> MutexGuard<'_, BTreeMap<String, Keeper>> {
        // A keeper is whole between any two calls.
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a pod may have this address of the pool now, while the agent stands like that; from then on it has it.
    pub fn give(&self, pool: &str, address: IpAddr, standing: &Standing) -> bool {
        let mut keepers = self.keepers();
        keepers.get_mut(pool).filter(|keeper| keeper.is_of(standing)).is_some_and(|keeper| keeper.give(address))
    }

    /// Whether the pod that had this address last may have it again now, whatever the agent's standing; from then on it
    /// has it.
    pub fn give_again(&self, pool: &str, address: IpAddr) -> bool {
        self.keepers().get_mut(pool).is_some_and(|keeper| keeper.give_again(address))
    }

    /// Whether a pod of that owner may have this address now, while the agent stands like that; from then on it has it.
    pub fn give_kept(&self, pool: &str, address: IpAddr, owner: &str, standing: &Standing) -> bool {
        let mut keepers = self.keepers();
        let keeper = keepers.get_mut(pool).filter(|keeper| keeper.is_of(standing));
        keeper.is_some_and(|keeper| keeper.give_kept(address, owner, false))
    }

    /// Whether the pod that had this address last may have it again now, whatever the agent's standing.
    pub fn give_kept_again(&self, pool: &str, address: IpAddr, owner: &str) -> bool {
        self.keepers().get_mut(pool).is_some_and(|keeper| keeper.give_kept(address, owner, true))
    }

    /// Who has an address instead that a pod here is to have: a node, an owner or a quarantine, as in slots.
    pub fn blocked(&self, pool: &str, address: IpAddr) -> Option<String> {
        self.keepers().get(pool)?.tenant.blocked(address).map(ToOwned::to_owned)
    }
}

/// What a pool's task goes by.
#[derive(Debug, Clone, PartialEq)]
struct Input {
    /// The pool's UID, as its shards name it.
    pool_uid: String,
    /// `status.shardSize`; None until it is fixed.
    size: Option<u32>,
    windows: Windows,
    fair_share: u64,
    waiting: Vec<Waiter>,
    /// Pods that have no address yet.
    missing: u64,
    /// How many pods have come to want one since the start.
    started: u64,
    is_fenced: bool,
    /// As whom is claimed.
    holder: Holder,
    /// Counts the times that the API server was away for so long that addresses may have been taken meanwhile.
    absences: u64,
    /// For whom addresses are kept, and whose pods are here.
    kept: BTreeMap<IpAddr, Kept>,
    /// Counts what happened in the ledger.
    version: u64,
}

/// What the tasks of all pools are fed from.
struct Hub {
    agent: Arc<Agent>,
    tasks: JoinSet<()>,
    pools: BTreeMap<String, watch::Sender<Input>>,
    seen: BTreeMap<String, (BTreeSet<Want>, u64)>,
    /// Pools that this node has had to do with before.
    known: BTreeSet<String>,
}

/// Runs for as long as the agent.
pub(super) async fn keep(agent: Arc<Agent>) {
    let Some(cluster) = &agent.cluster else { return };
    let known = match agent.ledger.store().catalogue(KEY_POOL) {
        Ok(texts) => texts.texts.into_iter().map(|(key, _)| key[KEY_POOL.len()..].to_owned()).collect(),
        Err(error) => {
            tracing::error!(%error, "which pools this node has claimed addresses of cannot be read");
            BTreeSet::new()
        }
    };
    let mut hub =
        Hub { agent: Arc::clone(&agent), tasks: JoinSet::new(), pools: BTreeMap::new(), seen: BTreeMap::new(), known };
    let mut version = agent.ledger.version();
    let mut standing = cluster.standing.subscribe();
    // The fence falls with time.
    let mut tick = tokio::time::interval(cluster.config.lease_ttl / 24);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        let changed = cluster.changed();
        hub.feed(cluster).await;
        tokio::select! {
            () = changed => {}
            // Both senders live as long as the agent.
            changed = version.changed() => if changed.is_err() { return },
            changed = standing.changed() => if changed.is_err() { return },
            () = cluster.asking.asked() => {}
            _ = tick.tick() => {}
            () = &mut stopping => return,
        }
        tokio::time::sleep(SETTLE).await;
    }
}

impl Hub {
    /// Tells every pool's task what concerns it; pools that the node begins to have to do with get one.
    async fn feed(&mut self, cluster: &State) {
        let Standing::Held { holder, absences, .. } = cluster.standing() else { return };
        let agent = Arc::clone(&self.agent);
        let catalogue = agent.catalogue();
        let may_give = cluster.standing().may_give(agent.kernel.boot_id(), cluster.config.lease_ttl);
        let version = *agent.ledger.version().borrow();
        let mut wants = demand::wants(&agent, &cluster.asking);
        let concerned: BTreeSet<String> = wants
            .keys()
            .cloned()
            .chain(agent.ledger.leased_pools())
            .chain(agent.ledger.kept().into_values().map(|kept| kept.pool))
            .chain(self.known.iter().cloned())
            .chain(self.pools.keys().cloned())
            .collect();
        for name in concerned {
            let wanting = wants.remove(&name).unwrap_or_default();
            let (before, started) = self.seen.entry(name.clone()).or_default();
            *started += wanting.difference(before).count() as u64;
            *before = wanting.clone();
            let started = *started;
            let Some(pool) = catalogue.pools.get(&name) else { continue };
            let status = pool.object.status.clone().unwrap_or_default();
            let input = Input {
                pool_uid: pool.object.metadata.uid.clone().unwrap_or_default(),
                size: status.shard_size,
                windows: windows(&catalogue, pool, status.shard_size),
                fair_share: u64::try_from(status.fair_share.unwrap_or(0)).unwrap_or(0),
                waiting: waiting(&status.waiting),
                missing: wanting.len() as u64,
                started,
                is_fenced: may_give.is_err(),
                holder: holder.clone(),
                absences,
                kept: fixed::kept_of(&agent, &name),
                version,
            };
            match self.pools.get(&name) {
                Some(sender) => {
                    sender.send_if_modified(|known| {
                        let is_new = *known != input;
                        *known = input;
                        is_new
                    });
                }
                None => self.begin(name, input).await,
            }
        }
    }

    async fn begin(&mut self, pool: String, input: Input) {
        if !self.known.contains(&pool) {
            // Before the first claim: one whose answer is lost, or comes after a kill, is looked for at the next start.
            let change = Change::new().put_catalogue(&format!("{KEY_POOL}{pool}"), "");
            if let Err(error) = self.agent.ledger.record(change).await {
                tracing::error!(pool, %error, "no addresses are claimed: it cannot be recorded");
                return;
            }
            self.known.insert(pool.clone());
        }
        let (sender, receiver) = watch::channel(input);
        self.tasks.spawn(task::run(Arc::clone(&self.agent), pool.clone(), receiver));
        self.pools.insert(pool, sender);
    }
}

/// What of a pool may be claimed at all.
pub(crate) fn windows(catalogue: &Catalogue, pool: &Pool, size: Option<u32>) -> Windows {
    let mut usable = pool.usable();
    usable.subtract(&plan::allocate::AddressSet::from_ranges(catalogue.reserved.iter().copied()));
    let ranges: Vec<(IpAddr, IpAddr)> = usable.iter().collect();
    // Of a size that the definition does not allow nothing is claimed; until it is fixed this one stands in.
    let size = size.unwrap_or_else(|| size_for(usable.len()));
    match Layout::new(pool.ranges.subnet, size) {
        Ok(layout) => Windows::new(layout, &ranges),
        Err(error) => {
            tracing::error!(%error, "a pool's status.shardSize cannot be used");
            let layout = Layout::new(pool.ranges.subnet, 64).expect("64 addresses are the least that a shard has");
            Windows::new(layout, &[])
        }
    }
}

/// `status.waiting`: by node the time since when, and the incarnation from the second on.
fn waiting(entries: &BTreeMap<String, String>) -> Vec<Waiter> {
    let waiter = |(node, text): (&String, &String)| {
        let (since, epoch) = text.split_once(' ').unwrap_or((text, "1"));
        let since: k8s_openapi::jiff::Timestamp = since.parse().ok()?;
        let holder = Holder::new(node, epoch.parse().ok()?).ok()?;
        // In seconds: among those that began to wait at about the same time chance decides.
        Some(Waiter { since: u64::try_from(since.as_second()).ok()?, holder })
    };
    // What cannot be read is nobody's who could take anything.
    entries.iter().filter_map(waiter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_read_with_its_incarnation() {
        let entries = [
            ("b", "2026-11-23T00:00:01Z 3"),
            ("a", "2026-11-23T00:00:02.5Z"),
            ("c", "soon"),
            ("D", "2026-11-23T00:00:01Z"),
        ];
        let found = waiting(&entries.map(|(node, text)| (node.to_owned(), text.to_owned())).into());
        let read: Vec<String> =
            found.iter().map(|waiter| format!("{} {}", waiter.since % 100, waiter.holder)).collect();
        assert_eq!(read, ["2 a", "1 b~3"]);
    }
}
