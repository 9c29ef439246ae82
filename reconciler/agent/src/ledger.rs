//! Who has which address and what every sandbox is to be: the store's content in memory, changed only through it.
//!
//! A change is computed on the published records, given to the store, and published once it is durable: nobody ever acts
//! on what a power cut could still take back. Changes of one sandbox are serialised by its lock; addresses are reserved in
//! memory while their change is on its way, so that two sandboxes never wait for the same one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use plan::allocate::{AddressSet, PoolSpace};
use schemas::intent::{Allocation, AllocationState, Attachment, Sandbox};
use schemas::name::{AttachmentKey, ContainerId, IfName};
use store::{Change, CommitError, Snapshot, Store};
use tokio::sync::{Notify, OwnedMutexGuard, oneshot, watch};

use crate::catalogue::{Catalogue, Pool};
use crate::cooling::{self, Cooling, Freed};
use crate::history::History;
use crate::kept::{self as keeping, Kept};
use crate::leased::Leased;
use crate::occupied::{self as quarantine, Occupied};

mod index;
mod kept;
mod leases;
mod occupied;

use index::Index;
pub use kept::Unkept;

/// A sandbox with its attachments, as published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRecords {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Its attachments by interface.
    pub attachments: BTreeMap<IfName, Attachment>,
}

impl SandboxRecords {
    /// The attachments by ordinal.
    pub fn by_ordinal(&self) -> Vec<Attachment> {
        let mut attachments: Vec<Attachment> = self.attachments.values().cloned().collect();
        attachments.sort_by_key(|attachment| attachment.ordinal);
        attachments
    }

    /// The same as a plan takes them: addresses that are not to be on a link yet are left out.
    pub fn to_plan(&self) -> Vec<Attachment> {
        let mut attachments = self.by_ordinal();
        for prepared in attachments.iter_mut().filter(|attachment| attachment.prepared) {
            prepared.addresses.clear();
            prepared.routes.clear();
        }
        attachments
    }

    /// The lowest ordinal that no attachment has.
    pub fn free_ordinal(&self) -> u32 {
        let used: BTreeSet<u32> = self.attachments.values().map(|attachment| attachment.ordinal).collect();
        (0..).find(|ordinal| !used.contains(ordinal)).unwrap_or(u32::MAX)
    }

    /// The same records but for the generation, with this attachment among them.
    pub fn is_repeated_by(&self, sandbox: &Sandbox, attachment: &Attachment) -> bool {
        let known = self.attachments.get(&attachment.key.ifname);
        let same_sandbox = Sandbox { generation: self.sandbox.generation, ..sandbox.clone() } == self.sandbox;
        let same_attachment =
            known.is_some_and(|known| Attachment { generation: known.generation, ..attachment.clone() } == *known);
        same_sandbox && same_attachment
    }

    /// Nothing is wanted of it any more.
    pub fn is_withdrawn(&self) -> bool {
        self.attachments.values().all(Attachment::is_withdrawn)
    }
}

/// What a change of one sandbox leaves: its records, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// The sandbox afterwards; None deletes it, and all its attachments must be deleted with it.
    pub sandbox: Option<Sandbox>,
    /// Attachments written.
    pub put: Vec<Attachment>,
    /// Attachments deleted.
    pub deleted: Vec<AttachmentKey>,
    /// Allocations written.
    pub allocations: Vec<Allocation>,
    /// Addresses that come back.
    pub freed: Vec<IpAddr>,
    /// Those of the written allocations that are kept for somebody from now on.
    pub kept: Kept,
    /// What the pass that led to it has done.
    pub told: Option<Steps>,
}

