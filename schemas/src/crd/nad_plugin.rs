//! The plugins of a generated CNI configuration list, each with its keys in the order of the contract
//! (../spec/controller.md 2.1 and 2.2). Nothing is checked here.

use serde::Serialize;
use serde_json::Value;

use super::coordinator::{Mode, SpiderCoordinatorSpec};
use super::multus_config::SpiderMultusConfigSpec;
use super::multus_config::{LinkState, Trunk, VlanMode};
use super::route::Route;
use crate::cni::version::CniVersion;
use crate::name::NetworkName;

/// The list.
#[derive(Serialize)]
pub(super) struct ConfigList<'a> {
    #[serde(rename = "cniVersion")]
    pub(super) cni_version: CniVersion,
    pub(super) name: NetworkName,
    pub(super) plugins: Vec<Plugin<'a>>,
}

/// One plugin of the list.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Plugin<'a> {
    Ifacer(Ifacer<'a>),
    Uplink(UplinkPlugin<'a>),
    Vlan(VlanPlugin<'a>),
    Sriov(SriovPlugin<'a>),
    IbSriov(IbSriovPlugin<'a>),
    Ipoib(IpoibPlugin<'a>),
    Ovs(OvsPlugin<'a>),
    Rdma(RdmaPlugin),
    Chained(Value),
    Coordinator(Coordinator),
    Tuning(TuningPlugin),
}

/// Makes the VLAN and the bond on the node.
#[derive(Serialize)]
pub(super) struct Ifacer<'a> {
    #[serde(rename = "vlanID", skip_serializing_if = "Option::is_none")]
    pub(super) vlan_id: Option<i32>,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) interfaces: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bond: Option<IfacerBond<'a>>,
}

/// The bond that ifacer makes.
#[derive(Serialize)]
pub(super) struct IfacerBond<'a> {
    pub(super) name: &'a str,
    pub(super) mode: i32,
    pub(super) options: &'a str,
}

/// macvlan or ipvlan.
#[derive(Serialize)]
pub(super) struct UplinkPlugin<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) master: String,
    /// ipvlan goes with its own default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<&'static str>,
    pub(super) mtu: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipam: Option<Ipam<'a>>,
}

/// vlan.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VlanPlugin<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) master: &'a str,
    pub(super) vlan_mode: VlanMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) vlan_id: Option<i32>,
    pub(super) mtu: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipam: Option<Ipam<'a>>,
}

/// sriov.
#[derive(Serialize)]
pub(super) struct SriovPlugin<'a> {
    pub(super) vlan: i32,
    pub(super) min_tx_rate: i32,
    pub(super) max_tx_rate: i32,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipam: Option<Ipam<'a>>,
}

/// ib-sriov.
#[derive(Serialize)]
pub(super) struct IbSriovPlugin<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) pkey: &'a str,
    pub(super) link_state: LinkState,
    #[serde(rename = "rdmaIsolation")]
    pub(super) rdma_isolation: bool,
    #[serde(rename = "ibKubernetesEnabled")]
    pub(super) ib_kubernetes_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipam: Option<Ipam<'a>>,
}

/// ipoib.
#[derive(Serialize)]
pub(super) struct IpoibPlugin<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) master: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipam: Option<Ipam<'a>>,
}

/// ovs.
#[derive(Serialize)]
pub(super) struct OvsPlugin<'a> {
    pub(super) vlan: i32,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) bridge: &'a str,
    #[serde(rename = "deviceID", skip_serializing_if = "str::is_empty")]
    pub(super) device_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipam: Option<Ipam<'a>>,
    #[serde(skip_serializing_if = "<[Trunk]>::is_empty")]
    pub(super) trunk: &'a [Trunk],
}

/// Moves the RDMA device into the pod.
#[derive(Serialize)]
pub(super) struct RdmaPlugin {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
}

/// Sets the MTU of a virtual function.
#[derive(Serialize)]
pub(super) struct TuningPlugin {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) mtu: i32,
}

/// The addresses.
#[derive(Serialize)]
pub(super) struct Ipam<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    #[serde(rename = "default_ipv4_ippool", skip_serializing_if = "<[String]>::is_empty")]
    pub(super) ipv4: &'a [String],
    #[serde(rename = "default_ipv6_ippool", skip_serializing_if = "<[String]>::is_empty")]
    pub(super) ipv6: &'a [String],
    /// Only pools of the uplink's own subnet are taken.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) match_master_subnet: bool,
    /// Here too, so that another address is taken for one in conflict: when the coordinator asks, it is given already.
    #[serde(flatten)]
    pub(super) detect: Detect,
}

/// What is probed, where the network asks for it.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Detect {
    #[serde(rename = "detectGateway", skip_serializing_if = "std::ops::Not::not")]
    gateway: bool,
    #[serde(rename = "detectIPConflict", skip_serializing_if = "std::ops::Not::not")]
    ip_conflict: bool,
}

impl Detect {
    /// As the coordinator's block says.
    pub(super) fn of(coordinator: &SpiderCoordinatorSpec) -> Self {
        Self {
            gateway: coordinator.detect_gateway == Some(true),
            ip_conflict: coordinator.detect_ip_conflict == Some(true),
        }
    }

    /// As the network's coordinator says, if it has one.
    pub(super) fn in_network(spec: &SpiderMultusConfigSpec) -> Self {
        spec.coordinator.as_ref().filter(|_| spec.enable_coordinator).map(Self::of).unwrap_or_default()
    }
}

/// The coordinator, with what of it beats the SpiderCoordinator.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Coordinator {
    pub(super) tx_queue_len: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) veth_link_address: String,
    #[serde(rename = "vethMTU", skip_serializing_if = "Option::is_none")]
    pub(super) veth_mtu: Option<i32>,
    pub(super) tune_pod_routes: bool,
    #[serde(rename = "podMACPrefix", skip_serializing_if = "String::is_empty")]
    pub(super) pod_mac_prefix: String,
    pub(super) mode: Mode,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    /// The plugin's spelling; the custom resource writes podDefaultRouteNIC.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) pod_default_route_nic: String,
    #[serde(rename = "podRPFilter", skip_serializing_if = "Option::is_none")]
    pub(super) pod_rp_filter: Option<i32>,
    #[serde(rename = "hijackCIDR", skip_serializing_if = "Vec::is_empty")]
    pub(super) hijack_cidr: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) policy_routes: Vec<Route>,
    #[serde(flatten)]
    pub(super) detect: Detect,
}
