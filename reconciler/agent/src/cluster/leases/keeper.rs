//! A tenant together with what of its addresses pods have.

use std::collections::BTreeSet;
use std::net::IpAddr;

use plan::lease::Tenant;
use plan::lease::tenant::Now;

use super::Standing;

/// See the module.
pub(super) struct Keeper {
    pub(super) tenant: Tenant,
    used: BTreeSet<IpAddr>,
    /// How often the API server had been away for long when the tenant moved in.
    absences: u64,
}

impl Keeper {
    /// With the addresses that the tenant knows as used.
    pub(super) fn new(tenant: Tenant, used: BTreeSet<IpAddr>, absences: u64) -> Self {
        Self { tenant, used, absences }
    }

    /// Whether the tenant is of that standing: of the same incarnation, and with no absence since it moved in.
    pub(super) fn is_of(&self, standing: &Standing) -> bool {
        matches!(standing, Standing::Held { holder, absences, .. }
            if holder == self.tenant.holder() && *absences == self.absences)
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

    /// Whether a pod of that owner may have this address, which is kept for it or will be; from then on it has it. `is_again`
    /// when the very pod had it last.
    pub(super) fn give_kept(&mut self, address: IpAddr, owner: &str, is_again: bool) -> bool {
        let is_given = self.tenant.give_kept(address, owner, is_again);
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
            if self.tenant.use_up(*address) {
                self.used.insert(*address);
            }
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

#[cfg(test)]
mod tests {
    use plan::lease::tenant::Recorded;
    use plan::lease::{Layout, Windows};
    use schemas::slot::Holder;

    use super::*;

    #[test]
    fn a_tenant_of_before_an_absence_or_of_another_incarnation_is_not_the_one_that_is_meant() {
        let holder = |epoch| Holder::new("a", epoch).unwrap();
        let address: IpAddr = "10.6.0.1".parse().unwrap();
        let windows = Windows::new(Layout::new("10.6.0.0/24".parse().unwrap(), 64).unwrap(), &[(address, address)]);
        let now = Now { ms: 0, unix: 0 };
        let tenant = Tenant::new(holder(2), windows, [(address, Recorded::Spare)], now, 1);
        let mut keeper = Keeper::new(tenant, BTreeSet::new(), 3);
        assert!(!keeper.is_of(&Standing::held(holder(2), 4)), "its addresses may be others' by now");
        assert!(!keeper.is_of(&Standing::held(holder(3), 3)));
        assert!(!keeper.is_of(&Standing::Unknown));
        assert!(keeper.is_of(&Standing::held(holder(2), 3)) && keeper.give(address));
    }
}
