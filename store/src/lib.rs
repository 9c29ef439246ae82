//! The node's memory: a crash-safe store of intents, allocations and outcomes.
//!
//! One process opens it, by [`Store::open`]. What is decided together is one [`Change`]; [`Store::commit`] and
//! [`Store::submit`] say when it is durable, and a change is in the store whole or not at all, whatever happens in
//! between. Reading never waits for a commit.
//!
//! There are two copies of everything: sled, which is read, and the journal, in which a change is durable first. Each says how
//! far it has come, so that one that was damaged, lost or put back to yesterday is noticed and made anew from the other.
//!
//! Where one place decides: [`codec`] has the bytes of records, [`trees`] the names of trees and the shapes of keys,
//! `journal::frame` the bytes of the journal, [`commit`] when something is durable, `recovery` which copy is right.

mod about;
pub mod change;
pub mod check;
pub mod codec;
pub mod commit;
mod compaction;
pub mod counters;
pub mod dump;
mod journal;
mod limits;
mod live;
mod mirror;
pub mod open;
mod places;
mod position;
mod quarantine;
mod queue;
mod recovery;
pub mod restore;
mod salvage;
mod sled_dir;
pub mod snapshot;
mod text;
pub mod trees;
mod upgrade;
mod upkeep;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::SystemTime;

pub use change::Change;
pub use commit::CommitError;
pub use counters::Counters;
pub use dump::{DumpError, Dumped};
pub use limits::Limits;
pub use open::{Meta, OpenError};
pub use recovery::Recovery;
pub use snapshot::{ReadError, Snapshot, Texts, Unreadable};

use commit::Committer;
use live::Live;
use open::{Held, Parts};
use places::Places;
use queue::Queue;
use schemas::history::HistoryEntry;
use upkeep::Upkeep;

/// An open store. Dropping it commits what waits, ends its threads, closes sled and gives back the lock, in this order.
pub struct Store {
    committer: Option<Committer>,
    upkeep: Option<Upkeep>,
    queue: Arc<Queue>,
    live: Arc<Live>,
    counters: Arc<Counters>,
    places: Places,
    meta: Meta,
    recovery: Recovery,
    /// Released last.
    lock: Arc<Held>,
}

impl Store {
    /// Opens the store in `dir`, making it if there is none. `node` is whose memory it is to be: another node's is
    /// refused. `boot_id` is `/proc/sys/kernel/random/boot_id`.
    ///
    /// `dir` is sled's. Beside it there are `<dir>.journal`, the second copy, `<dir>.lock`, while a sled is being made
    /// `<dir>.creating`, and what was found damaged as `<dir>.damaged-1` and so on.
    pub fn open(dir: &Path, node: &str, boot_id: &str) -> Result<Self, OpenError> {
        Self::open_with(dir, node, boot_id, Limits::default())
    }

    /// Opens it with other limits than the usual ones.
    pub fn open_with(dir: &Path, node: &str, boot_id: &str, limits: Limits) -> Result<Self, OpenError> {
        let Parts { live, writer, places, meta, recovery, lock } = open::open(dir, node, boot_id, limits)?;
        let counters = Arc::new(Counters::default());
        let failed = |action| move |source| OpenError::Io { action, path: dir.to_owned(), source };
        let wanted = writer.upkeep().clone();
        let queue = wanted.queue();
        let upkeep = Upkeep::start(
            wanted,
            live.clone(),
            places.clone(),
            boot_id.to_owned(),
            limits,
            lock.clone(),
            counters.clone(),
        );
        let upkeep = Some(upkeep.map_err(failed("start the upkeep of"))?);
        let committer = Committer::start(live.clone(), writer, counters.clone());
        let committer = Some(committer.map_err(failed("start the committer of"))?);
        Ok(Self { committer, upkeep, queue, live, counters, places, meta, recovery, lock })
    }

    /// Commits a change and returns at once; `done` hears when it is durable, or why it is not in the store.
    ///
    /// `done` runs on the committer's thread, or on the caller's when the change is refused at once. It holds up every
    /// other commit while it runs: it must not block, and must never call [`commit`](Self::commit).
    pub fn submit(&self, change: Change, done: impl FnOnce(Result<(), CommitError>) + Send + 'static) {
        self.queue.push(change, Box::new(done));
    }

    /// Commits a change and returns when it is durable.
    pub fn commit(&self, change: Change) -> Result<(), CommitError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.submit(change, move |answer| {
            // The receiver waits below until this very message.
            let _ = sender.send(answer);
        });
        receiver.recv().unwrap_or(Err(CommitError::Closed))
    }

    /// Reads everything that is wanted, as it was at one instant, whatever is committed meanwhile. It waits for no disk.
    pub fn load(&self) -> Result<Snapshot, ReadError> {
        snapshot::load(self.live.view())
    }

    /// Writes everything as a dump, as it was at one instant; commits go on meanwhile.
    ///
    /// # Errors
    /// When the store cannot be read to its end, or `out` takes no more.
    pub fn dump(&self, now: SystemTime, out: impl std::io::Write) -> Result<Dumped, DumpError> {
        dump::write(self.live.view(), now, out)
    }

    /// Keeps copies of the records of a snapshot that could not be used, in the file `<dir>.quarantine`: JSON lines, each
    /// record once. Returns how many were new.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn quarantine(&self, snapshot: &Snapshot, now: SystemTime) -> std::io::Result<usize> {
        quarantine::keep(&self.places.quarantine(), &snapshot.unreadable, now)
    }

    /// Where [`quarantine`](Self::quarantine) keeps them.
    pub fn quarantine_path(&self) -> PathBuf {
        self.places.quarantine()
    }

    /// Reads a text of the catalogue.
    pub fn catalogue_get(&self, key: &str) -> Result<Option<String>, ReadError> {
        snapshot::catalogue_get(&self.live, key)
    }

    /// Reads the texts of the catalogue whose keys begin so.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn catalogue(&self, prefix: &str) -> Result<Texts, ReadError> {
        snapshot::catalogue(&self.live, prefix)
    }

    /// Reads what has happened, by container ID, then number; entries that cannot be read are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn history(&self) -> Result<Vec<HistoryEntry>, ReadError> {
        snapshot::history(&self.live)
    }

    /// What the store says about itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// What opening it had to mend.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// What the store has done since it was opened.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// How many changes wait for the committer.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Why the store takes no more changes, once a write has failed.
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.queue.poisoned()
    }

    /// Commits what waits and closes the store; the same as dropping it, by name.
    pub fn close(self) {}
}

/// Reads a store that no agent has open, whosever it is. It is mended where it can be, as by any open.
///
/// # Errors
/// When it is in use, damaged beyond that, or not there.
pub fn load_offline(dir: &Path) -> Result<(Snapshot, Recovery), DumpError> {
    let still = open::open_as_it_is(dir)?;
    Ok((snapshot::load(still.live.view())?, still.recovery.clone()))
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.committer.take());
        drop(self.upkeep.take());
        // For the witness alone: whatever it does not say is in the journal.
        let _ = self.lock.note(Some(self.live.position()));
        open::close(&self.live, &self.places);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("meta", &self.meta).finish_non_exhaustive()
    }
}
