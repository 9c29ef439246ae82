//! Addresses that are kept for identities.

use std::net::IpAddr;

use schemas::intent::Allocation;
use store::{Change, CommitError};

use super::{Ledger, State};
use crate::kept::{self, Kept, KeptFor};

/// Why a kept address cannot be given now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unkept {
    /// It is no address of the pool that may be given any more.
    Unusable,
    /// An attachment has it.
    Used(Allocation),
    /// It is promised to another ADD, or in use and no record tells of it.
    Promised,
    /// Somebody unknown uses it.
    Occupied,
    /// The node does not hold it, or may not give it.
    NotHeld,
}

impl Ledger {
    /// All of them.
    pub fn kept(&self) -> Kept {
        self.state().kept.clone()
    }

    /// Those of a pool.
    pub fn kept_of(&self, pool: &str) -> Kept {
        let state = self.state();
        let own = state.kept.iter().filter(|(_, kept)| kept.pool == pool);
        own.map(|(address, kept)| (*address, kept.clone())).collect()
    }

    /// Those of an owner, each with whether the node holds it.
    pub fn kept_for(&self, owner: &str) -> Vec<(IpAddr, String, bool)> {
        let state = self.state();
        let own = state.kept.iter().filter(|(_, kept)| kept.owner == owner);
        let is_held = |pool: &str, address| !self.is_leasing || state.leased.set(pool).contains(address);
        own.map(|(address, kept)| (*address, kept.pool.clone(), is_held(&kept.pool, *address))).collect()
    }

    /// Whether a pool's address may be given at all, to whomever.
    pub fn is_usable(&self, pool: &str, address: IpAddr) -> bool {
        self.state().declared.get(pool).is_some_and(|space| space.usable().contains(address))
    }

    /// Keeps an address that a pod is to have; false when it is kept for another one. Nothing is claimed for it before.
    ///
    /// # Errors
    /// When it did not become durable.
    pub async fn keep(&self, address: IpAddr, wanted: KeptFor) -> Result<bool, CommitError> {
        if let Some(kept) = self.state().kept.get(&address) {
            return Ok(*kept == wanted);
        }
        self.record(kept::put(Change::new(), address, &wanted)).await?;
        let mut state = self.state();
        let kept = state.kept.entry(address).or_insert_with(|| wanted.clone()).clone();
        for space in state.spaces.values_mut() {
            space.take(address);
        }
        drop(state);
        self.version.send_modify(|version| *version += 1);
        Ok(kept == wanted)
    }

    /// Keeps no more what nobody has and is over. What of that is lost in a power cut is found to be over again.
    pub fn unkeep(&self, is_over: impl Fn(IpAddr, &KeptFor) -> bool) {
        let mut state = self.state();
        let is_idle = |address: &IpAddr| !state.allocations.contains_key(address) && !state.reserved.contains(address);
        let over = state.kept.iter().filter(|(address, kept)| is_idle(address) && is_over(**address, kept));
        let over: Vec<IpAddr> = over.map(|(address, _)| *address).collect();
        if over.is_empty() {
            return;
        }
        state.drop_kept(&over);
        drop(state);
        self.store.submit(
            over.iter().fold(Change::new(), |change, address| kept::delete(change, *address)),
            |result| {
                if let Err(error) = result {
                    tracing::warn!(%error, "addresses that are kept for nobody stay recorded until the next start");
                }
            },
        );
        self.version.send_modify(|version| *version += 1);
        self.released.notify_waiters();
    }

    /// Reserves an address that is kept for that owner, or for nobody. `may_give` has the last word.
    ///
    /// # Errors
    /// Why it cannot be given.
    pub fn reserve_kept(
        &self,
        pool: &str,
        address: IpAddr,
        owner: &str,
        may_give: impl FnOnce() -> bool,
    ) -> Result<(), Unkept> {
        let mut state = self.state();
        if !state.declared.get(pool).is_some_and(|space| space.usable().contains(address)) {
            return Err(Unkept::Unusable);
        }
        if let Some(allocation) = state.allocations.get(&address) {
            return Err(Unkept::Used(allocation.clone()));
        }
        if state.reserved.contains(&address) || state.estranged.contains(&address) {
            return Err(Unkept::Promised);
        }
        if state.occupied.contains(address) {
            return Err(Unkept::Occupied);
        }
        let is_held = !self.is_leasing || state.leased.set(pool).contains(address);
        let is_its_own = state.kept.get(&address).is_none_or(|kept| kept.owner == owner);
        if !is_held || !is_its_own || !may_give() {
            return Err(Unkept::NotHeld);
        }
        state.reserved.insert(address);
        for space in state.spaces.values_mut() {
            space.take(address);
        }
        Ok(())
    }

    /// Whether this user's was the address last.
    pub fn was_last_of(&self, user: &str, address: IpAddr) -> bool {
        self.state().cooling.last_of(user).any(|last| last == address)
    }
}

impl State {
    /// What becomes of others that are kept for the same owners once these are: an interface has one address of a family.
    pub(super) fn superseded(&self, given: &Kept) -> Vec<IpAddr> {
        let is_other = |address: &IpAddr, kept: &KeptFor| {
            let by = |(new, of): (&IpAddr, &KeptFor)| {
                of.owner == kept.owner && new.is_ipv4() == address.is_ipv4() && new != address
            };
            given.iter().any(by) && !given.contains_key(address)
        };
        let is_idle = |address: &IpAddr| !self.allocations.contains_key(address) && !self.reserved.contains(address);
        let others = self.kept.iter().filter(|(address, kept)| is_other(address, kept) && is_idle(address));
        others.map(|(address, _)| *address).collect()
    }

