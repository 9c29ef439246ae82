//! What has been read of the cluster, with the indexes that keep one change cheap.
//!
//! Nothing here decides or writes. A change costs what it touches: a pod's only its endpoint, an endpoint's only the
//! addresses it names; what it means for a pool is only noted, and counted when that pool's turn comes.

mod endpoints;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use plan::allocate::AddressSet;
use schemas::crd::pool_ranges::PoolRanges;
use schemas::crd::{SpiderIPPool, SpiderIPShard, SpiderReservedIP};
use schemas::slot::Holder;

pub use self::endpoints::{Endpoint, Nic};
use super::agents::{Agent, Moment};
use super::read::{Change, Heard, Listing, Name, TaintedNode};
use super::shard::Shard;
use super::space::Space;
use super::tally::Named;
use crate::catalogue::{CONF_KEY, CONF_NAME, Conf};
use crate::kubernetes::AGENT_LEASE;
use crate::overlap::{Overlap, overlaps, seniority};

/// The taint by which somebody says that a node is off and stays off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A pool, and what follows from it and the other pools.
#[derive(Debug)]
pub struct Pool {
    /// As declared.
    pub object: SpiderIPPool,
    /// Its addresses, or the field that is wrong.
    pub ranges: Result<PoolRanges, String>,
    /// Its addresses without what is not its own; None while the spec is wrong.
    pub space: Option<Space>,
    /// What it loses to older pools.
    pub overlap: Option<Overlap>,
    /// An older pool that is default for the same pods.
    pub rival: Option<String>,
}

/// A node.
#[derive(Debug, Default)]
pub struct Node {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether somebody says that it is off.
    pub is_out_of_service: bool,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
    /// Shards by name.
    pub shards: BTreeMap<String, Shard>,
    /// Endpoints.
    pub endpoints: HashMap<Arc<Name>, Endpoint>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Agents by node.
    pub agents: BTreeMap<String, Agent>,
    /// The shards in which a node's incarnation holds something.
    pub holdings: BTreeMap<Holder, BTreeSet<String>>,
    /// Endpoints whose pod is not there, since when.
    pub orphans: BTreeMap<Arc<Name>, Instant>,
    /// Spiderpool's switches, once they have been read.
    pub conf: Option<Conf>,
    /// The pods' UIDs.
    pods: HashMap<Name, String>,
    /// The UIDs of virtual machines' pods, and the endpoints of such pods by UID.
    machines: HashSet<String>,
    of_machines: HashMap<String, Arc<Name>>,
    reserved: BTreeMap<String, AddressSet>,
    shards_of: BTreeMap<String, BTreeSet<String>>,
    named: BTreeMap<String, Named>,
    listings: [Listing; 7],
    dirty: BTreeSet<String>,
    is_declared_anew: bool,
}

impl Cluster {
    /// Whether every kind has been read whole; before that nothing can be said.
    pub fn is_complete(&self) -> bool {
        self.listings.iter().all(Listing::is_complete)
    }

    /// Takes one thing heard.
    pub fn hear(&mut self, heard: Heard, now: Moment) {
        match heard {
            Heard::Pool(event) => match self.listings[0].take(event) {
                Change::Is(pool) => self.put_pool(pool),
                Change::Gone(name) => self.drop_pool(&name.name),
                Change::Only(names) => {
                    missing(self.pools.keys(), &names).iter().for_each(|name| self.drop_pool(name));
                }
                Change::Nothing => {}
            },
            Heard::Shard(event) => match self.listings[1].take(event) {
                Change::Is(shard) => self.put_shard(&shard),
                Change::Gone(name) => self.drop_shard(&name.name),
                Change::Only(names) => {
                    missing(self.shards.keys(), &names).iter().for_each(|name| self.drop_shard(name));
                }
                Change::Nothing => {}
            },
            Heard::Endpoint(event) => match self.listings[2].take(event) {
                Change::Is(endpoint) => self.put_endpoint(&endpoint, now),
                Change::Gone(name) => self.drop_endpoint(&name),
                Change::Only(names) => {
                    let gone: Vec<Arc<Name>> =
                        self.endpoints.keys().filter(|name| !names.contains(&***name)).cloned().collect();
                    gone.iter().for_each(|name| self.drop_endpoint(name));
                }
                Change::Nothing => {}
            },
            Heard::Reserved(event) => match self.listings[3].take(event) {
                Change::Is(object) => self.put_reserved(&object),
                Change::Gone(name) => self.drop_reserved(&name.name),
                Change::Only(names) => {
                    missing(self.reserved.keys(), &names).iter().for_each(|name| self.drop_reserved(name));
                }
                Change::Nothing => {}
            },
            Heard::Node(event) => match self.listings[4].take(event) {
                Change::Is(node) => self.put_node(node),
                Change::Gone(name) => self.drop_node(&name.name),
                Change::Only(names) => {
                    missing(self.nodes.keys(), &names).iter().for_each(|name| self.drop_node(name));
                }
                Change::Nothing => {}
            },
            Heard::Pod(event) => match self.listings[5].take(event) {
                Change::Is(pod) => self.put_pod(&pod, now),
                Change::Gone(name) => self.drop_pod(&name, now),
                Change::Only(names) => {
                    let gone: Vec<Name> = self.pods.keys().filter(|name| !names.contains(name)).cloned().collect();
                    gone.iter().for_each(|name| self.drop_pod(name, now));
                    self.find_orphans(now);
                }
                Change::Nothing => {}
            },
            Heard::Conf(event) => self.hear_conf(event),
            Heard::Lease(event) => match self.listings[6].take(event) {
                Change::Is(lease) => self.put_lease(&lease, now),
                Change::Gone(name) => self.drop_lease(&name.name),
                Change::Only(names) => {
                    let lease = |node: &String| format!("{}{node}", AGENT_LEASE);
                    let all: Vec<String> = self.agents.keys().map(lease).collect();
                    let is_there = |name: &String| names.iter().any(|listed| listed.name == *name);
                    all.iter().filter(|name| !is_there(name)).for_each(|name| self.drop_lease(name));
                }
                Change::Nothing => {}
            },
        }
    }

