//! Follows the objects of kinds that are not known beforehand: what controls pods that ask for pools.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, DefaultBackoff};
use kube::{Api, discovery};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::read::{ForeignKind, Heard};
use crate::controller::Context;

/// Until it is asked again whether a kind is served, at most.
const AT_MOST: Duration = Duration::from_secs(60);

/// The watches of foreign kinds. They end with it.
pub(super) struct Foreign {
    context: Context,
    tell: mpsc::Sender<Heard>,
    watches: BTreeMap<ForeignKind, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Foreign {
    /// Without any.
    pub(super) fn new(context: Context, tell: mpsc::Sender<Heard>) -> Self {
        Self { context, tell, watches: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Follows these kinds and no others.
    pub(super) fn follow(&mut self, kinds: &BTreeSet<ForeignKind>) {
        self.watches.retain(|kind, task| {
            let is_wanted = kinds.contains(kind);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        while self.tasks.try_join_next().is_some() {}
        for kind in kinds {
            if !self.watches.contains_key(kind) {
                let task = self.tasks.spawn(watch(self.context.clone(), kind.clone(), self.tell.clone()));
                self.watches.insert(kind.clone(), task);
            }
        }
    }
}

async fn watch(context: Context, kind: ForeignKind, tell: mpsc::Sender<Heard>) {
    let resource = discovered(&context, &kind).await;
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(context.client.clone(), &resource);
    let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if tell.send(Heard::Foreign(kind.clone(), event)).await.is_err() {
                    return;
                }
            }
            Err(error) => warn(&context, &kind, &error),
        }
    }
}

/// How the kind is asked for, once the API server says that it serves it.
async fn discovered(context: &Context, kind: &ForeignKind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(&kind.0, &kind.1, &kind.2);
    let mut backoff = DefaultBackoff::default();
    loop {
        match context.within(discovery::pinned_kind(&context.client, &gvk)).await {
            Ok((resource, _)) => return resource,
            Err(error) => warn(context, kind, &error),
        }
        tokio::time::sleep(backoff.next().unwrap_or(AT_MOST)).await;
    }
}

fn warn(context: &Context, (group, version, kind): &ForeignKind, error: &dyn std::fmt::Display) {
    context.health.watch_failures.inc();
    tracing::warn!(
        %error, group, version, kind,
        "the owners of pods with pools of a SpiderSubnet cannot be watched, and their pools are not deleted with them: give \
         the controller the rights to list and watch this kind"
    );
}
