//! The checked form of a pool: its texts become addresses, or an error names the field and the rule
//! (../spec/crds.md 2.6).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::address::{AddressError, canonical, parse_address, parse_network, parse_range};
use super::field::FieldError;
use super::ip_version::IpVersion;
use super::ippool::SpiderIPPoolSpec;
use super::ranges::{self, Range};
use super::route::Route;

/// A pool's addresses. All of them are of one family and inside the subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRanges {
    /// The family.
    pub version: IpVersion,
    /// The subnet, without host bits.
    pub subnet: IpNetwork,
    /// The pods' default gateway.
    pub gateway: Option<IpAddr>,
    /// `ips`, ascending and disjoint; entries that overlap or touch have become one, as the webhook makes them.
    pub ips: Vec<Range>,
    /// `excludeIPs` in the same form.
    pub excluded: Vec<Range>,
    /// The further routes in their order, destinations without host bits.
    pub routes: Vec<(IpNetwork, IpAddr)>,
}

/// The rule that a pool breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolFault {
    /// Not an address, network or range of the pool's family.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The subnet's family is not `ipVersion`.
    #[error("invalid CIDR format in IPv{version}: {subnet} is of the other family")]
    Family {
        /// `ipVersion`.
        version: IpVersion,
        /// `subnet`.
        subnet: IpNetwork,
    },
    /// The subnet has host bits.
    #[error("unformatted subnet {0}, please change it to {1}")]
    HostBits(IpNetwork, IpNetwork),
    /// Something is not in the subnet.
    #[error("{0} not pertains to the 'spec.subnet' {1}")]
    Outside(String, IpNetwork),
    /// The gateway could be given to a pod.
    #[error(
        "conflicts with 'spec.gateway' {0}, add the gateway IP address to 'spec.excludeIPs' or remove it from 'spec.ips'"
    )]
    GatewayInside(IpAddr),
    /// A default route among the further routes.
    #[error("please specify 'spec.gateway' to configure the default route")]
    DefaultRoute,
    /// Two routes to one destination.
    #[error("duplicate route with the same dst {0}")]
    DuplicateRoute(IpNetwork),
}

/// A field of a pool that breaks a rule.
pub type PoolError = FieldError<PoolFault>;

/// Why two pools cannot stand beside each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolConflict {
    /// Their subnets overlap without being the same.
    #[error("the subnets {0} and {1} overlap without being the same")]
    Subnets(IpNetwork, IpNetwork),
    /// They hold the same addresses.
    #[error("both hold the addresses {0}-{1}; those of a pool are 'spec.ips' without 'spec.excludeIPs'")]
    Addresses(IpAddr, IpAddr),
}

impl SpiderIPPoolSpec {
    /// The checked form.
    ///
    /// # Errors
    /// The first field that breaks a rule, such as `spec.ips[1]`, and the rule.
    pub fn ranges(&self) -> Result<PoolRanges, PoolError> {
        let subnet = self.checked_subnet()?;
        let version = IpVersion::of(subnet.ip());
        let gateway = self.checked_gateway(subnet)?;
        let ips = entries("spec.ips", &self.ips, subnet)?;
        let excluded = entries("spec.excludeIPs", &self.exclude_ips, subnet)?;
        if let Some(gateway) = gateway {
            let holds = |&(start, end): &Range| (start..=end).contains(&gateway);
            if let Some(index) = ips.iter().position(holds).filter(|_| !excluded.iter().any(holds)) {
                return Err(PoolError::new(format!("spec.ips[{index}]"), PoolFault::GatewayInside(gateway)));
            }
        }
        let routes = checked_routes(self.routes.as_deref().unwrap_or_default(), subnet)?;
        Ok(PoolRanges { version, subnet, gateway, ips: ranges::merge(ips), excluded: ranges::merge(excluded), routes })
    }

    fn checked_subnet(&self) -> Result<IpNetwork, PoolError> {
        let error = |fault| PoolError::new("spec.subnet", fault);
        let subnet = parse_network(&self.subnet).map_err(|fault| error(fault.into()))?;
        if let Some(version) = self.ip_version.filter(|version| *version != IpVersion::of(subnet.ip())) {
            return Err(error(PoolFault::Family { version, subnet }));
        }
        let formatted = canonical(subnet);
        if subnet == formatted { Ok(subnet) } else { Err(error(PoolFault::HostBits(subnet, formatted))) }
    }

