//! Endpoints, and whether their pods are there.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use schemas::crd::SpiderEndpoint;
use schemas::crd::endpoint::{IpAllocationDetail, SpiderEndpointStatus};

use super::Cluster;
use crate::catalogue::Owner;
use crate::controller::pools::agents::Moment;
use crate::controller::pools::read::Name;
use crate::controller::pools::space::number;
use crate::identity::{self, Keeping};

/// The kind whose endpoints are not called like their pods.
const MACHINE: &str = "VirtualMachineInstance";

/// Of a pod that may keep its addresses.
#[derive(Debug)]
struct MayKeep {
    owner: Owner,
    nics: Vec<Nic>,
}

/// An address of an interface.
#[derive(Debug)]
pub struct Nic {
    /// The interface.
    pub ifname: String,
    /// Whether it is IPv4's.
    pub is_v4: bool,
    /// The address.
    pub number: u128,
}

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
    /// Of a pod of a kind that may keep its addresses.
    keeping: Option<Box<MayKeep>>,
    /// What has to go before it can go.
    pub finalizers: Vec<String>,
}

impl Endpoint {
    /// What an object says.
    pub fn of(object: &SpiderEndpoint) -> Self {
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
        let keeping = status.and_then(|status| keeping(object, status)).map(|owner| {
            let nics = current.iter().flat_map(|current| &current.ips).flat_map(nics).collect();
            Box::new(MayKeep { owner, nics })
        });
        Self {
            uid: object.uid().unwrap_or_default(),
            pod_uid: current.map(|current| current.uid.clone()).unwrap_or_default(),
            node: current.map(|current| current.node.clone()).unwrap_or_default(),
            addresses: addresses.filter_map(address).collect(),
            keeping,
            finalizers: object.finalizers().to_vec(),
        }
    }
}

impl Endpoint {
    /// The pod's controller, where it is of a kind whose pods may keep their addresses.
    pub fn keeper(&self) -> Option<&Owner> {
        self.keeping.as_ref().map(|keeping| &keeping.owner)
    }

    /// The addresses by interface; of other pods none.
    pub fn nics(&self) -> &[Nic] {
        self.keeping.as_ref().map_or(&[], |keeping| &keeping.nics)
    }
}

fn nics(nic: &IpAllocationDetail) -> impl Iterator<Item = Nic> {
    let address = |text: &Option<String>| text.as_deref()?.split('/').next()?.parse::<IpAddr>().ok();
    let addresses = [address(&nic.ipv4), address(&nic.ipv6)];
    let ifname = nic.interface.clone();
    addresses.into_iter().flatten().map(move |address| Nic {
        ifname: ifname.clone(),
        is_v4: address.is_ipv4(),
        number: number(address),
    })
}

/// The controller, where an agent has noted that its pods keep their addresses, or Spiderpool keeps those of its kind.
fn keeping(object: &SpiderEndpoint, status: &SpiderEndpointStatus) -> Option<Owner> {
    let noted = object.metadata.annotations.as_ref().and_then(|all| all.get(identity::OWNER_API_VERSION));
    let (kind, name) = (status.owner_controller_type.clone(), status.owner_controller_name.clone());
    Some(identity::endpoint_owner(noted, kind, name)).filter(|owner| !owner.api_version.is_empty())
}

impl Cluster {
    /// Whether an endpoint's addresses wait for the next pod of its identity. Before the switches have been read they do.
    pub fn is_kept(&self, endpoint: &Endpoint) -> bool {
        let Some(owner) = endpoint.keeper() else { return false };
        self.conf.as_ref().is_none_or(|conf| Keeping::of(conf, owner).is_some())
    }

    /// Whether that very pod is there.
    fn has_pod(&self, name: &Name, uid: &String) -> bool {
        self.pods.get(name) == Some(uid) || self.machines.contains(uid)
    }

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
        if self.listings[5].is_complete() && !self.has_pod(&name, &endpoint.pod_uid) {
            let since = orphaned.filter(|_| is_same_pod).unwrap_or(now.steady);
            self.orphans.insert(name.clone(), since);
        }
        if endpoint.keeper().is_some_and(|owner| owner.kind == MACHINE) {
            self.of_machines.insert(endpoint.pod_uid.clone(), name.clone());
        }
        self.endpoints.insert(name, endpoint);
    }

    pub(super) fn drop_endpoint(&mut self, name: &Name) {
        let Some((name, endpoint)) = self.endpoints.remove_entry(name) else { return };
        if self.of_machines.get(&endpoint.pod_uid).is_some_and(|of| *of == name) {
            self.of_machines.remove(&endpoint.pod_uid);
        }
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
            if let Some(before) = self.pods.insert(name.clone(), uid.clone()) {
                self.forget_pod(&before, now);
            }
            if pod.owner_references().iter().any(|owner| owner.kind == MACHINE) {
                self.machines.insert(uid.clone());
            }
            self.look_after(&name, now);
            self.look_after_pod(&uid, now);
        }
    }

    pub(super) fn drop_pod(&mut self, name: &Name, now: Moment) {
        if let Some(uid) = self.pods.remove(name) {
            self.forget_pod(&uid, now);
        }
        self.look_after(name, now);
    }

    fn forget_pod(&mut self, uid: &str, now: Moment) {
        self.machines.remove(uid);
        self.look_after_pod(uid, now);
    }

    /// The same for the endpoint of a pod of that UID.
    fn look_after_pod(&mut self, uid: &str, now: Moment) {
        if let Some(name) = self.of_machines.get(uid).cloned() {
            self.look_after(&name, now);
        }
    }

    /// Notes whether the endpoint of that name has its pod.
    fn look_after(&mut self, name: &Name, now: Moment) {
        if !self.listings[5].is_complete() {
            return;
        }
        let Some((key, endpoint)) = self.endpoints.get_key_value(name) else { return };
        if self.has_pod(name, &endpoint.pod_uid) {
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
