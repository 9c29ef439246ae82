//! How a store comes to be and is opened: one process at a time, one node's memory, and what is damaged brought back from
//! the copy that is whole.
//!
//! There are two copies, sled and the journal, and each says where it stands ([`Position`]). The one that has come further
//! is right; the other is written anew from it. Which it is, is decided in [`recovery`](crate::recovery).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{self, MetaText};
use crate::journal::writer::{JournalWriter, LOGS, fdatasync};
use crate::limits::Limits;
use crate::live::{Effect, Live, Touched};
use crate::places::Places;
use crate::position::Position;
use crate::queue::Queue;
use crate::recovery::{self, Opened, Recovery};
use crate::sled_dir::{self, make_directories, patiently};
use crate::trees::{self, TreeName, Trees};
use crate::upkeep::{self, Wanted};

/// The version of the trees, keys and of what their records mean together.
pub const FORMAT_VERSION: u32 = 1;

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
    /// Neither copy of what is on disk is whole.
    #[error("the store {} is damaged: {reason}; restore a dump (`dragline restore`), or move it and its journal away to begin with an empty one", path.display())]
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
    /// A newer dragline wrote its journal.
    #[error("the store's journal: {reason}")]
    NewerJournal {
        /// Which file, its version and ours.
        reason: String,
    },
    /// A step of an upgrade met something that it cannot carry over.
    #[error("the store {} has format version {found} and cannot be brought to {known}: {reason}; it is unchanged", path.display())]
    Upgrade {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that it was to have.
        known: u32,
        /// What is in the way.
        reason: String,
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

/// The lock of a store: whoever holds it may change what is on disk.
///
/// Its file also says how far the store has come, as a third witness: where one copy is gone, nothing else tells whether
/// the other one has lost its end. It is never synced; when it is not as it was written, it says too little or nothing.
#[derive(Debug)]
pub(crate) struct Held {
    file: File,
    /// How far the store had come by what was said when the lock was taken.
    pub(crate) reached: Option<Position>,
}

impl Held {
    /// Says who holds the lock, and that the store has come this far: the journal has it durably.
    pub(crate) fn note(&self, position: Option<Position>) -> io::Result<()> {
        let position = position.map(|position| hex::encode(position.to_bytes())).unwrap_or_default();
        let text = format!("{}\n{position}", std::process::id());
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)
    }
}

fn reached(text: &str) -> Option<Position> {
    Position::from_bytes(&hex::decode(text.lines().nth(1)?).ok()?)
}

/// Everything that an open store is made of.
pub(crate) struct Parts {
    pub(crate) live: Arc<Live>,
    pub(crate) writer: JournalWriter,
    pub(crate) places: Places,
    pub(crate) meta: Meta,
    pub(crate) recovery: Recovery,
    pub(crate) lock: Arc<Held>,
}

/// Opens the store in `dir`, making it if there is none.
pub(crate) fn open(dir: &Path, node: &str, boot_id: &str, limits: Limits) -> Result<Parts, OpenError> {
    let places = at("resolve", dir, Places::new)?;
    make_directories(places.parent())?;
    let lock = lock(&places)?;
    let Opened { sled, position, size, found, new, recovery } =
        recovery::open(&places, Some(node), boot_id, lock.reached)?;
    let previous_boot_id = read_meta(places.sled(), &sled.trees, trees::META_BOOT)?;
    let live = Live::new(sled, position, size);
    let wanted = Wanted::new(Arc::new(Queue::default()));
    let (earlier, logs) = (found.log_bytes(), found.logs());
    let journal = places.journal();
    let mut writer = at("begin a log in", journal.path(), |_| {
        JournalWriter::begin(journal.clone(), position, earlier, limits, fdatasync(), wanted)
    })?;
    if previous_boot_id != boot_id {
        note_boot(&live, &mut writer, &places, boot_id)?;
    }
    // A damaged place is repaired before anybody is told that it was; a group torn by a crash has time.
    let renewed = found.single_copies && !recovery.is_empty() && renew_now(&places, &live, &writer);
    if (logs > LOGS || found.single_copies) && !renewed {
        writer.renew(&live);
    }
    at("write", &places.lock(), |_| lock.note(Some(live.position())))?;
    let meta = Meta {
        format_version: FORMAT_VERSION,
        node: node.to_owned(),
        boot_id: boot_id.to_owned(),
        previous_boot_id: (!new).then_some(previous_boot_id),
    };
    Ok(Parts { live, writer, places, meta, recovery, lock: Arc::new(lock) })
}

/// Replaces the damaged logs by a snapshot at once; false when that failed, so that the upkeep is to try it.
fn renew_now(places: &Places, live: &Arc<Live>, writer: &JournalWriter) -> bool {
    let mut view = live.view();
    let written = upkeep::write_snapshot(&places.journal(), &mut view, || false)
        .and_then(|()| Ok(upkeep::remove_superseded(&places.journal(), &view, writer.log_path())?));
    if let Err(error) = &written {
        tracing::warn!(%error, "cannot replace the store's damaged logs by a snapshot");
    }
    written.is_ok()
}

