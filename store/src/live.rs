//! The state that is open: sled's trees and where they stand. The committer writes here what the journal holds durably;
//! views read from here as of one position, whatever is committed meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sled::IVec;
use sled::transaction::{TransactionError, Transactional, TransactionalTree, UnabortableTransactionError};

use crate::journal::frame::{self, Mark, Write};
use crate::position::{Digest, Position};
use crate::snapshot::ReadError;
use crate::trees::{self, META_POSITION, TreeName, Trees};

/// A record's place: its tree and its key.
pub(crate) type Place = (TreeName, Vec<u8>);

/// What a group does to one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Touched {
    /// What was there; None where nothing was.
    pub(crate) old: Option<IVec>,
    /// What is there now; None where nothing is.
    pub(crate) new: Option<Vec<u8>>,
}

/// What a group does to the state: each record that it changes, once.
pub(crate) type Effect = BTreeMap<Place, Touched>;

/// A record as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawRecord {
    pub(crate) tree: TreeName,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// The open state, shared by the committer, the upkeep and the views.
pub(crate) struct Live(Mutex<State>);

struct State {
    /// None once the store has been closed.
    sled: Option<OpenSled>,
    position: Position,
    size: Size,
    /// What views must still see: by view, the records changed since it began, as they were then.
    undo: BTreeMap<u64, BTreeMap<Place, Option<IVec>>>,
    /// Of a group that sled took in part: what its records were before. The store is poisoned then, and is read as it was.
    torn: BTreeMap<Place, Option<IVec>>,
    next_view: u64,
    /// What has been committed since a successor of this sled was begun, while there is one.
    since: Option<Since>,
}

/// Groups that a sled being made must still follow.
#[derive(Default)]
struct Since {
    groups: Vec<(Effect, Position)>,
    bytes: usize,
}

/// The most bytes of groups that are kept for a sled being made; one that falls behind that far is given up.
const SINCE_BYTES: usize = 64 << 20;

/// An open sled.
pub(crate) struct OpenSled {
    pub(crate) db: sled::Db,
    pub(crate) trees: Trees,
    /// A descriptor of our own of the file that holds sled's log.
    pub(crate) log: Arc<File>,
}

impl OpenSled {
    /// Makes durable what it holds. sled's own flush hands the log to the kernel, but neither its size nor the disk's cache
    /// is seen to: `fdatasync` does that.
    pub(crate) fn make_durable(&self) -> Result<(), String> {
        flush(&self.trees, &self.log)
    }
}

fn flush(trees: &Trees, log: &File) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| trees.tree(TreeName::Meta).flush()))
        .map_err(|_| "sled panicked while flushing".to_owned())?
        .map_err(|error| format!("sled's flush: {error}"))?;
    log.sync_data().map_err(|error| format!("fdatasync of sled: {error}"))
}

/// How much a state is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Records of each tree.
    records: [u64; trees::ALL.len()],
    /// Bytes of keys and values.
    pub(crate) bytes: u64,
}

impl Size {
    /// How many records a tree has.
    pub(crate) fn records(&self, tree: TreeName) -> u64 {
        self.records[tree as usize]
    }

    pub(crate) fn add(&mut self, tree: TreeName, key: &[u8], value: &[u8]) {
        self.records[tree as usize] += 1;
        self.bytes += (key.len() + value.len()) as u64;
    }

    pub(crate) fn subtract(&mut self, tree: TreeName, key: &[u8], value: &[u8]) {
        let records = &mut self.records[tree as usize];
        *records = records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub((key.len() + value.len()) as u64);
    }
}

impl Live {
    pub(crate) fn new(sled: OpenSled, position: Position, size: Size) -> Arc<Self> {
        let state = State {
            sled: Some(sled),
            position,
            size,
            undo: BTreeMap::new(),
            torn: BTreeMap::new(),
            next_view: 0,
            since: None,
        };
        Arc::new(Self(Mutex::new(state)))
    }

    /// A panic below this lock is one of sled's, whose own state is not behind it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the state stands.
    pub(crate) fn position(&self) -> Position {
        self.lock().position
    }

    /// How much it is.
    pub(crate) fn size(&self) -> Size {
        self.lock().size
    }

    /// The trees as they are now; None once the store has been closed.
    pub(crate) fn trees(&self) -> Option<Trees> {
        self.lock().sled.as_ref().map(|sled| sled.trees.clone())
    }

