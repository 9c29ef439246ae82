//! SpiderMultusConfig: a network, from which the chain of plugins is made ([`nad_config`]).

use std::fmt;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::coordinator::SpiderCoordinatorSpec;
use super::field::null_is_empty;
pub use super::nad::{NadError, NadFault, nad_annotations, nad_config, nad_name};

/// A network: its main plugin, its pools and its coordinator.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderMultusConfig",
    plural = "spidermultusconfigs",
    shortname = "smc",
    category = "spiderpool",
    namespaced,
    derive = "PartialEq",
    doc = "A SpiderMultusConfig describes a network; the NetworkAttachmentDefinition of the same name is made from it."
)]
#[serde(rename_all = "camelCase")]
pub struct SpiderMultusConfigSpec {
    /// The main plugin; its block below is required, and no other block may be there.
    #[serde(default)]
    pub cni_type: CniType,
    /// Whether the coordinator plugin follows the main plugin; never for custom.
    #[serde(default = "enabled")]
    pub enable_coordinator: bool,
    /// Whether the main plugin goes without addresses.
    #[serde(rename = "disableIPAM", default)]
    pub disable_ipam: bool,
    /// The coordinator's settings in this network, over those of the SpiderCoordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<SpiderCoordinatorSpec>,
    /// Further plugins after the main one, each the JSON text of one plugin's configuration.
    #[serde(
        rename = "chainCNIJsonData",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 32), inner(length(max = 16384)))]
    pub chain_cni_json_data: Vec<String>,
    /// For custom: the JSON text of the whole configuration. When it is empty, the node's own configuration of that name
    /// is used.
    #[serde(rename = "customCNI", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub custom_cni: Option<String>,
    /// The uplink and the pools of a macvlan; required when cniType is macvlan, refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macvlan: Option<UplinkConfig>,
    /// The uplink and the pools of an ipvlan; required when cniType is ipvlan, refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipvlan: Option<UplinkConfig>,
    /// The uplink and the pools of a vlan; required when cniType is vlan, refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanConfig>,
    /// The virtual functions and the pools; required when cniType is sriov, refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sriov: Option<SriovConfig>,
    /// The InfiniBand virtual functions and the pools; required when cniType is ib-sriov, refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ibsriov: Option<IbSriovConfig>,
    /// The InfiniBand interface and the pools; required when cniType is ipoib, refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipoib: Option<IpoibConfig>,
    /// The Open vSwitch bridge and the pools; required when cniType is ovs, refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ovs: Option<OvsConfig>,
}

impl Default for SpiderMultusConfigSpec {
    /// What the CRD's defaults give.
    fn default() -> Self {
        Self {
            cni_type: CniType::Custom,
            enable_coordinator: enabled(),
            disable_ipam: false,
            coordinator: None,
            chain_cni_json_data: Vec::new(),
            custom_cni: None,
            macvlan: None,
            ipvlan: None,
            vlan: None,
            sriov: None,
            ibsriov: None,
            ipoib: None,
            ovs: None,
        }
    }
}

fn enabled() -> bool {
    true
}

/// The main plugin of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CniType {
    /// A macvlan on an uplink.
    Macvlan,
    /// An ipvlan on an uplink.
    Ipvlan,
    /// A VLAN of an uplink, moved into the pod.
    Vlan,
    /// A virtual function of a network card.
    Sriov,
    /// A port of an Open vSwitch bridge.
    Ovs,
    /// A virtual function of an InfiniBand card.
    IbSriov,
    /// IP over an InfiniBand interface.
    Ipoib,
    /// A configuration written by hand.
    #[default]
    Custom,
}

impl fmt::Display for CniType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Vlan => "vlan",
            Self::Sriov => "sriov",
            Self::Ovs => "ovs",
            Self::IbSriov => "ib-sriov",
            Self::Ipoib => "ipoib",
            Self::Custom => "custom",
        })
    }
}

/// macvlan and ipvlan: an interface on an uplink of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UplinkConfig {
    /// The uplink of the node; two or more are put into the bond.
    #[schemars(length(max = 32), inner(length(max = 64)))]
    pub master: Vec<String>,
    /// The MTU; 0 takes the uplink's.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub mtu: i32,
    /// The VLAN of the uplink that is made and used; 0 or absent for the uplink itself.
    #[serde(rename = "vlanID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan_id: Option<i32>,
    /// The bond that is made of the uplinks when there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondConfig>,
    /// The name of the RDMA resource of the uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma_resource_name: Option<String>,
    /// The pools of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ippools: Option<NetworkPools>,
    /// An older spelling of ippools; it holds where ippools is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiderpool_config_pools: Option<OlderNetworkPools>,
}

