//! Which addresses are free: interval arithmetic.
//!
//! Every operation costs O(log n) in the number of intervals, never in the number of addresses: a /10 or an IPv6 /64 is
//! as cheap as a /28.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Disjoint, never adjacent, inclusive intervals: first → last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Intervals {
    spans: BTreeMap<u128, u128>,
    len: u128,
}

impl Intervals {
    fn containing(&self, number: u128) -> Option<(u128, u128)> {
        let (first, last) = self.spans.range(..=number).next_back()?;
        (*last >= number).then_some((*first, *last))
    }

    /// O(log n + the intervals swallowed).
    fn insert(&mut self, mut first: u128, mut last: u128) {
        let before = first.saturating_sub(1);
        if let Some((known_first, known_last)) = self.containing(first).or_else(|| self.containing(before)) {
            first = first.min(known_first);
            last = last.max(known_last);
        }
        while let Some((known_first, known_last)) =
            self.spans.range(first..=last.saturating_add(1)).next().map(|(first, last)| (*first, *last))
        {
            last = last.max(known_last);
            self.forget(known_first, known_last);
        }
        self.keep(first, last);
    }

    /// O(log n + the intervals cut).
    fn remove(&mut self, first: u128, last: u128) {
        if let Some((known_first, known_last)) = self.containing(first) {
            self.forget(known_first, known_last);
            if known_first < first {
                self.keep(known_first, first - 1);
            }
            if known_last > last {
                self.keep(last + 1, known_last);
            }
        }
        while let Some((known_first, known_last)) =
            self.spans.range(first..=last).next().map(|(first, last)| (*first, *last))
        {
            self.forget(known_first, known_last);
            if known_last > last {
                self.keep(last + 1, known_last);
            }
        }
    }

    fn keep(&mut self, first: u128, last: u128) {
        self.spans.insert(first, last);
        self.len = self.len.saturating_add(width(first, last));
    }

    fn forget(&mut self, first: u128, last: u128) {
        self.spans.remove(&first);
        self.len = match self.len.checked_sub(width(first, last)) {
            Some(len) if self.len < u128::MAX => len,
            // The count had reached its end (all of IPv6): only then is it counted anew.
            _ => self.spans.iter().fold(0, |sum: u128, (first, last)| sum.saturating_add(width(*first, *last))),
        };
    }
}

fn width(first: u128, last: u128) -> u128 {
    (last - first).saturating_add(1)
}

/// A set of addresses of both families.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Intervals,
    v6: Intervals,
}

impl AddressSet {
    /// The addresses of these inclusive ranges, which may overlap. A range of two families, or one that ends before it
    /// begins, is empty.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Self {
        let mut set = Self::default();
        for (first, last) in ranges {
            set.insert_range(first, last);
        }
        set
    }

    /// Adds one address.
    pub fn insert(&mut self, ip: IpAddr) {
        self.insert_range(ip, ip);
    }

    /// Adds an inclusive range.
    pub fn insert_range(&mut self, first: IpAddr, last: IpAddr) {
        if let Some((intervals, first, last)) = self.family(first, last) {
            intervals.insert(first, last);
        }
    }

    /// Takes one address out.
    pub fn remove(&mut self, ip: IpAddr) {
        self.remove_range(ip, ip);
    }

    /// Takes an inclusive range out.
    pub fn remove_range(&mut self, first: IpAddr, last: IpAddr) {
        if let Some((intervals, first, last)) = self.family(first, last) {
            intervals.remove(first, last);
        }
    }

    /// Takes all out that is not in the other set.
    pub fn intersect(&mut self, other: &Self) {
        let mut beyond = self.clone();
        beyond.subtract(other);
        self.subtract(&beyond);
    }

    /// Takes all of the other set out.
    pub fn subtract(&mut self, other: &Self) {
        for (first, last) in other.iter() {
            self.remove_range(first, last);
        }
    }

    /// Whether it has that address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.containing(ip.to_bits().into()).is_some(),
            IpAddr::V6(ip) => self.v6.containing(ip.to_bits()).is_some(),
        }
    }

    /// How many addresses; all of IPv6 and more is [`u128::MAX`].
    pub fn len(&self) -> u128 {
        self.v4.len.saturating_add(self.v6.len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.spans.is_empty() && self.v6.spans.is_empty()
    }

    /// The lowest address, IPv4 before IPv6.
    pub fn first(&self) -> Option<IpAddr> {
        self.iter().next().map(|(first, _)| first)
    }

    /// The inclusive intervals, ascending, IPv4 before IPv6; no two of them touch.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let v4 = self.v4.spans.iter().map(|(first, last)| (v4(*first), v4(*last)));
        let v6 = self.v6.spans.iter().map(|(first, last)| (v6(*first), v6(*last)));
        v4.chain(v6)
    }

    fn family(&mut self, first: IpAddr, last: IpAddr) -> Option<(&mut Intervals, u128, u128)> {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                Some((&mut self.v4, first.to_bits().into(), last.to_bits().into()))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                Some((&mut self.v6, first.to_bits(), last.to_bits()))
            }
            _ => None,
        }
    }
}

