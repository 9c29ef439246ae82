//! Which copy of the state is right, and how the other one comes to hold the same.
//!
//! | found | then |
//! |---|---|
//! | neither sled nor journal | a new store |
//! | sled stands where the journal ends, and adds up | both are used as they are |
//! | sled is behind the journal | what the journal has more is applied to it |
//! | the machine went down while sled was open, and the journal is whole | sled is made anew from the journal |
//! | sled is absent, does not open, or does not add up | it is moved aside and made anew from the journal |
//! | sled is ahead of the journal, or there is no whole journal | the journal is moved aside and begun anew from sled |
//! | neither reaches the highest number that was seen | the one that comes furthest is used, and what is lost is said |
//! | nothing usable | refused: nothing is made up |

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::about::{self, About};
use crate::journal::frame;
use crate::journal::snapshot::SnapshotWriter;
use crate::journal::{Found, JournalDir, ScanError};
use crate::live::{self, Live, OpenSled, Size};
use crate::mirror::{FillError, fill, replay};
use crate::open::{FORMAT_VERSION, OpenError, at, meta_value};
use crate::places::Places;
use crate::position::{Epoch, Position};
use crate::sled_dir::{self, SledCopy, sync_path};
use crate::trees::{self, TreeName};
use crate::upgrade;
use crate::upkeep::{SnapshotFailure, write_snapshot};

/// What opening had to mend; all empty when both copies were whole and alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// What was wrong and what was done about it, a sentence each.
    pub mended: Vec<String>,
    /// Acknowledged changes that neither copy has any more, as a sentence.
    pub lost: Option<String>,
    /// Where damaged files were moved to.
    pub aside: Vec<PathBuf>,
}

impl Recovery {
    /// All of it, a sentence each.
    pub fn sentences(&self) -> Vec<String> {
        let lost = self.lost.iter().map(|lost| format!("the store has lost something: {lost}"));
        let mended = self.mended.iter().map(|mended| format!("the store was mended: {mended}"));
        let aside =
            self.aside.iter().map(|path| format!("damaged files of the store were moved to {}", path.display()));
        lost.chain(mended).chain(aside).collect()
    }

    /// Whether anything at all was wrong.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An open sled that holds what the journal holds.
pub(crate) struct Opened {
    pub(crate) sled: OpenSled,
    pub(crate) position: Position,
    pub(crate) size: Size,
    pub(crate) found: Found,
    /// It was made just now.
    pub(crate) new: bool,
    pub(crate) recovery: Recovery,
}

/// Where a state can be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Sled(Position),
    Snapshot(Position),
}

impl Base {
    fn position(self) -> Position {
        match self {
            Self::Sled(position) | Self::Snapshot(position) => position,
        }
    }
}

/// The base from which the journal's groups lead furthest, and how far; sled where both lead equally far, as then nothing
/// has to be written.
pub(crate) fn choose(snapshot: Option<Position>, sled: Option<Position>, found: &Found) -> Option<(Base, u64)> {
    let bases = [snapshot.map(Base::Snapshot), sled.map(Base::Sled)];
    let reach = |base: Base| base.position().number + found.following(base.position()).len() as u64;
    bases
        .into_iter()
        .flatten()
        .map(|base| (base, reach(base)))
        .max_by_key(|&(base, reach)| (base.position().epoch, reach, matches!(base, Base::Sled(_))))
}

