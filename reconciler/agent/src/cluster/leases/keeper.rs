//! A tenant together with what of its addresses pods have.

use std::collections::BTreeSet;
use std::net::IpAddr;

use plan::lease::Tenant;
use plan::lease::tenant::Now;

/// See the module.
pub(super) struct Keeper {
    pub(super) tenant: Tenant,
    used: BTreeSet<IpAddr>,
}

impl Keeper {
    /// With the addresses that the tenant knows as used.
    pub(super) fn new(tenant: Tenant, used: BTreeSet<IpAddr>) -> Self {
        Self { tenant, used }
    }

    /// Whether a pod may have this address; from then on it has it.
    pub(super) fn give(&mut self, address: IpAddr) -> bool {
        let is_given = self.tenant.give(address);
        if is_given {
            self.used.insert(address);
        }
        is_given
    }

    /// Whether the pod that had this address last may have it again, also while nothing is given to others.
    pub(super) fn give_again(&mut self, address: IpAddr) -> bool {
        let is_given = self.tenant.give_again(address);
        if is_given {
            self.used.insert(address);
        }
        is_given
    }

    /// Follows the ledger, which had `taken` in use after `before` were used here; true when some have come back. One that
    /// was given in between is not among those of before.
    pub(super) fn follow(&mut self, taken: &BTreeSet<IpAddr>, before: &BTreeSet<IpAddr>, now: Now) -> bool {
        // In use, and just recorded as leased: what was adopted, or found.
        for address in taken.difference(before) {
            self.give(*address);
        }
        let back: Vec<IpAddr> = before.difference(taken).copied().collect();
        for address in &back {
            if self.used.remove(address) {
                self.tenant.take_back(*address, now);
            }
        }
        !back.is_empty()
    }

    /// The addresses that pods have.
    pub(super) fn used(&self) -> BTreeSet<IpAddr> {
        self.used.clone()
    }
}
