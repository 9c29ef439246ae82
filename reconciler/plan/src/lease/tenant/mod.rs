//! One node's dealings for the addresses of one pool: what has happened goes in, what is to be done comes out.
//!
//! ```text
//! pods come and go, the pool changes, answers arrive ──▶ Tenant ──▶ requests, store writes, when to ask again
//! ```
//!
//! The caller alternates: it tells what happened ([`Tenant::took`] for answers), then asks [`Tenant::want`] and does all
//! of the [`Action`]s, each answered by one [`Reply`]. At most one request to the API server and one write to the store
//! are under way.
//!
//! What makes it safe, whatever is lost, late or twice:
//! - An address may be given from when its [`Action::Record`] is durable, and no longer from when its
//!   [`Action::Forget`] is asked for; only then is its release sent.
//! - A release whose answer is lost may happen later still. Its addresses are neither used nor claimed for [`LATE_MS`]
//!   unless an answer has told that it is over, across restarts too.
//! - A view of a shard that is older than the last one says nothing.

mod kept;
mod leave;
mod protocol;
mod reply;
mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use schemas::slot::Holder;

use super::demand::{Backoff, Level, Surplus, Warm, is_short, target};
use super::draw::{Draw, hash};
use super::shard::{Shard, SlotEdit};
use super::windows::Windows;
use kept::Keeping;
pub use kept::Kept;
use leave::{Leave, Stage};
pub use protocol::{Action, Now, Recorded, Reply, Seen, Waiter};
use search::Search;

/// For how long a request whose answer was lost may still happen: the API server gives up on one after a minute.
pub const LATE_MS: u64 = 75_000;
/// For how long a view of a shard is worth a try, in milliseconds.
const RECENT_MS: u64 = 1_000;
/// How long the entry among those who wait may take to be seen, in milliseconds.
const HEARD_MS: u64 = 5_000;
/// For how long a node that was served goes on watching, in milliseconds: others may not have seen it yet.
const LINGER_MS: u64 = 5_000;

/// The state of an address that the node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Claimed or handed over, not durable yet.
    Gained { is_suspect: bool, is_asked: bool },
    /// To be looked for on the wire.
    Suspect,
    /// Can be given; since when.
    Spare { since_ms: u64 },
    /// A pod has it.
    Used,
}

/// The request that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Request {
    Start,
    List,
    Get { number: u128, is_fresh: bool },
    Create(u128),
    Claim(u128, Vec<SlotEdit>),
    Leave(u128, Vec<SlotEdit>),
    Register(bool),
}

/// See the module.
#[derive(Debug)]
pub struct Tenant {
    me: Holder,
    windows: Windows,
    fair_share: u64,
    /// Ascending: the oldest first.
    waiting: Vec<Waiter>,
    /// Of those who wait, whom this node has given an address by name: who takes none, or is gone, is not to get them all.
    served: BTreeSet<Waiter>,
    /// Pods that have no address yet.
    missing: u64,
    warm: Warm,
    surplus: Surplus,
    is_fenced: bool,
    has_started: bool,
    /// Some of what is held may not be usable any more.
    has_moved: bool,

    held: BTreeMap<IpAddr, State>,
    used: u64,
    leaving: BTreeMap<IpAddr, Leave>,
    /// Until when an address is not to be claimed: a lost release may come through.
    limbo: BTreeMap<IpAddr, u64>,
    erase: BTreeSet<IpAddr>,
    keeping: Keeping,

    request: Option<Request>,
    is_storing: bool,
    /// The newest known of the shards that matter now, and when it came.
    views: BTreeMap<u128, (Shard, u64)>,
    /// Addresses of claims under way that were in quarantine.
    suspects: BTreeSet<IpAddr>,
    versions: BTreeMap<u128, u64>,
    /// Shards to be read anew before anything else is done to them.
    doubtful: BTreeSet<u128>,
    /// When to read a shard again: a lost claim may have come through.
    recheck: BTreeMap<u128, u64>,
    relist_ms: Option<u64>,

    search: Option<Search>,
    /// Shards in which a watch saw free addresses.
    tips: VecDeque<u128>,
    /// Before that no search begins.
    rest_until_ms: u64,
    /// Before that none begins for spare addresses alone.
    spare_until_ms: u64,
    /// Searches in a row that found too little.
    dry: u32,
    look: Backoff,
    failures: Backoff,
    pause_until_ms: u64,
    is_registered: bool,
    /// When the entry among those who wait is looked at again: what is known of it may be older than what was asked.
    registered_ms: u64,
    watching: bool,
    unwatch_ms: Option<u64>,

