//! Addresses on their way back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemas::slot::Holder;

use super::{Action, Now, Request, State, Tenant, Waiter};
use crate::lease::release::{quarantine, release, reserve};
use crate::lease::shard::SlotEdit;

/// How many waiters are served by name at once; what is left goes to everybody, and those who wait see it.
const SERVED: usize = 4;

/// How far an address has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The store is to forget it.
    New,
    /// The store has been asked.
    Forgetting,
    /// The store does not give it any more: the release may be sent.
    Out,
}

/// To whom it goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heir {
    Waiter(Holder),
    Owner(String),
    Everybody,
    Nobody { until: u64 },
}

/// One address on its way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leave {
    pub(super) stage: Stage,
    pub(super) heir: Heir,
}

impl Leave {
    /// Known from the store: it was on its way when the agent stopped. Whether to everybody or into a quarantine is not
    /// known any more, so it goes to the end of one: whoever claims it looks for it on the wire first.
    pub(super) fn forgotten() -> Self {
        Self { stage: Stage::Out, heir: Heir::Nobody { until: 0 } }
    }

    /// Held in the node's name, it is not known why. The store is to know of its release all the same: that may come
    /// through after the next start. It may have been claimed at the end of a quarantine, and goes back there.
    pub(super) fn unexplained() -> Self {
        Self { stage: Stage::New, heir: Heir::Nobody { until: 0 } }
    }

    /// Not needed any more.
    pub(super) fn unneeded() -> Self {
        Self { stage: Stage::New, heir: Heir::Everybody }
    }

    pub(super) fn quarantined(until: u64) -> Self {
        Self { stage: Stage::New, heir: Heir::Nobody { until } }
    }
}

impl Tenant {
    /// Chooses what is to be given back.
    pub(super) fn give_up_surplus(&mut self, now: Now) {
        let is_awaited = self.waiting.iter().any(|waiter| waiter.holder != self.me);
        let level = self.level(now);
        let count = self.surplus.due(now.ms, level, is_awaited, &mut self.draw);
        if count == 0 && !std::mem::take(&mut self.has_moved) {
            return;
        }
        let spare: Vec<IpAddr> = self
            .held
            .iter()
            .filter(|(_, state)| matches!(state, State::Spare { .. }))
            .map(|(address, _)| *address)
            .collect();
        let (mut usable, gone): (Vec<IpAddr>, Vec<IpAddr>) =
            spare.into_iter().partition(|address| self.windows.is_usable(*address));
        usable.retain(|address| !self.is_kept(*address));
        let mut chosen = self.least_missed(usable, count);
        chosen.extend(gone);
        if chosen.is_empty() {
            return;
        }
        let mut heirs = self.heirs().into_iter();
        for address in chosen {
            self.held.remove(&address);
            let heir = heirs.next().map_or(Heir::Everybody, |waiter| {
                let heir = Heir::Waiter(waiter.holder.clone());
                self.served.insert(waiter);
                heir
            });
            self.leaving.insert(address, Leave { stage: Stage::New, heir });
        }
    }

    /// Those of the slots and shards in which the node has the least, so that these fall free.
    fn least_missed(&self, mut spare: Vec<IpAddr>, count: u64) -> Vec<IpAddr> {
        if count == 0 {
            return Vec::new();
        }
        let layout = *self.windows.layout();
        let place = |address: &IpAddr| layout.place(*address).map(|(number, slot, _)| (number, slot));
        let (mut shards, mut slots) = (BTreeMap::new(), BTreeMap::new());
        for (number, slot) in self.held.keys().filter_map(place) {
            *shards.entry(number).or_insert(0u64) += 1;
            *slots.entry((number, slot)).or_insert(0u64) += 1;
        }
        spare.sort_by_cached_key(|address| {
            place(address).map(|(number, slot)| (shards[&number], number, slots[&(number, slot)], slot))
        });
        spare.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        spare
    }

