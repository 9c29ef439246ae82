//! Writing what was decided. Nothing is decided here but that somebody else was faster: then it is decided anew from
//! what is read next.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use schemas::crd::{SpiderEndpoint, SpiderIPPool, SpiderIPShard};
use schemas::slot::Holder;
use serde_json::{Value, json};

use super::cleanup::{Chore, SlotEdits, is_held};
use super::cluster::Endpoint;
use super::kept::{self, Ended, Missing};
use super::owners;
use super::read::Name;
use super::reasons::{Reason, Told};
use super::shard::Shard;
use super::upkeep::FINALIZER;
use crate::kubernetes::{AGENT_LEASE, FIELD_MANAGER};

/// An Event's note is no longer than this, in bytes; the API server takes 1 KiB.
const NOTE: usize = 1000;

/// The writer.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    namespace: String,
    recorder: Recorder,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written<T> {
    /// It is as wanted; the object as it is now where that is known.
    Done(T),
    /// Something else is there than was read, or the signals no longer agree: nothing was changed.
    Overtaken,
}

impl Writer {
    /// One that writes with this client; agents' Leases are in that namespace.
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        let reporter = Reporter { controller: "dragline-controller".into(), instance: Some(identity.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, namespace: namespace.to_owned(), recorder }
    }

    /// Merges something into a pool's status.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn patch_status(&self, pool: &str, patch: &Value) -> kube::Result<Written<SpiderIPPool>> {
        let pools = Api::<SpiderIPPool>::all(self.client.clone());
        found(pools.patch_status(pool, &parameters(), &Patch::Merge(patch)).await)
    }

    /// Merges something into a pool.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn patch(&self, pool: &str, patch: &Value) -> kube::Result<Written<SpiderIPPool>> {
        let pools = Api::<SpiderIPPool>::all(self.client.clone());
        found(pools.patch(pool, &parameters(), &Patch::Merge(patch)).await)
    }

    /// Lets a pool go that is being deleted, if the API server itself knows no slot of it that a node holds.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn let_go(&self, pool: &SpiderIPPool, patch: &Value) -> kube::Result<Written<SpiderIPPool>> {
        let name = pool.name_any();
        let shards = Api::<SpiderIPShard>::all(self.client.clone());
        let shards = shards.list(&ListParams::default().fields(&format!("spec.pool={name}"))).await?;
        let uid = pool.metadata.uid.as_deref().unwrap_or_default();
        let is_its_own = |shard: &&SpiderIPShard| shard.spec.pool_uid == uid;
        if shards.iter().filter(is_its_own).any(|shard| Shard::of(shard).is_none_or(|shard| is_held(&shard))) {
            return Ok(Written::Overtaken);
        }
        self.patch(&name, patch).await
    }

    /// Does one chore.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn clear(&self, chore: &Chore) -> kube::Result<Written<()>> {
        match chore {
            Chore::Endpoint { name, uid, pod_uid, finalizers } => {
                self.delete_endpoint(name, uid, pod_uid, finalizers).await
            }
            Chore::Missing(missing) => self.end_identity(missing).await,
            Chore::Ended(ended) => self.end_reservations(ended).await,
            Chore::Slots(edits) => self.edit_slots(edits).await,
            Chore::Lease { node, uid, version } => {
                let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
                deleted(leases.delete(&format!("{AGENT_LEASE}{node}"), &exactly(uid, Some(version))).await)
            }
            Chore::Waiter { pool, node, text } => {
                let path = format!("/status/waiting/{}", node.replace('~', "~0").replace('/', "~1"));
                let patch = json!([
                    {"op": "test", "path": path, "value": text},
                    {"op": "remove", "path": path},
                ]);
                let pools = Api::<SpiderIPPool>::all(self.client.clone());
                Ok(without(found(pools.patch_status(pool, &parameters(), &edit(patch)?).await)?))
            }
        }
    }

    async fn delete_endpoint(
        &self,
        name: &Name,
        uid: &str,
        pod_uid: &str,
        finalizers: &[String],
    ) -> kube::Result<Written<()>> {
        let pods = Api::<PartialObjectMeta<Pod>>::namespaced(self.client.clone(), &name.namespace);
        let pod = pods.get_metadata_opt(&name.name).await?;
        if pod.is_some_and(|pod| pod.metadata.uid.as_deref() == Some(pod_uid)) {
            return Ok(Written::Overtaken);
        }
        let endpoints = Api::<SpiderEndpoint>::namespaced(self.client.clone(), &name.namespace);
        let others: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        if others.len() < finalizers.len() {
            let patch = json!([
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "test", "path": "/metadata/finalizers", "value": finalizers},
                {"op": "replace", "path": "/metadata/finalizers", "value": others},
            ]);
            if found(endpoints.patch(&name.name, &parameters(), &edit(patch)?).await)? == Written::Overtaken {
                return Ok(Written::Overtaken);
            }
        }
        deleted(endpoints.delete(&name.name, &exactly(uid, None)).await)
    }

    async fn edit_slots(&self, chore: &SlotEdits) -> kube::Result<Written<()>> {
        if chore.is_node_gone {
            let pods = Api::<PartialObjectMeta<Pod>>::all(self.client.clone());
            let bound = format!("spec.nodeName={}", chore.holder.node());
            if !pods.list_metadata(&ListParams::default().fields(&bound).limit(1)).await?.items.is_empty() {
                return Ok(Written::Overtaken);
            }
        }
        self.replace_slots(&chore.shard, &chore.edits).await
    }

    /// Deletes the endpoint of an identity unless a pod of it may come again.
    async fn end_identity(&self, missing: &Missing) -> kube::Result<Written<()>> {
        let Missing { name, uid, pod_uid, owner, is_off, finalizers } = missing;
        let endpoints = Api::<SpiderEndpoint>::namespaced(self.client.clone(), &name.namespace);
        let found = endpoints.get_opt(&name.name).await?;
        let is_same = |found: &SpiderEndpoint| {
            let status = found.status.as_ref();
            found.uid().as_ref() == Some(uid) && status.is_some_and(|status| status.current.uid == *pod_uid)
        };
        if !found.as_ref().is_some_and(is_same) {
            return Ok(Written::Overtaken);
        }
        if !is_off && owners::may_return(&self.client, &name.namespace, &name.name, owner).await? {
            return Ok(Written::Overtaken);
        }
        self.delete_endpoint(name, uid, pod_uid, finalizers).await
    }

    /// Ends reservations unless the identity has the addresses by now, or still.
    async fn end_reservations(&self, ended: &Ended) -> kube::Result<Written<()>> {
        let name = kept::named(&ended.owner);
        let endpoints = Api::<SpiderEndpoint>::namespaced(self.client.clone(), &name.namespace);
        let (is_v4, addresses) = &ended.addresses;
        if let Some(endpoint) = endpoints.get_opt(&name.name).await?
            && !kept::is_superseded(&Endpoint::of(&endpoint), &ended.owner, *is_v4, addresses)
        {
            return Ok(Written::Overtaken);
        }
        self.replace_slots(&ended.shard, &ended.edits).await
    }

    async fn replace_slots(&self, shard: &str, edits: &[(usize, String, String)]) -> kube::Result<Written<()>> {
        let shards = Api::<SpiderIPShard>::all(self.client.clone());
        let replace = |(index, old, new): &(usize, String, String)| {
            let path = format!("/status/slots/{index}");
            [json!({"op": "test", "path": path, "value": old}), json!({"op": "replace", "path": path, "value": new})]
        };
        let patch = edit(edits.iter().flat_map(replace).collect())?;
        Ok(without(found(shards.patch_status(shard, &parameters(), &patch).await)?))
    }

    /// Tells an Event. One that cannot be told is logged only: it stands in the conditions as well.
    pub async fn tell(&self, told: &Told, pool: &SpiderIPPool) {
        let end = (0..=NOTE).rev().find(|end| told.note.is_char_boundary(*end)).unwrap_or_default();
        let event = Event {
            type_: told.reason.event_type(),
            reason: told.reason.text().into(),
            note: Some(told.note[..end.min(told.note.len())].to_owned()),
            action: told.reason.action().into(),
            // Events of one reason about several nodes are not counted as one.
            secondary: told.node.clone().map(node_reference),
        };
        if let Err(error) = self.recorder.publish(&event, &pool.object_ref(&())).await {
            tracing::warn!(pool = told.pool, reason = told.reason.text(), %error, "the Event was not taken");
        }
    }
}