    told: Vec<Action>,
    draw: Draw,
}

impl Tenant {
    /// What a node does for a pool, from what the store has of it. `seed` sets it apart from other nodes and from itself
    /// before.
    pub fn new(
        me: Holder,
        windows: Windows,
        recorded: impl IntoIterator<Item = (IpAddr, Recorded)>,
        now: Now,
        seed: u64,
    ) -> Self {
        let mut tenant = Self {
            draw: Draw::new(seed ^ hash(&me.to_string())),
            me,
            windows,
            fair_share: 0,
            waiting: Vec::new(),
            served: BTreeSet::new(),
            missing: 0,
            warm: Warm::default(),
            surplus: Surplus::default(),
            is_fenced: false,
            has_started: false,
            has_moved: true,
            held: BTreeMap::new(),
            used: 0,
            leaving: BTreeMap::new(),
            limbo: BTreeMap::new(),
            erase: BTreeSet::new(),
            keeping: Keeping::default(),
            request: None,
            is_storing: false,
            views: BTreeMap::new(),
            suspects: BTreeSet::new(),
            versions: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            recheck: BTreeMap::new(),
            relist_ms: None,
            search: None,
            tips: VecDeque::new(),
            rest_until_ms: 0,
            spare_until_ms: 0,
            dry: 0,
            look: Backoff::new(200, super::demand::LOOK_MS),
            failures: Backoff::new(200, 10_000),
            pause_until_ms: 0,
            is_registered: false,
            registered_ms: 0,
            watching: false,
            unwatch_ms: None,
            told: Vec::new(),
        };
        for (address, recorded) in recorded {
            match recorded {
                Recorded::Spare => drop(tenant.held.insert(address, State::Spare { since_ms: now.ms })),
                Recorded::Suspect => drop(tenant.held.insert(address, State::Suspect)),
                Recorded::Used => {
                    tenant.held.insert(address, State::Used);
                    tenant.used += 1;
                }
                Recorded::Forgotten => {
                    tenant.leaving.insert(address, Leave::forgotten());
                    tenant.limbo.insert(address, now.ms.saturating_add(LATE_MS));
                }
            }
        }
        tenant
    }

    /// Who it is.
    pub fn holder(&self) -> &Holder {
        &self.me
    }

    /// The pool as it is now: what of it is usable, what each node may keep beyond its need, who waits. Entries of
    /// `waiting` under this node's name tell that it is registered.
    pub fn pool(&mut self, windows: Windows, fair_share: u64, waiting: Vec<Waiter>) {
        self.has_moved |= self.windows != windows;
        self.windows = windows;
        self.shares(fair_share, waiting);
    }

    /// The same, when only the numbers have changed.
    pub fn shares(&mut self, fair_share: u64, mut waiting: Vec<Waiter>) {
        waiting.sort();
        self.served.retain(|served| waiting.contains(served));
        self.fair_share = fair_share;
        self.waiting = waiting;
    }

    fn is_listed(&self) -> bool {
        self.waiting.iter().any(|waiter| waiter.holder == self.me)
    }

    /// How many pods of the node want an address of this pool and have none.
    pub fn missing(&mut self, count: u64) {
        self.missing = count;
    }

    /// A pod that wants an address of this pool has been bound to the node: what is kept ahead follows from it.
    pub fn started(&mut self, now: Now) {
        self.warm.started(now.ms);
    }

    /// Another one runs as this node, or the API server has been away for too long: nothing is given, claimed or given
    /// back while that lasts.
    pub fn fence(&mut self, is_fenced: bool) {
        self.is_fenced = is_fenced;
    }

    /// The addresses that may be given, the one that was freed longest ago first. None while fenced.
    pub fn spare(&self) -> Vec<IpAddr> {
        let mut spare: Vec<(u64, IpAddr)> = self
            .held
            .iter()
            .filter_map(|(address, state)| match state {
                State::Spare { since_ms }
                    if !self.is_fenced && self.windows.is_usable(*address) && !self.is_kept(*address) =>
                {
                    Some((*since_ms, *address))
                }
                _ => None,
            })
            .collect();
        spare.sort_unstable();
        spare.into_iter().map(|(_, address)| address).collect()
    }

