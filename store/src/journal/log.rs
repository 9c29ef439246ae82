//! One file of the log: groups of changes, one after another, each written twice and synced once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::frame::{self, PAGE};

/// How far ahead the file is filled with zeros, in bytes. A sync of what stands there already need not write the file's
/// size and extents, which is half of its time; the commit that fills pays for those that follow.
const AHEAD: usize = 256 << 10;

/// A group that misses as much as this is filled for alone: its own bytes take longer than the file's size.
const LARGE: usize = 64 << 10;

/// The first stretch of zeros: many stores never need more.
const FIRST: usize = 256 << 10;

/// Makes a written group durable.
pub(crate) type SyncDisk = Box<dyn FnMut(&File) -> io::Result<()> + Send>;

/// Why a group is not in the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// There is no room for it: nothing of it was written, and the next one may find room.
    #[error("{0}")]
    NoRoom(io::Error),
    /// It may be in the log or not.
    #[error("{0}: {1}")]
    Unknown(&'static str, io::Error),
}

/// The file that groups are written to.
pub(crate) struct LogWriter {
    file: File,
    path: PathBuf,
    /// Where the next group goes.
    at: u64,
    /// How far the file is filled.
    filled: u64,
    sync: SyncDisk,
}

impl LogWriter {
    /// Makes a log that is not there yet, with its entry in the directory durable.
    pub(crate) fn create(path: PathBuf, sync: SyncDisk) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let mut log = Self { file, path, at: 0, filled: 0, sync };
        let made = log.fill(FIRST).and_then(|()| log.file.sync_all()).and_then(|()| super::sync_parent(&log.path));
        if made.is_err() {
            // Empty, and in the way of the next attempt.
            let _ = std::fs::remove_file(&log.path);
        }
        made.map(|()| log)
    }

    fn fill(&mut self, len: usize) -> io::Result<()> {
        self.file.write_all_at(&vec![0; len], self.filled)?;
        self.filled += len as u64;
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes of groups it holds.
    pub(crate) fn len(&self) -> u64 {
        self.at
    }

    /// Appends a group, and returns when it is durable.
    pub(crate) fn append(&mut self, frame: &[u8]) -> Result<(), AppendError> {
        let bytes = frame::doubled(frame);
        let end = self.at + bytes.len() as u64;
        if end > self.filled {
            let missing = (end - self.filled) as usize;
            let wanted = if missing < LARGE { missing.next_multiple_of(AHEAD) } else { missing };
            let filled = self.fill(wanted).or_else(|_| self.fill(missing));
            filled.map_err(AppendError::NoRoom)?;
        }
        self.file.write_all_at(&bytes, self.at).map_err(|error| AppendError::Unknown("write", error))?;
        (self.sync)(&self.file).map_err(|error| AppendError::Unknown("fdatasync", error))?;
        self.at = end;
        Ok(())
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        // The zeros ahead are only worth anything to a writer; who finds them reads zeros.
        if self.at < self.filled && self.at.is_multiple_of(PAGE as u64) {
            let _ = self.file.set_len(self.at);
        }
    }
}