/// The addresses of an inclusive range of one family, one by one; none of a range of two.
pub fn each(first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
    let numbers = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some(u128::from(first.to_bits())..=u128::from(last.to_bits())),
        (IpAddr::V6(first), IpAddr::V6(last)) => Some(first.to_bits()..=last.to_bits()),
        _ => None,
    };
    numbers.into_iter().flatten().map(move |number| if first.is_ipv4() { v4(number) } else { v6(number) })
}

fn v4(number: u128) -> IpAddr {
    // Only IPv4 addresses come into that family's intervals; the mask makes the narrowing exact.
    IpAddr::V4(Ipv4Addr::from_bits((number & u128::from(u32::MAX)) as u32))
}

fn v6(number: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(number))
}

/// How many addresses a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// `ips` without `excludeIPs` (../spec/crds.md: `totalIPCount`); reserved ones count.
    pub total: u128,
    /// Those of the total that are taken.
    pub used: u128,
    /// Those that can be given.
    pub free: u128,
}

/// The addresses of one pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSpace {
    /// `ips` without `excludeIPs`.
    total: AddressSet,
    /// What may be given at all: total without reserved addresses and the gateway.
    usable: AddressSet,
    free: AddressSet,
    /// Taken ones of the total.
    used: AddressSet,
}

impl PoolSpace {
    /// A pool without any address taken.
    ///
    /// `ips` and `excluded` are the spec's, `reserved` is what SpiderReservedIPs hold back. The gateway inside `ips` is
    /// refused where pools are validated; it is never given here in any case.
    pub fn new(ips: AddressSet, excluded: &AddressSet, reserved: &AddressSet, gateway: Option<IpAddr>) -> Self {
        let mut total = ips;
        total.subtract(excluded);
        let mut usable = total.clone();
        usable.subtract(reserved);
        if let Some(gateway) = gateway {
            usable.remove(gateway);
        }
        Self { free: usable.clone(), usable, total, used: AddressSet::default() }
    }

    /// Lets only these be given: what the node holds of a pool that it shares. The total stays the pool's.
    pub fn keep_only(&mut self, held: &AddressSet) {
        self.usable.intersect(held);
        self.free.intersect(held);
    }

    /// The lowest address that can be given.
    pub fn first_free(&self) -> Option<IpAddr> {
        self.free.first()
    }

    /// The lowest address that can be given and is good: O(those that are not).
    pub fn first_free_which(&self, mut is_good: impl FnMut(IpAddr) -> bool) -> Option<IpAddr> {
        self.free.iter().find_map(|(first, last)| each(first, last).find(|address| is_good(*address)))
    }

    /// What can be given now.
    pub fn free(&self) -> &AddressSet {
        &self.free
    }

    /// What may be given at all, taken or not.
    pub fn usable(&self) -> &AddressSet {
        &self.usable
    }

    /// All addresses of the pool, taken or not, reserved ones and the gateway too.
    pub fn total(&self) -> &AddressSet {
        &self.total
    }