    /// A pod has this address now. False when it may not be given: it is not spare, or kept for an owner.
    pub fn give(&mut self, address: IpAddr) -> bool {
        !self.is_kept(address) && self.use_up(address)
    }

    /// A pod has turned out to have this address, for whomever it is kept. False when it is not spare.
    pub fn use_up(&mut self, address: IpAddr) -> bool {
        match self.held.get_mut(&address) {
            Some(state @ State::Spare { .. }) if !self.is_fenced => {
                *state = State::Used;
                self.used += 1;
                true
            }
            _ => false,
        }
    }

    /// The pod that had this address last has it again, also while nothing is given to others: the cluster knows the pod,
    /// and nobody is given what a pod that it knows may have.
    pub fn give_again(&mut self, address: IpAddr) -> bool {
        let is_fenced = std::mem::replace(&mut self.is_fenced, false);
        let is_given = self.give(address);
        self.is_fenced = is_fenced;
        is_given
    }

    /// No pod has this address any more.
    pub fn take_back(&mut self, address: IpAddr, now: Now) {
        if let Some(state @ State::Used) = self.held.get_mut(&address) {
            *state = State::Spare { since_ms: now.ms };
            self.used -= 1;
            self.has_moved |= !self.windows.is_usable(address);
        }
    }

    /// A suspect address was looked for, and nobody has it: it may be given.
    pub fn cleared(&mut self, address: IpAddr, now: Now) {
        if let Some(state @ State::Suspect) = self.held.get_mut(&address) {
            *state = State::Spare { since_ms: now.ms };
            self.has_moved |= !self.windows.is_usable(address);
        }
    }

    /// Somebody unknown uses this address, which no pod of the node has: it is kept from everybody until then (seconds
    /// since 1970).
    pub fn occupied(&mut self, address: IpAddr, until: u64) {
        if let Some(State::Suspect | State::Spare { .. }) = self.held.get(&address) {
            self.held.remove(&address);
            self.leaving.insert(address, Leave::quarantined(until));
        }
    }

    /// What it has and needs.
    pub fn level(&self, now: Now) -> Level {
        Level {
            held: (self.held.len() as u64).saturating_sub(self.kept_back()),
            need: self.used + self.missing,
            fair_share: if self.waiting.is_empty() { self.fair_share } else { 0 },
            warm: self.warm.addresses(now.ms),
        }
    }

    /// Whether it waits for others to give addresses back.
    pub fn is_waiting(&self) -> bool {
        self.is_registered
    }

    fn is_starved(&self) -> bool {
        (self.held.len() as u64).saturating_sub(self.kept_back()) < self.used + self.missing
    }

    fn is_oldest(&self) -> bool {
        self.waiting.first().is_some_and(|oldest| oldest.holder == self.me)
    }

    /// What is to be done now. Ends with a [`Action::Sleep`] when there is a time at which that changes by itself.
    pub fn want(&mut self, now: Now) -> Vec<Action> {
        self.leave_limbo(now);
        if self.search.is_none() {
            self.views.retain(|_, (_, at)| now.ms <= at.saturating_add(RECENT_MS));
        }
        if self.has_started && !self.is_fenced {
            self.give_up_kept();
            self.give_up_surplus(now);
        }
        let mut actions = std::mem::take(&mut self.told);
        self.want_store(&mut actions);
        if self.request.is_none() && now.ms >= self.pause_until_ms {
            actions.extend(self.want_request(now));
        }
        // What has just been found to be another's is watched from now on.
        self.want_watch(now, &mut actions);
        if let Some(until_ms) = self.wake_ms(now) {
            actions.push(Action::Sleep { until_ms });
        }
        actions
    }

    fn want_watch(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.unwatch_ms.is_some_and(|at| at <= now.ms) && !self.is_blocked() {
            self.unwatch_ms = None;
            self.watching = false;
            self.tips.clear();
            actions.push(Action::Watch(false));
        }
        let is_blocked = self.is_blocked();
        if is_blocked {
            self.unwatch_ms = None;
        } else if self.watching && !self.is_registered && self.unwatch_ms.is_none() {
            self.unwatch_ms = Some(now.ms.saturating_add(LINGER_MS));
        }
        if (self.is_registered || is_blocked) && !self.watching {
            self.watching = true;
            actions.push(Action::Watch(true));
        }
    }

