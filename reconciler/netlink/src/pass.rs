//! The way to the kernel: [`Kernel`] for the node, one [`Pass`] for one look at one namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;
use plan::FilterTable;
use plan::object::Observed;
use schemas::intent::NetnsIdentity;

use crate::attributes::{Malformed, split, u32_of};
use crate::exchange::{Exchange, ExchangeError, Request};
use crate::namespace::{Door, NamespaceError, Namespaces};
use crate::observe::{self, ObserveError, RouteScope};
use crate::ports::Ports;
use crate::{filter, sysctl};

/// Why the kernel cannot be talked to at all.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The thread that enters namespaces did not start.
    #[error("cannot start the thread that enters namespaces: {0}")]
    Thread(io::Error),
    /// The boot ID could not be read.
    #[error("cannot read /proc/sys/kernel/random/boot_id: {0}")]
    BootId(io::Error),
    /// The node's socket could not be opened.
    #[error("cannot open a netlink socket on the node: {0}")]
    Socket(#[from] ExchangeError),
}

/// The kernel as seen from the namespace in which this was made: the node's. Cheap to clone; all calls block for
/// microseconds, a few milliseconds where the kernel must wait, and may come from any thread.
#[derive(Clone)]
pub struct Kernel(Arc<Node>);

struct Node {
    namespaces: Namespaces,
    /// For what only the node's namespace can do for another one: making links in it, naming it.
    socket: Mutex<Exchange>,
    boot_id: String,
    changes: AtomicU64,
    ports: Arc<Ports>,
}

