//! SpiderEndpoints are kept as the store says: what differs is written, at a bounded rate, and nothing twice. What stands in
//! the API server is watched, so that a restart writes nothing that is there already, and what others change is put right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, ResourceExt};
use schemas::crd::SpiderEndpoint;
use schemas::crd::endpoint::SpiderEndpointSpec;
use schemas::intent::PodRef;
use serde_json::json;
use tokio::time::Instant;

use super::incarnation::spread;
use super::{fixed, lasting};
use crate::agent::Agent;
use crate::endpoint::{self, Endpoint};
use crate::identity::{Keeping, OWNER_API_VERSION};
use crate::kubernetes::FIELD_MANAGER;
use crate::selection;

/// A sandbox that is made anew gives its addresses back and takes them again: what lasts no longer is not written.
const SETTLE: Duration = Duration::from_millis(200);
/// A look is followed by so many times what it took.
const PART: u32 = 10;
/// Each write is followed by this pause: twenty a second.
const PAUSE: Duration = Duration::from_millis(50);
/// Writes on their way at once.
const AT_ONCE: usize = 4;
/// After a write that failed, the first and the longest wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

type Key = (String, String);

/// What stands in the API server, of this node.
#[derive(Default)]
struct Standing {
    known: BTreeMap<Key, SpiderEndpoint>,
    listing: BTreeMap<Key, SpiderEndpoint>,
    is_listed: bool,
}

impl Standing {
    fn take(&mut self, event: Event<SpiderEndpoint>) {
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(endpoint) => {
                self.listing.insert(key(&endpoint), endpoint);
            }
            Event::InitDone => {
                self.known = std::mem::take(&mut self.listing);
                self.is_listed = true;
            }
            Event::Apply(endpoint) => {
                self.known.insert(key(&endpoint), endpoint);
            }
            Event::Delete(endpoint) => {
                self.known.remove(&key(&endpoint));
            }
        }
    }
}

/// A write that is due.
enum Write {
    Put(Key, Box<Endpoint>, Option<Box<SpiderEndpoint>>),
    /// Of a pod that has gone before it was written: nothing that another node has written is replaced.
    Late(Key, Box<Endpoint>, Option<Box<SpiderEndpoint>>),
    Delete(Key, Box<SpiderEndpoint>),
}

/// Keeps them for as long as the agent runs.
pub(super) async fn keep(agent: Arc<Agent>) {
    let Some(cluster) = &agent.cluster else { return };
    let api: Api<SpiderEndpoint> = Api::all(cluster.client.clone());
    let fields = format!("status.current.node={}", agent.config.node_name);
    let mut events = watch(api, watcher::Config::default().fields(&fields))
        .default_backoff()
        .modify(|endpoint| endpoint.managed_fields_mut().clear())
        .boxed();
    let mut version = agent.ledger.version();
    let mut standing = Standing::default();
    // Pods whose addresses went back while this agent ran: their endpoints may go before the pods do.
    let mut was_wanted: BTreeSet<Key> = BTreeSet::new();
    // Of pods that keep their addresses, what is to stand when they have gone.
    let mut kept: BTreeMap<Key, Endpoint> = BTreeMap::new();
    let mut failures = 0_u32;
    let mut looked = Duration::ZERO;
    let mut retry_at: Option<Instant> = None;
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The ledger outlives this.
            changed = version.changed() => if changed.is_err() { return },
            event = events.next() => match event {
                Some(Ok(event)) => standing.take(event),
                Some(Err(error)) => {
                    tracing::warn!(%error, "SpiderEndpoints cannot be watched: apply the definitions of this version (dragline crds)");
                    continue;
                }
                None => return,
            },
            () = cluster.changed() => {}
            () = retry => retry_at = None,
            () = &mut stopping => return,
        }
        if retry_at.is_some() || !standing.is_listed || !cluster.is_synced() {
            continue;
        }
        // On a node with very many records a look takes long: it is to take a small part of the time.
        let settled = tokio::time::sleep(SETTLE.max(looked * PART));
        tokio::pin!(settled);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => standing.take(event),
                    Some(Err(error)) => tracing::warn!(%error, "SpiderEndpoints cannot be watched"),
                    None => return,
                },
                () = &mut settled => break,
            }
        }
        version.mark_unchanged();
        let began = Instant::now();
        let catalogue = agent.catalogue();
        let is_declared = |pod: &PodRef| selection::pod_marks(&catalogue, pod).is_some();
        let wanted = lasting::wanted(endpoint::all(&agent), &kept, &standing.known, is_declared);
        looked = began.elapsed();
        was_wanted.extend(wanted.keys().cloned());
        let mut writes = due(&agent, &wanted, &standing, &mut was_wanted).await;
        kept.extend(wanted.iter().filter(|(_, one)| one.is_kept).map(|(key, one)| (key.clone(), one.clone())));
        writes.extend(late(&mut kept, &wanted, &standing));
        if writes.is_empty() {
            failures = 0;
            continue;
        }
        let client = &cluster.client;
        let results: Vec<Result<Done, kube::Error>> = stream::iter(writes)
            .map(|write| async move {
                let result = carry_out(client, write).await;
                tokio::time::sleep(PAUSE).await;
                result
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut has_failed = false;
        for result in results {
            match result {
                // The watch says the same, later; until then nothing is written twice.
                Ok(Done::Stands(endpoint)) => {
                    agent.metrics.endpoint_writes.inc();
                    if !wanted.contains_key(&key(&endpoint)) {
                        kept.remove(&key(&endpoint));
                    }
                    standing.known.insert(key(&endpoint), *endpoint);
                }
                Ok(Done::Gone(key)) => {
                    agent.metrics.endpoint_writes.inc();
                    kept.remove(&key);
                    standing.known.remove(&key);
                }
                Err(error) => {
                    tracing::warn!(%error, "a SpiderEndpoint cannot be written");
                    has_failed = true;
                }
            }
        }
        failures = if has_failed { failures + 1 } else { 0 };
        if has_failed {
            let wait = (BACKOFF.0 * (1 << failures.min(6))).min(BACKOFF.1);
            retry_at = Some(Instant::now() + spread(wait));
        }
    }
}

