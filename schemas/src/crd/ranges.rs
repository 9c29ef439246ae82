//! Sets of addresses of one family, as ordered lists of inclusive ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// An inclusive range of addresses of one family.
pub type Range = (IpAddr, IpAddr);

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address of that number in the family of `like`; None when the family has no such address.
fn address(like: IpAddr, number: u128) -> Option<IpAddr> {
    match like {
        IpAddr::V4(_) => u32::try_from(number).ok().map(|number| Ipv4Addr::from(number).into()),
        IpAddr::V6(_) => Some(Ipv6Addr::from(number).into()),
    }
}

fn next(of: IpAddr) -> Option<IpAddr> {
    number(of).checked_add(1).and_then(|next| address(of, next))
}

fn previous(of: IpAddr) -> Option<IpAddr> {
    number(of).checked_sub(1).and_then(|previous| address(of, previous))
}

/// Whether the network holds the whole range.
pub(super) fn is_inside((start, end): Range, network: IpNetwork) -> bool {
    network.contains(start) && network.contains(end)
}

/// The same addresses in ascending, disjoint ranges that do not touch.
pub(super) fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            // At the end of the family's space there is no next address, and nothing can lie beyond.
            Some((_, last)) if next(*last).is_none_or(|next| start <= next) => *last = end.max(*last),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// What of `ranges` is not in `excluded`; both as [`merge`] gives them.
pub(super) fn subtract(ranges: &[Range], excluded: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    for &(start, end) in ranges {
        // `excluded` is ascending and disjoint: binary search finds the first that reaches this range.
        let first = excluded.partition_point(|&(_, last)| last < start);
        let mut rest = Some(start);
        for &(from, to) in excluded[first..].iter().take_while(|&&(from, _)| from <= end) {
            if let (Some(begin), Some(before)) = (rest, previous(from))
                && begin <= before
            {
                left.push((begin, before));
            }
            rest = next(to);
        }
        if let Some(begin) = rest.filter(|begin| *begin <= end) {
            left.push((begin, end));
        }
    }
    left
}

/// The first range of addresses that both sets hold; both as [`merge`] gives them.
pub(super) fn first_shared(one: &[Range], other: &[Range]) -> Option<Range> {
    one.iter().find_map(|&(start, end)| {
        let first = other.partition_point(|&(_, last)| last < start);
        other.get(first).filter(|(from, _)| *from <= end).map(|&(from, to)| (start.max(from), end.min(to)))
    })
}

/// How many addresses the ranges hold, at most `i64::MAX`.
pub(super) fn count(ranges: &[Range]) -> i64 {
    let total = ranges.iter().fold(0_u128, |total, &(start, end)| {
        total.saturating_add(number(end).saturating_sub(number(start)).saturating_add(1))
    });
    i64::try_from(total).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Ranges near both ends of the IPv4 space, where there is no next or previous address.
    fn ranges() -> impl Strategy<Value = Vec<Range>> {
        let point = prop_oneof![0_u32..40, (u32::MAX - 40)..=u32::MAX];
        prop::collection::vec((point, 0_u32..10), 0..8).prop_map(|pairs| {
            let range = |(start, length): (u32, u32)| {
                (Ipv4Addr::from(start).into(), Ipv4Addr::from(start.saturating_add(length)).into())
            };
            pairs.into_iter().map(range).collect()
        })
    }

    fn addresses(ranges: &[Range]) -> BTreeSet<u128> {
        ranges.iter().flat_map(|&(start, end)| number(start)..=number(end)).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_the_sets_they_stand_for(one in ranges(), other in ranges()) {
            let (first, second) = (merge(one.clone()), merge(other.clone()));
            prop_assert_eq!(addresses(&first), addresses(&one));
            prop_assert!(first.windows(2).all(|pair| number(pair[0].1) + 1 < number(pair[1].0)));
            let left = subtract(&first, &second);
            let wanted: BTreeSet<u128> = addresses(&one).difference(&addresses(&other)).copied().collect();
            prop_assert_eq!(addresses(&left), wanted.clone());
            prop_assert_eq!(count(&left), i64::try_from(wanted.len()).unwrap());
            let shared = addresses(&one).intersection(&addresses(&other)).next().copied();
            prop_assert_eq!(first_shared(&first, &second).map(|(start, _)| number(start)), shared);
        }
    }

    #[test]
    fn the_whole_of_ipv6_is_counted_without_overflow() {
        let all = (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into());
        assert_eq!(count(&[all]), i64::MAX);
        assert_eq!(subtract(&[all], &[all]), []);
    }
}