/// Opens both copies, decides, and makes them alike. `reached` is how far the store has come by the note beside it. Without
/// a node, whosever it is; then none is made.
pub(crate) fn open(
    places: &Places,
    node: Option<&str>,
    boot_id: &str,
    reached: Option<Position>,
) -> Result<Opened, OpenError> {
    let mut recovery = Recovery::default();
    take_back_replaced(places)?;
    remove(&places.unfinished())?;
    let journal = places.journal();
    let mut new = false;
    // sled is made anew although nothing was wrong.
    let mut is_expected = false;
    // Each round either ends here or has changed what the next one finds: made, upgraded or rewritten.
    for _ in 0..4 {
        let found = journal.scan().map_err(scan_error)?;
        let kept = found.snapshot.is_none() && keep(places)?;
        let sled = match found.leads_to(reached) && sled_dir::went_down(places.sled(), boot_id) {
            true => {
                about::check_journal(places, &found, node)?;
                tracing::info!("the machine went down: sled is made anew from the journal");
                at("remove", places.sled(), |path| fs::remove_dir_all(path))?;
                is_expected = true;
                SledCopy::Absent
            }
            false => sled_dir::open(places.sled(), boot_id)?,
        };
        if matches!(sled, SledCopy::Absent) && !journal.is_there() {
            let Some(node) = node else { return Err(corrupt(places, "there is none".to_owned())) };
            if let Some(reached) = reached.filter(|reached| reached.number > 0) {
                recovery.lost = Some(format!("neither sled nor journal is there, and the store had come to {reached}"));
            }
            create(&journal, places, node, reached.map_or(Position::NOTHING.epoch, |reached| reached.epoch))?;
            (new, is_expected) = (true, true);
            continue;
        }
        let round =
            Round { places, node, boot_id, found, reached, recovery: &mut recovery, new, is_expected }.open(sled);
        if kept && matches!(round, Err(OpenError::Corrupt { .. })) {
            put_back(places)?;
        }
        let opened = round?;
        if kept && recovery.lost.is_some() {
            let aside = at("find a name beside", places.sled(), |_| places.aside())?;
            at("move aside", &places.replaced(), |path| fs::rename(path, &aside))?;
            recovery.aside.push(aside);
        }
        if let Some(opened) = opened {
            remove(&places.replaced())?;
            return Ok(Opened { recovery, ..opened });
        }
    }
    Err(corrupt(places, "every attempt to mend it leaves something to mend".to_owned()))
}

fn corrupt(places: &Places, reason: String) -> OpenError {
    OpenError::Corrupt { path: places.sled().to_owned(), reason }
}

pub(crate) fn scan_error(error: ScanError) -> OpenError {
    match error {
        ScanError::Io { action, path, source } => OpenError::Io { action, path, source },
        newer @ ScanError::Newer { .. } => OpenError::NewerJournal { reason: newer.to_string() },
    }
}

/// A sled that was put away while another was put in its place, which did not come to be.
fn take_back_replaced(places: &Places) -> Result<(), OpenError> {
    let replaced = places.replaced();
    if replaced.exists() && !places.sled().exists() {
        at("take back", &replaced, |path| fs::rename(path, places.sled()))?;
        sync_path(places.parent())?;
    }
    Ok(())
}

pub(crate) fn remove(dir: &Path) -> Result<(), OpenError> {
    if dir.exists() {
        tracing::info!(path = %dir.display(), "removing what is not needed any more");
        at("remove", dir, |path| fs::remove_dir_all(path))?;
    }
    Ok(())
}

/// Copies a sled that no journal stands behind: opening a damaged one, sled cuts off what follows the damage.
fn keep(places: &Places) -> Result<bool, OpenError> {
    if !places.sled().join("db").is_file() {
        return Ok(false);
    }
    remove(&places.replaced())?;
    remove(&places.unfinished())?;
    sled_dir::copy(places.sled(), &places.unfinished())?;
    at("keep a copy as", &places.replaced(), |path| fs::rename(places.unfinished(), path))?;
    Ok(true)
}

/// Puts a sled that is refused back as it was found.
fn put_back(places: &Places) -> Result<(), OpenError> {
    sled_dir::sync_tree(&places.replaced())?;
    at("put aside", places.sled(), |path| fs::rename(path, places.unfinished()))?;
    take_back_replaced(places)?;
    remove(&places.unfinished())
}