    /// Makes durable what sled holds by now; commits go on meanwhile.
    pub(crate) fn checkpoint(&self) -> Result<(), String> {
        let sled = self.lock().sled.as_ref().map(|sled| (sled.trees.clone(), sled.log.clone()));
        sled.map_or(Ok(()), |(trees, log)| flush(&trees, &log))
    }

    /// How large sled's file is, in bytes.
    pub(crate) fn sled_bytes(&self) -> Option<u64> {
        let log = self.lock().sled.as_ref()?.log.clone();
        log.metadata().ok().map(|metadata| metadata.len())
    }

    /// Takes sled away, so that it can be closed: views that are left find the store closed.
    pub(crate) fn close(&self) -> Option<OpenSled> {
        self.lock().sled.take()
    }

    /// Begins a successor: a view of the state as it is now, behind which all groups are kept for
    /// [`catch_up`](Self::catch_up).
    pub(crate) fn begin_successor(self: &Arc<Self>) -> View {
        self.view_with(|state| state.since = Some(Since::default()))
    }

    /// Lets a successor follow what has been committed meanwhile; how many groups that were.
    pub(crate) fn catch_up(&self, successor: &OpenSled) -> Result<usize, String> {
        let groups = match &mut self.lock().since {
            Some(since) => std::mem::take(since).groups,
            None => return Err("too much was committed meanwhile".to_owned()),
        };
        for (effect, after) in &groups {
            follow_in(successor, effect, *after).map_err(|error| error.to_string())?;
        }
        Ok(groups.len())
    }

    /// Puts a successor in sled's place, with the last groups that it lacks; commits wait for that. Returns the old sled.
    pub(crate) fn replace(&self, successor: OpenSled) -> Result<OpenSled, (OpenSled, String)> {
        let mut state = self.lock();
        let Some(since) = state.since.take() else {
            return Err((successor, "too much was committed meanwhile".to_owned()));
        };
        for (effect, after) in &since.groups {
            if let Err(error) = follow_in(&successor, effect, *after) {
                return Err((successor, error.to_string()));
            }
        }
        match state.sled.take() {
            Some(old) => {
                state.sled = Some(successor);
                Ok(old)
            }
            None => Err((successor, "the store is closed".to_owned())),
        }
    }

    /// Gives up a successor.
    pub(crate) fn end_successor(&self) {
        self.lock().since = None;
    }

    /// Lets the state follow a group that is durable in the journal.
    pub(crate) fn follow(&self, effect: Effect, frame: &[u8], after: Position) -> Result<(), String> {
        let mut state = self.lock();
        let State { sled, position, size, undo, torn, since, .. } = &mut *state;
        let Some(sled) = sled else { return Err("the store is closed".to_owned()) };
        if let Err(error) = write(&sled.trees, &effect, frame, after) {
            for (place, touched) in effect {
                for seen in undo.values_mut().chain([&mut *torn]) {
                    seen.entry(place.clone()).or_insert_with(|| touched.old.clone());
                }
            }
            return Err(format!("sled: {error}"));
        }
        *position = after;
        if let Some(kept) = since {
            kept.bytes +=
                effect.iter().map(|((_, key), to)| key.len() + to.new.as_ref().map_or(0, Vec::len)).sum::<usize>();
            kept.groups.push((effect.clone(), after));
            if kept.bytes > SINCE_BYTES {
                *since = None;
            }
        }
        for ((tree, key), touched) in effect {
            if let Some(old) = &touched.old {
                size.subtract(tree, &key, old);
            }
            if let Some(new) = &touched.new {
                size.add(tree, &key, new);
            }
            for seen in undo.values_mut() {
                seen.entry((tree, key.clone())).or_insert_with(|| touched.old.clone());
            }
        }
        Ok(())
    }

    /// Begins a view of the state as it is now.
    pub(crate) fn view(self: &Arc<Self>) -> View {
        self.view_with(|_| {})
    }

    fn view_with(self: &Arc<Self>, also: impl FnOnce(&mut State)) -> View {
        let mut state = self.lock();
        also(&mut state);
        let number = state.next_view;
        state.next_view += 1;
        let torn = state.torn.clone();
        state.undo.insert(number, torn);
        View {
            live: self.clone(),
            number,
            position: state.position,
            size: state.size,
            next: Some((TreeName::Attachments, None)),
        }
    }
}

