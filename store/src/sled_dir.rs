//! sled's own directory: opened and made so that no crash leaves it half there.
//!
//! The rules are those that held in every crash state that was tried: a new sled is made beside and renamed into place when
//! all of it has been synced; a snapshot that sled had under way when it was killed is finished or removed before sled sees
//! it; nothing is opened before the last owner's lock is free.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::live::OpenSled;
use crate::open::{OpenError, at};
use crate::trees::Trees;

/// sled's unit of allocation; it decides how large a record may be ([`RECORD_LIMIT`](crate::codec::RECORD_LIMIT)), and a
/// store keeps the one that it was made with.
pub(crate) const SEGMENT_SIZE: usize = 4 << 20;

/// The most that sled caches, in bytes.
const CACHE: u64 = 32 << 20;

/// How long a lock of another process is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// What sled writes into a snapshot's name until it is complete.
const GENERATING: &str = ".generating";

/// Our file in sled's directory while sled is open: the boot under which it is.
const IN_USE: &str = "in-use";

/// Whether the machine went down while sled was open: it was left in use under another boot than this one.
///
/// Opening, sled zeroes segments that it has freed before the rename of the snapshot which frees them is durable: a power
/// cut just then leaves a sled that opens with old data, or not at all, or panics. The journal knows no such instant.
pub(crate) fn went_down(dir: &Path, boot_id: &str) -> bool {
    // A torn mark is another one's too; a mark that may not be read says nothing.
    fs::read(dir.join(IN_USE)).is_ok_and(|boot| boot != boot_id.as_bytes())
}

/// Marks sled as in use, durably, before it is opened.
fn mark(dir: &Path, boot_id: &str) -> Result<(), OpenError> {
    let path = dir.join(IN_USE);
    if fs::read(&path).is_ok_and(|boot| boot == boot_id.as_bytes()) {
        return Ok(());
    }
    at("write", &path, |path| fs::write(path, boot_id))?;
    sync_path(&path)?;
    sync_path(dir)
}

/// Takes the mark away from a sled that was closed and holds everything durably.
pub(crate) fn unmark(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join(IN_USE))?;
    File::open(dir)?.sync_all()
}

/// The boot ID of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// What is to be found where sled should be.
pub(crate) enum SledCopy {
    /// Nothing: no directory, or an empty one.
    Absent,
    /// A sled that opened.
    Open(OpenSled),
    /// Something that sled does not open; why.
    Refused(String),
}

/// Opens the sled in a directory, if there is one.
pub(crate) fn open(dir: &Path, boot_id: &str) -> Result<SledCopy, OpenError> {
    if is_absent(dir)? {
        return Ok(SledCopy::Absent);
    }
    for file in ["db", "conf"] {
        let path = dir.join(file);
        let is_file = match fs::metadata(&path) {
            Err(source) if is_refusal(&source) => return Err(OpenError::Io { action: "look at", path, source }),
            other => other.is_ok_and(|file| file.is_file()),
        };
        if !is_file {
            return Ok(SledCopy::Refused(format!("there is no file {file} in {}", dir.display())));
        }
    }
    mark(dir, boot_id)?;
    settle_snapshots(dir)?;
    match start(dir) {
        Ok(sled) => Ok(SledCopy::Open(sled)),
        Err(OpenError::Corrupt { reason, .. }) => Ok(SledCopy::Refused(reason)),
        Err(other) => Err(other),
    }
}

/// Makes an empty sled in a directory that must not be there yet.
pub(crate) fn create(dir: &Path, boot_id: &str) -> Result<OpenSled, OpenError> {
    at("create", dir, |dir| DirBuilder::new().mode(0o700).create(dir))?;
    mark(dir, boot_id)?;
    start(dir)
}

/// Makes all of a new sled durable, its files and their entries in its directory.
pub(crate) fn settle(dir: &Path, sled: &OpenSled) -> Result<(), OpenError> {
    flush(dir, sled)?;
    sync_tree(dir)
}

/// Makes durable what an open sled holds. A write that fails says nothing about what is there already.
pub(crate) fn flush(dir: &Path, sled: &OpenSled) -> Result<(), OpenError> {
    let failed =
        |reason| OpenError::Io { action: "flush sled in", path: dir.to_owned(), source: io::Error::other(reason) };
    sled.make_durable().map_err(failed)
}

/// Closes sled and waits until it has given back its lock, so that the next open cannot be refused by this one's remains.
pub(crate) fn close(sled: OpenSled) {
    let OpenSled { db, trees, log } = sled;
    // sled panics when its last sync fails; everything acknowledged is in the journal.
    if catch_unwind(AssertUnwindSafe(|| drop((trees, db)))).is_err() {
        tracing::error!("sled panicked while it was closed");
    }
    if let Err(error) = log.lock().and_then(|()| log.unlock()) {
        tracing::warn!(%error, "cannot tell whether sled has given back its lock");
    }
}

