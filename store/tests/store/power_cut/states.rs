//! Which states a power cut may leave behind, given what is durable and what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Content, Image, Node, PAGE, Page};
use super::disk::{Disk, Entry, File, Inode, NameChange, Names, ROOT};
use super::random::Random;
use super::record::Recording;

/// The unit that a disk writes whole, in bytes.
const SECTOR: usize = 512;

/// What became of the names since they were durable.
#[derive(Debug, Clone, Copy, PartialEq)]
enum NamesKept {
    Nothing,
    Everything,
    /// What the file system's journal got to.
    Prefix,
    /// As if each directory had a journal of its own.
    PrefixOfEach,
    /// All but some entries that were made and never touched again.
    NotAllCreated,
}

/// What became of the files' contents since they were durable.
#[derive(Debug, Clone, Copy, PartialEq)]
enum PagesKept {
    Nothing,
    Everything,
    /// Each page as it was at some time since, each file with a size that it had.
    Some,
    /// The files have their last size, and mostly zeros or old pages below it.
    SizesOnly,
    /// As before, and what was being written when the power went is torn.
    Torn,
}

/// What a torn page holds where it was written since it was durable.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Tear {
    /// Some sectors new, the others old.
    Sectors,
    /// New up to somewhere, then zeros.
    Zeros,
    /// New up to somewhere, then garbage.
    Garbage,
    /// Garbage all over, also where nothing was written.
    WholePage,
}

/// A state after a crash, and how it came about.
pub(crate) struct Crashed {
    pub(crate) image: Image,
    /// Equal for states that differ only in files that nobody ever syncs, such as a lock file.
    pub(crate) essence: u64,
    pub(crate) description: String,
}

/// One of the states that a crash may leave now. `page_garbage` also makes garbage of whole pages that were being written.
pub(crate) fn crash(disk: &Disk, recording: &Recording, page_garbage: bool, random: &mut Random) -> Crashed {
    use {NamesKept as N, PagesKept as P};
    let mut description = Vec::new();
    let mut reached;
    let mut disk = disk;
    let in_flight = disk.changes_in_flight();
    if !in_flight.is_empty() && random.percent(60) {
        reached = disk.clone();
        for number in in_flight.into_iter().filter(|_| random.percent(70)) {
            reached.apply(&recording.effects[number]);
            description.push("with a call under way".to_owned());
        }
        disk = &reached;
    }
    let names_kept =
        random.of(&[N::Nothing, N::Everything, N::Everything, N::Prefix, N::PrefixOfEach, N::NotAllCreated]);
    let pages_kept = random.of(&[P::Nothing, P::Everything, P::Some, P::Some, P::SizesOnly, P::Torn, P::Torn, P::Torn]);
    if !disk.names.changes.is_empty() {
        description.push(format!("names {names_kept:?}"));
    }
    let names = crashed_names(&disk.names, names_kept, random);
    let mut choice = Choice { kept: pages_kept, share: random.of(&[10, 50, 90]), page_garbage, random, description };
    let contents: BTreeMap<_, _> =
        names.values().filter_map(|inode| Some((*inode, choice.content(disk.files.get(inode)?)))).collect();
    let image = assemble(&names, |inode| contents.get(&inode).cloned());
    let synced = |inode| contents.get(&inode).filter(|_| recording.synced.contains(&inode)).cloned();
    let essence = assemble(&names, synced).digest();
    Crashed { image, essence, description: choice.description.join(", ") }
}

/// Everything as the running system sees it.
pub(crate) fn everything(disk: &Disk) -> Image {
    assemble(&disk.names.live, |inode| disk.files.get(&inode).map(|file| file.live.clone()))
}

