//! A store from a dump: everything is verified before anything is touched, and one rename makes it count.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, Read as _};
use std::path::{Path, PathBuf};

use schemas::dump::{Counts, DUMP, Header, RecordLine, Trailer};
use sha2::{Digest as _, Sha256};

use crate::change::Change;
use crate::check::{Checker, Violation};
use crate::codec::{self, MetaText, RECORD_LIMIT};
use crate::dump;
use crate::journal::JournalDir;
use crate::journal::snapshot::SnapshotWriter;
use crate::live::{self, Live, RawRecord, Size};
use crate::open::{FORMAT_VERSION, Held, OpenError, at, close, lock, meta_value, open_as_it_is};
use crate::places::Places;
use crate::position::{Digest, Epoch, Position};
use crate::recovery;
use crate::sled_dir::{self, SledCopy, make_directories};
use crate::snapshot::ReadError;
use crate::trees::{self, TreeName};
use crate::{text, upgrade};

/// The longest line that is read: a record's bytes as JSON, with room to spare.
const LINE_LIMIT: u64 = 16 * RECORD_LIMIT as u64;

/// What a restore may do.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// The node whose memory it is to be.
    pub node: String,
    /// Take another node's dump, one that says that it is damaged, or one whose records contradict each other.
    pub force: bool,
    /// The dump was edited on purpose: its counts and its checksum are not compared.
    pub recompute_checksum: bool,
}

/// A restore that was refused or failed; the store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It cannot be read.
    #[error("cannot read the dump: {0}")]
    Read(io::Error),
    /// A line is not what it should be.
    #[error("line {line} of the dump: {reason}")]
    Line {
        /// Counts from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// It ends before its trailer.
    #[error(
        "the dump is cut off after line {lines}: its last line, with the checksum, is not there; dump again, or take another dump"
    )]
    CutOff {
        /// Lines that are there.
        lines: u64,
    },
    /// It is not what was written.
    #[error("the dump is not as it was written: {reason}; if it was edited on purpose, give --recompute-checksum")]
    Checksum {
        /// What does not agree.
        reason: String,
    },
    /// It is another node's.
    #[error(
        "the dump is of node {found:?}, and this is node {wanted:?}: its addresses may be in use there; --force takes it all the same"
    )]
    OtherNode {
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// A newer dragline wrote it.
    #[error("the dump has format version {found}, and this dragline knows versions up to {known}: run a newer one")]
    NewerFormat {
        /// Its version.
        found: u32,
        /// The newest version that is known here.
        known: u32,
    },
    /// It was made of a damaged store.
    #[error("the dump is of a damaged store ({reason}): --force takes what it has")]
    Damaged {
        /// What was missing.
        reason: String,
    },
    /// Its records contradict each other.
    #[error("the dump contradicts itself: {first}{}; --force takes it all the same", if *more > 0 { format!(", and {more} more") } else { String::new() })]
    Contradiction {
        /// The first contradiction.
        first: Box<Violation>,
        /// How many more there are.
        more: usize,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The dump's first line.
    pub header: Header,
    /// Records by tree.
    pub counts: Counts,
    /// Contradictions that `force` has let pass.
    pub violations: Vec<Violation>,
}

/// A dump being read, line by line.
struct Lines<R> {
    input: R,
    hash: Sha256,
    number: u64,
    text: String,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end; None at the end. The hash covers all lines before it.
    fn next(&mut self) -> Result<Option<&str>, RestoreError> {
        self.hash.update(self.text.as_bytes());
        self.text.clear();
        self.number += 1;
        let read = (&mut self.input).take(LINE_LIMIT).read_line(&mut self.text);
        let length = read.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => self.refused("it is not UTF-8".to_owned()),
            _ => RestoreError::Read(error),
        })?;
        if length as u64 == LINE_LIMIT {
            return Err(self.refused("it is longer than any line of a dump".to_owned()));
        }
        match self.text.strip_suffix('\n') {
            None if length > 0 => Err(RestoreError::CutOff { lines: self.number - 1 }),
            line => Ok(line),
        }
    }

    fn refused(&self, reason: String) -> RestoreError {
        RestoreError::Line { line: self.number, reason }
    }
}

