//! What is watched, and how little of it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use plan::allocate::AddressSet;
use schemas::crd::{SpiderIPPool, SpiderReservedIP, SpiderSubnet};
use serde::de::DeserializeOwned;

use super::annotations::is_asking;
use super::naming::App;
use super::view::{Uids, View, age};
use super::workload::{KINDS, Object, OnBehalf, controller, on_behalf, read, resource};
use crate::catalogue::{CONF_KEY, CONF_NAME, Conf};
use crate::controller::pools::read::{Change, Listing, Name};

/// Group, version and kind.
pub type ForeignKind = (String, String, String);

/// One thing heard from the API server.
#[derive(Debug)]
pub enum Heard {
    /// Of a subnet.
    Subnet(Event<SpiderSubnet>),
    /// Of a pool.
    Pool(Event<SpiderIPPool>),
    /// Of a reservation.
    Reserved(Event<SpiderReservedIP>),
    /// Of the cluster's settings.
    Conf(Event<ConfigMap>),
    /// Of a pod.
    Pod(Event<PartialObjectMeta<Pod>>),
    /// Of a workload; which of [`KINDS`].
    Workload(usize, Event<Object>),
    /// Of another kind.
    Foreign(ForeignKind, Event<PartialObjectMeta<DynamicObject>>),
}

type Said = watcher::Result<Heard>;

/// Everything that is watched in any case, in one stream without end. A watch that breaks is taken up again with growing
/// pauses; the error is only told.
pub fn everything(client: &Client, namespace: &str) -> BoxStream<'static, Said> {
    let workloads = KINDS.iter().enumerate().map(|(index, kind)| {
        let api = Api::all_with(client.clone(), &resource(*kind));
        watch(api, watcher::Config::default(), move |event| Heard::Workload(index, event))
    });
    let conf = watcher::Config::default().fields(&format!("metadata.name={CONF_NAME}"));
    let ours = [
        watch(Api::all(client.clone()), watcher::Config::default(), Heard::Subnet),
        watch(Api::all(client.clone()), watcher::Config::default(), Heard::Pool),
        watch(Api::all(client.clone()), watcher::Config::default(), Heard::Reserved),
        watch(Api::namespaced(client.clone(), namespace), conf, Heard::Conf),
        watch(Api::all(client.clone()), watcher::Config::default(), Heard::Pod),
    ];
    stream::select_all(ours.into_iter().chain(workloads)).boxed()
}

fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    heard: impl Fn(Event<K>) -> Heard + Send + 'static,
) -> BoxStream<'static, Said>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher::watcher(api, config)
        .default_backoff()
        .map(move |event| Ok(heard(event?.modify(|object| object.managed_fields_mut().clear()))))
        .boxed()
}

/// What was read so far.
#[derive(Debug, Default)]
pub struct Reading {
    /// What decisions are made from.
    pub view: View,
    listings: [Listing; 5],
    workloads: [Listing; KINDS.len()],
    foreign: BTreeMap<ForeignKind, (Listing, Uids)>,
    /// Who asks on behalf of whom.
    sources: BTreeMap<String, App>,
}

impl Reading {
    /// Whether every kind has been read whole that is watched in any case.
    pub fn is_complete(&self) -> bool {
        self.listings.iter().chain(&self.workloads).all(Listing::is_complete)
    }