/// Builds the tree from the names and, for each file that has one, its content.
fn assemble(names: &BTreeMap<Entry, Inode>, mut content: impl FnMut(Inode) -> Option<Content>) -> Image {
    let mut image = Image::default();
    let mut made = BTreeMap::new();
    let mut below = vec![(ROOT, PathBuf::new())];
    while let Some((dir, path)) = below.pop() {
        let range = (dir, String::new())..(dir + 1, String::new());
        for ((_, name), &inode) in names.range(range) {
            let path = Path::new(&path).join(name);
            let node = made.entry(inode).or_insert_with(|| content(inode)).clone().map_or(Node::Dir, Node::File);
            if matches!(node, Node::Dir) {
                below.push((inode, path.clone()));
            }
            image.0.insert(path, node);
        }
    }
    image
}

fn crashed_names(names: &Names, kept: NamesKept, random: &mut Random) -> BTreeMap<Entry, Inode> {
    let total = names.changes.len();
    let changes = || names.changes.iter().map(|(_, change)| change);
    let kept: Vec<&NameChange> = match kept {
        NamesKept::Nothing => Vec::new(),
        NamesKept::Everything => changes().collect(),
        NamesKept::Prefix => changes().take(random.below(total + 1)).collect(),
        NamesKept::PrefixOfEach => {
            let mut closed = BTreeSet::new();
            let open = |change: &&NameChange| {
                let dirs = || change.entries().into_iter().map(|entry| entry.0);
                let lost = dirs().any(|dir| closed.contains(&dir)) || random.percent(20);
                if lost {
                    closed.extend(dirs());
                }
                !lost
            };
            changes().filter(open).collect()
        }
        NamesKept::NotAllCreated => {
            let alone = |change: &NameChange| match change {
                NameChange::Put { at, .. } => changes().filter(|other| other.entries().contains(&at)).count() == 1,
                NameChange::Remove { .. } | NameChange::Rename { .. } | NameChange::Exchange { .. } => false,
            };
            let reached = if random.percent(50) { total } else { random.below(total + 1) };
            changes().take(reached).filter(|change| !alone(change) || random.percent(50)).collect()
        }
    };
    let mut crashed = names.durable.clone();
    kept.into_iter().for_each(|change| change.apply(&mut crashed));
    crashed
}

/// How the contents are chosen in one state.
struct Choice<'a> {
    kept: PagesKept,
    /// How many of the pages that were written are new, in percent.
    share: usize,
    page_garbage: bool,
    random: &'a mut Random,
    description: Vec<String>,
}

/// A page's versions, each with what was written to make it. Oldest first; the first one is the oldest that is possible.
type Versions = Vec<(Arc<Page>, std::ops::Range<usize>)>;

