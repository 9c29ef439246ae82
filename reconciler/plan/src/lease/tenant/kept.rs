//! Addresses that are kept for owners, see [`schemas::reservation`]: nobody else is given one, it is claimed for a pod of
//! the node that awaits it, and goes back to its owner's name when none does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemas::reservation::Reservation;

use super::leave::{Heir, Leave};
use super::{Action, Now, Request, State, Tenant};
use crate::lease::take_up::take_up;

/// When an address that another one has is looked at again though no watch has told of it, in milliseconds.
const LOOK_MS: u64 = 10_000;

/// For whom an address is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The owner, as slots name it.
    pub owner: String,
    /// A pod of that owner is bound to the node.
    pub is_awaited: bool,
}

/// What a tenant knows of such addresses.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    kept: BTreeMap<IpAddr, Kept>,
    /// Who has it instead, and when to look again.
    blocked: BTreeMap<IpAddr, (String, u64)>,
    /// Shards with awaited addresses that were not there.
    absent: BTreeSet<u128>,
}

impl Tenant {
    /// The addresses that the store has as kept, whether the node holds them or is to claim them. All of them, each time.
    pub fn keep(&mut self, kept: BTreeMap<IpAddr, Kept>) {
        if kept != self.keeping.kept {
            self.keeping.blocked.retain(|address, _| kept.get(address).is_some_and(|kept| kept.is_awaited));
            self.keeping.kept = kept;
        }
    }

    /// A pod of that owner has this address now. False when it may not be given, which is so while fenced unless the very
    /// pod had it last.
    pub fn give_kept(&mut self, address: IpAddr, owner: &str, is_again: bool) -> bool {
        let is_its_own = self.keeping.kept.get(&address).is_none_or(|kept| kept.owner == owner);
        let is_fenced = self.is_fenced;
        self.is_fenced = is_fenced && !is_again;
        let is_given = is_its_own && self.use_up(address);
        self.is_fenced = is_fenced;
        is_given
    }

    /// Who has an awaited address instead: a node, an owner or a quarantine, as in slots.
    pub fn blocked(&self, address: IpAddr) -> Option<&str> {
        self.keeping.blocked.get(&address).map(|(whose, _)| whose.as_str())
    }

    pub(super) fn is_kept(&self, address: IpAddr) -> bool {
        self.keeping.kept.contains_key(&address)
    }

    /// How many addresses that are held and not used can be given to owners only.
    pub(super) fn kept_back(&self) -> u64 {
        let is_back = |address: &&IpAddr| self.held.get(address).is_some_and(|state| *state != State::Used);
        self.keeping.kept.keys().filter(is_back).count() as u64
    }

    pub(super) fn heir_of(&self, address: IpAddr, leave: &Leave) -> Heir {
        match (&leave.heir, self.keeping.kept.get(&address)) {
            // What the pool does not have any more is of no use to its owner either.
            (Heir::Everybody | Heir::Waiter(_), Some(kept)) if self.windows.is_usable(address) => {
                Heir::Owner(kept.owner.clone())
            }
            // It is not known how it came here: its owner looks for it first.
            (Heir::Nobody { until: 0 }, Some(kept)) if self.windows.is_usable(address) => {
                let unsure = kept.owner.parse().map(|owner: Reservation| owner.unsure().to_string());
                Heir::Owner(unsure.unwrap_or_else(|_| kept.owner.clone()))
            }
            (heir, _) => heir.clone(),
        }
    }

    /// Addresses whose owner has no pod here any more go, and what is known of those that have gone.
    pub(super) fn give_up_kept(&mut self) {
        let mut over = Vec::new();
        for (address, _) in self.keeping.kept.iter().filter(|(_, kept)| !kept.is_awaited) {
            match self.held.get(address) {
                Some(State::Spare { .. }) => {
                    self.held.remove(address);
                    self.leaving.insert(*address, Leave::unneeded());
                }
                Some(_) => {}
                None => {
                    let number = self.windows.layout().number(*address);
                    // A claim may come through yet.
                    let is_doubtful = number
                        .is_some_and(|number| self.doubtful.contains(&number) || self.recheck.contains_key(&number));
                    if !is_doubtful && !self.leaving.contains_key(address) && !self.is_claimed(*address) {
                        over.push(*address);
                    }
                }
            }
        }
        if !over.is_empty() {
            self.told.push(Action::Unkeep { addresses: over });
        }
    }