/// What a pass has done, for the history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// The steps, as `ip` commands.
    pub steps: Vec<String>,
    /// They put back what somebody else had changed.
    pub is_repair: bool,
    /// Why the kernel is not as wanted, if it is not.
    pub error: String,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<ContainerId, Arc<SandboxRecords>>,
    allocations: BTreeMap<IpAddr, Allocation>,
    reserved: BTreeSet<IpAddr>,
    spaces: BTreeMap<String, PoolSpace>,
    history: History,
    index: Index,
    /// Sandboxes that no pass has made a plan of yet.
    unplanned: BTreeSet<ContainerId>,
    /// Addresses that are found in use and that no record tells of.
    estranged: BTreeSet<IpAddr>,
    cooling: Cooling,
    /// Addresses that others use.
    occupied: Occupied,
    /// Addresses that go to nobody but whom they are kept for.
    kept: Kept,
    leased: Leased,
    /// Pools as declared, without what is in use: spaces are made of them when leases change.
    declared: BTreeMap<String, PoolSpace>,
}

/// A pool's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Addresses of the pool.
    pub total: u128,
    /// Of those, in use.
    pub used: u128,
    /// Of those in use, on their way back.
    pub releasing: u128,
    /// Those that can be given now; neither these nor those in use are reserved ones.
    pub free: u128,
}

/// The ledger.
pub struct Ledger {
    store: Store,
    /// The node holds of each pool what it has leased, rather than all.
    is_leasing: bool,
    /// Leases change one at a time.
    lease_turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    locks: Mutex<HashMap<ContainerId, Weak<tokio::sync::Mutex<()>>>>,
    released: Notify,
    quarantined: Notify,
    version: watch::Sender<u64>,
}