/// A dump that has been read to its end and found whole.
struct Verified {
    header: Header,
    size: Size,
    digest: Digest,
    violations: Vec<Violation>,
}

/// Reads a dump to its end; `each` gets its records one after another, before all of it is known to be whole.
fn read(
    input: impl BufRead,
    options: &RestoreOptions,
    mut each: impl FnMut(RawRecord) -> Result<(), RestoreError>,
    mut progress: impl FnMut(u64),
) -> Result<Verified, RestoreError> {
    let mut lines = Lines { input, hash: Sha256::new(), number: 0, text: String::new() };
    let header = read_header(&mut lines, options)?;
    let (mut size, mut digest, mut checker) = (Size::default(), Digest::default(), Checker::default());
    let mut last: Option<(TreeName, Vec<u8>)> = None;
    loop {
        let Some(text) = lines.next()? else { return Err(RestoreError::CutOff { lines: lines.number - 1 }) };
        if let Ok(trailer) = serde_json::from_str::<Trailer>(text) {
            check_trailer(&mut lines, &trailer, &header, &size, options)?;
            break;
        }
        let line = serde_json::from_str::<RecordLine>(text).map_err(|error| error.to_string());
        let record = line
            .and_then(|line| if header.format < FORMAT_VERSION { upgrade::line(line, header.format) } else { Ok(line) })
            .and_then(|line| text::record_of(&line))
            .map_err(|reason| lines.refused(reason))?;
        let place = (record.tree, record.key.clone());
        if last.as_ref().is_some_and(|last| *last >= place) {
            return Err(
                lines.refused("it does not stand in the order of trees and keys, or stands there twice".to_owned())
            );
        }
        last = Some(place);
        size.add(record.tree, &record.key, &record.value);
        digest.add(record.tree, &record.key, &record.value);
        checker.take(&record);
        each(record)?;
        if lines.number.is_multiple_of(10_000) {
            progress(lines.number);
        }
    }
    let violations = checker.finish();
    if let (false, Some((first, more))) = (options.force, violations.split_first()) {
        return Err(RestoreError::Contradiction { first: Box::new(first.clone()), more: more.len() });
    }
    Ok(Verified { header, size, digest, violations })
}

fn read_header(lines: &mut Lines<impl BufRead>, options: &RestoreOptions) -> Result<Header, RestoreError> {
    /// What the header of any version has.
    #[derive(serde::Deserialize)]
    struct AnyVersion {
        dragline: String,
        format: u32,
    }
    let Some(text) = lines.next()? else { return Err(RestoreError::CutOff { lines: 0 }) };
    let any = serde_json::from_str::<AnyVersion>(text);
    let whole = serde_json::from_str::<Header>(text);
    let found = match any {
        Ok(any) if any.dragline == DUMP => any.format,
        Ok(_) => return Err(lines.refused("it is no dump of dragline; dump again, or take another dump".to_owned())),
        Err(error) => {
            return Err(lines.refused(format!("it is no dump of dragline ({error}); dump again, or take another dump")));
        }
    };
    if found > FORMAT_VERSION {
        return Err(RestoreError::NewerFormat { found, known: FORMAT_VERSION });
    }
    let header = whole.map_err(|error| lines.refused(error.to_string()))?;
    if header.node != options.node && !options.force {
        return Err(RestoreError::OtherNode { found: header.node, wanted: options.node.clone() });
    }
    if !header.damaged.is_empty() && !options.force {
        return Err(RestoreError::Damaged { reason: header.damaged.join("; ") });
    }
    Ok(header)
}

