//! Routes and neighbours as a plan wants them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::intent::{Attachment, Baseline};
use schemas::name::Mac;

use crate::desired::RoutePattern;
use crate::object::{Neighbour, Route, RouteKind, Scope};
use crate::tables::{MAIN, PROTOCOL};

/// The default CNI's routes, for one table.
pub(super) fn baseline_routes(baseline: &Baseline, table: u32) -> Vec<Route> {
    baseline
        .routes
        .iter()
        .filter(|route| route.dst.is_ipv4())
        .map(|found| Route {
            table,
            dst: found.dst,
            metric: found.metric,
            dev: Some(baseline.nic.to_string()),
            gateway: found.gateway,
            src: found.src,
            scope: Scope(found.scope),
            onlink: found.onlink,
            kind: RouteKind::Unicast,
            protocol: if table == MAIN { found.protocol } else { PROTOCOL },
        })
        .collect()
}

/// An attachment's own routes: its connected subnets, then those that IPAM gave.
pub(super) fn attachment_routes(attachment: &Attachment, table: u32) -> Vec<Route> {
    let dev = attachment.key.ifname.as_str();
    let addresses = attachment.addresses.iter().filter(|assigned| assigned.address.is_ipv4());
    let connected = addresses
        .clone()
        .filter(|assigned| assigned.address.prefix() < 32)
        .map(|assigned| Route { src: Some(assigned.address.ip()), ..route(table, assigned.address, None, dev) });
    let given = attachment.routes.iter().filter(|given| given.dst.is_ipv4()).map(|given| {
        let own_gateway = || addresses.clone().find_map(|assigned| assigned.gateway);
        route(table, given.dst, given.gateway.or_else(own_gateway), dev)
    });
    let mut routes: Vec<Route> = connected.collect();
    for route in given {
        if !routes.iter().any(|known| known.key() == route.key()) {
            routes.push(route);
        }
    }
    routes
}

/// What is to be absent in main, because it stands in another table.
pub(super) fn leaving_main(routes: &[Route]) -> impl Iterator<Item = RoutePattern> + '_ {
    routes.iter().filter_map(|route| Some(RoutePattern { table: MAIN, dst: route.dst, dev: route.dev.clone()? }))
}

/// A route of ours by one link.
pub(super) fn route(table: u32, dst: IpNetwork, gateway: Option<IpAddr>, dev: &str) -> Route {
    Route {
        table,
        dst: subnet(dst),
        metric: 0,
        dev: Some(dev.to_owned()),
        gateway,
        src: None,
        scope: if gateway.is_some() { Scope::GLOBAL } else { Scope::LINK },
        onlink: false,
        kind: RouteKind::Unicast,
        protocol: PROTOCOL,
    }
}

/// Without host bits: the kernel refuses a destination that has them.
pub(super) fn subnet(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

/// A neighbour of ours.
pub(super) fn permanent(dev: &str, address: IpAddr, mac: Mac) -> Neighbour {
    Neighbour { dev: dev.to_owned(), address, mac: Some(mac), permanent: true, protocol: PROTOCOL }
}
