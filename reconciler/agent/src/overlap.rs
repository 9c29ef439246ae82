//! Pools that hold the same addresses: which one gives them.
//!
//! One order decides, the same for the controller, which shows it, and for every agent, which keeps to it: the older
//! pool gives what both hold (`metadata.creationTimestamp`), of equally old ones the first by name. A pool without that
//! time, as in a folder of manifests, is younger than those that have one. The other pool never hands these addresses
//! out; what it has given already stays in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use ipnetwork::IpNetwork;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use plan::allocate::AddressSet;
use schemas::crd::ippool::SpiderIPPool;
use schemas::crd::pool_ranges::{PoolConflict, PoolRanges};
use schemas::crd::ranges::Range;

/// As many stretches are named in a text; the others are counted.
const NAMED: usize = 3;

/// What a pool loses to older ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlap {
    /// The addresses that it must not hand out, ascending and disjoint; none when only the subnets overlap.
    pub lost: Vec<Range>,
    /// Which pools have them, for people.
    pub text: String,
    /// The first few older pools that it cannot stand beside, and why.
    conflicts: Vec<(String, PoolConflict)>,
    /// How many more there are.
    further: usize,
}

impl Overlap {
    /// What is wrong between the pool of this name and older ones, a line each, of many the first few.
    pub fn faults(&self, name: &str) -> impl Iterator<Item = String> {
        let pair = |(other, conflict): &(String, PoolConflict)| {
            let (conflict, other) = (conflict.clone(), other.as_str());
            let (first, second) = if name < other { (name, other) } else { (other, name) };
            let conflict = match conflict {
                PoolConflict::Subnets(own, others) if name > other => PoolConflict::Subnets(others, own),
                conflict => conflict,
            };
            format!("SpiderIPPools {first} and {second}: {conflict}")
        };
        let further = (self.further > 0)
            .then(|| format!("SpiderIPPool {name}: {} more pools are in its way in this manner", self.further));
        self.conflicts.iter().map(pair).chain(further).collect::<Vec<_>>().into_iter()
    }
}

/// Where a pool stands in the order: of two that hold an address, the smaller one gives it.
pub fn seniority(pool: &SpiderIPPool) -> (bool, Option<Timestamp>, String) {
    let created = pool.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created.is_none(), created, pool.name_any())
}

/// What each pool loses, by its name; pools that lose nothing are not in it. Pools without valid ranges hold nothing, and
/// are not given. The cost grows with the ranges, not with the addresses.
pub fn overlaps<'a>(pools: impl IntoIterator<Item = (&'a SpiderIPPool, &'a PoolRanges)>) -> BTreeMap<String, Overlap> {
    let mut pools: Vec<(&SpiderIPPool, &PoolRanges)> = pools.into_iter().collect();
    pools.sort_by_cached_key(|(pool, _)| seniority(pool));
    let mut held = Held::default();
    let mut subnets: BTreeMap<IpNetwork, String> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for (pool, ranges) in pools {
        let name = pool.name_any();
        let cuts = held.add(&name, &ranges.usable());
        let nested = nested(&subnets, ranges.subnet);
        let wider = nested
            .iter()
            .map(|(subnet, owner)| format!("its subnet and {subnet} of {owner} overlap without being the same"));
        let mut texts: Vec<String> = cuts.iter().map(Cut::text).chain(wider).collect();
        if texts.len() > NAMED {
            let further = texts.len() - NAMED;
            texts.truncate(NAMED);
            texts.push(format!("and {further} more"));
        }
        if !texts.is_empty() {
            let lost: AddressSet = AddressSet::from_ranges(cuts.iter().map(|cut| (cut.first, cut.last)));
            let by_subnet =
                nested.iter().map(|(subnet, owner)| (*owner, PoolConflict::Subnets(ranges.subnet, *subnet)));
            let by_address = cuts.iter().map(|cut| (&cut.owner, PoolConflict::Addresses(cut.first, cut.last)));
            let mut seen = BTreeSet::new();
            let mut conflicts: Vec<(String, PoolConflict)> = by_subnet
                .chain(by_address)
                .filter(|(owner, _)| seen.insert(*owner))
                .map(|(owner, conflict)| (owner.clone(), conflict))
                .collect();
            let further = conflicts.len().saturating_sub(NAMED);
            conflicts.truncate(NAMED);
            let lost = lost.iter().collect();
            found.insert(name.clone(), Overlap { lost, text: texts.join("; "), conflicts, further });
        }
        subnets.entry(ranges.subnet).or_insert(name);
    }
    found
}

