//! What is declared in the cluster, watched: pools, coordinator, networks, reserved addresses, and of the node its pods,
//! the namespaces and itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::State;
use super::kinds::{self, Kind};
use super::remembered::{Found, Remembered};
use crate::agent::Agent;
use crate::catalogue::{CONF_NAME, Catalogue, Object};

/// What belongs to one change comes in several events.
const SETTLE: Duration = Duration::from_millis(10);
/// Events that never pause are not waited for longer than this.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a watch says of one kind.
enum News {
    /// It lists everything anew.
    Begins,
    /// An object of the list.
    Listed(String, Result<Object, String>),
    /// The list is whole.
    Ends,
    /// An object is there, or has changed.
    There(String, Result<Object, String>),
    /// An object is gone.
    Gone(String),
    /// The watch failed and is tried again.
    Failed(String),
}

/// The objects of one kind.
#[derive(Default)]
struct Objects {
    known: BTreeMap<String, Object>,
    listing: BTreeMap<String, Object>,
    faults: BTreeMap<String, String>,
    is_listed: bool,
}

/// All objects.
#[derive(Default)]
struct Inputs {
    kinds: BTreeMap<Kind, Objects>,
}

impl Objects {
    /// True when something has changed.
    fn take(&mut self, news: News) -> bool {
        match news {
            News::Begins => {
                self.listing.clear();
                false
            }
            News::Listed(key, object) => {
                match object {
                    Ok(object) => {
                        self.faults.remove(&key);
                        self.listing.insert(key, object);
                    }
                    Err(fault) => {
                        // The last good version stays in force.
                        if let Some(known) = self.known.get(&key) {
                            self.listing.insert(key.clone(), known.clone());
                        }
                        self.faults.insert(key, fault);
                    }
                }
                false
            }
            News::Ends => {
                let is_first = !std::mem::replace(&mut self.is_listed, true);
                let listed = std::mem::take(&mut self.listing);
                let is_changed = listed != self.known;
                self.known = listed;
                is_first || is_changed
            }
            News::There(key, Ok(object)) => {
                let was_faulty = self.faults.remove(&key).is_some();
                let is_changed = self.known.get(&key) != Some(&object);
                self.known.insert(key, object);
                is_changed || was_faulty
            }
            News::There(key, Err(fault)) => self.faults.insert(key, fault.clone()) != Some(fault),
            News::Gone(key) => {
                self.faults.remove(&key);
                self.known.remove(&key).is_some()
            }
            News::Failed(error) => {
                tracing::warn!(error, "a watch of the API server failed and is tried again");
                false
            }
        }
    }
}

impl Inputs {
    fn is_listed(&self) -> bool {
        let mut awaited = kinds::ALL.iter().filter(|kind| kind.is_awaited());
        awaited.all(|kind| self.kinds.get(kind).is_some_and(|objects| objects.is_listed))
    }

    fn objects(&self) -> impl Iterator<Item = (&String, &Object)> {
        self.kinds.values().flat_map(|objects| &objects.known)
    }

    fn catalogue(&self) -> Catalogue {
        let mut catalogue = Catalogue::of(self.objects().map(|(_, object)| object.clone()));
        for (key, fault) in self.kinds.get(&Kind::Pool).into_iter().flat_map(|pools| &pools.faults) {
            catalogue.add_invalid(kinds::name_of(key).to_owned(), fault.clone());
        }
        let faults = self.kinds.values().flat_map(|objects| &objects.faults);
        catalogue.faults.extend(
            faults.map(|(key, fault)| {
                format!("{key} is not what its definition says: {fault}: what it said before holds")
            }),
        );
        catalogue
    }

    /// What is worth remembering: of namespaces only those of the node's pods.
    fn worth_remembering(&self) -> impl Iterator<Item = (&String, &Object)> {
        let pods = self.kinds.get(&Kind::Pod).into_iter().flat_map(|objects| objects.known.values());
        let used: std::collections::BTreeSet<&str> = pods
            .filter_map(|object| match object {
                Object::Pod(pod) => pod.metadata.namespace.as_deref(),
                _ => None,
            })
            .collect();
        self.objects().filter(move |(_, object)| match object {
            Object::Namespace(namespace) => namespace.metadata.name.as_deref().is_some_and(|name| used.contains(name)),
            _ => true,
        })
    }
}

