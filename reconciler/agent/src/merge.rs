//! `dragline restore --merge`: what of a dump still lives is added to what the store has.
//!
//! The dump is the least of the witnesses. A sandbox of it is taken only where the store has none of that name, its network
//! namespace is there and is the same one (cookie and boot), no address of it is another's in the store, and the leases
//! that the store has cover its addresses. What the dump says of anything else is told and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::net::IpAddr;
use std::path::Path;

use netlink::Kernel;
use schemas::intent::{Allocation, Attachment, NetnsIdentity, Sandbox};
use schemas::name::ContainerId;
use store::restore::{RestoreError, RestoreOptions, extend, read_dump};
use store::{Change, DumpError, Snapshot};

/// Why nothing was merged; the store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The dump is refused, or the store cannot be written.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] DumpError),
    /// Without a look at the namespaces nothing can be merged.
    #[error("the network namespaces cannot be looked at: {0}; --merge needs CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    Kernel(String),
}

/// What was merged.
#[derive(Debug, Default)]
pub struct Merged {
    /// Sandboxes that were added.
    pub added: usize,
    /// What was left out and why, a sentence each.
    pub sentences: Vec<String>,
    changes: Vec<Change>,
}

/// Adds what of a dump still lives to the store in `dir`, by one rename.
///
/// # Errors
/// When the dump is refused, or store or kernel cannot be read; the store is as it was.
pub fn restore(dir: &Path, input: impl BufRead, options: &RestoreOptions) -> Result<Merged, MergeError> {
    let (_, records) = read_dump(input, options)?;
    let (current, recovery) = store::load_offline(dir)?;
    let kernel = Kernel::new().map_err(|error| MergeError::Kernel(error.to_string()))?;
    let mut merged = merge(&current, records.snapshot(), |identity| kernel.pass(identity).is_ok());
    merged.sentences.splice(0..0, recovery.sentences());
    if !merged.changes.is_empty() {
        extend(dir, &options.node, &merged.changes)?;
    }
    Ok(merged)
}

/// A sandbox of the dump with all that belongs to it.
struct Whole {
    sandbox: Sandbox,
    attachments: Vec<Attachment>,
    allocations: Vec<Allocation>,
}

/// What of a dump's records is added to the store's, by which changes. `lives` says whether a namespace is there.
fn merge(current: &Snapshot, dump: Snapshot, lives: impl Fn(&NetnsIdentity) -> bool) -> Merged {
    let mut merged = Merged::default();
    let known: BTreeSet<&ContainerId> = current.sandboxes.iter().map(|sandbox| &sandbox.container).collect();
    let taken: BTreeMap<IpAddr, &Allocation> =
        current.allocations.iter().map(|allocation| (allocation.address, allocation)).collect();
    let mut history: BTreeMap<ContainerId, Vec<_>> = BTreeMap::new();
    for entry in dump.history {
        history.entry(entry.container.clone()).or_default().push(entry);
    }
    for whole in wholes(dump.sandboxes, dump.attachments, dump.allocations) {
        let container = &whole.sandbox.container;
        if known.contains(container) {
            continue;
        }
        if let Some(reason) = refusal(&whole, current, &taken, &lives) {
            merged.sentences.push(format!("sandbox {container} is left out: {reason}"));
            continue;
        }
        let mut change = Change::new().put_sandbox(&whole.sandbox);
        change = whole.attachments.iter().fold(change, |change, attachment| change.put_attachment(attachment));
        change = whole.allocations.iter().fold(change, |change, allocation| change.put_allocation(allocation));
        let told = history.get(container).into_iter().flatten();
        merged.changes.push(told.fold(change, |change, entry| change.put_history(entry)));
        merged.added += 1;
    }
    merged
}

fn wholes(sandboxes: Vec<Sandbox>, attachments: Vec<Attachment>, allocations: Vec<Allocation>) -> Vec<Whole> {
    let whole = |sandbox: Sandbox| Whole {
        attachments: attachments.iter().filter(|it| it.key.container == sandbox.container).cloned().collect(),
        allocations: allocations.iter().filter(|it| it.owner.container == sandbox.container).cloned().collect(),
        sandbox,
    };
    sandboxes.into_iter().map(whole).collect()
}

