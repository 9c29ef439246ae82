//! Is an address in use by anybody on the wire?
//!
//! The kernel is made to ask by ARP or neighbour solicitation, as it does before it sends a packet: what it knew of the
//! address is forgotten first, so whatever it knows afterwards was said on the wire just then. Nothing lasting is left: the
//! entry that comes of it goes with the kernel's own garbage collection.
//!
//! It sees what the node's own namespace sees: a macvlan of the node cannot be reached from its master, so the node's own
//! pods do not answer. What a pod's own link sees is asked there: see [`Kernel::detect`].

mod arp;
mod detection;
mod ndp;
mod station;

pub use detection::{DetectError, Pace, Paces, Question};

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use plan::object::Link;
use schemas::name::Mac;

use crate::attributes::{Frames, Malformed, V4, V6, ip_of, split, u16_at, u32_at, u32_of};
use crate::exchange::{Exchange, ExchangeError, Request, errno_of};
use crate::link;
use crate::namespace::NamespaceError;
use crate::pass::Kernel;

/// The kernel asks `mcast_solicit` = 3 times, a second (`retrans_time`) apart.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked anew when others have meddled with the entry.
const ATTEMPTS: usize = 3;
const BUFFER_BYTES: usize = 64 * 1024;

const RTNLGRP_NEIGH: u32 = 3;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RT_SCOPE_LINK: u8 = 253;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_OPTIMISTIC_DADFAILED_TENTATIVE: u8 = 0x4c;
const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
const IFF_NOARP: u32 = 0x80;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_REACHABLE: u16 = 0x02;
const NUD_STALE_DELAY_PROBE: u16 = 0x1c;
const NUD_FAILED: u16 = 0x20;
const NUD_NOARP_PERMANENT: u16 = 0xc0;
const NTF_EXT_LEARNED: u8 = 0x10;

/// Why it is not known whether anybody uses an address.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The node has no link on which the address could be asked for.
    #[error("{address} cannot be asked for from this node: {how}")]
    NotOnLink {
        /// Which.
        address: IpAddr,
        /// How that is known.
        how: String,
    },
    /// The link by which the address would be reached is down, or has no carrier.
    #[error("{address} cannot be asked for while link {link} is down")]
    LinkDown {
        /// Which.
        address: IpAddr,
        /// The link's name.
        link: String,
    },
    /// The kernel asks for IPv6 addresses with the link's own link-local address only.
    #[error("{address} cannot be asked for: link {link} has no IPv6 link-local address that is ready for use")]
    NoSource {
        /// Which.
        address: IpAddr,
        /// The link's name.
        link: String,
    },
    /// Somebody has fixed the address's neighbour entry, which the kernel believes without asking.
    #[error("{address} cannot be asked for: its neighbour entry on link {link} is permanent, or another program's")]
    Fixed {
        /// Which.
        address: IpAddr,
        /// The link's name.
        link: String,
    },
    /// Others changed the entry each time before the answer was there, or the kernel took longer than it says.
    #[error("it could not be found out in time whether anybody uses {address}")]
    Unsettled {
        /// Which.
        address: IpAddr,
    },
    /// The kernel was not asked, or refused.
    #[error("asking for {address}: {source}")]
    Exchange {
        /// Which.
        address: IpAddr,
        /// Why.
        source: ExchangeError,
    },
    /// The node's namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// Where an address is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Link(u32),
    Local,
}

/// What one question led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered(Mac),
    Silent,
    /// Somebody else's doing: it has to be asked again.
    Disturbed,
    Late,
}