    fn checked_gateway(&self, subnet: IpNetwork) -> Result<Option<IpAddr>, PoolError> {
        // An empty text is what a form or a chart leaves behind when there is no gateway.
        let Some(text) = self.gateway.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        neighbour("spec.gateway", text, subnet).map(Some)
    }
}

/// An address of the subnet.
fn neighbour(field: &str, text: &str, subnet: IpNetwork) -> Result<IpAddr, PoolError> {
    let address = parse_address(text).map_err(|fault| PoolError::new(field, fault))?;
    if subnet.contains(address) {
        Ok(address)
    } else {
        Err(PoolError::new(field, PoolFault::Outside(address.to_string(), subnet)))
    }
}

/// The entries of a list in their order.
fn entries(field: &str, texts: &[String], subnet: IpNetwork) -> Result<Vec<Range>, PoolError> {
    let entry = |(index, text): (usize, &String)| {
        let error = |fault| PoolError::new(format!("{field}[{index}]"), fault);
        let range = parse_range(text, IpVersion::of(subnet.ip())).map_err(|fault| error(fault.into()))?;
        if ranges::is_inside(range, subnet) {
            Ok(range)
        } else {
            Err(error(PoolFault::Outside(text.chars().take(80).collect(), subnet)))
        }
    };
    texts.iter().enumerate().map(entry).collect()
}

fn checked_routes(routes: &[Route], subnet: IpNetwork) -> Result<Vec<(IpNetwork, IpAddr)>, PoolError> {
    let mut seen = BTreeSet::new();
    let mut checked = Vec::with_capacity(routes.len());
    for (index, route) in routes.iter().enumerate() {
        let error = |fault| PoolError::new(format!("spec.routes[{index}].dst"), fault);
        let dst = parse_network(&route.dst).map(canonical).map_err(|fault| error(fault.into()))?;
        if IpVersion::of(dst.ip()) != IpVersion::of(subnet.ip()) {
            return Err(error(AddressError::Family(dst.ip(), IpVersion::of(subnet.ip())).into()));
        }
        if dst.prefix() == 0 {
            return Err(error(PoolFault::DefaultRoute));
        }
        if !seen.insert(dst) {
            return Err(error(PoolFault::DuplicateRoute(dst)));
        }
        checked.push((dst, neighbour(&format!("spec.routes[{index}].gw"), &route.gw, subnet)?));
    }
    Ok(checked)
}

impl PoolRanges {
    /// What the pool may give: `ips` without `excluded`, ascending and disjoint.
    pub fn usable(&self) -> Vec<Range> {
        ranges::subtract(&self.ips, &self.excluded)
    }

    /// `status.totalIPCount`.
    pub fn total(&self) -> i64 {
        ranges::count(&self.usable())
    }

