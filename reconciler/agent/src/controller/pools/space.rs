//! The addresses of a pool as numbers: which there are, and which may be given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use plan::allocate::AddressSet;
use schemas::crd::pool_ranges::PoolRanges;
use schemas::crd::ranges::Range;

/// An address as a number; of a pool all are of one family.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Ascending, disjoint, inclusive stretches of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stretches(Vec<(u128, u128)>);

impl Stretches {
    fn of(ranges: impl IntoIterator<Item = Range>) -> Self {
        Self(ranges.into_iter().map(|(first, last)| (number(first), number(last))).collect())
    }

    /// Whether it has that number.
    pub fn contains(&self, number: u128) -> bool {
        let next = self.0.partition_point(|&(first, _)| first <= number);
        next.checked_sub(1).and_then(|index| self.0.get(index)).is_some_and(|&(_, last)| number <= last)
    }

    /// Which of `width` (1 to 64) numbers from `from` on it has: bit 0 is `from`.
    pub fn mask(&self, from: u128, width: u32) -> u64 {
        let to = from + u128::from(width - 1);
        let index = self.0.partition_point(|&(_, last)| last < from);
        let mut mask = 0;
        for &(first, last) in self.0[index..].iter().take_while(|&&(first, _)| first <= to) {
            let (first, last) = (first.max(from) - from, last.min(to) - from);
            // Both are below 64.
            let ones = u64::MAX >> (63 - (last - first));
            mask |= ones << first;
        }
        mask
    }

    /// How many numbers, at most [`i64::MAX`].
    pub fn count(&self) -> i64 {
        let each = self.0.iter().map(|(first, last)| (last - first).saturating_add(1));
        i64::try_from(each.fold(0, u128::saturating_add)).unwrap_or(i64::MAX)
    }
}

/// The addresses of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// `ips` without `excludeIPs`: what the pool's total counts.
    pub all: Stretches,
    /// Those of them that may be given: not reserved, not the gateway, not an older pool's.
    pub givable: Stretches,
    /// Whether they are of IPv4.
    is_v4: bool,
}

impl Space {
    /// Of a pool with these ranges, where `reserved` is kept back and `lost` is an older pool's.
    pub fn of(ranges: &PoolRanges, reserved: &AddressSet, lost: &[Range]) -> Self {
        let all = ranges.usable();
        let mut givable = AddressSet::from_ranges(all.iter().copied());
        givable.subtract(reserved);
        if let Some(gateway) = ranges.gateway {
            givable.remove(gateway);
        }
        for &(first, last) in lost {
            givable.remove_range(first, last);
        }
        let is_v4 = ranges.subnet.is_ipv4();
        Self { all: Stretches::of(all), givable: Stretches::of(givable.iter()), is_v4 }
    }

    /// The address of a number.
    pub fn address(&self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if self.is_v4 => Ipv4Addr::from_bits(number).into(),
            _ => Ipv6Addr::from_bits(number).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_a_slot_and_of_the_family_hold() {
        let all = Stretches(vec![(0, u128::MAX)]);
        assert_eq!(all.mask(u128::MAX - 63, 64), u64::MAX);
        assert_eq!(all.mask(5, 1), 1);
        assert_eq!(all.count(), i64::MAX);
        let some = Stretches(vec![(10, 12), (14, 14), (70, 90)]);
        assert_eq!(some.mask(10, 5), 0b10111);
        assert_eq!(some.mask(8, 4), 0b1100);
        assert_eq!(some.mask(91, 64), 0);
        assert!(some.contains(14) && !some.contains(13) && !some.contains(9) && some.contains(90));
        assert_eq!(some.count(), 25);
    }

    proptest! {
        #[test]
        fn a_mask_is_the_numbers_one_by_one(
            pieces in prop::collection::vec((1u128..50, 0u128..80), 0..6),
            from in 0u128..300,
            width in 1u32..=64,
        ) {
            let mut next = 0;
            let ranges = pieces.iter().map(|(gap, more)| {
                let first = next + gap + 1;
                next = first + more;
                (first, next)
            });
            let stretches = Stretches(ranges.collect());
            let bits = (0..width).filter(|bit| stretches.contains(from + u128::from(*bit))).fold(0, |mask, bit| mask | 1u64 << bit);
            prop_assert_eq!(stretches.mask(from, width), bits);
        }
    }
}