/// The Events for slots that were put into quarantine: one for each pool and holder.
pub fn told(edits: &[SlotEdits]) -> Vec<Told> {
    let mut sums: BTreeMap<(&str, &Holder), (u32, u64, bool)> = BTreeMap::new();
    for edit in edits.iter().filter(|edit| edit.addresses > 0) {
        let sum = sums.entry((&edit.pool, &edit.holder)).or_default();
        *sum = (sum.0 + edit.addresses, sum.1.max(edit.until), edit.is_node_gone);
    }
    let told = |((pool, holder), (addresses, until, is_node_gone)): ((&str, &Holder), (u32, u64, bool))| {
        let node = holder.node();
        let second = i64::try_from(until).ok();
        let until = second.and_then(|second| k8s_openapi::jiff::Timestamp::from_second(second).ok());
        let until = until.map_or_else(|| "further notice".to_owned(), |time| time.to_string());
        let why = if is_node_gone { "which is gone" } else { "which a later incarnation has replaced" };
        let note = format!("{addresses} addresses of node {holder}, {why}, are given to nobody until {until}");
        Told { pool: pool.to_owned(), reason: Reason::AddressQuarantined, node: Some(node.to_owned()), note }
    };
    sums.into_iter().map(told).collect()
}

/// A JSON Patch.
fn edit(operations: Value) -> kube::Result<Patch<()>> {
    serde_json::from_value(operations).map(Patch::Json).map_err(kube::Error::SerdeError)
}

fn node_reference(name: String) -> ObjectReference {
    ObjectReference { kind: Some("Node".into()), name: Some(name), ..ObjectReference::default() }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }
}

fn exactly(uid: &str, version: Option<&str>) -> DeleteParams {
    let version = version.map(ToOwned::to_owned);
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: version };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

fn without<T>(written: Written<T>) -> Written<()> {
    match written {
        Written::Done(_) => Written::Done(()),
        Written::Overtaken => Written::Overtaken,
    }
}

/// 404: it is gone. 409: another version is there. 422: a test did not hold.
fn found<T>(result: kube::Result<T>) -> kube::Result<Written<T>> {
    match result {
        Ok(object) => Ok(Written::Done(object)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Written::Overtaken),
        // What the server says of a test; of what is invalid it says which field.
        Err(kube::Error::Api(status)) if status.code == 422 && !status.message.contains("is invalid") => {
            Ok(Written::Overtaken)
        }
        Err(error) => Err(error),
    }
}

/// What is gone is deleted.
fn deleted<T>(result: kube::Result<T>) -> kube::Result<Written<()>> {
    match result {
        Ok(_) => Ok(Written::Done(())),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Written::Done(())),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Written::Overtaken),
        Err(error) => Err(error),
    }
}
