//! Asking: TCP, UDP and ICMP echo, from inside a namespace, without any program.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use socket2::{Domain, SockAddr, Socket, Type};

use super::ProbeError;

/// An answer that takes longer does not come: everything is on this machine.
const PATIENCE: Duration = Duration::from_secs(2);
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A connection, one line each way.
    Tcp,
    /// A datagram each way.
    Udp,
    /// `ping`; the port does not count.
    Icmp,
}

/// Asks once. What the one asked takes us for, if it can say.
pub fn ask(
    from: &Netns,
    protocol: Protocol,
    to: impl Into<SocketAddr>,
    token: &str,
) -> Result<Option<IpAddr>, ProbeError> {
    ask_from(from, None, protocol, to.into(), token)
}

/// The same from an address of one's own.
pub(super) fn ask_from(
    from: &Netns,
    own: Option<IpAddr>,
    protocol: Protocol,
    to: SocketAddr,
    token: &str,
) -> Result<Option<IpAddr>, ProbeError> {
    let what = || format!("{protocol:?} from {} to {to}", from.path().rsplit('/').next().unwrap_or_default());
    let answer = from.run(|| match protocol {
        Protocol::Tcp => tcp(own, to, token).map(Some),
        Protocol::Udp => udp(own, to, token).map(Some),
        Protocol::Icmp => match to.ip() {
            IpAddr::V4(ip) => ping(ip, token).map(|()| None),
            IpAddr::V6(_) => Err(std::io::ErrorKind::Unsupported.into()),
        },
    })?;
    let answer = answer.map_err(|source| ProbeError::Socket { what: what(), source })?;
    answer
        .map(|text| source_in(&text, token).map_err(|found| ProbeError::Answer(format!("{}: {found}", what()))))
        .transpose()
}

fn source_in(answer: &str, token: &str) -> Result<IpAddr, String> {
    let unexpected = || format!("unexpected answer {answer:?}");
    let (source, echoed) = answer.trim_end().split_once(' ').ok_or_else(unexpected)?;
    if echoed != token {
        return Err(unexpected());
    }
    source.parse().map_err(|_| unexpected())
}

/// Any address of the family of `to`, when there is none to ask from.
fn bound_to(own: Option<IpAddr>, to: SocketAddr) -> SocketAddr {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::from((own.unwrap_or(any), 0))
}

fn tcp(own: Option<IpAddr>, to: SocketAddr, token: &str) -> std::io::Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if own.is_some() {
        socket.bind(&bound_to(own, to).into())?;
    }
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{token}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn udp(own: Option<IpAddr>, to: SocketAddr, token: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind(bound_to(own, to))?;
    // Connected: an answer from another address, or a port that nobody listens at, is an error.
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(format!("{token}\n").as_bytes())?;
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn ping(to: Ipv4Addr, token: &str) -> std::io::Result<()> {
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::ICMPV4))?;
    socket.connect(&SockAddr::from(SocketAddrV4::new(to, 0)))?;
    let deadline = Instant::now() + PATIENCE;
    socket.write_all(&echo_request(token))?;
    let mut packet = [0; 512];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.read(&mut packet)?;
        // A raw socket gives the IP header too, and every ICMP packet of this peer.
        let header = usize::from(packet[0] & 0x0f) * 4;
        let message = packet.get(header..length).unwrap_or_default();
        if message.first() == Some(&ECHO_REPLY) && message.ends_with(token.as_bytes()) {
            return Ok(());
        }
    }
}

fn echo_request(token: &str) -> Vec<u8> {
    let mut message = vec![ECHO_REQUEST, 0, 0, 0, 0, 1, 0, 1];
    message.extend_from_slice(token.as_bytes());
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_to_nothing() {
        for token in ["even", "odd", ""] {
            assert_eq!(checksum(&echo_request(token)), 0, "{token}");
        }
    }

    #[test]
    fn an_answer_names_the_asker_and_the_token() {
        assert_eq!(source_in("10.6.212.200 t1\n", "t1"), Ok(IpAddr::from([10, 6, 212, 200])));
        assert!(source_in("10.6.212.200 t2\n", "t1").is_err());
        assert!(source_in("x t1", "t1").is_err());
        assert!(source_in("", "t1").is_err());
    }
}
