//! Nodes, pods, a controller and an API server in simulated time, and a checker that knows each address's owner.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use plan::lease::demand::steady_fair_share;
use plan::lease::tenant::{Action, Now, Recorded, Reply, Seen, Tenant};
use plan::lease::{Draw, Layout, Windows, size_for};
use schemas::slot::{Holder, Slot};

use super::server::Server;

#[path = "fixed.rs"]
#[allow(dead_code, reason = "not every test has pods with an identity")]
mod fixed;

use fixed::Identities;

/// Seconds since 1970 at the beginning.
pub(crate) const EPOCH: u64 = 1_790_000_000;
/// From the binding of a pod to its ADD.
const BEFORE_ADD_MS: u64 = 300;
/// After which a client gives a request up.
const TIME_OUT_MS: u64 = 3_000;
/// How long the API server may still work on one that its client has given up.
const LATE_MS: u64 = 60_000;

pub(crate) type Pod = u64;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Fine,
    /// It never arrived.
    Lost,
    /// It happened, the answer got lost.
    Unanswered,
    /// It happened long after the client gave up.
    Late(u64),
}

#[derive(Debug)]
enum Event {
    Bind { node: usize, pod: Pod },
    Delete(Pod),
    Arrive { node: usize, life: u64, action: Action, fate: Fate },
    Answer { node: usize, life: u64, reply: Reply },
    Stored { node: usize, life: u64, action: Action },
    Wake { node: usize, life: u64 },
    Controller,
    Published,
    Crash(usize),
    Start(usize),
}

#[derive(Debug)]
struct Node {
    holder: Holder,
    tenant: Option<Tenant>,
    /// What survives.
    store: BTreeMap<IpAddr, Recorded>,
    life: u64,
    pending: VecDeque<(Pod, u64)>,
    wake_ms: Option<u64>,
    is_watching: bool,
    clock_offset: i64,
    /// Which addresses are kept for whom: survives.
    kept: BTreeMap<IpAddr, String>,
    /// Pods with an identity that have no address yet.
    pending_fixed: VecDeque<(Pod, u64)>,
}

pub(crate) struct World {
    pub(crate) now_ms: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    queued: HashMap<u64, Event>,
    sequence: u64,
    pub(crate) server: Server,
    nodes: Vec<Node>,
    windows: Windows,
    pub(crate) fair_share: u128,
    is_publishing: bool,
    /// Where each pod is, and its address.
    pods: BTreeMap<Pod, (usize, Option<IpAddr>)>,
    next_pod: Pod,
    /// Deleted before they were bound.
    stillborn: BTreeSet<Pod>,
    /// Which node may give an address, from its record on until it is forgotten.
    owners: HashMap<IpAddr, usize>,
    used: u128,
    pub(crate) draw: Draw,
    /// In 1,000 requests.
    pub(crate) lost: u64,
    pub(crate) is_down: bool,
    pub(crate) waits: Vec<u64>,
    identities: Identities,
}

impl World {
    /// Nodes that share `total` addresses from 10.0.0.1 on.
    pub(crate) fn new(nodes: usize, total: u32, seed: u64) -> Self {
        let first = Ipv4Addr::new(10, 0, 0, 1);
        let last = Ipv4Addr::from_bits(first.to_bits() + total - 1);
        let layout = Layout::new("10.0.0.0/8".parse().unwrap(), size_for(total.into())).unwrap();
        let windows = Windows::new(layout, &[(first.into(), last.into())]);
        let mut world = Self {
            now_ms: 0,
            events: BinaryHeap::new(),
            queued: HashMap::new(),
            sequence: 0,
            server: Server::default(),
            nodes: Vec::new(),
            windows,
            fair_share: 0,
            is_publishing: false,
            pods: BTreeMap::new(),
            next_pod: 0,
            stillborn: BTreeSet::new(),
            owners: HashMap::new(),
            used: 0,
            draw: Draw::new(seed),
            lost: 0,
            is_down: false,
            waits: Vec::new(),
            identities: Identities::default(),
        };
        for node in 0..nodes {
            world.add_node(&format!("node-{node}"), 1);
        }
        world.after(0, Event::Controller);
        world
    }

