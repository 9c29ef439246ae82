//! An API server that is a few maps: what decisions do to it, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use plan::allocate::{AddressSet, each};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::decision::{Action, Decision, Memory, decide};
use super::naming::App;
use super::record::parse;
use super::sizing::Usage;
use super::view::View;
use super::workload::{Object, read};

/// Slots of pools by address: Some is a node or whatever else, None is kept from everybody.
type Slots = BTreeMap<IpAddr, Option<String>>;

#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) view: View,
    pub(super) slots: BTreeMap<String, Slots>,
    version: u64,
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *into = patch.clone() };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// A merge patch as the API server does it: not of another version.
fn patched<K: Serialize + DeserializeOwned + ResourceExt>(object: &K, patch: &Value, version: u64) -> Option<K> {
    let wanted = patch["metadata"]["resourceVersion"].as_str();
    assert!(wanted.is_some(), "every patch names the state it rests on: {patch}");
    if wanted != object.resource_version().as_deref() {
        return None;
    }
    let mut value = serde_json::to_value(object).unwrap();
    merge(&mut value, patch);
    value["metadata"]["resourceVersion"] = json!(version.to_string());
    Some(serde_json::from_value(value).unwrap())
}

impl World {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    pub(super) fn subnet(&mut self, name: &str, cidr: &str, ips: &[&str]) {
        let version = self.next();
        let object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderSubnet",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string(), "generation": 1,
                "creationTimestamp": at(version as i64).to_string()},
            "spec": {"subnet": cidr, "ips": ips, "gateway": null}});
        self.view.subnets.insert(name.into(), serde_json::from_value(object).unwrap());
    }

    /// A pool as a user makes it.
    pub(super) fn pool(&mut self, name: &str, spec: Value) {
        let version = self.next();
        let object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool",
            "metadata": {"name": name, "uid": format!("uid-{name}-{version}"), "resourceVersion": version.to_string(),
                "creationTimestamp": at(version as i64).to_string()}, "spec": spec});
        self.view.pools.insert(name.into(), serde_json::from_value(object).unwrap());
    }

    pub(super) fn edit_pool(&mut self, name: &str, patch: Value) {
        let version = self.next();
        let pool = &self.view.pools[name];
        let mut patch = patch;
        patch["metadata"]["resourceVersion"] = json!(pool.resource_version());
        let pool = patched(pool, &patch, version).unwrap();
        self.view.pools.insert(name.into(), pool);
    }

    pub(super) fn edit_subnet(&mut self, name: &str, patch: Value) {
        let version = self.next();
        let subnet = &self.view.subnets[name];
        let mut patch = patch;
        patch["metadata"]["resourceVersion"] = json!(subnet.resource_version());
        let subnet = patched(subnet, &patch, version).unwrap();
        self.view.subnets.insert(name.into(), subnet);
    }

    /// A Deployment or another kind with `replicas`.
    pub(super) fn workload(&mut self, kind: &str, name: &str, uid: &str, replicas: u64, annotations: &[(&str, &str)]) {
        let annotations: BTreeMap<String, &str> =
            annotations.iter().map(|(key, value)| (format!("ipam.spidernet.io/{key}"), *value)).collect();
        let object: Object = serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": uid},
            "spec": {"replicas": replicas, "template": {"metadata": {"annotations": annotations}}}}))
        .unwrap();
        let (workload, _) = read(kind, &object);
        self.view.workloads.insert(App::of("apps/v1", kind, "d", name), workload);
    }

    pub(super) fn delete_workload(&mut self, kind: &str, name: &str) {
        self.view.workloads.remove(&App::of("apps/v1", kind, "d", name));
    }

    /// One more address of the pool is somebody's: the first that a node finds free.
    pub(super) fn claim(&mut self, pool: &str, who: &str) -> Option<IpAddr> {
        let ips = self.ips(pool);
        let slots = self.slots.entry(pool.into()).or_default();
        let ip = ips.iter().flat_map(|(first, last)| each(first, last)).find(|ip| !slots.contains_key(ip))?;
        slots.insert(ip, Some(who.into()));
        self.view.usage.remove(pool);
        Some(ip)
    }

    pub(super) fn give_back(&mut self, pool: &str, ip: IpAddr) {
        self.slots.entry(pool.into()).or_default().remove(&ip);
        self.view.usage.remove(pool);
    }

    pub(super) fn ips(&self, pool: &str) -> AddressSet {
        let pool = self.view.pools.get(pool);
        let ranges = pool.and_then(|pool| pool.spec.ranges().ok());
        ranges.map(|ranges| AddressSet::from_ranges(ranges.usable())).unwrap_or_default()
    }

    pub(super) fn recorded(&self, subnet: &str, pool: &str) -> u128 {
        let status = self.view.subnets[subnet].status.clone().unwrap_or_default();
        parse(status.controlled_ip_pools.as_deref()).get(pool).map(|entry| entry.ips.len()).unwrap_or_default()
    }

    /// Does it, as the API server would. False when that rests on another state.
    pub(super) fn perform(&mut self, action: &Action) -> bool {
        let version = self.next();
        match action {
            Action::Subnet { name, patch } | Action::Status { name, patch, .. } => {
                let Some(subnet) = self.view.subnets.get(name).and_then(|subnet| patched(subnet, patch, version))
                else {
                    return false;
                };
                let is_gone = subnet.metadata.deletion_timestamp.is_some() && subnet.finalizers().is_empty();
                self.view.subnets.insert(name.clone(), subnet);
                if is_gone {
                    self.view.subnets.remove(name);
                }
            }
            Action::Create(pool) => {
                let name = pool.name_any();
                if self.view.pools.contains_key(&name) {
                    return false;
                }
                let mut pool = (**pool).clone();
                pool.metadata.uid = Some(format!("uid-{name}-{version}"));
                pool.metadata.resource_version = Some(version.to_string());
                pool.metadata.creation_timestamp =
                    serde_json::from_value(json!(at(version as i64).to_string())).unwrap();
                pool.spec.ranges().unwrap();
                self.view.pools.insert(name, pool);
            }
            Action::Pool { name, patch } => {
                let Some(pool) = self.view.pools.get(name).and_then(|pool| patched(pool, patch, version)) else {
                    return false;
                };
                self.view.pools.insert(name.clone(), pool);
            }
            // Without anybody who holds anything, and with the other half of the controller: gone at once.
            Action::Delete { name, .. } => {
                self.view.pools.remove(name);
                self.slots.remove(name);
            }
            Action::Look(name) => {
                let mut usage = Usage::default();
                for (ip, held) in self.slots.entry(name.clone()).or_default() {
                    if held.is_some() { usage.held.insert(*ip) } else { usage.fenced.insert(*ip) }
                }
                self.view.usage.insert(name.clone(), usage);
            }
            Action::Fence(name, ips) => {
                let slots = self.slots.entry(name.clone()).or_default();
                for ip in ips.iter().flat_map(|(first, last)| each(first, last)) {
                    slots.entry(ip).or_insert(None);
                }
                return self.perform(&Action::Look(name.clone()));
            }
            Action::Unfence(name, ips) => {
                let slots = self.slots.entry(name.clone()).or_default();
                slots.retain(|ip, held| held.is_some() || !ips.contains(*ip));
                return self.perform(&Action::Look(name.clone()));
            }
        }
        true
    }

    pub(super) fn decide(&self, memory: &mut Memory) -> Decision {
        decide(&self.view, memory, at(1_000_000))
    }

    /// Until there is nothing to do. What was decided last.
    pub(super) fn settle(&mut self, memory: &mut Memory) -> Decision {
        let mut restored = Vec::new();
        for _ in 0..60 {
            let mut decision = self.decide(memory);
            restored.append(&mut decision.restored);
            self.check();
            if decision.actions.is_empty() {
                decision.restored = restored;
                return decision;
            }
            for action in decision.actions {
                assert!(self.perform(&action), "{action:?}");
                self.check();
            }
        }
        panic!("it goes round: {:#?}", self.decide(memory).actions);
    }

    /// No address can be taken from two pools of workloads.
    pub(super) fn check(&self) {
        let mut all: BTreeMap<IpAddr, &String> = BTreeMap::new();
        let made: BTreeSet<&String> = self
            .view
            .pools
            .iter()
            .filter(|(_, pool)| super::naming::Owner::of(pool).is_some())
            .map(|(name, _)| name)
            .collect();
        for name in made {
            // A node that has not noticed yet that the pool is smaller takes what its slot lets it.
            let held = self.slots.get(name).into_iter().flatten().filter(|(_, held)| held.is_some()).map(|(ip, _)| *ip);
            let ips: BTreeSet<IpAddr> = self
                .ips(name)
                .iter()
                .flat_map(|(first, last)| each(first, last))
                .filter(|ip| self.slots.get(name).is_none_or(|slots| slots.get(ip) != Some(&None)))
                .chain(held)
                .collect();
            for ip in ips {
                if let Some(other) = all.insert(ip, name) {
                    panic!("{ip} is in {other} and in {name}");
                }
            }
        }
    }
}