/// Begins a store: the journal's first snapshot, which says whose it is. sled is made from it as from any other.
fn create(journal: &JournalDir, places: &Places, node: &str, last: Epoch) -> Result<(), OpenError> {
    let epoch = at("begin", journal.path(), |_| last.next())?;
    let texts = [
        (trees::META_BOOT, String::new()),
        (trees::META_FORMAT, FORMAT_VERSION.to_string()),
        (trees::META_NODE, node.to_owned()),
    ];
    let mut records = Vec::new();
    for (key, text) in texts {
        records.push((TreeName::Meta, key.to_vec(), meta_value(places.sled(), &text)?));
    }
    let mut position = Position { epoch, ..Position::NOTHING };
    records.iter().for_each(|(tree, key, value)| position.digest.add(*tree, key, value));
    make_journal_dir(journal, places)?;
    at("write a snapshot into", journal.path(), |_| {
        let mut writer = SnapshotWriter::create(journal.snapshot_path(position), position)?;
        for (tree, key, value) in records {
            writer.put(tree, key, value)?;
        }
        writer.publish(position.digest).map(drop)
    })
}

/// Makes the journal's directory if there is none.
pub(crate) fn make_journal_dir(journal: &JournalDir, places: &Places) -> Result<(), OpenError> {
    if !journal.path().is_dir() {
        at("create", journal.path(), |path| DirBuilder::new().mode(0o700).create(path))?;
    }
    sync_path(places.parent())
}

/// One look at both copies.
struct Round<'a> {
    places: &'a Places,
    node: Option<&'a str>,
    boot_id: &'a str,
    found: Found,
    /// How far the store has come, by a witness who may know less.
    reached: Option<Position>,
    recovery: &'a mut Recovery,
    new: bool,
    is_expected: bool,
}

