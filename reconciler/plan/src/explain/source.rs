//! Which source a packet gets that has none yet.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::local::primary;
use crate::object::{Address, Observed, Route, RouteKind, Scope};

/// The source by that route, and why; None when the pod has none.
pub(super) fn choose(seen: &Observed, route: &Route, to: IpAddr) -> (Option<IpAddr>, String) {
    if let Some(src) = route.src {
        return (Some(src), "the route's preferred source".into());
    }
    match to {
        IpAddr::V4(to) if route.kind == RouteKind::Other(2) => (Some(to.into()), "the destination itself".into()),
        IpAddr::V4(_) => v4(seen, route),
        IpAddr::V6(to) => v6(seen, route.dev.as_deref(), to),
    }
}

/// `inet_select_addr`: the first primary address of the link whose subnet has the gateway, else the first of it whose
/// scope is wide enough for the route, else the first of another link.
fn v4(seen: &Observed, route: &Route) -> (Option<IpAddr>, String) {
    let Some(dev) = route.dev.as_deref() else { return (None, "the route has no link".into()) };
    let all = || primaries(seen).filter(|(address, _)| address.scope.min(Scope::HOST) <= route.scope);
    let mut own = all().filter(|(address, _)| address.dev == dev);
    let first = own.clone().next();
    match route.gateway {
        Some(IpAddr::V4(gateway)) => {
            if let Some((_, ip)) = own.find(|(address, _)| address.address.contains(gateway.into())) {
                return (Some(ip.into()), format!("{dev}'s address in the subnet of the next hop {gateway}"));
            }
        }
        Some(IpAddr::V6(_)) | None => {}
    }
    if let Some((_, ip)) = first {
        return (Some(ip.into()), format!("{dev}'s first address"));
    }
    let order = |dev: &str| seen.links.iter().position(|link| link.name == dev).unwrap_or(usize::MAX);
    let elsewhere = all().filter(|(address, _)| address.scope != Scope::LINK);
    match elsewhere.min_by_key(|(address, _)| order(&address.dev)) {
        Some((address, ip)) => {
            (Some(ip.into()), format!("{dev} has no address that fits: the first of {}", address.dev))
        }
        None => (None, format!("{dev} has no IPv4 address, and no other NIC has")),
    }
}

fn primaries(seen: &Observed) -> impl Iterator<Item = (&Address, Ipv4Addr)> + Clone + '_ {
    seen.addresses.iter().enumerate().filter_map(|(place, address)| match address.address {
        IpNetwork::V4(network) if primary(&seen.addresses[..place], address).is_none() => Some((address, network.ip())),
        _ => None,
    })
}

/// RFC 6724 as the kernel has it: without home, temporary and deprecated addresses, which an observation does not tell.
fn v6(seen: &Observed, dev: Option<&str>, to: Ipv6Addr) -> (Option<IpAddr>, String) {
    let only_here = scope(to) <= LINK;
    let mut best: Option<(&Address, Ipv6Addr)> = None;
    // The kernel asks link by link; of one link, in the order of its addresses.
    for link in &seen.links {
        for address in seen.addresses.iter().filter(|address| address.dev == link.name) {
            let IpNetwork::V6(network) = address.address else { continue };
            if only_here && dev.is_some_and(|dev| dev != address.dev) {
                continue;
            }
            let is_better = best
                .is_none_or(|(known, ip)| compare((address, network.ip()), (known, ip), dev, to) == Ordering::Greater);
            if is_better {
                best = Some((address, network.ip()));
            }
        }
    }
    match best {
        Some((_, ip)) if ip == to => (Some(ip.into()), "the destination itself".into()),
        Some((address, ip)) => (Some(ip.into()), format!("{}'s address that RFC 6724 prefers for {to}", address.dev)),
        None => (None, "the pod has no IPv6 address".into()),
    }
}

const LINK: u8 = 2;

fn compare(one: (&Address, Ipv6Addr), other: (&Address, Ipv6Addr), dev: Option<&str>, to: Ipv6Addr) -> Ordering {
    let rank = |(address, ip): (&Address, Ipv6Addr)| {
        let scopes = {
            let (own, wanted) = (i16::from(scope(ip)), i16::from(scope(to)));
            if own >= wanted { -own } else { own - 128 }
        };
        (
            ip == to,
            scopes,
            dev.is_none_or(|dev| dev == address.dev),
            label(ip) == label(to),
            is_orchid(ip) == is_orchid(to),
            common_bits(ip, to).min(address.address.prefix()),
        )
    };
    rank(one).cmp(&rank(other))
}

fn common_bits(one: Ipv6Addr, other: Ipv6Addr) -> u8 {
    u8::try_from((one.to_bits() ^ other.to_bits()).leading_zeros()).unwrap_or(u8::MAX)
}

/// The kernel's numbers: 2 link (loopback too), 5 site, 14 global.
fn scope(ip: Ipv6Addr) -> u8 {
    if ip.is_unicast_link_local() || ip.is_loopback() {
        LINK
    } else if ip.segments()[0] & 0xffc0 == 0xfec0 {
        5
    } else {
        14
    }
}

/// 2001:10::/28.
fn is_orchid(ip: Ipv6Addr) -> bool {
    ip.to_bits() >> 100 == Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0).to_bits() >> 100
}

/// The kernel's default labels.
fn label(ip: Ipv6Addr) -> u8 {
    let bits = ip.to_bits();
    let begins = |network: Ipv6Addr, prefix: u32| (bits ^ network.to_bits()).leading_zeros() >= prefix;
    let of = |first, second| Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0);
    if ip.is_loopback() {
        0
    } else if begins(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96) {
        4
    } else if begins(Ipv6Addr::UNSPECIFIED, 96) {
        3
    } else if begins(of(0x2001, 0), 32) {
        6
    } else if begins(of(0x2001, 0x10), 28) {
        7
    } else if begins(of(0x3ffe, 0), 16) {
        12
    } else if begins(of(0x2002, 0), 16) {
        2
    } else if begins(of(0xfec0, 0), 10) {
        11
    } else if begins(of(0xfc00, 0), 7) {
        5
    } else {
        1
    }
}
