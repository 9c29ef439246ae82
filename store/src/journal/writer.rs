//! Writing the journal: the current log, and when it is time for a new snapshot.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::JournalDir;
use super::log::{AppendError, LogWriter, SyncDisk};
use crate::commit;
use crate::limits::Limits;
use crate::live::{self, Effect, Live};
use crate::position::Position;
use crate::upkeep::Wanted;

/// A log longer than this is followed by the next one, so that each can be read at once.
const LOG_LEN: u64 = 32 << 20;
/// More logs than this are replaced by a snapshot: an agent that restarts again and again leaves one each time.
pub(crate) const LOGS: usize = 24;

/// How a log's groups are made durable, for each log anew.
pub(crate) type SyncOf = Box<dyn FnMut() -> SyncDisk + Send>;

/// `fdatasync`: the log's size and extents are part of it where they have changed.
pub(crate) fn fdatasync() -> SyncOf {
    Box::new(|| Box::new(|file: &File| file.sync_data()))
}

/// The journal's writing end.
pub(crate) struct JournalWriter {
    dir: JournalDir,
    log: LogWriter,
    sync_of: SyncOf,
    limits: Limits,
    /// Bytes of the logs that came before the current one and after the snapshot.
    earlier: u64,
    upkeep: Arc<Wanted>,
}

impl JournalWriter {
    /// Begins a log behind `position`; `earlier` bytes of logs are there already.
    pub(crate) fn begin(
        dir: JournalDir,
        position: Position,
        earlier: u64,
        limits: Limits,
        mut sync_of: SyncOf,
        upkeep: Arc<Wanted>,
    ) -> io::Result<Self> {
        let log = LogWriter::create(dir.free_log_path(position), sync_of())?;
        Ok(Self { dir, log, sync_of, limits, earlier, upkeep })
    }

    /// What wakes the upkeep.
    pub(crate) fn upkeep(&self) -> &Arc<Wanted> {
        &self.upkeep
    }

    /// The log that is written to.
    pub(crate) fn log_path(&self) -> &std::path::Path {
        self.log.path()
    }

    /// Writes a group behind `before` and makes it durable. Returns its frame.
    pub(crate) fn append(&mut self, before: Position, effect: &Effect) -> Result<Vec<u8>, AppendError> {
        let frame = live::frame_of(before.digest, commit::after(before, effect), effect);
        self.log.append(&frame)?;
        Ok(frame)
    }

    /// Sees to what a group that was committed leaves to do: the upkeep lets sled flush it, and when the logs have grown it
    /// writes a snapshot of the state as it is now, behind which a new log begins.
    pub(crate) fn committed(&mut self, live: &Arc<Live>) {
        self.upkeep.checkpoint();
        let full = self.limits.replaces_logs(self.earlier + self.log.len(), live.size().bytes);
        if full && self.upkeep.wants_no_snapshot() {
            self.next_log(live, true);
        } else if self.log.len() >= LOG_LEN {
            self.next_log(live, false);
        }
    }

    /// Replaces the logs by a snapshot, although they have not grown: there are many, or some place in them is damaged.
    pub(crate) fn renew(&mut self, live: &Arc<Live>) {
        self.next_log(live, true);
    }

    fn next_log(&mut self, live: &Arc<Live>, snapshot: bool) {
        match LogWriter::create(self.dir.free_log_path(live.position()), (self.sync_of)()) {
            Ok(log) => {
                self.earlier += self.log.len();
                self.log = log;
                if snapshot {
                    self.upkeep.snapshot(live.view(), self.log.path().to_owned());
                    self.earlier = 0;
                }
            }
            // The current one goes on growing, and the next group tries again.
            Err(error) => tracing::warn!(%error, dir = %self.dir.path().display(), "cannot begin a new log"),
        }
    }
}