impl Round<'_> {
    /// Ends with the store open, or with None when the disk has been changed and is to be looked at again.
    fn open(mut self, sled: SledCopy) -> Result<Option<Opened>, OpenError> {
        self.recovery.mended.append(&mut self.found.damage);
        let snapshot = self.found.snapshot.as_ref().map(|&(position, _)| position);
        let (sled, size) = match sled {
            SledCopy::Absent => (None, Size::default()),
            SledCopy::Refused(reason) => {
                self.sled_is_damaged(None, &reason, snapshot.is_some())?;
                (None, Size::default())
            }
            SledCopy::Open(sled) => self.checked(sled, snapshot)?,
        };
        let Some((base, reach)) = choose(snapshot, sled.as_ref().map(|&(_, position)| position), &self.found) else {
            let journal = self.places.journal();
            let mut reasons = std::mem::take(&mut self.recovery.mended);
            reasons.push(format!("the journal in {} has no whole snapshot", journal.path().display()));
            return Err(corrupt(self.places, reasons.join("; ")));
        };
        self.say_what_is_lost(base, reach, sled.as_ref().map(|&(_, position)| position));
        match (base, sled) {
            (Base::Sled(_), Some((sled, position))) => self.use_sled(sled, position, size, snapshot),
            (_, sled) => {
                // Before anything is moved for it.
                about::check_journal(self.places, &self.found, self.node)?;
                if let Some((sled, position)) = sled {
                    self.replace_sled(sled, position)?;
                }
                self.make_sled(base.position())?;
                Ok(None)
            }
        }
    }

    /// A sled that opened, checked to its last record: whose it is, its format, and that all adds up.
    fn checked(
        &mut self,
        sled: OpenSled,
        snapshot: Option<Position>,
    ) -> Result<(Option<(OpenSled, Position)>, Size), OpenError> {
        let dir = self.places.sled();
        let stand = live::stand(&sled.trees);
        let about = About::read(dir, &sled.trees);
        let summed = live::add_up(&sled.trees);
        let reason = match (stand, about, summed) {
            (Ok(stand), Ok(about), Ok((digest, size))) => {
                about.check(dir, self.node)?;
                match stand {
                    // From before there was a journal: it stands by itself.
                    None => return Ok((Some((sled, Position { digest, ..Position::NOTHING })), size)),
                    Some(position) if position.digest == digest => return Ok((Some((sled, position)), size)),
                    Some(position) => format!("its records do not add up to what they were at {position}"),
                }
            }
            (_, Err(refused @ OpenError::Io { .. }), _) => return Err(refused),
            (Err(reason), ..) => reason,
            (_, Err(error), _) => error.to_string(),
            (_, _, Err(error)) => error.to_string(),
        };
        self.sled_is_damaged(Some(sled), &reason, snapshot.is_some())?;
        Ok((None, Size::default()))
    }

    /// Moves a damaged sled aside, if there is anything to make a new one from.
    fn sled_is_damaged(&mut self, sled: Option<OpenSled>, reason: &str, healable: bool) -> Result<(), OpenError> {
        if let Some(sled) = sled {
            sled_dir::close(sled);
        }
        self.recovery.mended.push(format!("sled in {}: {reason}", self.places.sled().display()));
        if healable { self.move_aside(self.places.sled()) } else { Ok(()) }
    }

    fn move_aside(&mut self, path: &Path) -> Result<(), OpenError> {
        let aside = at("find a name beside", path, |_| self.places.aside())?;
        at("move aside", path, |path| fs::rename(path, &aside))?;
        sync_path(self.places.parent())?;
        self.recovery.aside.push(aside);
        Ok(())
    }

    fn say_what_is_lost(&mut self, base: Base, reach: u64, sled: Option<Position>) {
        if self.new {
            return;
        }
        let epoch = base.position().epoch;
        let noted = self.reached.filter(|noted| noted.epoch == epoch).map(|noted| noted.number);
        let logged = self.found.highest(epoch);
        let followed = sled.filter(|sled| sled.epoch == epoch).map(|sled| sled.number);
        if let Some(highest) = logged.max(followed).max(noted).filter(|&highest| highest > reach) {
            self.recovery.lost = Some(format!(
                "changes {} to {highest} of epoch {epoch} were acknowledged and are whole in neither sled nor journal",
                reach + 1
            ));
        } else if let Some(newest) = self.newest_epoch().filter(|&newest| newest > epoch) {
            self.recovery.lost = Some(format!(
                "what epoch {newest} began with is whole in neither sled nor journal; epoch {epoch} was taken"
            ));
        }
    }

    fn newest_epoch(&self) -> Option<Epoch> {
        self.found.newest_epoch().max(self.reached.map(|noted| noted.epoch))
    }

    /// Lets a whole sled go on, brought up to what the journal has more.
    fn use_sled(
        mut self,
        sled: OpenSled,
        mut position: Position,
        mut size: Size,
        snapshot: Option<Position>,
    ) -> Result<Option<Opened>, OpenError> {
        for group in self.found.following(position) {
            let bytes = at("read", self.places.journal().path(), |_| self.found.read(group))?;
            let frame = frame::decode(&bytes).map_err(|error| corrupt(self.places, error.to_string()))?;
            replay(&sled.trees, &frame.writes, &mut position, &mut size)
                .map_err(|error| sled_dir::refused(self.places.sled(), error))?;
        }
        let format = About::read(self.places.sled(), &sled.trees)?.format;
        let journal = self.places.journal();
        if format < FORMAT_VERSION {
            upgrade::to_current(&journal, self.places, sled, position, size, format)?;
            // Replaced by now.
            remove(self.places.sled())?;
            self.recovery.mended.push(format!("the format was brought from version {format} to {FORMAT_VERSION}"));
            return Ok(None);
        }
        let whole = snapshot.is_some_and(|snapshot| {
            let reach = snapshot.number + self.found.following(snapshot).len() as u64;
            snapshot.epoch == position.epoch && reach == position.number
        });
        let beyond = self.found.highest(position.epoch).is_some_and(|highest| highest > position.number);
        if whole && !beyond {
            at("sync", journal.path(), |_| self.found.sync())?;
            sync_path(journal.path())?;
            let Self { found, new, .. } = self;
            return Ok(Some(Opened { sled, position, size, found, new, recovery: Recovery::default() }));
        }
        self.begin_journal(&journal, sled, position, size)?;
        Ok(None)
    }

    /// Begins the journal anew from sled, in an epoch of its own, so that nothing of the old one can be taken for a part
    /// of it.
    fn begin_journal(
        &mut self,
        journal: &JournalDir,
        sled: OpenSled,
        position: Position,
        size: Size,
    ) -> Result<(), OpenError> {
        if position.epoch != Position::NOTHING.epoch {
            self.recovery.mended.push(format!(
                "the journal in {} does not lead to {position}, where sled stands: it was begun anew from sled",
                journal.path().display()
            ));
        }
        let old = std::mem::take(&mut self.found.files);
        make_journal_dir(journal, self.places)?;
        let newest = position.epoch.max(self.newest_epoch().unwrap_or(position.epoch));
        let epoch = at("begin", journal.path(), |_| newest.next())?;
        let position = Position { epoch, ..position };
        let live = Live::new(sled, position, size);
        let written = write_snapshot(journal, &mut live.view(), || false);
        let sled = live.close();
        written.map_err(|failure| match failure {
            SnapshotFailure::Io(source) => {
                OpenError::Io { action: "write a snapshot into", path: journal.path().to_owned(), source }
            }
            other => corrupt(self.places, other.to_string()),
        })?;
        if let Some(sled) = sled {
            // Only now: a sled ahead of the journal's epoch would hide what went wrong.
            live::note_position(&sled.trees, position).map_err(|error| sled_dir::refused(self.places.sled(), error))?;
            sled_dir::flush(self.places.sled(), &sled)?;
            sled_dir::close(sled);
        }
        if !old.is_empty() {
            let aside = at("find a name beside", journal.path(), |_| self.places.aside())?;
            at("create", &aside, |path| DirBuilder::new().mode(0o700).create(path))?;
            for path in old {
                let Some(name) = path.file_name() else { continue };
                at("move aside", &path, |path| fs::rename(path, aside.join(name)))?;
            }
            self.recovery.aside.push(aside);
        }
        sync_path(journal.path())
    }

    /// Makes room for a sled from the journal: the old one is another epoch's, or behind what can be reached. Whoever
    /// replaces a state on purpose removes its sled by himself.
    fn replace_sled(&mut self, sled: OpenSled, position: Position) -> Result<(), OpenError> {
        sled_dir::close(sled);
        self.recovery.mended.push(format!("sled stands at {position}, and the journal does not lead on from there"));
        self.move_aside(self.places.sled())
    }

    /// Makes sled from the journal's snapshot; what the logs have more is applied when it is opened.
    fn make_sled(&mut self, base: Position) -> Result<(), OpenError> {
        let Some((_, path)) = &self.found.snapshot else { return Ok(()) };
        let unfinished = self.places.unfinished();
        if !self.is_expected {
            self.recovery.mended.push(format!("sled was made anew from the journal ({})", path.display()));
        }
        let sled = sled_dir::create(&unfinished, self.boot_id)?;
        let filled = fill(&sled.trees, path, base);
        if let Err(error) = filled {
            sled_dir::close(sled);
            return Err(match error {
                FillError::Sled(error) => sled_dir::refused(&unfinished, error),
                error => corrupt(self.places, format!("{}: {error}", path.display())),
            });
        }
        sled_dir::settle(&unfinished, &sled)?;
        sled_dir::close(sled);
        // An empty directory may be there, made by somebody.
        if self.places.sled().exists() {
            at("remove", self.places.sled(), |path| fs::remove_dir(path))?;
        }
        at("move into place", self.places.sled(), |path| fs::rename(&unfinished, path))?;
        sync_path(self.places.parent())
    }
}