fn check_trailer(
    lines: &mut Lines<impl BufRead>,
    trailer: &Trailer,
    header: &Header,
    size: &Size,
    options: &RestoreOptions,
) -> Result<(), RestoreError> {
    let (before, sha256) = (lines.number - 1, hex::encode(lines.hash.clone().finalize()));
    if lines.next()?.is_some() {
        return Err(lines.refused("it follows the dump's end".to_owned()));
    }
    if options.recompute_checksum {
        return Ok(());
    }
    let checksum = |reason| Err(RestoreError::Checksum { reason });
    if trailer.sha256 != sha256 {
        return checksum(format!("its SHA-256 is {sha256}, and its last line says {}", trailer.sha256));
    }
    let counts = dump::counts_of(size);
    if trailer.lines != before || header.counts != counts {
        return checksum(format!(
            "it says {} lines with {:?}, and has {before} with {counts:?}",
            trailer.lines, header.counts
        ));
    }
    Ok(())
}

/// Puts a dump in the place of the store in `dir`, whatever there is. The dump is read to its end and found whole first;
/// then one rename makes it the store. Interrupted at any instant, the next open finds the old store or the new one, whole.
///
/// `progress` hears of lines read, now and then.
///
/// # Errors
/// When the store is in use, or the dump is not whole, not this node's or newer; the store is untouched then.
pub fn restore(
    dir: &Path,
    input: impl BufRead,
    options: &RestoreOptions,
    progress: impl FnMut(u64),
) -> Result<Restored, RestoreError> {
    let replacing = Replacing::begin(dir)?;
    let mut writer = replacing.writer()?;
    let path = replacing.journal.path();
    let put = |record: RawRecord| {
        let put = writer.put(record.tree, record.key, record.value);
        Ok(at("write a snapshot into", path, |_| put)?)
    };
    let Verified { header, size, digest, violations } = read(input, options, put, progress)?;
    let origin = dump::origin_text(&header.time, digest);
    replacing.publish(writer, digest, &options.node, &header.boot, Some(&origin))?;
    Ok(Restored { counts: dump::counts_of(&size), header, violations })
}

/// Puts the state that the changes lead to in the place of the store's, all of them by one rename: interrupted at any
/// instant, the next open finds none of them or all.
///
/// # Errors
/// When the store is in use, is not there, or cannot be written; it is as it was then.
pub fn extend(dir: &Path, node: &str, changes: &[Change]) -> Result<(), RestoreError> {
    let still = open_as_it_is(dir)?;
    let corrupt = |error: ReadError| OpenError::Corrupt { path: dir.to_owned(), reason: error.to_string() };
    let mut view = still.live.view();
    let mut records = BTreeMap::new();
    while let Some(read) = view.next_records().map_err(corrupt)? {
        records.extend(read.into_iter().map(|record| ((record.tree, record.key), record.value)));
    }
    drop(view);
    for op in changes.iter().flat_map(|change| &change.ops) {
        match &op.value {
            Some(value) => records.insert((op.tree, op.key.clone()), value.clone()),
            None => records.remove(&(op.tree, op.key.clone())),
        };
    }
    let boot = records.remove(&(TreeName::Meta, trees::META_BOOT.to_vec()));
    let boot = boot.and_then(|value| codec::decode(&value).ok()).map(|MetaText(boot)| boot).unwrap_or_default();
    let replacing = Replacing::begin_locked(at("resolve", dir, Places::new)?, still.close())?;
    let mut writer = replacing.writer()?;
    let mut digest = Digest::default();
    for ((tree, key), value) in records.into_iter().filter(|((tree, _), _)| *tree != TreeName::Meta) {
        digest.add(tree, &key, &value);
        at("write a snapshot into", replacing.journal.path(), |_| writer.put(tree, key, value))?;
    }
    Ok(replacing.publish(writer, digest, node, &boot, None)?)
}

