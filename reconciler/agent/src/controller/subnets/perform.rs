//! Doing what was decided. What comes of it is what is decided from next.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use plan::allocate::AddressSet;
use schemas::crd::{SpiderIPPool, SpiderSubnet};
use serde_json::Value;

use super::decision::Action;
use super::fences::{self, Wish};
use super::read::{Reading, put};
use crate::controller::Context;
use crate::controller::watched::is_not_found;
use crate::kubernetes::FIELD_MANAGER;

/// Whether it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// It was.
    Yes,
    /// Somebody else was faster, or the API server did not do it.
    No,
}

/// Does it.
pub(super) async fn perform(context: &Context, reading: &mut Reading, action: Action) -> Done {
    let subnets: Api<SpiderSubnet> = Api::all(context.client.clone());
    let pools: Api<SpiderIPPool> = Api::all(context.client.clone());
    let manager = Some(FIELD_MANAGER.to_owned());
    let parameters = PatchParams { field_manager: manager.clone(), ..PatchParams::default() };
    match action {
        Action::Subnet { name, patch } => {
            let written = context.within(subnets.patch(&name, &parameters, &Patch::<Value>::Merge(patch))).await;
            ended(context, "SpiderSubnet", &name, written, |subnet| {
                put(&mut reading.view.subnets, subnet);
            })
        }
        Action::Status { name, patch, told } => {
            let written = context.within(subnets.patch_status(&name, &parameters, &Patch::<Value>::Merge(patch))).await;
            if let Ok(subnet) = &written {
                for (reason, note) in told {
                    context.publish(reason.event_type(), reason.text(), note, &subnet.object_ref(&())).await;
                }
            }
            ended(context, "SpiderSubnet", &name, written, |subnet| {
                put(&mut reading.view.subnets, subnet);
            })
        }
        Action::Create(pool) => {
            let name = pool.name_any();
            let parameters = PostParams { field_manager: manager, ..PostParams::default() };
            let written = context.within(pools.create(&parameters, &pool)).await;
            if written.is_ok() {
                tracing::info!(pool = name, ips = ?pool.spec.ips, "SpiderIPPool created");
            }
            ended(context, "SpiderIPPool", &name, written, |pool| {
                reading.put_pool(pool);
            })
        }
        Action::Pool { name, patch } => {
            let ips = patch["spec"]["ips"].clone();
            let written = context.within(pools.patch(&name, &parameters, &Patch::<Value>::Merge(patch))).await;
            if written.is_ok() && !ips.is_null() {
                tracing::info!(pool = name, %ips, "SpiderIPPool changed");
            }
            let usage = reading.view.usage.get(&name).cloned();
            ended(context, "SpiderIPPool", &name, written, |pool| {
                reading.put_pool(pool);
                // Of its slots nothing has changed by this.
                reading.view.usage.extend(usage.map(|usage| (name.clone(), usage)));
            })
        }
        Action::Delete { name, uid, version } => {
            let preconditions = Preconditions { uid: Some(uid), resource_version: Some(version) };
            let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match context.within(pools.delete(&name, &parameters)).await {
                Ok(deleted) => {
                    tracing::info!(pool = name, "SpiderIPPool of a workload that is gone: deleted");
                    // Without a finalizer it is gone at once.
                    match deleted.left() {
                        Some(pool) => {
                            reading.put_pool(pool);
                        }
                        None => {
                            reading.view.pools.remove(&name);
                        }
                    }
                    Done::Yes
                }
                Err(error) => ended(context, "SpiderIPPool", &name, Err::<(), _>(error), drop),
            }
        }
        Action::Look(name) => look(context, reading, &name).await,
        Action::Fence(name, addresses) => slots(context, reading, &name, &addresses, Wish::Fence).await,
        Action::Unfence(name, addresses) => slots(context, reading, &name, &addresses, Wish::Unfence).await,
    }
}

fn ended<T>(context: &Context, kind: &str, name: &str, written: kube::Result<T>, take: impl FnOnce(T)) -> Done {
    match written {
        Ok(written) => {
            take(written);
            Done::Yes
        }
        Err(error) => {
            let is_conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
            // The watch is behind: what it brings is what is decided from next.
            if is_conflict || is_not_found(&error) {
                tracing::debug!(kind, name, %error, "somebody else was faster");
            } else {
                context.health.failures.inc();
                tracing::warn!(kind, name, %error, "it cannot be written; trying again");
            }
            Done::No
        }
    }
}

async fn look(context: &Context, reading: &mut Reading, name: &str) -> Done {
    let Some(pool) = reading.view.pools.get(name) else { return Done::No };
    match fences::look(&context.client, pool).await {
        Ok(usage) => {
            reading.view.usage.insert(name.to_owned(), usage);
            Done::Yes
        }
        Err(error) => failed(context, name, &error),
    }
}

async fn slots(context: &Context, reading: &mut Reading, name: &str, addresses: &AddressSet, wish: Wish) -> Done {
    let Some(pool) = reading.view.pools.get(name).cloned() else { return Done::No };
    if let Err(error) = fences::write(&context.client, &pool, addresses, wish).await {
        return failed(context, name, &error);
    }
    if pool.status.is_none() {
        // Its size is known by now.
        let pools: Api<SpiderIPPool> = Api::all(context.client.clone());
        let Ok(pool) = context.within(pools.get(name)).await else { return Done::No };
        reading.put_pool(pool);
    }
    look(context, reading, name).await
}

fn failed(context: &Context, pool: &str, error: &str) -> Done {
    context.health.failures.inc();
    tracing::warn!(pool, error, "the shards of a pool cannot be read or written; trying again");
    Done::No
}