    fn is_claimed(&self, address: IpAddr) -> bool {
        match &self.request {
            Some(Request::Claim(_, edits)) => edits.iter().any(|edit| edit.gained.contains(&address)),
            _ => false,
        }
    }

    fn is_wanting(&self, address: IpAddr, kept: &Kept) -> bool {
        kept.is_awaited
            && self.windows.is_usable(address)
            && !self.held.contains_key(&address)
            && !self.leaving.contains_key(&address)
            && !self.limbo.contains_key(&address)
    }

    fn wanting(&self) -> impl Iterator<Item = (&IpAddr, &Kept)> {
        self.keeping.kept.iter().filter(|(address, kept)| self.is_wanting(**address, kept))
    }

    /// The next request for an awaited address.
    pub(super) fn want_kept(&mut self, now: Now) -> Option<Action> {
        let is_due = |address: &IpAddr| self.keeping.blocked.get(address).is_none_or(|(_, at)| *at <= now.ms);
        let due: Vec<(IpAddr, String)> = self
            .wanting()
            .filter(|(address, _)| is_due(address))
            .map(|(address, kept)| (*address, kept.owner.clone()))
            .collect();
        for (address, owner) in due {
            let Some(number) = self.windows.layout().number(address) else { continue };
            if self.keeping.absent.remove(&number) {
                // If it cannot be made either, it is another pool's.
                self.block(address, "nobody: its shard is not there".to_owned(), now);
                self.request = Some(Request::Create(number));
                return Some(Action::Create { number });
            }
            let Some(view) = self.recent(number, now) else { return Some(self.get(number, true)) };
            match take_up(view, &self.me, address, &owner, now.unix) {
                Ok(edit) => {
                    self.keeping.blocked.remove(&address);
                    self.suspects = edit.suspect.iter().copied().collect();
                    self.request = Some(Request::Claim(number, vec![edit.clone()]));
                    return Some(Action::Patch { number, edits: vec![edit] });
                }
                Err(whose) => self.block(address, whose, now),
            }
        }
        None
    }

    fn block(&mut self, address: IpAddr, whose: String, now: Now) {
        self.keeping.blocked.insert(address, (whose, now.ms.saturating_add(LOOK_MS)));
    }

    /// A shard has been seen, or is known not to be there: what was in the way of its addresses may be gone.
    pub(super) fn unblock(&mut self, number: u128, is_absent: bool) {
        let Some((first, last)) = self.windows.layout().window(number) else { return };
        let awaited = self.keeping.kept.range(first..=last).any(|(_, kept)| kept.is_awaited);
        if is_absent && awaited {
            self.keeping.absent.insert(number);
            return;
        }
        self.keeping.absent.remove(&number);
        let blocked: Vec<IpAddr> = self.keeping.blocked.range(first..=last).map(|(address, _)| *address).collect();
        for address in blocked {
            if let Some((_, at)) = self.keeping.blocked.get_mut(&address) {
                *at = 0;
            }
            if self.held.contains_key(&address) {
                self.keeping.blocked.remove(&address);
            }
        }
    }

    /// A shard is another pool's of that name: until it is gone nothing can be claimed of it.
    pub(super) fn void(&mut self, number: u128, now: Now) {
        let Some((first, last)) = self.windows.layout().window(number) else { return };
        let awaited: Vec<IpAddr> = self.keeping.kept.range(first..=last).map(|(address, _)| *address).collect();
        for address in awaited {
            self.block(address, "nobody: its shard is of another pool of that name".to_owned(), now);
        }
    }

    /// Whether a watch is to tell when an awaited address becomes free.
    pub(super) fn is_blocked(&self) -> bool {
        self.wanting().any(|(address, _)| self.keeping.blocked.contains_key(address))
    }

    /// Whether addresses of that shard are awaited.
    pub(super) fn awaits(&self, number: u128) -> bool {
        let Some((first, last)) = self.windows.layout().window(number) else { return false };
        let kept = self.keeping.kept.range(first..=last);
        kept.into_iter().any(|(address, kept)| self.is_wanting(*address, kept))
    }

    /// When to look again.
    pub(super) fn kept_ms(&self) -> Option<u64> {
        let due = |(address, _): (&IpAddr, &Kept)| self.keeping.blocked.get(address).map(|(_, at)| *at);
        self.wanting().filter_map(due).min()
    }
}
