//! Who controls the ReplicaSets and Jobs that control the node's pods: asked when a pod is seen, which is before its
//! ADD comes, and kept in the store, so that no ADD waits for the API server.
//!
//! What is known stands in the catalogue of the store under `owner/NAMESPACE/UID`, as JSON; a record there that cannot
//! be read is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use kube::Client;
use kube::api::Api;
use schemas::intent::PodRef;
use serde::{Deserialize, Serialize};
use store::{Change, Store};
use tokio::time::Instant;

use super::incarnation::spread;
use crate::agent::Agent;
use crate::catalogue::{Catalogue, Owner};
use crate::selection::{self, Top};

const PREFIX: &str = "owner/";
/// Questions on their way at once.
const AT_ONCE: usize = 4;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a question without an answer, the first and the longest wait.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A controller, by its namespace.
type Key = (String, Owner);

/// What is known of those who control.
#[derive(Default)]
pub struct Owners {
    known: Mutex<BTreeMap<Key, Owner>>,
}

/// A record of the store.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    namespace: String,
    owner: Reference,
    top: Reference,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

impl Owners {
    /// What the store remembers.
    pub(super) fn remembered(store: &Store) -> Self {
        let texts = store.catalogue(PREFIX).map(|found| found.texts).unwrap_or_else(|error| {
            tracing::warn!(%error, "who controls pods cannot be read from the store, and is asked for");
            Vec::new()
        });
        let records = texts.into_iter().filter_map(|(_, text)| serde_json::from_str::<Record>(&text).ok());
        let known = records.map(|Record { namespace, owner, top }| ((namespace, owner.into()), top.into())).collect();
        Self { known: Mutex::new(known) }
    }

    /// The topmost controller of a pod that `owner` controls, without asking.
    pub fn top(&self, namespace: &str, owner: &Owner) -> Top {
        if !may_be_controlled(owner) {
            return Top::Known(owner.clone());
        }
        match self.known().get(&(namespace.to_owned(), owner.clone())) {
            Some(top) => Top::Known(top.clone()),
            None => Top::Unknown(owner.clone()),
        }
    }

