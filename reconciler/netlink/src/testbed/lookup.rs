//! The kernel's own lookup (`ip route get`), for comparison.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Scene;
use crate::attributes::{Malformed, ip_of, split, u16_at, u32_of};
use crate::exchange::ExchangeError;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

/// What the kernel answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelRoute {
    /// `RTN_*`.
    pub kind: u8,
    /// The index of the outgoing link.
    pub oif: Option<u32>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The source, where the packet had none.
    pub source: Option<IpAddr>,
    /// The table.
    pub table: u32,
}

impl Scene {
    /// Asks where a packet would go: one made here, or one that arrives by the link of index `iif`.
    ///
    /// # Errors
    /// When the kernel has no way for it, with its error number.
    pub fn lookup(&mut self, to: IpAddr, from: Option<IpAddr>, iif: Option<u32>) -> Result<KernelRoute, ExchangeError> {
        let mut message = RouteMessage::default();
        let bits = if to.is_ipv4() { 32 } else { 128 };
        message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = bits;
        if to.is_ipv4() {
            message.header.flags = RouteFlags::LookupTable;
        }
        message.attributes.push(RouteAttribute::Destination(to.into()));
        if let Some(from) = from {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(from.into()));
        }
        message.attributes.extend(iif.map(RouteAttribute::Iif));
        let payload = self.exchange.ask(RouteNetlinkMessage::GetRoute(message))?;
        Ok(parse(&payload)?)
    }
}

fn parse(payload: &[u8]) -> Result<KernelRoute, Malformed> {
    let (header, attributes) = split::<12>(payload)?;
    let mut route = KernelRoute { kind: header[7], table: u32::from(header[4]), ..KernelRoute::default() };
    for attribute in attributes {
        match attribute? {
            (RTA_OIF, value) => route.oif = Some(u32_of(value)?),
            (RTA_GATEWAY, value) => route.gateway = Some(ip_of(value)?),
            (RTA_VIA, value) if u16_at(value, 0) != 0 => {
                route.gateway = value.get(2..).map(ip_of).transpose()?;
            }
            (RTA_PREFSRC, value) => route.source = Some(ip_of(value)?),
            (RTA_TABLE, value) => route.table = u32_of(value)?,
            _ => {}
        }
    }
    Ok(route)
}
