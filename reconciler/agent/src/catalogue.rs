//! What the cluster, or a folder of manifests, says: the reconciler's declared input, as one immutable value.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use plan::allocate::AddressSet;
use schemas::crd::coordinator::SpiderCoordinator;
use schemas::crd::ippool::SpiderIPPool;
use schemas::crd::multus_config::SpiderMultusConfig;
use schemas::crd::pool_ranges::PoolRanges;
use schemas::crd::ranges::Range;
use schemas::crd::reserved_ip::SpiderReservedIP;
use schemas::crd::subnet::SpiderSubnet;
use schemas::intent::CoordinatorSettings;

use crate::overlap;

/// One object of the kinds that dragline reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A pool.
    IpPool(SpiderIPPool),
    /// The coordinator's settings.
    Coordinator(SpiderCoordinator),
    /// A network.
    MultusConfig(SpiderMultusConfig),
    /// Addresses that are never given.
    ReservedIp(SpiderReservedIP),
    /// A subnet.
    Subnet(SpiderSubnet),
    /// A pod.
    Pod(Box<Metadata>),
    /// A namespace.
    Namespace(Box<Metadata>),
    /// A node.
    Node(Box<Metadata>),
    /// Spiderpool's ConfigMap.
    Conf(Box<Conf>),
}

/// The name of the ConfigMap that [`Conf`] is read from.
pub const CONF_NAME: &str = "spiderpool-conf";
/// Its key.
pub const CONF_KEY: &str = "conf.yml";

/// Of ConfigMap `spiderpool-conf`, key `conf.yml`, what dragline reads (../spec/ipam.md 10.1). A key that is not there
/// means what the original's chart writes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    /// Where the original's agent answers; there dragline answers its API too. Empty for nowhere.
    pub ipam_unix_socket_path: String,
    /// IPv4 addresses are given.
    #[serde(rename = "enableIPv4")]
    pub enable_ipv4: bool,
    /// IPv6 addresses are given.
    #[serde(rename = "enableIPv6")]
    pub enable_ipv6: bool,
    /// Pods of a StatefulSet keep their addresses.
    pub enable_stateful_set: bool,
    /// Virtual machines of KubeVirt keep their addresses.
    #[serde(rename = "enableKubevirtStaticIP")]
    pub enable_kubevirt_static_ip: bool,
    /// Kinds of other controllers whose pods keep their addresses, as `GROUP/KIND`, such as `apps.kruise.io/StatefulSet`: of
    /// those that give a pod the name again that the one before had. A key of dragline's own.
    pub fixed_address_controllers: Vec<String>,
    /// SpiderSubnets are in use.
    pub enable_spider_subnet: bool,
    /// Workloads get pools of their own from SpiderSubnets.
    pub enable_auto_pool_for_application: bool,
    /// How many addresses more than pods a workload's own pool has, where the workload does not say.
    #[serde(rename = "clusterSubnetAutoPoolDefaultRedundantIPNumber")]
    pub flexible_ip_number: u32,
    /// Addresses are probed before they are given.
    #[serde(rename = "enableIPConflictDetection")]
    pub enable_ip_conflict_detection: bool,
    /// Gateways are probed.
    pub enable_gateway_detection: bool,
}

impl Default for Conf {
    fn default() -> Self {
        Self {
            ipam_unix_socket_path: String::new(),
            enable_ipv4: true,
            enable_ipv6: true,
            enable_stateful_set: true,
            enable_kubevirt_static_ip: true,
            fixed_address_controllers: Vec::new(),
            enable_spider_subnet: true,
            enable_auto_pool_for_application: true,
            flexible_ip_number: 0,
            enable_ip_conflict_detection: false,
            enable_gateway_detection: false,
        }
    }
}

/// Of a pod, a namespace or a node, what dragline reads of it.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
pub struct Metadata {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

/// Labels and annotations, of a pod or a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// The UID, where known.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The object that controls it, of a pod.
    pub owner: Option<Owner>,
    /// It is being deleted.
    pub is_terminating: bool,
}

/// An object that controls another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty where it is not known.
    pub uid: String,
}

impl Owner {
    /// By an owner reference.
    pub(crate) fn of(OwnerReference { api_version, kind, name, uid, .. }: OwnerReference) -> Self {
        Self { api_version, kind, name, uid }
    }

    /// `apiVersion` in its parts; the group is empty for core kinds.
    pub fn group_version(&self) -> (&str, &str) {
        self.api_version.split_once('/').unwrap_or(("", &self.api_version))
    }

    /// One of Kubernetes' own ReplicaSets.
    pub fn is_replica_set(&self) -> bool {
        self.kind == "ReplicaSet" && self.group_version().0 == "apps"
    }

