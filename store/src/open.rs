//! Opening and closing: the recipe that held in every crash state that was tried.
//!
//! 1. A lock file beside the store, so that nothing here runs twice at once; sled has a lock of its own besides.
//! 2. A new store is made in a directory beside, synced whole, and renamed into place: a store that is there is complete.
//! 3. A snapshot that sled was writing when it was killed is settled before sled looks: it would read it as if whole.
//! 4. What an unsynced end of the log has brought back is synced before anything is acknowledged on top of it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::codec::{self, MetaText};
use crate::trees::{self, TreeName, Trees};

/// The format of the store as a whole: trees, keys and what their records mean together.
pub const FORMAT_VERSION: u32 = 1;

/// sled's unit of allocation; it decides how large a record may be ([`RECORD_LIMIT`](crate::codec::RECORD_LIMIT)), and a
/// store keeps the one that it was made with.
pub(crate) const SEGMENT_SIZE: usize = 4 << 20;

/// The most that sled caches, in bytes.
const CACHE: u64 = 32 << 20;

/// How long a lock of another process is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// What sled writes into a snapshot's name until it is complete.
const GENERATING: &str = ".generating";

/// A store that was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store {} is in use by {holder}: stop that, or choose another state directory", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
        /// Who has it, as far as that is known.
        holder: String,
    },
    /// What is on disk is not a whole store.
    #[error("the store {} is damaged: {reason}; keep a copy, then move it away to begin with an empty one", path.display())]
    Corrupt {
        /// The store.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is the memory of another node.
    #[error("the store {} belongs to node {found:?}, and this is node {wanted:?}: give the right node name or state directory", path.display())]
    OtherNode {
        /// The store.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// A newer dragline wrote it.
    #[error("the store {} has format version {found}, and this dragline knows versions up to {known}: run a newer one", path.display())]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that is known here.
        known: u32,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the store says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The format version on disk.
    pub format_version: u32,
    /// The node whose memory this is.
    pub node: String,
    /// The boot ID that it was opened with.
    pub boot_id: String,
    /// The boot ID that it was opened with the time before; None for a new store.
    pub previous_boot_id: Option<String>,
}

/// An open sled with everything that belongs to it. Closing waits until sled has given back its lock, so that the next
/// open cannot be refused by the last one's remains.
pub(crate) struct OpenDir {
    sled: Option<(sled::Db, Trees)>,
    db_file: PathBuf,
    /// What the store says about itself.
    pub(crate) meta: Meta,
    /// Released last.
    _lock: File,
}

impl OpenDir {
    /// The trees.
    pub(crate) fn trees(&self) -> &Trees {
        let (_, trees) = self.sled.as_ref().expect("only drop takes sled away");
        trees
    }

    /// A descriptor of our own of the file that holds the log.
    pub(crate) fn log_file(&self) -> Result<File, OpenError> {
        at("open", &self.db_file, |path| File::open(path))
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        // sled panics when its last sync fails; everything acknowledged has been synced before.
        if catch_unwind(AssertUnwindSafe(|| drop(self.sled.take()))).is_err() {
            tracing::error!(path = %self.db_file.display(), "sled panicked while it was closed");
        }
        if let Err(error) = wait_until_released(&self.db_file) {
            tracing::warn!(path = %self.db_file.display(), %error, "cannot tell whether sled has given back its lock");
        }
    }
}

/// Opens the store in `dir`, making it if there is none.
pub(crate) fn open(dir: &Path, node: &str, boot_id: &str) -> Result<OpenDir, OpenError> {
    let dir = at("resolve", dir, |dir| std::path::absolute(dir))?;
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no directory below another");
        return Err(OpenError::Io { action: "keep a store in", path: dir, source });
    };
    let beside = |suffix: &str| {
        let mut name = name.to_owned();
        name.push(suffix);
        parent.join(name)
    };
    make_directories(parent)?;
    let lock = patiently(|| lock(&dir, &beside(".lock")))?;
    let unfinished = beside(".creating");
    if unfinished.exists() {
        tracing::warn!(path = %unfinished.display(), "removing a store whose creation was interrupted");
        at("remove", &unfinished, |path| fs::remove_dir_all(path))?;
    }
    let absent = is_absent(&dir)?;
    if absent {
        create(&unfinished, node, boot_id)?;
        at("move into place", &dir, |dir| fs::rename(&unfinished, dir))?;
        sync_path(parent)?;
    }
    let mut opened = open_existing(dir, lock, node, boot_id)?;
    if absent {
        opened.meta.previous_boot_id = None;
    }
    Ok(opened)
}