    /// Takes one thing heard. Whether a decision may come out differently.
    pub fn hear(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::Subnet(event) => match self.listings[0].take(event) {
                Change::Is(subnet) => put(&mut self.view.subnets, subnet),
                Change::Gone(name) => self.view.subnets.remove(&name.name).is_some(),
                Change::Only(names) => keep(&mut self.view.subnets, &names),
                Change::Nothing => false,
            },
            Heard::Pool(event) => self.hear_pool(event),
            Heard::Reserved(event) => match self.listings[2].take(event) {
                Change::Is(object) => {
                    // One that is not valid reserves nothing.
                    let set = AddressSet::from_ranges(object.spec.ranges().unwrap_or_default());
                    self.view.reserved.insert(object.name_any(), set);
                    true
                }
                Change::Gone(name) => self.view.reserved.remove(&name.name).is_some(),
                Change::Only(names) => keep(&mut self.view.reserved, &names),
                Change::Nothing => false,
            },
            Heard::Conf(event) => match self.listings[3].take(event) {
                Change::Is(map) => self.put_conf(&map),
                Change::Gone(_) => self.set_conf(Conf::default()),
                Change::Only(names) if names.is_empty() => self.set_conf(Conf::default()),
                Change::Only(_) | Change::Nothing => false,
            },
            Heard::Pod(event) => match self.listings[4].take(event) {
                Change::Is(pod) => self.put_pod(&pod),
                Change::Gone(name) => self.drop_source(&source("Pod", &name)),
                Change::Only(names) => self.keep_sources("Pod", &names),
                Change::Nothing => false,
            },
            Heard::Workload(index, event) => self.hear_workload(index, event),
            Heard::Foreign(kind, event) => self.hear_foreign(kind, event),
        }
    }

    fn hear_pool(&mut self, event: Event<SpiderIPPool>) -> bool {
        match self.listings[1].take(event) {
            Change::Is(pool) => self.put_pool(pool),
            Change::Gone(name) => {
                self.view.usage.remove(&name.name);
                self.view.pools.remove(&name.name).is_some()
            }
            Change::Only(names) => keep(&mut self.view.pools, &names),
            Change::Nothing => false,
        }
    }

    /// Takes a pool as it is. Whether anything has changed but what agents and the pools' own half write.
    pub fn put_pool(&mut self, mut pool: SpiderIPPool) -> bool {
        let name = pool.name_any();
        let shard_size = pool.status.as_ref().and_then(|status| status.shard_size);
        // Of its status no more is asked than how it is cut; that it has changed may mean that addresses were given back.
        let is_new = self.view.usage.remove(&name).is_some();
        pool.status = shard_size.map(|shard_size| schemas::crd::ippool::SpiderIPPoolStatus {
            shard_size: Some(shard_size),
            ..Default::default()
        });
        let is_same = |before: &SpiderIPPool| {
            let bare = |pool: &SpiderIPPool| {
                let metadata =
                    kube::api::ObjectMeta { resource_version: None, generation: None, ..pool.metadata.clone() };
                (metadata, pool.status.clone())
            };
            before.spec == pool.spec && bare(before) == bare(&pool)
        };
        let is_other = !self.view.pools.get(&name).is_some_and(is_same);
        put(&mut self.view.pools, pool) && is_other || is_new
    }

    fn put_conf(&mut self, map: &ConfigMap) -> bool {
        let text = map.data.as_ref().and_then(|data| data.get(CONF_KEY)).map(String::as_str).unwrap_or_default();
        match Conf::parse(text) {
            Ok(conf) => self.set_conf(conf),
            Err(error) => {
                tracing::warn!(error, "ConfigMap {CONF_NAME} cannot be read: what it said before goes on");
                false
            }
        }
    }

    fn set_conf(&mut self, conf: Conf) -> bool {
        let is_new = self.view.conf != conf;
        self.view.conf = conf;
        is_new
    }

    fn put_pod(&mut self, pod: &PartialObjectMeta<Pod>) -> bool {
        let name = Name::of(pod);
        let asking = controller(&pod.metadata).filter(|_| is_asking(pod.annotations()));
        let asking = asking.and_then(|owner| on_behalf(owner, &name.namespace, pod.annotations()));
        self.put_source(source("Pod", &name), asking)
    }

    fn hear_workload(&mut self, index: usize, event: Event<Object>) -> bool {
        let (group, version, kind, _) = KINDS[index];
        let api_version = format!("{group}/{version}");
        let app = |name: &Name| App::of(&api_version, kind, &name.namespace, &name.name);
        match self.workloads[index].take(event) {
            Change::Is(object) => {
                let name = Name::of(&object);
                let (workload, on_behalf) = read(kind, &object);
                let is_new = self.put_source(source(kind, &name), on_behalf);
                let app = app(&name);
                is_new | (self.view.workloads.get(&app) != Some(&workload)) && {
                    self.view.workloads.insert(app, workload);
                    true
                }
            }
            Change::Gone(name) => {
                self.drop_source(&source(kind, &name));
                self.view.workloads.remove(&app(&name)).is_some()
            }
            Change::Only(names) => {
                let is_there = |app: &App| {
                    app.kind != kind
                        || app.group != group
                        || names.contains(&Name { namespace: app.namespace.clone(), name: app.name.clone() })
                };
                self.view.workloads.retain(|app, _| is_there(app));
                self.keep_sources(kind, &names);
                true
            }
            Change::Nothing => false,
        }
    }

    fn hear_foreign(&mut self, kind: ForeignKind, event: Event<PartialObjectMeta<DynamicObject>>) -> bool {
        let (listing, objects) = self.foreign.entry(kind.clone()).or_default();
        let key = |name: Name| (name.namespace, name.name);
        match listing.take(event) {
            Change::Is(object) => {
                objects.insert(key(Name::of(&object)), object.uid().unwrap_or_default());
            }
            Change::Gone(name) => {
                objects.remove(&key(name));
            }
            Change::Only(names) => {
                let is_there =
                    |key: &(String, String)| names.contains(&Name { namespace: key.0.clone(), name: key.1.clone() });
                objects.retain(|key, _| is_there(key));
            }
            Change::Nothing => return false,
        }
        if listing.is_complete() {
            self.view.foreign.insert(kind, objects.clone());
        }
        true
    }

    /// Forgets kinds that nobody asks about any more.
    pub fn keep_foreign(&mut self, kinds: &BTreeSet<ForeignKind>) {
        self.foreign.retain(|kind, _| kinds.contains(kind));
        self.view.foreign.retain(|kind, _| kinds.contains(kind));
    }

    fn put_source(&mut self, source: String, asking: Option<OnBehalf>) -> bool {
        let Some(asking) = asking else { return self.drop_source(&source) };
        let asked = self.view.on_behalf.get(&asking.app).and_then(|asked| asked.get(&source));
        if asked == Some(&asking) {
            return false;
        }
        self.drop_source(&source);
        self.sources.insert(source.clone(), asking.app.clone());
        self.view.on_behalf.entry(asking.app.clone()).or_default().insert(source, asking);
        true
    }

    fn drop_source(&mut self, source: &str) -> bool {
        let Some(app) = self.sources.remove(source) else { return false };
        if let Some(asked) = self.view.on_behalf.get_mut(&app) {
            asked.remove(source);
            if asked.is_empty() {
                self.view.on_behalf.remove(&app);
            }
        }
        true
    }

    fn keep_sources(&mut self, kind: &str, names: &BTreeSet<Name>) -> bool {
        let listed: BTreeSet<String> = names.iter().map(|name| source(kind, name)).collect();
        let prefix = format!("{kind}/");
        let is_gone = |known: &&String| known.starts_with(&prefix) && !listed.contains(*known);
        let gone: Vec<String> = self.sources.keys().filter(is_gone).cloned().collect();
        gone.iter().fold(false, |is_new, source| is_new | self.drop_source(source))
    }
}

fn source(kind: &str, name: &Name) -> String {
    format!("{kind}/{}/{}", name.namespace, name.name)
}

/// Takes an object, unless a later version of it is known: what is written comes back before the watch brings it. Whether
/// it differs.
pub fn put<K: ResourceExt + PartialEq>(known: &mut BTreeMap<String, K>, object: K) -> bool {
    let name = object.name_any();
    if let Some(before) = known.get(&name) {
        let is_older =
            before.uid() == object.uid() && age(before).zip(age(&object)).is_some_and(|(before, now)| now < before);
        if is_older || *before == object {
            return false;
        }
    }
    known.insert(name, object);
    true
}

fn keep<V>(known: &mut BTreeMap<String, V>, names: &BTreeSet<Name>) -> bool {
    let before = known.len();
    known.retain(|name, _| names.contains(&Name { namespace: String::new(), name: name.clone() }));
    before != known.len()
}
