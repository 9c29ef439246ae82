//! A place on the wire: packet sockets on one link of one namespace, and what is said there.
//!
//! Packet sockets hear and speak before the kernel's own addresses do: no address has to be there, or to have passed its
//! own duplicate detection, and no answer is lost to a filter of routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, LinkAddr};
use schemas::intent::NetnsIdentity;
use schemas::name::Mac;
use socket2::{Domain, SockFilter, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::detection::DetectError;
use super::{IFF_NOARP, IFF_RUNNING, IFF_UP, arp, link_at, ndp};
use crate::attributes::{split, u32_at};
use crate::exchange::{Exchange, errno_of};
use crate::pass::Kernel;
use crate::{link, namespace};

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const BROADCAST: Mac = Mac([0xff; 6]);
/// The longest packet of interest: one that is cut fails its checksum.
const PACKET_BYTES: usize = 1514;

/// What was heard, and from which hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Arp(arp::Packet),
    Ndp { message: ndp::Message, from: Mac },
}

/// See the module. It keeps the namespace alive until it is dropped.
pub(super) struct Station {
    pub(super) mac: Mac,
    /// The hardware addresses of the namespace: what its own links say is no other's word.
    own: Vec<Mac>,
    name: String,
    index: u32,
    exchange: Exchange,
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    /// Keeps the link in the groups in which answers come.
    _member: Option<Socket>,
}

/// A station whose sockets tokio can wait for.
pub(super) struct Listening {
    v4: Option<AsyncFd<OwnedFd>>,
    v6: Option<AsyncFd<OwnedFd>>,
    index: u32,
    mac: Mac,
    own: Vec<Mac>,
}

/// What is needed to see afterwards whether the link was there all the time.
pub(super) struct Ground {
    name: String,
    index: u32,
    exchange: Exchange,
    _member: Option<Socket>,
}

impl Station {
    /// Opens sockets for the families of these addresses. Blocking.
    pub(super) fn open(
        kernel: &Kernel,
        netns: &NetnsIdentity,
        name: &str,
        addresses: &[IpAddr],
    ) -> Result<Self, DetectError> {
        let mut pass = kernel.pass(netns)?;
        let (mut found, mut own) = (None, Vec::new());
        pass.exchange().dump(link::dump(), |frame| {
            let (header, _) = split::<16>(frame.payload)?;
            let link = link::parse(frame.payload)?;
            own.extend(link.mac);
            if link.name == name {
                found = Some((link, u32_at(header, 8)));
            }
            Ok(())
        })?;
        let missing = || DetectError::NoLink { link: name.to_owned(), place: netns.path.clone() };
        let (link, flags) = found.ok_or_else(missing)?;
        let mac = link.mac.filter(|_| flags & IFF_NOARP == 0);
        let mac = mac.ok_or_else(|| DetectError::NotAsked { link: name.to_owned() })?;
        if flags & IFF_UP == 0 {
            return Err(DetectError::LinkDown { link: name.to_owned() });
        }
        let groups: Vec<Ipv6Addr> = addresses.iter().filter_map(|address| v6_of(*address)).collect();
        let (has_v4, has_v6) = (addresses.iter().any(IpAddr::is_ipv4), !groups.is_empty());
        let index = link.index;
        let opened = pass.inside(move || -> io::Result<_> {
            let v4 = has_v4.then(|| packet_socket(index, ARP, &[])).transpose()?;
            let v6 = has_v6.then(|| packet_socket(index, IPV6, &neighbour_messages())).transpose()?;
            let member = has_v6.then(|| member(index, &groups)).transpose()?;
            Ok((v4, v6, member, Exchange::open()))
        })?;
        let failed = |error: io::Error| DetectError::Socket { link: name.to_owned(), source: error };
        let (v4, v6, member, exchange) = opened.map_err(failed)?;
        let name = name.to_owned();
        Ok(Self { mac, own, name, index, exchange: exchange?, v4, v6, _member: member })
    }

    /// Registers the sockets with tokio.
    pub(super) fn listen(self) -> Result<(Listening, Ground), DetectError> {
        let watch = |socket: Option<OwnedFd>| socket.map(namespace::watch_descriptor).transpose();
        let failed = |error: io::Error| DetectError::Socket { link: self.name.clone(), source: error };
        let (v4, v6) = (watch(self.v4).map_err(failed)?, watch(self.v6).map_err(failed)?);
        let ground = Ground { name: self.name, index: self.index, exchange: self.exchange, _member: self._member };
        Ok((Listening { v4, v6, index: self.index, mac: self.mac, own: self.own }, ground))
    }
}

impl Ground {
    /// Whether silence meant something. Blocking.
    ///
    /// # Errors
    /// The link is down, or has no carrier.
    pub(super) fn see_it_up(mut self) -> Result<(), DetectError> {
        let (_, flags) = link_at(&mut self.exchange, self.index)?;
        let is_up = flags & IFF_UP != 0 && flags & IFF_RUNNING != 0;
        if is_up { Ok(()) } else { Err(DetectError::LinkDown { link: self.name }) }
    }
}

impl Listening {
    /// The link's hardware address.
    pub(super) fn mac(&self) -> Mac {
        self.mac
    }

