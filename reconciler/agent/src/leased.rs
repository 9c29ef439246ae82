//! The addresses that this node holds, as records of the store and as sets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use plan::allocate::AddressSet;
use schemas::lease::Lease;
use store::Change;

/// What the node holds of each pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leased {
    pools: BTreeMap<String, Vec<Lease>>,
}

impl Leased {
    /// What these records say.
    pub fn of(leases: Vec<Lease>) -> Self {
        let mut leased = Self::default();
        for lease in leases {
            leased.pools.entry(lease.pool.clone()).or_default().push(lease);
        }
        leased
    }

    /// The pools of which the node holds something.
    pub fn pools(&self) -> impl Iterator<Item = &String> {
        self.pools.keys()
    }

    /// What it holds of a pool.
    pub fn set(&self, pool: &str) -> AddressSet {
        let leases = self.pools.get(pool).into_iter().flatten();
        AddressSet::from_ranges(leases.map(|lease| (lease.first, lease.last)))
    }

    /// What it holds of a pool as that incarnation, and what as others.
    pub fn by_epoch(&self, pool: &str, epoch: u64) -> (AddressSet, AddressSet) {
        let leases = self.pools.get(pool).into_iter().flatten();
        let (own, others): (Vec<&Lease>, Vec<&Lease>) = leases.partition(|lease| lease.epoch == epoch);
        let set = |leases: Vec<&Lease>| AddressSet::from_ranges(leases.iter().map(|lease| (lease.first, lease.last)));
        (set(own), set(others))
    }

    /// The change that makes these addresses the node's too, as that incarnation whatever they were before, and what is
    /// held then.
    pub fn with(&self, change: Change, pool: &str, gained: &AddressSet, epoch: u64) -> (Change, Self) {
        let (own, mut others) = self.by_epoch(pool, epoch);
        let mut new = gained.clone();
        new.subtract(&own);
        others.intersect(&new);
        let (mut change, mut after) = self.without(change, pool, &others);
        for (first, last) in new.iter() {
            let lease = Lease { pool: pool.to_owned(), first, last, epoch };
            change = change.put_lease(&lease);
            after.pools.entry(pool.to_owned()).or_default().push(lease);
        }
        (change, after)
    }

    /// The change that makes these addresses the node's no more, and what is held then.
    pub fn without(&self, mut change: Change, pool: &str, lost: &AddressSet) -> (Change, Self) {
        let mut after = self.clone();
        let Some(leases) = after.pools.remove(pool) else { return (change, after) };
        let mut kept = Vec::with_capacity(leases.len());
        for lease in leases {
            let mut left = AddressSet::from_ranges([(lease.first, lease.last)]);
            let whole = left.len();
            left.subtract(lost);
            if left.len() == whole {
                kept.push(lease);
                continue;
            }
            change = change.delete_lease(&lease);
            for (first, last) in left.iter() {
                let lease = Lease { first, last, ..lease.clone() };
                change = change.put_lease(&lease);
                kept.push(lease);
            }
        }
        if !kept.is_empty() {
            after.pools.insert(pool.to_owned(), kept);
        }
        (change, after)
    }
}

/// These addresses as a set.
pub fn set_of(addresses: &[IpAddr]) -> AddressSet {
    AddressSet::from_ranges(addresses.iter().map(|address| (*address, *address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u8, u8)]) -> AddressSet {
        let address = |last: u8| IpAddr::from([10, 6, 212, last]);
        AddressSet::from_ranges(ranges.iter().map(|(first, last)| (address(*first), address(*last))))
    }

    #[test]
    fn stretches_are_gained_and_lost_in_parts_and_the_records_say_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = store::Store::open(&folder.path().join("store"), "node", "boot").unwrap();
        let mut leased = Leased::default();
        let mut apply = |(change, after): (Change, Leased)| {
            if !change.is_empty() {
                store.commit(change).unwrap();
            }
            leased = after;
            let recorded = Leased::of(store.load().unwrap().leases);
            assert_eq!(recorded.by_epoch("p", 1), leased.by_epoch("p", 1));
            assert_eq!(recorded.by_epoch("p", 2), leased.by_epoch("p", 2));
            leased.clone()
        };
        let leased = apply(Leased::default().with(Change::new(), "p", &set(&[(0, 9), (20, 29)]), 1));
        let leased = apply(leased.with(Change::new(), "p", &set(&[(5, 12)]), 1));
        assert_eq!(leased.set("p"), set(&[(0, 12), (20, 29)]));
        // What was another incarnation's is this one's then, and no more is.
        let again = apply(leased.with(Change::new(), "p", &set(&[(8, 10), (21, 21)]), 2));
        assert_eq!(again.by_epoch("p", 2), (set(&[(8, 10), (21, 21)]), set(&[(0, 7), (11, 12), (20, 20), (22, 29)])));
        let leased = apply(again.with(Change::new(), "p", &set(&[(0, 12), (20, 29)]), 1));
        assert_eq!(leased.by_epoch("p", 1), (set(&[(0, 12), (20, 29)]), AddressSet::default()));
        let leased = apply(leased.without(Change::new(), "p", &set(&[(0, 0), (8, 21), (25, 25), (40, 50)])));
        assert_eq!(leased.set("p"), set(&[(1, 7), (22, 24), (26, 29)]));
        assert_eq!(leased.set("q"), AddressSet::default());
        let leased = apply(leased.without(Change::new(), "p", &set(&[(0, 255)])));
        assert_eq!(leased, Leased::default());
    }
}
