//! Which custom resource definitions there are: kinds of other programs come and go while the controller runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch;

use super::Context;
use super::health::Wait;

/// Tells their names at every change of any of them: a new one is not served at once, and its next change may be the
/// one that says that it is.
pub(super) async fn run(context: Context, names: watch::Sender<Option<Arc<BTreeSet<String>>>>) {
    let part = "CustomResourceDefinitions";
    context.health.waits_for(part, Some(Wait::Missing(format!("{part} have not been read yet"))));
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(context.client.clone());
    let mut seen = Box::pin(watcher(api, Config::default()).default_backoff());
    let mut known = BTreeSet::new();
    let mut listed = BTreeSet::new();
    while let Some(event) = seen.next().await {
        match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(crd)) => {
                listed.insert(crd.name_any());
                continue;
            }
            Ok(Event::InitDone) => {
                known = std::mem::take(&mut listed);
                context.health.waits_for(part, None);
            }
            Ok(Event::Apply(crd)) => {
                known.insert(crd.name_any());
            }
            Ok(Event::Delete(crd)) => {
                known.remove(&crd.name_any());
            }
            Err(error) => {
                context.health.watch_failures.inc();
                tracing::warn!(%error, "{part} cannot be watched; trying again");
                continue;
            }
        }
        names.send_replace(Some(Arc::new(known.clone())));
    }
}
