//! An API server with the shards of one pool: JSON patches that test, resource versions, reads that are a little old.

use std::collections::BTreeMap;

use plan::lease::tenant::{Reply, Seen, Waiter};
use plan::lease::{SLOTS, SlotEdit};
use schemas::slot::Holder;

#[derive(Debug, Clone)]
struct Object {
    seen: Seen,
    /// What it was before the last write, and when that was.
    before: Option<Seen>,
    written_ms: u64,
}

/// What it was asked for.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    pub(crate) patches: u64,
    pub(crate) refused: u64,
    pub(crate) creates: u64,
    pub(crate) registrations: u64,
    pub(crate) gets: u64,
    pub(crate) lists: u64,
}

impl Counts {
    /// Requests that write, refused ones too.
    pub(crate) fn writes(&self) -> u64 {
        self.patches + self.refused + self.creates + self.registrations
    }
}

#[derive(Debug, Default)]
pub(crate) struct Server {
    version: u64,
    shards: BTreeMap<u128, Object>,
    pub(crate) waiting: BTreeMap<Holder, u64>,
    pub(crate) counts: Counts,
}

impl Server {
    pub(crate) fn list(&mut self) -> Reply {
        self.counts.lists += 1;
        Reply::Listed(self.shards.values().map(|object| object.seen.clone()).collect())
    }

    pub(crate) fn get(&mut self, number: u128, is_fresh: bool, now_ms: u64) -> Reply {
        self.counts.gets += 1;
        let Some(object) = self.shards.get(&number) else { return Reply::Absent };
        // The watch cache is up to 200 ms behind.
        if !is_fresh && now_ms < object.written_ms + 200 {
            return object.before.clone().map_or(Reply::Absent, Reply::Seen);
        }
        Reply::Seen(object.seen.clone())
    }

    pub(crate) fn create(&mut self, number: u128, now_ms: u64) -> Reply {
        self.counts.creates += 1;
        if self.shards.contains_key(&number) {
            return Reply::Exists;
        }
        self.version += 1;
        let seen = Seen { number, version: self.version, slots: vec![String::new(); SLOTS] };
        self.shards.insert(number, Object { seen: seen.clone(), before: None, written_ms: now_ms });
        Reply::Seen(seen)
    }

    pub(crate) fn patch(&mut self, number: u128, edits: &[SlotEdit], now_ms: u64) -> Reply {
        let Some(object) = self.shards.get_mut(&number) else { return Reply::Absent };
        if edits.iter().any(|edit| object.seen.slots[edit.slot] != edit.from) {
            self.counts.refused += 1;
            return Reply::Refused;
        }
        self.counts.patches += 1;
        self.version += 1;
        object.before = Some(object.seen.clone());
        object.written_ms = now_ms;
        object.seen.version = self.version;
        for edit in edits {
            object.seen.slots[edit.slot].clone_from(&edit.to);
        }
        Reply::Seen(object.seen.clone())
    }

    /// Somebody with kubectl.
    pub(crate) fn write(&mut self, number: u128, slot: usize, text: &str) {
        self.version += 1;
        let object = self.shards.get_mut(&number).unwrap();
        object.seen.version = self.version;
        object.seen.slots[slot] = text.to_owned();
    }

    pub(crate) fn slot(&self, number: u128, slot: usize) -> &str {
        self.shards.get(&number).map_or("", |object| &object.seen.slots[slot])
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = &Seen> {
        self.shards.values().map(|object| &object.seen)
    }

    pub(crate) fn waiters(&self) -> Vec<Waiter> {
        self.waiting.iter().map(|(holder, since)| Waiter { since: *since, holder: holder.clone() }).collect()
    }
}
