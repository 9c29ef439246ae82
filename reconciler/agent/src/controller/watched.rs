//! Follows the objects of one kind, whether or not it is served yet.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::error::DiscoveryError;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, ResourceExt, discovery};
use tokio::sync::mpsc;

use super::Context;
use super::health::Wait;

/// A list that has not come by then is asked for again.
const LISTED_WITHIN: Duration = Duration::from_secs(60);
/// How often it is asked whether the API server serves a kind of its own: that it has been replaced is no event.
const NEW_SERVER: Duration = Duration::from_secs(300);

/// What it means that a kind is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// Nothing can be done without it.
    Blocks,
    /// Something is left undone.
    Lacks,
    /// The cluster does without.
    IsFine,
}

/// A kind of object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    /// None: the most stable one that is served.
    pub(super) version: Option<&'static str>,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    /// Whether it is there by a CustomResourceDefinition.
    pub(super) is_custom: bool,
    pub(super) absence: Absence,
}

impl Kind {
    /// One that every API server has.
    pub(super) const fn of_core(kind: &'static str, plural: &'static str) -> Self {
        Self { group: "", version: Some("v1"), kind, plural, is_custom: false, absence: Absence::IsFine }
    }

    /// One of ours.
    pub(super) const fn of_ours(kind: &'static str, plural: &'static str) -> Self {
        Self {
            group: "spiderpool.spidernet.io",
            version: Some("v2beta1"),
            kind,
            plural,
            is_custom: true,
            absence: Absence::Blocks,
        }
    }

    fn crd(&self) -> Option<String> {
        self.is_custom.then(|| format!("{}.{}", self.plural, self.group))
    }

    /// In one fixed version.
    pub(super) fn resource_of(&self, version: &str) -> ApiResource {
        let api_version = if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) };
        ApiResource {
            group: self.group.into(),
            version: version.into(),
            api_version,
            kind: self.kind.into(),
            plural: self.plural.into(),
        }
    }
}

/// Which objects of a kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// None: of all namespaces, or of none.
    pub(super) namespace: Option<String>,
    /// A field selector.
    pub(super) fields: Option<String>,
    /// A label selector.
    pub(super) labels: Option<String>,
}

/// What is new.
#[derive(Debug)]
pub(super) enum Change {
    /// The kind is not served.
    Absent,
    /// All objects; those known before and not here are gone.
    All(Vec<DynamicObject>),
    /// One is there, or another than before.
    Put(Box<DynamicObject>),
    /// One is gone.
    Gone(Box<DynamicObject>),
}

/// Namespace, empty without, and name.
pub(super) type Key = (String, String);

/// The object's key.
pub(super) fn key(object: &DynamicObject) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// What is known of a kind.
#[derive(Debug, Default)]
pub(super) enum Mirror {
    /// Nothing yet.
    #[default]
    Unread,
    /// It is not served.
    Absent,
    /// Its objects.
    Read(BTreeMap<Key, DynamicObject>),
}

impl Mirror {
    /// Takes over what is new.
    pub(super) fn apply(&mut self, change: Change) {
        match (change, &mut *self) {
            (Change::Absent, _) => *self = Self::Absent,
            (Change::All(objects), _) => {
                *self = Self::Read(objects.into_iter().map(|object| (key(&object), object)).collect());
            }
            (Change::Put(object), Self::Read(known)) => {
                known.insert(key(&object), *object);
            }
            (Change::Gone(object), Self::Read(known)) => {
                known.remove(&key(&object));
            }
            // Neither comes before a list.
            (Change::Put(_) | Change::Gone(_), Self::Unread | Self::Absent) => {}
        }
    }
}

/// Follows a kind for as long as anybody listens. `part` names it in what is said about it.
pub(super) async fn follow<S: Copy, N: From<(S, Change)>>(
    context: Context,
    part: &'static str,
    kind: Kind,
    scope: Scope,
    source: S,
    tell: mpsc::Sender<N>,
) {
    let unread = format!("{part} have not been read yet");
    // Who needs what a cluster can do without says so.
    let unread = if kind.absence == Absence::Blocks { Wait::Missing(unread) } else { Wait::Lacking(unread) };
    context.health.waits_for(part, Some(unread));
    let follower = Follower { context, part, kind, scope, source, tell, is_absence_told: false };
    // The end is that nobody listens.
    let _ = follower.run().await;
}

/// Nobody listens any more.
struct Unheard;

/// Why a watch has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// The kind is not served.
    NotServed,
    /// It is to be tried again.
    Off,
}

struct Follower<S, N> {
    context: Context,
    part: &'static str,
    kind: Kind,
    scope: Scope,
    source: S,
    tell: mpsc::Sender<N>,
    is_absence_told: bool,
}