/// What pods that have gone leave to the next ones of their identities and does not stand yet.
fn late(kept: &mut BTreeMap<Key, Endpoint>, wanted: &BTreeMap<Key, Endpoint>, standing: &Standing) -> Vec<Write> {
    let stands = |key: &Key| standing.known.get(key);
    kept.retain(|key, one| {
        let status = stands(key).and_then(|stands| stands.status.as_ref());
        wanted.contains_key(key) || status.is_none_or(|status| status.current != one.status.current)
    });
    let gone = kept.iter().filter(|(key, _)| !wanted.contains_key(*key));
    gone.map(|(key, one)| Write::Late(key.clone(), Box::new(one.clone()), stands(key).cloned().map(Box::new))).collect()
}

/// What differs.
async fn due(
    agent: &Agent,
    wanted: &BTreeMap<Key, Endpoint>,
    standing: &Standing,
    was_wanted: &mut BTreeSet<Key>,
) -> Vec<Write> {
    let mut writes = Vec::new();
    for (key, endpoint) in wanted.iter().filter(|((_, name), _)| !name.is_empty()) {
        let mut endpoint = endpoint.clone();
        if let (Some(cluster), Some(owner)) = (&agent.cluster, &endpoint.owner) {
            let top = cluster.owners.ask(&cluster.client, &key.0, owner).await.unwrap_or_else(|| owner.clone());
            (endpoint.status.owner_controller_type, endpoint.status.owner_controller_name) = (top.kind, top.name);
        }
        let stands = standing.known.get(key);
        let is_right = |stands: &SpiderEndpoint| {
            stands.status.as_ref() == Some(&endpoint.status) && is_rightly_owned(stands, &endpoint)
        };
        if !stands.is_some_and(is_right) {
            writes.push(Write::Put(key.clone(), Box::new(endpoint), stands.cloned().map(Box::new)));
        }
    }
    let catalogue = agent.catalogue();
    // One whose pod has another one now is of a machine that keeps its addresses since.
    let told: BTreeSet<&str> = wanted.values().map(|endpoint| endpoint.pod.uid.as_str()).collect();
    for (key, stands) in standing.known.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
        let uid = stands.status.as_ref().map(|status| status.current.uid.as_str()).unwrap_or_default();
        let is_told_elsewhere = !uid.is_empty() && told.contains(uid);
        if !is_told_elsewhere && Keeping::of(&catalogue.conf, &fixed::owner_of(stands)).is_some() {
            // By this the next pod finds its addresses; the controller ends it.
            continue;
        }
        let lives = !is_told_elsewhere && catalogue.pods.get(key).is_some_and(|pod| pod.uid == uid);
        if was_wanted.remove(key) || !lives {
            writes.push(Write::Delete(key.clone(), Box::new(stands.clone())));
        }
    }
    was_wanted.retain(|key| wanted.contains_key(key));
    writes
}

