//! Table local, which an observation leaves out: the kernel makes it from the addresses.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::object::{Address, Observed, Route, RouteKind, Scope};

/// The kernel's table of local addresses.
pub(super) const LOCAL: u32 = 255;
/// `RTN_LOCAL`.
pub(super) const TO_US: RouteKind = RouteKind::Other(2);
/// `RTN_BROADCAST`.
pub(super) const TO_ALL: RouteKind = RouteKind::Other(3);
/// `RTPROT_KERNEL`.
const KERNEL: u8 = 2;

/// The routes of table local, in the order of the addresses.
pub(super) fn routes(seen: &Observed) -> Vec<Route> {
    let mut routes = Vec::new();
    for (place, address) in seen.addresses.iter().enumerate() {
        let link = seen.link(&address.dev);
        let is_up = link.is_some_and(|link| link.up);
        match address.address {
            IpNetwork::V4(network) => {
                v4(&mut routes, address, network, primary(&seen.addresses[..place], address), is_up);
            }
            IpNetwork::V6(network) => routes.push(local(address, IpNetwork::from(IpAddr::V6(network.ip())))),
        }
    }
    routes
}

/// The first address of the same subnet on the same link: the later ones are secondary to it.
pub(super) fn primary<'a>(earlier: &'a [Address], address: &'a Address) -> Option<&'a Address> {
    let is_same = |it: &&Address| {
        it.dev == address.dev
            && it.address.is_ipv4()
            && it.address.prefix() == address.address.prefix()
            && it.address.network() == address.address.network()
    };
    earlier.iter().find(is_same)
}

fn v4(routes: &mut Vec<Route>, address: &Address, network: Ipv4Network, primary: Option<&Address>, is_up: bool) {
    let source = primary.unwrap_or(address).address.ip();
    let host = IpNetwork::from(IpAddr::V4(network.ip()));
    routes.push(Route { src: Some(source), ..local(address, host) });
    if !is_up || network.prefix() >= 32 {
        return;
    }
    if address.dev == "lo" && primary.is_none() {
        let all = IpNetwork::V4(Ipv4Network::new(network.network(), network.prefix()).unwrap_or(network));
        routes.push(Route { src: Some(source), ..local(address, all) });
    }
    if network.prefix() < 31 {
        let last = IpNetwork::from(IpAddr::V4(network.broadcast()));
        let broadcast = Route { src: Some(source), kind: TO_ALL, scope: Scope::LINK, ..local(address, last) };
        if !routes.contains(&broadcast) {
            routes.push(broadcast);
        }
    }
}

fn local(address: &Address, dst: IpNetwork) -> Route {
    Route {
        table: LOCAL,
        dst,
        metric: 0,
        dev: Some(address.dev.clone()),
        gateway: None,
        src: None,
        scope: if dst.is_ipv4() { Scope::HOST } else { Scope::GLOBAL },
        onlink: false,
        kind: TO_US,
        protocol: KERNEL,
    }
}
