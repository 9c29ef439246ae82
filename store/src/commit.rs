//! The one committer: many waiters share one frame of the journal and one sync, and hear of it only after that sync.
//!
//! sled follows in memory and is flushed by the upkeep: what it has not got yet when the power goes, it gets back from the
//! journal. A sync that failed says nothing about what is on disk, and the kernel reports it only once: from then on nothing
//! is acknowledged.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use schemas::intent::Allocation;
use schemas::name::AttachmentKey;

use crate::change::{Change, Claim};
use crate::codec::{self, DecodeError, EncodeError};
use crate::counters::Counters;
use crate::journal::log::AppendError;
use crate::journal::writer::JournalWriter;
use crate::live::{Effect, Live, Touched};
use crate::position::Position;
use crate::queue::{GROUP_BYTES, Queue, Waiting};
use crate::trees::{TreeName, Trees};

/// A change that was not committed: nothing of it is in the store, except that after [`Poisoned`](Self::Poisoned) it may be
/// there when the store has been opened again.
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
    /// The disk has no room for it.
    #[error("the store has no room for the change ({reason}): free space on the disk of the state directory")]
    NoRoom {
        /// What the file system says.
        reason: Arc<str>,
    },
    /// A write failed, and what is on disk is unknown until the store has been opened again.
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
            Self::Overloaded { .. } | Self::NoRoom { .. } => true,
            Self::AddressTaken { .. }
            | Self::UnreadableAllocation { .. }
            | Self::Record(_)
            | Self::ChangeTooLarge { .. }
            | Self::Poisoned { .. }
            | Self::Closed => false,
        }
    }
}

/// The committer's thread; dropping it commits what waits and ends it.
pub(crate) struct Committer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread.
    pub(crate) fn start(live: Arc<Live>, writer: JournalWriter, counters: Arc<Counters>) -> io::Result<Self> {
        let queue = writer.upkeep().queue();
        let disk = Disk { live, writer, counters };
        let thread = std::thread::Builder::new().name("store-commit".to_owned()).spawn({
            let queue = queue.clone();
            move || disk.serve(&queue)
        })?;
        Ok(Self { queue, thread: Some(thread) })
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
    live: Arc<Live>,
    writer: JournalWriter,
    counters: Arc<Counters>,
}

/// Why no change of a group was committed.
enum Failure {
    /// Nothing was written.
    NoRoom(String),
    /// What is on disk is unknown.
    Unknown(String),
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
        let refuse = |error: CommitError| changes.iter().map(|_| Err(error.clone())).collect();
        if let Some(reason) = queue.poisoned() {
            return refuse(CommitError::Poisoned { reason });
        }
        // sled asserts its way out of states that it did not foresee; the agent lives on and can still say so.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.write_durably(changes)))
            .unwrap_or_else(|_| Err(Failure::Unknown("sled panicked while writing".to_owned())));
        match outcome {
            Ok(answers) => {
                let acknowledged = answers.iter().filter(|answer| answer.is_ok()).count();
                Counters::add(&self.counters.changes, acknowledged as u64);
                answers
            }
            Err(Failure::NoRoom(reason)) => {
                tracing::error!(%reason, "the store has no room for a change");
                refuse(CommitError::NoRoom { reason: reason.into() })
            }
            Err(Failure::Unknown(reason)) => {
                tracing::error!(%reason, "the store takes no more changes: a write failed");
                let reason = Arc::<str>::from(reason);
                queue.poison(reason.clone());
                refuse(CommitError::Poisoned { reason })
            }
        }
    }

    fn write_durably(&mut self, changes: &[Change]) -> Result<Vec<Result<(), CommitError>>, Failure> {
        let closed = || Failure::Unknown("the store is closed".to_owned());
        let trees = self.live.trees().ok_or_else(closed)?;
        let mut group = Group { trees: &trees, effect: Effect::new() };
        let answers = changes
            .iter()
            .map(|change| group.add(change))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Failure::Unknown(format!("read: {error}")))?;
        let effect = group.changed();
        if effect.is_empty() {
            // What it wants has been durable since it was written.
            return Ok(answers);
        }
        let before = self.live.position();
        let frame = self.writer.append(before, &effect).map_err(|error| match error {
            AppendError::NoRoom(source) => Failure::NoRoom(source.to_string()),
            AppendError::Unknown(action, source) => Failure::Unknown(format!("{action}: {source}")),
        })?;
        let after = after(before, &effect);
        self.live.follow(effect, &frame, after).map_err(Failure::Unknown)?;
        Counters::add(&self.counters.commits, 1);
        Counters::add(&self.counters.syncs, 1);
        Counters::add(&self.counters.bytes, frame.len() as u64);
        self.writer.committed(&self.live);
        Ok(answers)
    }
}

/// Where the state stands after a group.
pub(crate) fn after(before: Position, effect: &Effect) -> Position {
    let mut after = Position { number: before.number + 1, ..before };
    for ((tree, key), touched) in effect {
        if let Some(old) = &touched.old {
            after.digest.subtract(*tree, key, old);
        }
        if let Some(new) = &touched.new {
            after.digest.add(*tree, key, new);
        }
    }
    after
}

/// Changes on their way into one frame. A change that is refused leaves no trace and spoils no other.
struct Group<'a> {
    trees: &'a Trees,
    effect: Effect,
}

impl Group<'_> {
    /// Adds a change if it can be; the answer is for its caller.
    fn add(&mut self, change: &Change) -> Result<Result<(), CommitError>, sled::Error> {
        if let Some(error) = self.refusal(change)? {
            return Ok(Err(error));
        }
        for op in &change.ops {
            let new = op.value.clone();
            match self.effect.entry((op.tree, op.key.clone())) {
                Entry::Occupied(mut touched) => touched.get_mut().new = new,
                Entry::Vacant(place) => {
                    let old = self.trees.tree(op.tree).get(&op.key)?;
                    place.insert(Touched { old, new });
                }
            }
        }
        Ok(Ok(()))
    }

    /// Why a change cannot be, judged before anything of it is taken: an address is never put over another owner's.
    fn refusal(&self, change: &Change) -> Result<Option<CommitError>, sled::Error> {
        // What earlier operations of the same change make of an allocation counts for the later ones.
        let mut earlier: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for op in change.ops.iter().filter(|op| op.tree == TreeName::Allocations) {
            if let Some(claim) = &op.claim {
                let taken = match earlier.get(op.key.as_slice()) {
                    Some(value) => value.and_then(|value| taken(claim, value)),
                    None => match self.effect.get(&(op.tree, op.key.clone())) {
                        Some(touched) => touched.new.as_deref().and_then(|value| taken(claim, value)),
                        None => self.trees.tree(op.tree).get(&op.key)?.and_then(|value| taken(claim, &value)),
                    },
                };
                if taken.is_some() {
                    return Ok(taken);
                }
            }
            earlier.insert(&op.key, op.value.as_deref());
        }
        Ok(None)
    }

    /// What differs from what is there.
    fn changed(mut self) -> Effect {
        self.effect.retain(|_, touched| touched.old.as_deref() != touched.new.as_deref());
        self.effect
    }
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
