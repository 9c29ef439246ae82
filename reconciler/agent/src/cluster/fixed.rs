//! Addresses of pods with an identity: which ones a pod that has been bound to this node is to have again, by the
//! SpiderEndpoint of its identity, so that they are claimed before its ADD comes.
//!
//! An address that is kept is recorded as such before it is claimed, and for as long as the node has to do with it: what
//! is on its way when the agent stops is its owner's still.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use kube::Client;
use kube::api::Api;
use plan::lease::tenant;
use schemas::crd::SpiderEndpoint;
use schemas::intent::PodRef;
use schemas::reservation::Reservation;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::State;
use super::incarnation::spread;
use crate::agent::Agent;
use crate::catalogue::{Catalogue, Owner};
use crate::identity::{self, Identity};
use crate::kept::KeptFor;

/// Endpoints asked for at once.
const AT_ONCE: usize = 8;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// After one that failed.
const RETRY: Duration = Duration::from_secs(2);
/// What was read is not doubted before it is so old.
const RECENT: Duration = Duration::from_secs(5);

/// A pod of the node, by namespace and name.
type Key = (String, String);

/// An address that an endpoint names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The interface.
    pub ifname: String,
    /// The pool.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
}

/// What the endpoint of a pod's identity said.
#[derive(Debug, Clone)]
pub struct Known {
    /// The pod for which it was asked.
    uid: String,
    /// The node of the identity's last pod.
    pub node: String,
    /// What that one had.
    pub named: Vec<Named>,
    read: Instant,
    /// Since when somebody else has had an address that it names.
    pub blocked: Option<Instant>,
}

/// What is known of the node's pods.
#[derive(Default)]
pub struct Fixed {
    known: Mutex<BTreeMap<Key, Known>>,
    wanted: Mutex<BTreeSet<Key>>,
    asked: Notify,
}

impl Fixed {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pod is to have again; None when that is not known yet, and is being asked for.
    pub fn of(&self, pod: &PodRef) -> Option<Known> {
        let key = (pod.namespace.clone(), pod.name.clone());
        let found = self.known().get(&key).filter(|known| known.uid == pod.uid).cloned();
        if found.is_none() {
            self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
            self.asked.notify_one();
        }
        found
    }

    /// Somebody else has what the pod is to have: what was read of it is read again.
    pub fn doubt(&self, pod: &PodRef) {
        let key = (pod.namespace.clone(), pod.name.clone());
        let mut all = self.known();
        let Some(known) = all.get_mut(&key) else { return };
        known.blocked.get_or_insert_with(Instant::now);
        if known.read.elapsed() >= RECENT {
            self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
            self.asked.notify_one();
        }
    }
}

/// A pod whose identity's endpoint is to be read.
struct Wanted {
    key: Key,
    uid: String,
    identity: Identity,
    kind: String,
}

/// Keeps it for as long as the agent runs.
pub(super) async fn keep(agent: Arc<Agent>) {
    let Some(cluster) = &agent.cluster else { return };
    let mut version = agent.ledger.version();
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        let changed = cluster.changed();
        version.mark_unchanged();
        let has_failed = look(&agent, cluster).await;
        let retry = async {
            match has_failed {
                true => tokio::time::sleep(spread(RETRY)).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            changed = version.changed() => if changed.is_err() { return },
            () = cluster.fixed.asked.notified() => {}
            () = retry => {}
            () = &mut stopping => return,
        }
    }
}