/// A store that was opened to be read, whosever it is; dropping it closes it.
pub(crate) struct Still {
    pub(crate) live: Arc<Live>,
    pub(crate) recovery: Recovery,
    places: Places,
    lock: Option<Held>,
}

impl Still {
    /// Closes it and keeps the lock.
    pub(crate) fn close(mut self) -> Held {
        self.lock.take().expect("only this takes the lock away, and it takes all of it")
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        close(&self.live, &self.places);
    }
}

/// Closes sled, and marks it as closed if it holds everything durably.
pub(crate) fn close(live: &Live, places: &Places) {
    let Some(sled) = live.close() else { return };
    let durable = sled.make_durable();
    sled_dir::close(sled);
    // The journal has everything; a sled that is left marked is made anew after the next boot.
    if let Err(reason) = durable.and_then(|()| sled_dir::unmark(places.sled()).map_err(|error| error.to_string())) {
        tracing::warn!(%reason, "sled could not be closed as it should");
    }
}

/// Opens a store to be read: its content and its boot stay as they are, and none is made.
pub(crate) fn open_as_it_is(dir: &Path) -> Result<Still, OpenError> {
    let places = at("resolve", dir, Places::new)?;
    if !places.parent().is_dir() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        return Err(OpenError::Io { action: "open", path: dir.to_owned(), source });
    }
    let lock = lock(&places)?;
    let boot_id = at("read the boot ID for", dir, |_| sled_dir::boot_id())?;
    let Opened { sled, position, size, recovery, .. } = recovery::open(&places, None, &boot_id, lock.reached)?;
    Ok(Still { places, live: Live::new(sled, position, size), recovery, lock: Some(lock) })
}

/// Remembers under which boot the store is open.
fn note_boot(live: &Arc<Live>, writer: &mut JournalWriter, places: &Places, boot_id: &str) -> Result<(), OpenError> {
    let failed = |reason: String| OpenError::Io {
        action: "write the boot ID into",
        path: places.sled().to_owned(),
        source: io::Error::other(reason),
    };
    let place = (TreeName::Meta, trees::META_BOOT.to_vec());
    let trees = live.trees().ok_or_else(|| failed("it is closed".to_owned()))?;
    let old = trees.tree(TreeName::Meta).get(trees::META_BOOT).map_err(|error| failed(error.to_string()))?;
    let effect = Effect::from([(place, Touched { old, new: Some(meta_value(places.sled(), boot_id)?) })]);
    let before = live.position();
    let frame = writer.append(before, &effect).map_err(|error| failed(error.to_string()))?;
    let after = crate::commit::after(before, &effect);
    live.follow(effect, &frame, after).map_err(failed)?;
    writer.committed(live);
    Ok(())
}

/// The bytes of a text of the meta tree.
pub(crate) fn meta_value(dir: &Path, text: &str) -> Result<Vec<u8>, OpenError> {
    codec::encode(&MetaText(text.to_owned())).map_err(|error| OpenError::Io {
        action: "describe",
        path: dir.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, error),
    })
}

/// A text of the meta tree.
pub(crate) fn read_meta(dir: &Path, trees: &Trees, key: &[u8]) -> Result<String, OpenError> {
    let corrupt = |reason| OpenError::Corrupt { path: dir.to_owned(), reason };
    let what = key.escape_ascii();
    let value = trees.tree(TreeName::Meta).get(key).map_err(|error| corrupt(format!("its {what}: {error}")))?;
    let value = value.ok_or_else(|| corrupt(format!("it does not say its {what}")))?;
    let MetaText(text) = codec::decode(&value).map_err(|error| corrupt(format!("its {what}: {error}")))?;
    Ok(text)
}

/// Takes the lock file beside the store, and leaves in it who we are.
pub(crate) fn lock(places: &Places) -> Result<Held, OpenError> {
    patiently(|| try_lock(places.sled(), &places.lock()))
}

fn try_lock(dir: &Path, path: &Path) -> Result<Held, OpenError> {
    let file = at("open", path, |path| File::options().read(true).write(true).create(true).truncate(false).open(path))?;
    let locked = file.try_lock();
    let mut text = String::new();
    // Who has it, and how far it has come: unreadable, it is no witness, and makes no difference otherwise.
    let _ = (&file).take(128).read_to_string(&mut text);
    match locked {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let holder = match text.lines().next().unwrap_or_default().parse::<u32>() {
                Ok(pid) => format!("process {pid}"),
                Err(_) => "another process".to_owned(),
            };
            return Err(OpenError::Locked { path: dir.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(source)) => {
            return Err(OpenError::Io { action: "lock", path: path.to_owned(), source });
        }
    }
    let held = Held { file, reached: reached(&text) };
    at("write", path, |_| held.note(held.reached))?;
    Ok(held)
}

pub(crate) fn at<T>(
    action: &'static str,
    path: &Path,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> Result<T, OpenError> {
    act(path).map_err(|source| OpenError::Io { action, path: path.to_owned(), source })
}
