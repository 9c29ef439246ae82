//! What `dragline get` and `dragline status` show: custom resources as they would stand in the cluster, and records.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use schemas::crd::ippool::{PoolIpUser, SpiderIPPoolStatus};
use schemas::history::{HistoryEntry, HistoryEvent};
use schemas::intent::Attachment;
use schemas::wire::{GetCall, Kind, StatusReport};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::call::pod_name;
use crate::{endpoint, node, readiness};

/// The objects of a kind, sorted by name.
///
/// # Errors
/// When the store cannot be read.
pub fn objects(agent: &Agent, call: &GetCall) -> Result<Vec<Value>, String> {
    let all = match call.kind {
        Kind::Ippools => pools(agent),
        Kind::Endpoints => endpoints(agent),
        Kind::Attachments => attachments(agent),
        Kind::Leases => leases(agent),
        Kind::Coordinator => coordinator(agent),
        Kind::Journal => return journal(agent, call),
    };
    let text = |value: &Value, key: &str| value["metadata"][key].as_str().map(ToOwned::to_owned);
    Ok(all
        .into_iter()
        .filter(|object| call.name.is_none() || text(object, "name") == call.name)
        .filter(|object| call.namespace.is_none() || text(object, "namespace") == call.namespace)
        .collect())
}

fn pools(agent: &Agent) -> Vec<Value> {
    let mut users: BTreeMap<String, BTreeMap<String, PoolIpUser>> = BTreeMap::new();
    for allocation in agent.ledger.allocations() {
        let pod = agent
            .ledger
            .sandbox(&allocation.owner.container)
            .as_ref()
            .and_then(|records| records.attachments.get(&allocation.owner.ifname))
            .map(|attachment| attachment.pod.clone())
            .unwrap_or_default();
        let user = PoolIpUser { pod: pod.to_string(), pod_uid: pod.uid };
        users.entry(allocation.pool).or_default().insert(allocation.address.to_string(), user);
    }
    let none = BTreeMap::new();
    let catalogue = agent.catalogue();
    let with_status = catalogue.pools.iter().map(|(name, pool)| {
        let total = agent.ledger.counts(name).map_or(0, |counts| counts.total);
        let total = i64::try_from(total).unwrap_or(i64::MAX);
        let mut object = pool.object.clone();
        object.spec.ip_version = Some(pool.ranges.version);
        // In a cluster the controller's numbers are of all nodes.
        let counts = agent.cluster.as_ref().map(|cluster| cluster.counted.of(name));
        if let Some(counts) = counts.filter(|counts| counts.allocated.is_some()) {
            let status = object.status.get_or_insert_default();
            status.total_ip_count = counts.total;
            status.allocated_ip_count = counts.allocated;
            status.leased_ip_count = counts.leased;
        } else {
            object.status = Some(SpiderIPPoolStatus::of(total, users.get(name).unwrap_or(&none)));
        }
        json!(object)
    });
    with_status.collect()
}

fn endpoints(agent: &Agent) -> Vec<Value> {
    let object = |((namespace, name), endpoint): ((String, String), endpoint::Endpoint)| {
        json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1",
            "kind": "SpiderEndpoint",
            "metadata": {"namespace": namespace, "name": name},
            "status": endpoint.status,
        })
    };
    endpoint::all(agent).into_iter().map(object).collect()
}

fn attachments(agent: &Agent) -> Vec<Value> {
    let sandboxes = agent.ledger.sandboxes();
    let of_sandbox = |records: &std::sync::Arc<crate::ledger::SandboxRecords>| -> Vec<Value> {
        // The last pass may not have been written down yet; after a restart the record is all there is.
        let last = agent.workers.outcome(&records.sandbox.container).borrow().clone();
        let recorded = &records.sandbox.outcome;
        let outcome = if last.generation >= recorded.generation { &last } else { recorded };
        let as_value = |attachment: Attachment| {
            let is_converged = outcome.generation >= attachment.generation && outcome.error.is_empty();
            let state = match (attachment.is_withdrawn() || attachment.closing, is_converged) {
                (true, _) => "Withdrawn",
                (false, _) if attachment.prepared => "Prepared",
                (false, true) => "Converged",
                (false, false) => "Pending",
            };
            json!({
                "metadata": {"namespace": attachment.pod.namespace, "name": attachment.key.to_string()},
                "netns": records.sandbox.netns,
                "state": state,
                "outcome": outcome,
                "attachment": attachment,
            })
        };
        records.by_ordinal().into_iter().map(as_value).collect()
    };
    sandboxes.iter().flat_map(of_sandbox).collect()
}

