//! What changes, in the node's namespace and in all that have a number there, by one socket on the node for routing and
//! one for nftables.
//!
//! Events are hints to look again, not news: the kernel drops routes without any when a link goes down. The socket keeps
//! no namespace alive; when one is really gone, [`Event::Gone`] says so. What a [`crate::Pass`] changes in a pod is none: a
//! pass ends with a look of its own.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessageOwned, MsgFlags, SockaddrStorage, sockopt};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::attributes::{Frame, Frames};
use crate::exchange::errno_of;
use crate::namespace::{self, NamespaceError, Watched};
use crate::neighbour;
use crate::pass::{Kernel, parse_nsid};
use crate::ports::Ports;

/// Holds about 20,000 events; the default buffer holds 256.
const BUFFER_BYTES: usize = 8 << 20;
const SOL_NETLINK: i32 = 270;
const NETLINK_LISTEN_ALL_NSID: i32 = 8;

// RTNLGRP_*: link, neighbour, IPv4 address, route and rule, IPv6 address, route and rule, both netconfs.
const GROUPS: [u32; 10] = [1, 3, 5, 7, 8, 9, 11, 19, 24, 25];
const RTNLGRP_NSID: u32 = 28;
/// `NFNLGRP_NFTABLES`.
const NFNLGRP_NFTABLES: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`, the upper byte of its messages' types.
const NFTABLES: u16 = 10;

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Something changed.
    Changed {
        /// The namespace's number ([`crate::Pass::nsid`]); None is the node itself.
        nsid: Option<i32>,
        /// What.
        what: EventKind,
    },
    /// The namespace of that number is no more. The number may be given to another one.
    Gone {
        /// Its number.
        nsid: i32,
    },
    /// Events were lost: anything may have changed, and any namespace may be gone. Those after it are whole again.
    Lost,
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// A link.
    Link,
    /// An address.
    Address,
    /// A route.
    Route,
    /// A rule.
    Rule,
    /// A neighbour that is permanent or ours; those that come and go with traffic give no event.
    Neighbour,
    /// `rp_filter`, `forwarding` and their like.
    Netconf,
    /// Something of nftables, in a pod.
    Filter,
}

/// How far the events reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventScope {
    /// All namespaces that have a number.
    AllNamespaces,
    /// The node only, because CAP_NET_BROADCAST lacks: others must be looked at from time to time.
    HostOnly,
}

/// Why events cannot be had (any more).
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The node's namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The socket failed.
    #[error("netlink event socket: {0}")]
    Socket(#[from] io::Error),
}

/// The stream of events.
pub struct Events {
    routing: Source,
    /// None where the kernel has no nftables.
    filters: Option<Source>,
    scope: EventScope,
    pending: VecDeque<Event>,
    buffer: Vec<u8>,
    own: Arc<Ports>,
}

/// A socket that is listened to.
struct Source {
    socket: AsyncFd<Watched>,
    is_overrun: bool,
    read: fn(&Frame<'_>, Option<i32>) -> Option<Event>,
}

impl Source {
    async fn is_ready(&self) -> io::Result<AsyncFdReadyGuard<'_, Watched>> {
        self.socket.ready(namespace::HEARD).await
    }
}

impl Events {
    /// Listens from now on. To be called in a tokio runtime.
    pub fn open(kernel: &Kernel) -> Result<Self, EventsError> {
        Self::with_buffer(kernel, BUFFER_BYTES)
    }

    /// The same with a receive buffer of that many bytes; a small one shows what [`Event::Lost`] does.
    pub fn with_buffer(kernel: &Kernel, bytes: usize) -> Result<Self, EventsError> {
        let (socket, scope) = kernel.at_home(move || listen(bytes))??;
        let source =
            |socket, read| Ok::<_, io::Error>(Source { socket: namespace::watch(socket)?, is_overrun: false, read });
        let filters = match kernel.at_home(move || listen_to_filters(bytes))? {
            Ok(socket) => Some(source(socket, filter_event as _)?),
            Err(error) => {
                tracing::info!(%error, "this kernel tells nothing of nftables");
                None
            }
        };
        Ok(Self {
            routing: source(socket, event as _)?,
            filters,
            scope,
            pending: VecDeque::new(),
            buffer: vec![0; 64 * 1024],
            own: kernel.ports(),
        })
    }

    /// How far the events reach. The kernel decides on opening by CAP_NET_BROADCAST in the node's user namespace, and on
    /// delivery by the same in the user namespace of the other one, which is the node's or one below it.
    pub fn scope(&self) -> EventScope {
        self.scope
    }

    /// The next event. Cancelling loses none.
    ///
    /// After an overrun the kernel drops events, without saying so again, until the buffer is empty: [`Event::Lost`] is
    /// given then, and what is still in the buffer is thrown away for it.
    ///
    /// # Errors
    /// When the socket fails for another reason than a full buffer; it will not recover.
    pub async fn next(&mut self) -> Result<Event, EventsError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let of_filters = async {
                match &self.filters {
                    Some(source) => source.is_ready().await,
                    None => std::future::pending().await,
                }
            };
            let (mut ready, is_filter) = tokio::select! {
                ready = self.routing.is_ready() => (ready?, false),
                ready = of_filters => (ready?, true),
            };
            let received = ready.try_io(|socket| Ok(receive(socket.as_raw_fd(), &mut self.buffer)?));
            drop(ready);
            let source = match &mut self.filters {
                Some(filters) if is_filter => filters,
                _ => &mut self.routing,
            };
            match received {
                // The buffer is empty.
                Err(_) if std::mem::take(&mut source.is_overrun) => return Ok(Event::Lost),
                Err(_) => {}
                Ok(Ok(_)) if source.is_overrun => {}
                Ok(Ok(received)) => self.pending.extend(events(&self.buffer, received, source.read, &self.own)),
                Ok(Err(error)) => match errno_of(&error) {
                    Errno::ENOBUFS => source.is_overrun = true,
                    Errno::EINTR => {}
                    _ => return Err(error.into()),
                },
            }
        }
    }
}

fn listen(bytes: usize) -> io::Result<(Socket, EventScope)> {
    let (socket, scope) = listen_to(netlink_sys::protocols::NETLINK_ROUTE, &GROUPS, bytes)?;
    if scope == EventScope::AllNamespaces {
        socket.add_membership(RTNLGRP_NSID)?;
    }
    Ok((socket, scope))
}

fn listen_to_filters(bytes: usize) -> io::Result<Socket> {
    Ok(listen_to(netlink_sys::protocols::NETLINK_NETFILTER, &[NFNLGRP_NFTABLES], bytes)?.0)
}

fn listen_to(protocol: isize, groups: &[u32], bytes: usize) -> io::Result<(Socket, EventScope)> {
    let mut socket = Socket::new(protocol)?;
    socket.set_non_blocking(true)?;
    // Before bind: a member without it is not asked again.
    let scope = match socket.set_listen_all_namespaces(true) {
        Ok(()) => EventScope::AllNamespaces,
        Err(_) => EventScope::HostOnly,
    };
    if socket::setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err() {
        // Without CAP_NET_ADMIN on the whole machine the system's maximum is what there is.
        socket::setsockopt(&socket, sockopt::RcvBuf, &bytes)?;
    }
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok((socket, scope))
}

struct Received {
    length: usize,
    is_cut: bool,
    nsid: Option<i32>,
}

/// netlink-sys's receive gives no control messages, which alone tell the namespace.
fn receive(socket: RawFd, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = socket::recvmsg::<SockaddrStorage>(socket, &mut slices, Some(&mut control), flags)?;
    let mut nsid = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Unknown(control) = control
            && (control.cmsg_header.cmsg_level, control.cmsg_header.cmsg_type) == (SOL_NETLINK, NETLINK_LISTEN_ALL_NSID)
        {
            nsid = control.data_bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        }
    }
    Ok(Received { length: message.bytes, is_cut: message.flags.contains(MsgFlags::MSG_TRUNC), nsid })
}

fn events(
    buffer: &[u8],
    received: Received,
    read: fn(&Frame<'_>, Option<i32>) -> Option<Event>,
    own: &Ports,
) -> Vec<Event> {
    if received.is_cut {
        return vec![Event::Lost];
    }
    let bytes = buffer.get(..received.length).unwrap_or_default();
    Frames(bytes)
        .filter_map(|frame| match frame {
            // The node's own pass looks before it acts, and relies on its events.
            Ok(frame) if received.nsid.is_some() && own.has(frame.port) => None,
            Ok(frame) => read(&frame, received.nsid),
            // What cannot be read may be anything.
            Err(_) => Some(Event::Lost),
        })
        .collect()
}

fn event(frame: &Frame<'_>, nsid: Option<i32>) -> Option<Event> {
    const RTM_DELNSID: u16 = 89;
    let what = match frame.kind {
        16 | 17 => EventKind::Link,
        20 | 21 => EventKind::Address,
        24 | 25 => EventKind::Route,
        28 | 29 => match neighbour::is_lasting(frame.payload) {
            Ok(false) => return None,
            Ok(true) | Err(_) => EventKind::Neighbour,
        },
        32 | 33 => EventKind::Rule,
        80 | 81 => EventKind::Netconf,
        // Numbers that another namespace had given are not ours.
        RTM_DELNSID if nsid.is_none() => {
            return parse_nsid(frame.payload).map_or(Some(Event::Lost), |gone| gone.map(|nsid| Event::Gone { nsid }));
        }
        _ => return None,
    };
    Some(Event::Changed { nsid, what })
}

/// In pods alone: of the node's own nftables nothing is dragline's, and other programs change a lot there.
fn filter_event(frame: &Frame<'_>, nsid: Option<i32>) -> Option<Event> {
    (frame.kind >> 8 == NFTABLES && nsid.is_some()).then_some(Event::Changed { nsid, what: EventKind::Filter })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_datagram_panics(bytes: Vec<u8>, nsid: Option<i32>) {
            let length = bytes.len();
            let _ = events(&bytes, Received { length, is_cut: false, nsid }, event, &Ports::new());
            let _ = events(&bytes, Received { length, is_cut: false, nsid }, filter_event, &Ports::new());
        }
    }

    #[test]
    fn a_number_given_by_another_namespace_is_not_ours() {
        let payload = [0, 0, 0, 0, 8, 0, 1, 0, 7, 0, 0, 0];
        let frame = Frame { kind: 89, flags: 0, sequence: 0, port: 0, payload: &payload };
        assert_eq!(event(&frame, None), Some(Event::Gone { nsid: 7 }));
        assert_eq!(event(&frame, Some(3)), None);
    }
}