/// vlan: a VLAN of an uplink, moved into the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VlanConfig {
    /// The uplink of the node; two or more are put into the bond.
    #[schemars(length(max = 32), inner(length(max = 64)))]
    pub master: Vec<String>,
    /// The MTU; 0 takes the uplink's.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub mtu: i32,
    /// The VLAN, required when vlanMode is manual and refused when it is auto.
    #[serde(rename = "vlanID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan_id: Option<i32>,
    /// Who decides the VLAN: manual for vlanID, auto for the infrastructure.
    #[serde(default)]
    pub vlan_mode: VlanMode,
    /// The bond that is made of the uplinks when there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondConfig>,
    /// The name of the RDMA resource of the uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma_resource_name: Option<String>,
    /// The pools of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ippools: Option<NetworkPools>,
}

/// Who decides the VLAN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VlanMode {
    /// The configuration.
    #[default]
    Manual,
    /// The infrastructure.
    Auto,
}

/// A bond of several uplinks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BondConfig {
    /// The name of the bond.
    #[schemars(length(max = 64))]
    pub name: String,
    /// The mode by the kernel's number, 0 balance-rr to 6 balance-alb.
    #[schemars(range(min = 0, max = 6))]
    pub mode: i32,
    /// Further options, k=v joined by ';'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<String>,
}

/// sriov: a virtual function of a network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SriovConfig {
    /// The device plugin's name of the virtual functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub resource_name: Option<String>,
    /// The VLAN of the virtual function.
    #[serde(rename = "vlanID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan_id: Option<i32>,
    /// The MTU; 0 leaves it alone.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub mtu: i32,
    /// The least transmit rate in Mbit/s, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min_tx_rate_mbps: Option<i32>,
    /// The greatest transmit rate in Mbit/s, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_tx_rate_mbps: Option<i32>,
    /// Whether the RDMA device is moved into the pod too.
    #[serde(default)]
    pub rdma_isolation: bool,
    /// The pools of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ippools: Option<NetworkPools>,
}

/// ib-sriov: a virtual function of an InfiniBand card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IbSriovConfig {
    /// The device plugin's name of the virtual functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub resource_name: Option<String>,
    /// The partition key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkey: Option<String>,
    /// The state that the link is put into.
    #[serde(default)]
    pub link_state: LinkState,
    /// Whether the RDMA device is moved into the pod too.
    #[serde(default = "enabled")]
    pub rdma_isolation: bool,
    /// Whether the ib-kubernetes daemon gives out the GUIDs.
    #[serde(default)]
    pub enable_ib_kubernetes: bool,
    /// The pools of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ippools: Option<NetworkPools>,
}

/// The state of a virtual function's link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// As the physical link.
    Auto,
    /// Always up.
    #[default]
    Enable,
    /// Always down.
    Disable,
}

/// ipoib: IP over an InfiniBand interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpoibConfig {
    /// The InfiniBand interface of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub master: Option<String>,
    /// The pools of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ippools: Option<NetworkPools>,
}

/// ovs: a port of an Open vSwitch bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OvsConfig {
    /// The bridge.
    #[schemars(length(max = 64))]
    pub bridge: String,
    /// The VLAN of the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan: Option<i32>,
    /// The VLANs that the port carries with their tags.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub trunk: Vec<Trunk>,
    /// The PCI address of a virtual function that is offloaded to.
    #[serde(rename = "deviceID", default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// The pools of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ippools: Option<NetworkPools>,
}

/// VLANs of a trunk: a range, or one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trunk {
    /// The first VLAN of the range.
    #[serde(rename = "minID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub min_id: Option<i32>,
    /// The last VLAN of the range.
    #[serde(rename = "maxID", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub max_id: Option<i32>,
    /// The one VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4094))]
    pub id: Option<i32>,
}

/// The pools that a network's addresses come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPools {
    /// The IPv4 pools in the order of preference.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ipv4: Vec<String>,
    /// The IPv6 pools in the order of preference.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ipv6: Vec<String>,
    /// Whether only pools of the uplink's own subnet are taken; not for macvlan, ipvlan and vlan.
    #[serde(default)]
    pub match_master_subnet: bool,
}

/// The pools of a network in the spelling of older releases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OlderNetworkPools {
    /// The IPv4 pools in the order of preference.
    #[serde(rename = "IPv4IPPool", default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ipv4: Vec<String>,
    /// The IPv6 pools in the order of preference.
    #[serde(rename = "IPv6IPPool", default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ipv6: Vec<String>,
}