    /// They are anybody's.
    pub(super) fn drop_kept(&mut self, over: &[IpAddr]) {
        for address in over {
            self.kept.remove(address);
            if !self.reserved.contains(address) {
                self.give_back(*address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use schemas::crd::SpiderIPPool;
    use schemas::intent::{AllocationState, Outcome, Sandbox};
    use schemas::name::{AttachmentKey, ContainerId};
    use serde_json::json;
    use store::Store;

    use super::super::Update;
    use super::*;
    use crate::catalogue::{Catalogue, Object};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn kept(owner: &str) -> KeptFor {
        KeptFor { pool: "p".into(), owner: owner.into() }
    }

    /// A node that holds the pool `p` whole: 10.6.0.1 to 10.6.0.3.
    fn open(folder: &Path) -> Ledger {
        let store = Store::open(&folder.join("store"), "node", "boot").unwrap();
        let (ledger, faults) = Ledger::load(store, false).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        let pool: SpiderIPPool = serde_json::from_value(json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": "p"},
            "spec": {"subnet": "10.6.0.0/16", "ips": ["10.6.0.1-10.6.0.3"]},
        }))
        .unwrap();
        ledger.declare(&Catalogue::of([Object::IpPool(pool)]));
        ledger
    }

    fn key(container: &str) -> AttachmentKey {
        AttachmentKey { container: container.parse().unwrap(), ifname: "net1".parse().unwrap() }
    }

    fn sandbox(container: &ContainerId) -> Sandbox {
        Sandbox {
            container: container.clone(),
            netns: None,
            baseline: None,
            auxiliary: None,
            sysctls_before: Vec::new(),
            generation: 1,
            outcome: Outcome::default(),
        }
    }

    async fn give(ledger: &Ledger, container: &str, address: &str, owner: &str) {
        let owner_key = key(container);
        let allocation = Allocation {
            address: ip(address),
            pool: "p".into(),
            owner: owner_key.clone(),
            state: AllocationState::Held,
        };
        let update = Update {
            sandbox: Some(sandbox(&owner_key.container)),
            allocations: vec![allocation],
            kept: [(ip(address), kept(owner))].into(),
            ..Update::default()
        };
        ledger.commit(&owner_key.container, update).await.unwrap();
    }

    async fn take_back(ledger: &Ledger, container: &str, address: &str) {
        let owner_key = key(container);
        let update = Update { freed: vec![ip(address)], ..Update::default() };
        ledger.commit(&owner_key.container, update).await.unwrap();
    }

    fn any(ledger: &Ledger) -> Option<IpAddr> {
        let found = ledger.reserve("p", "", false, |_| true);
        found.inspect(|address| ledger.unreserve(*address))
    }

    #[tokio::test]
    async fn what_is_kept_goes_to_nobody_else_over_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(folder.path());
        give(&ledger, "c1", "10.6.0.1", "d/web-0/net1").await;
        assert!(matches!(
            ledger.reserve_kept("p", ip("10.6.0.1"), "d/web-0/net1", || true),
            Err(Unkept::Used(allocation)) if allocation.owner == key("c1")
        ));
        take_back(&ledger, "c1", "10.6.0.1").await;
        assert_eq!(any(&ledger), Some(ip("10.6.0.2")));
        drop(ledger);
        let ledger = open(folder.path());
        assert_eq!(any(&ledger), Some(ip("10.6.0.2")));
        assert_eq!(ledger.kept_for("d/web-0/net1"), [(ip("10.6.0.1"), "p".to_owned(), true)]);
        assert_eq!(ledger.reserve_kept("p", ip("10.6.0.1"), "d/web-1/net1", || true), Err(Unkept::NotHeld));
        assert_eq!(ledger.reserve_kept("p", ip("10.6.0.1"), "d/web-0/net1", || false), Err(Unkept::NotHeld));
        assert_eq!(ledger.reserve_kept("p", ip("10.6.0.9"), "d/web-0/net1", || true), Err(Unkept::Unusable));
        assert_eq!(ledger.reserve_kept("p", ip("10.6.0.1"), "d/web-0/net1", || true), Ok(()));
        assert_eq!(ledger.reserve_kept("p", ip("10.6.0.1"), "d/web-0/net1", || true), Err(Unkept::Promised));
        ledger.unkeep(|_, _| true);
        assert_eq!(ledger.kept().len(), 1, "it is about to be given");
        ledger.unreserve(ip("10.6.0.1"));
        assert_eq!(any(&ledger), Some(ip("10.6.0.2")), "it is kept still");
        ledger.unkeep(|_, kept| kept.owner == "d/web-0/net1");
        assert_eq!(any(&ledger), Some(ip("10.6.0.1")));
        ledger.record(Change::new().put_catalogue("x", "")).await.unwrap();
        drop(ledger);
        assert!(open(folder.path()).kept().is_empty());
    }

    #[tokio::test]
    async fn an_interface_has_one_address_of_a_family() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(folder.path());
        give(&ledger, "c1", "10.6.0.1", "d/web-0/net1").await;
        take_back(&ledger, "c1", "10.6.0.1").await;
        assert!(ledger.keep(ip("10.6.0.3"), kept("d/web-1/net1")).await.unwrap());
        assert!(!ledger.keep(ip("10.6.0.3"), kept("d/web-2/net1")).await.unwrap());
        give(&ledger, "c2", "10.6.0.2", "d/web-0/net1").await;
        assert_eq!(ledger.kept().into_keys().collect::<Vec<_>>(), [ip("10.6.0.2"), ip("10.6.0.3")]);
        assert_eq!(any(&ledger), Some(ip("10.6.0.1")));
        take_back(&ledger, "c2", "10.6.0.2").await;
        drop(ledger);
        assert_eq!(open(folder.path()).kept().into_keys().collect::<Vec<_>>(), [ip("10.6.0.2"), ip("10.6.0.3")]);
    }
}