impl Choice<'_> {
    fn content(&mut self, file: &File) -> Content {
        if file.changes.is_empty() {
            return file.durable.clone();
        }
        let number = file.changes.len();
        match self.kept {
            PagesKept::Nothing => return file.durable.clone(),
            PagesKept::Everything => return file.live.clone(),
            PagesKept::Some | PagesKept::SizesOnly | PagesKept::Torn => {}
        }
        // What takes away is ordered by the file system's journal: the first few of these have happened.
        let cuts: Vec<_> = (0..number).filter(|at| file.changes[*at].takes_away).collect();
        let happened = if self.random.percent(70) { cuts.len() } else { self.random.below(cuts.len() + 1) };
        let limit = cuts.get(happened).copied().unwrap_or(number);
        let floor = happened.checked_sub(1).map(|last| cuts[last]);
        let oldest = floor.map_or(0, |floor| floor + 1);
        let before = floor.map_or(file.durable.size, |floor| file.changes[floor].size);

        let sizes: Vec<_> = [before].into_iter().chain(file.changes[oldest..limit].iter().map(|c| c.size)).collect();
        let last = *sizes.last().expect("there is one");
        let mut content = file.durable.clone();
        content.size = match self.kept {
            PagesKept::Some => self.random.of(&sizes),
            _ if self.random.percent(15) => self.random.of(&sizes),
            _ => last,
        };
        let mut pages = versions(file, floor, limit);
        let share = if self.kept == PagesKept::SizesOnly { self.share / 3 } else { self.share };
        let mut kept = BTreeMap::new();
        for (&number, versions) in &pages {
            // Of a torn state all but what was under way is mostly there.
            let newest = versions.len() - 1;
            let version = match self.kept {
                PagesKept::Torn if self.random.percent(80) => newest,
                _ if newest > 1 && self.random.percent(20) => self.random.below(newest),
                _ if self.random.percent(share) => newest,
                _ => 0,
            };
            kept.insert(number, version);
            content.put(number, versions[version].0.clone());
        }
        self.description.push(format!("{:?} of {} pages in {number} writes: {kept:?}", self.kept, kept.len()));
        if self.kept == PagesKept::Torn {
            pages.retain(|_, versions| versions.len() > 1);
            let number = if self.random.percent(60) {
                pages.keys().next_back().copied()
            } else {
                pages.keys().nth(self.random.below(pages.len().max(1))).copied()
            };
            if let Some(number) = number {
                let torn = self.tear(number, &pages[&number]);
                content.put(number, torn);
            }
        }
        content.cut();
        content
    }

    /// A page of which a write was under way.
    fn tear(&mut self, number: u64, versions: &Versions) -> Arc<Page> {
        let new = 1 + self.random.below(versions.len() - 1);
        let new = if self.random.percent(70) { versions.len() - 1 } else { new };
        let old = if self.random.percent(50) { new - 1 } else { 0 };
        let mut bytes = versions[new].0.bytes.clone();
        let tears = [Tear::Sectors, Tear::Sectors, Tear::Zeros, Tear::Garbage, Tear::WholePage];
        let tear = self.random.of(if self.page_garbage { &tears } else { &tears[..4] });
        let mut written = vec![false; PAGE];
        versions[old + 1..=new].iter().for_each(|(_, range)| written[range.clone()].fill(true));
        let first = written.iter().position(|written| *written).unwrap_or(0);
        let last = written.iter().rposition(|written| *written).unwrap_or(0);
        let mut cut = first + self.random.below(last - first + 1);
        if self.random.percent(50) {
            cut = cut / SECTOR * SECTOR;
        }
        match tear {
            Tear::Sectors => {
                let prefix = self.random.percent(50);
                for (sector, at) in (0..PAGE).step_by(SECTOR).enumerate() {
                    let keep = if prefix { (sector + 1) * SECTOR <= cut } else { self.random.percent(50) };
                    if !keep {
                        bytes[at..at + SECTOR].copy_from_slice(&versions[old].0.bytes[at..at + SECTOR]);
                    }
                }
            }
            Tear::Zeros | Tear::Garbage => {
                for at in (cut..PAGE).filter(|at| written[*at]) {
                    bytes[at] = if tear == Tear::Zeros { 0 } else { self.random.next() as u8 };
                }
            }
            Tear::WholePage => bytes.iter_mut().for_each(|byte| *byte = self.random.next() as u8),
        }
        self.description.push(format!("page {number} torn: {tear:?} of versions {old} and {new} from {cut} on"));
        Page::new(bytes)
    }
}

/// The versions of every page that was written before `limit`, none older than what `floor` took away.
fn versions(file: &File, floor: Option<usize>, limit: usize) -> BTreeMap<u64, Versions> {
    let mut pages = BTreeMap::<u64, Versions>::new();
    for (at, change) in file.changes[..limit].iter().enumerate() {
        for dirty in &change.pages {
            let durable = || file.durable.page(dirty.number).cloned().unwrap_or_else(Page::zero);
            let versions = pages.entry(dirty.number).or_insert_with(|| vec![(durable(), 0..0)]);
            if change.takes_away && floor.is_some_and(|floor| at <= floor) {
                versions.clear();
            }
            versions.push((dirty.page.clone(), dirty.written.clone()));
        }
    }
    pages
}