    /// The same, asked where it is not known; None when there is no answer.
    pub(super) async fn ask(&self, client: &Client, namespace: &str, owner: &Owner) -> Option<Owner> {
        if let Top::Known(top) = self.top(namespace, owner) {
            return Some(top);
        }
        let answer = match tokio::time::timeout(PATIENCE, above(client, namespace, owner)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("the API server does not answer".to_owned()),
        };
        match answer {
            Ok(top) => {
                self.known().insert((namespace.to_owned(), owner.clone()), top.clone());
                Some(top)
            }
            Err(error) => {
                tracing::debug!(error, ?owner, "who controls it cannot be asked");
                None
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Owner>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets those whose pods are gone.
    fn forget_others(&self, wanted: &BTreeSet<Key>) {
        self.known().retain(|key, _| wanted.contains(key));
    }

    fn missing(&self, wanted: &BTreeSet<Key>) -> Vec<Key> {
        let known = self.known();
        wanted.iter().filter(|key| !known.contains_key(*key)).cloned().collect()
    }

    /// What the store should hold.
    fn records(&self) -> BTreeMap<String, String> {
        let record = |((namespace, owner), top): (&Key, &Owner)| {
            let key = format!("{PREFIX}{namespace}/{}", owner.uid);
            let record = Record { namespace: namespace.clone(), owner: owner.into(), top: top.into() };
            serde_json::to_string(&record).ok().map(|text| (key, text))
        };
        self.known().iter().filter_map(record).collect()
    }
}

impl From<Reference> for Owner {
    fn from(Reference { api_version, kind, name, uid }: Reference) -> Self {
        Self { api_version, kind, name, uid }
    }
}

impl From<&Owner> for Reference {
    fn from(owner: &Owner) -> Self {
        let Owner { api_version, kind, name, uid } = owner.clone();
        Self { api_version, kind, name, uid }
    }
}

/// Asks about the controllers of new pods for as long as the agent runs.
pub(super) async fn keep(agent: Arc<Agent>) {
    let Some(cluster) = &agent.cluster else { return };
    let mut stored = cluster.owners.records();
    let mut failures = 0_u32;
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        let changed = cluster.changed();
        let wanted = wanted(&agent.catalogue());
        if cluster.is_synced() {
            cluster.owners.forget_others(&wanted);
        }
        let asked = cluster.owners.missing(&wanted);
        let agent = &agent;
        let answers = stream::iter(asked).map(|(namespace, owner)| async move {
            let answer = cluster.owners.ask(&cluster.client, &namespace, &owner).await;
            if answer.is_some() {
                // Each at once: an ADD may wait for it.
                agent.tell_declared();
            }
            answer.is_some()
        });
        let answers: Vec<bool> = tokio::select! {
            answers = answers.buffer_unordered(AT_ONCE).collect() => answers,
            () = &mut stopping => return,
        };
        remember(agent, &mut stored, cluster.owners.records()).await;
        let has_failed = answers.iter().any(|is_answered| !is_answered);
        failures = if has_failed { failures + 1 } else { 0 };
        let wait = (BACKOFF.0 * (1 << failures.min(8))).min(BACKOFF.1);
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(spread(wait)), if has_failed => {}
            () = &mut stopping => return,
        }
    }
}

/// Waits until it is known who controls a pod in the end, where its pools depend on that.
pub(super) async fn known(agent: &Agent, pod: &PodRef, until: Instant) {
    let mut declared = agent.declared();
    loop {
        let catalogue = agent.catalogue();
        let Some(marks) = selection::pod_marks(&catalogue, pod) else { return };
        let depends = || selection::asks_for_subnet(marks) || catalogue.pools.values().any(selection::is_auto);
        if !matches!(selection::top(agent, &catalogue, pod), Top::Unknown(_)) || !depends() {
            return;
        }
        // What is not known then is a reason that the answer gives.
        if tokio::time::timeout_at(until, declared.changed()).await.is_err() {
            return;
        }
    }
}

/// The controllers of pods that another may control.
fn wanted(catalogue: &Catalogue) -> BTreeSet<Key> {
    let owners = catalogue.pods.iter().filter_map(|((namespace, _), marks)| Some((namespace, marks.owner.as_ref()?)));
    let owners = owners.filter(|(_, owner)| may_be_controlled(owner));
    owners.map(|(namespace, owner)| (namespace.clone(), owner.clone())).collect()
}

/// Whether there may be another above it; a third party's own controllers are taken as they are.
fn may_be_controlled(owner: &Owner) -> bool {
    owner.is_replica_set() || owner.is_job()
}

async fn above(client: &Client, namespace: &str, owner: &Owner) -> Result<Owner, kube::Error> {
    let found = if owner.is_job() {
        let api: Api<Job> = Api::namespaced(client.clone(), namespace);
        api.get_metadata_opt(&owner.name).await?.map(|object| object.metadata)
    } else {
        let api: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
        api.get_metadata_opt(&owner.name).await?.map(|object| object.metadata)
    };
    // Another one of that name is not the pod's.
    let is_it = |uid: Option<&String>| owner.uid.is_empty() || uid == Some(&owner.uid);
    let references = found.filter(|found| is_it(found.uid.as_ref())).and_then(|found| found.owner_references);
    let controller = references.into_iter().flatten().find(|reference| reference.controller == Some(true));
    Ok(controller.map_or_else(|| owner.clone(), Owner::of))
}

async fn remember(agent: &Agent, stored: &mut BTreeMap<String, String>, records: BTreeMap<String, String>) {
    if *stored == records {
        return;
    }
    let gone = stored.keys().filter(|key| !records.contains_key(*key));
    let change = gone.fold(Change::new(), |change, key| change.delete_catalogue(key));
    let new = records.iter().filter(|(key, text)| stored.get(*key) != Some(*text));
    let change = new.fold(change, |change, (key, text)| change.put_catalogue(key, text));
    match agent.ledger.record(change).await {
        Ok(()) => *stored = records,
        Err(error) => tracing::warn!(%error, "who controls pods is not remembered, and is asked for after a restart"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> Owner {
        Owner { api_version: api_version.into(), kind: kind.into(), name: name.into(), uid: uid.into() }
    }

    #[test]
    fn what_was_asked_once_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), "node", "boot").unwrap();
        let set = owner("apps/v1", "ReplicaSet", "web-5d", "r");
        let top = owner("apps/v1", "Deployment", "web", "d");
        let owners = Owners::remembered(&store);
        assert_eq!(owners.top("app", &set), Top::Unknown(set.clone()));
        owners.known().insert(("app".into(), set.clone()), top.clone());
        let change = owners.records().into_iter();
        let change = change.fold(Change::new(), |change, (key, text)| change.put_catalogue(&key, &text));
        store.commit(change.put_catalogue("owner/app/other", "{broken")).unwrap();

        let owners = Owners::remembered(&store);
        assert_eq!(owners.top("app", &set), Top::Known(top));
        assert_eq!(owners.top("second", &set), Top::Unknown(set.clone()));
        let anew = owner("apps/v1", "ReplicaSet", "web-5d", "made anew");
        assert_eq!(owners.top("app", &anew), Top::Unknown(anew.clone()));
        let wanted: BTreeSet<Key> = [("app".to_owned(), anew.clone())].into();
        assert_eq!(owners.missing(&wanted), [("app".to_owned(), anew)]);
        owners.forget_others(&wanted);
        assert_eq!(owners.records().len(), 0);
    }

    #[test]
    fn only_kubernetes_own_replica_sets_and_jobs_are_asked_about() {
        for (api_version, kind, is_asked) in [
            ("apps/v1", "ReplicaSet", true),
            ("batch/v1", "Job", true),
            ("apps/v1", "StatefulSet", false),
            ("kubevirt.io/v1", "VirtualMachineInstance", false),
            ("x.io/v1", "Job", false),
        ] {
            let owner = owner(api_version, kind, "n", "u");
            let expected = if is_asked { Top::Unknown(owner.clone()) } else { Top::Known(owner.clone()) };
            assert_eq!(Owners::default().top("app", &owner), expected);
        }
    }
}