/// Opens a store that is there.
fn open_existing(dir: PathBuf, lock: File, node: &str, boot_id: &str) -> Result<OpenDir, OpenError> {
    let db_file = dir.join("db");
    for file in [&db_file, &dir.join("conf")] {
        if !file.is_file() {
            return Err(OpenError::Corrupt { path: dir, reason: format!("there is no file {}", file.display()) });
        }
    }
    settle_snapshots(&dir)?;
    let (db, trees) = start_sled(&dir)?;
    let meta = Meta { format_version: 0, node: String::new(), boot_id: boot_id.to_owned(), previous_boot_id: None };
    let mut opened = OpenDir { sled: Some((db, trees)), db_file, meta, _lock: lock };
    opened.meta = checked_meta(&dir, opened.trees(), node, boot_id)?;
    let meta_tree = opened.trees().tree(TreeName::Meta);
    if opened.meta.previous_boot_id.as_deref() != Some(boot_id) {
        put_meta(&dir, meta_tree, trees::META_BOOT, boot_id)?;
    }
    meta_tree.flush().map_err(|error| sled_error(&dir, error))?;
    sync_path(&opened.db_file)?;
    sync_path(&dir)?;
    Ok(opened)
}

/// Whether there is no store: nothing, or a directory that somebody has made and left empty.
fn is_absent(dir: &Path) -> Result<bool, OpenError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(OpenError::Io { action: "read", path: dir.to_owned(), source }),
    }
}

/// Makes a complete, synced store in a directory that is not yet the store.
fn create(dir: &Path, node: &str, boot_id: &str) -> Result<(), OpenError> {
    at("create", dir, |dir| DirBuilder::new().mode(0o700).create(dir))?;
    let (db, trees) = start_sled(dir)?;
    let meta = trees.tree(TreeName::Meta);
    put_meta(dir, meta, trees::META_FORMAT, &FORMAT_VERSION.to_string())?;
    put_meta(dir, meta, trees::META_NODE, node)?;
    put_meta(dir, meta, trees::META_BOOT, boot_id)?;
    db.flush().map_err(|error| sled_error(dir, error))?;
    drop((db, trees));
    at("wait for sled's lock on", &dir.join("db"), wait_until_released)?;
    sync_tree(dir)
}

fn put_meta(dir: &Path, tree: &sled::Tree, key: &[u8], text: &str) -> Result<(), OpenError> {
    let source = |error: codec::EncodeError| io::Error::new(io::ErrorKind::InvalidInput, error);
    let value = codec::encode(&MetaText(text.to_owned())).map_err(|error| OpenError::Io {
        action: "describe",
        path: dir.to_owned(),
        source: source(error),
    })?;
    tree.insert(key, value).map_err(|error| sled_error(dir, error))?;
    Ok(())
}

