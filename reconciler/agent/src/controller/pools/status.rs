//! What the status of a pool should say, and the patch that makes it say so. Nothing is done here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use schemas::crd::ippool::{PoolIpUser, SpiderIPPoolStatus};
use schemas::slot::Holder;
use serde_json::{Map, Value, json};

use super::agents::Moment;
use super::cluster::{Cluster, Pool};
use super::conditions::{Finding, renew};
use super::reasons::{Reason, Told};
use super::share::{Room, SETTLE, fair_share};
use super::space::Space;
use super::tally::{Named, Tally, tally};
use crate::controller::subnets::naming::{PENDING, WITHDRAWN};
use crate::selector::selects;

/// With more allocations than this `allocatedIPs` is absent: every agent would be sent the text for every change.
const LISTED: usize = 1000;
/// As many silent nodes are named in a message.
const NAMED: usize = 3;

/// What is remembered of a pool from one time to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// When its fair share was last made smaller.
    fallen: Option<Instant>,
}

/// What is to be said of a pool.
#[derive(Debug, Default)]
pub struct Verdict {
    /// A merge patch of its status; None when it says all this already.
    pub patch: Option<Value>,
    /// What has just become worth an Event.
    pub told: Vec<Told>,
    /// In how much time to look again although nothing else happens.
    pub again: Option<Duration>,
}

/// Of the nodes that hold addresses of a pool, those that are not heard of.
#[derive(Debug, Default)]
struct Silent {
    /// Each with the time of its last word.
    nodes: BTreeMap<String, Option<Timestamp>>,
    /// When the next of the others will count as silent.
    next: Option<Duration>,
}

/// Decides about one pool.
pub fn decide(cluster: &Cluster, name: &str, memory: &mut Memory, now: Moment) -> Verdict {
    let Some(pool) = cluster.pools.get(name) else { return Verdict::default() };
    let observed = pool.object.status.clone().unwrap_or_default();
    let mut desired = observed.clone();
    let mut findings = vec![validity(pool)];
    let mut again = None;
    if let Some(space) = &pool.space {
        let silent = silent(cluster, pool, now);
        let named = cluster.named(name);
        let tally = tally(space, cluster.shards_of(pool), named, |node| silent.nodes.contains_key(node));
        desired.total_ip_count = Some(tally.total);
        desired.allocated_ip_count = Some(tally.used);
        desired.leased_ip_count = Some(tally.leased);
        desired.allocated_ips = users(cluster, space, named);
        let room = Room {
            givable: tally.givable,
            busy: tally.busy,
            nodes: nodes_of(cluster, pool),
            is_wanted: !observed.waiting.is_empty() || gives_nothing(pool) || is_wanted_back(pool),
        };
        desired.fair_share = Some(fair_share(observed.fair_share, room, &mut memory.fallen, now.steady));
        // A rise that is held back comes when the time is over.
        let settled = memory.fallen.map(|since| SETTLE.saturating_sub(now.steady.saturating_duration_since(since)));
        again = settled.filter(|rest| !rest.is_zero()).into_iter().chain(silent.next).min();
        findings.extend(conditions_of(pool, &observed, &tally, &silent));
    }
    let (conditions, alarms) = renew(&observed.conditions, findings, pool.object.metadata.generation, now.wall);
    desired.conditions = conditions;
    let told =
        alarms.into_iter().map(|(reason, note)| Told { pool: name.to_owned(), reason, node: None, note }).collect();
    Verdict { patch: patch(&observed, &desired), told, again }
}

/// No address of it goes to anybody, so nobody needs any in reserve.
fn gives_nothing(pool: &Pool) -> bool {
    pool.object.spec.disable || pool.object.metadata.deletion_timestamp.is_some()
}

/// It is to have fewer addresses, and nodes hold some that they do not need.
fn is_wanted_back(pool: &Pool) -> bool {
    pool.object.metadata.labels.as_ref().and_then(|labels| labels.get(WITHDRAWN)).is_some_and(|label| label == PENDING)
}

/// How many nodes with an agent may use the pool.
fn nodes_of(cluster: &Cluster, pool: &Pool) -> usize {
    let spec = &pool.object.spec;
    let agents = cluster.agents.keys();
    if !spec.node_name.is_empty() {
        return agents.filter(|node| spec.node_name.contains(node)).count();
    }
    let fits = |node: &&String| {
        let Some(known) = cluster.nodes.get(*node) else { return false };
        // A selector that cannot be read selects no node.
        spec.node_affinity.as_ref().is_none_or(|selector| selects(selector, &known.labels).unwrap_or(false))
    };
    agents.filter(fits).count()
}

fn silent(cluster: &Cluster, pool: &Pool, now: Moment) -> Silent {
    let mut silent = Silent::default();
    let holders: BTreeSet<&str> =
        cluster.shards_of(pool).flat_map(|(_, shard)| &shard.holders).map(Holder::node).collect();
    for node in holders {
        let agent = cluster.agents.get(node);
        match agent.and_then(|agent| agent.silent_in(now)) {
            Some(rest) => silent.next = Some(silent.next.map_or(rest, |next| next.min(rest))),
            None => {
                silent.nodes.insert(node.to_owned(), agent.and_then(|agent| agent.renewed));
            }
        }
    }
    // Just past it, when it is no longer heard of.
    silent.next = silent.next.map(|rest| rest + Duration::from_millis(1));
    silent
}

