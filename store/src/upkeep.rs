//! What goes on behind the commits: sled is flushed, snapshots replace grown logs, a grown sled is written anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::compaction::{self, CompactionError};
use crate::counters::Counters;
use crate::journal::JournalDir;
use crate::journal::snapshot::SnapshotWriter;
use crate::limits::Limits;
use crate::live::{Live, View};
use crate::open::Held;
use crate::places::Places;
use crate::queue::Queue;
use crate::snapshot::ReadError;

/// How long sled may be behind the journal. Within that time the journal alone has what was acknowledged.
const LAG: Duration = Duration::from_millis(50);

/// What the upkeep is to do, and who tells it.
pub(crate) struct Wanted {
    state: Mutex<State>,
    changed: Condvar,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct State {
    checkpoint: bool,
    snapshot: Option<SnapshotJob>,
    /// From when a snapshot is asked until it is there.
    snapshot_under_way: bool,
    closing: bool,
}

/// A snapshot to be written: of what, and the first log that it does not cover.
struct SnapshotJob {
    view: View,
    next_log: PathBuf,
}

impl Wanted {
    pub(crate) fn new(queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), queue })
    }

    /// Where changes wait: what fails here poisons it.
    pub(crate) fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// sled has something to flush.
    pub(crate) fn checkpoint(&self) {
        let mut state = self.lock();
        if !state.checkpoint {
            state.checkpoint = true;
            self.changed.notify_one();
        }
    }

    /// No snapshot is being written or waits to be.
    pub(crate) fn wants_no_snapshot(&self) -> bool {
        !self.lock().snapshot_under_way
    }

    /// A snapshot is to replace the logs before `next_log`.
    pub(crate) fn snapshot(&self, view: View, next_log: PathBuf) {
        let mut state = self.lock();
        state.snapshot_under_way = true;
        state.snapshot = Some(SnapshotJob { view, next_log });
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_one();
    }

    fn is_closing(&self) -> bool {
        self.lock().closing
    }
}

/// The upkeep's thread; dropping it ends it, in the middle of a snapshot if need be.
pub(crate) struct Upkeep {
    wanted: Arc<Wanted>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts the thread.
    pub(crate) fn start(
        wanted: Arc<Wanted>,
        live: Arc<Live>,
        places: Places,
        boot_id: String,
        limits: Limits,
        lock: Arc<Held>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let work = Work { wanted: wanted.clone(), live, places, boot_id, limits, lock, counters };
        let thread = std::thread::Builder::new().name("store-upkeep".to_owned()).spawn(move || work.serve())?;
        Ok(Self { wanted, thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.wanted.close();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the store's upkeep ended by a panic");
        }
    }
}

struct Work {
    wanted: Arc<Wanted>,
    live: Arc<Live>,
    places: Places,
    boot_id: String,
    limits: Limits,
    lock: Arc<Held>,
    counters: Arc<Counters>,
}

/// Why a snapshot was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotFailure {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("the store is being closed")]
    Closing,
}

impl Work {
    fn serve(self) {
        loop {
            let mut state = self.wanted.lock();
            while !state.closing && !state.checkpoint && state.snapshot.is_none() {
                state = self.wanted.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closing {
                return;
            }
            let snapshot = state.snapshot.take();
            drop(state);
            if let Some(job) = snapshot {
                self.replace_logs(job);
            }
            self.lag();
            if std::mem::take(&mut self.wanted.lock().checkpoint) {
                self.checkpoint();
                self.compact_if_grown();
            }
        }
    }

    /// Lets more commits come, so that one flush does for all of them.
    fn lag(&self) {
        let state = self.wanted.lock();
        let waited =
            self.wanted.changed.wait_timeout_while(state, LAG, |state| !state.closing && state.snapshot.is_none());
        drop(waited);
    }

    /// Lets sled write down what it has in memory.
    fn checkpoint(&self) {
        if let Err(reason) = self.live.checkpoint() {
            tracing::error!(%reason, "the store takes no more changes: sled cannot follow the journal");
            self.wanted.queue.poison(reason.into());
        }
        if let Err(error) = self.lock.note(Some(self.live.position())) {
            tracing::debug!(%error, "cannot note beside the store how far it has come");
        }
    }

    /// Writes sled anew when it has grown far beyond its content.
    fn compact_if_grown(&self) {
        let content = self.live.size().bytes;
        if !self.live.sled_bytes().is_some_and(|bytes| self.limits.renews_sled(bytes, content)) {
            return;
        }
        match compaction::compact(&self.live, &self.places, &self.boot_id, || self.wanted.is_closing()) {
            Ok(()) => Counters::add(&self.counters.compactions, 1),
            Err(CompactionError::Closing) => {}
            // The old one goes on; the next flush tries again.
            Err(error) => tracing::warn!(%error, "a grown sled cannot be written anew"),
        }
    }

    fn replace_logs(&self, job: SnapshotJob) {
        let position = job.view.position();
        match self.write_snapshot(job) {
            Ok(()) => Counters::add(&self.counters.snapshots, 1),
            Err(SnapshotFailure::Closing) => {}
            // The logs stay, and hold everything; when they have grown further, it is tried again.
            Err(error) => tracing::warn!(%error, %position, "cannot replace the store's logs by a snapshot"),
        }
        self.wanted.lock().snapshot_under_way = false;
    }

    fn write_snapshot(&self, mut job: SnapshotJob) -> Result<(), SnapshotFailure> {
        let journal = self.places.journal();
        write_snapshot(&journal, &mut job.view, || self.wanted.is_closing())?;
        remove_superseded(&journal, &job.view, &job.next_log)?;
        Ok(())
    }
}

/// Writes a view as the journal's snapshot; it counts when this returns.
pub(crate) fn write_snapshot(
    journal: &JournalDir,
    view: &mut View,
    stop: impl Fn() -> bool,
) -> Result<(), SnapshotFailure> {
    let position = view.position();
    let mut writer = SnapshotWriter::create(journal.snapshot_path(position), position)?;
    while let Some(records) = view.next_records()? {
        if stop() {
            return Err(SnapshotFailure::Closing);
        }
        for record in records {
            writer.put(record.tree, record.key, record.value)?;
        }
    }
    writer.publish(position.digest)?;
    Ok(())
}

/// Removes what a snapshot has made needless: older snapshots, and the logs before the one that begins behind it.
pub(crate) fn remove_superseded(journal: &JournalDir, view: &View, next_log: &Path) -> io::Result<()> {
    let snapshot = journal.snapshot_path(view.position());
    for path in journal.older_than(&snapshot, next_log)? {
        fs::remove_file(&path)?;
    }
    fs::File::open(journal.path())?.sync_all()
}