    /// Who gets what is given back: those who have waited longest, each once for as long as it waits; what it needs beyond
    /// that it takes itself. A node that has died while it waited would get everything otherwise. Of several who have
    /// waited about as long, any, so that not all who give do so to the same one.
    fn heirs(&mut self) -> Vec<Waiter> {
        let is_next = |waiter: &&Waiter| waiter.holder != self.me && !self.served.contains(*waiter);
        let mut waiters: Vec<&Waiter> = self.waiting.iter().filter(is_next).collect();
        if let Some(oldest) = waiters.first().map(|waiter| waiter.since) {
            let about = waiters.partition_point(|waiter| waiter.since <= oldest.saturating_add(1));
            self.draw.shuffle(&mut waiters[..about]);
        }
        waiters.into_iter().take(SERVED).cloned().collect()
    }

    /// What the store is to forget.
    pub(super) fn forget(&mut self) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for (address, leave) in &mut self.leaving {
            if leave.stage == Stage::New {
                leave.stage = Stage::Forgetting;
                addresses.push(*address);
            }
        }
        addresses
    }

    /// The store does not give them any more.
    pub(super) fn forgotten(&mut self) {
        for leave in self.leaving.values_mut() {
            if leave.stage == Stage::Forgetting {
                leave.stage = Stage::Out;
            }
        }
    }

    /// The next release to be sent: all that goes to one heir from one shard.
    pub(super) fn want_leave(&mut self, now: Now) -> Option<Action> {
        for leave in self.leaving.values_mut() {
            // Who waits no more does not look out for it either.
            if let Heir::Waiter(to) = &leave.heir
                && !self.waiting.iter().any(|waiter| waiter.holder == *to)
            {
                leave.heir = Heir::Everybody;
            }
        }
        let layout = *self.windows.layout();
        loop {
            let (first, leave) = self.leaving.iter().find(|(_, leave)| leave.stage == Stage::Out)?;
            let Some(number) = layout.number(*first) else {
                // Of a subnet that the pool does not have any more: there is no shard to give it back to.
                let first = *first;
                self.left(first);
                continue;
            };
            let heir = self.heir_of(*first, leave);
            let Some(view) = self.recent(number, now) else { return Some(self.get(number, true)) };
            let addresses: Vec<IpAddr> = self
                .leaving
                .iter()
                .filter(|(address, leave)| {
                    leave.stage == Stage::Out
                        && layout.number(**address) == Some(number)
                        && self.heir_of(**address, leave) == heir
                })
                .map(|(address, _)| *address)
                .collect();
            let (edits, not_mine) = match &heir {
                Heir::Everybody => release(view, &self.me, &addresses, None),
                Heir::Waiter(to) => release(view, &self.me, &addresses, Some(to)),
                Heir::Owner(owner) => reserve(view, &self.me, &addresses, owner),
                Heir::Nobody { until } => quarantine(view, &self.me, &addresses, *until),
            };
            if edits.is_empty() && not_mine.is_empty() {
                // The slot has no place for it: it waits until others have left.
                return None;
            }
            for address in not_mine {
                self.left(address);
            }
            if !edits.is_empty() {
                self.request = Some(Request::Leave(number, edits.clone()));
                return Some(Action::Patch { number, edits });
            }
        }
    }

    /// It is not the node's any more.
    pub(super) fn left(&mut self, address: IpAddr) {
        self.leaving.remove(&address);
        if !self.limbo.contains_key(&address) {
            self.erase.insert(address);
        }
    }

    /// What was lost cannot come through any more.
    pub(super) fn leave_limbo(&mut self, now: Now) {
        let over: Vec<IpAddr> =
            self.limbo.iter().filter(|(_, until)| **until <= now.ms).map(|(address, _)| *address).collect();
        for address in over {
            self.limbo.remove(&address);
            if !self.held.contains_key(&address) && !self.leaving.contains_key(&address) {
                self.erase.insert(address);
            }
        }
    }

    /// Whether a release of it is under way.
    pub(super) fn is_sent(&self, address: IpAddr) -> bool {
        match &self.request {
            Some(Request::Leave(_, edits)) => edits.iter().any(|edit| edit.lost.contains(&address)),
            _ => false,
        }
    }

    /// The answer to a release was lost.
    pub(super) fn doubt_leave(&mut self, edits: &[SlotEdit], now: Now) {
        for address in edits.iter().flat_map(|edit| &edit.lost) {
            self.limbo.insert(*address, now.ms.saturating_add(super::LATE_MS));
        }
    }
}
