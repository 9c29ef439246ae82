//! When each of many namespaces was last seen to change.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::FullNodeError;

/// `RTNLGRP_`: LINK, then IFADDR, ROUTE, RULE and NETCONF of both families.
const GROUPS: [u32; 9] = [1, 5, 7, 8, 9, 11, 19, 24, 25];
/// `NFNLGRP_NFTABLES`.
const NFTABLES: u32 = 7;

/// What was seen of one namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// When the last change was read.
    last: Option<Instant>,
    /// The same of those that a program asked for: carriers, for one, come in the kernel's own time.
    asked: Option<Instant>,
    /// How many datagrams of changes there were.
    pub count: usize,
}

impl Seen {
    /// When a program last changed something, or else the kernel did; None when nothing has changed.
    pub fn last(&self) -> Option<Instant> {
        self.asked.or(self.last)
    }
}

/// Sockets in many namespaces, which they hold: of each one for routing and one for nftables.
pub struct Watch(Vec<[Socket; 2]>);

/// Says when all namespaces together have come to rest.
pub struct Calm(Receiver<()>);

impl Calm {
    /// Returns when nothing has changed anywhere for so long.
    pub fn wait(&self, quiet: Duration) {
        while self.0.recv_timeout(quiet).is_ok() {}
    }
}

impl Watch {
    /// Sees from now on.
    ///
    /// # Errors
    /// When a namespace cannot be listened to.
    pub fn open<'a>(namespaces: impl IntoIterator<Item = &'a Netns>) -> Result<Self, FullNodeError> {
        let sockets = namespaces.into_iter().map(|netns| Ok(netns.run(listen)??));
        sockets.collect::<Result<_, FullNodeError>>().map(Self)
    }

    /// Reads all changes while `act` runs; what that gives, and what was seen of each namespace. What changed before is
    /// forgotten.
    ///
    /// # Errors
    /// When the events cannot be read.
    pub fn during<T>(&self, act: impl FnOnce(&Calm) -> T) -> Result<(T, Vec<Seen>), FullNodeError> {
        for socket in self.0.iter().flatten() {
            drain(socket)?;
        }
        let (over, ending) = UnixStream::pair()?;
        let (told, calm) = mpsc::channel();
        thread::scope(|scope| {
            let watching = scope.spawn(move || self.watch(&ending, &told));
            let result = act(&Calm(calm));
            drop(over);
            match watching.join() {
                Ok(seen) => Ok((result, seen?)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Until the other end of `ending` is closed.
    fn watch(&self, ending: &UnixStream, told: &Sender<()>) -> io::Result<Vec<Seen>> {
        let mut seen = vec![Seen::default(); self.0.len()];
        let ends = self.0.iter().flatten().map(Socket::as_fd).chain([ending.as_fd()]);
        let mut waiting: Vec<PollFd<'_>> = ends.map(|end| PollFd::new(end, PollFlags::POLLIN)).collect();
        loop {
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let now = Instant::now();
            for (number, (socket, end)) in self.0.iter().flatten().zip(&waiting).enumerate() {
                if let (Some(true), Some(seen)) = (end.any(), seen.get_mut(number / 2)) {
                    let drained = drain(socket)?;
                    seen.count += drained.count;
                    seen.last = Some(now);
                    seen.asked = if drained.is_asked { Some(now) } else { seen.asked };
                    // Nobody may be waiting any more.
                    let _ = told.send(());
                }
            }
            if waiting.last().and_then(PollFd::any) == Some(true) {
                return Ok(seen);
            }
        }
    }
}

fn listen() -> io::Result<[Socket; 2]> {
    Ok([listen_to(NETLINK_ROUTE, &GROUPS)?, listen_to(NETLINK_NETFILTER, &[NFTABLES])?])
}

fn listen_to(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

#[derive(Default)]
struct Drained {
    count: usize,
    is_asked: bool,
}

fn drain(socket: &Socket) -> io::Result<Drained> {
    let mut drained = Drained::default();
    loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => {
                drained.count += 1;
                // The kernel names the socket on whose request it has changed something.
                drained.is_asked |=
                    NetlinkBuffer::new_checked(&datagram).is_ok_and(|message| message.port_number() != 0);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(drained),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => drained.count += 1,
            Err(error) => return Err(error),
        }
    }
}
