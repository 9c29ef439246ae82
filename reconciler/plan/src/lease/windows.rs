//! Which shards a pool's usable addresses lie in.

use std::net::IpAddr;

use super::layout::{Layout, SLOTS};

/// A stretch of shard numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    first: u128,
    last: u128,
    /// How many shards lie in the stretches before it.
    before: u128,
}

/// The shards that usable addresses of a pool lie in, and which addresses of a slot are usable. Costs as much as the pool has
/// ranges, however many addresses these have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    layout: Layout,
    /// Usable addresses as numbers, ascending and disjoint.
    ranges: Vec<(u128, u128)>,
    stretches: Vec<Stretch>,
}

impl Windows {
    /// The shards of these inclusive ranges of usable addresses. What is not of the layout's subnet is left out, and a
    /// range that ends before it begins is empty.
    pub fn new(layout: Layout, usable: &[(IpAddr, IpAddr)]) -> Self {
        let mut clipped: Vec<(u128, u128)> =
            usable.iter().filter_map(|(first, last)| layout.clip(*first, *last)).collect();
        clipped.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::with_capacity(clipped.len());
        for (first, last) in clipped {
            match ranges.last_mut() {
                Some((_, known)) if first <= known.saturating_add(1) => *known = last.max(*known),
                _ => ranges.push((first, last)),
            }
        }
        let mut stretches: Vec<Stretch> = Vec::new();
        for (first, last) in &ranges {
            let (first, last) = (layout.number_of_bits(*first), layout.number_of_bits(*last));
            match stretches.last_mut() {
                // At least 64 addresses a shard: a number never comes near the end of its type.
                Some(known) if first <= known.last + 1 => known.last = last,
                known => {
                    let before = known.map_or(0, |known| known.before + (known.last - known.first + 1));
                    stretches.push(Stretch { first, last, before });
                }
            }
        }
        Self { layout, ranges, stretches }
    }

