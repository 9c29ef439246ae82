//! What a SpiderCoordinator's status is, from what is known of the cluster (../spec/controller.md 1.2). Nothing is read
//! or written here.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use schemas::crd::coordinator::{PodCidrType, SpiderCoordinatorStatus};

use crate::controller::cni_dir::CniConf;

/// What has been read; None what has not been read yet.
pub(super) type Read<T> = Option<T>;

/// Everything that a status is decided from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inputs {
    /// The node's first CNI configuration, or why it cannot be read.
    pub(super) cni: Read<Result<Option<CniConf>, String>>,
    /// `ClusterConfiguration` of kube-system/kubeadm-config, where there is one.
    pub(super) kubeadm: Read<Option<String>>,
    /// Command and arguments of kube-controller-manager, where it runs as a pod.
    pub(super) controller_manager: Read<Option<Vec<String>>>,
    /// The namespace and name of Cilium's ConfigMap, for what is said about it.
    pub(super) cilium_config_name: String,
    /// Its data, where there is one.
    pub(super) cilium_config: Read<Option<BTreeMap<String, String>>>,
    /// The CIDRs of the CiliumPodIPPools; None where they are not served.
    pub(super) cilium_pools: Read<Option<Vec<String>>>,
    /// The CIDRs of Calico's IPPools in use; None where they are not served.
    pub(super) calico_pools: Read<Option<Vec<String>>>,
    /// The CIDRs of the ServiceCIDRs; None where they are not served.
    pub(super) service_cidrs: Read<Option<Vec<String>>>,
}

/// Nothing can be decided before this has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} have not been read yet")]
pub(super) struct Unread(pub(super) &'static str);

/// Why a coordinator is NotReady. The texts are its `status.reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The default CNI is not known.
    #[error("{0}")]
    Cni(String),
    /// Neither of both sources.
    #[error("No kube-controller-manager pod found, unable to get clusterCIDR")]
    NoControllerManager,
    /// Calico is to be asked and is not there.
    #[error("Calico's IPPools (crd.projectcalico.org) are not served: is Calico installed?")]
    NoCalico,
    /// Cilium is to be asked and is not there.
    #[error("Cilium's ConfigMap {0} is not found: is Cilium installed?")]
    NoCilium(String),
    /// Its pools are to be asked and are not there.
    #[error("the cilium multi-pool feature is unavailable: CiliumPodIPPools are not served")]
    NoCiliumPools,
    /// A mode in which Cilium does not say what pods get.
    #[error("unsupported Cilium IPAM mode: {0}")]
    CiliumMode(String),
    /// A key that the mode needs.
    #[error("ipam is {mode}, and neither cluster-pool-ipv4-cidr nor -ipv6-cidr is in Cilium's ConfigMap {config}")]
    NoCiliumCidr {
        /// Cilium's mode.
        mode: String,
        /// Which ConfigMap.
        config: String,
    },
    /// Not a CIDR.
    #[error("{text:?} in {place} is not a CIDR")]
    Cidr {
        /// What was read.
        text: String,
        /// Where.
        place: String,
    },
}

/// A status, and why it is NotReady.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) status: SpiderCoordinatorStatus,
    pub(super) fault: Option<Fault>,
}

/// A value that cannot be told: it has not been read, or it is not there.
enum Failure {
    Unread(Unread),
    Fault(Fault),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        Self::Unread(unread)
    }
}

/// The status of a coordinator of this podCIDRType. Only what the type needs must have been read.
///
/// Unlike in the original, the service CIDRs of ServiceCIDR objects make the cluster's own configuration unnecessary
/// for the types that do not ask it for pod CIDRs.
///
/// # Errors
/// What must be read first.
pub(super) fn decide(kind: Option<PodCidrType>, inputs: &Inputs) -> Result<Decision, Unread> {
    let services = match service_cidrs(inputs) {
        Ok(services) => Ok(services),
        Err(Failure::Fault(fault)) => Err(fault),
        Err(Failure::Unread(unread)) => return Err(unread),
    };
    let overlay = match overlay(kind, inputs) {
        Ok(overlay) => Ok(overlay),
        Err(Failure::Fault(fault)) => Err(fault),
        Err(Failure::Unread(unread)) => return Err(unread),
    };
    Ok(match (overlay, services) {
        (Ok(overlay_pod_cidr), Ok(service_cidr)) => Decision {
            status: SpiderCoordinatorStatus {
                phase: SpiderCoordinatorStatus::SYNCED.into(),
                reason: None,
                overlay_pod_cidr,
                service_cidr,
            },
            fault: None,
        },
        (Err(fault), services) => not_ready(fault, services.unwrap_or_default()),
        (Ok(_), Err(fault)) => not_ready(fault, Vec::new()),
    })
}

fn not_ready(fault: Fault, service_cidr: Vec<String>) -> Decision {
    let status = SpiderCoordinatorStatus {
        phase: SpiderCoordinatorStatus::NOT_READY.into(),
        reason: Some(fault.to_string()),
        overlay_pod_cidr: Vec::new(),
        service_cidr,
    };
    Decision { status, fault: Some(fault) }
}

fn service_cidrs(inputs: &Inputs) -> Result<Vec<String>, Failure> {
    match inputs.service_cidrs.as_ref().ok_or(Unread("ServiceCIDRs"))? {
        Some(cidrs) if !cidrs.is_empty() => Ok(cidrs.clone()),
        _ => cluster(inputs, "serviceSubnet:", "--service-cluster-ip-range"),
    }
}