    /// Why both pools cannot stand beside each other, if so.
    pub fn conflict_with(&self, other: &Self) -> Option<PoolConflict> {
        if self.version != other.version {
            return None;
        }
        if self.subnet != other.subnet {
            // Of two networks that overlap, one holds the other's first address.
            let overlap = self.subnet.contains(other.subnet.ip()) || other.subnet.contains(self.subnet.ip());
            return overlap.then_some(PoolConflict::Subnets(self.subnet, other.subnet));
        }
        ranges::first_shared(&self.usable(), &other.usable()).map(|(start, end)| PoolConflict::Addresses(start, end))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn pool(yaml: &str) -> SpiderIPPoolSpec {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const SEED: &str =
        "{disable: false, gateway: 10.6.0.1, ipVersion: 4, ips: [10.6.212.200-10.6.212.240], subnet: 10.6.0.0/16}";

    #[test]
    fn the_seeds_pool_holds_41_addresses() {
        let ranges = pool(SEED).ranges().unwrap();
        assert_eq!(ranges.total(), 41);
        assert_eq!(ranges.usable(), [(address("10.6.212.200"), address("10.6.212.240"))]);
        assert_eq!(ranges.gateway, Some(address("10.6.0.1")));
        assert_eq!(ranges.subnet.to_string(), "10.6.0.0/16");
    }

    #[test]
    fn entries_are_put_in_order_and_joined() {
        let ranges = pool(
            "{subnet: 10.0.0.0/24, ips: [10.0.0.20, 10.0.0.1-10.0.0.9, 10.0.0.10, 10.0.0.5-10.0.0.8], excludeIPs: [10.0.0.3], \
             routes: [{dst: 10.1.2.3/16, gw: 10.0.0.254}]}",
        )
        .ranges()
        .unwrap();
        let pair = |start, end| (address(start), address(end));
        assert_eq!(ranges.ips, [pair("10.0.0.1", "10.0.0.10"), pair("10.0.0.20", "10.0.0.20")]);
        assert_eq!(
            ranges.usable(),
            [pair("10.0.0.1", "10.0.0.2"), pair("10.0.0.4", "10.0.0.10"), pair("10.0.0.20", "10.0.0.20")]
        );
        assert_eq!(ranges.total(), 10);
        assert_eq!(ranges.routes, [("10.1.0.0/16".parse().unwrap(), address("10.0.0.254"))]);
    }

    #[test]
    fn every_rule_names_its_field() {
        for (spec, field, text) in [
            ("{subnet: x}", "spec.subnet", "is not a CIDR"),
            ("{subnet: 10.0.0.0}", "spec.subnet", "is not a CIDR"),
            ("{subnet: 10.0.0.1/24}", "spec.subnet", "unformatted subnet 10.0.0.1/24, please change it to 10.0.0.0/24"),
            ("{subnet: fd00::/64, ipVersion: 4}", "spec.subnet", "invalid CIDR format in IPv4"),
            ("{subnet: 10.0.0.0/24, ips: [10.0.0.1, 10.0.1.1]}", "spec.ips[1]", "not pertains to"),
            ("{subnet: 10.0.0.0/24, ips: [10.0.0.1-10.0.1.1]}", "spec.ips[0]", "not pertains to"),
            ("{subnet: 10.0.0.0/24, ips: [10.0.0.9-10.0.0.1]}", "spec.ips[0]", "write 10.0.0.1-10.0.0.9"),
            ("{subnet: 10.0.0.0/24, ips: ['fd00::1']}", "spec.ips[0]", "fd00::1 is not IPv4"),
            ("{subnet: 10.0.0.0/24, ips: [10.0.0.0/25]}", "spec.ips[0]", "neither an IP address nor a range"),
            (
                "{subnet: 10.0.0.0/24, excludeIPs: [10.0.0.1, x]}",
                "spec.excludeIPs[1]",
                "neither an IP address nor a range",
            ),
            (
                "{subnet: 10.0.0.0/24, gateway: 10.0.1.1}",
                "spec.gateway",
                "10.0.1.1 not pertains to the 'spec.subnet' 10.0.0.0/24",
            ),
            ("{subnet: 10.0.0.0/24, gateway: 'fd00::1'}", "spec.gateway", "not pertains to"),
            ("{subnet: 10.0.0.0/24, gateway: x}", "spec.gateway", "is not an IP address"),
            (
                "{subnet: 10.0.0.0/24, gateway: 10.0.0.1, ips: [10.0.0.9, 10.0.0.1-10.0.0.3]}",
                "spec.ips[1]",
                "conflicts with 'spec.gateway' 10.0.0.1",
            ),
            (
                "{subnet: 10.0.0.0/24, routes: [{dst: 0.0.0.0/0, gw: 10.0.0.1}]}",
                "spec.routes[0].dst",
                "specify 'spec.gateway'",
            ),
            ("{subnet: 10.0.0.0/24, routes: [{dst: 'fd00::/8', gw: 10.0.0.1}]}", "spec.routes[0].dst", "is not IPv4"),
            (
                "{subnet: 10.0.0.0/24, routes: [{dst: 10.1.0.0/16, gw: 10.1.0.1}]}",
                "spec.routes[0].gw",
                "not pertains to",
            ),
            (
                "{subnet: 10.0.0.0/24, routes: [{dst: 10.1.0.0/16, gw: 10.0.0.1}, {dst: 10.1.0.1/16, gw: 10.0.0.2}]}",
                "spec.routes[1].dst",
                "duplicate route",
            ),
        ] {
            let error = pool(spec).ranges().unwrap_err();
            assert_eq!(error.field, field, "{spec}: {error}");
            assert!(error.to_string().contains(text), "{spec}: {error}");
        }
    }

    #[test]
    fn an_excluded_gateway_does_not_conflict() {
        let ranges =
            pool("{subnet: 10.0.0.0/24, gateway: 10.0.0.1, ips: [10.0.0.1-10.0.0.3], excludeIPs: [10.0.0.1]}").ranges();
        assert_eq!(ranges.unwrap().total(), 2);
    }

    #[test]
    fn pools_conflict_by_subnet_or_by_address() {
        let ranges = |text: &str| pool(text).ranges().unwrap();
        let one = ranges("{subnet: 10.0.0.0/24, ips: [10.0.0.1-10.0.0.9], excludeIPs: [10.0.0.5]}");
        assert_eq!(one.conflict_with(&ranges("{subnet: 10.0.1.0/24, ips: [10.0.1.1]}")), None);
        assert_eq!(one.conflict_with(&ranges("{subnet: 'fd00::/64'}")), None);
        assert_eq!(one.conflict_with(&ranges("{subnet: 10.0.0.0/24, ips: [10.0.0.5, 10.0.0.10]}")), None);
        let wide = ranges("{subnet: 10.0.0.0/16}");
        assert_eq!(one.conflict_with(&wide), Some(PoolConflict::Subnets(one.subnet, wide.subnet)));
        assert_eq!(
            one.conflict_with(&ranges("{subnet: 10.0.0.0/24, ips: [10.0.0.4-10.0.0.6]}")),
            Some(PoolConflict::Addresses(address("10.0.0.4"), address("10.0.0.4")))
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(subnet in ".*|[0-9a-f.:/]{0,24}", entry in ".*|[0-9a-f.:-]{0,40}", gateway in ".*", dst in ".*") {
            for subnet in [subnet, "10.0.0.0/8".into(), "::/0".into(), "0.0.0.0/0".into()] {
                let spec = SpiderIPPoolSpec {
                    subnet,
                    ips: vec![entry.clone()],
                    exclude_ips: vec![entry.clone()],
                    gateway: Some(gateway.clone()),
                    routes: Some(vec![Route { dst: dst.clone(), gw: gateway.clone() }]),
                    ..SpiderIPPoolSpec::default()
                };
                let _ = spec.ranges().map(|ranges| ranges.total());
            }
        }

        #[test]
        fn what_is_accepted_lies_in_the_subnet(
            prefix in 0_u8..=32,
            base: u32,
            pairs in prop::collection::vec((any::<bool>(), any::<u32>(), 0_u32..300), 0..4),
        ) {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let subnet = canonical(IpNetwork::new(Ipv4Addr::from(base).into(), prefix).unwrap());
            // Some starts are moved into the subnet, so that both outcomes are seen.
            let text = |&(moved, start, length): &(bool, u32, u32)| {
                let start = if moved { base & !hosts | start & hosts } else { start };
                format!("{}-{}", Ipv4Addr::from(start), Ipv4Addr::from(start.saturating_add(length)))
            };
            let ips: Vec<String> = pairs.iter().map(text).collect();
            let spec = SpiderIPPoolSpec { subnet: subnet.to_string(), ips, ..SpiderIPPoolSpec::default() };
            let fits = |&(moved, start, length): &(bool, u32, u32)| {
                let start = if moved { base & !hosts | start & hosts } else { start };
                start & !hosts == base & !hosts && start.saturating_add(length) & !hosts == base & !hosts
            };
            let ranges = spec.ranges();
            prop_assert_eq!(ranges.is_ok(), pairs.iter().all(fits));
            if let Ok(ranges) = ranges {
                prop_assert!(ranges.ips.iter().all(|range| ranges::is_inside(*range, ranges.subnet)));
                prop_assert!(ranges.ips.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
        }
    }
}
