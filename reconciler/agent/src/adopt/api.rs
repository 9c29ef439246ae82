//! What the API server says of pools and pods, and as whom the node claims.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use plan::lease::Windows;
use schemas::crd::ippool::PoolIpUser;
use schemas::crd::{SpiderEndpoint, SpiderIPPool, SpiderReservedIP};
use schemas::slot::Holder;
use serde::de::DeserializeOwned;

use super::AdoptError;
use super::claims::View;
use super::pods::Endpoint;
use crate::catalogue::{Catalogue, Object, Pool};
use crate::cluster::leases::requests::Shards;
use crate::cluster::leases::windows;
use crate::kubernetes::{AGENT_LEASE, FIELD_MANAGER};

/// So many objects come in one answer.
const PAGE: u32 = 500;

fn failed(what: &str) -> impl Fn(kube::Error) -> AdoptError {
    let what = what.to_owned();
    move |error| AdoptError::Api { what: what.clone(), reason: error.to_string() }
}

async fn list<K>(api: Api<K>, fields: Option<&str>) -> Result<Vec<K>, kube::Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut params = ListParams::default().limit(PAGE);
    if let Some(fields) = fields {
        params = params.fields(fields);
    }
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// Pools and reserved addresses.
pub(super) async fn catalogue(client: &Client) -> Result<Catalogue, AdoptError> {
    let pools: Vec<SpiderIPPool> = list(Api::all(client.clone()), None).await.map_err(failed("SpiderIPPools"))?;
    let reserved: Vec<SpiderReservedIP> =
        list(Api::all(client.clone()), None).await.map_err(failed("SpiderReservedIPs"))?;
    let objects = pools.into_iter().map(Object::IpPool).chain(reserved.into_iter().map(Object::ReservedIp));
    Ok(Catalogue::of(objects))
}

/// The SpiderEndpoints with the nodes of their pods, of one node or of all.
pub(super) async fn endpoints(client: &Client, node: Option<&str>) -> Result<Vec<(String, Endpoint)>, AdoptError> {
    let fields = node.map(|node| format!("status.current.node={node}"));
    let api: Api<SpiderEndpoint> = Api::all(client.clone());
    let found = match list(api.clone(), fields.as_deref()).await {
        // The definition is still Spiderpool's, or the server knows no such selectors: all are read then.
        Err(kube::Error::Api(status)) if status.code == 400 && fields.is_some() => list(api, None).await,
        found => found,
    };
    let found = found.map_err(failed("SpiderEndpoints"))?;
    let endpoint = |found: SpiderEndpoint| {
        let pod = schemas::intent::PodRef {
            namespace: found.namespace().unwrap_or_default(),
            name: found.name_any(),
            uid: String::new(),
        };
        let current = found.status?.current;
        let pod = schemas::intent::PodRef { uid: current.uid, ..pod };
        Some((current.node, Endpoint { pod, nics: current.ips }))
    };
    let is_asked = |(of, _): &(String, Endpoint)| node.is_none_or(|node| of == node);
    Ok(found.into_iter().filter_map(endpoint).filter(is_asked).collect())
}

/// The pods of a node as namespace/name.
pub(super) async fn pods(client: &Client, node: &str) -> Result<BTreeSet<String>, AdoptError> {
    let api: Api<Pod> = Api::all(client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = api.list_metadata(&params).await.map_err(failed("pods"))?;
    Ok(pods.items.iter().map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect())
}

/// Who has which addresses by a pool's status; what of it cannot be read is told.
pub(super) fn users(pool: &Pool, faults: &mut Vec<String>) -> Result<BTreeMap<IpAddr, PoolIpUser>, AdoptError> {
    let name = pool.object.name_any();
    let what = || format!("status.allocatedIPs of SpiderIPPool {name}");
    let status = pool.object.status.clone().unwrap_or_default();
    let users =
        status.users().map_err(|error| AdoptError::Api { what: what(), reason: format!("cannot be read: {error}") })?;
    let mut read = BTreeMap::new();
    for (text, user) in users {
        match text.parse() {
            Ok(address) => drop(read.insert(address, user)),
            Err(_) => faults.push(format!("{}: {text:?} is no address", what())),
        }
    }
    Ok(read)
}

/// A pool's shards as they are. How large they are is fixed unless nothing may be written.
pub(super) async fn view(client: &Client, catalogue: &Catalogue, pool: &str, is_dry: bool) -> Result<View, AdoptError> {
    let failed = |reason: String| AdoptError::Api { what: format!("SpiderIPPool {pool}"), reason };
    let declared = catalogue.pools.get(pool).ok_or_else(|| failed("there is none".to_owned()))?;
    let shards = |windows: &Windows| Shards {
        client: client.clone(),
        pool: pool.to_owned(),
        pool_uid: declared.object.metadata.uid.clone().unwrap_or_default(),
        layout: *windows.layout(),
    };
    let known = declared.object.status.as_ref().and_then(|status| status.shard_size);
    let mut found = shards(&windows(catalogue, declared, known));
    if known.is_none() && !is_dry {
        let size = found.fix_size().await.map_err(failed)?;
        found = shards(&windows(catalogue, declared, Some(size)));
    }
    View::read(found).await.map_err(failed)
}

/// As whom a node's store claims: its Lease object is made, or renewed, unless nothing may be written.
///
/// # Errors
/// Another store is the node.
pub(super) async fn hold(
    client: &Client,
    namespace: &str,
    node: &str,
    id: Option<&str>,
    ttl: Duration,
) -> Result<Holder, AdoptError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let name = format!("{AGENT_LEASE}{node}");
    let holder = |epoch| Holder::new(node, epoch).map_err(|error| AdoptError::Node(error.to_string()));
    let failed = failed("the node's Lease");
    let post = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let spec = |id: &str, transitions: u64| LeaseSpec {
        holder_identity: Some(id.to_owned()),
        lease_duration_seconds: Some(i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX)),
        lease_transitions: Some(i32::try_from(transitions).unwrap_or(i32::MAX)),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let Some(mut lease) = api.get_opt(&name).await.map_err(&failed)? else {
        if let Some(id) = id {
            let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
            api.create(&post, &Lease { metadata, spec: Some(spec(id, 0)) }).await.map_err(&failed)?;
        }
        return holder(1);
    };
    let found = lease.spec.clone().unwrap_or_default();
    let transitions = u64::try_from(found.lease_transitions.unwrap_or(0)).unwrap_or(0);
    let before = found.holder_identity.filter(|identity| !identity.is_empty());
    // Without an identity nothing is written, and nothing is known of who it was.
    let Some(id) = id else { return holder(transitions + 1) };
    let transitions = match before.as_deref() {
        Some(before) if before == id => transitions,
        None => transitions + 1,
        Some(before) => {
            return Err(AdoptError::Node(format!(
                "another agent ({before}) runs, or ran, as node {node}: start the agent with this state folder, wait until `dragline status` says that it is ready, stop it, and run this again"
            )));
        }
    };
    lease.spec = Some(spec(id, transitions));
    // With the version that was read: an agent that starts meanwhile is not overwritten.
    api.replace(&name, &post, &lease).await.map_err(&failed)?;
    holder(transitions + 1)
}
