//! What pools and subnets say besides their addresses: labels, owners, and what a pool has from its subnet.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::{Resource, ResourceExt};
use plan::allocate::AddressSet;
use schemas::crd::ip_version::IpVersion;
use schemas::crd::ippool::SpiderIPPoolSpec;
use schemas::crd::{SpiderIPPool, SpiderSubnet};
use serde_json::{Map, Value, json};

use super::naming::App;
use super::naming::{IP_NUMBER, OWNER_SUBNET, SUBNET_CIDR, WITHDRAWN, label_value, labels};
use super::record::texts;
use crate::controller::pools::upkeep::{FINALIZER, LABEL_CIDR, cidr_label};

/// One pool that a workload is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The workload.
    pub app: App,
    /// Its UID.
    pub uid: String,
    /// The subnet's name.
    pub subnet: String,
    /// The interface.
    pub interface: String,
    /// The family.
    pub version: IpVersion,
    /// How many addresses.
    pub number: u128,
    /// How many, in the annotation's words.
    pub number_text: String,
    /// Whether it goes with the workload.
    pub is_reclaimed: bool,
}

impl Want {
    fn labels(&self) -> BTreeMap<String, String> {
        labels(&self.app, &self.uid, &self.subnet, &self.interface, self.version, self.is_reclaimed)
    }

    fn affinity(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(self.app.affinity()), match_expressions: None }
    }
}

/// The pool that a workload is to have, as it is created: without addresses, which it gets by a write that names its
/// version. One that is made late, by a controller that has been replaced, takes nothing from anybody.
pub fn created(name: &str, want: &Want, subnet: &SpiderSubnet) -> SpiderIPPool {
    let spec = SpiderIPPoolSpec {
        ip_version: Some(want.version),
        subnet: subnet.spec.subnet.clone(),
        gateway: subnet.spec.gateway.clone(),
        routes: Some(subnet.spec.routes.clone()).filter(|routes| !routes.is_empty()),
        vlan: subnet.spec.vlan,
        pod_affinity: Some(want.affinity()),
        ..SpiderIPPoolSpec::default()
    };
    let mut pool = SpiderIPPool::new(name, spec);
    let mut labels = want.labels();
    if let Some(label) = cidr_label(&subnet.spec.subnet) {
        labels.insert(LABEL_CIDR.into(), label);
    }
    pool.metadata.labels = Some(labels);
    pool.metadata.annotations = Some(BTreeMap::from([(IP_NUMBER.to_owned(), want.number_text.clone())]));
    pool.metadata.finalizers = Some(vec![FINALIZER.into()]);
    pool.metadata.owner_references = owner(subnet).map(|owner| vec![owner]);
    pool
}

fn owner(subnet: &SpiderSubnet) -> Option<OwnerReference> {
    let owner = subnet.controller_owner_ref(&())?;
    Some(OwnerReference { block_owner_deletion: Some(true), ..owner })
}

/// What differs of a pool that is there, as a merge patch that names the state it rests on. `ips` are new addresses, `withdrawn`
/// is a new label.
#[derive(Debug, Default)]
pub struct Shape {
    metadata: Map<String, Value>,
    spec: Map<String, Value>,
    labels: Map<String, Value>,
}

impl Shape {
    /// What every pool of a subnet has from it.
    pub fn of(pool: &SpiderIPPool, subnet: &SpiderSubnet) -> Self {
        let mut shape = Self::default();
        shape.label(pool, OWNER_SUBNET, &label_value(&subnet.name_any()));
        if let Some(owner) = owner(subnet) {
            let mut owners = pool.metadata.owner_references.clone().unwrap_or_default();
            // One of an earlier subnet of that name is of nobody.
            owners.retain(|known| known.uid == owner.uid || known.kind != owner.kind);
            let is_free = owners.iter().all(|known| known.controller != Some(true));
            if is_free {
                owners.retain(|known| known.uid != owner.uid);
                owners.push(owner);
            }
            if pool.metadata.owner_references.as_ref() != Some(&owners) {
                shape.metadata.insert("ownerReferences".into(), json!(owners));
            }
        }
        let is_none = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        if is_none(&pool.spec.gateway) && !is_none(&subnet.spec.gateway) {
            shape.spec.insert("gateway".into(), json!(subnet.spec.gateway));
        }
        // An empty list is a decision.
        if pool.spec.routes.is_none() && !subnet.spec.routes.is_empty() {
            shape.spec.insert("routes".into(), json!(subnet.spec.routes));
        }
        shape
    }