fn refusal(
    whole: &Whole,
    current: &Snapshot,
    taken: &BTreeMap<IpAddr, &Allocation>,
    lives: impl Fn(&NetnsIdentity) -> bool,
) -> Option<String> {
    match &whole.sandbox.netns {
        None => return Some("the dump does not know its namespace".to_owned()),
        Some(identity) if !lives(identity) => return Some(format!("its namespace {} is gone", identity.path)),
        Some(_) => {}
    }
    for allocation in &whole.allocations {
        let address = allocation.address;
        if let Some(other) = taken.get(&address) {
            return Some(format!("its address {address} is {}'s in the store", other.owner));
        }
        let mut leases = current.leases.iter().filter(|lease| lease.pool == allocation.pool).peekable();
        if leases.peek().is_some() && !leases.any(|lease| lease.covers(address)) {
            return Some(format!("its address {address} lies in no lease that the node holds of {}", allocation.pool));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use schemas::intent::{AllocationState, Outcome, PodRef};
    use schemas::lease::Lease;
    use schemas::name::AttachmentKey;

    use super::*;

    fn snapshot(container: &str, address: &str) -> Snapshot {
        let container: ContainerId = container.parse().unwrap();
        let key = AttachmentKey { container: container.clone(), ifname: "net1".parse().unwrap() };
        let netns = NetnsIdentity { path: format!("/run/netns/{container}"), cookie: 7, boot_id: "boot".into() };
        let sandbox = Sandbox {
            container,
            netns: Some(netns),
            baseline: None,
            auxiliary: None,
            sysctls_before: Vec::new(),
            generation: 1,
            outcome: Outcome::default(),
        };
        let attachment = Attachment {
            key: key.clone(),
            network: "n".parse().unwrap(),
            pod: PodRef::default(),
            ordinal: 0,
            generation: 1,
            addresses: Vec::new(),
            routes: Vec::new(),
            allocated: true,
            link: None,
            link_wanted: false,
            learned: schemas::intent::Learned::default(),
            foreign_link: None,
            coordinate: None,
            uplink: None,
            closing: false,
            prepared: false,
        };
        let (address, state) = (address.parse().unwrap(), AllocationState::Held);
        let allocation = Allocation { address, pool: "pool".into(), owner: key, state };
        Snapshot {
            sandboxes: vec![sandbox],
            attachments: vec![attachment],
            allocations: vec![allocation],
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_lives_is_added_and_everything_else_is_told() {
        let current = snapshot("known", "10.0.0.1");
        let added = |dump: Snapshot, lives: bool| {
            let merged = merge(&current, dump, |_| lives);
            (merged.added, merged.sentences.join(";"))
        };
        assert_eq!(added(snapshot("other", "10.0.0.2"), true), (1, String::new()));
        assert_eq!(added(snapshot("known", "10.0.0.9"), true), (0, String::new()));
        let gone = "sandbox other is left out: its namespace /run/netns/other is gone";
        assert_eq!(added(snapshot("other", "10.0.0.2"), false), (0, gone.to_owned()));
        let taken = "sandbox other is left out: its address 10.0.0.1 is known/net1's in the store";
        assert_eq!(added(snapshot("other", "10.0.0.1"), true), (0, taken.to_owned()));
    }

    #[test]
    fn leases_of_the_store_count_more_than_the_dump() {
        let mut current = snapshot("known", "10.0.0.1");
        let [first, last] = ["10.0.0.0", "10.0.0.3"].map(|address| address.parse().unwrap());
        current.leases = vec![Lease { pool: "pool".into(), first, last, epoch: 1 }];
        assert_eq!(merge(&current, snapshot("other", "10.0.0.2"), |_| true).added, 1);
        let merged = merge(&current, snapshot("other", "10.0.0.4"), |_| true);
        assert!(merged.sentences[0].ends_with("its address 10.0.0.4 lies in no lease that the node holds of pool"));
    }
}
