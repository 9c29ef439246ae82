//! What is watched, and how little of it is kept.

use std::collections::BTreeSet;
use std::fmt::Debug;

use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use schemas::crd::{SpiderEndpoint, SpiderIPPool, SpiderIPShard, SpiderReservedIP};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::catalogue::CONF_NAME;

/// A namespace, empty for what has none, and a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The namespace, or nothing.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Name {
    /// That of an object.
    pub fn of(object: &impl Resource) -> Self {
        let metadata = object.meta();
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// Of a node its metadata and taints.
#[derive(Debug, Clone, Default, Deserialize, kube::Resource)]
#[resource(inherit = Node)]
pub struct TaintedNode {
    /// `metadata`.
    pub metadata: ObjectMeta,
    /// `spec`, as far as it is read.
    #[serde(default)]
    pub spec: Taints,
}

/// Of a node's `spec` the taints.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Taints {
    /// `spec.taints`.
    #[serde(default)]
    pub taints: Option<Vec<Taint>>,
}

/// Of a taint its key.
#[derive(Debug, Clone, Deserialize)]
pub struct Taint {
    /// Such as `node.kubernetes.io/out-of-service`.
    pub key: String,
}

/// One thing heard from the API server.
#[derive(Debug)]
pub enum Heard {
    /// Of a pool.
    Pool(Event<SpiderIPPool>),
    /// Of a shard.
    Shard(Event<SpiderIPShard>),
    /// Of an endpoint.
    Endpoint(Event<SpiderEndpoint>),
    /// Of a reservation.
    Reserved(Event<SpiderReservedIP>),
    /// Of a node.
    Node(Event<TaintedNode>),
    /// Of a pod.
    Pod(Event<PartialObjectMeta<Pod>>),
    /// Of a Lease in the agents' namespace.
    Lease(Event<Lease>),
    /// Of Spiderpool's ConfigMap there.
    Conf(Event<ConfigMap>),
}

/// Everything that is watched, in one stream without end. A watch that breaks is taken up again with growing pauses; the
/// error is only told.
pub fn everything(client: &Client, namespace: &str) -> BoxStream<'static, watcher::Result<Heard>> {
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    let conf = watcher::Config::default().fields(&format!("metadata.name={CONF_NAME}"));
    let conf = watch_some(Api::namespaced(client.clone(), namespace), conf, Heard::Conf);
    stream::select_all([
        watch(Api::all(client.clone()), Heard::Pool),
        watch(Api::all(client.clone()), Heard::Shard),
        watch(Api::all(client.clone()), Heard::Endpoint),
        watch(Api::all(client.clone()), Heard::Reserved),
        watch(Api::all(client.clone()), Heard::Node),
        watch(Api::all(client.clone()), Heard::Pod),
        watch(leases, Heard::Lease),
        conf,
    ])
    .boxed()
}

fn watch<K>(api: Api<K>, heard: fn(Event<K>) -> Heard) -> BoxStream<'static, watcher::Result<Heard>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    watch_some(api, watcher::Config::default(), heard)
}

fn watch_some<K>(
    api: Api<K>,
    config: watcher::Config,
    heard: fn(Event<K>) -> Heard,
) -> BoxStream<'static, watcher::Result<Heard>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    watcher::watcher(api, config)
        .default_backoff()
        .map(move |event| Ok(heard(event?.modify(|object| object.managed_fields_mut().clear()))))
        .boxed()
}

/// What an event means for a collection that is kept beside the API server's.
#[derive(Debug)]
pub enum Change<K> {
    /// The object is there, like this.
    Is(K),
    /// There is none of that name.
    Gone(Name),
    /// All names that there are.
    Only(BTreeSet<Name>),
    /// Nothing yet.
    Nothing,
}

/// One kind's way from a listing to the next.
#[derive(Debug, Default)]
pub struct Listing {
    seen: Option<BTreeSet<Name>>,
    is_complete: bool,
}

impl Listing {
    /// Whether the kind has been listed to its end at least once.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Takes one event. Objects of a listing count at once, those that it does not name are gone at its end.
    pub fn take<K: Resource>(&mut self, event: Event<K>) -> Change<K> {
        match event {
            Event::Apply(object) => Change::Is(object),
            Event::Delete(object) => Change::Gone(Name::of(&object)),
            Event::Init => {
                self.seen = Some(BTreeSet::new());
                Change::Nothing
            }
            Event::InitApply(object) => {
                self.seen.get_or_insert_default().insert(Name::of(&object));
                Change::Is(object)
            }
            Event::InitDone => {
                self.is_complete = true;
                self.seen.take().map_or(Change::Nothing, Change::Only)
            }
        }
    }
}