enum Done {
    Stands(Box<SpiderEndpoint>),
    Gone(Key),
}

async fn carry_out(client: &Client, write: Write) -> Result<Done, kube::Error> {
    let is_late = matches!(write, Write::Late(..));
    match write {
        Write::Put((namespace, name), endpoint, stands) | Write::Late((namespace, name), endpoint, stands) => {
            let api: Api<SpiderEndpoint> = Api::namespaced(client.clone(), &namespace);
            let post = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            let wanted = |mut object: SpiderEndpoint| {
                object.metadata.namespace = Some(namespace.clone());
                object.metadata.owner_references = owner_reference(&endpoint);
                let annotations = object.metadata.annotations.get_or_insert_default();
                match endpoint.owner.as_ref().filter(|_| endpoint.is_kept) {
                    Some(owner) => annotations.insert(OWNER_API_VERSION.to_owned(), owner.api_version.clone()),
                    None => annotations.remove(OWNER_API_VERSION),
                };
                object.status = Some(endpoint.status.clone());
                object
            };
            if stands.is_none() {
                match api.create(&post, &wanted(SpiderEndpoint::new(&name, SpiderEndpointSpec {}))).await {
                    Ok(written) => return Ok(Done::Stands(Box::new(written))),
                    Err(kube::Error::Api(status)) if is_late && status.is_already_exists() => {
                        return Ok(Done::Gone((namespace, name)));
                    }
                    // What another node has left, or an agent before this one, is not in the watch of this node.
                    Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                    Err(error) => return Err(error),
                }
            }
            let stands = match stands {
                Some(stands) => *stands,
                None => api.get(&name).await?,
            };
            // With the version that was read: a newer one is seen first.
            match api.replace(&name, &post, &wanted(stands)).await {
                Ok(written) => Ok(Done::Stands(Box::new(written))),
                Err(kube::Error::Api(status)) if is_late && (status.is_conflict() || status.is_not_found()) => {
                    Ok(Done::Gone((namespace, name)))
                }
                Err(error) => Err(error),
            }
        }
        Write::Delete((namespace, name), stands) => {
            let api: Api<SpiderEndpoint> = Api::namespaced(client.clone(), &namespace);
            let mut version = stands.resource_version();
            if !stands.finalizers().is_empty() {
                let none = json!({"metadata": {"finalizers": null, "resourceVersion": version}});
                match api.patch(&name, &PatchParams::apply(FIELD_MANAGER), &Patch::Merge(&none)).await {
                    Ok(freed) => version = freed.resource_version(),
                    Err(error) => {
                        gone_is_fine(Err(error))?;
                        return Ok(Done::Gone((namespace, name)));
                    }
                }
            }
            // Just what was read: another node may have taken the object over for the pod of the same name.
            let exactly = DeleteParams::default()
                .preconditions(kube::api::Preconditions { uid: stands.uid(), resource_version: version });
            gone_is_fine(api.delete(&name, &exactly).await.map(drop))?;
            Ok(Done::Gone((namespace, name)))
        }
    }
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result,
    }
}

/// The endpoint goes with its pod; that of a pod which keeps its addresses does not (../spec/ipam.md 8).
fn owner_reference(endpoint: &Endpoint) -> Option<Vec<OwnerReference>> {
    if endpoint.is_kept || endpoint.pod.uid.is_empty() {
        return None;
    }
    Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: endpoint.pod.name.clone(),
        uid: endpoint.pod.uid.clone(),
        ..OwnerReference::default()
    }])
}

/// Whether what stands goes with its pod, or outlives it and tells of which API its controller is, as it should: who keeps
/// addresses may be switched while pods have them.
fn is_rightly_owned(stands: &SpiderEndpoint, wanted: &Endpoint) -> bool {
    let is_pods = stands.owner_references().iter().any(|owner| owner.kind == "Pod" && owner.uid == wanted.pod.uid);
    match wanted.owner.as_ref().filter(|_| wanted.is_kept) {
        Some(owner) => !is_pods && fixed::owner_of(stands).api_version == owner.api_version,
        None => is_pods || wanted.pod.uid.is_empty(),
    }
}

fn key(endpoint: &SpiderEndpoint) -> Key {
    (endpoint.namespace().unwrap_or_default(), endpoint.name_any())
}
