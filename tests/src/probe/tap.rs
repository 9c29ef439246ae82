//! Seeing packets: an AF_PACKET socket on all interfaces of a namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use netlink::testbed::Netns;
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, socket};

use super::ProbeError;

/// `PACKET_OTHERHOST` and `PACKET_OUTGOING` (packet(7)); all other kinds are of packets that are taken in.
const PACKET_OTHERHOST: u8 = 3;
const PACKET_OUTGOING: u8 = 4;
/// `ETH_P_IP` and `ETH_P_IPV6`, as the kernel gives them: in network order.
const ETH_P_IP: u16 = 0x0800_u16.to_be();
const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();

/// Which way a packet went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into the namespace.
    In,
    /// Out of it.
    Out,
    /// Past it: a switch that does not know the addressee sends to everybody.
    Past,
}

/// One packet on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The interface.
    pub interface: String,
    /// Which way.
    pub direction: Direction,
    /// The source.
    pub source: IpAddr,
    /// The destination.
    pub destination: IpAddr,
}

/// Sees all IP packets of a namespace from when it is opened. It holds the namespace.
#[derive(Debug)]
pub struct Tap<'a> {
    netns: &'a Netns,
    socket: OwnedFd,
}

impl<'a> Tap<'a> {
    /// Sees from now on.
    pub fn open(netns: &'a Netns) -> Result<Self, ProbeError> {
        // All protocols: a socket for IPv4 alone is not shown what leaves.
        let opened = netns
            .run(|| socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll))?;
        let socket = opened.map_err(|errno| ProbeError::socket(format!("opening a tap in {}", netns.path()), errno))?;
        Ok(Self { netns, socket })
    }

    /// The packets so far that carry the token. A packet is here before anybody can have answered it: the kernel hands
    /// it to taps first.
    pub fn frames(&self, token: &str) -> Result<Vec<Frame>, ProbeError> {
        let failed = |errno| ProbeError::socket(format!("reading a tap in {}", self.netns.path()), errno);
        let mut seen = Vec::new();
        let mut packet = vec![0; 1 << 16];
        loop {
            let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut packet) {
                Ok((length, Some(from))) => (length, from),
                Ok((_, None)) => continue,
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(failed(errno)),
            };
            let addresses = addresses(&packet[..length], from.protocol(), token.as_bytes());
            if let Some((source, destination)) = addresses {
                let direction = match from.pkttype() {
                    PACKET_OUTGOING => Direction::Out,
                    PACKET_OTHERHOST => Direction::Past,
                    _ => Direction::In,
                };
                let index = u32::try_from(from.ifindex()).map_err(|_| failed(Errno::EOVERFLOW))?;
                seen.push((index, direction, source, destination));
            }
        }
        let named = |(index, direction, source, destination)| {
            let interface = if_indextoname(index).map_err(failed)?.to_string_lossy().into_owned();
            Ok(Frame { interface, direction, source, destination })
        };
        self.netns.run(|| seen.into_iter().map(named).collect())?
    }
}

/// Source and destination of an IP packet with the token in it.
fn addresses(packet: &[u8], protocol: u16, token: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets)));
    let v6 = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)));
    if !packet.windows(token.len()).any(|window| window == token) {
        return None;
    }
    match protocol {
        ETH_P_IP => Some((v4(12)?, v4(16)?)),
        ETH_P_IPV6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}
