//! Where a SpiderCoordinator's status comes from: the kinds that are followed, and what of their objects counts.

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use serde_json::Value;

use super::decision::Inputs;
use crate::controller::cni_dir::CniConf;
use crate::controller::watched::{Absence, Kind, Mirror, Scope};

/// Where kubeadm and the control plane are.
const KUBE_SYSTEM: &str = "kube-system";

/// One that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Coordinators,
    Kubeadm,
    ControllerManagers,
    CiliumConfig,
    CiliumPools,
    CalicoPools,
    ServiceCidrs,
}

impl Source {
    pub(super) const ALL: [Self; 7] = [
        Self::Coordinators,
        Self::Kubeadm,
        Self::ControllerManagers,
        Self::CiliumConfig,
        Self::CiliumPools,
        Self::CalicoPools,
        Self::ServiceCidrs,
    ];

    /// Its name in what is said about it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Coordinators => "SpiderCoordinators",
            Self::Kubeadm => "ConfigMaps of kubeadm",
            Self::ControllerManagers => "pods of kube-controller-manager",
            Self::CiliumConfig => "ConfigMaps of Cilium",
            Self::CiliumPools => "CiliumPodIPPools",
            Self::CalicoPools => "Calico's IPPools",
            Self::ServiceCidrs => "ServiceCIDRs",
        }
    }

    pub(super) fn kind(self) -> Kind {
        let config_map = Kind::of_core("ConfigMap", "configmaps");
        let foreign = |group, version, kind, plural, is_custom| Kind {
            group,
            version,
            kind,
            plural,
            is_custom,
            absence: Absence::IsFine,
        };
        match self {
            Self::Coordinators => Kind::of_ours("SpiderCoordinator", "spidercoordinators"),
            Self::Kubeadm | Self::CiliumConfig => config_map,
            Self::ControllerManagers => Kind::of_core("Pod", "pods"),
            Self::CiliumPools => foreign("cilium.io", None, "CiliumPodIPPool", "ciliumpodippools", true),
            Self::CalicoPools => foreign("crd.projectcalico.org", Some("v1"), "IPPool", "ippools", true),
            Self::ServiceCidrs => foreign("networking.k8s.io", None, "ServiceCIDR", "servicecidrs", false),
        }
    }

    /// Only what counts is asked for.
    pub(super) fn scope(self, cilium_config: &(String, String)) -> Scope {
        let named = |namespace: &str, name: &str| Scope {
            namespace: Some(namespace.into()),
            fields: Some(format!("metadata.name={name}")),
            labels: None,
        };
        match self {
            Self::Kubeadm => named(KUBE_SYSTEM, "kubeadm-config"),
            Self::CiliumConfig => named(&cilium_config.0, &cilium_config.1),
            Self::ControllerManagers => {
                Scope { labels: Some("component=kube-controller-manager".into()), ..Scope::default() }
            }
            Self::Coordinators | Self::CiliumPools | Self::CalicoPools | Self::ServiceCidrs => Scope::default(),
        }
    }
}

/// What all that has been read says.
pub(super) fn inputs(
    mirrors: &BTreeMap<Source, Mirror>,
    cni: Option<Result<Option<CniConf>, String>>,
    cilium_config: &(String, String),
) -> Inputs {
    let of = |source: Source| mirrors.get(&source).unwrap_or(&Mirror::Unread);
    Inputs {
        cni,
        kubeadm: first(of(Source::Kubeadm), |object| text(&object.data["data"]["ClusterConfiguration"])),
        controller_manager: first(of(Source::ControllerManagers), |pod| Some(arguments(pod))),
        cilium_config_name: format!("{}/{}", cilium_config.0, cilium_config.1),
        cilium_config: first(of(Source::CiliumConfig), |object| Some(data(object))),
        cilium_pools: cidrs(of(Source::CiliumPools), |object| {
            let family = |name: &str| texts(&object.data["spec"][name]["cidrs"]);
            family("ipv4").into_iter().chain(family("ipv6")).collect()
        }),
        calico_pools: cidrs(of(Source::CalicoPools), |object| {
            let is_disabled = object.data["spec"]["disabled"].as_bool().unwrap_or(false);
            text(&object.data["spec"]["cidr"]).filter(|_| !is_disabled).into_iter().collect()
        }),
        service_cidrs: cidrs(of(Source::ServiceCidrs), |object| texts(&object.data["spec"]["cidrs"])),
    }
}

/// What the first object by namespace and name says.
fn first<T>(mirror: &Mirror, say: impl Fn(&DynamicObject) -> Option<T>) -> Option<Option<T>> {
    match mirror {
        Mirror::Unread => None,
        Mirror::Absent => Some(None),
        Mirror::Read(objects) => Some(objects.values().next().and_then(say)),
    }
}

