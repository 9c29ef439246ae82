//! Neighbour entries.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::object::Neighbour;
use plan::tables::PROTOCOL;
use schemas::name::Mac;

use crate::attributes::{Attributes, Malformed, V4, V6, ip_of, split, u8_of, u16_at, u32_at};
use crate::exchange::Request;
use crate::observe::LinkNames;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;
const NUD_PERMANENT: u16 = 0x80;

/// Asks for all entries of both families.
pub(crate) fn dump() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())
}

/// Whether the entry of a message is of interest: permanent, or marked as ours. All others come and go with traffic.
pub(crate) fn is_lasting(payload: &[u8]) -> Result<bool, Malformed> {
    let (header, attributes) = split::<12>(payload)?;
    Ok((header[0] == V4 || header[0] == V6) && (is_permanent(header) || protocol(attributes)? == PROTOCOL))
}

fn is_permanent(header: &[u8; 12]) -> bool {
    u16_at(header, 8) & NUD_PERMANENT != 0
}

fn protocol(attributes: Attributes<'_>) -> Result<u8, Malformed> {
    for attribute in attributes {
        if let (NDA_PROTOCOL, value) = attribute? {
            return u8_of(value);
        }
    }
    Ok(0)
}

/// Reads an entry's message; None when it is of no interest.
pub(crate) fn parse(payload: &[u8], names: &LinkNames) -> Result<Option<Neighbour>, Malformed> {
    if !is_lasting(payload)? {
        return Ok(None);
    }
    let (header, attributes) = split::<12>(payload)?;
    let (mut address, mut mac, mut protocol) = (None, None, 0);
    for attribute in attributes {
        match attribute? {
            (NDA_DST, value) => address = Some(ip_of(value)?),
            (NDA_LLADDR, value) => mac = value.try_into().ok().map(Mac),
            (NDA_PROTOCOL, value) => protocol = u8_of(value)?,
            _ => {}
        }
    }
    Ok(Some(Neighbour {
        dev: names.name(u32_at(header, 4))?,
        address: address.ok_or(Malformed::Bytes("a neighbour without an address"))?,
        mac,
        permanent: is_permanent(header),
        protocol,
    }))
}

/// Adds an entry, or makes the one that is there this one: there is only one for an address on a link.
pub(crate) fn set(neighbour: &Neighbour, index: u32) -> Request {
    let mut message = message(neighbour, index);
    message.header.state = NeighbourState::Permanent;
    if let Some(Mac(bytes)) = neighbour.mac {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(bytes.to_vec()));
    }
    message.attributes.push(NeighbourAttribute::Protocol(neighbour.protocol.into()));
    Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

/// Deletes an entry.
pub(crate) fn delete(neighbour: &Neighbour, index: u32) -> Request {
    Request { message: RouteNetlinkMessage::DelNeighbour(message(neighbour, index)), flags: 0 }
}

fn message(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match neighbour.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(neighbour.address.into()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message about 10.0.0.1 on link 1.
    fn message(state: u8, protocol: Option<u8>) -> Vec<u8> {
        let mut bytes = vec![V4, 0, 0, 0, 1, 0, 0, 0, state, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 1];
        if let Some(protocol) = protocol {
            bytes.extend([5, 0, 12, 0, protocol, 0, 0, 0]);
        }
        bytes
    }

    #[test]
    fn entries_that_come_and_go_with_traffic_are_of_no_interest() {
        const REACHABLE: u8 = 2;
        const PERMANENT: u8 = 0x80;
        assert_eq!(is_lasting(&message(REACHABLE, None)), Ok(false));
        assert_eq!(is_lasting(&message(REACHABLE, Some(4))), Ok(false));
        assert_eq!(is_lasting(&message(REACHABLE, Some(PROTOCOL))), Ok(true));
        assert_eq!(is_lasting(&message(PERMANENT, None)), Ok(true));
    }
}