/// Whether there is no sled: nothing, or a directory that somebody has made and left empty.
fn is_absent(dir: &Path) -> Result<bool, OpenError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(OpenError::Io { action: "read", path: dir.to_owned(), source }),
    }
}

fn start(dir: &Path) -> Result<OpenSled, OpenError> {
    let config = sled::Config::new()
        .path(dir)
        .segment_size(SEGMENT_SIZE)
        .cache_capacity(CACHE)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None);
    let start = || {
        let db = config.open()?;
        let trees = Trees::open(&db)?;
        Ok((db, trees))
    };
    // On some damages sled panics instead of refusing.
    let (db, trees) = patiently(|| match catch_unwind(AssertUnwindSafe(start)) {
        Ok(started) => started.map_err(|error| refused(dir, error)),
        Err(_) => Err(OpenError::Corrupt { path: dir.to_owned(), reason: "sled panics on it".to_owned() }),
    })?;
    let log = at("open", &dir.join("db"), |path| File::open(path))?;
    Ok(OpenSled { db, trees, log: Arc::new(log) })
}

/// An error of sled's: of what it holds, or of what the file system allows just now.
pub(crate) fn refused(dir: &Path, error: sled::Error) -> OpenError {
    let path = dir.to_owned();
    match error {
        // The only way to tell: sled wraps the lock's refusal into an error of its own words.
        sled::Error::Io(source) if source.to_string().starts_with("could not acquire lock") => {
            OpenError::Locked { path, holder: "another program that uses sled".to_owned() }
        }
        sled::Error::Io(source) if is_refusal(&source) => OpenError::Io { action: "open sled in", path, source },
        other => OpenError::Corrupt { path, reason: other.to_string() },
    }
}

/// Whether the file system refuses what another time it may allow, so that the error says nothing about the content.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | StorageFull | QuotaExceeded)
        // EMFILE, ENFILE, ENOMEM: of the process or the machine.
        || matches!(error.raw_os_error(), Some(12 | 23 | 24))
}

/// A process that is being killed, or a child of ours between fork and exec, still has its locks for a moment, and no event
/// tells when it gives them back: a refusal counts only when it lasts.
pub(crate) fn patiently<T>(mut open: impl FnMut() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match open() {
            Err(OpenError::Locked { .. }) if Instant::now() < until => std::thread::sleep(PATIENCE / 50),
            ended => return ended,
        }
    }
}

/// Finishes or deletes each snapshot that sled had under way when it was killed.
fn settle_snapshots(dir: &Path) -> Result<(), OpenError> {
    let mut settled = false;
    for entry in at("read", dir, |dir| fs::read_dir(dir))? {
        let path = at("read", dir, |_| entry)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some(finished) = name.strip_suffix(GENERATING).filter(|name| name.starts_with("snap.")) else { continue };
        if is_whole_snapshot(&at("read", &path, |path| fs::read(path))?) {
            tracing::info!(path = %path.display(), "finishing the snapshot that sled had under way");
            at("rename", &path, |path| fs::rename(path, dir.join(finished)))?;
        } else {
            tracing::info!(path = %path.display(), "removing the torn snapshot that sled had under way");
            at("remove", &path, |path| fs::remove_file(path))?;
        }
        settled = true;
    }
    if settled { sync_path(dir) } else { Ok(()) }
}

/// sled ends a snapshot with the length (8 bytes) and the CRC-32 (4 bytes, little endian) of what stands before both.
fn is_whole_snapshot(bytes: &[u8]) -> bool {
    let Some((rest, crc)) = bytes.split_last_chunk::<4>() else { return false };
    let Some((content, _length)) = rest.split_last_chunk::<8>() else { return false };
    !content.is_empty() && crc32fast::hash(content) == u32::from_le_bytes(*crc)
}

/// Makes the directories that lack, each durable in the one above.
pub(crate) fn make_directories(dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    make_directories(parent)?;
    at("create", dir, |dir| DirBuilder::new().mode(0o700).create(dir))?;
    sync_path(parent)
}

/// Copies a directory and all that is below it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
    at("create", to, |to| DirBuilder::new().mode(0o700).create(to))?;
    for entry in at("read", from, |from| fs::read_dir(from))? {
        let entry = at("read", from, |_| entry)?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            at("copy", &path, |path| fs::copy(path, &to))?;
        }
    }
    Ok(())
}

/// Syncs every file and directory below, then the directory itself.
pub(crate) fn sync_tree(dir: &Path) -> Result<(), OpenError> {
    for entry in at("read", dir, |dir| fs::read_dir(dir))? {
        let path: PathBuf = at("read", dir, |_| entry)?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync_path(&path)? }
    }
    sync_path(dir)
}

/// Makes a file's or directory's content durable.
pub(crate) fn sync_path(path: &Path) -> Result<(), OpenError> {
    at("sync", path, |path| File::open(path)?.sync_all())
}
