//! The simulated disk: what is durable for certain, and what has been done since then and may or may not be.
//!
//! It promises the least that a journalling file system does. A sync makes durable what had ended when the sync began,
//! and only once it has ended; of a file that is its content and size, of a directory its entries. Nothing else does:
//! neither the sync of a file for its name, nor `sync_file_range` for anything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::content::{Content, PAGE, Page};

/// A file or directory, whatever its names.
pub(crate) type Inode = usize;

/// The directory in which everything happens; it is durable itself.
pub(crate) const ROOT: Inode = 0;

/// A name in a directory.
pub(crate) type Entry = (Inode, String);

/// What a system call does to the disk.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    Write { file: Inode, offset: u64, data: Arc<[u8]> },
    Resize { file: Inode, size: u64 },
    Zero { file: Inode, range: Range<u64>, size: u64 },
    Name(NameChange),
    Sync(Inode),
    SyncAll,
}

/// What a system call does to names.
#[derive(Debug, Clone)]
pub(crate) enum NameChange {
    Put { at: Entry, inode: Inode },
    Remove { at: Entry },
    Rename { from: Entry, to: Entry },
    Exchange { one: Entry, other: Entry },
}

impl NameChange {
    /// The entries that it changes.
    pub(crate) fn entries(&self) -> Vec<&Entry> {
        match self {
            Self::Put { at, .. } | Self::Remove { at } => vec![at],
            Self::Rename { from, to } => vec![from, to],
            Self::Exchange { one, other } => vec![one, other],
        }
    }

    /// Whether it changes an entry of that directory.
    pub(crate) fn touches(&self, dir: Inode) -> bool {
        self.entries().iter().any(|entry| entry.0 == dir)
    }

    /// Does it to a set of names; what is to be moved must be there.
    pub(crate) fn apply(&self, names: &mut BTreeMap<Entry, Inode>) {
        let mut take = |at: &Entry| names.remove(at).unwrap_or_else(|| panic!("there is no {at:?} for {self:?}"));
        match self {
            Self::Put { at, inode } => drop(names.insert(at.clone(), *inode)),
            Self::Remove { at } => drop(take(at)),
            Self::Rename { from, to } => {
                let inode = take(from);
                names.insert(to.clone(), inode);
            }
            Self::Exchange { one, other } => {
                let (first, second) = (take(one), take(other));
                names.extend([(one.clone(), second), (other.clone(), first)]);
            }
        }
    }
}

/// A page as a change leaves it.
#[derive(Debug, Clone)]
pub(crate) struct Dirty {
    pub(crate) number: u64,
    pub(crate) page: Arc<Page>,
    /// What of it was written.
    pub(crate) written: Range<usize>,
}

/// What one call did to a file.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The file's size afterwards.
    pub(crate) size: u64,
    pub(crate) pages: Vec<Dirty>,
    /// It took something away: that is in the file system's journal, and never mixes with what was there before.
    pub(crate) takes_away: bool,
}

/// A file: what is durable, and every change since.
#[derive(Debug, Clone, Default)]
pub(crate) struct File {
    pub(crate) durable: Content,
    pub(crate) live: Content,
    pub(crate) changes: Vec<Change>,
    /// How many changes have become durable.
    settled: usize,
}

impl File {
    fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let first = offset / PAGE as u64;
        let pages = (first..end.div_ceil(PAGE as u64)).map(|number| {
            let at = number * PAGE as u64;
            let written = (offset.max(at) - at) as usize..(end.min(at + PAGE as u64) - at) as usize;
            let source = (at + written.start as u64 - offset) as usize;
            let mut bytes = self.live.bytes(number);
            bytes[written.clone()].copy_from_slice(&data[source..source + written.len()]);
            Dirty { number, page: Page::new(bytes), written }
        });
        let pages = pages.collect();
        self.change(Change { size: self.live.size.max(end), pages, takes_away: false });
    }

    fn zero(&mut self, range: Range<u64>, size: u64) {
        // Also what a crash could still bring back.
        let first = range.start / PAGE as u64;
        let known = [&self.live, &self.durable].into_iter().flat_map(|content| content.pages_from(first));
        let changed = self.changes.iter().flat_map(|change| &change.pages).map(|dirty| dirty.number);
        let numbers: BTreeSet<_> = known.chain(changed.filter(|number| *number >= first)).collect();
        let pages = numbers.into_iter().take_while(|number| number * (PAGE as u64) < range.end).map(|number| {
            let at = number * PAGE as u64;
            let written = (range.start.max(at) - at) as usize..(range.end.min(at + PAGE as u64) - at) as usize;
            let mut bytes = self.live.bytes(number);
            bytes[written.clone()].fill(0);
            Dirty { number, page: Page::new(bytes), written }
        });
        let pages = pages.collect();
        self.change(Change { size, pages, takes_away: true });
    }

    fn resize(&mut self, size: u64) {
        if size < self.live.size {
            self.zero(size..u64::MAX / 2, size);
        } else {
            self.change(Change { size, pages: Vec::new(), takes_away: false });
        }
    }

    fn change(&mut self, change: Change) {
        apply(&change, &mut self.live);
        self.changes.push(change);
    }

    /// Makes durable what there was when there had been `covered` changes.
    fn settle(&mut self, covered: usize) {
        let number = covered.saturating_sub(self.settled);
        self.changes.drain(..number).for_each(|change| apply(&change, &mut self.durable));
        self.settled += number;
    }

    fn covered(&self) -> usize {
        self.settled + self.changes.len()
    }
}

