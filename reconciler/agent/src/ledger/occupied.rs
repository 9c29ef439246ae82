//! Addresses that others use.

use std::net::IpAddr;

use schemas::name::Mac;
use store::{Change, CommitError};

use super::Ledger;
use crate::occupied::{Occupant, Occupied, now_ms};

impl Ledger {
    /// Keeps an address from everybody, from when this is called, as somebody else has answered for it. Whoever has it
    /// keeps it; it does not come back when he gives it back.
    ///
    /// # Errors
    /// When it did not become durable: it is kept until the next start all the same.
    pub async fn occupy(&self, pool: &str, address: IpAddr, mac: Mac) -> Result<Occupant, CommitError> {
        let occupant = Occupant { since_ms: now_ms(), mac, pool: pool.to_owned() };
        let change = {
            let mut state = self.state();
            state.reserved.remove(&address);
            for space in state.spaces.values_mut() {
                space.take(address);
            }
            state.occupied.put(Change::new(), address, occupant.clone())
        };
        self.quarantined.notify_waiters();
        self.version.send_modify(|version| *version += 1);
        self.record(change).await?;
        Ok(occupant)
    }

    /// Whether others use an address.
    pub fn is_occupied(&self, address: IpAddr) -> bool {
        self.state().occupied.contains(address)
    }

    /// Addresses that others use, and who was found there.
    pub fn occupied(&self) -> Vec<(IpAddr, Occupant)> {
        self.state().occupied.iter().map(|(address, occupant)| (address, occupant.clone())).collect()
    }

    /// Completes when an address has come to be kept back after this call was made.
    pub fn quarantined(&self) -> tokio::sync::futures::Notified<'_> {
        self.quarantined.notified()
    }

    /// Lets those be given again whose quarantine is over by then; when the next one's is.
    ///
    /// # Errors
    /// When it did not become durable; then they are kept back as before.
    pub async fn end_quarantines(&self, now_ms: u64) -> Result<Option<u64>, CommitError> {
        let over = self.state().occupied.over(now_ms);
        if !over.is_empty() {
            self.record(Occupied::without(&over)).await?;
            let mut state = self.state();
            for address in state.occupied.remove(&over) {
                state.give_back(address);
            }
            drop(state);
            self.version.send_modify(|version| *version += 1);
            self.released.notify_waiters();
        }
        Ok(self.state().occupied.next_end_ms())
    }
}