/// Takes over what the store remembers, then watches.
pub(super) fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) {
    let Some(cluster) = &agent.cluster else { return };
    let mut inputs = Inputs::default();
    let mut remembered = Remembered::default();
    match Remembered::load(agent.ledger.store()) {
        Ok((found, Found { objects, faults })) => {
            faults
                .iter()
                .for_each(|fault| tracing::error!(fault, "what was last seen of the cluster cannot be read whole"));
            let is_known = !objects.is_empty();
            for (key, object) in objects {
                let kind = kind_of(&object);
                inputs.kinds.entry(kind).or_default().known.insert(key, object);
            }
            remembered = found;
            if is_known {
                tracing::info!(
                    objects = inputs.objects().count(),
                    "what was last seen of the cluster holds until it answers"
                );
                agent.declare(inputs.catalogue());
            }
        }
        Err(error) => tracing::error!(%error, "what was last seen of the cluster cannot be read"),
    }
    let mut news = streams(cluster, &agent.config.node_name);
    let agent = Arc::clone(agent);
    tasks.spawn(async move {
        let stopping = agent.stopping();
        tokio::pin!(stopping);
        loop {
            let first = tokio::select! {
                news = news.next() => news,
                () = &mut stopping => return,
            };
            // Every stream goes on for ever.
            let Some((kind, first)) = first else { return };
            let mut is_changed = inputs.kinds.entry(kind).or_default().take(first);
            let until = Instant::now() + PATIENCE;
            while let Ok(Some((kind, next))) =
                tokio::time::timeout_at(until.min(Instant::now() + SETTLE), news.next()).await
            {
                is_changed |= inputs.kinds.entry(kind).or_default().take(next);
                if Instant::now() >= until {
                    break;
                }
            }
            if is_changed && inputs.is_listed() {
                take_over(&agent, &inputs, &mut remembered).await;
            }
        }
    });
}

async fn take_over(agent: &Arc<Agent>, inputs: &Inputs, remembered: &mut Remembered) {
    let Some(cluster) = &agent.cluster else { return };
    let catalogue = inputs.catalogue();
    if !cluster.is_synced() {
        tracing::info!(pools = catalogue.pools.len(), pods = catalogue.pods.len(), "the cluster has been listed");
    }
    agent.declare(catalogue);
    cluster.synced.send_replace(true);
    cluster.seen.notify_waiters();
    if let Some(change) = remembered.update(inputs.worth_remembering())
        && let Err(error) = agent.ledger.record(change).await
    {
        tracing::error!(
            %error,
            "what was seen of the cluster is not remembered: a restart without the API server would not know it"
        );
        remembered.forget();
    }
}

fn kind_of(object: &Object) -> Kind {
    match object {
        Object::IpPool(_) => Kind::Pool,
        Object::Coordinator(_) => Kind::Coordinator,
        Object::MultusConfig(_) | Object::Subnet(_) => Kind::Network,
        Object::ReservedIp(_) => Kind::Reserved,
        Object::Pod(_) => Kind::Pod,
        Object::Namespace(_) => Kind::Namespace,
        Object::Node(_) => Kind::Node,
        Object::Conf(_) => Kind::Conf,
    }
}

type Stream = BoxStream<'static, (Kind, News)>;

fn streams(cluster: &State, node: &str) -> SelectAll<Stream> {
    let client = &cluster.client;
    let all = kinds::ALL.into_iter().map(|kind| match (kind, kind.resource()) {
        (Kind::Conf, Some(resource)) => {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &cluster.config.namespace, &resource);
            let config = watcher::Config::default().fields(&format!("metadata.name={CONF_NAME}"));
            watch(api, config).default_backoff().map(move |event| (kind, whole(kind, event))).boxed()
        }
        (_, Some(resource)) => {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let news = watch(api, watcher::Config::default()).default_backoff();
            let counted = (kind == Kind::Pool).then(|| Arc::clone(&cluster.counted));
            let heard = move |event| {
                counted.iter().for_each(|counted| counted.hear(&event));
                (kind, whole(kind, event))
            };
            news.map(heard).boxed()
        }
        (Kind::Node, None) => metadata::<Node>(client, kind, &format!("metadata.name={node}")),
        (Kind::Namespace, None) => metadata::<Namespace>(client, kind, ""),
        // Pods that have ended want nothing any more.
        (_, None) => {
            let living = "status.phase!=Succeeded,status.phase!=Failed";
            metadata::<Pod>(client, kind, &format!("spec.nodeName={node},{living}"))
        }
    });
    futures::stream::select_all(all)
}

