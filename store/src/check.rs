//! What must hold between the records of a store, checked at open and on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use schemas::intent::{Allocation, AllocationState, Attachment, Sandbox};
use schemas::lease::Lease;
use schemas::name::{AttachmentKey, ContainerId};

use crate::change::Change;
use crate::live::RawRecord;
use crate::snapshot::Snapshot;

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// An address is allocated to an attachment that there is not.
    AllocationWithoutAttachment {
        /// The address.
        address: IpAddr,
        /// Whose it is said to be.
        owner: AttachmentKey,
    },
    /// An attachment has an address of a pool that is not allocated.
    AddressWithoutAllocation {
        /// The address.
        address: IpAddr,
        /// Its pool.
        pool: String,
        /// Who has it.
        owner: AttachmentKey,
    },
    /// An address is had by two.
    AddressTwice {
        /// The address.
        address: IpAddr,
        /// Whose it is by its allocation, or the first who has it.
        owner: AttachmentKey,
        /// Who has it as well.
        also: AttachmentKey,
    },
    /// An attachment's sandbox is not there.
    AttachmentWithoutSandbox {
        /// The attachment.
        key: AttachmentKey,
    },
    /// An intent or outcome has a generation that its sandbox has not given yet.
    GenerationAhead {
        /// The sandbox.
        container: ContainerId,
        /// What it says it has given last.
        given: u64,
        /// What is found.
        found: u64,
    },
    /// Two attachments of a sandbox have one place in its order, and so one table.
    OrdinalTwice {
        /// One.
        key: AttachmentKey,
        /// The other.
        also: AttachmentKey,
        /// Their place.
        ordinal: u32,
    },
    /// An allocation of a pool of which the node holds other addresses.
    OutsideLeases {
        /// The address.
        address: IpAddr,
        /// Its pool.
        pool: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllocationWithoutAttachment { address, owner } => {
                write!(f, "address {address} is allocated to {owner}, and there is no such attachment")
            }
            Self::AddressWithoutAllocation { address, pool, owner } => {
                write!(f, "attachment {owner} has address {address} of pool {pool}, which is not allocated")
            }
            Self::AddressTwice { address, owner, also } => {
                write!(f, "address {address} is {owner}'s, and attachment {also} has it as well")
            }
            Self::AttachmentWithoutSandbox { key } => write!(f, "attachment {key} has no sandbox"),
            Self::GenerationAhead { container, given, found } => {
                write!(f, "sandbox {container} has given generations up to {given}, and {found} is there")
            }
            Self::OrdinalTwice { key, also, ordinal } => {
                write!(f, "attachments {key} and {also} both have place {ordinal} in their sandbox")
            }
            Self::OutsideLeases { address, pool } => {
                write!(f, "address {address} of pool {pool} is allocated, and no lease of the pool covers it")
            }
        }
    }
}

/// What is kept of an attachment.
struct Attached {
    generation: u64,
    ordinal: u32,
    /// Addresses of our pools that it holds.
    holds: Vec<(IpAddr, String)>,
}

/// Records on their way through the check.
#[derive(Default)]
pub(crate) struct Checker {
    attachments: BTreeMap<AttachmentKey, Attached>,
    allocations: BTreeMap<IpAddr, (AttachmentKey, String)>,
    /// The generation given last and that of the outcome.
    sandboxes: BTreeMap<ContainerId, (u64, u64)>,
    leases: BTreeMap<String, Vec<Lease>>,
}

impl Checker {
    /// Takes a record; one that cannot be read counts as not there.
    pub(crate) fn take(&mut self, record: &RawRecord) {
        let mut one = Snapshot::default();
        one.take(record);
        self.take_all(&one);
    }

    fn take_all(&mut self, snapshot: &Snapshot) {
        snapshot.attachments.iter().for_each(|attachment| self.attachment(attachment));
        for Allocation { address, pool, owner, .. } in &snapshot.allocations {
            self.allocations.insert(*address, (owner.clone(), pool.clone()));
        }
        for Sandbox { container, generation, outcome, .. } in &snapshot.sandboxes {
            self.sandboxes.insert(container.clone(), (*generation, outcome.generation));
        }
        for lease in &snapshot.leases {
            self.leases.entry(lease.pool.clone()).or_default().push(lease.clone());
        }
    }