/// Reads a dump without a store; its records in their order.
///
/// # Errors
/// When the dump is not whole, not this node's or newer.
pub fn read_dump(input: impl BufRead, options: &RestoreOptions) -> Result<(Header, Records), RestoreError> {
    let mut records = Records::default();
    let verified = read(
        input,
        options,
        |record| {
            records.0.push(record);
            Ok(())
        },
        |_| {},
    )?;
    Ok((verified.header, records))
}

/// Records of a dump.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records(pub(crate) Vec<RawRecord>);

impl Records {
    /// As a snapshot, for reading.
    pub fn snapshot(&self) -> crate::Snapshot {
        let mut snapshot = crate::Snapshot::default();
        self.0.iter().for_each(|record| snapshot.take(record));
        snapshot
    }
}

/// A state on its way to the place of another one.
struct Replacing {
    places: Places,
    journal: JournalDir,
    epoch: Epoch,
    boot_id: String,
    /// What is there now and will be needless.
    old: Vec<PathBuf>,
    lock: Held,
}

impl Replacing {
    fn begin(dir: &Path) -> Result<Self, OpenError> {
        let places = at("resolve", dir, Places::new)?;
        make_directories(places.parent())?;
        let lock = lock(&places)?;
        Self::begin_locked(places, lock)
    }

    fn begin_locked(places: Places, lock: Held) -> Result<Self, OpenError> {
        let journal = places.journal();
        let found = journal.scan().map_err(recovery::scan_error)?;
        let noted = lock.reached.map_or(0, |reached| reached.epoch.number);
        let mut newest = noted.max(found.newest_epoch_number());
        let boot_id = at("read the boot ID for", places.sled(), |_| sled_dir::boot_id())?;
        // A sled whose journal was lost may be of a later epoch than any file tells.
        let sled = match newest {
            0 => sled_dir::open(places.sled(), &boot_id)?,
            _ => SledCopy::Absent,
        };
        if let SledCopy::Open(sled) = sled {
            newest = newest.max(live::stand(&sled.trees).ok().flatten().map_or(0, |position| position.epoch.number));
            sled_dir::close(sled);
        }
        let epoch = at("begin an epoch in", journal.path(), |_| Epoch { number: newest, salt: 0 }.next())?;
        recovery::make_journal_dir(&journal, &places)?;
        Ok(Self { places, journal, epoch, boot_id, old: found.files, lock })
    }

    /// Where the records go.
    fn writer(&self) -> Result<SnapshotWriter, OpenError> {
        let position = Position { epoch: self.epoch, ..Position::NOTHING };
        at("write a snapshot into", self.journal.path(), |_| {
            SnapshotWriter::create(self.journal.snapshot_path(position), position)
        })
    }

    fn publish(
        self,
        mut writer: SnapshotWriter,
        mut digest: Digest,
        node: &str,
        boot: &str,
        origin: Option<&str>,
    ) -> Result<(), OpenError> {
        let mut texts = vec![
            (trees::META_BOOT, boot.to_owned()),
            (trees::META_FORMAT, FORMAT_VERSION.to_string()),
            (trees::META_NODE, node.to_owned()),
        ];
        texts.extend(origin.map(|origin| (trees::META_ORIGIN, origin.to_owned())));
        for (key, text) in texts {
            let value = meta_value(self.places.sled(), &text)?;
            digest.add(TreeName::Meta, key, &value);
            at("write a snapshot into", self.journal.path(), |_| writer.put(TreeName::Meta, key.to_vec(), value))?;
        }
        at("publish a snapshot in", self.journal.path(), |_| writer.publish(digest))?;
        // From here on the new state counts, whatever happens.
        recovery::remove(self.places.sled())?;
        let opened = recovery::open(&self.places, None, &self.boot_id, None)?;
        at("write", &self.places.lock(), |_| self.lock.note(Some(opened.position)))?;
        close(&Live::new(opened.sled, opened.position, opened.size), &self.places);
        for path in &self.old {
            at("remove", path, |path| fs::remove_file(path))?;
        }
        sled_dir::sync_path(self.journal.path())
    }
}
