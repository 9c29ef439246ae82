//! What answers and events tell.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::leave::Leave;
use super::{Action, HEARD_MS, LATE_MS, LINGER_MS, Now, Reply, Request, Seen, State, Tenant};

impl Tenant {
    /// What has come of an action, or what a watch saw. An answer that nothing was asked for is passed over.
    pub fn took(&mut self, now: Now, reply: Reply) {
        match reply {
            Reply::Recorded => self.recorded(now),
            Reply::Forgotten => {
                self.is_storing = false;
                self.forgotten();
            }
            Reply::Watched(seen) => self.watched(seen, now),
            answer => {
                let Some(request) = self.request.take() else { return };
                if answer == Reply::Unknown {
                    self.unknown(request, now);
                } else {
                    self.failures.reset();
                    self.answered(request, answer, now);
                }
            }
        }
    }

    fn recorded(&mut self, now: Now) {
        self.is_storing = false;
        for (address, state) in &mut self.held {
            if let State::Gained { is_suspect, is_asked: true } = state {
                self.has_moved |= !self.windows.is_usable(*address);
                *state = if *is_suspect { State::Suspect } else { State::Spare { since_ms: now.ms } };
            }
        }
    }

    fn watched(&mut self, seen: Seen, now: Now) {
        let number = seen.number;
        if !self.has_started || !self.see(seen, now) {
            return;
        }
        let is_known_free = self.is_starved()
            && self.windows.contains(number)
            && self.views.get(&number).is_some_and(|(view, _)| !self.claim(view, 1, now).is_empty());
        if is_known_free && !self.tips.contains(&number) {
            self.tips.push_back(number);
            // The one who has waited longest goes first.
            let wait = if self.is_oldest() { 0 } else { 50 + self.draw.below(950) };
            self.rest_until_ms = self.rest_until_ms.min(now.ms.saturating_add(wait));
        } else if !self.is_own(number) && !self.awaits(number) && self.search.is_none() && !self.tips.contains(&number)
        {
            self.views.remove(&number);
        }
    }

    fn is_own(&self, number: u128) -> bool {
        let layout = self.windows.layout();
        let Some((first, last)) = layout.window(number) else { return false };
        self.held.range(first..=last).next().is_some() || self.leaving.range(first..=last).next().is_some()
    }

    fn unknown(&mut self, request: Request, now: Now) {
        self.pause_until_ms = now.ms.saturating_add(self.failures.next_ms(&mut self.draw));
        match request {
            Request::Claim(number, _) => {
                self.doubtful.insert(number);
                self.recheck.insert(number, now.ms.saturating_add(LATE_MS));
            }
            Request::Leave(number, edits) => {
                self.doubtful.insert(number);
                self.doubt_leave(&edits, now);
            }
            Request::Register(_) => {
                // Both can be said twice: it is said again until it is seen to be so.
                self.is_registered = true;
                self.registered_ms = now.ms.saturating_add(HEARD_MS);
            }
            Request::Start | Request::List | Request::Get { .. } | Request::Create(_) => {}
        }
    }

    fn answered(&mut self, request: Request, answer: Reply, now: Now) {
        match (request, answer) {
            (Request::Start, Reply::Listed(shards)) => self.start(shards, now),
            (Request::List, Reply::Listed(shards)) => {
                let numbers: BTreeSet<u128> = shards.iter().map(|seen| seen.number).collect();
                for seen in shards {
                    self.doubtful.remove(&seen.number);
                    self.see(seen, now);
                }
                self.listed(&numbers, now);
            }
            (Request::Get { number, .. } | Request::Create(number), Reply::Seen(seen)) => {
                let is_news = self.see(seen, now);
                self.looked(number, is_news);
            }
            (Request::Claim(..), Reply::Seen(seen)) => {
                self.draw.next();
                let number = seen.number;
                self.see(seen, now);
                self.looked(number, true);
            }
            (Request::Leave(..), Reply::Seen(seen)) => drop(self.see(seen, now)),
            (Request::Claim(number, _) | Request::Leave(number, _), Reply::Refused) => {
                self.draw.next();
                self.views.remove(&number);
                if let Some(search) = &mut self.search {
                    search.races += 1;
                    search.looked.remove(&number);
                }
            }
            (Request::Create(_), Reply::Exists) => {
                if let Some(search) = &mut self.search {
                    search.races += 1;
                }
            }
            // It has been seen: this answer is an old one.
            (Request::Get { number, is_fresh: false }, Reply::Absent) if self.versions.contains_key(&number) => {
                if let Some(search) = &mut self.search {
                    search.races += 1;
                }
            }
            (Request::Get { number, .. }, Reply::Absent) => {
                self.gone(number);
                self.unblock(number, true);
                if let Some(search) = &mut self.search
                    && search.is_next(number)
                {
                    search.absent = Some(number);
                }
            }
            (
                Request::Get { number, .. }
                | Request::Claim(number, _)
                | Request::Leave(number, _)
                | Request::Create(number),
                answer @ (Reply::Absent | Reply::Void),
            ) => {
                self.gone(number);
                if answer == Reply::Void {
                    self.void(number, now);
                }
                if let Some(search) = &mut self.search {
                    search.looked.insert(number);
                }
            }
            (Request::Register(is_in), Reply::Done) => {
                self.is_registered = is_in;
                self.registered_ms = now.ms.saturating_add(HEARD_MS);
                if is_in {
                    self.unwatch_ms = None;
                } else {
                    self.dry = 0;
                    self.rest_until_ms = now.ms;
                    self.unwatch_ms = Some(now.ms.saturating_add(LINGER_MS));
                    // Something may have been handed over that nobody looked out for.
                    self.relist_ms = Some(now.ms.saturating_add(LATE_MS + self.draw.below(LATE_MS)));
                }
            }
            // An answer that does not fit: it tells nothing.
            (request, _) => self.unknown(request, now),
        }
    }

