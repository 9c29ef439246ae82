//! What the node holds of the pools.

use std::collections::BTreeSet;
use std::net::IpAddr;

use plan::allocate::AddressSet;
use store::{Change, CommitError};

use super::Ledger;
use crate::leased;

impl Ledger {
    /// What the node holds of a pool.
    pub fn held(&self, pool: &str) -> AddressSet {
        self.state().leased.set(pool)
    }

    /// The pools of which the node holds something.
    pub fn leased_pools(&self) -> Vec<String> {
        self.state().leased.pools().cloned().collect()
    }

    /// What it holds of a pool as that incarnation, and what as others.
    pub fn leased_by_epoch(&self, pool: &str, epoch: u64) -> (AddressSet, AddressSet) {
        self.state().leased.by_epoch(pool, epoch)
    }

    /// The addresses that cannot be given: in use, on their way back, promised, used by others, or found where no record
    /// tells of them.
    pub fn taken(&self) -> BTreeSet<IpAddr> {
        let state = self.state();
        let own = state.allocations.keys().chain(&state.reserved).chain(&state.estranged).copied();
        own.chain(state.occupied.iter().map(|(address, _)| address)).collect()
    }

    /// Those of them that the node holds of a pool, and those that are among `also`.
    pub fn taken_of(&self, pool: &str, also: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let state = self.state();
        let held = state.leased.set(pool);
        let mut taken = BTreeSet::new();
        for (first, last) in held.iter() {
            taken.extend(state.allocations.range(first..=last).map(|(address, _)| *address));
            taken.extend(state.reserved.range(first..=last).chain(state.estranged.range(first..=last)));
        }
        taken.extend(state.occupied.iter().map(|(address, _)| address).filter(|address| held.contains(*address)));
        let is_taken = |address: &&IpAddr| {
            state.allocations.contains_key(*address)
                || state.reserved.contains(*address)
                || state.estranged.contains(*address)
                || state.occupied.contains(**address)
        };
        taken.extend(also.iter().filter(is_taken));
        taken
    }

    /// Lets those look again who wait for an address.
    pub fn wake(&self) {
        self.released.notify_waiters();
    }

    /// Makes addresses the node's, together with a change that belongs to it.
    ///
    /// # Errors
    /// When it did not become durable; then they are not given.
    pub async fn hold(&self, pool: &str, gained: &AddressSet, epoch: u64, with: Change) -> Result<(), CommitError> {
        let _turn = self.lease_turn.lock().await;
        let (change, after) = self.state().leased.with(with, pool, gained, epoch);
        if !change.is_empty() {
            self.record(change).await?;
        }
        let mut state = self.state();
        state.leased = after;
        state.make_space(pool, self.is_leasing);
        Ok(())
    }

    /// Makes addresses the node's no more, those of them that nobody has, together with the change that belongs to these;
    /// returns them. They are not given from when this is called.
    ///
    /// # Errors
    /// When it did not become durable; then they are the node's as before.
    pub async fn let_go(
        &self,
        pool: &str,
        wanted: &[IpAddr],
        with: impl FnOnce(&[IpAddr]) -> Change,
    ) -> Result<Vec<IpAddr>, CommitError> {
        let _turn = self.lease_turn.lock().await;
        let (gone, change, before) = {
            let mut state = self.state();
            let is_idle = |address: &IpAddr| {
                !state.allocations.contains_key(address)
                    && !state.reserved.contains(address)
                    && !state.estranged.contains(address)
                    && !state.occupied.contains(*address)
            };
            let gone: Vec<IpAddr> = wanted.iter().copied().filter(is_idle).collect();
            let (change, after) = state.leased.without(with(&gone), pool, &leased::set_of(&gone));
            let before = std::mem::replace(&mut state.leased, after);
            state.make_space(pool, self.is_leasing);
            (gone, change, before)
        };
        if change.is_empty() {
            return Ok(gone);
        }
        if let Err(error) = self.record(change).await {
            let mut state = self.state();
            state.leased = before;
            state.make_space(pool, self.is_leasing);
            return Err(error);
        }
        Ok(gone)
    }
}
