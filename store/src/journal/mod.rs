//! The journal: what was acknowledged, beside sled and independent of it.
//!
//! `<store>.journal/` holds a snapshot, which is the whole state at one position, and logs, which hold the groups of changes
//! since. A group is durable with its sync in the log; sled follows. Files, numbers in hexadecimal:
//!
//! - `snapshot-EPOCH-NUMBER`: the state at that position. Written beside under a name that ends in `.new`, synced, renamed:
//!   the rename is what makes a new state of affairs, whole.
//! - `log-EPOCH-NUMBER-TURN`: groups from that number on. Every open begins a log of its own, so the number may be there
//!   before: the turn counts from 0.

pub(crate) mod frame;
pub(crate) mod log;
pub(crate) mod snapshot;
pub(crate) mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::position::{Digest, Epoch, Position};
use crate::sled_dir::is_refusal;
use frame::FrameError;

/// What the name of an unfinished file ends in.
const UNFINISHED: &str = ".new";

/// Makes the entry of a file durable in its directory.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Where a journal's files are.
#[derive(Debug, Clone)]
pub(crate) struct JournalDir(PathBuf);

/// What a file of the journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Snapshot,
    Log,
}

/// A file of the journal, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    role: Role,
    epoch: u32,
    number: u64,
    turn: u32,
    path: PathBuf,
}

impl Named {
    fn parse(path: PathBuf) -> Option<Self> {
        let parts: Vec<_> = path.file_name()?.to_str()?.split('-').collect();
        let (role, epoch, number, turn) = match parts[..] {
            ["snapshot", epoch, number] => (Role::Snapshot, epoch, number, "0"),
            ["log", epoch, number, turn] => (Role::Log, epoch, number, turn),
            _ => return None,
        };
        let epoch = u32::from_str_radix(epoch, 16).ok()?;
        let number = u64::from_str_radix(number, 16).ok()?;
        let turn = u32::from_str_radix(turn, 16).ok()?;
        Some(Self { role, epoch, number, turn, path })
    }
}

/// A group that stands in a log.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) before: Digest,
    pub(crate) after: Digest,
    log: usize,
    at: u64,
    len: usize,
}

/// Everything that a journal holds, as it was found on disk.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The newest whole snapshot: where it stands and which file it is.
    pub(crate) snapshot: Option<(Position, PathBuf)>,
    /// The groups that stand in logs.
    groups: BTreeMap<Epoch, BTreeMap<u64, Logged>>,
    logs: Vec<PathBuf>,
    /// What is not as it was written, as texts for people.
    pub(crate) damage: Vec<String>,
    /// Some group stands there once only, or some page holds neither a group nor zeros.
    pub(crate) single_copies: bool,
    /// All files of the journal that were looked at.
    pub(crate) files: Vec<PathBuf>,
}

/// A journal that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Newer { path: PathBuf, source: FrameError },
}

impl Found {
    /// The groups that follow a position without a gap, each fitting the one before.
    pub(crate) fn following(&self, base: Position) -> Vec<&Logged> {
        let mut digest = base.digest;
        let mut following = Vec::new();
        let Some(groups) = self.groups.get(&base.epoch) else { return following };
        for (number, group) in groups.range(base.number.saturating_add(1)..) {
            if *number != base.number + 1 + following.len() as u64 || group.before != digest {
                break;
            }
            digest = group.after;
            following.push(group);
        }
        following
    }

    /// Whether it can be used without a look at sled: it has a snapshot, all that was logged since can be followed from it,
    /// no damage was found, and it goes as far as a witness says that the store has come. Yesterday's journal does not.
    pub(crate) fn leads_to(&self, reached: Option<Position>) -> bool {
        let Some((snapshot, _)) = self.snapshot else { return false };
        let reach = snapshot.number + self.following(snapshot).len() as u64;
        let goes_so_far = |reached: Position| reached.epoch == snapshot.epoch && reached.number <= reach;
        self.damage.is_empty()
            && self.highest(snapshot.epoch).is_none_or(|highest| highest <= reach)
            && reached.is_none_or(goes_so_far)
    }

    /// The highest number of an epoch that a group in a log has, whether or not it can be reached.
    pub(crate) fn highest(&self, epoch: Epoch) -> Option<u64> {
        self.groups.get(&epoch)?.last_key_value().map(|(number, _)| *number)
    }

    /// The newest epoch that any log has a group of.
    pub(crate) fn newest_epoch(&self) -> Option<Epoch> {
        self.groups.last_key_value().map(|(epoch, _)| *epoch)
    }

    /// The highest number of an epoch that a file is named after.
    pub(crate) fn newest_epoch_number(&self) -> u32 {
        self.named().map(|named| named.epoch).max().unwrap_or(0)
    }

    /// The newest snapshot, whole or not.
    pub(crate) fn newest_snapshot_file(&self) -> Option<PathBuf> {
        self.named().filter(|named| named.role == Role::Snapshot).max().map(|named| named.path)
    }

    /// The groups of the newest epoch that has any, in their order.
    pub(crate) fn newest_groups(&self) -> impl Iterator<Item = &Logged> {
        self.groups.last_key_value().into_iter().flat_map(|(_, groups)| groups.values())
    }

    fn named(&self) -> impl Iterator<Item = Named> {
        self.files.iter().filter_map(|path| Named::parse(path.clone()))
    }

    /// How many logs there are.
    pub(crate) fn logs(&self) -> usize {
        self.logs.len()
    }

