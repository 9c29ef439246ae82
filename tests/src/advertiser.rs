//! A router's voice: IPv6 router advertisements (RFC 4861 4.2).

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use netlink::testbed::{Netns, TestbedError};
use socket2::{Domain, Protocol, Socket, Type};

const ROUTER_ADVERTISEMENT: u8 = 134;
const PREFIX_INFORMATION: u8 = 3;
/// Seconds.
const LIFETIME: u16 = 1800;

/// Why nothing was said.
#[derive(Debug, thiserror::Error)]
pub enum AdvertiseError {
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] TestbedError),
    /// The socket.
    #[error("advertising on {link}: {source}")]
    Socket {
        /// By which link.
        link: String,
        /// Why not.
        source: io::Error,
    },
}

/// Says once, to all nodes on the link, that whoever says so is a router and that `prefix`/64 is on the link, for everybody
/// to take an address of.
///
/// # Errors
/// When it cannot be said.
pub fn advertise(router: &Netns, link: &str, prefix: Ipv6Addr) -> Result<(), AdvertiseError> {
    let index = router.scene()?.link(link)?.index;
    let said = router.run(|| -> io::Result<()> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        // Only what nobody can have forwarded is believed.
        socket.set_multicast_hops_v6(255)?;
        socket.set_multicast_if_v6(index)?;
        let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        socket.send_to(&message(prefix), &all_nodes.into())?;
        Ok(())
    })?;
    said.map_err(|source| AdvertiseError::Socket { link: link.to_owned(), source })
}

fn message(prefix: Ipv6Addr) -> Vec<u8> {
    // The kernel fills in the checksum.
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
    message.extend(LIFETIME.to_be_bytes());
    message.extend([0; 8]);
    // On the link, and for addresses; both lifetimes, then the prefix.
    message.extend([PREFIX_INFORMATION, 4, 64, 0xc0]);
    message.extend(u32::from(LIFETIME).to_be_bytes());
    message.extend(u32::from(LIFETIME).to_be_bytes());
    message.extend([0; 4]);
    message.extend(prefix.octets());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_whole() {
        let message = message(Ipv6Addr::LOCALHOST);
        assert_eq!(message.len(), 16 + 32);
        assert_eq!(usize::from(message[17]) * 8, 32);
    }
}
