//! Addresses in use that no record tells of: what the store has lost, the kernel may still have.
//!
//! A store that was damaged in both copies, removed, or put back to yesterday does not know of pods that live. No address
//! that stands in any named network namespace of the node is given to anybody as long as it stands there, whoever it may
//! belong to.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use netlink::Kernel;

use crate::agent::Agent;
use crate::ledger::Ledger;

/// Where runtimes keep the namespaces of pods, unless told otherwise.
pub const NAMESPACES: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Looks for them in all named namespaces. Blocking; a tenth of a millisecond for each.
pub fn find(kernel: &Kernel, ledger: &Ledger, dirs: &[PathBuf]) {
    ledger.estrange(addresses(kernel, dirs));
}

/// Looks again while there are any, so that those come back whose namespaces have gone.
pub async fn find_again(agent: &Arc<Agent>) {
    if agent.ledger.estranged().is_empty() {
        return;
    }
    let agent = Arc::clone(agent);
    if let Err(error) =
        tokio::task::spawn_blocking(move || find(&agent.kernel, &agent.ledger, &agent.config.netns_dirs)).await
    {
        tracing::error!(%error, "the look for addresses in use ended badly");
    }
}

fn addresses(kernel: &Kernel, dirs: &[PathBuf]) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for dir in dirs {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "namespaces cannot be looked at: addresses in use may be given again");
                continue;
            }
        };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            match addresses_in(kernel, &path.to_string_lossy()) {
                Ok(addresses) => found.extend(addresses),
                // Not every file there is a namespace, and namespaces go.
                Err(error) => tracing::debug!(path = %path.display(), error, "cannot be looked at"),
            }
        }
    }
    found
}

fn addresses_in(kernel: &Kernel, path: &str) -> Result<Vec<IpAddr>, String> {
    let identity = kernel.identify(path).map_err(|error| error.to_string())?;
    let mut pass = kernel.pass(&identity).map_err(|error| error.to_string())?;
    let observed = pass.observe(&[]).map_err(|error| error.to_string())?;
    let addresses = observed.addresses.iter().map(|found| found.address.ip());
    Ok(addresses.filter(|address| !address.is_loopback()).collect())
}
