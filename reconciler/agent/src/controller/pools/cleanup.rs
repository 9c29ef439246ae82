//! What gone nodes and pods have left behind, and when it may be cleared away.
//!
//! Nothing is freed on one signal, and what the API server has shown is asked for again before it is acted upon
//! ([`super::perform`]):
//!
//! | what | goes when | after asking |
//! |---|---|---|
//! | addresses of a node | the Node is deleted or tainted out-of-service, **and** its agent has been silent for a quarter of its TTL, **and** no endpoint names them | that no pod is bound to the node |
//! | addresses of a former incarnation of a node | a later incarnation has been there for a whole TTL, **and** no endpoint names them | nothing: the agent itself must not have it |
//! | an endpoint on a node that is gone, as above | its pod is not there, or is another one | for the pod |
//! | an endpoint on any other node | its pod has not been there for a whole TTL: the agent, which clears up after its own pods, has lost its memory | for the pod |
//! | the agent's Lease | the Node is deleted, the agent silent, and no slot has the node's name | nothing: the deletion is for what was read |
//! | a waiter | its Node is deleted; or it has waited for ten minutes, and its agent is silent | nothing: the removal is for what was read |
//!
//! Addresses do not become free: they go into quarantine until no agent that held them can hand them out any more, and
//! who claims them then asks on the wire first. Those of pods with an identity are kept for the next one of it, who asks
//! on the wire first as well; what becomes of them when there is none, see [`kept`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use schemas::slot::{Holder, Subject, TEXT_MAX};

use super::agents::{Agent, DEFAULT_TTL, Moment};
use super::cluster::Cluster;
use super::kept;
use super::read::Name;
use super::shard::Shard;

/// The shortest quarantine.
pub(super) const COOLDOWN: Duration = Duration::from_secs(60);
/// How long a silent node is waited for that waits itself.
const WAITS: Duration = Duration::from_secs(600);

/// Something to be cleared away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chore {
    /// An endpoint without pod.
    Endpoint {
        /// Which.
        name: Name,
        /// Its UID.
        uid: String,
        /// The UID of the pod that must not be there.
        pod_uid: String,
        /// What has to go before it can go.
        finalizers: Vec<String>,
    },
    /// An endpoint whose pod is missing and may come again.
    Missing(kept::Missing),
    /// Reservations that end.
    Ended(kept::Ended),
    /// Slots of one shard.
    Slots(SlotEdits),
    /// The Lease of an agent whose node is deleted.
    Lease {
        /// The node.
        node: String,
        /// The Lease's UID.
        uid: String,
        /// Its resourceVersion: one that is renewed meanwhile stays.
        version: String,
    },
    /// An entry of a pool's `waiting`.
    Waiter {
        /// The pool.
        pool: String,
        /// The node.
        node: String,
        /// What the entry says.
        text: String,
    },
}

/// Changes of the slots of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotEdits {
    /// The shard.
    pub shard: String,
    /// Its pool.
    pub pool: String,
    /// Whose addresses.
    pub holder: Holder,
    /// Whether the node itself is gone: then no pod may be bound to it.
    pub is_node_gone: bool,
    /// Index, old and new text of each slot.
    pub edits: Vec<(usize, String, String)>,
    /// How many addresses.
    pub addresses: u32,
    /// Until when they are kept back, in seconds since 1970.
    pub until: u64,
}

/// What is remembered: since when something has looked as if it was gone.
#[derive(Debug, Default)]
pub struct Memory {
    nodes: BTreeMap<String, Instant>,
    incarnations: BTreeMap<Holder, Instant>,
    kept: kept::Memory,
}

/// What is to be done now, and in how much time something else may be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What may be cleared away.
    pub chores: Vec<Chore>,
    /// In how much time to look again although nothing happens.
    pub again: Option<Duration>,
}

impl Findings {
    pub(super) fn wait(&mut self, time: Duration) {
        self.again = Some(self.again.map_or(time, |known| known.min(time)));
    }
}