/// What all objects say that are not being deleted, the oldest first.
fn cidrs(mirror: &Mirror, say: impl Fn(&DynamicObject) -> Vec<String>) -> Option<Option<Vec<String>>> {
    match mirror {
        Mirror::Unread => None,
        Mirror::Absent => Some(None),
        Mirror::Read(objects) => {
            let mut objects: Vec<_> =
                objects.values().filter(|object| object.metadata.deletion_timestamp.is_none()).collect();
            // Stable: those of the same second stay in the order of their names.
            objects.sort_by_key(|object| object.metadata.creation_timestamp.clone());
            Some(Some(objects.into_iter().flat_map(say).collect()))
        }
    }
}

/// Command and arguments of the first container.
fn arguments(pod: &DynamicObject) -> Vec<String> {
    let container = &pod.data["spec"]["containers"][0];
    texts(&container["command"]).into_iter().chain(texts(&container["args"])).collect()
}

fn data(config_map: &DynamicObject) -> BTreeMap<String, String> {
    let pairs = config_map.data["data"].as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::watched::Change;

    fn read(objects: Value) -> Mirror {
        let mut mirror = Mirror::default();
        mirror.apply(Change::All(serde_json::from_value(objects).unwrap()));
        mirror
    }

    fn name() -> (String, String) {
        ("kube-system".into(), "cilium-config".into())
    }

    #[test]
    fn nothing_is_read_of_nothing() {
        let unread = Inputs { cilium_config_name: "kube-system/cilium-config".into(), ..Inputs::default() };
        assert_eq!(inputs(&BTreeMap::new(), None, &name()), unread);
        let absent = Source::ALL.map(|source| (source, Mirror::Absent)).into();
        assert_eq!(inputs(&absent, None, &name()).service_cidrs, Some(None));
    }

    #[test]
    fn pools_in_use_the_oldest_first() {
        let pool = |name: &str, created: &str, spec: Value| json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": spec});
        let mut going = pool("going", "2020-01-01T00:00:00Z", json!({"cidr": "10.9.0.0/16"}));
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let calico = read(json!([
            pool("a", "2024-01-01T00:00:00Z", json!({"cidr": "10.1.0.0/16"})),
            pool("b", "2023-01-01T00:00:00Z", json!({"cidr": "10.2.0.0/16", "disabled": false})),
            pool("c", "2022-01-01T00:00:00Z", json!({"cidr": "10.3.0.0/16", "disabled": true})),
            going,
            pool("odd", "2021-01-01T00:00:00Z", json!({"cidr": 7})),
        ]));
        let cilium = read(json!([
            pool(
                "a",
                "2024-01-01T00:00:00Z",
                json!({"ipv4": {"cidrs": ["10.4.0.0/16", "10.5.0.0/16"]}, "ipv6": {"cidrs": ["fd00::/48"]}})
            ),
            pool("b", "2023-01-01T00:00:00Z", json!({"ipv6": {"cidrs": ["fd01::/48"]}})),
        ]));
        let found = inputs(&[(Source::CalicoPools, calico), (Source::CiliumPools, cilium)].into(), None, &name());
        assert_eq!(found.calico_pools.unwrap().unwrap(), ["10.2.0.0/16", "10.1.0.0/16"]);
        assert_eq!(found.cilium_pools.unwrap().unwrap(), ["fd01::/48", "10.4.0.0/16", "10.5.0.0/16", "fd00::/48"]);
    }

    #[test]
    fn flags_and_config_maps() {
        let pods = read(json!([{"metadata": {"name": "m", "namespace": "kube-system"}, "spec": {"containers": [
            {"command": ["kube-controller-manager", "--a=b"], "args": ["--c"]}, {"command": ["other"]}]}}]));
        let kubeadm =
            read(json!([{"metadata": {"name": "kubeadm-config"}, "data": {"ClusterConfiguration": "podSubnet: x"}}]));
        let cilium = read(json!([{"metadata": {"name": "cilium-config"}, "data": {"ipam": "eni"}}]));
        let mirrors =
            [(Source::ControllerManagers, pods), (Source::Kubeadm, kubeadm), (Source::CiliumConfig, cilium)].into();
        let found = inputs(&mirrors, None, &name());
        assert_eq!(found.controller_manager.unwrap().unwrap(), ["kube-controller-manager", "--a=b", "--c"]);
        assert_eq!(found.kubeadm.unwrap().unwrap(), "podSubnet: x");
        assert_eq!(found.cilium_config.unwrap().unwrap()["ipam"], "eni");
    }
}
