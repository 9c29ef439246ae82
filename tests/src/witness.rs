//! Waiting for a namespace to become as it should, by the kernel's own events; and seeing that nothing changes in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink::testbed::{Netns, Scene, TestbedError};
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::picture::Picture;

/// `RTNLGRP_`: LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV4_NETCONF.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 8, 24];
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const AF_INET: u8 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// Why something was not seen.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The namespace.
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    /// The event socket.
    #[error("kernel events of {netns}: {source}")]
    Events {
        /// Where.
        netns: String,
        /// Why not.
        source: io::Error,
    },
    /// It has not happened.
    #[error("{netns} is after {within:?} not {what}:\n{difference}")]
    Unlike {
        /// Where.
        netns: String,
        /// How long was waited.
        within: Duration,
        /// What was waited for.
        what: String,
        /// What is missing or too much.
        difference: String,
    },
}

/// Sees all changes of a namespace from when it is opened. It holds the namespace.
pub struct Witness<'a> {
    netns: &'a Netns,
    scene: Scene,
    events: Socket,
}

impl<'a> Witness<'a> {
    /// Sees from now on.
    pub fn open(netns: &'a Netns) -> Result<Self, WitnessError> {
        let events = netns.run(listen)?.map_err(|source| events_error(netns, source))?;
        Ok(Self { netns, scene: netns.scene()?, events })
    }

    /// What is there now.
    pub fn picture(&mut self) -> Result<Picture, WitnessError> {
        Ok(Picture::of(self.netns, &self.scene.observe()?)?)
    }

    /// Waits until the namespace equals that picture.
    pub fn until_like(&mut self, wanted: &Picture, within: Duration) -> Result<(), WitnessError> {
        self.until("as it was", within, |found| if found == wanted { String::new() } else { wanted.difference(found) })
    }

    /// Waits until the line is there, or is not.
    pub fn until_line(&mut self, line: &str, is_there: bool, within: Duration) -> Result<(), WitnessError> {
        let what = format!("{} {line:?}", if is_there { "with" } else { "without" });
        self.until(&what, within, |found| if found.has(line) == is_there { String::new() } else { found.text() })
    }

    /// Waits until there is no `obstacle` (an empty text) any more: looks after every event, so that nothing is missed and
    /// nothing waits blindly.
    pub fn until(
        &mut self,
        what: &str,
        within: Duration,
        obstacle: impl Fn(&Picture) -> String,
    ) -> Result<(), WitnessError> {
        let started = Instant::now();
        loop {
            let difference = obstacle(&self.picture()?);
            if difference.is_empty() {
                return Ok(());
            }
            let left = within.saturating_sub(started.elapsed());
            if left.is_zero() {
                let (netns, what) = (self.netns.path().to_owned(), what.to_owned());
                return Err(WitnessError::Unlike { netns, within, what, difference });
            }
            wait(&[self.events.as_fd()], left).map_err(|source| events_error(self.netns, source))?;
            self.changes()?;
        }
    }

    /// The changes since the last call, a text each. Neighbours that come and go with traffic are none.
    pub fn changes(&mut self) -> Result<Vec<String>, WitnessError> {
        let mut changes = Vec::new();
        loop {
            match self.events.recv_from_full() {
                Ok((datagram, _)) => changes.extend(texts(&datagram)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {
                    changes.push("so many that the kernel dropped some".to_owned());
                }
                Err(source) => return Err(events_error(self.netns, source)),
            }
        }
    }
}

/// Waits until one of the namespaces changes: the changes, each with its place; none when the time is over.
pub fn first_changes(witnesses: &mut [Witness<'_>], within: Duration) -> Result<Vec<String>, WitnessError> {
    let started = Instant::now();
    loop {
        let mut found = Vec::new();
        for witness in witnesses.iter_mut() {
            let place = witness.netns.path();
            found.extend(witness.changes()?.into_iter().map(|change| format!("{place}: {change}")));
        }
        let left = within.saturating_sub(started.elapsed());
        if !found.is_empty() || left.is_zero() {
            return Ok(found);
        }
        let sockets: Vec<BorrowedFd<'_>> = witnesses.iter().map(|witness| witness.events.as_fd()).collect();
        wait(&sockets, left).map_err(|source| WitnessError::Events { netns: "all".into(), source })?;
    }
}

fn events_error(netns: &Netns, source: io::Error) -> WitnessError {
    WitnessError::Events { netns: netns.path().to_owned(), source }
}

fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

fn wait(sockets: &[BorrowedFd<'_>], within: Duration) -> io::Result<()> {
    // Whole milliseconds, upwards: none would be a busy loop.
    let timeout = PollTimeout::try_from(within + Duration::from_millis(1)).map_err(io::Error::other)?;
    let mut waiting: Vec<PollFd<'_>> = sockets.iter().map(|socket| PollFd::new(*socket, PollFlags::POLLIN)).collect();
    match poll(&mut waiting, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn texts(datagram: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = datagram;
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        let (kind, length) = (message.message_type(), message.length() as usize);
        let payload = message.payload();
        if ![RTM_NEWNEIGH, RTM_DELNEIGH].contains(&kind) || is_lasting(payload) {
            texts.push(format!("event {} {:02x?}", name_of(kind), payload));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    texts
}

/// `struct ndmsg`: family, three bytes of padding, index, state.
fn is_lasting(payload: &[u8]) -> bool {
    let state = payload.get(8..10).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
    payload.first() == Some(&AF_INET) && state & NUD_PERMANENT != 0
}

fn name_of(kind: u16) -> String {
    let object = match kind & !3 {
        16 => "LINK",
        20 => "ADDR",
        24 => "ROUTE",
        28 => "NEIGH",
        32 => "RULE",
        80 => "NETCONF",
        _ => return kind.to_string(),
    };
    format!("RTM_{}{object}", if kind & 3 == 0 { "NEW" } else { "DEL" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lasting_neighbours_are_changes() {
        let entry = |family: u8, state: u16| {
            let mut bytes = vec![family, 0, 0, 0, 7, 0, 0, 0];
            bytes.extend(state.to_ne_bytes());
            bytes
        };
        assert!(is_lasting(&entry(AF_INET, NUD_PERMANENT)));
        assert!(!is_lasting(&entry(AF_INET, 2)));
        assert!(!is_lasting(&entry(10, NUD_PERMANENT)));
        assert!(!is_lasting(&[AF_INET]));
    }
}
