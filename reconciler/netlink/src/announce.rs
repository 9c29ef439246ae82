//! Tells the neighbours on the wire where an address is now: one gratuitous ARP request (RFC 5227, 3) and one unsolicited
//! neighbour advertisement (RFC 4861, 7.2.6) an address.
//!
//! The kernel does so itself for links that have `arp_notify` and `ndisc_notify`; links of other plugins have not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::{fmt, io};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage};
use schemas::name::Mac;

use crate::pass::Pass;

const BROADCAST: [u8; 6] = [0xff; 6];
/// The hardware address of ff02::1.
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// What is known of the neighbour is to be replaced.
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// An advertisement with its option, in bytes.
const ADVERTISEMENT: u8 = 32;

impl Pass {
    /// Announces the addresses of a link. What fails is logged: a neighbour that was not told finds out by itself, later.
    pub fn announce(&self, dev: &str, addresses: Vec<IpAddr>) {
        let name = dev.to_owned();
        let sent = self.inside(move || send(&name, &addresses));
        let place = self.place();
        let failed = |error: &dyn fmt::Display| tracing::warn!(dev, place, %error, "addresses are not announced");
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }
}

/// In the calling thread's namespace.
fn send(dev: &str, addresses: &[IpAddr]) -> io::Result<()> {
    let (link, mac) = link(dev)?;
    // It takes packets of no protocol.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    for address in addresses {
        let frame = match address {
            IpAddr::V4(address) => arp(mac, *address),
            IpAddr::V6(address) => advertisement(mac, *address),
        };
        socket::sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty())?;
    }
    Ok(())
}

/// The link as a packet socket names it, and its hardware address.
fn link(dev: &str) -> io::Result<(SockaddrStorage, Mac)> {
    getifaddrs()?
        .filter(|found| found.interface_name == dev)
        .find_map(|found| {
            let address = found.address?;
            let mac = address.as_link_addr()?.addr()?;
            Some((address, Mac(mac)))
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no hardware address"))
}

fn arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    // Ethernet, IPv4, the lengths of their addresses, a request.
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let own = address.octets();
    [&BROADCAST[..], &mac.0, &ETHERTYPE_ARP, &REQUEST, &mac.0, &own, &[0; 6], &own].concat()
}

fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
    let own = address.octets();
    let option = [TARGET_LINK_LAYER_ADDRESS, 1];
    let mut message = [&[NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0][..], &own, &option, &mac.0].concat();
    let pseudo = [&own[..], &to, &[0, 0, 0, ADVERTISEMENT, 0, 0, 0, ICMPV6]].concat();
    let sum = checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, ADVERTISEMENT, ICMPV6, 255];
    [&ALL_NODES[..], &mac.0, &ETHERTYPE_IPV6, &header, &own, &to, &message].concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let once = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = ((once & 0xffff) + (once >> 16)).to_be_bytes();
    !u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x0a, 0x1b, 10, 6, 212, 202]);

    #[test]
    fn a_gratuitous_request_asks_for_its_own_address() {
        let frame = arp(MAC, Ipv4Addr::new(10, 6, 212, 202));
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[6..12], &frame[22..28]), (&MAC.0[..], &MAC.0[..]));
        assert_eq!((&frame[28..32], &frame[38..42]), (&[10, 6, 212, 202][..], &[10, 6, 212, 202][..]));
    }

    #[test]
    fn an_advertisement_sums_up() {
        let address: Ipv6Addr = "fd00:6::200".parse().unwrap();
        let frame = advertisement(MAC, address);
        assert_eq!(frame.len(), 14 + 40 + usize::from(ADVERTISEMENT));
        let (source, target) = (&frame[22..38], &frame[38..54]);
        let pseudo = [source, target, &[0, 0, 0, ADVERTISEMENT, 0, 0, 0, ICMPV6]].concat();
        // With its checksum in it the sum is zero.
        assert_eq!(checksum(&[&pseudo, &frame[54..]].concat()), 0);
        assert_eq!(&frame[62..78], &address.octets());
    }
}
