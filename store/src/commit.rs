//! The one committer: many waiters share one transaction and one sync, and hear of it only after that sync.
//!
//! sled's `flush` hands the log to the kernel but leaves file metadata and the disk's cache alone, so a power cut may take
//! it back; `fdatasync` on a descriptor of our own makes it durable. A flush or sync that failed says nothing about what
//! is on disk, and the kernel reports it only once: from then on nothing is acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use schemas::intent::Allocation;
use schemas::name::AttachmentKey;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional, TransactionalTree};

use crate::change::{Change, Claim};
use crate::codec::{self, DecodeError, EncodeError};
use crate::counters::Counters;
use crate::queue::{GROUP_BYTES, Queue, Waiting};
use crate::trees::{TreeName, Trees};

/// A change that was not committed: nothing of it is in the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The address is another owner's.
    #[error("the address {address} is allocated to {owner}: take another, or wait until it has been released")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        owner: AttachmentKey,
    },
    /// The address may be another owner's: its record cannot be read.
    #[error("the store's record of the address {address} is unreadable, so it counts as taken: {source}")]
    UnreadableAllocation {
        /// The address.
        address: IpAddr,
        /// What is wrong with the record.
        source: DecodeError,
    },
    /// A record of the change cannot be encoded.
    #[error(transparent)]
    Record(#[from] EncodeError),
    /// The change as a whole is too large for one transaction.
    #[error("a change of {bytes} bytes is more than the {GROUP_BYTES} of one transaction: split it")]
    ChangeTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// More waits than the disk takes.
    #[error("the store is overloaded: {changes} changes of {bytes} bytes wait for the disk; try again later")]
    Overloaded {
        /// How many changes wait.
        changes: usize,
        /// Their size together.
        bytes: usize,
    },
    /// An earlier write failed, and what is on disk is unknown until the store has been opened again.
    #[error("the store takes no more changes because a write failed ({reason}): see to the disk, then restart")]
    Poisoned {
        /// The failure.
        reason: Arc<str>,
    },
    /// The store is being closed.
    #[error("the store is closed: the agent is stopping")]
    Closed,
}

impl CommitError {
    /// The same change may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded { .. } => true,
            Self::AddressTaken { .. }
            | Self::UnreadableAllocation { .. }
            | Self::Record(_)
            | Self::ChangeTooLarge { .. }
            | Self::Poisoned { .. }
            | Self::Closed => false,
        }
    }
}

/// Makes durable what sled has flushed.
pub(crate) type SyncDisk = Box<dyn FnMut() -> io::Result<()> + Send>;

/// The committer's thread; dropping it commits what waits and ends it.
pub(crate) struct Committer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread.
    pub(crate) fn start(trees: Trees, sync: SyncDisk, counters: Arc<Counters>) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let disk = Disk { trees, sync, counters };
        let thread = std::thread::Builder::new().name("store-commit".to_owned()).spawn({
            let queue = queue.clone();
            move || disk.serve(&queue)
        })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Where changes are put.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the store's committer ended by a panic");
        }
    }
}

struct Disk {
    trees: Trees,
    sync: SyncDisk,
    counters: Arc<Counters>,
}

/// What a transaction did: an answer for each change, and the bytes that were written.
struct Applied {
    answers: Vec<Result<(), CommitError>>,
    bytes: u64,
}

impl Disk {
    fn serve(mut self, queue: &Queue) {
        while let Some(group) = queue.next_group() {
            let (changes, dones): (Vec<_>, Vec<_>) =
                group.into_iter().map(|Waiting { change, done }| (change, done)).unzip();
            let answers = self.commit(queue, &changes);
            for (done, answer) in dones.into_iter().zip(answers) {
                if catch_unwind(AssertUnwindSafe(|| done(answer))).is_err() {
                    tracing::error!("who waited for a commit panicked on hearing of it");
                }
            }
        }
    }