fn overlay(kind: Option<PodCidrType>, inputs: &Inputs) -> Result<Vec<String>, Failure> {
    let kind = match kind.unwrap_or(PodCidrType::Auto) {
        PodCidrType::Auto => {
            let conf = inputs.cni.as_ref().ok_or(Unread("CNI configurations"))?;
            of_default_cni(conf.as_ref().map_err(|error| Fault::Cni(error.clone()))?.as_ref())
        }
        kind => kind,
    };
    match kind {
        PodCidrType::Cluster => cluster(inputs, "podSubnet:", "--cluster-cidr"),
        PodCidrType::Calico => {
            let pools = inputs.calico_pools.as_ref().ok_or(Unread("Calico's IPPools"))?;
            let pools = pools.as_ref().ok_or(Fault::NoCalico)?;
            pools.iter().map(|text| cidr(text, "Calico's IPPools")).collect::<Result<_, _>>().map_err(Failure::from)
        }
        PodCidrType::Cilium => cilium(inputs),
        // auto is never found out from a configuration.
        PodCidrType::None | PodCidrType::Auto => Ok(Vec::new()),
    }
}

/// By the name of the network; flannel's own manifest calls its `cbr0`, so that of a network of another name the main
/// plugin counts.
fn of_default_cni(conf: Option<&CniConf>) -> PodCidrType {
    let Some(conf) = conf else { return PodCidrType::None };
    match (conf.name.as_str(), conf.types.first().map_or("", String::as_str)) {
        ("calico" | "k8s-pod-network", _) => PodCidrType::Calico,
        ("cilium", _) => PodCidrType::Cilium,
        ("flannel", _) => PodCidrType::Cluster,
        (_, "calico") => PodCidrType::Calico,
        (_, "cilium-cni") => PodCidrType::Cilium,
        (_, "flannel") => PodCidrType::Cluster,
        _ => PodCidrType::None,
    }
}

/// From kubeadm's configuration, else from the flags of kube-controller-manager. Entries that are no CIDRs do not
/// count.
fn cluster(inputs: &Inputs, key: &str, flag: &str) -> Result<Vec<String>, Failure> {
    let kubeadm = inputs.kubeadm.as_ref().ok_or(Unread("ConfigMaps of kubeadm"))?;
    let found = kubeadm.as_deref().and_then(|text| value_of(text, key)).map(valid).unwrap_or_default();
    if !found.is_empty() {
        return Ok(found);
    }
    let arguments = inputs.controller_manager.as_ref().ok_or(Unread("pods of kube-controller-manager"))?;
    let arguments = arguments.as_ref().ok_or(Fault::NoControllerManager)?;
    Ok(argument_of(arguments, flag).map(valid).unwrap_or_default())
}

/// The value of the first line with this key, wherever it stands: the versions of the document differ in structure.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(key)).map(|value| value.trim().trim_matches(['"', '\'']))
}

/// `--flag=value`, or `--flag value`.
fn argument_of<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    arguments.iter().enumerate().find_map(|(index, argument)| {
        let rest = argument.trim().strip_prefix(flag)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None if rest.is_empty() => arguments.get(index + 1).map(String::as_str),
            None => None,
        }
    })
}

fn cilium(inputs: &Inputs) -> Result<Vec<String>, Failure> {
    let name = &inputs.cilium_config_name;
    let config = inputs.cilium_config.as_ref().ok_or(Unread("ConfigMaps of Cilium"))?;
    let config = config.as_ref().ok_or_else(|| Fault::NoCilium(name.clone()))?;
    let mode = config.get("ipam").map_or("", String::as_str);
    match mode {
        "cluster-pool" | "cluster-pool-v2beta" => {
            let mut cidrs = Vec::new();
            for key in ["cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"] {
                for text in split(config.get(key).map_or("", String::as_str)) {
                    cidrs.push(cidr(text, &format!("{key} of Cilium's ConfigMap {name}"))?);
                }
            }
            if cidrs.is_empty() {
                return Err(Fault::NoCiliumCidr { mode: mode.into(), config: name.clone() }.into());
            }
            Ok(cidrs)
        }
        "multi-pool" => {
            let pools = inputs.cilium_pools.as_ref().ok_or(Unread("CiliumPodIPPools"))?;
            let pools = pools.as_ref().ok_or(Fault::NoCiliumPools)?;
            pools.iter().map(|text| cidr(text, "CiliumPodIPPools")).collect::<Result<_, _>>().map_err(Failure::from)
        }
        "kubernetes" => cluster(inputs, "podSubnet:", "--cluster-cidr"),
        other => Err(Fault::CiliumMode(other.into()).into()),
    }
}

/// Lists are written with commas or spaces.
fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t', '\n', '"', '\'', '[', ']']).filter(|entry| !entry.is_empty())
}

fn valid(text: &str) -> Vec<String> {
    split(text).filter_map(parse).collect()
}

fn cidr(text: &str, place: &str) -> Result<String, Fault> {
    parse(text).ok_or_else(|| Fault::Cidr { text: text.chars().take(80).collect(), place: place.into() })
}

/// A network, its host bits cleared.
fn parse(text: &str) -> Option<String> {
    let network: IpNetwork = text.contains('/').then(|| text.parse().ok()).flatten()?;
    IpNetwork::new(network.network(), network.prefix()).ok().map(|network| network.to_string())
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