/// Looks for what may be cleared away.
pub fn look(cluster: &Cluster, memory: &mut Memory, now: Moment) -> Findings {
    let mut findings = Findings::default();
    let gone = gone_nodes(cluster, memory, now, &mut findings);
    find_endpoints(cluster, &gone, now, &mut findings);
    for node in &gone {
        let agent = cluster.agents.get(node);
        for (holder, shards) in cluster.holdings_of(node) {
            find_slots(cluster, holder, shards, true, until(agent, now), &mut findings);
        }
        find_lease(cluster, node, &mut findings);
    }
    find_former_incarnations(cluster, &gone, memory, now, &mut findings);
    find_waiters(cluster, now, &mut findings);
    kept::find(cluster, &mut memory.kept, now, &mut findings);
    findings
}

/// Nodes of which everything says that they are gone, for long enough.
fn gone_nodes(cluster: &Cluster, memory: &mut Memory, now: Moment, findings: &mut Findings) -> BTreeSet<String> {
    let holders = cluster.holdings.keys().map(Holder::node);
    let orphaned = cluster.orphans.keys().filter_map(|name| cluster.endpoints.get(name)).map(|one| one.node.as_str());
    let known: BTreeSet<&str> = holders.chain(orphaned).chain(cluster.agents.keys().map(String::as_str)).collect();
    let is_off = |node: &str| cluster.nodes.get(node).is_none_or(|node| node.is_out_of_service);
    let is_silent = |node: &str| cluster.agents.get(node).is_none_or(|agent| !agent.is_fresh(now));
    memory.nodes.retain(|node, _| known.contains(node.as_str()) && is_off(node) && is_silent(node));
    let mut gone = BTreeSet::new();
    for node in known.into_iter().filter(|node| is_off(node)) {
        let agent = cluster.agents.get(node);
        if let Some(rest) = agent.and_then(|agent| agent.silent_in(now)) {
            findings.wait(rest + Duration::from_millis(1));
            continue;
        }
        let patience = agent.map_or(DEFAULT_TTL / 4, Agent::patience);
        let since = *memory.nodes.entry(node.to_owned()).or_insert(now.steady);
        match patience.checked_sub(now.steady.saturating_duration_since(since)) {
            Some(rest) if !rest.is_zero() => findings.wait(rest),
            _ => {
                gone.insert(node.to_owned());
            }
        }
    }
    gone
}

/// Until when addresses of a node that is not heard of are kept back.
fn until(agent: Option<&Agent>, now: Moment) -> u64 {
    let soonest = now.unix() + COOLDOWN.as_secs();
    // Without a Lease nobody knows when the last word was; it has been silent for a quarter of the time here.
    let harmless = agent.map_or(now.unix() + DEFAULT_TTL.as_secs() * 3 / 4, Agent::harmless_from);
    soonest.max(harmless)
}

fn find_endpoints(cluster: &Cluster, gone: &BTreeSet<String>, now: Moment, findings: &mut Findings) {
    for (name, since) in &cluster.orphans {
        let Some(endpoint) = cluster.endpoints.get(name).filter(|endpoint| endpoint.keeper().is_none()) else {
            continue;
        };
        if !gone.contains(&endpoint.node) {
            let ttl = cluster.agents.get(&endpoint.node).map_or(DEFAULT_TTL, |agent| agent.ttl);
            let rest = ttl.saturating_sub(now.steady.saturating_duration_since(*since));
            if !rest.is_zero() {
                findings.wait(rest);
                continue;
            }
        }
        findings.chores.push(Chore::Endpoint {
            name: Name::clone(Arc::as_ref(name)),
            uid: endpoint.uid.clone(),
            pod_uid: endpoint.pod_uid.clone(),
            finalizers: endpoint.finalizers.clone(),
        });
    }
}

/// Puts what a holder has in these shards, and no endpoint names, into quarantine.
fn find_slots(
    cluster: &Cluster,
    holder: &Holder,
    shards: &BTreeSet<String>,
    is_node_gone: bool,
    until: u64,
    findings: &mut Findings,
) {
    for (name, shard) in shards.iter().filter_map(|name| Some((name, cluster.shards.get(name)?))) {
        let mut edits = Vec::new();
        let mut addresses = 0;
        for (index, held) in shard.slots.iter().enumerate() {
            let Some(slot) = &held.slot else { continue };
            let mask = slot.of(holder);
            if mask == 0 {
                continue;
            }
            let mut changed = slot.clone();
            let lost = changed.quarantine(holder, mask & !named(cluster, shard, index), until);
            for (number, name) in names(cluster, shard, index) {
                if let Some(owner) = kept::heir(cluster, name, *number, holder.node()) {
                    changed.reserve(holder, &owner, 1 << (number - shard.first_of(index)));
                }
            }
            let text = changed.to_text(shard.width);
            // One of many long names that the API server would not take stays as it is.
            if text != held.text && text.len() <= TEXT_MAX {
                addresses += lost.count_ones();
                edits.push((index, held.text.clone(), text));
            }
        }
        if !edits.is_empty() {
            let (shard, pool) = (name.clone(), shard.pool.clone());
            let edits = SlotEdits { shard, pool, holder: holder.clone(), is_node_gone, edits, addresses, until };
            findings.chores.push(Chore::Slots(edits));
        }
    }
}