impl Kernel {
    /// Asks on the wire who has the address, which takes up to 3 seconds when nobody answers, and at most 15: to be called
    /// where blocking is allowed. The hardware address of who answered, or None when nobody did. An address of the node's
    /// own is answered with its link's.
    ///
    /// # Errors
    /// It was not asked, or it is not known what came of it: never to be taken for silence.
    pub fn look_for(&self, address: IpAddr) -> Result<Option<Mac>, ProbeError> {
        let failed = |source| ProbeError::Exchange { address, source };
        let mut exchange = self.at_home(Exchange::open)?.map_err(failed)?;
        let index = match way(&mut exchange, address)? {
            Way::Local => return own_mac(&mut exchange, address).map_err(failed),
            Way::Link(index) => index,
        };
        for _ in 0..ATTEMPTS {
            is_usable(&mut exchange, address, index)?;
            forget(&mut exchange, address, index)?;
            // Before the question, so that no answer is missed, and after the entry's deletion, which is no answer.
            let opened = self.at_home(listen)?.map_err(|error| socket_error("listen", &error));
            let listening = opened.map_err(failed)?;
            match ask(&mut exchange, &listening, address, index).map_err(failed)? {
                Outcome::Answered(mac) => return Ok(Some(mac)),
                Outcome::Silent => {
                    // Nothing is heard on a link that has gone down meanwhile.
                    is_usable(&mut exchange, address, index)?;
                    return Ok(None);
                }
                Outcome::Disturbed => {}
                Outcome::Late => break,
            }
        }
        Err(ProbeError::Unsettled { address })
    }
}

fn way(exchange: &mut Exchange, address: IpAddr) -> Result<Way, ProbeError> {
    let not_on_link = |how: String| ProbeError::NotOnLink { address, how };
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(address.into()));
    let payload = match exchange.ask(RouteNetlinkMessage::GetRoute(message)) {
        Ok(payload) => payload,
        Err(error @ ExchangeError::Refused { errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES, .. }) => {
            return Err(not_on_link(error.to_string()));
        }
        Err(source) => return Err(ProbeError::Exchange { address, source }),
    };
    let (kind, link, has_gateway) =
        parse_way(&payload).map_err(|error| ProbeError::Exchange { address, source: error.into() })?;
    match (kind, link) {
        (RTN_LOCAL, _) => Ok(Way::Local),
        (RTN_UNICAST, Some(_)) if has_gateway => Err(not_on_link("it lies behind a gateway".to_owned())),
        (RTN_UNICAST, Some(index)) => Ok(Way::Link(index)),
        _ => Err(not_on_link("no route leads to it as to one host".to_owned())),
    }
}

fn parse_way(payload: &[u8]) -> Result<(u8, Option<u32>, bool), Malformed> {
    let (header, attributes) = split::<12>(payload)?;
    let (mut link, mut has_gateway) = (None, false);
    for attribute in attributes {
        match attribute? {
            (RTA_OIF, value) => link = Some(u32_of(value)?),
            (RTA_GATEWAY | RTA_VIA, _) => has_gateway = true,
            _ => {}
        }
    }
    Ok((header[7], link, has_gateway))
}

/// The hardware address of the link that has the address; zeros where it has none.
fn own_mac(exchange: &mut Exchange, address: IpAddr) -> Result<Option<Mac>, ExchangeError> {
    let mut index = None;
    exchange.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |frame| {
        let (header, attributes) = split::<8>(frame.payload)?;
        if header[0] == V4 || header[0] == V6 {
            for attribute in attributes {
                if let (IFA_ADDRESS | IFA_LOCAL, value) = attribute?
                    && ip_of(value)? == address
                {
                    index = Some(u32_at(header, 4));
                }
            }
        }
        Ok(())
    })?;
    let mac = match index {
        Some(index) => link_at(exchange, index)?.0.mac,
        None => None,
    };
    Ok(Some(mac.unwrap_or(Mac([0; 6]))))
}

fn link_at(exchange: &mut Exchange, index: u32) -> Result<(Link, u32), ExchangeError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let payload = exchange.ask(RouteNetlinkMessage::GetLink(message))?;
    let (header, _) = split::<16>(&payload)?;
    Ok((link::parse(&payload)?, u32_at(header, 8)))
}

/// Whether what is asked on the link reaches the wire.
fn is_usable(exchange: &mut Exchange, address: IpAddr, index: u32) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Exchange { address, source };
    let (link, flags) = link_at(exchange, index).map_err(failed)?;
    let link = link.name;
    if flags & IFF_NOARP != 0 {
        return Err(ProbeError::NotOnLink { address, how: format!("nobody is asked for addresses on link {link}") });
    }
    if flags & IFF_UP == 0 || flags & IFF_RUNNING == 0 {
        return Err(ProbeError::LinkDown { address, link });
    }
    if address.is_ipv6() && !has_source(exchange, index).map_err(failed)? {
        return Err(ProbeError::NoSource { address, link });
    }
    Ok(())
}