fn follow_in(successor: &OpenSled, effect: &Effect, after: Position) -> Result<(), sled::Error> {
    write(&successor.trees, effect, &frame_of(after.digest, after, effect), after)
}

/// The longest frame that sled keeps as its position, in bytes: far below what a record may have.
const POSITION_LIMIT: usize = 16 << 10;

/// Writes a group's effect and the new position. `frame` is the group's frame, as the journal has it.
///
/// The position is the frame itself, written before its effect: whatever part of the effect a crash lets sled keep,
/// [`stand`] completes it. A transaction over trees does the same at twice the price of the whole commit, as sled seals its
/// buffer for each; only a group whose frame is too long for a record pays that.
pub(crate) fn write(trees: &Trees, effect: &Effect, frame: &[u8], after: Position) -> Result<(), sled::Error> {
    if frame.len() > POSITION_LIMIT {
        return write_at_once(trees, effect, after);
    }
    trees.tree(TreeName::Meta).insert(META_POSITION, frame)?;
    for ((tree, key), touched) in effect {
        let tree = trees.tree(*tree);
        match &touched.new {
            Some(value) => tree.insert(key.as_slice(), value.as_slice())?,
            None => tree.remove(key.as_slice())?,
        };
    }
    Ok(())
}

/// The frame of a group.
pub(crate) fn frame_of(before: Digest, after: Position, effect: &Effect) -> Vec<u8> {
    let writes = effect.iter().map(|((tree, key), to)| Write { tree: *tree, key, value: to.new.as_deref() });
    frame::encode(&Mark { before, after }, writes)
}

/// Notes where sled stands, when it holds just that.
pub(crate) fn note_position(trees: &Trees, position: Position) -> Result<(), sled::Error> {
    write(trees, &Effect::new(), &frame_of(position.digest, position, &Effect::new()), position)
}

/// Where sled stands, once the group that it was at is complete. None for a sled from before there was a journal.
pub(crate) fn stand(trees: &Trees) -> Result<Option<Position>, String> {
    let text = |error: sled::Error| error.to_string();
    let Some(bytes) = trees.tree(TreeName::Meta).get(META_POSITION).map_err(text)? else { return Ok(None) };
    let frame = frame::decode(&bytes).map_err(|error| format!("its position: {error}"))?;
    for Write { tree, key, value } in frame.writes {
        let tree = trees.tree(tree);
        if tree.get(key).map_err(text)?.as_deref() != value {
            match value {
                Some(value) => tree.insert(key, value).map_err(text)?,
                None => tree.remove(key).map_err(text)?,
            };
        }
    }
    Ok(Some(frame.mark.after))
}

