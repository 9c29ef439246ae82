//! What is said on the wire without being asked: gratuitous ARP requests.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink::testbed::Netns;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use schemas::name::Mac;

/// Hears the ARP packets that come into a namespace, from when it is opened.
pub(crate) struct Ear {
    socket: OwnedFd,
}

impl Ear {
    pub(crate) fn open(netns: &Netns) -> Self {
        let opened = netns
            .run(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll))
            .unwrap();
        Self { socket: opened.unwrap() }
    }

    /// Who has said, by a request for its own address, that it has it.
    pub(crate) fn announced(&self, address: Ipv4Addr) -> Vec<Mac> {
        let mut found = Vec::new();
        let mut frame = [0; 2048];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return found,
                Err(error) => panic!("hearing: {error}"),
            };
            let Some(arp) = frame[..length].get(12..42).filter(|arp| arp[..2] == [8, 6] && arp[8..10] == [0, 1]) else {
                continue;
            };
            if arp[16..20] == address.octets() && arp[26..30] == address.octets() {
                found.push(Mac(arp[10..16].try_into().unwrap()));
            }
        }
    }
}
