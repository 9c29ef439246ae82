//! Neighbour discovery for IPv6 (RFC 4861), as address detection uses it (RFC 4862, 5.4): whole IPv6 packets, since a
//! socket that the kernel builds them for would wait for an address of its own.

use std::net::Ipv6Addr;

use schemas::name::Mac;

const HEADER: usize = 40;
const ICMPV6: u8 = 58;
/// What no router lets pass (RFC 4861, 7.1): whoever sent it is on the link.
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// In an advertisement: what was known of the address is to be replaced.
const OVERRIDE: u8 = 0x20;

/// All hosts of the link.
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What a neighbour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// It asks for the target; without a source it is trying the address out for itself.
    Solicitation { source: Ipv6Addr, target: Ipv6Addr },
    /// It has the target, at that hardware address where it tells one.
    Advertisement { target: Ipv6Addr, mac: Option<Mac> },
}

/// The group in which whoever has the address listens (RFC 4291, 2.7.1).
pub(super) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let [high, low] = [0xff00 | u16::from(a), u16::from_be_bytes([b, c])];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

/// The hardware address of a group (RFC 2464, 7).
pub(super) fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// The link-local address that belongs to a hardware address (RFC 4291, appendix A).
pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Asks for the target; without a source, as who tries it out for himself (no option then: RFC 4861, 7.2.2).
pub(super) fn solicitation(source: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut body = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend(target.octets());
    if !source.is_unspecified() {
        body.extend(option(SOURCE_LINK_ADDRESS, mac));
    }
    packet(source, solicited_node(target), body)
}

/// Tells all hosts that the address is here.
pub(super) fn advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut body = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    body.extend(address.octets());
    body.extend(option(TARGET_LINK_ADDRESS, mac));
    packet(address, ALL_NODES, body)
}

fn option(kind: u8, mac: Mac) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [kind, 1, a, b, c, d, e, f]
}

fn packet(source: Ipv6Addr, destination: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let sum = checksum(source, destination, &body).to_be_bytes();
    body[2..4].copy_from_slice(&sum);
    // Bodies are at most 32 bytes.
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = Vec::with_capacity(HEADER + body.len());
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(length);
    packet.extend([ICMPV6, HOP_LIMIT]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(body);
    packet
}

/// Over the pseudo-header and the body (RFC 8200, 8.1); of a packet whose checksum is right, 0.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
    };
    // A body is shorter than 64 KiB, so that nothing overflows.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut sum = words(&source.octets()) + words(&destination.octets()) + length + u32::from(ICMPV6) + words(body);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded above.
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Reads a packet; None of what is no valid solicitation or advertisement (RFC 4861, 7.1).
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != HOP_LIMIT {
        return None;
    }
    let body = rest.get(..length)?;
    let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
    let destination = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
    let (head, rest) = body.split_first_chunk::<8>()?;
    let (target, options) = rest.split_first_chunk::<16>()?;
    let target = Ipv6Addr::from(*target);
    if head[1] != 0 || target.is_multicast() || checksum(source, destination, body) != 0 {
        return None;
    }
    match head[0] {
        SOLICITATION => Some(Message::Solicitation { source, target }),
        ADVERTISEMENT => Some(Message::Advertisement { target, mac: target_mac(options)? }),
        _ => None,
    }
}

/// The hardware address among the options, if there is one; None when the options are none.
fn target_mac(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut mac = None;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 || length > options.len() {
            return None;
        }
        let (option, rest) = options.split_at(length);
        if kind == TARGET_LINK_ADDRESS
            && let Some(bytes) = option[2..].first_chunk()
        {
            mac = Some(Mac(*bytes));
        }
        options = rest;
    }
    options.is_empty().then_some(mac)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    #[test]
    fn groups_and_link_local_addresses_are_as_the_standards_have_them() {
        assert_eq!(solicited_node(ip("fd00::1:2ab:cdef")), ip("ff02::1:ffab:cdef"));
        assert_eq!(group_mac(ip("ff02::1:ffab:cdef")), Mac([0x33, 0x33, 0xff, 0xab, 0xcd, 0xef]));
        assert_eq!(link_local(Mac([0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee])), ip("fe80::aa:bbff:fecc:ddee"));
    }

    #[test]
    fn who_tries_an_address_out_tells_no_hardware_address() {
        let packet = solicitation(Ipv6Addr::UNSPECIFIED, ip("fd00::9"), MAC);
        assert_eq!(packet.len(), HEADER + 24);
        let wanted = Message::Solicitation { source: Ipv6Addr::UNSPECIFIED, target: ip("fd00::9") };
        assert_eq!(parse(&packet), Some(wanted));
        assert_eq!(solicitation(ip("fd00::1"), ip("fd00::9"), MAC).len(), HEADER + 32);
    }

    #[test]
    fn what_a_router_could_have_let_pass_is_not_heard() {
        let good = advertisement(ip("fd00::9"), MAC);
        assert_eq!(parse(&good), Some(Message::Advertisement { target: ip("fd00::9"), mac: Some(MAC) }));
        let mut from_afar = good.clone();
        from_afar[7] = 254;
        assert_eq!(parse(&from_afar), None);
        let mut damaged = good.clone();
        damaged[60] ^= 1;
        assert_eq!(parse(&damaged), None, "its checksum is wrong");
        assert_eq!(parse(&good[..good.len() - 1]), None);
        let mut padded = good;
        padded.extend([0; 6]);
        assert!(parse(&padded).is_some());
    }

    #[test]
    fn an_option_of_no_length_ends_the_reading() {
        assert_eq!(target_mac(&[2, 0, 1, 2, 3, 4, 5, 6]), None);
        assert_eq!(target_mac(&[14, 1, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 9]), Some(Some(MAC)));
        assert_eq!(target_mac(&[2]), None);
        assert_eq!(target_mac(&[]), Some(None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        /// Past the checks of the header.
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 4..80), source: u128) {
            let _ = parse(&packet(Ipv6Addr::from(source), ALL_NODES, body.clone()));
            let _ = target_mac(&body);
        }

        #[test]
        fn what_is_said_is_read(source: u128, target: u128, mac: [u8; 6]) {
            let (source, target) = (Ipv6Addr::from(source), Ipv6Addr::from(target));
            prop_assume!(!target.is_multicast());
            let heard = parse(&solicitation(source, target, Mac(mac)));
            prop_assert_eq!(heard, Some(Message::Solicitation { source, target }));
            let heard = parse(&advertisement(target, Mac(mac)));
            prop_assert_eq!(heard, Some(Message::Advertisement { target, mac: Some(Mac(mac)) }));
        }
    }
}
