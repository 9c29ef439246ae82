//! The bodies of the original agent's HTTP API (../spec/ipam.md 2, ../spec/coordinator.md 2.1), which its own plugins and
//! other programs speak over a unix socket. An error's body is a JSON string.

use serde::{Deserialize, Deserializer, Serialize};

use crate::crd::route::Route;

/// Where the original's agent listens by default.
pub const DEFAULT_SPIDERPOOL_SOCKET: &str = "/var/run/spidernet/spiderpool.sock";

/// `POST /v1/ipam/ip`: addresses for an interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamAddArgs {
    /// The sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface in it.
    pub if_name: String,
    /// The path of its network namespace.
    pub net_namespace: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID; may be empty.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// The network configuration's pools.
    #[serde(rename = "defaultIPv4IPPool", default, deserialize_with = "null_is_default")]
    pub default_ipv4_ippool: Vec<String>,
    /// The same of IPv6.
    #[serde(rename = "defaultIPv6IPPool", default, deserialize_with = "null_is_default")]
    pub default_ipv6_ippool: Vec<String>,
    /// No default route from the pool's gateway.
    #[serde(default, deserialize_with = "null_is_default")]
    pub clean_gateway: bool,
    /// Only pools whose subnet the uplink has an address of.
    #[serde(default, deserialize_with = "null_is_default")]
    pub match_master_subnet: bool,
}

/// `DELETE /v1/ipam/ip`: an interface's addresses go back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamDelArgs {
    /// The sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface in it.
    pub if_name: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID; may be empty.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
}

/// `DELETE /v1/ipam/ips`: all addresses of a pod go back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamBatchDelArgs {
    /// The sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID; may be empty.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// Others use its addresses: refused for a pod whose address belongs to its name.
    #[serde(rename = "isReleaseConflictIPs", default, deserialize_with = "null_is_default")]
    pub is_release_conflict_ips: bool,
}

/// The answer to [`IpamAddArgs`]: everything that the pod has, of all its interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IpamAddResponse {
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes.
    pub routes: Vec<NicRoute>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IpConfig {
    /// 4 or 6.
    pub version: u8,
    /// With the prefix length of its subnet.
    pub address: String,
    /// Its pool.
    #[serde(rename = "ipPool")]
    pub ip_pool: String,
    /// Its gateway; empty for none.
    pub gateway: String,
    /// The interface.
    pub nic: String,
    /// 0.
    pub vlan: i64,
    /// The asker is to probe the gateway.
    pub enable_gateway_detection: bool,
    /// The asker is to probe the address.
    #[serde(rename = "enableIPConflictDetection")]
    pub enable_ip_conflict_detection: bool,
}

/// A route of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NicRoute {
    /// The interface.
    pub if_name: String,
    /// The destination.
    pub dst: String,
    /// The gateway.
    pub gw: String,
}

/// The answer to `GET /v1/workloadendpoint?podNamespace=&podName=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpoint {
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// The pod's node.
    pub node: String,
    /// Its interfaces.
    pub interfaces: Vec<EndpointInterface>,
}

/// An interface of a pod; what is empty is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointInterface {
    /// Its name.
    pub interface: String,
    /// Its IPv4 address with prefix length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// Its IPv6 address with prefix length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// The pool of the IPv4 address.
    #[serde(rename = "ipv4Pool", skip_serializing_if = "Option::is_none")]
    pub ipv4_pool: Option<String>,
    /// The pool of the IPv6 address.
    #[serde(rename = "ipv6Pool", skip_serializing_if = "Option::is_none")]
    pub ipv6_pool: Option<String>,
    /// The IPv4 gateway.
    #[serde(rename = "ipv4Gateway", skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<String>,
    /// The IPv6 gateway.
    #[serde(rename = "ipv6Gateway", skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<String>,
    /// Its hardware address, where it was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its routes but for the default ones.
    pub routes: Vec<Route>,
}

/// The body of `GET /v1/coordinator/config`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetCoordinatorConfig {
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's name.
    pub pod_name: String,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorConfig {
    /// The mode.
    pub mode: String,
    /// The cluster's networks of pods.
    #[serde(rename = "overlayPodCIDR")]
    pub overlay_pod_cidr: Vec<String>,
    /// The cluster's networks of services.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Vec<String>,
    /// Networks that are reached by way of the node.
    #[serde(rename = "hijackCIDR")]
    pub hijack_cidr: Vec<String>,
    /// Routes of every NIC.
    pub policy_routes: Vec<Route>,
    /// The first bytes of hardware addresses.
    #[serde(rename = "podMACPrefix")]
    pub pod_mac_prefix: String,
    /// Whether routes are tuned.
    pub tune_pod_routes: bool,
    /// The NIC with the default route.
    #[serde(rename = "podDefaultRouteNIC")]
    pub pod_default_route_nic: String,
    /// The table of rules to pods on the node.
    pub host_rule_table: i64,
    /// The pods' `rp_filter`.
    #[serde(rename = "podRPFilter")]
    pub pod_rp_filter: i64,
    /// The NICs' queue length.
    pub tx_queue_len: i64,
    /// The address of `veth0`.
    pub veth_link_address: String,
    /// The MTU of `veth0`.
    #[serde(rename = "vethMTU")]
    pub veth_mtu: i64,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