    fn attachment(&mut self, attachment: &Attachment) {
        let ours = attachment.addresses.iter().filter(|assigned| attachment.allocated && !assigned.pool.is_empty());
        let holds = ours.map(|assigned| (assigned.address.ip(), assigned.pool.clone())).collect();
        let attached = Attached { generation: attachment.generation, ordinal: attachment.ordinal, holds };
        self.attachments.insert(attachment.key.clone(), attached);
    }

    /// What does not hold, in the order of keys.
    pub(crate) fn finish(self) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut holders: BTreeMap<IpAddr, &AttachmentKey> = BTreeMap::new();
        let mut places: BTreeMap<(&ContainerId, u32), &AttachmentKey> = BTreeMap::new();
        let mut highest: BTreeMap<&ContainerId, u64> = BTreeMap::new();
        for (key, attached) in &self.attachments {
            for (address, pool) in &attached.holds {
                let owner = self.allocations.get(address).map(|(owner, _)| owner);
                match owner.or_else(|| holders.get(address).copied()) {
                    Some(owner) if owner != key => violations.push(Violation::AddressTwice {
                        address: *address,
                        owner: owner.clone(),
                        also: key.clone(),
                    }),
                    Some(_) => {}
                    None => violations.push(Violation::AddressWithoutAllocation {
                        address: *address,
                        pool: pool.clone(),
                        owner: key.clone(),
                    }),
                }
                holders.entry(*address).or_insert(key);
            }
            if !self.sandboxes.contains_key(&key.container) {
                violations.push(Violation::AttachmentWithoutSandbox { key: key.clone() });
            }
            if let Some(first) = places.insert((&key.container, attached.ordinal), key) {
                let (key, also) = (first.clone(), key.clone());
                violations.push(Violation::OrdinalTwice { key, also, ordinal: attached.ordinal });
            }
            let generation = highest.entry(&key.container).or_default();
            *generation = (*generation).max(attached.generation);
        }
        for (address, (owner, pool)) in &self.allocations {
            if !self.attachments.contains_key(owner) {
                violations.push(Violation::AllocationWithoutAttachment { address: *address, owner: owner.clone() });
            }
            let leases = self.leases.get(pool);
            if leases.is_some_and(|leases| !leases.iter().any(|lease| lease.covers(*address))) {
                violations.push(Violation::OutsideLeases { address: *address, pool: pool.clone() });
            }
        }
        for (container, &(given, outcome)) in &self.sandboxes {
            let found = outcome.max(highest.get(container).copied().unwrap_or_default());
            if found > given {
                violations.push(Violation::GenerationAhead { container: container.clone(), given, found });
            }
        }
        violations
    }
}

/// What does not hold between the records of a snapshot.
pub fn check(snapshot: &Snapshot) -> Vec<Violation> {
    let mut checker = Checker::default();
    checker.take_all(snapshot);
    checker.finish()
}

/// The change that mends what has one right answer, and what is then left for a person to decide.
///
/// An address that one attachment has and nobody is said to own becomes its allocation; a sandbox's generation is raised to
/// the highest that is found. Everything else has more than one answer: who of two may keep an address, for example.
pub fn repair(snapshot: &Snapshot) -> (Change, Vec<Violation>) {
    let violations = check(snapshot);
    let contested: BTreeSet<IpAddr> = violations
        .iter()
        .filter_map(|violation| match violation {
            Violation::AddressTwice { address, .. } => Some(*address),
            _ => None,
        })
        .collect();
    let mut change = Change::new();
    let mut left = Vec::new();
    for violation in violations {
        match &violation {
            Violation::AddressWithoutAllocation { address, pool, owner } if !contested.contains(address) => {
                let (address, pool, owner) = (*address, pool.clone(), owner.clone());
                change = change.put_allocation(&Allocation { address, pool, owner, state: AllocationState::Held });
            }
            Violation::GenerationAhead { container, found, .. } => {
                let sandbox = snapshot.sandboxes.iter().find(|sandbox| sandbox.container == *container);
                if let Some(sandbox) = sandbox {
                    change = change.put_sandbox(&Sandbox { generation: *found, ..sandbox.clone() });
                }
            }
            _ => left.push(violation),
        }
    }
    (change, left)
}