    /// One of Kubernetes' own Jobs.
    pub fn is_job(&self) -> bool {
        self.kind == "Job" && self.group_version().0 == "batch"
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Owner {
    /// The group of its `apiVersion`; empty for the core's.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl Conf {
    /// Reads the key's YAML; an empty one says nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| format!("data.{CONF_KEY}: {error}"))
    }
}

impl Metadata {
    fn name(&self) -> String {
        self.metadata.name.clone().unwrap_or_default()
    }
}

impl Marks {
    fn of(object: Metadata) -> Self {
        let ObjectMeta { uid, labels, annotations, owner_references, deletion_timestamp, .. } = object.metadata;
        let mut owners = owner_references.unwrap_or_default().into_iter();
        let controller = owners.find(|owner| owner.controller == Some(true));
        Self {
            uid: uid.unwrap_or_default(),
            labels: labels.unwrap_or_default(),
            annotations: annotations.unwrap_or_default(),
            owner: controller.map(Owner::of),
            is_terminating: deletion_timestamp.is_some(),
        }
    }
}

/// A pool that was found valid.
#[derive(Debug, Clone)]
pub struct Pool {
    /// As declared.
    pub object: SpiderIPPool,
    /// Its addresses, checked.
    pub ranges: PoolRanges,
    /// Those of them that an older pool gives.
    pub lost: Vec<Range>,
}

impl Pool {
    /// What the pool may give: its addresses without those of older pools, and without the gateway.
    pub fn usable(&self) -> AddressSet {
        let mut usable = AddressSet::from_ranges(self.ranges.usable());
        usable.subtract(&AddressSet::from_ranges(self.lost.iter().copied()));
        if let Some(gateway) = self.ranges.gateway {
            usable.remove(gateway);
        }
        usable
    }
}

/// The coordinator in force.
#[derive(Debug, Clone)]
pub struct Coordinator {
    /// As declared.
    pub object: SpiderCoordinator,
    /// Its settings, or why they cannot be used.
    pub settings: Result<CoordinatorSettings, String>,
    /// `Synced`, or why not.
    pub synced: Result<(), String>,
}

/// Everything declared.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
    /// Pools that are there and give nothing since they are not valid, by name: the field, and what is wrong with it.
    pub invalid: BTreeMap<String, String>,
    /// The first coordinator by name, `default` before others.
    pub coordinator: Option<Coordinator>,
    /// Networks, by namespace and name.
    pub networks: BTreeMap<(String, String), SpiderMultusConfig>,
    /// Addresses that are never given.
    pub reserved: Vec<Range>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<(String, String), Marks>,
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Marks>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Marks>,
    /// Spiderpool's ConfigMap.
    pub conf: Conf,
    /// What is wrong with what is declared, a line each; shown by `dragline status`.
    pub faults: Vec<String>,
}

impl Catalogue {
    /// Puts objects in order. Objects here are valid one by one; what is wrong between them goes to `faults`.
    pub fn of(objects: impl IntoIterator<Item = Object>) -> Self {
        let mut catalogue = Self::default();
        let mut coordinators: BTreeMap<String, SpiderCoordinator> = BTreeMap::new();
        for object in objects {
            match object {
                Object::IpPool(pool) => catalogue.add_pool(pool),
                Object::Coordinator(object) => {
                    coordinators.insert(object.name_any(), object);
                }
                Object::MultusConfig(object) => {
                    catalogue.networks.insert((namespace_of(&object), object.name_any()), object);
                }
                Object::ReservedIp(object) => match object.spec.ranges() {
                    Ok(ranges) => catalogue.reserved.extend(ranges),
                    Err(error) => catalogue.faults.push(format!("SpiderReservedIP {}: {error}", object.name_any())),
                },
                Object::Subnet(_) => {}
                Object::Pod(pod) => {
                    let namespace = pod.metadata.namespace.clone();
                    let key = (or_default(namespace), pod.name());
                    catalogue.pods.insert(key, Marks::of(*pod));
                }
                Object::Namespace(namespace) => {
                    catalogue.namespaces.insert(namespace.name(), Marks::of(*namespace));
                }
                Object::Node(node) => {
                    catalogue.nodes.insert(node.name(), Marks::of(*node));
                }
                Object::Conf(conf) => catalogue.conf = *conf,
            }
        }
        catalogue.coordinator =
            coordinators.remove("default").or_else(|| coordinators.into_values().next()).map(Coordinator::of);
        catalogue.find_conflicts();
        catalogue
    }

    fn add_pool(&mut self, object: SpiderIPPool) {
        match object.spec.ranges() {
            Ok(ranges) => {
                if ranges.usable().is_empty() {
                    self.faults.push(format!("SpiderIPPool {}: it has no addresses", object.name_any()));
                }
                self.pools.insert(object.name_any(), Pool { object, ranges, lost: Vec::new() });
            }
            Err(error) => {
                let (name, error) = (object.name_any(), error.to_string());
                self.faults.push(format!("SpiderIPPool {name}: {error}"));
                self.add_invalid(name, error);
            }
        }
    }

    /// Knows of a pool that cannot be used, and of which no earlier version is in force.
    pub fn add_invalid(&mut self, name: String, fault: String) {
        if !self.pools.contains_key(&name) {
            self.invalid.insert(name, fault);
        }
    }

    /// Pools that overlap are reported, and the older one gives what both hold.
    fn find_conflicts(&mut self) {
        let found = overlap::overlaps(self.pools.values().map(|pool| (&pool.object, &pool.ranges)));
        for (name, overlap) in found {
            self.faults.extend(overlap.faults(&name));
            if let Some(pool) = self.pools.get_mut(&name) {
                pool.lost = overlap.lost;
            }
        }
    }

    /// Whether the same addresses may be given.
    pub fn has_the_addresses_of(&self, other: &Self) -> bool {
        let is_same = |(name, pool): (&String, &Pool)| {
            other.pools.get(name).is_some_and(|known| known.ranges == pool.ranges && known.lost == pool.lost)
        };
        self.reserved == other.reserved && self.pools.len() == other.pools.len() && self.pools.iter().all(is_same)
    }

    /// The settings of the coordinator when they can be used.
    pub fn settings(&self) -> Option<&CoordinatorSettings> {
        self.coordinator.as_ref().filter(|found| found.synced.is_ok())?.settings.as_ref().ok()
    }
}

impl Coordinator {
    fn of(object: SpiderCoordinator) -> Self {
        let settings = object.settings().map_err(|error| error.to_string());
        let synced = object.synced().map_err(|error| error.to_string());
        Self { object, settings, synced }
    }
}

fn namespace_of(object: &impl ResourceExt) -> String {
    or_default(object.namespace())
}

fn or_default(namespace: Option<String>) -> String {
    namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".to_owned())
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