    /// Whether that address can be given.
    pub fn is_free(&self, ip: IpAddr) -> bool {
        self.free.contains(ip)
    }

    /// Whether an address is one of the pool's, taken or not.
    pub fn covers(&self, ip: IpAddr) -> bool {
        self.total.contains(ip)
    }

    /// Marks an address as taken, a reserved one too (it was given before it was reserved). False when it was taken
    /// already or is not of this pool.
    pub fn take(&mut self, ip: IpAddr) -> bool {
        if !self.total.contains(ip) || self.used.contains(ip) {
            return false;
        }
        self.free.remove(ip);
        self.used.insert(ip);
        true
    }

    /// Makes a taken address free again, unless it is reserved by now. False when it was not taken.
    pub fn give_back(&mut self, ip: IpAddr) -> bool {
        if !self.used.contains(ip) {
            return false;
        }
        self.used.remove(ip);
        if self.usable.contains(ip) {
            self.free.insert(ip);
        }
        true
    }

    /// How many addresses.
    pub fn counts(&self) -> Counts {
        Counts { total: self.total.len(), used: self.used.len(), free: self.free.len() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn set(ranges: &[(&str, &str)]) -> AddressSet {
        AddressSet::from_ranges(ranges.iter().map(|(first, last)| (ip(first), ip(last))))
    }

    #[test]
    fn the_quick_starts_pool_gives_200_first_and_41_in_all() {
        let ips = set(&[("10.6.212.200", "10.6.212.240")]);
        let mut pool = PoolSpace::new(ips, &AddressSet::default(), &AddressSet::default(), Some(ip("10.6.0.1")));
        for last in 200..=240 {
            let first = pool.first_free().unwrap();
            assert_eq!(first, ip(&format!("10.6.212.{last}")));
            assert!(pool.take(first));
        }
        assert_eq!(pool.first_free(), None);
        assert_eq!(pool.counts(), Counts { total: 41, used: 41, free: 0 });
        assert!(pool.give_back(ip("10.6.212.220")));
        assert!(!pool.give_back(ip("10.6.212.220")));
        assert!(!pool.give_back(ip("10.6.0.9")));
        assert_eq!(pool.first_free(), Some(ip("10.6.212.220")));
    }

    #[test]
    fn excluded_reserved_and_gateway_are_never_given() {
        let ips = set(&[("10.0.0.1", "10.0.0.6")]);
        let mut pool = PoolSpace::new(
            ips,
            &set(&[("10.0.0.1", "10.0.0.1")]),
            &set(&[("10.0.0.3", "10.0.0.3")]),
            Some(ip("10.0.0.2")),
        );
        assert_eq!(pool.counts(), Counts { total: 5, used: 0, free: 3 });
        assert_eq!(pool.first_free(), Some(ip("10.0.0.4")));
        // One that was given before it was reserved stays taken, and does not come back as free.
        assert!(pool.take(ip("10.0.0.3")));
        assert!(pool.give_back(ip("10.0.0.3")));
        assert!(!pool.is_free(ip("10.0.0.3")));
        assert!(!pool.take(ip("10.0.0.1")), "excluded: not of this pool");
    }

    #[test]
    fn the_ends_of_both_families_hold() {
        let mut all = set(&[("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ("0.0.0.0", "255.255.255.255")]);
        assert_eq!(all.len(), u128::MAX);
        all.remove(ip("255.255.255.255"));
        all.remove(ip("::"));
        assert_eq!(all.first(), Some(ip("0.0.0.0")));
        all.subtract(&set(&[("0.0.0.0", "255.255.255.255")]));
        assert_eq!(all.len(), u128::MAX);
        all.remove(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert_eq!(all.len(), u128::MAX - 1);
        all.insert(ip("::"));
        assert_eq!(all.iter().collect::<Vec<_>>(), [(ip("::"), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"))]);
    }

    #[test]
    fn a_wide_pool_is_as_small_as_a_narrow_one() {
        let mut pool = PoolSpace::new(
            set(&[("fd00::", "fd00::ffff:ffff:ffff:ffff")]),
            &AddressSet::default(),
            &AddressSet::default(),
            None,
        );
        for _ in 0..1000 {
            let first = pool.first_free().unwrap();
            pool.take(first);
        }
        assert_eq!(pool.free.iter().count(), 1);
        assert_eq!(pool.counts().free, (1 << 64) - 1000);
    }

    /// Few addresses, so that random operations meet; the two families and the top end of IPv4 among them.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u32..40).prop_map(|low| v4(u128::from(0x0a00_0000 + low))),
            (0u32..40).prop_map(|low| v4(u128::from(u32::MAX - low))),
            (0u128..40).prop_map(v6),
        ]
    }

    fn members(first: IpAddr, last: IpAddr) -> Vec<IpAddr> {
        match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) if u32::from(b).saturating_sub(u32::from(a)) < 100 => {
                (u32::from(a)..=u32::from(b)).map(|n| v4(n.into())).collect()
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits()..=b.to_bits()).map(v6).collect(),
            _ => Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn the_set_is_a_set(operations in prop::collection::vec((any::<bool>(), address(), address()), 0..60)) {
            let mut set = AddressSet::default();
            let mut model = BTreeSet::new();
            for (is_insert, first, last) in operations {
                let range = members(first, last);
                let last = if range.is_empty() { first } else { last };
                let range = if range.is_empty() { vec![first] } else { range };
                if is_insert {
                    set.insert_range(first, last);
                    model.extend(range);
                } else {
                    set.remove_range(first, last);
                    for ip in range { model.remove(&ip); }
                }
                prop_assert_eq!(set.len(), model.len() as u128);
                prop_assert_eq!(set.first(), model.first().copied());
                prop_assert_eq!(set.is_empty(), model.is_empty());
                let listed: Vec<IpAddr> = set.iter().flat_map(|(first, last)| members(first, last)).collect();
                prop_assert_eq!(listed, model.iter().copied().collect::<Vec<_>>());
                let spans: Vec<_> = set.v4.spans.iter().collect();
                prop_assert!(spans.windows(2).all(|pair| pair[0].1 + 1 < *pair[1].0), "touching intervals");
            }
        }

        #[test]
        fn subtracting_is_removing_each(
            one in prop::collection::vec(address(), 0..40),
            two in prop::collection::vec(address(), 0..40),
        ) {
            let mut set = AddressSet::from_ranges(one.iter().map(|ip| (*ip, *ip)));
            set.subtract(&AddressSet::from_ranges(two.iter().map(|ip| (*ip, *ip))));
            for ip in one.iter().chain(&two) {
                prop_assert_eq!(set.contains(*ip), one.contains(ip) && !two.contains(ip));
            }
        }

        #[test]
        fn a_pool_never_gives_an_address_twice(operations in prop::collection::vec((any::<bool>(), 0u32..20), 0..80)) {
            let base = 0x0a00_0000;
            let range = |first: u32, last: u32| AddressSet::from_ranges([(v4((base + first).into()), v4((base + last).into()))]);
            let mut pool = PoolSpace::new(range(0, 15), &range(2, 3), &range(5, 5), Some(v4((base + 7).into())));
            let givable = |n: u32| n <= 15 && ![2, 3, 5, 7].contains(&n);
            let mut model: BTreeSet<u32> = BTreeSet::new();
            for (is_take, n) in operations {
                if is_take {
                    let expected = (0..16).find(|n| givable(*n) && !model.contains(n));
                    let got = pool.first_free();
                    prop_assert_eq!(got, expected.map(|n| v4((base + n).into())));
                    if let (Some(ip), Some(n)) = (got, expected) {
                        prop_assert!(pool.take(ip));
                        prop_assert!(!pool.take(ip));
                        model.insert(n);
                    }
                } else {
                    prop_assert_eq!(pool.give_back(v4((base + n).into())), model.remove(&n));
                }
                let used = model.len() as u128;
                prop_assert_eq!(pool.counts(), Counts { total: 14, used, free: 12 - used });
            }
        }
    }
}
