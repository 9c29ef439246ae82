//! After the store was found damaged: addresses in use that it may have forgotten.
//!
//! What the store has lost, the kernel may still have. No address that stands in any named network namespace of the node is
//! given to anybody while this agent runs, whoever it may belong to.

use std::net::IpAddr;

use netlink::Kernel;

use crate::ledger::Ledger;

/// Where runtimes keep the namespaces of pods.
const NAMESPACES: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];

/// Finds the addresses of all named namespaces, and takes them out of what may be given.
pub fn find(kernel: &Kernel, ledger: &Ledger) {
    for dir in NAMESPACES {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::error!(dir, %error, "namespaces cannot be looked at: addresses in use may be given again");
                continue;
            }
        };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            match addresses(kernel, &path.to_string_lossy()) {
                Ok(found) => {
                    tracing::info!(path = %path.display(), addresses = ?found, "these addresses are in use");
                    ledger.estrange(found);
                }
                // Not every file there is a namespace.
                Err(error) => tracing::warn!(path = %path.display(), error, "cannot be looked at"),
            }
        }
    }
}

fn addresses(kernel: &Kernel, path: &str) -> Result<Vec<IpAddr>, String> {
    let identity = kernel.identify(path).map_err(|error| error.to_string())?;
    let mut pass = kernel.pass(&identity).map_err(|error| error.to_string())?;
    let observed = pass.observe(&[]).map_err(|error| error.to_string())?;
    let addresses = observed.addresses.iter().map(|found| found.address.ip());
    Ok(addresses.filter(|address| !address.is_loopback()).collect())
}