    /// Takes what the ConfigMap says; of one that cannot be read, what it said before holds.
    fn hear_conf(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Apply(map) | Event::InitApply(map) => {
                let text = map.data.unwrap_or_default().remove(CONF_KEY).unwrap_or_default();
                match Conf::parse(&text) {
                    Ok(conf) => self.conf = Some(conf),
                    Err(error) => tracing::warn!(error, "ConfigMap {CONF_NAME} cannot be read"),
                }
            }
            Event::Delete(_) => self.conf = Some(Conf::default()),
            Event::Init => {}
            Event::InitDone => drop(self.conf.get_or_insert_default()),
        }
    }

    /// The pools about which something has changed since this was last asked.
    pub fn take_dirty(&mut self) -> BTreeSet<String> {
        if std::mem::take(&mut self.is_declared_anew) {
            self.relate();
            self.dirty.extend(self.pools.keys().cloned());
        }
        std::mem::take(&mut self.dirty)
    }

    /// Notes that something about these pools may be different, such as how long ago an agent was heard of.
    pub fn mark(&mut self, pools: impl IntoIterator<Item = String>) {
        self.dirty.extend(pools);
    }

    /// The shards of a pool that belong to this very pool.
    pub fn shards_of<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = (&'a str, &'a Shard)> {
        let uid = pool.object.metadata.uid.as_deref().unwrap_or_default();
        let names = self.shards_of.get(pool.object.metadata.name.as_deref().unwrap_or_default());
        names
            .into_iter()
            .flatten()
            .filter_map(|name| Some((name.as_str(), self.shards.get(name)?)))
            .filter(move |(_, shard)| shard.pool_uid == uid)
    }

    /// What endpoints name of a pool.
    pub fn named(&self, pool: &str) -> &Named {
        static NOTHING: Named = Named::new();
        self.named.get(pool).unwrap_or(&NOTHING)
    }

    /// What the incarnations of a node hold, by shard.
    pub fn holdings_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (&'a Holder, &'a BTreeSet<String>)> {
        // A name that no node has sorts nowhere, and then nothing is held.
        let first = Holder::new(node, 1).ok();
        let from = first.into_iter().flat_map(|first| self.holdings.range(first..));
        from.take_while(move |(holder, _)| holder.node() == node)
    }

    /// The pools in which any incarnation of a node holds something.
    pub fn pools_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a String> {
        let shards = self.holdings_of(node).flat_map(|(_, shards)| shards);
        shards.filter_map(|shard| self.shards.get(shard)).map(|shard| &shard.pool)
    }

    fn put_pool(&mut self, mut object: SpiderIPPool) {
        object.metadata.annotations = None;
        let name = object.name_any();
        if let Some(known) = self.pools.get_mut(&name) {
            let same = known.object.spec == object.spec
                && known.object.metadata.uid == object.metadata.uid
                && known.object.metadata.deletion_timestamp == object.metadata.deletion_timestamp;
            if same {
                known.object = object;
                self.dirty.insert(name);
                return;
            }
        }
        let ranges = object.spec.ranges().map_err(|error| error.to_string());
        self.pools.insert(name, Pool { object, ranges, space: None, overlap: None, rival: None });
        self.is_declared_anew = true;
    }

    fn drop_pool(&mut self, name: &str) {
        self.pools.remove(name);
        self.is_declared_anew = true;
    }

    /// What follows for each pool from the others and from reservations.
    fn relate(&mut self) {
        let valid = |(_, pool): (&'_ String, &'_ Pool)| -> Option<(SpiderIPPool, PoolRanges)> {
            Some((pool.object.clone(), pool.ranges.as_ref().ok()?.clone()))
        };
        let valid: Vec<(SpiderIPPool, PoolRanges)> = self.pools.iter().filter_map(valid).collect();
        let mut lost = overlaps(valid.iter().map(|(pool, ranges)| (pool, ranges)));
        let mut defaults: Vec<&(SpiderIPPool, PoolRanges)> =
            valid.iter().filter(|(pool, _)| is_offered_to_all(pool)).collect();
        defaults.sort_by_cached_key(|(pool, _)| seniority(pool));
        let mut rivals = BTreeMap::new();
        for (index, (pool, ranges)) in defaults.iter().enumerate() {
            let older = defaults[..index].iter();
            let mut same = older.filter(|(other, of)| of.version == ranges.version && is_for_the_same(pool, other));
            if let Some((rival, _)) = same.next() {
                rivals.insert(pool.name_any(), rival.name_any());
            }
        }
        let mut reserved = AddressSet::default();
        for (first, last) in self.reserved.values().flat_map(AddressSet::iter) {
            reserved.insert_range(first, last);
        }
        for (name, pool) in &mut self.pools {
            pool.overlap = lost.remove(name);
            pool.rival = rivals.remove(name);
            let lost = pool.overlap.as_ref().map(|overlap| overlap.lost.as_slice()).unwrap_or_default();
            pool.space = pool.ranges.as_ref().ok().map(|ranges| Space::of(ranges, &reserved, lost));
        }
    }

    fn put_shard(&mut self, object: &SpiderIPShard) {
        let name = object.name_any();
        self.drop_shard(&name);
        let Some(shard) = Shard::of(object) else {
            tracing::warn!(shard = name, "the window of this shard is unclear: delete it if no agent has written it");
            return;
        };
        for holder in &shard.holders {
            self.holdings.entry(holder.clone()).or_default().insert(name.clone());
        }
        self.dirty.insert(shard.pool.clone());
        self.shards_of.entry(shard.pool.clone()).or_default().insert(name.clone());
        self.shards.insert(name, shard);
    }

    fn drop_shard(&mut self, name: &str) {
        let Some(shard) = self.shards.remove(name) else { return };
        for holder in &shard.holders {
            if let Some(shards) = self.holdings.get_mut(holder) {
                shards.remove(name);
                if shards.is_empty() {
                    self.holdings.remove(holder);
                }
            }
        }
        if let Some(names) = self.shards_of.get_mut(&shard.pool) {
            names.remove(name);
            if names.is_empty() {
                self.shards_of.remove(&shard.pool);
            }
        }
        self.dirty.insert(shard.pool);
    }

    fn put_reserved(&mut self, object: &SpiderReservedIP) {
        // One that is not valid reserves nothing, and the API server lets none in that names no addresses.
        let ranges = object.spec.ranges().unwrap_or_default();
        self.reserved.insert(object.name_any(), AddressSet::from_ranges(ranges));
        self.is_declared_anew = true;
    }

    fn drop_reserved(&mut self, name: &str) {
        self.reserved.remove(name);
        self.is_declared_anew = true;
    }

    fn put_node(&mut self, node: TaintedNode) {
        let name = node.name_any();
        let taints = node.spec.taints.unwrap_or_default();
        let is_out_of_service = taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
        let node = Node { labels: node.metadata.labels.unwrap_or_default(), is_out_of_service };
        let is_new = self.nodes.get(&name).is_none_or(|known| known.labels != node.labels);
        self.nodes.insert(name, node);
        if is_new {
            self.dirty.extend(self.pools.keys().cloned());
        }
    }

    fn drop_node(&mut self, name: &str) {
        if self.nodes.remove(name).is_some() {
            self.dirty.extend(self.pools.keys().cloned());
        }
    }

    fn put_lease(&mut self, lease: &Lease, now: Moment) {
        let Some(node) = Agent::node_of(lease) else { return };
        let before = self.agents.get(&node);
        let agent = Agent::of(lease, before, now);
        let is_back = before.is_none_or(|before| !before.is_fresh(now));
        if before.is_none() {
            // One node more shares the pools.
            self.dirty.extend(self.pools.keys().cloned());
        } else if is_back {
            let pools: Vec<String> = self.pools_of(&node).cloned().collect();
            self.dirty.extend(pools);
        }
        self.agents.insert(node, agent);
    }

    fn drop_lease(&mut self, name: &str) {
        let Some(node) = name.strip_prefix(AGENT_LEASE) else { return };
        if self.agents.remove(node).is_some() {
            self.dirty.extend(self.pools.keys().cloned());
        }
    }
}

fn missing<'a>(known: impl Iterator<Item = &'a String>, listed: &BTreeSet<Name>) -> Vec<String> {
    let is_listed = |name: &String| listed.contains(&Name { namespace: String::new(), name: name.clone() });
    known.filter(|name| !is_listed(name)).cloned().collect()
}

/// Whether pods that ask for no pool may get this one.
fn is_offered_to_all(pool: &SpiderIPPool) -> bool {
    pool.spec.default && !pool.spec.disable && pool.metadata.deletion_timestamp.is_none()
}

fn is_for_the_same(one: &SpiderIPPool, other: &SpiderIPPool) -> bool {
    let (one, other) = (&one.spec, &other.spec);
    one.pod_affinity == other.pod_affinity
        && one.namespace_affinity == other.namespace_affinity
        && one.namespace_name == other.namespace_name
        && one.node_affinity == other.node_affinity
        && one.node_name == other.node_name
        && one.multus_name == other.multus_name
}