fn apply(change: &Change, content: &mut Content) {
    content.size = change.size;
    change.pages.iter().for_each(|dirty| content.put(dirty.number, dirty.page.clone()));
}

/// The names: which are durable, and every change since, with its number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) durable: BTreeMap<Entry, Inode>,
    pub(crate) live: BTreeMap<Entry, Inode>,
    pub(crate) changes: Vec<(usize, NameChange)>,
    next: usize,
}

impl Names {
    fn change(&mut self, change: &NameChange) {
        change.apply(&mut self.live);
        self.changes.push((self.next, change.clone()));
        self.next += 1;
    }

    /// Makes durable what there was in a directory, or everywhere, when the next change had the number `covered`.
    fn settle(&mut self, dir: Option<Inode>, covered: usize) {
        // Whoever moves between two directories takes with it what was done to the other one before.
        let mut dirs: Vec<_> = dir.into_iter().collect();
        let mut settles = vec![false; self.changes.len()];
        for (at, (number, change)) in self.changes.iter().enumerate().rev() {
            if *number < covered && (dir.is_none() || dirs.iter().any(|dir| change.touches(*dir))) {
                settles[at] = true;
                dirs.extend(change.entries().iter().map(|entry| entry.0));
            }
        }
        let mut settles = settles.into_iter();
        self.changes.retain(|(_, change)| {
            let settles = settles.next().expect("one for each");
            if settles {
                change.apply(&mut self.durable);
            }
            !settles
        });
    }
}

/// What a sync that is under way covers.
#[derive(Debug, Clone)]
enum Covered {
    File(Inode, usize),
    Dir(Inode, usize),
}

/// A call that has begun and not yet ended.
#[derive(Debug, Clone)]
enum InFlight {
    Sync(Vec<Covered>),
    Other,
}

/// The disk at one instant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<Inode, File>,
    pub(crate) names: Names,
    in_flight: BTreeMap<usize, InFlight>,
}

impl Disk {
    /// An effect, known by a number, begins.
    pub(crate) fn begin(&mut self, number: usize, effect: &Effect) {
        let cover = |(inode, file): (&Inode, &File)| Covered::File(*inode, file.covered());
        let in_flight = match effect {
            Effect::Sync(inode) => InFlight::Sync(vec![match self.files.get_key_value(inode) {
                Some(file) => cover(file),
                None => Covered::Dir(*inode, self.names.next),
            }]),
            Effect::SyncAll => {
                let dirs = self.names.live.values().filter(|inode| !self.files.contains_key(inode));
                let dirs = dirs.chain([&ROOT]).map(|inode| Covered::Dir(*inode, self.names.next));
                InFlight::Sync(self.files.iter().map(cover).chain(dirs).collect())
            }
            Effect::Write { .. } | Effect::Resize { .. } | Effect::Zero { .. } | Effect::Name(_) => InFlight::Other,
        };
        self.in_flight.insert(number, in_flight);
    }

    /// It has ended.
    pub(crate) fn end(&mut self, number: usize, effect: &Effect) {
        match self.in_flight.remove(&number).expect("it has begun") {
            InFlight::Sync(all) => all.into_iter().for_each(|covered| self.settle(covered)),
            InFlight::Other => self.apply(effect),
        }
    }

    /// It never ends, and has done nothing.
    pub(crate) fn forget(&mut self, number: usize) {
        self.in_flight.remove(&number);
    }

    /// The numbers of what changes the disk and has begun and not ended.
    pub(crate) fn changes_in_flight(&self) -> Vec<usize> {
        let changes = self.in_flight.iter().filter(|(_, what)| matches!(what, InFlight::Other));
        changes.map(|(number, _)| *number).collect()
    }

    /// The numbers of everything that has begun and not ended.
    pub(crate) fn in_flight(&self) -> Vec<usize> {
        self.in_flight.keys().copied().collect()
    }

    fn settle(&mut self, covered: Covered) {
        match covered {
            Covered::File(inode, changes) => self.files.get_mut(&inode).expect("no file goes away").settle(changes),
            Covered::Dir(inode, number) => self.names.settle(Some(inode), number),
        }
    }

    /// Does what a call that is no sync does.
    pub(crate) fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Write { file, offset, data } => self.file(*file).write(*offset, data),
            Effect::Resize { file, size } => self.file(*file).resize(*size),
            Effect::Zero { file, range, size } => self.file(*file).zero(range.clone(), *size),
            Effect::Name(change) => self.names.change(change),
            Effect::Sync(_) | Effect::SyncAll => {}
        }
    }

    fn file(&mut self, inode: Inode) -> &mut File {
        self.files.get_mut(&inode).expect("a file is known before it is written")
    }

    /// A new file, empty and without a name; the file system never shows what was on its blocks before.
    pub(crate) fn add_file(&mut self, inode: Inode) {
        self.files.insert(inode, File::default());
    }
}
