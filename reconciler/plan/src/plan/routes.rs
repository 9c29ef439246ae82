//! Routes and neighbours as a plan wants them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::intent::{Attachment, Baseline, RouteIntent};
use schemas::name::Mac;

use super::family::Family;
use crate::desired::RoutePattern;
use crate::object::{Neighbour, Route, RouteKind, Scope};
use crate::tables::{KERNEL_METRIC, MAIN, PROTOCOL, USER_METRIC};

/// The default CNI's routes, for one table.
pub(super) fn baseline_routes(baseline: &Baseline, table: u32, family: Family) -> Vec<Route> {
    baseline
        .routes
        .iter()
        .filter(|route| family.has_network(route.dst))
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
pub(super) fn attachment_routes(attachment: &Attachment, table: u32, family: Family) -> Vec<Route> {
    let dev = attachment.key.ifname.as_str();
    let addresses = attachment.addresses.iter().filter(|assigned| family.has_network(assigned.address));
    let connected = addresses
        .clone()
        .filter(|assigned| subnet(assigned.address) != IpNetwork::from(assigned.address.ip()))
        .map(|assigned| connected(table, assigned.address, dev));
    let given = attachment.routes.iter().filter(|given| family.has_network(given.dst)).map(|given| {
        let own_gateway = || addresses.clone().find_map(|assigned| assigned.gateway);
        route(table, given.dst, given.gateway.or_else(own_gateway), dev)
    });
    let mut routes: Vec<Route> = connected.collect();
    for route in given {
        if !routes.iter().any(|known| known.dst == route.dst) {
            routes.push(route);
        }
    }
    if table != MAIN {
        // In main the kernel has them by itself, for as long as the network says.
        for route in learned_routes(attachment, table, family) {
            if !routes.iter().any(|known| known.dst == route.dst) {
                routes.push(route);
            }
        }
    }
    routes
}

/// What the network's routers tell the link, for a table of its own.
fn learned_routes(attachment: &Attachment, table: u32, family: Family) -> impl Iterator<Item = Route> + '_ {
    let dev = attachment.key.ifname.as_str();
    let learned = Some(&attachment.learned).filter(|_| family == Family::V6).into_iter();
    let subnets = learned.clone().flat_map(|learned| &learned.addresses);
    let subnets = subnets.filter(|address| subnet(**address) != IpNetwork::from(address.ip()));
    let default = learned.filter_map(|learned| learned.gateway);
    let default = default.map(move |gateway| route(table, family.everything(), Some(gateway), dev));
    subnets.map(move |address| route(table, *address, None, dev)).chain(default)
}

/// Whether it has a default route of that family, whoever gives it.
pub(super) fn has_default(attachment: &Attachment, family: Family) -> bool {
    given_default(attachment, family) || (family == Family::V6 && attachment.learned.gateway.is_some())
}

/// Whether IPAM gives it one.
pub(super) fn given_default(attachment: &Attachment, family: Family) -> bool {
    attachment_routes(attachment, MAIN, family).iter().any(Route::is_default)
}

/// The further routes of an attachment whose gateways it reaches (../spec/coordinator.md 9): those of the cluster are for
/// whichever NICs have them in a subnet.
pub(super) fn policy_routes(attachment: &Attachment, wanted: &[RouteIntent], table: u32, family: Family) -> Vec<Route> {
    let dev = attachment.key.ifname.as_str();
    let is_reached = |gateway: IpAddr| attachment.addresses.iter().any(|own| own.address.contains(gateway));
    let own = wanted.iter().filter(|route| family.has_network(route.dst) && route.gateway.is_some_and(is_reached));
    own.map(|intent| route(table, intent.dst, intent.gateway, dev)).collect()
}

/// An address's own subnet; in main as the kernel makes it.
fn connected(table: u32, address: IpNetwork, dev: &str) -> Route {
    let made = route(table, address, None, dev);
    match address {
        IpNetwork::V4(address) => Route { src: Some(address.ip().into()), ..made },
        IpNetwork::V6(_) if table == MAIN => Route { metric: KERNEL_METRIC, ..made },
        IpNetwork::V6(_) => made,
    }
}

/// What is to be absent in main, because it stands in another table.
pub(super) fn leaving_main(routes: &[Route]) -> impl Iterator<Item = RoutePattern> + '_ {
    routes
        .iter()
        .filter_map(|route| Some(RoutePattern { table: MAIN, dst: route.dst, dev: route.dev.clone()?, metric: None }))
}

/// A route of ours by one link. IPv6 knows no scopes of routes, and no metric but one that says so.
pub(super) fn route(table: u32, dst: IpNetwork, gateway: Option<IpAddr>, dev: &str) -> Route {
    let is_link = gateway.is_none() && dst.is_ipv4();
    Route {
        table,
        dst: subnet(dst),
        metric: if dst.is_ipv4() { 0 } else { USER_METRIC },
        dev: Some(dev.to_owned()),
        gateway,
        src: None,
        scope: if is_link { Scope::LINK } else { Scope::GLOBAL },
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