    /// How many bytes the logs' groups take.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.groups.values().flat_map(BTreeMap::values).map(|group| 2 * group.len as u64).sum()
    }

    /// Reads a group's bytes back: a frame that was whole when it was found.
    pub(crate) fn read(&self, group: &Logged) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let path = self.logs.get(group.log).ok_or_else(|| io::Error::other("no such log"))?;
        let mut bytes = vec![0; group.len];
        File::open(path)?.read_exact_at(&mut bytes, group.at)?;
        Ok(bytes)
    }

    /// Makes durable what was read: a killed writer may have left groups that no sync has covered yet.
    pub(crate) fn sync(&self) -> io::Result<()> {
        for path in &self.files {
            File::open(path)?.sync_all()?;
        }
        Ok(())
    }
}

impl JournalDir {
    /// The journal of the store in `dir`.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether there is any: a directory with something in it.
    pub(crate) fn is_there(&self) -> bool {
        fs::read_dir(&self.0).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The name of a snapshot.
    pub(crate) fn snapshot_path(&self, position: Position) -> PathBuf {
        self.0.join(format!("snapshot-{:08x}-{:016x}", position.epoch.number, position.number))
    }

    /// A free name for the log whose first group follows a position.
    pub(crate) fn free_log_path(&self, position: Position) -> PathBuf {
        let (epoch, number) = (position.epoch.number, position.number.saturating_add(1));
        let named = |turn: u32| self.0.join(format!("log-{epoch:08x}-{number:016x}-{turn:x}"));
        // A name that cannot be looked up is refused when the file is made.
        (0..u32::MAX).map(named).find(|path| !path.exists()).unwrap_or_else(|| named(u32::MAX))
    }

    /// The files that a snapshot makes needless: everything before it, and the logs before the one that begins behind it.
    pub(crate) fn older_than(&self, snapshot: &Path, next_log: &Path) -> io::Result<Vec<PathBuf>> {
        let keep = [snapshot, next_log].map(|path| Named::parse(path.to_owned()));
        let mut older = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let Some(named) = Named::parse(entry?.path()) else { continue };
            if keep.iter().flatten().any(|keep| keep.role == named.role && named < *keep) {
                older.push(named.path);
            }
        }
        Ok(older)
    }

    /// Its files, by role, epoch and number; unfinished ones are removed. Empty when there is no journal.
    fn files(&self) -> Result<Vec<Named>, ScanError> {
        let io = |action, path: &Path, source| ScanError::Io { action, path: path.to_owned(), source };
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("read", &self.0, error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| io("read", &self.0, error))?.path();
            if path.as_os_str().as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
                fs::remove_file(&path).map_err(|error| io("remove", &path, error))?;
            } else if let Some(named) = Named::parse(path) {
                files.push(named);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Reads the whole journal, and checks all of it.
    pub(crate) fn scan(&self) -> Result<Found, ScanError> {
        let mut found = Found::default();
        let files = self.files()?;
        // The newest first: what is older is only looked at when the newer one is damaged.
        for named in files.iter().rev().filter(|named| named.role == Role::Snapshot) {
            found.files.push(named.path.clone());
            if found.snapshot.is_some() {
                continue;
            }
            match snapshot::verify(&named.path) {
                Ok(position) => found.snapshot = Some((position, named.path.clone())),
                Err(snapshot::SnapshotError::Frame { source: source @ FrameError::Newer { .. }, .. }) => {
                    return Err(ScanError::Newer { path: named.path.clone(), source });
                }
                // It may be whole, and another time it may be read: nothing must be begun anew for that.
                Err(snapshot::SnapshotError::Io(source)) if is_refusal(&source) => {
                    return Err(ScanError::Io { action: "read", path: named.path.clone(), source });
                }
                Err(error) => found.damage.push(format!("{}: {error}", named.path.display())),
            }
        }
        for named in files.into_iter().filter(|named| named.role == Role::Log) {
            found.scan_log(named.path)?;
        }
        Ok(found)
    }
}

impl Found {
    fn scan_log(&mut self, path: PathBuf) -> Result<(), ScanError> {
        let bytes = fs::read(&path).map_err(|source| ScanError::Io { action: "read", path: path.clone(), source })?;
        let log = self.logs.len();
        let mut copies: BTreeMap<(Epoch, u64), u32> = BTreeMap::new();
        let groups = &mut self.groups;
        let strange = frame::frames_in_pages(&bytes, |range, frame| {
            let mark = frame.mark;
            let after = mark.after;
            *copies.entry((after.epoch, after.number)).or_default() += 1;
            let group =
                Logged { before: mark.before, after: after.digest, log, at: range.start as u64, len: range.len() };
            // A later log's word counts: an agent that found a group torn wrote that number anew.
            groups.entry(after.epoch).or_default().insert(after.number, group);
        });
        let strange = strange.map_err(|source| ScanError::Newer { path: path.clone(), source })?;
        // The last group may have been torn by the crash that ended its writer, before anybody was told of it.
        let last = copies.last_key_value().map(|(&key, _)| key);
        for (&key, _) in copies.iter().filter(|&(_, &number)| number == 1) {
            self.single_copies = true;
            if Some(key) != last {
                self.damage.push(format!("{}: one of the two copies of change {} is damaged", path.display(), key.1));
            }
        }
        if !strange.is_empty() {
            self.single_copies = true;
            tracing::debug!(path = %path.display(), pages = ?strange, "pages of a log hold something else than groups");
        }
        self.logs.push(path.clone());
        self.files.push(path);
        Ok(())
    }
}
