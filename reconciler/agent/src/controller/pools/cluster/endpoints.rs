//! Endpoints, and whether their pods are there.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use schemas::crd::SpiderEndpoint;

use super::Cluster;
use crate::controller::pools::agents::Moment;
use crate::controller::pools::read::Name;
use crate::controller::pools::space::number;

/// Kinds whose pods keep their addresses when they go, by `ownerControllerType`.
const KEEPING: [&str; 3] = ["StatefulSet", "VirtualMachine", "VirtualMachineInstance"];

/// An endpoint, as far as it matters here.
#[derive(Debug)]
pub struct Endpoint {
    /// Its own UID.
    pub uid: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's node.
    pub node: String,
    /// Pools and addresses.
    pub addresses: Vec<(String, u128)>,
    /// Whether the pod's addresses wait for the next pod of its name.
    pub is_kept: bool,
    /// What has to go before it can go.
    pub finalizers: Vec<String>,
}

impl Endpoint {
    fn of(object: &SpiderEndpoint) -> Self {
        let status = object.status.as_ref();
        let current = status.map(|status| &status.current);
        let addresses = current
            .iter()
            .flat_map(|current| &current.ips)
            .flat_map(|nic| [(&nic.ipv4_pool, &nic.ipv4), (&nic.ipv6_pool, &nic.ipv6)]);
        let address = |(pool, text): (&Option<String>, &Option<String>)| {
            // As a rule with the prefix length of the subnet.
            let address: IpAddr = text.as_deref()?.split('/').next()?.parse().ok()?;
            Some((pool.clone()?, number(address)))
        };
        Self {
            uid: object.uid().unwrap_or_default(),
            pod_uid: current.map(|current| current.uid.clone()).unwrap_or_default(),
            node: current.map(|current| current.node.clone()).unwrap_or_default(),
            addresses: addresses.filter_map(address).collect(),
            is_kept: status.is_some_and(|status| KEEPING.contains(&status.owner_controller_type.as_str())),
            finalizers: object.finalizers().to_vec(),
        }
    }
}

impl Cluster {
    pub(super) fn put_endpoint(&mut self, object: &SpiderEndpoint, now: Moment) {
        let name = Arc::new(Name::of(object));
        let endpoint = Endpoint::of(object);
        let orphaned = self.orphans.get(&name).copied();
        let is_same_pod = self.endpoints.get(&name).is_some_and(|known| known.pod_uid == endpoint.pod_uid);
        self.drop_endpoint(&name);
        for (pool, address) in &endpoint.addresses {
            self.named.entry(pool.clone()).or_default().insert((*address, name.clone()));
            self.dirty.insert(pool.clone());
        }
        if self.listings[5].is_complete() && self.pods.get(&*name) != Some(&endpoint.pod_uid) {
            let since = orphaned.filter(|_| is_same_pod).unwrap_or(now.steady);
            self.orphans.insert(name.clone(), since);
        }
        self.endpoints.insert(name, endpoint);
    }

    pub(super) fn drop_endpoint(&mut self, name: &Name) {
        let Some((name, endpoint)) = self.endpoints.remove_entry(name) else { return };
        for (pool, address) in endpoint.addresses {
            if let Some(named) = self.named.get_mut(&pool) {
                named.remove(&(address, name.clone()));
                if named.is_empty() {
                    self.named.remove(&pool);
                }
            }
            self.dirty.insert(pool);
        }
        self.orphans.remove(&name);
    }

    pub(super) fn put_pod(&mut self, pod: &PartialObjectMeta<Pod>, now: Moment) {
        let (name, uid) = (Name::of(pod), pod.metadata.uid.clone().unwrap_or_default());
        if self.pods.get(&name) != Some(&uid) {
            self.pods.insert(name.clone(), uid);
            self.look_after(&name, now);
        }
    }

    pub(super) fn drop_pod(&mut self, name: &Name, now: Moment) {
        self.pods.remove(name);
        self.look_after(name, now);
    }

    /// Notes whether the endpoint of that name has its pod.
    fn look_after(&mut self, name: &Name, now: Moment) {
        if !self.listings[5].is_complete() {
            return;
        }
        let Some((key, endpoint)) = self.endpoints.get_key_value(name) else { return };
        if self.pods.get(name) == Some(&endpoint.pod_uid) {
            self.orphans.remove(name);
        } else {
            self.orphans.entry(key.clone()).or_insert(now.steady);
        }
    }

    pub(super) fn find_orphans(&mut self, now: Moment) {
        let names: Vec<Arc<Name>> = self.endpoints.keys().cloned().collect();
        names.iter().for_each(|name| self.look_after(name, now));
    }
}
