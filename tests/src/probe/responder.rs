//! A server inside a namespace that tells every asker whom it takes them for.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netlink::testbed::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ProbeError;

/// An asker that says nothing for so long is sent away.
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_LINE: u64 = 512;

/// Answers TCP and UDP with `SOURCE TOKEN`. It stops when it is dropped, and holds the namespace until then.
#[derive(Debug)]
pub struct Responder {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Listens at a port on all addresses of the namespace; it does so when this returns.
    pub fn start(netns: &Netns, port: u16) -> Result<Self, ProbeError> {
        let what = || format!("listening at port {port} in {}", netns.path());
        // Also for IPv4, whose askers show as mapped addresses.
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let bound = netns.run(|| Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        let (listener, datagrams) = bound.map_err(|error: std::io::Error| ProbeError::socket(what(), error))?;
        // Whoever was announced may have gone when it is accepted.
        listener.set_nonblocking(true).map_err(|error| ProbeError::socket(what(), error))?;
        datagrams.set_nonblocking(true).map_err(|error| ProbeError::socket(what(), error))?;
        let (stop, stopped) = UnixStream::pair().map_err(|error| ProbeError::socket(what(), error))?;
        let thread = thread::Builder::new()
            .name("responder".into())
            .spawn(move || serve(&listener, &datagrams, &stopped))
            .map_err(|error| ProbeError::socket(what(), error))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed, and the question went without an answer.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, datagrams: &UdpSocket, stopped: &UnixStream) {
    loop {
        let wanted = PollFlags::POLLIN;
        let mut ready = [
            PollFd::new(listener.as_fd(), wanted),
            PollFd::new(datagrams.as_fd(), wanted),
            PollFd::new(stopped.as_fd(), wanted),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
        if ready[2].any().unwrap_or(true) {
            return;
        }
        // One asker's fault is no reason to leave the others without an answer.
        if let Ok((stream, source)) = listener.accept() {
            let _ = answer_stream(stream, source);
        }
        let mut question = [0; 512];
        if let Ok((length, source)) = datagrams.recv_from(&mut question) {
            let token = String::from_utf8_lossy(&question[..length]);
            let _ = datagrams.send_to(answer(source, &token).as_bytes(), source);
        }
    }
}

fn answer_stream(stream: TcpStream, source: SocketAddr) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut token = String::new();
    BufReader::new(std::io::Read::take(&stream, LONGEST_LINE)).read_line(&mut token)?;
    (&stream).write_all(answer(source, &token).as_bytes())
}

fn answer(source: SocketAddr, token: &str) -> String {
    format!("{} {}\n", source.ip().to_canonical(), token.trim_end())
}
