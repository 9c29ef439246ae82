//! Question and answer with the kernel over one socket: dumps that are whole or an error, changes sent in batches.
//!
//! rtnetlink builds messages for us, but its connection is not used: it drops `NLM_F_DUMP_INTR` and messages that it
//! cannot parse (a dump would come out smaller than the world), awaits each acknowledgement before the next change, and
//! its task would keep a descriptor in the namespace.

use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::attributes::{Attributes, Frame, Frames, Malformed, text_of};
use crate::namespace;

/// Messages in one send: more acknowledgements than this may overrun the default receive buffer.
const BATCH: usize = 200;
/// Bytes in one send, well below the default send buffer.
const BATCH_BYTES: usize = 32 * 1024;
/// The kernel fills datagrams of a dump up to 32 KiB.
const BUFFER_BYTES: usize = 64 * 1024;
/// The kernel answers within microseconds, or within seconds when others hold its lock; never to answer is a fault.
const PATIENCE_SECONDS: i64 = 20;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Why the kernel was not asked or did not answer as wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The kernel said no.
    #[error("{}{}{text}", .errno.desc(), if text.is_empty() { "" } else { ": " })]
    Refused {
        /// Its error number.
        errno: Errno,
        /// Its own words, empty when it had none.
        text: String,
    },
    /// A socket could not be opened, written or read.
    #[error("netlink socket: {action}: {}", .errno.desc())]
    Socket {
        /// What was tried.
        action: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// The namespace could not be entered to open a socket.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("the kernel did not answer within {PATIENCE_SECONDS} s")]
    Timeout,
    /// The world changed while it was dumped.
    #[error("the dump was interrupted by a change")]
    Interrupted,
    /// An answer that cannot be read.
    #[error("unreadable netlink message: {0}")]
    Malformed(#[from] Malformed),
}

impl ExchangeError {
    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket { .. } | Self::Unreachable(_) | Self::Timeout | Self::Interrupted | Self::Malformed(_) => None,
        }
    }
}

/// A change to be sent.
pub(crate) struct Request<M = RouteNetlinkMessage> {
    pub(crate) message: M,
    /// `NLM_F_*` besides REQUEST and ACK.
    pub(crate) flags: u16,
}

/// A socket of the namespace in which it was opened; usable from any thread afterwards.
pub(crate) struct Exchange {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Exchange {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, ExchangeError> {
        Self::open_protocol(netlink_sys::protocols::NETLINK_ROUTE)
    }

    /// The same with that number, or, where another socket of the namespace has it, with one that the kernel gives.
    pub(crate) fn open_at(port: u32) -> Result<Self, ExchangeError> {
        Self::open_with(netlink_sys::protocols::NETLINK_ROUTE, port)
    }

    /// The same for another of the kernel's protocols.
    pub(crate) fn open_protocol(protocol: isize) -> Result<Self, ExchangeError> {
        Self::open_with(protocol, 0)
    }

    fn open_with(protocol: isize, port: u32) -> Result<Self, ExchangeError> {
        let opened = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            match socket.bind(&SocketAddr::new(port, 0)) {
                Err(error) if errno_of(&error) == Errno::EADDRINUSE => socket.bind(&SocketAddr::new(0, 0))?,
                bound => bound?,
            }
            // Newer than the oldest kernels; without them errors are less clear and filters are ours alone.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_netlink_get_strict_chk(true);
            socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
            Ok(socket)
        };
        let socket = opened().map_err(|error| ExchangeError::Socket { action: "open", errno: errno_of(&error) })?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// `SO_NETNS_COOKIE` of the socket's namespace.
    pub(crate) fn cookie(&self) -> Result<u64, ExchangeError> {
        namespace::cookie_of(&self.socket).map_err(|errno| ExchangeError::Socket { action: "read its cookie", errno })
    }

    /// Asks for a dump and hands over each object's message (type, payload). An error means that what was handed over is
    /// not the whole.
    pub(crate) fn dump(
        &mut self,
        message: impl NetlinkSerializable,
        mut each: impl FnMut(&Frame<'_>) -> Result<(), Malformed>,
    ) -> Result<(), ExchangeError> {
        let wanted = self.send_one(message, NLM_F_DUMP)?;
        let mut failure = None;
        // Read to the end in any case: the kernel takes no second dump on a socket before.
        loop {
            let length = self.receive()?;
            for frame in Frames(&self.buffer[..length]) {
                let frame = frame?;
                if frame.sequence != wanted {
                    continue;
                }
                if frame.flags & NLM_F_DUMP_INTR != 0 {
                    failure.get_or_insert(ExchangeError::Interrupted);
                }
                match frame.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        answer(&frame)?;
                        return failure.map_or(Ok(()), Err);
                    }
                    _ => {
                        if let Err(malformed) = each(&frame) {
                            failure.get_or_insert(malformed.into());
                        }
                    }
                }
            }
        }
    }

    /// Asks for one object; gives its message's payload.
    pub(crate) fn ask(&mut self, message: RouteNetlinkMessage) -> Result<Vec<u8>, ExchangeError> {
        let wanted = self.send_one(message, 0)?;
        loop {
            let length = self.receive()?;
            for frame in Frames(&self.buffer[..length]) {
                let frame = frame?;
                if frame.sequence != wanted {
                    continue;
                }
                if frame.kind == NLMSG_ERROR {
                    answer(&frame)?;
                    return Err(Malformed::Bytes("an acknowledgement instead of an answer").into());
                }
                return Ok(frame.payload.to_vec());
            }
        }
    }

