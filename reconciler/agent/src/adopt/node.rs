//! The step on a node: its pods' addresses become the node's, in the API server first and then in the store.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::Client;
use netlink::Kernel;
use schemas::slot::{Holder, Subject};
use store::{Change, Snapshot, Store};

use super::claims::View;
use super::pods::{self, Adoption, Known};
use super::{AdoptError, Config, Report, State, api, cache, namespaces};
use crate::catalogue::Catalogue;
use crate::cluster::incarnation;
use crate::cluster::leases::KEY_POOL;
use crate::kubernetes;
use crate::leased::{Leased, set_of};

pub(super) async fn run(config: &Config) -> Result<Report, AdoptError> {
    let client = kubernetes::client(config.kubeconfig.as_deref()).await?;
    let kernel = Kernel::new().map_err(|error| AdoptError::Kernel(error.to_string()))?;
    // Open until the end: no agent starts meanwhile.
    let (store, snapshot) = open(config, kernel.boot_id())?;
    let catalogue = api::catalogue(&client).await?;
    let mut report = Report { faults: catalogue.faults.clone(), ..Report::default() };
    let known = known(config, &client, &kernel, &catalogue, &mut report.faults).await?;
    let (mut adoptions, rows) = pods::decide(&known, &snapshot);
    report.rows = rows;
    let id = match &store {
        Some(store) => Some(incarnation::identity(store).map_err(AdoptError::Store)?),
        None => None,
    };
    let holder = api::hold(&client, &config.namespace, &config.node_name, id.as_deref(), config.lease_ttl).await?;
    let mut views = BTreeMap::new();
    for pool in wishes(&adoptions, &holder).into_keys() {
        let view = api::view(&client, &catalogue, &pool, config.is_dry).await?;
        views.insert(pool, view);
    }
    leave_refused(&mut adoptions, &views, &holder, &mut report);
    if let Some(store) = &store {
        claim(store, views, &adoptions, &holder).await?;
        record(store, snapshot, &adoptions, &holder)?;
    }
    for adoption in &adoptions {
        report.rows.extend(adoption.rows(State::Adopted, &adoption.note));
    }
    report.rows.sort_by(|a, b| (&a.pod, &a.ifname).cmp(&(&b.pod, &b.ifname)));
    Ok(report)
}

/// The store, unless nothing may be written, and what it has.
fn open(config: &Config, boot_id: &str) -> Result<(Option<Store>, Snapshot), AdoptError> {
    let failed = |error: &dyn std::fmt::Display| AdoptError::Store(error.to_string());
    if config.is_dry {
        if !config.store_dir.exists() {
            return Ok((None, Snapshot::default()));
        }
        let (snapshot, _) = store::load_offline(&config.store_dir).map_err(|error| failed(&error))?;
        return Ok((None, snapshot));
    }
    if let Some(parent) = config.store_dir.parent() {
        let made = std::fs::create_dir_all(parent);
        made.map_err(|source| AdoptError::Folder { path: parent.display().to_string(), source })?;
    }
    let store = Store::open(&config.store_dir, &config.node_name, boot_id).map_err(|error| failed(&error))?;
    let snapshot = store.load().map_err(|error| failed(&error))?;
    Ok((Some(store), snapshot))
}

async fn known(
    config: &Config,
    client: &Client,
    kernel: &Kernel,
    catalogue: &Catalogue,
    faults: &mut Vec<String>,
) -> Result<Known, AdoptError> {
    let node = config.node_name.as_str();
    let mut known = Known {
        endpoints: api::endpoints(client, Some(node)).await?.into_iter().map(|(_, endpoint)| endpoint).collect(),
        pools: catalogue.pools.iter().map(|(name, pool)| (name.clone(), pool.ranges.subnet)).collect(),
        pods: api::pods(client, node).await?,
        ..Known::default()
    };
    for (name, pool) in &catalogue.pools {
        known.users.insert(name.clone(), api::users(pool, faults)?);
    }
    known.namespaces = namespaces::find(kernel, &config.netns_dirs)
        .map_err(|source| AdoptError::Folder { path: "the folder of network namespaces".to_owned(), source })?;
    let (cached, unread) = cache::read(&config.cni_cache_dir)
        .map_err(|source| AdoptError::Folder { path: config.cni_cache_dir.display().to_string(), source })?;
    faults.extend(unread);
    known.cached = cached;
    Ok(known)
}

/// By pool, the addresses that are to be the holder's.
fn wishes(adoptions: &[Adoption], holder: &Holder) -> BTreeMap<String, BTreeMap<IpAddr, Subject>> {
    let mut wishes: BTreeMap<String, BTreeMap<IpAddr, Subject>> = BTreeMap::new();
    for (pool, address) in adoptions.iter().flat_map(Adoption::addresses) {
        wishes.entry(pool.to_owned()).or_default().insert(address, Subject::Node(holder.clone()));
    }
    wishes
}

/// Leaves those pods alone of which an address is somebody else's by the pools' shards.
fn leave_refused(adoptions: &mut Vec<Adoption>, views: &BTreeMap<String, View>, holder: &Holder, report: &mut Report) {
    let mut refused = BTreeMap::new();
    for (pool, wishes) in wishes(adoptions, holder) {
        if let Some(view) = views.get(&pool) {
            refused.extend(view.judge(&wishes, false).refused);
        }
    }
    adoptions.retain(|adoption| {
        let reason = adoption.addresses().find_map(|(_, address)| Some((address, refused.get(&address)?)));
        if let Some((address, reason)) = reason {
            report.rows.extend(adoption.rows(State::Left, &format!("{address}: {reason}")));
        }
        reason.is_none()
    });
}

async fn claim(
    store: &Store,
    mut views: BTreeMap<String, View>,
    adoptions: &[Adoption],
    holder: &Holder,
) -> Result<(), AdoptError> {
    let failed = |pool: &str, reason: String| AdoptError::Api { what: format!("SpiderIPPool {pool}"), reason };
    for (pool, wishes) in wishes(adoptions, holder) {
        let Some(view) = views.remove(&pool) else { continue };
        // Before the first claim, as the agent does: what comes of a claim whose answer is lost is looked for then.
        let change = Change::new().put_catalogue(&format!("{KEY_POOL}{pool}"), "");
        store.commit(change).map_err(|error| AdoptError::Store(error.to_string()))?;
        let settled = view.apply(&wishes, false).await.map_err(|reason| failed(&pool, reason))?;
        if let Some((address, reason)) = settled.refused.first_key_value() {
            return Err(failed(&pool, format!("{address}: {reason}, since just now: run it again")));
        }
    }
    Ok(())
}

fn record(store: &Store, snapshot: Snapshot, adoptions: &[Adoption], holder: &Holder) -> Result<(), AdoptError> {
    let mut leased = Leased::of(snapshot.leases);
    for adoption in adoptions {
        let mut change = super::change(adoption, Change::new());
        for (pool, address) in adoption.addresses() {
            (change, leased) = leased.with(change, pool, &set_of(&[address]), holder.epoch());
        }
        let pod = adoption.attachments.first().map(|attachment| attachment.pod.to_string()).unwrap_or_default();
        store.commit(change).map_err(|source| AdoptError::Record { pod, source })?;
    }
    Ok(())
}