    pub(crate) fn add_node(&mut self, name: &str, epoch: u64) -> usize {
        self.nodes.push(Node {
            holder: Holder::new(name, epoch).unwrap(),
            tenant: None,
            store: BTreeMap::new(),
            life: 0,
            pending: VecDeque::new(),
            wake_ms: None,
            is_watching: false,
            clock_offset: 0,
            kept: BTreeMap::new(),
            pending_fixed: VecDeque::new(),
        });
        let node = self.nodes.len() - 1;
        let delay = self.draw.below(500);
        self.after(delay, Event::Start(node));
        node
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.sequence += 1;
        self.queued.insert(self.sequence, event);
        self.events.push(Reverse((self.now_ms + delay_ms, self.sequence)));
    }

    // What tests do.

    pub(crate) fn bind_after(&mut self, delay_ms: u64, node: usize) -> Pod {
        self.next_pod += 1;
        let pod = self.next_pod;
        self.after(delay_ms, Event::Bind { node, pod });
        pod
    }

    pub(crate) fn delete_after(&mut self, delay_ms: u64, pod: Pod) {
        self.after(delay_ms, Event::Delete(pod));
    }

    pub(crate) fn crash_after(&mut self, delay_ms: u64, node: usize, down_ms: u64) {
        self.after(delay_ms, Event::Crash(node));
        self.after(delay_ms + down_ms, Event::Start(node));
    }

    pub(crate) fn jump_clock(&mut self, node: usize, seconds: i64) {
        self.nodes[node].clock_offset += seconds;
    }

    pub(crate) fn fence(&mut self, node: usize, is_fenced: bool) {
        if let Some(tenant) = &mut self.nodes[node].tenant {
            tenant.fence(is_fenced);
        }
        self.step(node);
    }

