//! Network namespaces: which one a path holds, and the one thread that goes into them.
//!
//! A thread that is inside a namespace makes every socket and child there, so going in is confined to one std thread of
//! its own, never one of a runtime, and never across an await. A socket or descriptor that stays open keeps a dead pod's
//! namespace alive: what is opened here lives as long as one pass.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use netlink_sys::Socket;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use schemas::name::Mac;
use socket2::{SockAddr, SockAddrStorage};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::exchange::ExchangeError;

/// Why a namespace was not entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Nothing is at the path, or another namespace than the one that was meant, or it is of another boot.
    #[error("network namespace {path} is gone: {how}")]
    Gone {
        /// The path.
        path: String,
        /// How that is known.
        how: &'static str,
    },
    /// Something else is at the path.
    #[error("{path} is not a network namespace: {what}; give a path such as /run/netns/NAME or /proc/PID/ns/net")]
    NotANamespace {
        /// The path.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// We may not.
    #[error("no permission to {action} {path}: CAP_SYS_ADMIN (for /proc/PID/ns also CAP_SYS_PTRACE) is needed")]
    Permission {
        /// The path.
        path: String,
        /// Open or enter.
        action: &'static str,
    },
    /// Another fault of the system.
    #[error("cannot {action} {path}")]
    System {
        /// The path.
        path: String,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A socket in it could not be opened.
    #[error("network namespace {path}: {source}")]
    Socket {
        /// The path.
        path: String,
        /// Why not.
        source: ExchangeError,
    },
    /// The thread that enters namespaces could not come back from one and has ended rather than act in the wrong one.
    #[error("the thread that enters namespaces has ended: restart the agent")]
    ThreadEnded,
}

impl NamespaceError {
    /// The namespace that was meant is no more, and will never be again.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// Whether trying again may help without anybody doing something.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::System { .. } | Self::Socket { .. })
    }

    fn system(path: &str, action: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::EPERM | Errno::EACCES => Self::Permission { path: path.to_owned(), action },
            errno => Self::System { path: path.to_owned(), action, source: errno.into() },
        }
    }
}

/// The cookie of a socket's namespace.
///
/// `SO_NETNS_COOKIE` (Linux 5.14) is never the same for two namespaces between two boots. nix has no name for it yet.
#[allow(unsafe_code)]
pub(crate) fn cookie_of(socket: &impl AsFd) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the descriptor is open for the time of the call, and the kernel writes at most `length` = 8 bytes to
    // `cookie`, for which any bytes are a value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(|_| cookie)
}

/// A socket that tokio can wait for.
#[derive(Debug)]
pub(crate) struct Watched(Socket);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What is waited for on a watched socket. An overrun that comes while the buffer is empty is told as an error alone, and
/// until it is read the kernel drops everything.
pub(crate) const HEARD: Interest = Interest::READABLE.add(Interest::ERROR);

/// Registers a socket with tokio for [`HEARD`]. It stands here because unsafe code is confined to this file.
#[allow(unsafe_code)]
pub(crate) fn watch(socket: Socket) -> io::Result<AsyncFd<Watched>> {
    // SAFETY: `Watched` owns the open descriptor, always gives the same, and neither closes nor replaces it before it is
    // dropped together with the registration.
    Ok(unsafe { AsyncFd::register_with_interest(Watched(socket), HEARD) }?)
}

/// Registers a socket of another kind with tokio, for reading alone.
#[allow(unsafe_code)]
pub(crate) fn watch_descriptor(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open, always the same, and closed only when it is dropped together with the registration.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Where packets of a protocol (an EtherType) come from or go to on a link.
#[allow(unsafe_code)]
pub(crate) fn link_address(index: u32, protocol: u16, mac: Mac) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    let [a, b, c, d, e, f] = mac.0;
    // SAFETY: it is the system's own type for addresses of family AF_PACKET, of which all bytes are zeros or set here.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET.unsigned_abs() as libc::sa_family_t;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.cast_signed();
    address.sll_halen = 6;
    address.sll_addr = [a, b, c, d, e, f, 0, 0];
    // 20 bytes.
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: an address of that family and length has just been written.
    unsafe { SockAddr::new(storage, length) }
}

/// A descriptor of a namespace; it keeps the namespace alive.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    path: String,
    descriptor: Arc<OwnedFd>,
}

impl Door {
    /// Opens the file at the path; it is some namespace, of which kind is seen on entering.
    pub(crate) fn open(path: &str) -> Result<Self, NamespaceError> {
        // Not blocking: the path comes from outside and might be a pipe.
        let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
        let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH) => {
                NamespaceError::Gone { path: path.to_owned(), how: "there is no such file" }
            }
            Some(errno) => NamespaceError::system(path, "open", errno),
            None => NamespaceError::System { path: path.to_owned(), action: "open", source: error },
        })?;
        let kind = fstatfs(&file).map_err(|errno| NamespaceError::system(path, "examine", errno))?;
        if kind.filesystem_type() != NSFS_MAGIC {
            return Err(NamespaceError::NotANamespace { path: path.to_owned(), what: "it is an ordinary file" });
        }
        Ok(Self { path: path.to_owned(), descriptor: Arc::new(OwnedFd::from(file)) })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    fn enter(&self) -> Result<(), NamespaceError> {
        setns(&self.descriptor, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EINVAL => {
                NamespaceError::NotANamespace { path: self.path.clone(), what: "it is a namespace of another kind" }
            }
            errno => NamespaceError::system(&self.path, "enter", errno),
        })
    }
}

type Job = Box<dyn FnOnce(&File) -> Fate + Send>;

/// Whether the thread is at home again.
enum Fate {
    Home,
    Lost,
}

/// The thread that goes into namespaces. Home is the namespace in which it was started.
pub(crate) struct Namespaces {
    jobs: Sender<Job>,
}

impl Namespaces {
    /// Starts the thread in the calling thread's namespace.
    pub(crate) fn start() -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new().name("netns".into()).spawn(move || {
            for job in queue {
                if let Fate::Lost = job(&home) {
                    tracing::error!("cannot return from a network namespace; no namespace is entered any more");
                    break;
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs a short closure inside. Nothing of the namespace is held afterwards but what the closure gives back.
    pub(crate) fn enter<T: Send + 'static>(
        &self,
        door: &Door,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NamespaceError> {
        let door = door.clone();
        self.run(move |home| {
            if let Err(error) = door.enter() {
                return (Err(error), Fate::Home);
            }
            drop(door);
            let result = inside();
            match setns(home, CloneFlags::CLONE_NEWNET) {
                Ok(()) => (Ok(result), Fate::Home),
                Err(_) => (Err(NamespaceError::ThreadEnded), Fate::Lost),
            }
        })?
    }

    /// Runs a short closure at home.
    pub(crate) fn at_home<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NamespaceError> {
        self.run(move |_| (inside(), Fate::Home))
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&File) -> (T, Fate) + Send + 'static,
    ) -> Result<T, NamespaceError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |home| {
            let (result, fate) = job(home);
            // Whoever asked may have gone; then nobody wants to know.
            let _ = reply.send(result);
            fate
        });
        self.jobs.send(job).map_err(|_| NamespaceError::ThreadEnded)?;
        answer.recv().map_err(|_| NamespaceError::ThreadEnded)
    }
}
