//! ARP for IPv4 on Ethernet (RFC 826), as RFC 5227 uses it: 28 bytes.

use std::net::Ipv4Addr;

use schemas::name::Mac;

const LENGTH: usize = 28;
/// Ethernet, IPv4, and the lengths of their addresses.
const HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// What an ARP packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) is_reply: bool,
    pub(super) sender_mac: Mac,
    /// Unspecified in a probe (RFC 5227, 1.1).
    pub(super) sender: Ipv4Addr,
    pub(super) target: Ipv4Addr,
}

/// A request from that sender: a probe when it is unspecified, an announcement when it is the target.
pub(super) fn request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = Vec::with_capacity(LENGTH);
    packet.extend(HEAD);
    packet.extend(REQUEST.to_be_bytes());
    packet.extend(mac.0);
    packet.extend(sender.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    packet
}

/// Reads a packet, whatever the wire has put behind it; None of what is no ARP of this kind.
pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
    let packet: &[u8; LENGTH] = bytes.first_chunk()?;
    let (head, rest) = packet.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let (_, rest) = rest.split_first_chunk::<6>()?;
    let target: &[u8; 4] = rest.first_chunk()?;
    let operation = u16::from_be_bytes(*operation);
    let is_known = *head == HEAD && matches!(operation, REQUEST | REPLY);
    is_known.then(|| Packet {
        is_reply: operation == REPLY,
        sender_mac: Mac(*sender_mac),
        sender: Ipv4Addr::from(*sender),
        target: Ipv4Addr::from(*target),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_probe_is_as_rfc_5227_has_it() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let probe = request(mac, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 6, 212, 200));
        let wanted = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 6, 212, 200];
        assert_eq!(probe, wanted);
    }

    #[test]
    fn other_hardware_protocols_and_operations_are_none() {
        let good = request(Mac([2; 6]), Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
        assert!(parse(&good).is_some());
        for (position, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3), (6, 1)] {
            let mut other = good.clone();
            other[position] = value;
            assert_eq!(parse(&other), None, "byte {position}");
        }
        assert_eq!(parse(&good[..27]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_asked_is_read_also_when_the_frame_is_padded(mac: [u8; 6], sender: u32, target: u32, padding in 0..19usize) {
            let (sender, target) = (Ipv4Addr::from(sender), Ipv4Addr::from(target));
            let mut packet = request(Mac(mac), sender, target);
            packet.extend(vec![0; padding]);
            prop_assert_eq!(parse(&packet), Some(Packet { is_reply: false, sender_mac: Mac(mac), sender, target }));
        }
    }
}