/// The addresses of a slot that endpoints name, whichever pod's they are.
fn named(cluster: &Cluster, shard: &Shard, slot: usize) -> u64 {
    names(cluster, shard, slot).fold(0, |mask, (number, _)| mask | 1 << (number - shard.first_of(slot)))
}

/// The same, each with the endpoint.
fn names<'a>(cluster: &'a Cluster, shard: &Shard, slot: usize) -> impl Iterator<Item = &'a (u128, Arc<Name>)> {
    let first = shard.first_of(slot);
    let end = first + u128::from(shard.width);
    let nobody = Arc::new(Name { namespace: String::new(), name: String::new() });
    cluster.named(&shard.pool).range((first, nobody.clone())..(end, nobody))
}

fn find_lease(cluster: &Cluster, node: &str, findings: &mut Findings) {
    let Some(agent) = cluster.agents.get(node) else { return };
    let is_deleted = !cluster.nodes.contains_key(node);
    let holds = cluster.holdings_of(node).next().is_some();
    let mut unclear = cluster.shards.values().flat_map(|shard| &shard.slots).filter(|held| held.slot.is_none());
    if is_deleted && !holds && !unclear.any(|held| held.text.contains(node)) {
        let (node, uid, version) = (node.to_owned(), agent.uid.clone(), agent.version.clone());
        findings.chores.push(Chore::Lease { node, uid, version });
    }
}

/// What earlier incarnations of nodes hold that are there.
fn find_former_incarnations(
    cluster: &Cluster,
    gone: &BTreeSet<String>,
    memory: &mut Memory,
    now: Moment,
    findings: &mut Findings,
) {
    let mut former = BTreeMap::new();
    for (holder, shards) in &cluster.holdings {
        let agent = cluster.agents.get(holder.node()).filter(|agent| holder.epoch() < agent.epoch);
        let Some(agent) = agent.filter(|_| !gone.contains(holder.node())) else { continue };
        let since = memory.incarnations.get(holder).copied().unwrap_or(now.steady);
        former.insert(holder.clone(), since);
        let rest = agent.ttl.saturating_sub(now.steady.saturating_duration_since(since));
        if rest.is_zero() {
            find_slots(cluster, holder, shards, false, now.unix() + COOLDOWN.as_secs(), findings);
        } else {
            findings.wait(rest);
        }
    }
    memory.incarnations = former;
}

fn find_waiters(cluster: &Cluster, now: Moment, findings: &mut Findings) {
    for (pool, object) in &cluster.pools {
        for (node, text) in object.object.status.iter().flat_map(|status| &status.waiting) {
            let agent = cluster.agents.get(node);
            if cluster.nodes.contains_key(node) {
                // What is no time is as old as can be.
                let since = text.split_whitespace().next().and_then(|time| time.parse::<Timestamp>().ok());
                let age =
                    since.map_or(WAITS, |since| Duration::try_from(now.wall.duration_since(since)).unwrap_or_default());
                let rest =
                    WAITS.saturating_sub(age).max(agent.and_then(|agent| agent.silent_in(now)).unwrap_or_default());
                if !rest.is_zero() {
                    findings.wait(rest + Duration::from_millis(1));
                    continue;
                }
            }
            findings.chores.push(Chore::Waiter { pool: pool.clone(), node: node.clone(), text: text.clone() });
        }
    }
}

/// Whether a subject is a node: such a slot keeps a pool that is being deleted.
pub fn is_held(shard: &Shard) -> bool {
    let is_node = |(subject, _): &(Subject, u64)| matches!(subject, Subject::Node(_));
    // What is unclear may be a node's.
    shard.slots.iter().any(|held| held.slot.as_ref().is_none_or(|slot| slot.parts().iter().any(is_node)))
}
