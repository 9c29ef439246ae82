//! The node's memory: a crash-safe store of intents, allocations and outcomes.
//!
//! One process opens it, by [`Store::open`]. What is decided together is one [`Change`]; [`Store::commit`] and
//! [`Store::submit`] say when it is durable, and a change is in the store whole or not at all, whatever happens in
//! between. Reading never waits for a commit.
//!
//! Where one place decides: [`codec`] has the bytes of records, [`trees`] the names of trees and the shapes of keys,
//! [`open`] how a store comes to be and is opened, [`commit`] when something is durable.

pub mod change;
pub mod codec;
pub mod commit;
pub mod counters;
pub mod open;
mod queue;
pub mod snapshot;
pub mod trees;

use std::path::Path;
use std::sync::{Arc, mpsc};

pub use change::Change;
pub use commit::CommitError;
pub use counters::Counters;
pub use open::{Meta, OpenError};
pub use snapshot::{ReadError, Snapshot, Unreadable};

use commit::Committer;
use open::OpenDir;

/// An open store. Dropping it commits what waits, ends the committer, closes sled and gives back the lock, in this order.
pub struct Store {
    committer: Committer,
    counters: Arc<Counters>,
    dir: OpenDir,
}

impl Store {
    /// Opens the store in `dir`, making it if there is none. `node` is whose memory it is to be: another node's is
    /// refused. `boot_id` is `/proc/sys/kernel/random/boot_id`.
    ///
    /// Beside `dir` there are `<dir>.lock` and, while the store is being made, `<dir>.creating`.
    pub fn open(dir: &Path, node: &str, boot_id: &str) -> Result<Self, OpenError> {
        let path = dir;
        let dir = open::open(dir, node, boot_id)?;
        let log = dir.log_file()?;
        let counters = Arc::new(Counters::default());
        let committer = Committer::start(dir.trees().clone(), Box::new(move || log.sync_data()), counters.clone())
            .map_err(|source| OpenError::Io { action: "start the committer of", path: path.to_owned(), source })?;
        Ok(Self { committer, counters, dir })
    }

    /// Commits a change and returns at once; `done` hears when it is durable, or why it is not in the store.
    ///
    /// `done` runs on the committer's thread, or on the caller's when the change is refused at once. It holds up every
    /// other commit while it runs: it must not block, and must never call [`commit`](Self::commit).
    pub fn submit(&self, change: Change, done: impl FnOnce(Result<(), CommitError>) + Send + 'static) {
        self.committer.queue().push(change, Box::new(done));
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

    /// Reads everything that is wanted. It waits for no commit, and while commits go on it may see one of them in one
    /// tree and not yet in another: take it before the first one.
    pub fn load(&self) -> Result<Snapshot, ReadError> {
        snapshot::load(self.dir.trees())
    }

    /// Reads a text of the catalogue.
    pub fn catalogue_get(&self, key: &str) -> Result<Option<String>, ReadError> {
        snapshot::catalogue_get(self.dir.trees(), key)
    }

    /// What the store says about itself.
    pub fn meta(&self) -> &Meta {
        &self.dir.meta
    }

    /// What the store has done since it was opened.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// How many changes wait for the committer.
    pub fn waiting(&self) -> usize {
        self.committer.queue().waiting()
    }

    /// Why the store takes no more changes, once a write has failed.
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.committer.queue().poisoned()
    }

    /// Commits what waits and closes the store; the same as dropping it, by name.
    pub fn close(self) {}
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("meta", &self.dir.meta).finish_non_exhaustive()
    }
}