    /// How the subnet is cut.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How many addresses are usable; all of IPv6 is [`u128::MAX`].
    pub fn total(&self) -> u128 {
        self.ranges.iter().fold(0, |sum, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// How many shards.
    pub fn len(&self) -> u128 {
        self.stretches.last().map_or(0, |last| last.before + (last.last - last.first + 1))
    }

    /// Whether no address is usable.
    pub fn is_empty(&self) -> bool {
        self.stretches.is_empty()
    }

    /// The `place`-th shard's number, from 0.
    pub fn nth(&self, place: u128) -> Option<u128> {
        let index = self.stretches.partition_point(|stretch| stretch.before <= place).checked_sub(1)?;
        let stretch = self.stretches[index];
        let number = stretch.first + (place - stretch.before);
        (number <= stretch.last).then_some(number)
    }

    /// Whether a shard has usable addresses.
    pub fn contains(&self, number: u128) -> bool {
        let index = self.stretches.partition_point(|stretch| stretch.first <= number);
        index > 0 && number <= self.stretches[index - 1].last
    }

    /// Every shard once, from the one that `hash` points to (see [`hash`](super::hash)) and around.
    pub fn from(&self, hash: u64) -> impl Iterator<Item = u128> + '_ {
        let len = self.len();
        let start = u128::from(hash).checked_rem(len).unwrap_or(0);
        (start..len).chain(0..start).filter_map(|place| self.nth(place))
    }

    /// Whether an address may be given.
    pub fn is_usable(&self, address: IpAddr) -> bool {
        self.layout.inside(address).is_some_and(|number| self.range_from(number).is_some_and(|range| range.0 <= number))
    }

    /// The first range that ends at or after a number.
    fn range_from(&self, number: u128) -> Option<(u128, u128)> {
        self.ranges.get(self.ranges.partition_point(|(_, last)| *last < number)).copied()
    }

    /// The usable addresses of a slot.
    pub fn usable(&self, number: u128, slot: usize) -> u64 {
        let Some(start) = self.layout.slot_start(number, slot) else { return 0 };
        let end = start.saturating_add(u128::from(self.layout.width()) - 1);
        let skipped = self.ranges.partition_point(|(_, last)| *last < start);
        let mut mask = 0;
        for (first, last) in self.ranges[skipped..].iter().take_while(|(first, _)| *first <= end) {
            // Both are below the width.
            let (low, high) = ((*first.max(&start) - start) as u32, (*last.min(&end) - start) as u32);
            mask |= schemas::slot::whole(high + 1) & !schemas::slot::whole(low);
        }
        mask
    }

    /// How many addresses of a shard are usable.
    pub fn usable_in(&self, number: u128) -> u32 {
        (0..SLOTS).map(|slot| self.usable(number, slot).count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(texts: &[(&str, &str)]) -> Vec<(IpAddr, IpAddr)> {
        texts.iter().map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap())).collect()
    }

    fn windows(subnet: &str, size: u32, texts: &[(&str, &str)]) -> Windows {
        Windows::new(Layout::new(subnet.parse().unwrap(), size).unwrap(), &ranges(texts))
    }

    #[test]
    fn the_quick_starts_pool_has_one_or_two_shards() {
        let pool = windows("10.6.0.0/16", 64, &[("10.6.212.200", "10.6.212.240")]);
        assert_eq!((pool.len(), pool.total()), (1, 41));
        assert_eq!(pool.nth(0), Some(212 * 4 + 3));
        assert_eq!(pool.nth(1), None);
        assert_eq!(pool.usable_in(212 * 4 + 3), 41);
        assert_eq!(pool.usable_in(0), 0);
        assert!(pool.contains(851) && !pool.contains(850) && !pool.contains(852));
    }

    #[test]
    fn a_wide_pool_is_as_cheap_as_a_narrow_one() {
        for (subnet, last) in
            [("fd00::/64", "fd00::ffff:ffff:ffff:fffe"), ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]
        {
            let pool = windows(subnet, 4096, &[("fd00::1", last)]);
            let around: Vec<u128> = pool.from(u64::MAX).take(3).collect();
            assert_eq!(around.len(), 3);
            assert!(around.iter().all(|number| pool.contains(*number)));
            assert_eq!(pool.usable(pool.nth(0).unwrap(), 0), !1);
        }
        let pool = windows("::/0", 64, &[("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]);
        assert_eq!((pool.len(), pool.total()), (1 << 122, u128::MAX));
        assert_eq!(pool.nth(pool.len() - 1), Some((1 << 122) - 1));
    }

    #[test]
    fn nothing_usable() {
        for texts in [&[][..], &[("10.7.0.1", "10.7.0.9")], &[("10.6.0.9", "10.6.0.1")], &[("fd00::1", "fd00::2")]] {
            let pool = windows("10.6.0.0/16", 64, texts);
            assert!(pool.is_empty());
            assert_eq!((pool.len(), pool.nth(0), pool.from(3).count(), pool.total()), (0, None, 0, 0));
        }
    }

    proptest! {
        #[test]
        fn they_are_the_shards_of_the_addresses(
            spans in prop::collection::vec((0u32..3000, 0u32..200), 0..8), width in 1u32..=8, hash: u64,
        ) {
            let base = 0x0a06_0000;
            let address = |offset: u32| IpAddr::V4((base + offset).into());
            let ranges: Vec<_> = spans.iter().map(|(first, len)| (address(*first), address(first + len))).collect();
            let layout = Layout::new("10.6.0.0/16".parse().unwrap(), width * 64).unwrap();
            let pool = Windows::new(layout, &ranges);
            let usable: std::collections::BTreeSet<u32> = spans.iter().flat_map(|(first, len)| *first..=first + len).collect();
            let numbers: std::collections::BTreeSet<u128> = usable.iter().map(|offset| u128::from(offset / (width * 64))).collect();
            prop_assert_eq!(pool.len(), numbers.len() as u128);
            prop_assert_eq!(pool.total(), usable.len() as u128);
            let mut around: Vec<u128> = pool.from(hash).collect();
            prop_assert_eq!(around.first().copied(), pool.nth(u128::from(hash).checked_rem(pool.len()).unwrap_or(0)));
            around.sort_unstable();
            prop_assert_eq!(around, numbers.iter().copied().collect::<Vec<_>>());
            for offset in 0..3300 {
                let (number, slot, bit) = layout.place(address(offset)).unwrap();
                prop_assert_eq!(pool.usable(number, slot) & (1 << bit) != 0, usable.contains(&offset));
                prop_assert_eq!(pool.is_usable(address(offset)), usable.contains(&offset));
                prop_assert_eq!(pool.contains(number), numbers.contains(&number));
            }
        }
    }
}