    pub(crate) fn run(&mut self, for_ms: u64) {
        let end = self.now_ms + for_ms;
        while let Some(Reverse((at, sequence))) = self.events.peek().copied() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now_ms = at;
            let event = self.queued.remove(&sequence).unwrap();
            self.happen(event);
        }
        self.now_ms = end;
    }

    /// Until no pod waits; fails after so long.
    pub(crate) fn run_until_served(&mut self, most_ms: u64) -> u64 {
        let begin = self.now_ms;
        while self.pending() > 0 {
            assert!(
                self.now_ms - begin < most_ms,
                "{} pods wait after {most_ms} ms: {} {}",
                self.pending(),
                self.summary(),
                self.starved()
            );
            self.run(50);
            self.clear_suspects();
        }
        self.now_ms - begin
    }

    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.pods.keys().copied().collect()
    }

    pub(crate) fn node_of(&self, pod: Pod) -> usize {
        self.pods[&pod].0
    }

    pub(crate) fn pending(&self) -> usize {
        self.nodes.iter().map(|node| node.pending.len() + node.pending_fixed.len()).sum()
    }

    /// How many addresses the API server's books have under a node's name.
    pub(crate) fn held_by(&self, node: usize) -> u32 {
        let width = self.windows.layout().width();
        let texts = self.server.shards().flat_map(|seen| &seen.slots);
        let slots = texts.filter_map(|text| Slot::parse(text, width).ok());
        slots.map(|slot| slot.of(&self.nodes[node].holder).count_ones()).sum()
    }

    /// From a pod's ADD until it had an address, in milliseconds.
    pub(crate) fn longest_wait(&self) -> u64 {
        self.waits.iter().max().copied().unwrap_or(0)
    }

    pub(crate) fn leased(&self) -> usize {
        self.owners.len()
    }

    /// Puts all free addresses of shards with slots of one address into quarantine; gives how many.
    pub(crate) fn quarantine_free(&mut self, until: u64) -> usize {
        assert_eq!(self.windows.layout().width(), 1);
        let free: Vec<(u128, usize)> = self
            .server
            .shards()
            .flat_map(|seen| (0..64).filter(|slot| seen.slots[*slot].is_empty()).map(|slot| (seen.number, slot)))
            .filter(|(number, slot)| self.windows.usable(*number, *slot) != 0)
            .collect();
        for (number, slot) in &free {
            self.server.write(*number, *slot, &format!("!{until}"));
        }
        free.len()
    }

    /// The tenants of nodes with pods that wait.
    pub(crate) fn starved(&self) -> String {
        let starved = self.nodes.iter().filter(|node| !node.pending.is_empty() || !node.pending_fixed.is_empty());
        starved.map(|node| format!("{:#?}", node.tenant)).collect()
    }

    /// How many addresses each node has.
    pub(crate) fn spread(&self) -> Vec<usize> {
        let mut counts = vec![0; self.nodes.len()];
        self.owners.values().for_each(|node| counts[*node] += 1);
        counts.sort_unstable();
        counts
    }

    pub(crate) fn summary(&self) -> String {
        let spread = self.spread();
        let sorted = {
            let mut waits = self.waits.clone();
            waits.sort_unstable();
            waits
        };
        let at = |part: usize| sorted.get(sorted.len() * part / 1000).copied().unwrap_or(0);
        let counts = &self.server.counts;
        format!(
            "pods {} waiting nodes {} fair share {} | {counts:?} refused {:.1} % | wait ms p50 {} p99 {} p99.9 {} max {} | leases a node {}..{}..{}, leased {}, spare {}",
            self.pods.len(),
            self.server.waiting.len(),
            self.fair_share,
            100.0 * counts.refused as f64 / (counts.patches + counts.refused).max(1) as f64,
            at(500),
            at(990),
            at(999),
            sorted.last().unwrap_or(&0),
            spread.first().unwrap_or(&0),
            spread.get(spread.len() / 2).unwrap_or(&0),
            spread.last().unwrap_or(&0),
            self.owners.len(),
            self.owners.len() as i128 - self.used as i128,
        )
    }

    pub(crate) fn clear_counts(&mut self) {
        self.server.counts = super::server::Counts::default();
        self.waits.clear();
    }

    /// Everything released: no slot with a holder but for what nodes own.
    pub(crate) fn check_leased(&self) {
        let layout = *self.windows.layout();
        for seen in self.server.shards() {
            for (place, text) in seen.slots.iter().enumerate() {
                let Ok(slot) = Slot::parse(text, layout.width()) else { continue };
                for node in &self.nodes {
                    for address in layout.addresses(seen.number, place, slot.of(&node.holder)) {
                        assert!(node.store.contains_key(&address), "{address} of {} is leaked: {text:?}", node.holder);
                    }
                }
            }
        }
    }

    // What happens.

    fn now(&self, node: usize) -> Now {
        let unix = (EPOCH + self.now_ms / 1000).saturating_add_signed(self.nodes[node].clock_offset);
        Now { ms: self.now_ms, unix }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Bind { node, pod } => {
                if self.stillborn.remove(&pod) {
                    return;
                }
                self.pods.insert(pod, (node, None));
                let is_fixed = self.begin_fixed(node, pod);
                if !is_fixed {
                    self.nodes[node].pending.push_back((pod, self.now_ms));
                }
                let now = self.now(node);
                if let Some(tenant) = &mut self.nodes[node].tenant {
                    tenant.started(now);
                }
                self.step(node);
            }
            Event::Delete(pod) => {
                let Some((node, address)) = self.pods.remove(&pod) else {
                    self.stillborn.insert(pod);
                    return;
                };
                self.nodes[node].pending.retain(|(pending, _)| *pending != pod);
                self.end_fixed(node, pod);
                if let Some(address) = address {
                    self.used -= 1;
                    self.nodes[node].store.insert(address, Recorded::Spare);
                    let now = self.now(node);
                    if let Some(tenant) = &mut self.nodes[node].tenant {
                        tenant.take_back(address, now);
                    }
                }
                self.step(node);
            }
            Event::Arrive { node, life, action, fate } => self.arrive(node, life, &action, &fate),
            Event::Answer { node, life, reply } => {
                let now = self.now(node);
                if self.nodes[node].life == life
                    && let Some(tenant) = &mut self.nodes[node].tenant
                {
                    tenant.took(now, reply);
                    self.step(node);
                }
            }
            Event::Stored { node, life, action } => self.stored(node, life, action),
            Event::Wake { node, life } => {
                if self.nodes[node].life == life && self.nodes[node].wake_ms.is_some_and(|at| at <= self.now_ms) {
                    self.nodes[node].wake_ms = None;
                    self.step(node);
                }
            }
            Event::Controller => {
                let someone_waits = !self.server.waiting.is_empty();
                let nodes = self.nodes.len() as u128;
                let total = self.windows.total();
                let next = steady_fair_share(Some(self.fair_share), total, self.used, nodes, someone_waits);
                if next != self.fair_share {
                    self.fair_share = next;
                    self.publish();
                }
                self.after(5_000, Event::Controller);
            }
            Event::Published => {
                self.is_publishing = false;
                let waiters = self.server.waiters();
                let share = u64::try_from(self.fair_share).unwrap();
                for node in 0..self.nodes.len() {
                    if let Some(tenant) = &mut self.nodes[node].tenant {
                        tenant.shares(share, waiters.clone());
                        self.step(node);
                    }
                }
            }
            Event::Crash(node) => {
                let node = &mut self.nodes[node];
                node.life += 1;
                node.tenant = None;
                node.is_watching = false;
                node.wake_ms = None;
            }
            Event::Start(node) => {
                let now = self.now(node);
                let seed = self.draw.next();
                let state = &self.nodes[node];
                let recorded: Vec<_> = state.store.iter().map(|(address, recorded)| (*address, *recorded)).collect();
                let mut tenant = Tenant::new(state.holder.clone(), self.windows.clone(), recorded, now, seed);
                tenant.shares(u64::try_from(self.fair_share).unwrap(), self.server.waiters());
                self.nodes[node].tenant = Some(tenant);
                self.step(node);
            }
        }
    }

    fn publish(&mut self) {
        if !self.is_publishing {
            self.is_publishing = true;
            let delay = 20 + self.draw.below(80);
            self.after(delay, Event::Published);
        }
    }

    /// Gives what can be given, then does what the tenant wants.
    fn step(&mut self, node: usize) {
        let now = self.now(node);
        let Some(mut tenant) = self.nodes[node].tenant.take() else { return };
        self.tell_kept(node, &mut tenant);
        if !self.nodes[node].pending.is_empty() {
            for address in tenant.spare() {
                let Some((pod, bound_ms)) = self.nodes[node].pending.pop_front() else { break };
                assert_eq!(self.owners.get(&address), Some(&node), "{address} is given and not owned");
                self.assert_held(node, address);
                assert!(tenant.give(address));
                self.nodes[node].store.insert(address, Recorded::Used);
                self.pods.insert(pod, (node, Some(address)));
                self.used += 1;
                self.waits.push((self.now_ms - bound_ms).saturating_sub(BEFORE_ADD_MS));
            }
        }
        let without = self.serve_fixed(node, &mut tenant);
        tenant.missing(self.nodes[node].pending.len() as u64 + without);
        let actions = tenant.want(now);
        self.nodes[node].tenant = Some(tenant);
        let life = self.nodes[node].life;
        for action in actions {
            match action {
                Action::Sleep { until_ms } => {
                    assert!(until_ms > self.now_ms, "a busy loop");
                    if self.nodes[node].wake_ms.is_none_or(|known| until_ms < known) {
                        self.nodes[node].wake_ms = Some(until_ms);
                        self.after(until_ms - self.now_ms, Event::Wake { node, life });
                    }
                }
                Action::Watch(is_on) => {
                    self.nodes[node].is_watching = is_on;
                    if is_on {
                        let all: Vec<Seen> = self.server.shards().cloned().collect();
                        for seen in all {
                            self.after(20, Event::Answer { node, life, reply: Reply::Watched(seen) });
                        }
                    }
                }
                Action::Record { .. } | Action::Forget { .. } => {
                    let delay = 1 + self.draw.below(5);
                    self.after(delay, Event::Stored { node, life, action });
                }
                Action::Erase { addresses } => {
                    for address in addresses {
                        if self.nodes[node].store.get(&address) == Some(&Recorded::Forgotten) {
                            self.nodes[node].store.remove(&address);
                        }
                    }
                }
                Action::Unkeep { addresses } => self.unkeep(node, &addresses),
                Action::Lost { spare, used } => {
                    assert!(used.is_empty(), "{used:?} were taken from pods of {}", self.nodes[node].holder);
                    for address in spare {
                        self.nodes[node].store.remove(&address);
                        self.owners.remove(&address);
                    }
                }
                request => {
                    let fate = if self.draw.below(1000) >= self.lost {
                        Fate::Fine
                    } else {
                        match self.draw.below(3) {
                            0 => Fate::Lost,
                            1 => Fate::Unanswered,
                            _ => Fate::Late(self.draw.below(LATE_MS)),
                        }
                    };
                    let delay = match fate {
                        Fate::Late(delay) => delay,
                        _ => 2 + self.draw.below(15),
                    };
                    if fate != Fate::Fine {
                        self.after(TIME_OUT_MS, Event::Answer { node, life, reply: Reply::Unknown });
                    }
                    self.after(delay, Event::Arrive { node, life, action: request, fate });
                }
            }
        }
    }

    fn arrive(&mut self, node: usize, life: u64, action: &Action, fate: &Fate) {
        if *fate == Fate::Lost || self.is_down {
            if *fate == Fate::Fine {
                self.after(20, Event::Answer { node, life, reply: Reply::Unknown });
            }
            return;
        }
        let reply = match action {
            Action::List => self.server.list(),
            Action::Get { number, is_fresh } => self.server.get(*number, *is_fresh, self.now_ms),
            Action::Create { number } => self.server.create(*number, self.now_ms),
            Action::Patch { number, edits } => {
                let reply = self.server.patch(*number, edits, self.now_ms);
                if let Reply::Seen(seen) = &reply {
                    self.tell_watchers(seen);
                }
                reply
            }
            Action::Register => {
                self.server.counts.registrations += 1;
                let since = EPOCH + self.now_ms / 1000;
                self.server.waiting.entry(self.nodes[node].holder.clone()).or_insert(since);
                self.publish();
                Reply::Done
            }
            Action::Unregister => {
                self.server.counts.registrations += 1;
                self.server.waiting.remove(&self.nodes[node].holder);
                self.publish();
                Reply::Done
            }
            other => unreachable!("{other:?} is no request"),
        };
        if *fate == Fate::Fine {
            let delay = 2 + self.draw.below(15);
            self.after(delay, Event::Answer { node, life, reply });
        }
    }

    fn tell_watchers(&mut self, seen: &Seen) {
        let watchers: Vec<(usize, u64)> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.is_watching)
            .map(|(place, node)| (place, node.life))
            .collect();
        for (node, life) in watchers {
            let delay = 5 + self.draw.below(50);
            self.after(delay, Event::Answer { node, life, reply: Reply::Watched(seen.clone()) });
        }
    }

    fn stored(&mut self, node: usize, life: u64, action: Action) {
        // A write that was under way at a crash may be durable or not; here it is not.
        if self.nodes[node].life != life {
            return;
        }
        let reply = match action {
            Action::Record { addresses, suspect } => {
                for address in addresses {
                    let owner = self.owners.insert(address, node);
                    assert!(
                        owner.is_none_or(|owner| owner == node),
                        "{address} has two owners: {}",
                        self.holder(owner, node)
                    );
                    let is_suspect = suspect.contains(&address);
                    let recorded = if is_suspect { Recorded::Suspect } else { Recorded::Spare };
                    self.nodes[node].store.insert(address, recorded);
                }
                Reply::Recorded
            }
            Action::Forget { addresses } => {
                for address in addresses {
                    let owner = self.owners.remove(&address);
                    assert!(owner.is_none_or(|owner| owner == node), "{address} is {owner:?}'s");
                    self.nodes[node].store.insert(address, Recorded::Forgotten);
                }
                Reply::Forgotten
            }
            other => unreachable!("{other:?} is no write"),
        };
        let now = self.now(node);
        if let Some(tenant) = &mut self.nodes[node].tenant {
            tenant.took(now, reply);
        }
        self.step(node);
    }

    fn holder(&self, one: Option<usize>, two: usize) -> String {
        format!("{:?} and {}", one.map(|one| self.nodes[one].holder.to_string()), self.nodes[two].holder)
    }

    /// Whatever a pod gets is its node's in the API server's books.
    fn assert_held(&self, node: usize, address: IpAddr) {
        let layout = self.windows.layout();
        let (number, place, bit) = layout.place(address).unwrap();
        let text = self.server.slot(number, place);
        let slot = Slot::parse(text, layout.width()).unwrap();
        assert!(
            slot.of(&self.nodes[node].holder) & (1 << bit) != 0,
            "{address} of {} lies in {text:?}",
            self.nodes[node].holder
        );
    }

    /// Probes find nobody.
    pub(crate) fn clear_suspects(&mut self) -> usize {
        let mut cleared = 0;
        for node in 0..self.nodes.len() {
            let now = self.now(node);
            let suspects: Vec<IpAddr> = self.nodes[node]
                .store
                .iter()
                .filter(|(_, recorded)| **recorded == Recorded::Suspect)
                .map(|(address, _)| *address)
                .collect();
            if suspects.is_empty() {
                continue;
            }
            for address in suspects {
                cleared += 1;
                self.nodes[node].store.insert(address, Recorded::Spare);
                if let Some(tenant) = &mut self.nodes[node].tenant {
                    tenant.cleared(address, now);
                }
            }
            self.step(node);
        }
        cleared
    }

    /// The addresses that pods have, each once.
    pub(crate) fn check_pods(&self) {
        let mut seen = BTreeSet::new();
        for (pod, (node, address)) in &self.pods {
            let Some(address) = address else { continue };
            assert!(seen.insert(*address), "{address} is given twice, to {pod} too");
            self.assert_held(*node, *address);
        }
    }
}
