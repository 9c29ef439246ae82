//! The named network namespaces of the node, as they are.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use netlink::Kernel;
use schemas::intent::{LinkIdentity, NetnsIdentity};
use schemas::name::Mac;

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Namespace {
    /// Which one.
    pub(super) identity: NetnsIdentity,
    /// Its interfaces by name.
    pub(super) nics: BTreeMap<String, Nic>,
}

/// An interface in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nic {
    /// How to know it again.
    pub(super) link: LinkIdentity,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
}

impl Namespace {
    /// Whether an interface has an address.
    pub(super) fn has(&self, ifname: &str, address: IpAddr) -> bool {
        self.nics.get(ifname).is_some_and(|nic| nic.addresses.contains(&address))
    }
}

/// All of these folders; nothing in them is changed. Blocking; a tenth of a millisecond for each.
///
/// # Errors
/// A folder that is there cannot be read: what it holds would not be known.
pub(super) fn find(kernel: &Kernel, dirs: &[PathBuf]) -> io::Result<Vec<Namespace>> {
    let mut found: BTreeMap<u64, Namespace> = BTreeMap::new();
    for dir in dirs {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            match look(kernel, &path.to_string_lossy()) {
                // One namespace may have several names.
                Ok(namespace) => drop(found.entry(namespace.identity.cookie).or_insert(namespace)),
                // Not every file there is a namespace, and namespaces go.
                Err(error) => tracing::debug!(path = %path.display(), error, "cannot be looked at"),
            }
        }
    }
    Ok(found.into_values().collect())
}

fn look(kernel: &Kernel, path: &str) -> Result<Namespace, String> {
    let identity = kernel.identify(path).map_err(|error| error.to_string())?;
    let mut pass = kernel.pass(&identity).map_err(|error| error.to_string())?;
    let observed = pass.observe(&[]).map_err(|error| error.to_string())?;
    let addresses_of = |name: &str| {
        observed.addresses.iter().filter(|address| address.dev == name).map(|address| address.address.ip()).collect()
    };
    let nic = |link: &plan::object::Link| {
        let identity = LinkIdentity { index: link.index, mac: link.mac.unwrap_or(Mac([0; 6])) };
        (link.name.clone(), Nic { link: identity, addresses: addresses_of(&link.name) })
    };
    Ok(Namespace { identity, nics: observed.links.iter().map(nic).collect() })
}