    fn commit(&mut self, queue: &Queue, changes: &[Change]) -> Vec<Result<(), CommitError>> {
        let refuse = |reason: Arc<str>| {
            let answer = || Err(CommitError::Poisoned { reason: reason.clone() });
            changes.iter().map(|_| answer()).collect()
        };
        if let Some(reason) = queue.poisoned() {
            return refuse(reason);
        }
        // sled asserts its way out of states that it did not foresee; the agent lives on and can still say so.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.write_durably(changes)))
            .unwrap_or_else(|_| Err("sled panicked while writing".to_owned()));
        match outcome {
            Ok(answers) => {
                let acknowledged = answers.iter().filter(|answer| answer.is_ok()).count();
                Counters::add(&self.counters.changes, acknowledged as u64);
                answers
            }
            Err(reason) => {
                tracing::error!(%reason, "the store takes no more changes: a write failed");
                let reason = Arc::<str>::from(reason);
                queue.poison(reason.clone());
                refuse(reason)
            }
        }
    }

    fn write_durably(&mut self, changes: &[Change]) -> Result<Vec<Result<(), CommitError>>, String> {
        let applied = apply(&self.trees, changes).map_err(|error| format!("transaction: {error}"))?;
        if applied.bytes > 0 {
            self.trees.tree(TreeName::Meta).flush().map_err(|error| format!("flush: {error}"))?;
            (self.sync)().map_err(|error| format!("fdatasync: {error}"))?;
            Counters::add(&self.counters.commits, 1);
            Counters::add(&self.counters.syncs, 1);
            Counters::add(&self.counters.bytes, applied.bytes);
        }
        Ok(applied.answers)
    }
}

/// One transaction over all trees for all changes. A change that is refused leaves no trace and spoils no other; a group
/// that changes nothing is not written at all: what it wants has been durable since it was written.
fn apply(trees: &Trees, changes: &[Change]) -> Result<Applied, sled::Error> {
    let outcome = trees.as_slice().transaction(|view| {
        let mut applied = Applied { answers: Vec::with_capacity(changes.len()), bytes: 0 };
        for change in changes {
            let answer = match refusal(view, change)? {
                Some(error) => Err(error),
                None => {
                    applied.bytes += put(view, change)?;
                    Ok(())
                }
            };
            applied.answers.push(answer);
        }
        // A transaction without writes still appends to sled's log; an aborted one does not.
        if applied.bytes == 0 { Err(ConflictableTransactionError::Abort(applied)) } else { Ok(applied) }
    });
    match outcome {
        Ok(applied) | Err(TransactionError::Abort(applied)) => Ok(applied),
        Err(TransactionError::Storage(error)) => Err(error),
    }
}

type Transaction<T> = Result<T, sled::transaction::UnabortableTransactionError>;

/// Writes what differs, and says how many bytes that was.
fn put(view: &[TransactionalTree], change: &Change) -> Transaction<u64> {
    let mut bytes = 0;
    for op in &change.ops {
        let tree = &view[op.tree as usize];
        if tree.get(&op.key)?.as_deref() == op.value.as_deref() {
            continue;
        }
        bytes += (op.key.len() + op.value.as_ref().map_or(0, Vec::len)) as u64;
        match &op.value {
            Some(value) => tree.insert(op.key.as_slice(), value.as_slice())?,
            None => tree.remove(op.key.as_slice())?,
        };
    }
    Ok(bytes)
}

/// Why a change cannot be, judged before anything of it is written: an address is never put over another owner's.
fn refusal(view: &[TransactionalTree], change: &Change) -> Transaction<Option<CommitError>> {
    // What earlier operations of the same change make of an allocation counts for the later ones.
    let mut earlier: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
    for op in change.ops.iter().filter(|op| op.tree == TreeName::Allocations) {
        if let Some(claim) = &op.claim {
            let taken = match earlier.get(op.key.as_slice()) {
                Some(value) => value.and_then(|value| taken(claim, value)),
                None => view[op.tree as usize].get(&op.key)?.and_then(|value| taken(claim, &value)),
            };
            if taken.is_some() {
                return Ok(taken);
            }
        }
        earlier.insert(&op.key, op.value.as_deref());
    }
    Ok(None)
}

fn taken(claim: &Claim, value: &[u8]) -> Option<CommitError> {
    let address = claim.address;
    match codec::decode::<Allocation>(value) {
        Ok(there) if there.owner == claim.owner => None,
        Ok(there) => Some(CommitError::AddressTaken { address, owner: there.owner }),
        Err(source) => Some(CommitError::UnreadableAllocation { address, source }),
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