    /// Sends changes, as many at once as fit, and gives the answer to each. The kernel goes on after a refusal.
    pub(crate) fn change(&mut self, requests: Vec<Request>) -> Vec<Result<(), ExchangeError>> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut batch = Vec::new();
        let mut first = self.sequence.wrapping_add(1);
        let mut count = 0;
        for request in requests {
            self.encode(request.message, request.flags | NLM_F_ACK, &mut batch);
            count += 1;
            if count == BATCH || batch.len() >= BATCH_BYTES {
                answers.extend(self.send_batch(&batch, first, count));
                batch.clear();
                first = self.sequence.wrapping_add(1);
                count = 0;
            }
        }
        if count > 0 {
            answers.extend(self.send_batch(&batch, first, count));
        }
        answers
    }

    /// Sends messages that the kernel does all or none of, with `first` and `last` around them, which are not answered;
    /// the first refusal.
    pub(crate) fn transact<M: NetlinkSerializable>(
        &mut self,
        first: M,
        requests: Vec<Request<M>>,
        last: M,
    ) -> Result<(), ExchangeError> {
        let mut batch = Vec::new();
        self.encode(first, 0, &mut batch);
        let from = self.sequence.wrapping_add(1);
        let mut answers = vec![None; requests.len()];
        for Request { message, flags } in requests {
            self.encode(message, flags | NLM_F_ACK, &mut batch);
        }
        self.encode(last, 0, &mut batch);
        self.send(&batch)?;
        self.acknowledge(from, &mut answers)?;
        answers.into_iter().flatten().collect()
    }

    fn send_batch(&mut self, batch: &[u8], first: u32, count: usize) -> Vec<Result<(), ExchangeError>> {
        let mut answers: Vec<Option<Result<(), ExchangeError>>> = vec![None; count];
        let exchanged = self.send(batch).and_then(|()| self.acknowledge(first, &mut answers));
        // When the socket fails half-way, what was not answered is not known to be done.
        let unanswered = exchanged.err().unwrap_or(ExchangeError::Timeout);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(unanswered.clone()))).collect()
    }

    fn acknowledge(
        &mut self,
        first: u32,
        answers: &mut [Option<Result<(), ExchangeError>>],
    ) -> Result<(), ExchangeError> {
        while answers.iter().any(Option::is_none) {
            let length = self.receive()?;
            for frame in Frames(&self.buffer[..length]) {
                let frame = frame?;
                let position = usize::try_from(frame.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if let Some(slot) = answers.get_mut(position)
                    && frame.kind == NLMSG_ERROR
                {
                    *slot = Some(answer(&frame));
                }
            }
        }
        Ok(())
    }

    fn send_one(&mut self, message: impl NetlinkSerializable, flags: u16) -> Result<u32, ExchangeError> {
        let mut bytes = Vec::new();
        self.encode(message, flags, &mut bytes);
        self.send(&bytes)?;
        Ok(self.sequence)
    }

    fn encode(&mut self, message: impl NetlinkSerializable, flags: u16, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize((start + message.buffer_len()).next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), ExchangeError> {
        match socket::send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(ExchangeError::Socket { action: "send", errno }),
        }
    }

    fn receive(&mut self) -> Result<usize, ExchangeError> {
        loop {
            // With MSG_TRUNC the kernel tells the true length of what does not fit.
            match socket::recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length <= self.buffer.len() => return Ok(length),
                Ok(_) => return Err(Malformed::Bytes("a message longer than 64 KiB").into()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(ExchangeError::Timeout),
                Err(errno) => return Err(ExchangeError::Socket { action: "receive", errno }),
            }
        }
    }
}

/// What an NLMSG_ERROR or NLMSG_DONE says.
fn answer(frame: &Frame<'_>) -> Result<(), ExchangeError> {
    let code = match frame.payload.first_chunk() {
        Some(bytes) => i32::from_ne_bytes(*bytes),
        None if frame.kind == NLMSG_DONE => 0,
        None => return Err(Malformed::Bytes("an answer without a code").into()),
    };
    if code == 0 {
        return Ok(());
    }
    let errno = Errno::from_raw(code.saturating_neg());
    Err(ExchangeError::Refused { errno, text: extended_text(frame) })
}

/// `NLMSGERR_ATTR_MSG`: the kernel's own words.
fn extended_text(frame: &Frame<'_>) -> String {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if frame.flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    let start = match frame.kind {
        NLMSG_DONE => 4,
        _ if frame.flags & NLM_F_CAPPED != 0 => 20,
        // The request itself stands between.
        _ => {
            4 + usize::try_from(crate::attributes::u32_at(frame.payload, 4))
                .unwrap_or(usize::MAX / 2)
                .next_multiple_of(4)
        }
    };
    let attributes = Attributes(frame.payload.get(start..).unwrap_or_default());
    attributes
        .filter_map(Result::ok)
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map_or_else(String::new, |(_, value)| text_of(value))
}

pub(crate) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_answer_panics(payload: Vec<u8>, flags: u16, done: bool) {
            let kind = if done { NLMSG_DONE } else { NLMSG_ERROR };
            let _ = answer(&Frame { kind, flags, sequence: 1, port: 0, payload: &payload });
        }
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut payload = (-22i32).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        payload.extend([8, 0, 1, 0, b'b', b'a', b'd', 0]);
        let flags = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        let refused = answer(&Frame { kind: NLMSG_ERROR, flags, sequence: 1, port: 0, payload: &payload }).unwrap_err();
        assert_eq!(refused.to_string(), "Invalid argument: bad");
        assert_eq!(refused.errno(), Some(Errno::EINVAL));
    }
}