    fn label(&mut self, pool: &SpiderIPPool, key: &str, value: &str) {
        if pool.labels().get(key).map(String::as_str) != Some(value) {
            self.labels.insert(key.into(), value.into());
        }
    }

    /// What a workload's pool has from it.
    pub fn want(&mut self, pool: &SpiderIPPool, want: &Want) {
        for (key, value) in want.labels() {
            self.label(pool, &key, &value);
        }
        if pool.annotations().get(IP_NUMBER) != Some(&want.number_text) {
            self.metadata.insert("annotations".into(), json!({ IP_NUMBER: want.number_text }));
        }
        let affinity = want.affinity();
        if pool.spec.pod_affinity.as_ref() != Some(&affinity) {
            let gone = pool.spec.pod_affinity.iter().flat_map(|known| known.match_labels.iter().flatten());
            let gone = gone.filter(|(key, _)| !affinity.match_labels.iter().any(|labels| labels.contains_key(*key)));
            let mut labels: Map<String, Value> = gone.map(|(key, _)| (key.clone(), Value::Null)).collect();
            labels.extend(affinity.match_labels.into_iter().flatten().map(|(key, value)| (key, value.into())));
            self.spec.insert("podAffinity".into(), json!({"matchLabels": labels, "matchExpressions": null}));
        }
    }

    /// The pool's addresses.
    pub fn ips(&mut self, ips: &AddressSet) {
        self.spec.insert("ips".into(), json!(texts(ips)));
        self.spec.insert("excludeIPs".into(), Value::Null);
    }

    /// Whether addresses are being taken back.
    pub fn withdrawn(&mut self, label: Option<&str>) {
        self.labels.insert(WITHDRAWN.into(), json!(label));
    }

    /// The patch; None when nothing differs.
    pub fn patch(mut self, pool: &SpiderIPPool) -> Option<Value> {
        if !self.labels.is_empty() {
            self.metadata.insert("labels".into(), Value::Object(self.labels));
        }
        if self.metadata.is_empty() && self.spec.is_empty() {
            return None;
        }
        self.metadata.insert("resourceVersion".into(), json!(pool.metadata.resource_version));
        Some(json!({"metadata": self.metadata, "spec": self.spec}))
    }
}

/// The merge patch that brings a subnet into shape: finalizer, label, family. None when it is.
pub fn of_subnet(subnet: &SpiderSubnet, version: Option<IpVersion>) -> Option<Value> {
    let (mut metadata, mut spec) = (Map::new(), Map::new());
    if !subnet.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        let all: Vec<&str> = subnet.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
        metadata.insert("finalizers".into(), json!(all));
    }
    if let Some(version) = version {
        if subnet.spec.ip_version.is_none() {
            spec.insert("ipVersion".into(), json!(version));
        }
        if let Some(label) = cidr_label(&subnet.spec.subnet)
            && subnet.labels().get(SUBNET_CIDR) != Some(&label)
        {
            metadata.insert("labels".into(), json!({ SUBNET_CIDR: label }));
        }
    }
    if metadata.is_empty() && spec.is_empty() {
        return None;
    }
    metadata.insert("resourceVersion".into(), json!(subnet.metadata.resource_version));
    Some(json!({"metadata": metadata, "spec": spec}))
}

/// The merge patch that lets a subnet go; None when nothing of ours holds it.
pub fn release(subnet: &SpiderSubnet) -> Option<Value> {
    let others: Vec<&String> = subnet.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let is_ours = others.len() < subnet.finalizers().len();
    let version = &subnet.metadata.resource_version;
    is_ours.then(|| json!({"metadata": {"resourceVersion": version, "finalizers": others}}))
}