    /// The search has a view of the shard; one that is older than what is known is asked for again.
    fn looked(&mut self, number: u128, is_news: bool) {
        self.doubtful.remove(&number);
        if let Some(search) = &mut self.search {
            if is_news {
                search.looked.insert(number);
            } else {
                search.races += 1;
            }
        }
    }

    /// The first look: what is held in the node's name and not recorded goes back. It is not known how it came about, and
    /// a release that was under way may come through yet.
    fn start(&mut self, shards: Vec<Seen>, now: Now) {
        let numbers: BTreeSet<u128> = shards.iter().map(|seen| seen.number).collect();
        for seen in shards {
            // Of hundreds of shards, a node has something in a few.
            let is_named = seen.slots.iter().any(|text| text.contains(self.me.node()));
            if !is_named && !self.is_own(seen.number) {
                self.versions.insert(seen.number, seen.version);
                continue;
            }
            for address in self.shard(&seen).held(&self.me) {
                if !self.held.contains_key(&address) && !self.leaving.contains_key(&address) {
                    self.leaving.insert(address, Leave::unexplained());
                    self.limbo.insert(address, now.ms.saturating_add(LATE_MS));
                }
            }
            self.see(seen, now);
        }
        self.has_started = true;
        let layout = *self.windows.layout();
        let absent: BTreeSet<u128> = self
            .held
            .keys()
            .chain(self.leaving.keys())
            .filter_map(|address| layout.number(*address))
            .filter(|number| !numbers.contains(number))
            .collect();
        for number in absent {
            self.gone(number);
        }
    }

    /// Takes a view in. False when it is older than what is known.
    fn see(&mut self, seen: Seen, now: Now) -> bool {
        let known = self.versions.entry(seen.number).or_insert(0);
        if seen.version < *known {
            return false;
        }
        *known = seen.version;
        let view = self.shard(&seen);
        let mine: BTreeSet<IpAddr> = view.held(&self.me).into_iter().collect();
        self.compare(seen.number, &mine, |address| {
            view.layout().place(address).is_none_or(|(_, slot, _)| view.slot(slot).is_some())
        });
        for address in mine {
            let is_known = self.held.contains_key(&address) || self.leaving.contains_key(&address);
            if is_known {
                continue;
            }
            if self.limbo.contains_key(&address) {
                self.leaving.insert(address, Leave::unexplained());
                self.limbo.insert(address, now.ms.saturating_add(LATE_MS));
            } else {
                let is_suspect = self.suspects.remove(&address);
                self.held.insert(address, State::Gained { is_suspect, is_asked: false });
            }
        }
        self.views.insert(seen.number, (view, now.ms));
        self.unblock(seen.number, false);
        true
    }

    /// The shard is not there, or is another pool's.
    fn gone(&mut self, number: u128) {
        self.views.remove(&number);
        self.doubtful.remove(&number);
        self.recheck.remove(&number);
        self.compare(number, &BTreeSet::new(), |_| true);
    }

    /// What is held in a window and is not among `mine` is lost, where the slot `is_clear`.
    fn compare(&mut self, number: u128, mine: &BTreeSet<IpAddr>, is_clear: impl Fn(IpAddr) -> bool) {
        let Some((first, last)) = self.windows.layout().window(number) else { return };
        let is_lost = |address: &&IpAddr| !mine.contains(*address) && is_clear(**address);
        let left: Vec<IpAddr> =
            self.leaving.range(first..=last).map(|(address, _)| address).filter(is_lost).copied().collect();
        let lost: Vec<IpAddr> =
            self.held.range(first..=last).map(|(address, _)| address).filter(is_lost).copied().collect();
        for address in left {
            if !self.is_forgetting(address) && !self.is_sent(address) {
                self.left(address);
            }
        }
        let (mut spare, mut used) = (Vec::new(), Vec::new());
        for address in lost {
            match self.held.remove(&address) {
                Some(State::Used) => {
                    self.used -= 1;
                    used.push(address);
                }
                _ => spare.push(address),
            }
        }
        if !spare.is_empty() || !used.is_empty() {
            self.told.push(Action::Lost { spare, used });
        }
    }
}