impl Ledger {
    /// Reads the store. The node holds all of its pools, or, leasing, what is recorded of them.
    ///
    /// # Errors
    /// When it cannot be read. Records that cannot be used are returned as texts; they stay where they are.
    pub fn load(store: Store, is_leasing: bool) -> Result<(Self, Vec<String>), store::ReadError> {
        let snapshot = store.load()?;
        let mut faults: Vec<String> = store.recovery().sentences();
        faults.extend(snapshot.unreadable.iter().map(unusable));
        if let Err(error) = store.quarantine(&snapshot, SystemTime::now()) {
            let path = store.quarantine_path();
            faults.push(format!("records that cannot be used are not kept in {}: {error}", path.display()));
        }
        let (snapshot, contradictions) = mended(&store, snapshot)?;
        faults.extend(contradictions);
        let mut state = State::default();
        let mut records: BTreeMap<ContainerId, SandboxRecords> = snapshot
            .sandboxes
            .into_iter()
            .map(|sandbox| (sandbox.container.clone(), SandboxRecords { sandbox, attachments: BTreeMap::new() }))
            .collect();
        for attachment in snapshot.attachments {
            match records.get_mut(&attachment.key.container) {
                Some(found) => {
                    found.attachments.insert(attachment.key.ifname.clone(), attachment);
                }
                None => faults.push(format!("attachment {} has no sandbox record: it is left alone", attachment.key)),
            }
        }
        state.sandboxes = records.into_iter().map(|(container, found)| (container, Arc::new(found))).collect();
        state.allocations =
            snapshot.allocations.into_iter().map(|allocation| (allocation.address, allocation)).collect();
        state.unplanned = state.sandboxes.keys().cloned().collect();
        state.sandboxes.values().for_each(|records| state.index.add(records));
        state.allocations.values().for_each(|allocation| state.index.count(None, Some(allocation)));
        state.history = History::load(snapshot.history, |container| state.sandboxes.contains_key(container));
        state.cooling = Cooling::load(&store);
        state.occupied = Occupied::load(&store, quarantine::now_ms());
        state.kept = keeping::load(&store);
        state.leased = Leased::of(snapshot.leases);
        let ledger = Self {
            store,
            is_leasing,
            lease_turn: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
            locks: Mutex::default(),
            released: Notify::new(),
            quarantined: Notify::new(),
            version: watch::Sender::new(0),
        };
        Ok((ledger, faults))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that can panic: there are none that write half of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store below, for its counters and the catalogue.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Counts the changes that have been published.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits for the turn to change this sandbox.
    pub async fn lock(&self, container: &ContainerId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            if locks.len() > 1024 {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            let found = locks.get(container).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                locks.insert(container.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// A sandbox as published.
    pub fn sandbox(&self, container: &ContainerId) -> Option<Arc<SandboxRecords>> {
        self.state().sandboxes.get(container).cloned()
    }

    /// All sandboxes as published.
    pub fn sandboxes(&self) -> Vec<Arc<SandboxRecords>> {
        self.state().sandboxes.values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.state().sandboxes.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are sandboxes of which no plan has been made yet.
    pub fn has_unplanned(&self) -> bool {
        !self.state().unplanned.is_empty()
    }

    /// Says that a plan of a sandbox has been made.
    pub fn note_planned(&self, container: &ContainerId) {
        self.state().unplanned.remove(container);
    }

    /// How many addresses are in use.
    pub fn allocated(&self) -> usize {
        self.state().allocations.len()
    }

    /// Whether an address is that attachment's, in use or on its way back.
    pub fn is_owner(&self, address: IpAddr, owner: &AttachmentKey) -> bool {
        self.state().allocations.get(&address).is_some_and(|found| found.owner == *owner)
    }

    /// A pool's numbers; None when no such pool is declared.
    pub fn counts(&self, pool: &str) -> Option<PoolCounts> {
        let state = self.state();
        let space = state.spaces.get(pool)?;
        let plan::allocate::Counts { total, used, free } = space.counts();
        Some(PoolCounts { total, used, releasing: state.index.releasing(pool), free })
    }

    /// Allocations as published, by address.
    pub fn allocations(&self) -> Vec<Allocation> {
        self.state().allocations.values().cloned().collect()
    }

    /// Takes over what pools there are.
    pub fn declare(&self, catalogue: &Catalogue) {
        let reserved = AddressSet::from_ranges(catalogue.reserved.iter().copied());
        let declared: BTreeMap<String, PoolSpace> =
            catalogue.pools.iter().map(|(name, pool)| (name.clone(), space(pool, &reserved))).collect();
        let mut state = self.state();
        let names: Vec<String> = declared.keys().cloned().collect();
        state.declared = declared;
        state.spaces.clear();
        for name in names {
            state.make_space(&name, self.is_leasing);
        }
    }

    /// Says which addresses are in use although no record tells of them: none of them is given to anybody, and those of
    /// before that are no longer among them may be again.
    pub fn estrange(&self, found: BTreeSet<IpAddr>) {
        let mut state = self.state();
        let is_known = |address: &IpAddr| state.allocations.contains_key(address) || state.reserved.contains(address);
        let found: BTreeSet<IpAddr> = found.into_iter().filter(|address| !is_known(address)).collect();
        let before = std::mem::replace(&mut state.estranged, found.clone());
        before.difference(&found).for_each(|address| state.give_back(*address));
        for address in found.difference(&before) {
            for space in state.spaces.values_mut() {
                space.take(*address);
            }
        }
    }

    /// Addresses of the pools that are in use although no record tells of them.
    pub fn estranged(&self) -> Vec<IpAddr> {
        let state = self.state();
        let is_pooled = |address: &&IpAddr| state.spaces.values().any(|space| space.covers(**address));
        state.estranged.iter().filter(is_pooled).copied().collect()
    }

    /// Reserves a free address of a pool: the one that was this user's, else the first; where the node leases, else the
    /// first that has not been in use lately, else the one that came back longest ago. None when there is none.
    ///
    /// `may_give` has the last word about an address: one that it agrees to is reserved. With `only_own` none is reserved but
    /// the one that was this user's.
    pub fn reserve(
        &self,
        pool: &str,
        user: &str,
        only_own: bool,
        mut may_give: impl FnMut(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let mut state = self.state();
        let space = state.spaces.get(pool)?;
        let mut is_good = |address: &IpAddr| space.is_free(*address) && may_give(*address);
        let mut found = state.cooling.last_of(user).find(&mut is_good);
        if !only_own && self.is_leasing {
            let is_fresh = |address| !state.cooling.contains(address);
            found = found.or_else(|| space.first_free_which(|address| is_fresh(address) && is_good(&address)));
            found = found.or_else(|| state.cooling.oldest_first().find(is_good));
        } else if !only_own {
            found = found.or_else(|| space.first_free_which(|address| is_good(&address)));
        }
        let address = found?;
        state.reserved.insert(address);
        for space in state.spaces.values_mut() {
            space.take(address);
        }
        Some(address)
    }

    /// Gives a reservation back that did not become an allocation.
    pub fn unreserve(&self, address: IpAddr) {
        self.state().give_back(address);
        self.version.send_modify(|version| *version += 1);
        self.released.notify_waiters();
    }

    /// Completes when an address has come back after this call was made; to be created before looking for one.
    pub fn released(&self) -> tokio::sync::futures::Notified<'_> {
        self.released.notified()
    }

    /// Makes an update durable, then publishes it. The caller holds the sandbox's lock.
    ///
    /// # Errors
    /// When it did not become durable; nothing is published then, and reservations are given back.
    pub async fn commit(&self, container: &ContainerId, update: Update) -> Result<(), CommitError> {
        let before = self.sandbox(container);
        let now = SystemTime::now();
        let history = self.state().history.tell(container, before.as_deref(), &update, now);
        let change = history.into_change(change_of(container, &update));
        let now_ms = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let given = update.allocations.iter().filter(|allocation| allocation.state == AllocationState::Held);
        let given = given.map(|allocation| allocation.address);
        let freed = |address: &IpAddr| {
            let mut attachments = before.iter().flat_map(|records| records.attachments.values());
            let has =
                |attachment: &&Attachment| attachment.addresses.iter().any(|found| found.address.ip() == *address);
            let user = attachments.find(has).map(|last| cooling::user(&last.pod, last.key.ifname.as_str()));
            (*address, Freed { since_ms: now_ms, user: user.unwrap_or_default() })
        };
        let freed = update.freed.iter().map(freed).collect();
        let mut change = self.state().cooling.note(change, freed, given);
        for (address, kept) in &update.kept {
            change = keeping::put(change, *address, kept);
        }
        let superseded = self.state().superseded(&update.kept);
        change = superseded.iter().fold(change, |change, address| keeping::delete(change, *address));
        let result = self.record(change).await;
        if let Err(error) = result {
            // An address that the store knows as another's stays reserved: it is not offered again.
            let taken = match &error {
                CommitError::AddressTaken { address, .. } | CommitError::UnreadableAllocation { address, .. } => {
                    Some(*address)
                }
                _ => None,
            };
            for allocation in update.allocations.iter().filter(|allocation| Some(allocation.address) != taken) {
                let mut state = self.state();
                if !state.allocations.contains_key(&allocation.address) {
                    state.give_back(allocation.address);
                }
            }
            self.version.send_modify(|version| *version += 1);
            return Err(error);
        }
        self.publish(container, update);
        self.state().drop_kept(&superseded);
        self.state().history.publish(history);
        Ok(())
    }

    /// Makes a change durable that is about no sandbox.
    ///
    /// # Errors
    /// When it did not become durable.
    pub async fn record(&self, change: Change) -> Result<(), CommitError> {
        let (tell, told) = oneshot::channel();
        self.store.submit(change, move |result| {
            // The asker may have gone; the change stands all the same.
            let _ = tell.send(result);
        });
        told.await.unwrap_or(Err(CommitError::Closed))
    }

    fn publish(&self, container: &ContainerId, update: Update) {
        let has_freed = !update.freed.is_empty();
        let mut guard = self.state();
        let state = &mut *guard;
        for (address, kept) in update.kept {
            for space in state.spaces.values_mut() {
                space.take(address);
            }
            state.kept.insert(address, kept);
        }
        for allocation in update.allocations {
            state.reserved.remove(&allocation.address);
            let before = state.allocations.insert(allocation.address, allocation.clone());
            state.index.count(before.as_ref(), Some(&allocation));
        }
        for address in update.freed {
            let before = state.allocations.remove(&address);
            state.index.count(before.as_ref(), None);
            state.give_back(address);
        }
        if let Some(before) = state.sandboxes.get(container) {
            state.index.remove(before);
        }
        match update.sandbox {
            Some(sandbox) => {
                let mut attachments =
                    state.sandboxes.get(container).map(|found| found.attachments.clone()).unwrap_or_default();
                for key in update.deleted {
                    attachments.remove(&key.ifname);
                }
                attachments.extend(update.put.into_iter().map(|put| (put.key.ifname.clone(), put)));
                let records = Arc::new(SandboxRecords { sandbox, attachments });
                state.index.add(&records);
                if state.sandboxes.insert(container.clone(), records).is_none() {
                    state.unplanned.insert(container.clone());
                }
            }
            None => {
                state.sandboxes.remove(container);
                state.unplanned.remove(container);
            }
        }
        drop(guard);
        self.version.send_modify(|version| *version += 1);
        if has_freed {
            self.released.notify_waiters();
        }
    }
}

impl State {
    /// A pool's addresses as declared, held and in use.
    fn make_space(&mut self, pool: &str, is_leasing: bool) {
        let Some(mut space) = self.declared.get(pool).cloned() else { return };
        if is_leasing {
            space.keep_only(&self.leased.set(pool));
        }
        let stretches: Vec<(IpAddr, IpAddr)> = space.total().iter().collect();
        // What is others' is not looked at: pools may be many, and pods too.
        for (first, last) in stretches {
            let kept = self.kept.range(first..=last).map(|(address, _)| address);
            let others = self.reserved.range(first..=last).chain(self.estranged.range(first..=last)).chain(kept);
            let allocated = self.allocations.range(first..=last).map(|(address, _)| address);
            for address in allocated.chain(others) {
                space.take(*address);
            }
        }
        for (address, _) in self.occupied.iter() {
            space.take(address);
        }
        self.spaces.insert(pool.to_owned(), space);
    }

    fn give_back(&mut self, address: IpAddr) {
        self.reserved.remove(&address);
        let is_kept_back =
            self.estranged.contains(&address) || self.occupied.contains(address) || self.kept.contains_key(&address);
        if !self.allocations.contains_key(&address) && !is_kept_back {
            for space in self.spaces.values_mut() {
                space.give_back(address);
            }
        }
    }
}

fn space(pool: &Pool, reserved: &AddressSet) -> PoolSpace {
    let ranges = &pool.ranges;
    let (ips, excluded) = (ranges.ips.iter().copied(), ranges.excluded.iter().copied());
    let excluded = AddressSet::from_ranges(excluded.chain(pool.lost.iter().copied()));
    PoolSpace::new(AddressSet::from_ranges(ips), &excluded, reserved, ranges.gateway)
}

/// Mends what contradicts itself in the one way that is right, and says what is left.
fn mended(store: &Store, snapshot: Snapshot) -> Result<(Snapshot, Vec<String>), store::ReadError> {
    let (change, left) = store::check::repair(&snapshot);
    let mut faults: Vec<String> =
        left.iter().map(|violation| format!("the store contradicts itself: {violation}")).collect();
    if change.is_empty() {
        return Ok((snapshot, faults));
    }
    match store.commit(change) {
        Ok(()) => Ok((store.load()?, faults)),
        Err(error) => {
            faults.push(format!("the store contradicts itself and cannot be mended: {error}"));
            Ok((snapshot, faults))
        }
    }
}

fn unusable(record: &store::Unreadable) -> String {
    format!("the store's record {} in {} cannot be used: {}", record.key, record.tree, record.reason)
}

fn change_of(container: &ContainerId, update: &Update) -> Change {
    let mut change = Change::new();
    for allocation in &update.allocations {
        change = change.put_allocation(allocation);
    }
    for address in &update.freed {
        change = change.delete_allocation(*address);
    }
    for key in &update.deleted {
        change = change.delete_attachment(key);
    }
    for attachment in &update.put {
        change = change.put_attachment(attachment);
    }
    match &update.sandbox {
        Some(sandbox) => change.put_sandbox(sandbox),
        None => change.delete_sandbox(container),
    }
}

#[cfg(test)]
#[path = "ledger/model_tests.rs"]
mod model_tests;