    fn want_store(&mut self, actions: &mut Vec<Action>) {
        if self.is_storing {
            return;
        }
        let (mut addresses, mut suspect) = (Vec::new(), Vec::new());
        for (address, state) in &mut self.held {
            if let State::Gained { is_suspect, is_asked } = state {
                *is_asked = true;
                addresses.push(*address);
                if *is_suspect {
                    suspect.push(*address);
                }
            }
        }
        // What is recorded anew is not to be erased after that.
        self.erase.retain(|address| !addresses.contains(address));
        if !addresses.is_empty() {
            self.is_storing = true;
            actions.push(Action::Record { addresses, suspect });
        } else {
            let addresses = self.forget();
            if !addresses.is_empty() {
                self.is_storing = true;
                actions.push(Action::Forget { addresses });
            }
        }
        if !self.erase.is_empty() {
            actions.push(Action::Erase { addresses: std::mem::take(&mut self.erase).into_iter().collect() });
        }
    }

    /// The next request, by what is most urgent.
    fn want_request(&mut self, now: Now) -> Option<Action> {
        if !self.has_started {
            self.request = Some(Request::Start);
            return Some(Action::List);
        }
        if let Some(number) = self.doubtful.first() {
            return Some(self.get(*number, true));
        }
        if self.is_fenced {
            return None;
        }
        if let Some(action) = self.want_kept(now) {
            return Some(action);
        }
        // An entry of before a restart, or of a request whose answer was lost.
        self.is_registered |= now.ms >= self.registered_ms && self.is_listed();
        if self.is_registered && !self.is_starved() {
            self.request = Some(Request::Register(false));
            return Some(Action::Unregister);
        }
        let is_starved = self.is_starved();
        if is_starved && let Some(action) = self.want_search(now) {
            return Some(action);
        }
        if let Some(action) = self.want_leave(now) {
            return Some(action);
        }
        let is_unheard = !self.is_registered || (now.ms >= self.registered_ms && !self.is_listed());
        if is_starved && self.dry >= 2 && is_unheard {
            self.request = Some(Request::Register(true));
            return Some(Action::Register);
        }
        if !is_starved && let Some(action) = self.want_search(now) {
            return Some(action);
        }
        if self.relist_ms.is_some_and(|at| at <= now.ms) {
            self.relist_ms = None;
            self.request = Some(Request::List);
            return Some(Action::List);
        }
        let due = self.recheck.iter().find(|(_, at)| **at <= now.ms).map(|(number, _)| *number)?;
        self.recheck.remove(&due);
        Some(self.get(due, true))
    }

    fn get(&mut self, number: u128, is_fresh: bool) -> Action {
        self.request = Some(Request::Get { number, is_fresh });
        Action::Get { number, is_fresh }
    }

    fn wake_ms(&self, now: Now) -> Option<u64> {
        if self.is_fenced && self.has_started {
            return None;
        }
        let pause = (self.request.is_none() && self.pause_until_ms > now.ms).then_some(self.pause_until_ms);
        let unheard = (self.is_listed() != self.is_registered).then_some(self.registered_ms);
        let short = self.is_short(now) && self.search_ms() > now.ms;
        [
            pause,
            unheard,
            short.then(|| self.search_ms()),
            self.surplus.wake_ms(),
            self.unwatch_ms,
            self.relist_ms,
            self.recheck.values().min().copied(),
            self.limbo.values().min().copied(),
            self.kept_ms(),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now.ms)
        .min()
    }

    fn is_short(&self, now: Now) -> bool {
        let Level { held, need, fair_share, warm } = self.level(now);
        held < need || is_short(held, need, fair_share, warm)
    }

    fn lacking(&self, now: Now) -> u64 {
        let Level { held, need, fair_share, warm } = self.level(now);
        target(need, fair_share, warm).saturating_sub(held)
    }

    /// What is known of a shard, if it is not from long ago: others may have changed it.
    fn recent(&self, number: u128, now: Now) -> Option<&Shard> {
        self.views.get(&number).filter(|(_, at)| now.ms <= at.saturating_add(RECENT_MS)).map(|(view, _)| view)
    }

    fn shard(&self, seen: &Seen) -> Shard {
        Shard::read(*self.windows.layout(), seen.number, &seen.slots)
    }

    /// Whether the store may still have something of the address under way.
    fn is_forgetting(&self, address: IpAddr) -> bool {
        self.leaving.get(&address).is_some_and(|leave| leave.stage != Stage::Out)
    }
}
