//! Routes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::object::{Route, RouteKind, Scope};
use plan::step::Placement;

use crate::attributes::{Malformed, V4, V6, any_of, ip_of, split, u16_at, u32_at, u32_of};
use crate::exchange::Request;
use crate::observe::LinkNames;

const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;

const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;
const RT_TABLE_COMPAT: u8 = 252;

/// The kernel's table of local addresses: never of interest, and as large as the rest.
pub(crate) const TABLE_LOCAL: u32 = 255;

/// Which routes to ask for; a field that is None takes all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) family: u8,
    pub(crate) table: Option<u32>,
    pub(crate) protocol: Option<u8>,
}

/// Asks for routes. Kernels without strict checking give more than was asked; see [`Filter::takes`].
pub(crate) fn dump(filter: Filter) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = filter.family.into();
    message.header.protocol = filter.protocol.unwrap_or(0).into();
    if let Some(table) = filter.table {
        message.attributes.push(RouteAttribute::Table(table));
    }
    RouteNetlinkMessage::GetRoute(message)
}

impl Filter {
    /// Whether the route is one that was asked for.
    pub(crate) fn takes(self, route: &Route) -> bool {
        route.dst.is_ipv6() == (self.family == V6)
            && self.table.is_none_or(|table| table == route.table)
            && self.protocol.is_none_or(|protocol| protocol == route.protocol)
    }
}

/// Reads a route's message: none for other families, cached routes and table local; several where the kernel shows IPv6
/// routes of one destination and metric as one, though each is added and deleted by itself.
pub(crate) fn parse(payload: &[u8], names: &LinkNames) -> Result<Vec<Route>, Malformed> {
    let (header, attributes) = split::<12>(payload)?;
    let [family, prefix, _, tos, table, protocol, scope, kind, ..] = *header;
    let flags = u32_at(header, 8);
    if (family != V4 && family != V6) || flags & RTM_F_CLONED != 0 {
        return Ok(Vec::new());
    }
    let mut dst = any_of(family);
    let mut route = Route {
        table: u32::from(table),
        dst: IpNetwork::from(dst),
        metric: 0,
        dev: None,
        gateway: None,
        src: None,
        scope: Scope(scope),
        onlink: flags & RTNH_F_ONLINK != 0,
        kind: if kind == RTN_UNICAST { RouteKind::Unicast } else { RouteKind::Other(kind) },
        protocol,
    };
    // A route for one TOS, source or tunnel only is another thing than a plain one.
    let mut special = tos != 0;
    let mut hops = Vec::new();
    for attribute in attributes {
        match attribute? {
            (RTA_DST, value) => dst = ip_of(value)?,
            (RTA_OIF, value) => route.dev = Some(names.name(u32_of(value)?)?),
            (RTA_GATEWAY, value) => route.gateway = Some(ip_of(value)?),
            (RTA_VIA, value) => route.gateway = Some(parse_via(value)?),
            (RTA_PRIORITY, value) => route.metric = u32_of(value)?,
            (RTA_PREFSRC, value) => route.src = Some(ip_of(value)?),
            (RTA_TABLE, value) => route.table = u32_of(value)?,
            (RTA_MULTIPATH, value) if family == V6 => hops = parse_hops(value, names)?,
            (RTA_MULTIPATH | RTA_NH_ID, _) => route.kind = RouteKind::Multipath,
            (RTA_SRC | RTA_ENCAP, _) => special = true,
            _ => {}
        }
    }
    route.dst = IpNetwork::new(dst, prefix).map_err(|_| Malformed::Bytes("a route with an impossible prefix"))?;
    match route.kind {
        RouteKind::Unicast if special => route.kind = RouteKind::Other(RTN_UNICAST),
        RouteKind::Unicast => {}
        RouteKind::Multipath => (route.dev, route.gateway) = (None, None),
        // IPv6 hangs a blackhole on lo.
        RouteKind::Other(6..=9) => route.dev = None,
        RouteKind::Other(_) => {}
    }
    if route.table == TABLE_LOCAL {
        return Ok(Vec::new());
    }
    if hops.is_empty() || route.kind != RouteKind::Unicast {
        return Ok(vec![route]);
    }
    let first = route.protocol;
    let legs = hops.into_iter().enumerate().map(|(place, Hop { dev, gateway, onlink })| {
        // Only the first one's maker is told; 0 stands for any.
        let protocol = if place == 0 { first } else { 0 };
        Route { dev: Some(dev), gateway, onlink, protocol, ..route.clone() }
    });
    Ok(legs.collect())
}