/// The same in one transaction, with a position that needs no completing.
fn write_at_once(trees: &Trees, effect: &Effect, after: Position) -> Result<(), sled::Error> {
    let position = frame_of(after.digest, after, &Effect::new());
    let outcome = trees.as_slice().transaction(|view: &Vec<TransactionalTree>| {
        for ((tree, key), touched) in effect {
            let tree = &view[*tree as usize];
            match &touched.new {
                Some(value) => tree.insert(key.as_slice(), value.as_slice())?,
                None => tree.remove(key.as_slice())?,
            };
        }
        view[TreeName::Meta as usize].insert(META_POSITION, position.as_slice())?;
        Ok::<_, sled::transaction::ConflictableTransactionError<UnabortableTransactionError>>(())
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(
            TransactionError::Storage(error) | TransactionError::Abort(UnabortableTransactionError::Storage(error)),
        ) => Err(error),
        // There is one writer, so no other can be in its way.
        Err(TransactionError::Abort(UnabortableTransactionError::Conflict)) => {
            Err(sled::Error::ReportableBug("a transaction met a conflict, and there is but one writer".to_owned()))
        }
    }
}

/// The state as of one position, read in the order of the keys while others go on committing.
pub(crate) struct View {
    live: Arc<Live>,
    number: u64,
    position: Position,
    size: Size,
    /// Where reading goes on: behind this key of this tree; None at the end.
    next: Option<(TreeName, Option<Vec<u8>>)>,
}

/// How many records are read under one lock: the committer waits that long at most.
const STRETCH: usize = 64;

impl View {
    /// What it is a view of.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// How much it is.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// What the store says of itself.
    pub(crate) fn meta(&self) -> Result<Vec<RawRecord>, ReadError> {
        self.stretch(TreeName::Meta, None)
    }

    /// The next records, a few of one tree; None at the end.
    pub(crate) fn next_records(&mut self) -> Result<Option<Vec<RawRecord>>, ReadError> {
        while let Some((tree, behind)) = self.next.take() {
            let records = self.stretch(tree, behind.as_deref())?;
            if let Some(last) = records.last() {
                self.next = Some((tree, Some(last.key.clone())));
                return Ok(Some(records));
            }
            self.next = TreeName::from_index(tree as u8 + 1).map(|tree| (tree, None));
        }
        Ok(None)
    }

    /// The next records of one tree that were there when the view began; empty at the tree's end.
    fn stretch(&self, name: TreeName, behind: Option<&[u8]>) -> Result<Vec<RawRecord>, ReadError> {
        let mut behind = behind.map(<[u8]>::to_vec);
        loop {
            let (records, end) = self.read(name, behind.as_deref())?;
            match end {
                // Everything here is younger than the view: go on behind it.
                Some(end) if records.is_empty() => behind = Some(end),
                _ => return Ok(records),
            }
        }
    }

    /// Reads one stretch under the lock; also the key up to which it goes, if it does not go to the tree's end.
    fn read(&self, name: TreeName, behind: Option<&[u8]>) -> Result<(Vec<RawRecord>, Option<Vec<u8>>), ReadError> {
        let state = self.live.lock();
        let Some(sled) = &state.sled else { return Err(ReadError::Closed) };
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let tree = sled.trees.tree(name);
        let now = catching(name, || {
            let range = tree.range::<&[u8], _>((from, Bound::Unbounded)).take(STRETCH);
            range.collect::<Result<Vec<_>, _>>().map_err(|source| ReadError::Sled { tree: name, source })
        })?;
        let end = (now.len() == STRETCH).then(|| now.last().map(|(key, _)| key.to_vec())).flatten();
        let mut records: BTreeMap<Vec<u8>, IVec> = now.into_iter().map(|(key, value)| (key.to_vec(), value)).collect();
        // What this view must see of these keys instead of what is there now.
        let first = behind.map_or(Bound::Included((name, Vec::new())), |key| Bound::Excluded((name, key.to_vec())));
        let undo = state.undo.get(&self.number).map(|seen| seen.range((first, Bound::Unbounded)));
        let here = |key: &Vec<u8>| end.as_ref().is_none_or(|end| key <= end);
        for ((_, key), old) in undo.into_iter().flatten().take_while(|((tree, key), _)| *tree == name && here(key)) {
            match old {
                Some(old) => records.insert(key.clone(), old.clone()),
                None => records.remove(key),
            };
        }
        drop(state);
        if name == TreeName::Meta {
            records.remove(META_POSITION);
        }
        let record = |(key, value): (Vec<u8>, IVec)| RawRecord { tree: name, key, value: value.to_vec() };
        Ok((records.into_iter().map(record).collect(), end))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.live.lock().undo.remove(&self.number);
    }
}

/// Runs a read of sled, which on some damages panics where it could tell.
fn catching<T>(tree: TreeName, read: impl FnOnce() -> Result<T, ReadError>) -> Result<T, ReadError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or(Err(ReadError::Panicked { tree }))
}

/// Adds up all of a sled's records; None where one cannot be read.
pub(crate) fn add_up(trees: &Trees) -> Result<(Digest, Size), ReadError> {
    let mut digest = Digest::default();
    let mut size = Size::default();
    for name in trees::ALL {
        every(trees, name, |key, value| {
            if name != TreeName::Meta || key != META_POSITION {
                digest.add(name, key, value);
                size.add(name, key, value);
            }
        })?;
    }
    Ok((digest, size))
}

/// Every record of one tree of a sled, in the order of the keys, up to where it cannot be read.
pub(crate) fn every(trees: &Trees, name: TreeName, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), ReadError> {
    catching(name, || {
        for entry in trees.tree(name) {
            let (key, value) = entry.map_err(|source| ReadError::Sled { tree: name, source })?;
            each(&key, &value);
        }
        Ok(())
    })
}