/// Of the subnets, those that hold this one, and those that it holds, in their order. Of two networks that overlap one holds
/// the other, so that those that hold it are among its own prefixes, and those that it holds stand together.
fn nested(subnets: &BTreeMap<IpNetwork, String>, subnet: IpNetwork) -> Vec<(IpNetwork, &String)> {
    let wider = (0..subnet.prefix()).filter_map(|prefix| {
        let network = IpNetwork::new(subnet.network(), prefix).ok()?.network();
        let wider = IpNetwork::new(network, prefix).ok()?;
        subnets.get_key_value(&wider)
    });
    let full = if subnet.is_ipv4() { 32 } else { 128 };
    let end = IpNetwork::new(subnet.broadcast(), full).unwrap_or(subnet);
    let narrower =
        if end > subnet { Some(subnets.range((Bound::Excluded(subnet), Bound::Included(end)))) } else { None };
    wider.chain(narrower.into_iter().flatten()).map(|(subnet, owner)| (*subnet, owner)).collect()
}

/// A stretch that an older pool has.
struct Cut {
    first: IpAddr,
    last: IpAddr,
    owner: String,
}

impl Cut {
    fn text(&self) -> String {
        let Self { first, last, owner } = self;
        let stretch = if first == last { first.to_string() } else { format!("{first}-{last}") };
        format!("{stretch} is given by SpiderIPPool {owner}, which is older or first by name")
    }
}

/// Who gives what: disjoint stretches, each with its last address and its pool.
#[derive(Default)]
struct Held(BTreeMap<IpAddr, (IpAddr, String)>);

impl Held {
    /// Adds what nobody has yet to a pool, and says what others have.
    fn add(&mut self, name: &str, usable: &[Range]) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for &(start, end) in usable {
            let from = cuts.len();
            // Downwards from the end of the range: stretches are disjoint, so their ends descend too.
            for (&first, (last, owner)) in self.0.range(..=end).rev() {
                if *last < start || first.is_ipv4() != start.is_ipv4() {
                    break;
                }
                cuts.push(Cut { first: first.max(start), last: end.min(*last), owner: owner.clone() });
            }
            let mut rest = AddressSet::from_ranges([(start, end)]);
            for cut in &cuts[from..] {
                rest.remove_range(cut.first, cut.last);
            }
            self.0.extend(rest.iter().map(|(first, last)| (first, (last, name.to_owned()))));
            cuts[from..].reverse();
        }
        cuts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::crd::ippool::SpiderIPPoolSpec;

    use super::*;