impl<S: Copy, N: From<(S, Change)>> Follower<S, N> {
    async fn run(mut self) -> Result<(), Unheard> {
        let crd = self.kind.crd();
        let mut crds = self.context.crds.clone();
        let mut backoff = DefaultBackoff::default();
        loop {
            let is_defined = match (&crd, crds.borrow_and_update().as_ref()) {
                (None, _) => Some(true),
                (Some(_), None) => None,
                (Some(name), Some(names)) => Some(names.contains(name)),
            };
            let Some(is_defined) = is_defined else {
                crds.changed().await.map_err(|_| Unheard)?;
                continue;
            };
            let again = backoff.next().unwrap_or(NEW_SERVER);
            let pause = match if is_defined { self.resource().await } else { Ok(None) } {
                Ok(Some(resource)) => {
                    if self.watch(&resource).await? == Broken::NotServed {
                        self.absent().await?;
                    }
                    again
                }
                Ok(None) => {
                    self.absent().await?;
                    // Defined, and not served yet: it will be in a moment.
                    if is_defined && crd.is_some() { again } else { NEW_SERVER }
                }
                Err(error) => {
                    self.context.health.failures.inc();
                    let part = self.part;
                    tracing::warn!(%error, "{part}: the API server does not tell whether it serves them; trying again");
                    again
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = crds.changed(), if crd.is_some() => changed.map_err(|_| Unheard)?,
            }
        }
    }

    /// The version that is asked for: the fixed one, or the most stable one of those that are served. A group's
    /// preferred version need not have the kind.
    async fn resource(&self) -> Result<Option<ApiResource>, kube::Error> {
        if let Some(version) = self.kind.version {
            return Ok(Some(self.kind.resource_of(version)));
        }
        match self.context.within(discovery::group(&self.context.client, self.kind.group)).await {
            Ok(group) => {
                let mut resources = group.resources_by_stability().into_iter().map(|(resource, _)| resource);
                Ok(resources.find(|resource| resource.kind == self.kind.kind))
            }
            Err(kube::Error::Discovery(DiscoveryError::MissingApiGroup(_))) => Ok(None),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says so once.
    async fn absent(&mut self) -> Result<(), Unheard> {
        if self.is_absence_told {
            return Ok(());
        }
        self.is_absence_told = true;
        let (part, kind) = (self.part, &self.kind);
        let crd = format!("{}.{}", kind.plural, kind.group);
        let wait = match kind.absence {
            Absence::Blocks => Some(Wait::Missing(format!("{part} are not served: apply the CRD {crd}"))),
            Absence::Lacks => Some(Wait::Lacking(format!("{part} are not served: waiting for the CRD {crd}"))),
            Absence::IsFine => None,
        };
        match wait {
            Some(_) => tracing::warn!("{part} are not served: waiting for the CRD {crd}"),
            None => tracing::debug!("{part} are not served"),
        }
        self.context.health.waits_for(part, wait);
        self.send(Change::Absent).await
    }

    async fn send(&self, change: Change) -> Result<(), Unheard> {
        self.tell.send((self.source, change).into()).await.map_err(|_| Unheard)
    }

    /// Watches until it has to be started anew. Breaks that the same watch gets over are not told.
    async fn watch(&mut self, resource: &ApiResource) -> Result<Broken, Unheard> {
        let client = self.context.client.clone();
        let api: Api<DynamicObject> = match &self.scope.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
            None => Api::all_with(client, resource),
        };
        let config = watcher::Config {
            field_selector: self.scope.fields.clone(),
            label_selector: self.scope.labels.clone(),
            ..watcher::Config::default()
        };
        let mut events = Box::pin(watch_objects(api, config).default_backoff());
        let mut listed = Vec::new();
        let mut is_listed = false;
        loop {
            let next = events.next();
            let event = if is_listed { Ok(next.await) } else { tokio::time::timeout(LISTED_WITHIN, next).await };
            let Ok(event) = event else {
                tracing::warn!("{}: no list came in {LISTED_WITHIN:?}; trying again", self.part);
                return Ok(Broken::Off);
            };
            let change = match event {
                None => return Ok(Broken::Off),
                Some(Ok(Event::Init)) => {
                    listed.clear();
                    is_listed = false;
                    continue;
                }
                Some(Ok(Event::InitApply(object))) => {
                    listed.push(lean(object));
                    continue;
                }
                Some(Ok(Event::InitDone)) => {
                    is_listed = true;
                    self.is_absence_told = false;
                    if self.context.health.waits_for(self.part, None) {
                        tracing::info!("{} are read", self.part);
                    }
                    Change::All(std::mem::take(&mut listed))
                }
                Some(Ok(Event::Apply(object))) => Change::Put(Box::new(lean(object))),
                Some(Ok(Event::Delete(object))) => Change::Gone(Box::new(lean(object))),
                Some(Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)))
                    if is_not_found(&error) =>
                {
                    return Ok(Broken::NotServed);
                }
                Some(Err(error)) => {
                    self.context.health.watch_failures.inc();
                    tracing::warn!(%error, "{} cannot be watched; trying again", self.part);
                    continue;
                }
            };
            self.send(change).await?;
        }
    }
}

/// Whether the API server says that there is no such thing.
pub(super) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Without what nobody here asks about.
fn lean(mut object: DynamicObject) -> DynamicObject {
    object.metadata.managed_fields = None;
    object
}
