//! The status of every SpiderCoordinator: what the pods and the services of the cluster have for addresses.

mod decision;
mod sources;

use std::collections::BTreeMap;

use futures::future::join_all;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Resource, ResourceExt};
use schemas::crd::SpiderCoordinator;
use schemas::crd::coordinator::{PodCidrType, SpiderCoordinatorStatus};
use serde_json::json;
use tokio::sync::mpsc;

use self::decision::{Decision, Fault, Inputs};
use self::sources::Source;
use super::Context;
use super::cni_dir::{self, CniConf};
use super::health::Wait;
use super::kept::{BACKLOG, Kept, keep};
use super::watched::{Change, Key, Mirror, follow, is_not_found};
use crate::kubernetes::FIELD_MANAGER;

/// How its part is named in what is said about it.
const PART: &str = "SpiderCoordinator status";

/// What is new.
enum News {
    Of(Source, Change),
    Cni(Result<Option<CniConf>, String>),
}

impl From<(Source, Change)> for News {
    fn from((source, change): (Source, Change)) -> Self {
        Self::Of(source, change)
    }
}

/// Keeps the statuses, for as long as it is polled.
pub(super) async fn run(context: Context) {
    let (tell, seen) = mpsc::channel(BACKLOG);
    let followed = join_all(Source::ALL.map(|source| {
        let scope = source.scope(&context.config.cilium_config);
        follow(context.clone(), source.name(), source.kind(), scope, source, tell.clone())
    }));
    let cni = cni_dir::follow(context.config.cni_conf_dir.clone(), |found| {
        let tell = tell.clone();
        async move {
            // The receiver lives as long as this is polled.
            let _ = tell.send(News::Cni(found)).await;
        }
    });
    tokio::select! {
        _ = followed => {}
        () = cni => {}
        () = keep(Statuses::new(context.clone()), seen) => {}
    }
}

/// What has been written to which state of an object.
#[derive(PartialEq)]
struct Written {
    resource_version: Option<String>,
    status: SpiderCoordinatorStatus,
}

struct Statuses {
    context: Context,
    mirrors: BTreeMap<Source, Mirror>,
    cni: Option<Result<Option<CniConf>, String>>,
    written: BTreeMap<String, Written>,
    kinds: BTreeMap<String, Option<PodCidrType>>,
}

impl Statuses {
    fn new(context: Context) -> Self {
        Self { context, mirrors: BTreeMap::new(), cni: None, written: BTreeMap::new(), kinds: BTreeMap::new() }
    }

    async fn tell_change_of_type(&mut self, coordinator: &SpiderCoordinator) {
        let (name, kind) = (coordinator.name_any(), coordinator.spec.pod_cidr_type);
        if let Some(before) = self.kinds.insert(name, kind)
            && before != kind
        {
            let text = |kind: Option<PodCidrType>| {
                let text = serde_json::to_value(kind.unwrap_or(PodCidrType::Auto)).unwrap_or_default();
                text.as_str().unwrap_or_default().to_owned()
            };
            let note = format!("podCIDRType changed from {} to {}", text(before), text(kind));
            let regarding = coordinator.object_ref(&());
            self.context.publish(EventType::Normal, "PodCIDRTypeChanged", note, &regarding).await;
        }
    }

    async fn write_one(&mut self, coordinator: &SpiderCoordinator, decision: Decision, inputs: &Inputs) -> bool {
        let name = coordinator.name_any();
        if coordinator.status.as_ref().is_some_and(|status| is_same(status, &decision.status)) {
            self.written.remove(&name);
            return true;
        }
        let resource_version = coordinator.resource_version();
        let writing = Written { resource_version, status: decision.status };
        // Written, and not seen yet.
        if self.written.get(&name) == Some(&writing) {
            return true;
        }
        let status = &writing.status;
        let patch = Patch::Merge(json!({"status": {
            "phase": status.phase,
            "reason": status.reason,
            "overlayPodCIDR": status.overlay_pod_cidr,
            "serviceCIDR": status.service_cidr,
        }}));
        let api: Api<SpiderCoordinator> = Api::all(self.context.client.clone());
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match self.context.within(api.patch_status(&name, &parameters, &patch)).await {
            Ok(_) => {
                self.context.health.coordinator_writes.inc();
                let reason = status.reason.as_deref().unwrap_or_default();
                tracing::info!(
                    coordinator = name, phase = status.phase, reason,
                    overlay = ?status.overlay_pod_cidr, services = ?status.service_cidr, "status written"
                );
                if matches!(decision.fault, Some(Fault::NoCilium(_))) {
                    let note = format!("ConfigMap {} is not found", inputs.cilium_config_name);
                    let regarding = coordinator.object_ref(&());
                    self.context.publish(EventType::Warning, "CiliumNotReady", note, &regarding).await;
                }
                self.written.insert(name, writing);
                true
            }
            Err(error) if is_not_found(&error) => true,
            Err(error) => {
                self.context.health.failures.inc();
                tracing::warn!(coordinator = name, %error, "the status cannot be written; trying again");
                false
            }
        }
    }
}

impl Kept for Statuses {
    type News = News;

    fn take(&mut self, news: News) {
        match news {
            News::Of(source, change) => self.mirrors.entry(source).or_default().apply(change),
            News::Cni(found) => self.cni = Some(found),
        }
    }

    async fn write(&mut self) -> bool {
        let Some(Mirror::Read(objects)) = self.mirrors.get(&Source::Coordinators) else { return true };
        let coordinators: Vec<SpiderCoordinator> = objects.iter().filter_map(read).collect();
        let inputs = sources::inputs(&self.mirrors, self.cni.clone(), &self.context.config.cilium_config);
        self.written.retain(|name, _| coordinators.iter().any(|coordinator| coordinator.name_any() == *name));
        self.kinds.retain(|name, _| coordinators.iter().any(|coordinator| coordinator.name_any() == *name));
        let mut is_done = true;
        let mut unread = None;
        for coordinator in &coordinators {
            self.tell_change_of_type(coordinator).await;
            match decision::decide(coordinator.spec.pod_cidr_type, &inputs) {
                Ok(decision) => is_done &= self.write_one(coordinator, decision, &inputs).await,
                Err(error) => unread = Some(Wait::Missing(format!("{PART}: {error}"))),
            }
        }
        self.context.health.waits_for(PART, unread);
        is_done
    }
}

/// One that cannot be read is of a newer release; it is left alone, and the others are not.
fn read((key, object): (&Key, &DynamicObject)) -> Option<SpiderCoordinator> {
    match object.clone().try_parse() {
        Ok(coordinator) => Some(coordinator),
        Err(error) => {
            tracing::warn!(coordinator = key.1, %error, "a SpiderCoordinator cannot be read: it is left alone");
            None
        }
    }
}

fn is_same(there: &SpiderCoordinatorStatus, wanted: &SpiderCoordinatorStatus) -> bool {
    let reason = |status: &SpiderCoordinatorStatus| status.reason.clone().unwrap_or_default();
    reason(there) == reason(wanted)
        && there.phase == wanted.phase
        && there.overlay_pod_cidr == wanted.overlay_pod_cidr
        && there.service_cidr == wanted.service_cidr
}