impl Kernel {
    /// Takes the calling thread's namespace for the node's.
    pub fn new() -> Result<Self, KernelError> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(KernelError::BootId)?;
        Ok(Self(Arc::new(Node {
            namespaces: Namespaces::start().map_err(KernelError::Thread)?,
            socket: Mutex::new(Exchange::open()?),
            boot_id: boot_id.trim().to_owned(),
            changes: AtomicU64::new(0),
            ports: Arc::new(Ports::new()),
        })))
    }

    /// Which network namespace is at the path now.
    pub fn identify(&self, path: &str) -> Result<NetnsIdentity, NamespaceError> {
        let (_, _, cookie) = self.open(path)?;
        Ok(NetnsIdentity { path: path.to_owned(), cookie, boot_id: self.0.boot_id.clone() })
    }

    /// Opens exactly that namespace for one pass. Gone when another one, or none, is at its path by now.
    pub fn pass(&self, identity: &NetnsIdentity) -> Result<Pass, NamespaceError> {
        let gone = |how| NamespaceError::Gone { path: identity.path.clone(), how };
        if identity.boot_id != self.0.boot_id {
            return Err(gone("the node was booted since"));
        }
        let (door, exchange, cookie) = self.open(&identity.path).map_err(|error| match error {
            NamespaceError::NotANamespace { .. } => gone("the path holds no network namespace any more"),
            error => error,
        })?;
        if cookie != identity.cookie {
            return Err(gone("the path holds another one"));
        }
        Ok(Pass { kernel: self.clone(), door: Some(door), exchange, filter: None })
    }

    /// Opens the node's own namespace.
    pub fn node_pass(&self) -> Result<Pass, NamespaceError> {
        let opened = self.0.namespaces.at_home(Exchange::open)?;
        let exchange = opened.map_err(|source| NamespaceError::Socket { path: "of the node".into(), source })?;
        Ok(Pass { kernel: self.clone(), door: None, exchange, filter: None })
    }

    /// The number by which events name that namespace; see [`Pass::nsid`].
    pub fn nsid_of(&self, identity: &NetnsIdentity) -> Result<i32, NamespaceError> {
        let pass = self.pass(identity)?;
        pass.nsid().map_err(|source| NamespaceError::Socket { path: identity.path.clone(), source })
    }

    /// The boot that this is.
    pub fn boot_id(&self) -> &str {
        &self.0.boot_id
    }

    /// How many changes were sent since start: netlink messages and sysctls, refused ones included. A converged system
    /// sends none.
    pub fn changes_sent(&self) -> u64 {
        self.0.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn at_home<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NamespaceError> {
        self.0.namespaces.at_home(inside)
    }

    /// By which events tell what passes over pods have changed themselves.
    pub(crate) fn ports(&self) -> Arc<Ports> {
        Arc::clone(&self.0.ports)
    }

    pub(crate) fn count_changes(&self, changes: usize) {
        self.0.changes.fetch_add(u64::try_from(changes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn with_node_socket<T>(&self, ask: impl FnOnce(&mut Exchange) -> T) -> T {
        // A socket is good whatever became of its last user: answers are told apart by number.
        ask(&mut self.0.socket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn open(&self, path: &str) -> Result<(Door, Exchange, u64), NamespaceError> {
        let door = Door::open(path)?;
        let socket_error = |source| NamespaceError::Socket { path: path.to_owned(), source };
        let port = self.0.ports.give();
        let exchange = self.0.namespaces.enter(&door, move || Exchange::open_at(port))?.map_err(socket_error)?;
        let cookie = exchange.cookie().map_err(socket_error)?;
        Ok((door, exchange, cookie))
    }
}

/// One look at one namespace and the steps that follow from it. It holds a socket and a descriptor of the namespace,
/// which keep it alive: drop it when the pass is over.
pub struct Pass {
    kernel: Kernel,
    /// None is the node's.
    door: Option<Door>,
    exchange: Exchange,
    /// For nftables, once it is needed.
    filter: Option<Exchange>,
}

impl Pass {
    /// The namespace, whole, with these sysctls (paths below /proc/sys).
    pub fn observe(&mut self, sysctls: &[String]) -> Result<Observed, ObserveError> {
        self.observe_scope(&RouteScope::All, sysctls)
    }

    /// The same for a node, whose tables may be large: only routes of table main and of these tables, whoever made
    /// them, and dragline's own in all tables.
    pub fn observe_node(&mut self, tables: &BTreeSet<u32>, sysctls: &[String]) -> Result<Observed, ObserveError> {
        self.observe_scope(&RouteScope::Node(tables.clone()), sysctls)
    }

    fn observe_scope(&mut self, scope: &RouteScope, sysctls: &[String]) -> Result<Observed, ObserveError> {
        let observed = observe::observe(&mut self.exchange, scope)?;
        Ok(Observed { sysctls: self.read_sysctls(sysctls)?, ..observed })
    }

    /// Our nftables table, whole; None when there is none.
    ///
    /// # Errors
    /// When the kernel does not give it whole. A kernel without nf_tables has no table.
    pub fn observe_filter(&mut self) -> Result<Option<FilterTable>, ObserveError> {
        let observed = self.filter().and_then(filter::observe);
        observed.map_err(|source| ObserveError::Dump { kind: "nftables", source })
    }

    /// Puts our table there, or takes it away.
    pub(crate) fn change_filter(&mut self, wanted: Option<&FilterTable>) -> Result<(), ExchangeError> {
        self.kernel.count_changes(1);
        filter::change(self.filter()?, wanted)
    }

    fn filter(&mut self) -> Result<&mut Exchange, ExchangeError> {
        let opened = match self.filter.take() {
            Some(opened) => opened,
            None => {
                let inside = self.inside(|| Exchange::open_protocol(netlink_sys::protocols::NETLINK_NETFILTER));
                inside.map_err(|error| ExchangeError::Unreachable(error.to_string()))??
            }
        };
        Ok(self.filter.insert(opened))
    }

    /// The values of sysctls; those that do not exist are missing.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn sysctls(&self, paths: &[String]) -> Result<BTreeMap<String, String>, ObserveError> {
        self.read_sysctls(paths)
    }

    fn read_sysctls(&self, paths: &[String]) -> Result<BTreeMap<String, String>, ObserveError> {
        if paths.is_empty() {
            return Ok(BTreeMap::new());
        }
        let paths = paths.to_vec();
        self.inside(move || {
            let mut values = BTreeMap::new();
            for path in paths {
                match sysctl::read(&path) {
                    Ok(Some(value)) => drop(values.insert(path, value)),
                    Ok(None) => {}
                    Err(source) => return Err(ObserveError::Sysctl { path, source }),
                }
            }
            Ok(values)
        })?
    }

    /// Runs a short closure in the pass's namespace.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NamespaceError> {
        match &self.door {
            Some(door) => self.kernel.0.namespaces.enter(door, inside),
            None => self.kernel.at_home(inside),
        }
    }

    /// The number by which the node's events name this namespace; given now if it has none. The kernel keeps it as long
    /// as the namespace lives, also over a restart. It does not keep the namespace alive.
    ///
    /// # Errors
    /// EINVAL for the node's own namespace, which has no number.
    pub fn nsid(&self) -> Result<i32, ExchangeError> {
        let Some(door) = &self.door else {
            return Err(ExchangeError::Refused { errno: Errno::EINVAL, text: "the node has no number".into() });
        };
        let descriptor = door.descriptor().as_raw_fd();
        self.kernel.with_node_socket(|exchange| {
            if let Some(known) = known_nsid(exchange, descriptor)? {
                return Ok(known);
            }
            let mut message = nsid_message(descriptor);
            message.attributes.push(NsidAttribute::Id(-1));
            let request = Request { message: RouteNetlinkMessage::NewNsId(message), flags: 0 };
            match exchange.change(vec![request]).pop() {
                // EEXIST: somebody else's veth into it was faster.
                Some(Err(error)) if error.errno() != Some(Errno::EEXIST) => Err(error),
                _ => known_nsid(exchange, descriptor)?
                    .ok_or(ExchangeError::Malformed(Malformed::Bytes("no number after giving one"))),
            }
        })
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(crate) fn exchange(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.door.as_ref().map(|door| door.descriptor().as_raw_fd())
    }

    /// For texts: where this is.
    pub(crate) fn place(&self) -> &str {
        self.door.as_ref().map_or("the node", Door::path)
    }
}

fn nsid_message(descriptor: RawFd) -> NsidMessage {
    let mut message = NsidMessage::default();
    // A descriptor is never negative.
    message.attributes.push(NsidAttribute::Fd(descriptor.unsigned_abs()));
    message
}

fn known_nsid(exchange: &mut Exchange, descriptor: RawFd) -> Result<Option<i32>, ExchangeError> {
    let payload = exchange.ask(RouteNetlinkMessage::GetNsId(nsid_message(descriptor)))?;
    Ok(parse_nsid(&payload)?.filter(|nsid| *nsid >= 0))
}

/// The number in a message about a namespace's number.
pub(crate) fn parse_nsid(payload: &[u8]) -> Result<Option<i32>, Malformed> {
    const NETNSA_NSID: u16 = 1;
    let (_, attributes) = split::<4>(payload)?;
    for attribute in attributes {
        if let (NETNSA_NSID, value) = attribute? {
            return Ok(Some(u32_of(value)?.cast_signed()));
        }
    }
    Ok(None)
}