/// One of several next hops.
struct Hop {
    dev: String,
    gateway: Option<IpAddr>,
    onlink: bool,
}

/// Reads `RTA_MULTIPATH`: a `struct rtnexthop` (length, flags, weight, link) and attributes each.
fn parse_hops(mut rest: &[u8], names: &LinkNames) -> Result<Vec<Hop>, Malformed> {
    let mut hops = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0));
        let (hop, after) =
            rest.split_at_checked(length).ok_or(Malformed::Bytes("a next hop longer than its message"))?;
        let (header, attributes) = split::<8>(hop)?;
        let flags = u32::from(header[2]);
        let mut gateway = None;
        for attribute in attributes {
            if let (RTA_GATEWAY, value) = attribute? {
                gateway = Some(ip_of(value)?);
            }
        }
        hops.push(Hop { dev: names.name(u32_at(header, 4))?, gateway, onlink: flags & RTNH_F_ONLINK != 0 });
        let padding = length.next_multiple_of(4) - length;
        rest = after.get(padding..).unwrap_or_default();
    }
    Ok(hops)
}

fn parse_via(value: &[u8]) -> Result<IpAddr, Malformed> {
    let family = u16_at(value, 0);
    match value.get(2..) {
        Some(address) if family == u16::from(V4) || family == u16::from(V6) => ip_of(address),
        _ => Err(Malformed::Bytes("a next hop of an unknown family")),
    }
}

/// Adds a route. REPLACE is never used: it would take over a route of somebody else.
pub(crate) fn add(route: &Route, index: Option<u32>, placement: Placement) -> Request {
    let flags = match placement {
        Placement::Alone => NLM_F_CREATE | NLM_F_EXCL,
        Placement::Before => NLM_F_CREATE,
        Placement::After => NLM_F_CREATE | NLM_F_APPEND,
    };
    Request { message: RouteNetlinkMessage::NewRoute(message(route, index)), flags }
}

/// Deletes a route: of its protocol, table, destination, next hop and scope. A metric of 0 matches any to the kernel.
pub(crate) fn delete(route: &Route, index: Option<u32>) -> Request {
    Request { message: RouteNetlinkMessage::DelRoute(message(route, index)), flags: 0 }
}

fn message(route: &Route, index: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if route.dst.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.destination_prefix_length = route.dst.prefix();
    // Tables above 255 do not fit the header.
    message.header.table = u8::try_from(route.table).unwrap_or(RT_TABLE_COMPAT);
    message.header.protocol = route.protocol.into();
    message.header.scope = route.scope.0.into();
    message.header.kind = match route.kind {
        RouteKind::Unicast | RouteKind::Multipath => RouteType::Unicast,
        RouteKind::Other(kind) => kind.into(),
    };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.dst.prefix() > 0 {
        attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    }
    if let Some(index) = index {
        attributes.push(RouteAttribute::Oif(index));
    }
    match (route.gateway, route.dst) {
        (Some(IpAddr::V6(gateway)), IpNetwork::V4(_)) => attributes.push(RouteAttribute::Via(RouteVia::Inet6(gateway))),
        (Some(gateway), _) => attributes.push(RouteAttribute::Gateway(gateway.into())),
        (None, _) => {}
    }
    if let Some(src) = route.src {
        attributes.push(RouteAttribute::PrefSource(src.into()));
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}