fn has_source(exchange: &mut Exchange, index: u32) -> Result<bool, ExchangeError> {
    let mut has_source = false;
    exchange.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |frame| {
        let (header, _) = split::<8>(frame.payload)?;
        let [family, _, flags, scope, ..] = *header;
        let is_ready = flags & IFA_F_OPTIMISTIC_DADFAILED_TENTATIVE == 0;
        has_source |= family == V6 && u32_at(header, 4) == index && scope == RT_SCOPE_LINK && is_ready;
        Ok(())
    })?;
    Ok(has_source)
}

/// Makes the kernel forget what it knows, or has begun to find out.
fn forget(exchange: &mut Exchange, address: IpAddr, index: u32) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Exchange { address, source };
    let Some(entry) = entry(exchange, address, index).map_err(failed)? else { return Ok(()) };
    if entry.state & NUD_NOARP_PERMANENT != 0 || entry.flags & NTF_EXT_LEARNED != 0 {
        let (link, _) = link_at(exchange, index).map_err(failed)?;
        return Err(ProbeError::Fixed { address, link: link.name });
    }
    let request = Request { message: RouteNetlinkMessage::DelNeighbour(message(address, index)), flags: 0 };
    match exchange.change(vec![request]).pop() {
        Some(Err(error)) if error.errno() != Some(Errno::ENOENT) => Err(failed(error)),
        _ => Ok(()),
    }
}

fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(RTNLGRP_NEIGH)?;
    Ok(socket)
}

fn socket_error(action: &'static str, error: &io::Error) -> ExchangeError {
    ExchangeError::Socket { action, errno: errno_of(error) }
}

fn ask(exchange: &mut Exchange, listening: &Socket, address: IpAddr, index: u32) -> Result<Outcome, ExchangeError> {
    let until = Instant::now() + PATIENCE;
    let mut question = message(address, index);
    question.header.flags = NeighbourFlags::Use;
    let request = Request { message: RouteNetlinkMessage::NewNeighbour(question), flags: NLM_F_CREATE };
    exchange.change(vec![request]).into_iter().collect::<Result<(), _>>()?;
    // Traffic may have led to an answer before the question, of which there is no news then.
    match entry(exchange, address, index)?.map(|entry| entry.outcome()) {
        Some(Some(Outcome::Silent)) | None => return Ok(Outcome::Disturbed),
        Some(Some(outcome)) => return Ok(outcome),
        Some(None) => {}
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Outcome::Late);
        }
        // 0 would be for ever.
        let left = TimeVal::milliseconds(i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1));
        socket::setsockopt(listening, sockopt::ReceiveTimeout, &left)
            .map_err(|errno| ExchangeError::Socket { action: "set its time-out", errno })?;
        match socket::recv(listening.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                if let Some(outcome) = news(buffer.get(..length).unwrap_or_default(), address, index)? {
                    return Ok(outcome);
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // News was lost.
            Err(Errno::ENOBUFS) => return Ok(Outcome::Disturbed),
            Err(errno) => return Err(ExchangeError::Socket { action: "receive", errno }),
        }
    }
}

/// What a datagram of news says of an address, which is one message; None when nothing yet.
fn news(datagram: &[u8], address: IpAddr, index: u32) -> Result<Option<Outcome>, Malformed> {
    let Some(frame) = Frames(datagram).next().transpose()? else { return Ok(None) };
    if !matches!(frame.kind, RTM_NEWNEIGH | RTM_DELNEIGH) {
        return Ok(None);
    }
    let Some(entry) = Entry::parse(frame.payload)?.filter(|entry| entry.index == index && entry.address == address)
    else {
        return Ok(None);
    };
    // nlmsg_pid: whose request led to it; none's when the kernel has found it out.
    let is_request = u32_at(datagram, 12) != 0;
    Ok(match (frame.kind, entry.outcome()) {
        (RTM_DELNEIGH, _) => Some(Outcome::Disturbed),
        (_, Some(_)) if is_request => Some(Outcome::Disturbed),
        (_, outcome) => outcome,
    })
}