/// Reads what the store says about itself, and refuses one that is not ours to use. The format comes first: nothing else
/// of a newer one is understood.
fn checked_meta(dir: &Path, trees: &Trees, node: &str, boot_id: &str) -> Result<Meta, OpenError> {
    let corrupt = |reason| OpenError::Corrupt { path: dir.to_owned(), reason };
    let read = |key: &[u8]| {
        let what = key.escape_ascii();
        let value = trees.tree(TreeName::Meta).get(key).map_err(|error| sled_error(dir, error))?;
        let value = value.ok_or_else(|| corrupt(format!("it does not say its {what}")))?;
        let MetaText(text) = codec::decode(&value).map_err(|error| corrupt(format!("its {what}: {error}")))?;
        Ok::<_, OpenError>(text)
    };
    let format = read(trees::META_FORMAT)?;
    let found = format.parse().map_err(|_| corrupt(format!("its format version is {format:?}")))?;
    if found > FORMAT_VERSION {
        return Err(OpenError::NewerFormat { path: dir.to_owned(), found, known: FORMAT_VERSION });
    }
    if found < FORMAT_VERSION {
        return Err(corrupt(format!("there never was a format version {found}")));
    }
    let found_node = read(trees::META_NODE)?;
    if found_node != node {
        return Err(OpenError::OtherNode { path: dir.to_owned(), found: found_node, wanted: node.to_owned() });
    }
    let previous_boot_id = Some(read(trees::META_BOOT)?);
    Ok(Meta { format_version: found, node: found_node, boot_id: boot_id.to_owned(), previous_boot_id })
}

fn start_sled(dir: &Path) -> Result<(sled::Db, Trees), OpenError> {
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
    patiently(|| match catch_unwind(AssertUnwindSafe(start)) {
        Ok(started) => started.map_err(|error| sled_error(dir, error)),
        Err(_) => Err(OpenError::Corrupt { path: dir.to_owned(), reason: "sled panics on it".to_owned() }),
    })
}

fn sled_error(dir: &Path, error: sled::Error) -> OpenError {
    let path = dir.to_owned();
    match error {
        // The only way to tell: sled wraps the lock's refusal into an error of its own words.
        sled::Error::Io(source) if source.to_string().starts_with("could not acquire lock") => {
            OpenError::Locked { path, holder: "another program that uses sled".to_owned() }
        }
        sled::Error::Io(source) => OpenError::Io { action: "open sled in", path, source },
        other => OpenError::Corrupt { path, reason: other.to_string() },
    }
}

/// A process that is being killed, or a child of ours between fork and exec, still has its locks for a moment, and no event
/// tells when it gives them back: a refusal counts only when it lasts.
fn patiently<T>(mut open: impl FnMut() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match open() {
            Err(OpenError::Locked { .. }) if Instant::now() < until => std::thread::sleep(PATIENCE / 50),
            ended => return ended,
        }
    }
}

/// Takes the lock file beside the store, and leaves in it who we are.
fn lock(dir: &Path, path: &Path) -> Result<File, OpenError> {
    let mut file =
        at("open", path, |path| File::options().read(true).write(true).create(true).truncate(false).open(path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the text: an unreadable name makes no difference to the refusal.
            let _ = file.take(32).read_to_string(&mut holder);
            let holder = match holder.trim().parse::<u32>() {
                Ok(pid) => format!("process {pid}"),
                Err(_) => "another process".to_owned(),
            };
            return Err(OpenError::Locked { path: dir.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(source)) => {
            return Err(OpenError::Io { action: "lock", path: path.to_owned(), source });
        }
    }
    at("write", path, |_| file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())))?;
    Ok(file)
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

/// Returns once sled's lock on its file is free: sled's threads may hold on to it a little after the last handle is gone.
fn wait_until_released(db_file: &Path) -> io::Result<()> {
    let file = File::open(db_file)?;
    file.lock()?;
    file.unlock()
}

/// Makes the directories that lack, each durable in the one above.
fn make_directories(dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    make_directories(parent)?;
    at("create", dir, |dir| DirBuilder::new().mode(0o700).create(dir))?;
    sync_path(parent)
}

/// Syncs every file and directory below, then the directory itself.
fn sync_tree(dir: &Path) -> Result<(), OpenError> {
    for entry in at("read", dir, |dir| fs::read_dir(dir))? {
        let path = at("read", dir, |_| entry)?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync_path(&path)? }
    }
    sync_path(dir)
}

/// Makes a file's or directory's content durable.
fn sync_path(path: &Path) -> Result<(), OpenError> {
    at("sync", path, |path| File::open(path)?.sync_all())
}

fn at<T>(action: &'static str, path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, OpenError> {
    act(path).map_err(|source| OpenError::Io { action, path: path.to_owned(), source })
}
