//! Looking for free addresses: which shard next.

use std::collections::{BTreeSet, VecDeque};

use super::{Action, Now, Request, Tenant};
use crate::lease::claim::claim;
use crate::lease::draw::hash;
use crate::lease::shard::{Shard, SlotEdit};

/// How many shards are looked at one by one; then all are read at once.
const ONE_BY_ONE: usize = 4;
/// How often a lost race for one shard is run again before another one is tried.
const RACES: u32 = 4;
/// How long a node rests that found too few and only wants spare ones, or is told when there are some, in milliseconds.
const UNHURRIED_MS: u64 = 10_000;

/// A search under way.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Shards to be looked at, the next one first.
    queue: VecDeque<u128>,
    /// Those that an answer has shown since the search began.
    pub(super) looked: BTreeSet<u128>,
    is_listed: bool,
    pub(super) races: u32,
    /// A shard that has to be made first.
    pub(super) absent: Option<u128>,
}

impl Search {
    pub(super) fn is_next(&self, number: u128) -> bool {
        self.queue.front() == Some(&number)
    }
}

impl Tenant {
    /// The next request of the search, begun if there is need of one.
    pub(super) fn want_search(&mut self, now: Now) -> Option<Action> {
        if self.search.is_none() {
            if now.ms < self.search_ms() || !self.is_short(now) {
                return None;
            }
            let search = self.begin();
            self.search = Some(search);
        }
        let wanted = self.lacking(now);
        if wanted == 0 {
            self.dry = 0;
            self.look.reset();
            self.end_search();
            return None;
        }
        if let Some(number) = self.search.as_mut()?.absent.take() {
            self.request = Some(Request::Create(number));
            return Some(Action::Create { number });
        }
        while let Some(number) = self.search.as_ref()?.queue.front().copied() {
            if let Some(view) = self.recent(number, now) {
                let edits = self.claim(view, wanted, now);
                if !edits.is_empty() {
                    self.suspects = edits.iter().flat_map(|edit| edit.suspect.clone()).collect();
                    self.request = Some(Request::Claim(number, edits.clone()));
                    return Some(Action::Patch { number, edits });
                }
            }
            let search = self.search.as_mut()?;
            if search.looked.contains(&number) || search.races >= RACES {
                search.races = 0;
                search.queue.pop_front();
                continue;
            }
            // What is at hand will do, unless a race was lost on it.
            let is_fresh = search.races > 0;
            return Some(self.get(number, is_fresh));
        }
        let is_starved = self.is_starved();
        let search = self.search.as_mut()?;
        if is_starved && !search.is_listed {
            search.is_listed = true;
            self.request = Some(Request::List);
            return Some(Action::List);
        }
        let long = now.ms.saturating_add(UNHURRIED_MS + self.draw.below(UNHURRIED_MS));
        self.spare_until_ms = long;
        if is_starved {
            self.dry = self.dry.saturating_add(1);
            // One who watches is told.
            let short = now.ms.saturating_add(self.look.next_ms(&mut self.draw));
            self.rest_until_ms = if self.is_registered { long } else { short };
        }
        self.end_search();
        None
    }

    fn begin(&mut self) -> Search {
        let mut queue: VecDeque<u128> = std::mem::take(&mut self.tips);
        // One who watches knows all shards.
        let is_listed = !queue.is_empty();
        if !is_listed {
            let mut own: Vec<u128> = Vec::new();
            for number in self.held.keys().filter_map(|address| self.windows.layout().number(*address)) {
                if own.last() != Some(&number) && self.windows.contains(number) {
                    own.push(number);
                }
            }
            own.truncate(ONE_BY_ONE);
            let start = hash(self.me.node());
            queue.extend(own);
            for number in self.windows.from(start).take(ONE_BY_ONE) {
                if !queue.contains(&number) {
                    queue.push_back(number);
                }
            }
        }
        Search { queue, is_listed, ..Search::default() }
    }

    /// When the next search may begin.
    pub(super) fn search_ms(&self) -> u64 {
        if self.is_starved() { self.rest_until_ms } else { self.rest_until_ms.max(self.spare_until_ms) }
    }

    /// Ends it; what is known of shards that are not the node's is dropped.
    fn end_search(&mut self) {
        self.search = None;
        let layout = *self.windows.layout();
        let own: BTreeSet<u128> =
            self.held.keys().chain(self.leaving.keys()).filter_map(|address| layout.number(*address)).collect();
        self.views.retain(|number, _| own.contains(number));
    }

    /// All shards have been read: those with free addresses, in any order, and those that are not there yet.
    pub(super) fn listed(&mut self, listed: &BTreeSet<u128>, now: Now) {
        let Some(mut search) = self.search.take() else { return };
        let wanted = self.lacking(now);
        let mut free: Vec<u128> = listed
            .iter()
            .filter(|number| self.windows.contains(**number))
            .filter(|number| self.views.get(number).is_some_and(|(view, _)| !self.claim(view, wanted, now).is_empty()))
            .copied()
            .collect();
        self.draw.shuffle(&mut free);
        // Absent ones last: they cost a request more.
        let reach = listed.len() + ONE_BY_ONE;
        let absent = self.windows.from(hash(self.me.node())).take(reach).filter(|number| !listed.contains(number));
        free.extend(absent.take(ONE_BY_ONE));
        search.looked.extend(listed);
        search.queue = free.into();
        self.search = Some(search);
    }

    /// What can be claimed of a shard. Slots with an address that a lost release may yet free are left alone.
    pub(super) fn claim(&self, view: &Shard, wanted: u64, now: Now) -> Vec<SlotEdit> {
        if self.doubtful.contains(&view.number()) {
            return Vec::new();
        }
        let seed = self.draw.clone().next();
        let mut edits = claim(view, &self.windows, &self.me, wanted, now.unix, seed);
        edits.retain(|edit| {
            !edit.gained.iter().any(|address| self.limbo.contains_key(address) || self.leaving.contains_key(address))
        });
        edits
    }
}