fn metadata<K>(client: &kube::Client, kind: Kind, fields: &str) -> Stream
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client.clone());
    let config = watcher::Config::default();
    let config = if fields.is_empty() { config } else { config.fields(fields) };
    let events = watch(api, config).default_backoff();
    let keep = move |object: PartialObjectMeta<K>| (kinds::key(kind, &object.metadata), Ok(kind.keep_metadata(object)));
    events.map(move |event| (kind, news(event, keep, |object| kinds::key(kind, &object.metadata)))).boxed()
}

fn whole(kind: Kind, event: Result<Event<DynamicObject>, watcher::Error>) -> News {
    let keep = |object: DynamicObject| (kinds::key(kind, &object.metadata), kind.keep(object));
    news(event, keep, |object| kinds::key(kind, &object.metadata))
}

fn news<K>(
    event: Result<Event<K>, watcher::Error>,
    keep: impl Fn(K) -> (String, Result<Object, String>),
    key: impl Fn(&K) -> String,
) -> News {
    match event {
        Ok(Event::Init) => News::Begins,
        Ok(Event::InitApply(object)) => {
            let (key, object) = keep(object);
            News::Listed(key, object)
        }
        Ok(Event::InitDone) => News::Ends,
        Ok(Event::Apply(object)) => {
            let (key, object) = keep(object);
            News::There(key, object)
        }
        Ok(Event::Delete(object)) => News::Gone(key(&object)),
        Err(error) => News::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn there(status: Value, ips: &[&str]) -> News {
        let pool = json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool",
            "metadata": {"name": "p", "uid": "u", "resourceVersion": status.to_string()},
            "spec": {"subnet": "10.0.0.0/24", "ips": ips}, "status": status,
        });
        let pool: DynamicObject = serde_json::from_value(pool).unwrap();
        match whole(Kind::Pool, Ok(Event::Apply(pool))) {
            News::There(key, object) => News::There(key, Ok(object.unwrap())),
            _ => unreachable!("a pool is there"),
        }
    }

    #[test]
    fn the_controllers_numbers_change_nothing_that_is_declared() {
        let mut pools = Objects::default();
        let ips = &["10.0.0.1"][..];
        assert!(pools.take(there(json!({"shardSize": 64, "totalIPCount": 1, "allocatedIPCount": 0}), ips)));
        let counted = json!({"shardSize": 64, "totalIPCount": 9, "allocatedIPCount": 1, "leasedIPCount": 3,
            "allocatedIPs": "{}", "conditions": [{"type": "Overlapping", "status": "False", "reason": "r", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        assert!(!pools.take(there(counted, ips)));
        assert!(pools.take(there(json!({"shardSize": 64, "fairShare": 2}), ips)));
        assert!(
            pools.take(there(json!({"shardSize": 64, "fairShare": 2, "waiting": {"n": "2026-01-01T00:00:00Z"}}), ips))
        );
        assert!(pools.take(there(json!({"shardSize": 128}), ips)));
        assert!(pools.take(there(json!({"shardSize": 128}), &["10.0.0.2"])));
    }

    #[test]
    fn a_pool_that_cannot_be_read_is_known_by_its_fault() {
        let mut inputs = Inputs::default();
        let broken: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": "p"},
            "spec": {"subnet": 5},
        }))
        .unwrap();
        inputs.kinds.entry(Kind::Pool).or_default().take(whole(Kind::Pool, Ok(Event::Apply(broken))));
        let fault = inputs.catalogue().invalid["p"].clone();
        assert!(fault.starts_with("spec.subnet: "), "{fault}");
        inputs.kinds.entry(Kind::Pool).or_default().take(there(json!({}), &[]));
        assert!(inputs.catalogue().invalid.is_empty());
    }
}
