//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::object::{Address, Scope};

use crate::attributes::{Malformed, V4, V6, ip_of, split, u8_of, u32_at};
use crate::exchange::Request;
use crate::observe::LinkNames;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_PROTO: u16 = 11;

/// Asks for all addresses of both families.
pub(crate) fn dump() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// Reads an address's message; None for other families.
pub(crate) fn parse(payload: &[u8], names: &LinkNames) -> Result<Option<Address>, Malformed> {
    let (header, attributes) = split::<8>(payload)?;
    let [family, prefix, _, scope, ..] = *header;
    if family != V4 && family != V6 {
        return Ok(None);
    }
    let (mut address, mut local, mut protocol) = (None, None, 0);
    for attribute in attributes {
        match attribute? {
            (IFA_ADDRESS, value) => address = Some(ip_of(value)?),
            (IFA_LOCAL, value) => local = Some(ip_of(value)?),
            (IFA_PROTO, value) => protocol = u8_of(value)?,
            _ => {}
        }
    }
    // On a link with a peer IFA_ADDRESS is the peer's.
    let ip = local.or(address).ok_or(Malformed::Bytes("an address message without an address"))?;
    let address = IpNetwork::new(ip, prefix).map_err(|_| Malformed::Bytes("an address with an impossible prefix"))?;
    Ok(Some(Address { dev: names.name(u32_at(header, 4))?, address, scope: Scope(scope), protocol }))
}

/// Adds an address, with the broadcast address that the reference plugins give (the last of the subnet, above /31).
pub(crate) fn add(address: &Address, index: u32) -> Request {
    let mut message = message(address, index);
    if let IpNetwork::V4(network) = address.address
        && network.prefix() < 31
    {
        let host_bits = u32::MAX.checked_shr(u32::from(network.prefix())).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(network.ip().to_bits() | host_bits);
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    if address.address.is_ipv6() {
        // The kernel's own look for duplicates would keep it from use, and ADD waiting, for a second or more. Without it a
        // duplicate is not noticed here, as one of IPv4 is not.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(address.protocol)));
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Deletes an address.
pub(crate) fn delete(address: &Address, index: u32) -> Request {
    Request { message: RouteNetlinkMessage::DelAddress(message(address, index)), flags: 0 }
}

fn message(address: &Address, index: u32) -> AddressMessage {
    let ip = address.address.ip();
    let mut message = AddressMessage::default();
    message.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.address.prefix();
    message.header.scope = address.scope.0.into();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    message
}