    /// Asks who has the address; from nobody when `source` is unspecified.
    pub(super) fn ask(&self, target: IpAddr, source: Option<IpAddr>) -> Result<(), Errno> {
        match (target, source) {
            (IpAddr::V4(target), source) => {
                let source = source.and_then(v4_of).unwrap_or(Ipv4Addr::UNSPECIFIED);
                send(self.v4.as_ref(), self.index, ARP, BROADCAST, &arp::request(self.mac, source, target))
            }
            (IpAddr::V6(target), source) => {
                let source = source.and_then(v6_of).unwrap_or(Ipv6Addr::UNSPECIFIED);
                let to = ndp::group_mac(ndp::solicited_node(target));
                send(self.v6.as_ref(), self.index, IPV6, to, &ndp::solicitation(source, target, self.mac))
            }
        }
    }

    /// Tells everybody that the address is here.
    pub(super) fn announce(&self, address: IpAddr) -> Result<(), Errno> {
        match address {
            IpAddr::V4(address) => {
                send(self.v4.as_ref(), self.index, ARP, BROADCAST, &arp::request(self.mac, address, address))
            }
            IpAddr::V6(address) => {
                let to = ndp::group_mac(ndp::ALL_NODES);
                send(self.v6.as_ref(), self.index, IPV6, to, &ndp::advertisement(address, self.mac))
            }
        }
    }

    /// The next thing that somebody else says. Cancelling loses nothing.
    pub(super) async fn hear(&self) -> io::Result<Heard> {
        loop {
            let (bytes, from, is_v4) = tokio::select! {
                received = receive(self.v4.as_ref()) => { let (bytes, from) = received?; (bytes, from, true) }
                received = receive(self.v6.as_ref()) => { let (bytes, from) = received?; (bytes, from, false) }
            };
            let heard = if is_v4 {
                arp::parse(&bytes).map(Heard::Arp)
            } else {
                ndp::parse(&bytes).zip(from).map(|(message, from)| Heard::Ndp { message, from })
            };
            let is_own = |mac: &Mac| self.own.contains(mac);
            match heard {
                Some(Heard::Arp(packet)) if is_own(&packet.sender_mac) => {}
                Some(_) if from.as_ref().is_some_and(is_own) => {}
                Some(heard) => return Ok(heard),
                None => {}
            }
        }
    }
}

fn v4_of(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6_of(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

/// Hears what comes by that link alone: it is bound before it hears anything.
fn packet_socket(index: u32, protocol: u16, filter: &[SockFilter]) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
    if !filter.is_empty() {
        socket.attach_filter(filter)?;
    }
    socket.bind(&namespace::link_address(index, protocol, BROADCAST))?;
    Ok(socket.into())
}

/// Of all IPv6 packets, solicitations and advertisements alone, so that a busy link does not drown them.
fn neighbour_messages() -> Vec<SockFilter> {
    let code = |code: u32| u16::try_from(code).unwrap_or(u16::MAX);
    let load_byte = code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS);
    let jump_if_equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let give = code(libc::BPF_RET | libc::BPF_K);
    vec![
        SockFilter::new(load_byte, 0, 0, 6),
        SockFilter::new(jump_if_equal, 0, 3, 58),
        SockFilter::new(load_byte, 0, 0, 40),
        SockFilter::new(jump_if_equal, 2, 0, 135),
        SockFilter::new(jump_if_equal, 1, 0, 136),
        SockFilter::new(give, 0, 0, 0),
        SockFilter::new(give, 0, 0, u32::MAX),
    ]
}

/// Advertisements to a tried-out address go to all nodes, and others try it out in its own group.
fn member(index: u32, addresses: &[Ipv6Addr]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
    let groups = addresses.iter().map(|address| ndp::solicited_node(*address)).chain([ndp::ALL_NODES]);
    for group in groups {
        match socket.join_multicast_v6(&group, index) {
            // Two addresses may have one group.
            Err(error) if errno_of(&error) == Errno::EADDRINUSE => {}
            joined => joined?,
        }
    }
    Ok(socket)
}

fn send(socket: Option<&AsyncFd<OwnedFd>>, index: u32, protocol: u16, to: Mac, packet: &[u8]) -> Result<(), Errno> {
    let socket = SockRef::from(socket.ok_or(Errno::EAFNOSUPPORT)?.get_ref());
    let sent = socket.send_to(packet, &namespace::link_address(index, protocol, to));
    sent.map(drop).map_err(|error| errno_of(&error))
}

async fn receive(socket: Option<&AsyncFd<OwnedFd>>) -> io::Result<(Vec<u8>, Option<Mac>)> {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        let mut ready = socket.readable().await?;
        let received = ready.try_io(|socket| {
            let mut buffer = vec![0; PACKET_BYTES];
            let (length, from) = socket::recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer)?;
            buffer.truncate(length);
            Ok((buffer, from.and_then(|from| from.addr()).map(Mac)))
        });
        match received {
            // It says once that the link has gone down; whether it is up is looked at in the end.
            Ok(Err(error)) if matches!(errno_of(&error), Errno::ENETDOWN | Errno::EINTR) => {}
            Ok(received) => return received,
            Err(_) => {}
        }
    }
}