/// Reads what is to be read, and has recorded what is to be claimed; true when some of it failed.
async fn look(agent: &Arc<Agent>, cluster: &State) -> bool {
    let catalogue = agent.catalogue();
    let have = keep_used(agent, &catalogue).await;
    let wanted = wanted(agent, cluster, &catalogue, &have);
    let client = &cluster.client;
    let read: Vec<(Wanted, Result<Option<SpiderEndpoint>, String>)> = stream::iter(wanted)
        .map(|wanted| async move {
            let found = read(client, &wanted.identity).await;
            (wanted, found)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut has_failed = false;
    let mut has_read = false;
    for (wanted, found) in read {
        match found {
            Ok(endpoint) => {
                has_read = true;
                let mut all = cluster.fixed.known();
                let blocked = all.get(&wanted.key).filter(|known| known.uid == wanted.uid);
                let blocked = blocked.and_then(|known| known.blocked);
                let known = Known { blocked, ..known(endpoint, &wanted) };
                all.insert(wanted.key, known);
            }
            Err(error) => {
                let (namespace, name) = (&wanted.identity.namespace, &wanted.identity.name);
                tracing::warn!(namespace, name, error, "which addresses the pod had before cannot be read");
                cluster.fixed.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.key);
                has_failed = true;
            }
        }
    }
    has_failed |= keep_named(agent, cluster, &catalogue, &have).await;
    if has_read {
        // Who was told that it is not known yet looks again.
        agent.ledger.wake();
    }
    has_failed
}

/// Pods whose endpoints have not been read, of those that have no address yet, or that were asked for.
fn wanted(agent: &Agent, cluster: &State, catalogue: &Catalogue, have: &BTreeSet<(Key, String)>) -> Vec<Wanted> {
    let asked = std::mem::take(&mut *cluster.fixed.wanted.lock().unwrap_or_else(PoisonError::into_inner));
    let mut known = cluster.fixed.known();
    known.retain(|key, known| catalogue.pods.get(key).is_some_and(|pod| pod.uid == known.uid));
    let living = catalogue.pods.iter().filter(|(_, marks)| !marks.is_terminating && !marks.uid.is_empty());
    let mut found = Vec::new();
    for (key, marks) in living {
        let has_any = have.range((key.clone(), String::new())..).next().is_some_and(|(other, _)| other == key);
        let is_wanted = asked.contains(key) || (!known.contains_key(key) && !has_any);
        let Some(owner) = marks.owner.as_ref().filter(|_| is_wanted) else { continue };
        if let Some(identity) = Identity::of_marks(&catalogue.conf, &key.0, &key.1, marks) {
            found.push(Wanted { key: key.clone(), uid: marks.uid.clone(), identity, kind: owner.kind.clone() });
        }
    }
    tracing::trace!(node = agent.config.node_name, wanted = found.len(), "endpoints of identities to be read");
    found
}

async fn read(client: &Client, identity: &Identity) -> Result<Option<SpiderEndpoint>, String> {
    let api: Api<SpiderEndpoint> = Api::namespaced(client.clone(), &identity.namespace);
    match tokio::time::timeout(PATIENCE, api.get_opt(&identity.name)).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

fn known(endpoint: Option<SpiderEndpoint>, wanted: &Wanted) -> Known {
    let status = endpoint.and_then(|endpoint| endpoint.status);
    // One of another kind's pod that had the same name says nothing.
    let status = status.filter(|status| status.owner_controller_type == wanted.kind);
    let address = |text: &str| text.split('/').next().and_then(|text| text.parse::<IpAddr>().ok());
    let ips = status.iter().flat_map(|status| &status.current.ips);
    let named = ips.flat_map(|nic| {
        let families = [(&nic.ipv4_pool, &nic.ipv4), (&nic.ipv6_pool, &nic.ipv6)];
        families.into_iter().filter_map(|(pool, text)| {
            let (pool, address) = (pool.clone()?, address(text.as_deref()?)?);
            Some(Named { ifname: nic.interface.clone(), pool, address })
        })
    });
    Known {
        uid: wanted.uid.clone(),
        named: named.collect(),
        node: status.map(|status| status.current.node).unwrap_or_default(),
        read: Instant::now(),
        blocked: None,
    }
}

/// What pods with an identity use is kept for them, whoever gave it to them; which interfaces have addresses.
async fn keep_used(agent: &Agent, catalogue: &Catalogue) -> BTreeSet<(Key, String)> {
    let kept = agent.ledger.kept();
    let mut have = BTreeSet::new();
    for records in catalogue.pods.keys().flat_map(|(namespace, name)| agent.ledger.of_pod(namespace, name)) {
        for attachment in records.attachments.values().filter(|attachment| attachment.allocated) {
            let ifname = attachment.key.ifname.to_string();
            let pod = &attachment.pod;
            for assigned in attachment.addresses.iter().filter(|assigned| !assigned.pool.is_empty()) {
                let address = assigned.address.ip();
                if kept.contains_key(&address) || !agent.ledger.is_owner(address, &attachment.key) {
                    continue;
                }
                let Some(identity) = Identity::of(catalogue, pod) else { continue };
                let owner = identity.reservation(&ifname).to_string();
                let wanted = KeptFor { pool: assigned.pool.clone(), owner };
                if let Err(error) = agent.ledger.keep(address, wanted).await {
                    tracing::error!(%address, %error, "it cannot be recorded for whom this address is kept");
                }
            }
            have.insert(((pod.namespace.clone(), pod.name.clone()), ifname));
        }
    }
    have
}

/// Has recorded what pods without addresses are to have again; true when that failed.
async fn keep_named(agent: &Agent, cluster: &State, catalogue: &Catalogue, have: &BTreeSet<(Key, String)>) -> bool {
    let known: Vec<(Key, Known)> =
        cluster.fixed.known().iter().map(|(key, known)| (key.clone(), known.clone())).collect();
    let mut has_failed = false;
    for (key, known) in known {
        let Some(marks) = catalogue.pods.get(&key).filter(|marks| !marks.is_terminating && marks.uid == known.uid)
        else {
            continue;
        };
        let Some(identity) = Identity::of_marks(&catalogue.conf, &key.0, &key.1, marks) else { continue };
        for named in known.named {
            let is_due = !have.contains(&(key.clone(), named.ifname.clone()))
                && agent.ledger.is_usable(&named.pool, named.address);
            if !is_due {
                continue;
            }
            let owner = identity.reservation(&named.ifname).to_string();
            if let Err(error) = agent.ledger.keep(named.address, KeptFor { pool: named.pool, owner }).await {
                tracing::error!(address = %named.address, %error, "it cannot be recorded for whom this address is kept");
                has_failed = true;
            }
        }
    }
    has_failed
}

/// What a pool's tenant is to know: for whom its addresses are kept, and whose pods are here.
pub(super) fn kept_of(agent: &Agent, pool: &str) -> BTreeMap<IpAddr, tenant::Kept> {
    let kept = agent.ledger.kept_of(pool);
    if kept.is_empty() {
        return BTreeMap::new();
    }
    let is_present = presence(agent);
    let kept = kept.into_iter().map(|(address, kept)| {
        let is_awaited = is_present(&kept.owner);
        (address, tenant::Kept { owner: kept.owner, is_awaited })
    });
    kept.collect()
}

/// Whether an owner's pod is bound to this node. Nobody is said to be gone before the cluster has been listed.
fn presence(agent: &Agent) -> impl Fn(&str) -> bool + use<> {
    let is_synced = agent.cluster.as_ref().is_none_or(State::is_synced);
    let present = identity::present(&agent.catalogue());
    move |owner: &str| {
        let Ok(Reservation { namespace, name, .. }) = owner.parse::<Reservation>() else { return false };
        !is_synced || present.contains(&Identity { namespace, name })
    }
}

/// Forgets, of these addresses of a pool that are not the node's, those whose owners have no pod here.
pub(super) fn unkeep(agent: &Agent, pool: &str, addresses: &[IpAddr]) {
    let is_present = presence(agent);
    let held = agent.ledger.held(pool);
    agent.ledger.unkeep(|address, kept| {
        kept.pool == pool && addresses.contains(&address) && !held.contains(address) && !is_present(&kept.owner)
    });
}

/// The controller as an endpoint names it.
pub(super) fn owner_of(endpoint: &SpiderEndpoint) -> Owner {
    let (kind, name) = endpoint.status.as_ref().map_or_else(Default::default, |status| {
        (status.owner_controller_type.clone(), status.owner_controller_name.clone())
    });
    let noted = endpoint.metadata.annotations.as_ref().and_then(|all| all.get(identity::OWNER_API_VERSION));
    identity::endpoint_owner(noted, kind, name)
}