/// A neighbour entry as the kernel has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    index: u32,
    address: IpAddr,
    state: u16,
    flags: u8,
    mac: Option<Mac>,
}

impl Entry {
    /// None of other families.
    fn parse(payload: &[u8]) -> Result<Option<Self>, Malformed> {
        let (header, attributes) = split::<12>(payload)?;
        if header[0] != V4 && header[0] != V6 {
            return Ok(None);
        }
        let (mut address, mut mac) = (None, None);
        for attribute in attributes {
            match attribute? {
                (NDA_DST, value) => address = Some(ip_of(value)?),
                (NDA_LLADDR, value) => mac = value.try_into().ok().map(Mac),
                _ => {}
            }
        }
        let address = address.ok_or(Malformed::Bytes("a neighbour without an address"))?;
        let (index, state) = (u32_at(header, 4), u16_at(header, 8));
        Ok(Some(Self { index, address, state, flags: header[10], mac }))
    }

    /// What it tells; None while the kernel asks.
    fn outcome(&self) -> Option<Outcome> {
        match (self.state, self.mac) {
            // Hardware addresses that are not of Ethernet are not told, but it was answered.
            (state, mac) if state & NUD_REACHABLE != 0 => Some(Outcome::Answered(mac.unwrap_or(Mac([0; 6])))),
            (state, _) if state & NUD_FAILED != 0 => Some(Outcome::Silent),
            // Said by somebody without being asked, and not what the question led to.
            (state, _) if state & (NUD_STALE_DELAY_PROBE | NUD_NOARP_PERMANENT) != 0 => Some(Outcome::Disturbed),
            _ => None,
        }
    }
}

fn entry(exchange: &mut Exchange, address: IpAddr, index: u32) -> Result<Option<Entry>, ExchangeError> {
    match exchange.ask(RouteNetlinkMessage::GetNeighbour(message(address, index))) {
        Ok(payload) => Ok(Entry::parse(&payload)?),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn message(address: IpAddr, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// News of 10.0.0.1 on link 1 in that state, because of a request of that port.
    fn datagram(kind: u16, state: u8, port: u32) -> Vec<u8> {
        let mut bytes = 48u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 6]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend([V4, 0, 0, 0, 1, 0, 0, 0, state, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 1]);
        bytes.extend([10, 0, 2, 0, 2, 0, 0, 0, 0, 9, 0, 0]);
        bytes
    }

    #[test]
    fn only_what_the_kernel_has_found_out_is_an_answer() {
        let read = |kind, state, port| news(&datagram(kind, state, port), IpAddr::from([10, 0, 0, 1]), 1).unwrap();
        assert_eq!(read(RTM_NEWNEIGH, 0x01, 0), None);
        assert_eq!(read(RTM_NEWNEIGH, 0x02, 0), Some(Outcome::Answered(Mac([2, 0, 0, 0, 0, 9]))));
        assert_eq!(read(RTM_NEWNEIGH, 0x20, 0), Some(Outcome::Silent));
        assert_eq!(read(RTM_NEWNEIGH, 0x20, 77), Some(Outcome::Disturbed), "deleted by somebody");
        assert_eq!(read(RTM_NEWNEIGH, 0x02, 77), Some(Outcome::Disturbed), "written by somebody");
        assert_eq!(read(RTM_DELNEIGH, 0x20, 0), Some(Outcome::Disturbed));
        assert_eq!(read(RTM_NEWNEIGH, 0x04, 0), Some(Outcome::Disturbed));
        assert_eq!(news(&datagram(RTM_NEWNEIGH, 2, 0), IpAddr::from([10, 0, 0, 2]), 1), Ok(None));
        assert_eq!(news(&datagram(RTM_NEWNEIGH, 2, 0), IpAddr::from([10, 0, 0, 1]), 2), Ok(None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = (parse_way(&bytes), Entry::parse(&bytes), news(&bytes, IpAddr::from([10, 0, 0, 1]), 1));
        }
    }
}