/// The text of `allocatedIPs`.
fn users(cluster: &Cluster, space: &Space, named: &Named) -> Option<String> {
    let mut users = BTreeMap::new();
    for (number, name) in named {
        if !space.all.contains(*number) {
            continue;
        }
        let Some(endpoint) = cluster.endpoints.get(name) else { continue };
        let pod = PoolIpUser { pod: format!("{}/{}", name.namespace, name.name), pod_uid: endpoint.pod_uid.clone() };
        // Of two that name an address the one whose pod is there.
        if !cluster.orphans.contains_key(name) || !users.contains_key(number) {
            users.insert(*number, pod);
        }
        if users.len() > LISTED {
            return None;
        }
    }
    let users = users.into_iter().map(|(number, user)| (space.address(number).to_string(), user)).collect();
    SpiderIPPoolStatus::of(0, &users).allocated_ips
}

fn validity(pool: &Pool) -> Finding {
    Finding {
        kind: "Valid",
        is_true: pool.ranges.is_ok(),
        reason: if pool.ranges.is_ok() { "SpecValid" } else { "SpecInvalid" },
        message: pool.ranges.as_ref().err().cloned().unwrap_or_else(|| "the pool can be used".into()),
        alarm: (false, Reason::PoolInvalid),
        is_always_there: true,
    }
}

fn conditions_of(pool: &Pool, observed: &SpiderIPPoolStatus, tally: &Tally, silent: &Silent) -> Vec<Finding> {
    let waiting = observed.waiting.len();
    let numbers = format!("{} of {} addresses are in use", tally.busy, tally.givable);
    let (is_exhausted, reason, message) = match () {
        () if waiting > 0 => (true, "NodesWait", format!("{numbers}, {waiting} nodes wait for one")),
        () if tally.givable == 0 => (true, "NoAddresses", "there is no address that the pool may give".into()),
        () if tally.busy >= tally.givable => (true, "AllInUse", numbers),
        () => (false, "AddressesLeft", "addresses are left".into()),
    };
    let finding = |kind, is_true, reason, message, alarm, is_always_there| Finding {
        kind,
        is_true,
        reason,
        message,
        alarm,
        is_always_there,
    };
    let optional = |kind, found: Option<String>, reasons: (&'static str, &'static str), alarm| {
        let is_true = found.is_some();
        let reason = if is_true { reasons.0 } else { reasons.1 };
        finding(kind, is_true, reason, found.unwrap_or_default(), (true, alarm), false)
    };
    let outside = (tally.outside > 0).then(|| {
        format!(
            "{} addresses that pods have are no longer in the pool; they stay in use until the pods end, or are put back \
             into spec.ips",
            tally.outside
        )
    });
    let unclear = tally.unclear.as_ref().map(|slot| {
        format!("the text of SpiderIPShard slot {slot} is unclear; its addresses count as in use until it is corrected")
    });
    let rival = pool.rival.as_ref().map(|rival| {
        format!(
            "SpiderIPPool {rival} is default for the same pods, too; take default from one, or give them affinities"
        )
    });
    vec![
        finding("Exhausted", is_exhausted, reason, message, (true, Reason::PoolExhausted), true),
        freshness(tally, silent),
        optional(
            "Overlapping",
            pool.overlap.as_ref().map(|overlap| overlap.text.clone()),
            ("OlderPool", "NoOverlap"),
            Reason::PoolOverlap,
        ),
        optional("DefaultConflict", rival, ("OlderDefault", "NoConflict"), Reason::PoolDefaultConflict),
        optional("InUseOutside", outside, ("AddressesRemoved", "AllInside"), Reason::PoolAddressesInUse),
        optional("SlotsUnclear", unclear, ("TextUnclear", "AllClear"), Reason::PoolSlotUnclear),
    ]
}

/// Whether the counts are what agents have said lately. The message names times, not ages, which would change it forever.
fn freshness(tally: &Tally, silent: &Silent) -> Finding {
    let is_fresh = silent.nodes.is_empty();
    let mut oldest: Vec<(&String, &Option<Timestamp>)> = silent.nodes.iter().collect();
    oldest.sort_by_key(|(_, heard)| **heard);
    let named: Vec<String> = oldest
        .iter()
        .take(NAMED)
        .map(|(node, heard)| match heard {
            Some(time) => format!("{node} since {}", time.strftime("%Y-%m-%dT%H:%M:%SZ")),
            None => format!("{node}, which has no Lease"),
        })
        .collect();
    let more = oldest.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let message = if is_fresh {
        "every node that holds addresses is heard of".into()
    } else {
        format!(
            "not heard of: {}{more}; the {} addresses that they hold count as in use",
            named.join(", "),
            tally.unheard
        )
    };
    Finding {
        kind: "CountsFresh",
        is_true: is_fresh,
        reason: if is_fresh { "AllHeard" } else { "NodesSilent" },
        message,
        alarm: (false, Reason::PoolCountsStale),
        is_always_there: true,
    }
}

/// The difference as a merge patch of the fields that are the controller's. The counts go together: no reader ever sees
/// more in use than held, or more held than there are.
fn patch(observed: &SpiderIPPoolStatus, desired: &SpiderIPPoolStatus) -> Option<Value> {
    let counts =
        |status: &SpiderIPPoolStatus| (status.total_ip_count, status.allocated_ip_count, status.leased_ip_count);
    let mut changed = Map::new();
    if counts(observed) != counts(desired) {
        let (total, used, leased) = counts(desired);
        changed.insert("totalIPCount".into(), json!(total));
        changed.insert("allocatedIPCount".into(), json!(used));
        changed.insert("leasedIPCount".into(), json!(leased));
    }
    if observed.allocated_ips != desired.allocated_ips {
        changed.insert("allocatedIPs".into(), json!(desired.allocated_ips));
    }
    if observed.fair_share != desired.fair_share {
        changed.insert("fairShare".into(), json!(desired.fair_share));
    }
    if observed.conditions != desired.conditions {
        changed.insert("conditions".into(), json!(desired.conditions));
    }
    (!changed.is_empty()).then(|| json!({ "status": changed }))
}
