//! SpiderMultusConfig to NetworkAttachmentDefinition: every network has its definition, and keeps it.

mod desired;

use std::collections::BTreeMap;

use futures::future::join_all;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::events::EventType;
use kube::{Api, Resource};
use serde_json::Value;
use tokio::sync::mpsc;

use self::desired::{Fault, Step, compare};
use super::Context;
use super::kept::{BACKLOG, Kept, keep};
use super::watched::{Absence, Change, Key, Kind, Mirror, Scope, follow, is_not_found};
use crate::kubernetes::FIELD_MANAGER;

const NETWORKS: Kind = Kind::of_ours("SpiderMultusConfig", "spidermultusconfigs");
/// Multus brings it.
const DEFINITIONS: Kind = Kind {
    group: "k8s.cni.cncf.io",
    version: Some("v1"),
    kind: "NetworkAttachmentDefinition",
    plural: "network-attachment-definitions",
    is_custom: true,
    absence: Absence::Lacks,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Networks,
    Definitions,
}

/// Keeps the definitions, for as long as it is polled.
pub(super) async fn run(context: Context) {
    let (tell, seen) = mpsc::channel(BACKLOG);
    let sources = [
        ("SpiderMultusConfigs", NETWORKS, Source::Networks),
        ("NetworkAttachmentDefinitions", DEFINITIONS, Source::Definitions),
    ];
    let followed = join_all(
        sources.map(|(part, kind, source)| follow(context.clone(), part, kind, Scope::default(), source, tell.clone())),
    );
    tokio::select! {
        _ = followed => {}
        () = keep(Networks::new(context.clone()), seen) => {}
    }
}

struct Networks {
    context: Context,
    resource: ApiResource,
    networks: Mirror,
    definitions: Mirror,
    told: BTreeMap<Key, Fault>,
}

impl Networks {
    fn new(context: Context) -> Self {
        Self {
            context,
            resource: DEFINITIONS.resource_of("v1"),
            networks: Mirror::default(),
            definitions: Mirror::default(),
            told: BTreeMap::new(),
        }
    }

    async fn apply(&self, (namespace, name): &Key, step: Step) -> Result<DynamicObject, kube::Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.context.client.clone(), namespace, &self.resource);
        let manager = Some(FIELD_MANAGER.to_owned());
        let (verb, mut written) = match step {
            Step::Create(object) => {
                let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
                let parameters = PostParams { field_manager: manager, ..PostParams::default() };
                ("created", self.context.within(api.create(&parameters, &object)).await?)
            }
            Step::Patch(patch) => {
                let parameters = PatchParams { field_manager: manager, ..PatchParams::default() };
                let patch: Patch<Value> = Patch::Merge(patch);
                ("brought in line", self.context.within(api.patch(name, &parameters, &patch)).await?)
            }
        };
        tracing::info!(namespace, name, "NetworkAttachmentDefinition {verb}");
        written.metadata.managed_fields = None;
        Ok(written)
    }

    /// Says once of each what is wrong with it.
    async fn tell(&self, networks: &BTreeMap<Key, DynamicObject>, faults: BTreeMap<Key, Fault>) {
        for (key, fault) in faults {
            if self.told.get(&key) == Some(&fault) {
                continue;
            }
            tracing::warn!(namespace = key.0, name = key.1, reason = fault.reason(), "SpiderMultusConfig: {fault}");
            if let Some(object) = networks.get(&key) {
                let regarding = object.object_ref(&NETWORKS.resource_of("v2beta1"));
                self.context.publish(EventType::Warning, fault.reason(), fault.to_string(), &regarding).await;
            }
        }
    }
}

impl Kept for Networks {
    type News = (Source, Change);

    fn take(&mut self, (source, change): Self::News) {
        match source {
            Source::Networks => self.networks.apply(change),
            Source::Definitions => self.definitions.apply(change),
        }
    }

    /// Brings in line what differs. False when something could not be written, or was written by somebody else at the
    /// same time: then it is looked at again, if nothing is seen before.
    async fn write(&mut self) -> bool {
        let (Mirror::Read(networks), Mirror::Read(definitions)) = (&self.networks, &self.definitions) else {
            return true;
        };
        let todo = compare(networks, definitions);
        self.tell(networks, todo.faults.clone()).await;
        self.told = todo.faults;
        self.context.health.refuses_networks(self.told.len());
        let mut is_done = true;
        for (key, step) in todo.steps {
            match self.apply(&key, step).await {
                Ok(written) => {
                    self.context.health.network_writes.inc();
                    let change = Change::Put(Box::new(written));
                    self.definitions.apply(change);
                }
                Err(error) => {
                    is_done = false;
                    let is_conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
                    // The watch is behind: what it brings is what is compared next.
                    if is_conflict || is_not_found(&error) {
                        tracing::debug!(namespace = key.0, name = key.1, %error, "somebody else was faster");
                    } else {
                        self.context.health.failures.inc();
                        let text = "a NetworkAttachmentDefinition cannot be written; trying again";
                        tracing::warn!(namespace = key.0, name = key.1, %error, "{text}");
                    }
                }
            }
        }
        is_done
    }
}