fn leases(agent: &Agent) -> Vec<Value> {
    let catalogue = agent.catalogue();
    let occupied = agent.ledger.occupied();
    let time = |ms: u64| store::dump::time_text(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    let of_pool = |(name, pool): (&String, &crate::catalogue::Pool)| {
        let counts = agent.ledger.counts(name).unwrap_or_default();
        let (held, stretches) = match &agent.cluster {
            None => (counts.total, pool.ranges.usable()),
            Some(_) => {
                let held = agent.ledger.held(name);
                (held.len(), held.iter().collect())
            }
        };
        let range = |(first, last): &(IpAddr, IpAddr)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let ranges: Vec<String> = stretches.iter().map(range).collect();
        let own = occupied.iter().filter(|(_, occupant)| occupant.pool == *name);
        let quarantined: Vec<Value> = own
            .map(|(address, occupant)| {
                json!({"address": address, "mac": occupant.mac, "since": time(occupant.since_ms), "until": time(occupant.until_ms())})
            })
            .collect();
        json!({
            "metadata": {"name": name},
            "node": agent.config.node_name,
            "ranges": ranges,
            "held": held.to_string(),
            "used": counts.used.to_string(),
            "releasing": counts.releasing.to_string(),
            "quarantined": quarantined.len().to_string(),
            "occupied": quarantined,
        })
    };
    catalogue.pools.iter().map(of_pool).collect()
}

fn coordinator(agent: &Agent) -> Vec<Value> {
    agent.catalogue().coordinator.iter().map(|found| with_condition(agent, json!(found.object))).collect()
}

/// With the condition of this node: how far what is declared has reached its pods.
fn with_condition(agent: &Agent, mut object: Value) -> Value {
    let (status, reason, message) = match (agent.rollout.stopped(), agent.rollout.behind()) {
        (Some(stopped), _) => ("False", "RolloutStopped", stopped.text()),
        (None, 0) => ("True", "AllPodsReached", String::new()),
        (None, behind) => ("False", "RollingOut", format!("{behind} pods still have what held before")),
    };
    let kind = format!("AppliedOn/{}", agent.config.node_name);
    let condition = json!({"type": kind, "status": status, "reason": reason, "message": message});
    object["status"]["conditions"] = json!([condition]);
    object
}

/// The most entries that are shown at once.
const SHOWN: usize = 1000;

/// History entries, the oldest first: all of a pod or container when one is named, else the newest ones.
fn journal(agent: &Agent, call: &GetCall) -> Result<Vec<Value>, String> {
    let wanted = |entry: &HistoryEntry| {
        let (namespace, name) = entry.pod.split_once('/').unwrap_or_default();
        let is_named = call.name.as_deref().is_none_or(|wanted| wanted == name || wanted == entry.container.as_str());
        is_named && call.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
    };
    let mut entries = agent.ledger.store().history().map_err(|error| error.to_string())?;
    entries.retain(wanted);
    entries.sort_by(|a, b| (a.time_ms, &a.container, a.number).cmp(&(b.time_ms, &b.container, b.number)));
    Ok(entries[entries.len().saturating_sub(SHOWN)..].iter().map(journal_entry).collect())
}

fn journal_entry(entry: &HistoryEntry) -> Value {
    let (namespace, name) = entry.pod.split_once('/').unwrap_or_default();
    let (event, ifname, detail) = match &entry.event {
        HistoryEvent::Intended { ifname, wanted } => ("Intended", Some(ifname), vec![wanted.clone()]),
        HistoryEvent::Withdrawn { ifname } => ("Withdrawn", Some(ifname), Vec::new()),
        HistoryEvent::Applied { steps } => ("Applied", None, steps.clone()),
        HistoryEvent::Repaired { steps } => ("Repaired", None, steps.clone()),
        HistoryEvent::Failed { error } => ("Failed", None, vec![error.clone()]),
        HistoryEvent::Ended => ("Ended", None, Vec::new()),
    };
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(entry.time_ms);
    json!({
        "metadata": {"namespace": namespace, "name": if name.is_empty() { entry.container.as_str() } else { name }},
        "container": entry.container,
        "number": entry.number,
        "time": store::dump::time_text(time),
        "generation": entry.generation,
        "event": event,
        "interface": ifname,
        "detail": detail.join("; "),
    })
}

/// The agent's state.
pub fn status(agent: &Agent) -> StatusReport {
    let reasons = readiness::missing(agent, None);
    let mut warnings = agent.record_faults.clone();
    warnings.extend(agent.catalogue().faults.iter().cloned());
    for address in agent.ledger.estranged() {
        warnings.push(format!(
            "address {address} is in use in a network namespace and no record tells by whom: it is not given to anybody"
        ));
    }
    warnings.extend(agent.borrowed.weakened(&node::wanted(agent)));
    warnings.extend(agent.rollout.stopped().map(|stopped| stopped.text()));
    warnings.extend(agent.ledger.occupied().iter().map(|(address, occupant)| occupant.text(*address)));
    warnings.extend(agent.findings.unreachable_gateways(agent));
    for container in agent.workers.contested() {
        warnings
            .push(format!("another program keeps changing the routes of sandbox {container}: repairs are slowed down"));
    }
    if agent.node.is_contested() {
        warnings.push(
            "another program keeps changing the rules, routes or neighbours on the node: repairs are slowed down"
                .into(),
        );
    }
    for records in agent.ledger.sandboxes() {
        let planned = agent.workers.planned(&records.sandbox.container);
        let notes = planned.iter().flat_map(|plan| &plan.notes);
        warnings.extend(notes.map(|note| format!("{}: {note}", pod_name(&records))));
        let outcome = agent.workers.outcome(&records.sandbox.container).borrow().clone();
        if !outcome.error.is_empty() {
            warnings.push(format!("{} is not as wanted: {}", pod_name(&records), outcome.error));
        }
    }
    if let Some(cluster) = &agent.cluster {
        if !cluster.is_synced() {
            warnings.push(
                "the API server has not answered since the start: what was last seen of the cluster holds".into(),
            );
        }
        if let Err(reason) = cluster.standing().may_give(agent.kernel.boot_id(), cluster.config.lease_ttl) {
            warnings.push(format!("no new addresses are given: {reason}"));
        }
    }
    if !agent.node.hears_all_namespaces() {
        warnings.push("events of pods are not heard: grant CAP_NET_BROADCAST".into());
    }
    StatusReport {
        ready: reasons.is_empty(),
        reasons,
        version: env!("CARGO_PKG_VERSION").into(),
        node: agent.config.node_name.clone(),
        sandboxes: agent.ledger.len() as u64,
        unconverged: agent.workers.unconverged() as u64,
        allocated: agent.ledger.allocated() as u64,
        warnings,
    }
}