    fn pool(name: &str, created: Option<&str>, subnet: &str, ips: &[&str]) -> (SpiderIPPool, PoolRanges) {
        let ips = ips.iter().map(ToString::to_string).collect();
        let spec = SpiderIPPoolSpec { subnet: subnet.into(), ips, ..SpiderIPPoolSpec::default() };
        let ranges = spec.ranges().unwrap();
        let mut pool = SpiderIPPool::new(name, spec);
        pool.metadata.creation_timestamp =
            created.map(|time| k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time.parse().unwrap()));
        (pool, ranges)
    }

    fn found(pools: &[(SpiderIPPool, PoolRanges)]) -> BTreeMap<String, Overlap> {
        overlaps(pools.iter().map(|(pool, ranges)| (pool, ranges)))
    }

    fn lost(overlap: &Overlap) -> Vec<String> {
        overlap.lost.iter().map(|(first, last)| format!("{first}-{last}")).collect()
    }

    #[test]
    fn the_older_pool_gives_what_both_hold_and_of_equal_ones_the_first_by_name() {
        let old = Some("2026-01-01T00:00:00Z");
        let new = Some("2026-02-01T00:00:00Z");
        let subnet = "10.0.0.0/24";
        let pools = [
            pool("a", new, subnet, &["10.0.0.1-10.0.0.20"]),
            pool("z", old, subnet, &["10.0.0.5-10.0.0.9", "10.0.0.15"]),
            pool("y", old, subnet, &["10.0.0.9-10.0.0.11"]),
            pool("apart", None, subnet, &["10.0.0.30"]),
            pool("six", old, "fd00::/64", &["fd00::1-fd00::9"]),
        ];
        let found = found(&pools);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "z"]);
        // y is as old as z and before it by name: it gives .9.
        assert_eq!(lost(&found["z"]), ["10.0.0.9-10.0.0.9"]);
        assert_eq!(lost(&found["a"]), ["10.0.0.5-10.0.0.11", "10.0.0.15-10.0.0.15"]);
        assert_eq!(found["z"].text, "10.0.0.9 is given by SpiderIPPool y, which is older or first by name",);
        assert!(found["a"].text.starts_with("10.0.0.5-10.0.0.8 is given by SpiderIPPool z"), "{}", found["a"].text);
    }

    #[test]
    fn without_times_the_name_decides_and_subnets_alone_lose_nothing() {
        let pools = [
            pool("b", None, "10.0.0.0/16", &["10.0.0.1"]),
            pool("a", None, "10.0.0.0/24", &["10.0.0.2"]),
            pool("c", Some("2026-01-01T00:00:00Z"), "10.0.0.0/24", &["10.0.0.2"]),
        ];
        let found = found(&pools);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(lost(&found["a"]), ["10.0.0.2-10.0.0.2"]);
        assert_eq!(lost(&found["b"]), Vec::<String>::new());
        assert!(found["b"].text.contains("10.0.0.0/24 of c overlap"), "{}", found["b"].text);
    }

    #[test]
    fn a_text_names_three_and_counts_the_others() {
        let many: Vec<String> = (0..20).map(|n| format!("10.0.0.{}", 2 * n)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let pools = [pool("a", None, "10.0.0.0/24", &many), pool("b", None, "10.0.0.0/24", &["10.0.0.0-10.0.0.99"])];
        let text = &found(&pools)["b"].text;
        assert!(text.ends_with("; and 17 more"), "{text}");
    }

    proptest! {
        #[test]
        fn a_pool_is_at_fault_when_it_cannot_stand_beside_a_senior_one(
            wanted in prop::collection::vec((0u8..4, 20u8..29, 0u8..6), 0..12),
        ) {
            let pools: Vec<(SpiderIPPool, PoolRanges)> = wanted
                .iter()
                .enumerate()
                .map(|(index, (block, prefix, age))| {
                    let subnet = IpNetwork::new([10, 0, 4 * block, 16 * block].into(), *prefix).unwrap();
                    let subnet = IpNetwork::new(subnet.network(), *prefix).unwrap();
                    let IpAddr::V4(first) = subnet.network() else { unreachable!("the blocks are IPv4") };
                    let first = IpAddr::V4((u32::from(first) + u32::from(*age)).into());
                    pool(&format!("p{index}"), None, &subnet.to_string(), &[&first.to_string()])
                })
                .collect();
            let found = found(&pools);
            for (index, (pool, ranges)) in pools.iter().enumerate() {
                let seniors: Vec<&(SpiderIPPool, PoolRanges)> = pools
                    .iter()
                    .enumerate()
                    .filter(|(other, (senior, _))| *other != index && seniority(senior) < seniority(pool))
                    .map(|(_, senior)| senior)
                    .collect();
                let name = pool.name_any();
                let told: Vec<String> = found.get(&name).map(|overlap| overlap.faults(&name).collect()).unwrap_or_default();
                let conflicts: Vec<String> = seniors
                    .iter()
                    .filter_map(|(senior, of)| {
                        let (other, is_first) = (senior.name_any(), name < senior.name_any());
                        let (first, second) = if is_first { (ranges, of) } else { (of, ranges) };
                        let conflict = first.conflict_with(second)?;
                        let (first, second) = if is_first { (&name, &other) } else { (&other, &name) };
                        Some(format!("SpiderIPPools {first} and {second}: {conflict}"))
                    })
                    .collect();
                prop_assert_eq!(told.is_empty(), conflicts.is_empty(), "{:?} {:?}", told, conflicts);
                // Of a pair that shares addresses in subnets of unlike size either may be told.
                let pair = |fault: &String| fault.split(": ").next().unwrap_or_default().to_owned();
                let pairs: BTreeSet<String> = conflicts.iter().map(pair).collect();
                for fault in told.iter().take(NAMED) {
                    prop_assert!(pairs.contains(&pair(fault)), "{} is not among {:?}", fault, conflicts);
                }
            }
        }

        #[test]
        fn every_address_is_given_by_exactly_its_most_senior_pool(
            wanted in prop::collection::vec((prop::collection::vec((0u8..60, 0u8..12), 0..4), 0u8..3), 0..6),
        ) {
            let pools: Vec<(SpiderIPPool, PoolRanges)> = wanted
                .iter()
                .enumerate()
                .map(|(index, (pairs, age))| {
                    let ips: Vec<String> = pairs.iter().map(|(first, more)| format!("10.0.0.{first}-10.0.0.{}", first + more)).collect();
                    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
                    pool(&format!("p{index}"), Some(&format!("2026-01-0{}T00:00:00Z", age + 1)), "10.0.0.0/24", &ips)
                })
                .collect();
            let found = found(&pools);
            for last in 0..=80u8 {
                let ip: IpAddr = [10, 0, 0, last].into();
                let within = |ranges: &[Range]| ranges.iter().any(|(first, end)| *first <= ip && ip <= *end);
                let holders: Vec<&(SpiderIPPool, PoolRanges)> = pools.iter().filter(|(_, ranges)| within(&ranges.usable())).collect();
                let givers: Vec<String> = holders
                    .iter()
                    .filter(|(pool, _)| !found.get(&pool.name_any()).is_some_and(|overlap| within(&overlap.lost)))
                    .map(|(pool, _)| pool.name_any())
                    .collect();
                let senior = holders.iter().min_by_key(|(pool, _)| seniority(pool)).map(|(pool, _)| pool.name_any());
                prop_assert_eq!(givers, senior.into_iter().collect::<Vec<_>>(), "{}", ip);
            }
        }
    }
}
