//! What the node is to remember: attachments, allocations, sandboxes and outcomes.
//!
//! These structs are the version-1 records of the store. bincode is not self-describing, so nothing here may be
//! reordered, inserted or skipped: a changed shape is a new struct and a new record version (see the store's codec).
//! For the same reason there is no HashMap, no `skip_serializing_if`, no flattened and no internally tagged field.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::name::{AttachmentKey, ContainerId, IfName, Mac, MacPrefix, NetworkName};
use crate::uplink::UplinkIntent;

/// The pod that a sandbox belongs to; all texts are empty when the runtime named none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID, empty when the runtime does not tell it.
    pub uid: String,
}

impl PodRef {
    /// Whether the runtime named a pod at all.
    pub fn is_named(&self) -> bool {
        !self.name.is_empty()
    }
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One network namespace, never confused with a later one at the same path: inode numbers are reused at once, cookies
/// are not, and boot IDs tell one count of cookies from the next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsIdentity {
    /// The path the runtime gave (`CNI_NETNS`).
    pub path: String,
    /// `SO_NETNS_COOKIE` of the namespace.
    pub cookie: u64,
    /// `/proc/sys/kernel/random/boot_id` when it was seen.
    pub boot_id: String,
}

/// An address given to an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AssignedAddress {
    /// Address and prefix length of its subnet.
    pub address: IpNetwork,
    /// The subnet's gateway, when the pod is to have one.
    pub gateway: Option<IpAddr>,
    /// The pool it came from; empty when another IPAM gave it.
    pub pool: String,
}

/// A route of an interface; without gateway the destination is on the link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteIntent {
    /// The destination.
    pub dst: IpNetwork,
    /// The next hop.
    pub gateway: Option<IpAddr>,
}

/// macvlan's modes, spelled as the reference plugin spells them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Pods of one uplink reach each other directly.
    #[default]
    Bridge,
    /// They do not.
    Private,
    /// They do over the switch.
    Vepa,
    /// One pod takes the whole uplink.
    Passthru,
}

/// ipvlan's modes, spelled as the reference plugin spells them. All ipvlans of one uplink have one mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// As a switch would.
    #[default]
    L2,
    /// As a router would: no ARP, no broadcast.
    L3,
    /// The same by way of the node's own packet filter.
    L3s,
}

impl IpvlanMode {
    /// Whether its links have neighbours to be found and told.
    pub fn has_neighbours(self) -> bool {
        self == Self::L2
    }
}

/// What kind of link an attachment asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LinkKindIntent {
    /// A macvlan on an uplink.
    Macvlan(MacvlanMode),
    /// An ipvlan on an uplink.
    Ipvlan(IpvlanMode),
}

impl LinkKindIntent {
    /// Whether its links take over their uplink's hardware address unless told otherwise.
    pub fn shares_mac(&self) -> bool {
        match self {
            Self::Macvlan(mode) => *mode == MacvlanMode::Passthru,
            Self::Ipvlan(_) => true,
        }
    }
}

/// What a link has by router advertisements (RFC 4862): never made by dragline, and routed like what IPAM gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Learned {
    /// Addresses, ascending.
    pub addresses: Vec<IpNetwork>,
    /// The default router.
    pub gateway: Option<IpAddr>,
}

/// A link that the agent makes and keeps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkIntent {
    /// The kind.
    pub kind: LinkKindIntent,
    /// The uplink.
    pub master: IfName,
    /// The uplink is in the pod's namespace rather than the node's.
    pub master_in_container: bool,
    /// The MTU; None takes the uplink's.
    pub mtu: Option<u32>,
    /// The hardware address, decided once, so that a link made again is the same link; None where it is the uplink's.
    pub mac: Option<Mac>,
}

/// How to know again a link that another plugin made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkIdentity {
    /// Its index in the pod's namespace.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
}

/// Where the routes of several NICs are put in order, as decided for one attachment: the network configuration's keys
/// over the pod's annotation over the SpiderCoordinator over the built-in defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinateIntent {
    /// Keys of the network configuration; what is None or empty follows the SpiderCoordinator, also when that changes.
    pub conf: CoordinatorOverrides,
    /// `ipam.spidernet.io/default-route-nic` of the pod when ADD was asked, if the pod had it.
    pub annotated_default_nic: Option<String>,
    /// SpiderCoordinator's values when ADD was asked: what holds while no newer ones are known.
    pub cluster: CoordinatorSettings,
    /// The hardware address by `podMACPrefix` when ADD was asked: a link of another plugin is given it, and keeps it
    /// whatever becomes of the prefix.
    #[serde(default)]
    pub mac: Option<Mac>,
}

/// The coordinator's keys of a network configuration that beat the SpiderCoordinator (../spec/coordinator.md 2.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorOverrides {
    /// `mode`.
    pub mode: Option<CoordinatorMode>,
    /// `tunePodRoutes`.
    pub tune_pod_routes: Option<bool>,
    /// `podDefaultRouteNic`.
    pub default_route_nic: Option<String>,
    /// `podDefaultCniNic`.
    pub default_cni_nic: Option<IfName>,
    /// `overlayPodCIDR`.
    pub overlay_pod_cidr: Vec<IpNetwork>,
    /// `serviceCIDR`.
    pub service_cidr: Vec<IpNetwork>,
    /// `hijackCIDR`.
    pub hijack_cidr: Vec<IpNetwork>,
    /// `hostRuleTable`.
    pub host_rule_table: Option<u32>,
    /// `podRPFilter`; negative leaves the sysctl alone.
    pub pod_rp_filter: Option<i32>,
    /// `txQueueLen`; 0 leaves it.
    pub tx_queue_len: Option<u32>,
    /// `policyRoutes`; each has a gateway of its destination's family.
    #[serde(default)]
    pub policy_routes: Vec<RouteIntent>,
    /// `podMACPrefix`.
    #[serde(default)]
    pub mac_prefix: Option<MacPrefix>,
    /// `vethLinkAddress`.
    #[serde(default)]
    pub veth_link_address: Option<IpAddr>,
    /// `vethMTU`.
    #[serde(default)]
    pub veth_mtu: Option<u32>,
    /// `hostRPFilter`; negative leaves the sysctl alone.
    #[serde(default)]
    pub host_rp_filter: Option<i32>,
}

/// A coordinator mode; `disabled` and `disable` are one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoordinatorMode {
    /// Found out from the pod.
    #[default]
    Auto,
    /// All NICs are on the physical network.
    Underlay,
    /// The default CNI's NIC first, physical ones beside it.
    Overlay,
    /// Do nothing.
    Disabled,
}

/// What the SpiderCoordinator says, spec and status in one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorSettings {
    /// `spec.mode`.
    pub mode: CoordinatorMode,
    /// `spec.tunePodRoutes`.
    pub tune_pod_routes: bool,
    /// `spec.podDefaultRouteNIC`, None when empty.
    pub default_route_nic: Option<String>,
    /// `status.overlayPodCIDR`.
    pub overlay_pod_cidr: Vec<IpNetwork>,
    /// `status.serviceCIDR`.
    pub service_cidr: Vec<IpNetwork>,
    /// `spec.hijackCIDR`.
    pub hijack_cidr: Vec<IpNetwork>,
    /// `spec.hostRuleTable`.
    pub host_rule_table: u32,
    /// `spec.podRPFilter`; negative leaves the sysctl alone.
    pub pod_rp_filter: i32,
    /// `spec.txQueueLen`.
    pub tx_queue_len: u32,
    /// `spec.policyRoutes`; each has a gateway of its destination's family.
    #[serde(default)]
    pub policy_routes: Vec<RouteIntent>,
    /// `spec.podMACPrefix`.
    #[serde(default)]
    pub mac_prefix: Option<MacPrefix>,
    /// `spec.vethLinkAddress`.
    #[serde(default)]
    pub veth_link_address: Option<IpAddr>,
    /// `spec.vethMTU`, in bytes; None is Ethernet's 1500.
    #[serde(default)]
    pub veth_mtu: Option<u32>,
    /// `spec.hostRPFilter`; None or negative leaves the sysctl alone.
    #[serde(default)]
    pub host_rp_filter: Option<i32>,
}

/// What the default CNI had set up in the sandbox before the first coordinator call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The default CNI's interface in the pod, usually eth0.
    pub nic: IfName,
    /// Its index in the pod.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// Its addresses, link-local ones left out.
    pub addresses: Vec<IpNetwork>,
    /// Its routes of table main as they were, those of the kernel for connected subnets included.
    pub routes: Vec<BaselineRoute>,
    /// The other end of it on the node, when it has one.
    pub peer: Option<HostPeer>,
}

/// A route of the default CNI's interface in table main.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BaselineRoute {
    /// The destination.
    pub dst: IpNetwork,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The preferred source.
    pub src: Option<IpAddr>,
    /// The kernel's scope number: 0 global, 253 link.
    pub scope: u8,
    /// The metric.
    pub metric: u32,
    /// The next hop is reached on the link although no route says so (Calico's 169.254.1.1 without a host route).
    pub onlink: bool,
    /// Who made it, as the kernel tells: put back in main, it is again theirs.
    pub protocol: u8,
}

/// The node's end of the pod's default interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPeer {
    /// Its name on the node.
    pub name: IfName,
    /// Its index on the node.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
}

/// The veth pair between an underlay pod and its node (../spec/coordinator.md 6): its end in the pod is `veth0`. The
/// hardware addresses are decided once, so that a pair made again is the same pair.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AuxiliaryLink {
    /// The node's end: `veth` and the first eleven characters of the container ID.
    pub host_name: IfName,
    /// The hardware address of the pod's end.
    pub pod_mac: Mac,
    /// The hardware address of the node's end.
    pub host_mac: Mac,
}

/// A sysctl with its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SysctlValue {
    /// Its path below /proc/sys.
    pub path: String,
    /// Its value.
    pub value: String,
}

/// One interface of one sandbox, as it is wanted. Each part is set by its plugin's ADD and cleared by its DEL; the record
/// goes when no part is left and its addresses have come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which one.
    pub key: AttachmentKey,
    /// The network configuration's name.
    pub network: NetworkName,
    /// The pod.
    pub pod: PodRef,
    /// Place in the sandbox's order of attachment, from 0; it decides the table, so no two attachments share it.
    pub ordinal: u32,
    /// Counts the changes of the sandbox's intent; the outcome names the one that it reached.
    pub generation: u64,
    /// Its addresses, from our pools or from another plugin's result.
    pub addresses: Vec<AssignedAddress>,
    /// Its routes besides the connected ones.
    pub routes: Vec<RouteIntent>,
    /// Our IPAM holds addresses for it.
    pub allocated: bool,
    /// The link, where making it is our part; it stays here after DEL until the link is verified gone.
    pub link: Option<LinkIntent>,
    /// The link is wanted; false after DEL.
    pub link_wanted: bool,
    /// The link of another plugin, once it was seen.
    pub foreign_link: Option<LinkIdentity>,
    /// What the network gave the link by itself, as last seen.
    #[serde(default)]
    pub learned: Learned,
    /// The routing, where the coordinator was asked.
    pub coordinate: Option<Box<CoordinateIntent>>,
    /// The uplink on the node that the link stands on, where `ifacer` was asked for it.
    #[serde(default)]
    pub uplink: Option<Box<UplinkIntent>>,
    /// DEL has come for some part: when the namespace goes, the rest is withdrawn with it.
    pub closing: bool,
    /// Its addresses were given together with those of another NIC of the pod, and are not on a link yet: its own ADD has
    /// still to come.
    #[serde(default)]
    pub prepared: bool,
}

impl Attachment {
    /// Nothing is wanted any more: the record only waits for the kernel to be clean.
    pub fn is_withdrawn(&self) -> bool {
        !self.allocated && !self.link_wanted && self.coordinate.is_none() && self.uplink.is_none()
    }
}

/// An address that is not free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The address.
    pub address: IpAddr,
    /// Its pool.
    pub pool: String,
    /// Whose it is.
    pub owner: AttachmentKey,
    /// Whether it is still wanted.
    pub state: AllocationState,
}

/// Whether an address is in use or on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AllocationState {
    /// In use.
    Held,
    /// Given back by DEL, and free once the namespace is verified to be without it, or gone.
    Releasing,
}

/// A sandbox of the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Which one.
    pub container: ContainerId,
    /// Its namespace; None while only addresses were asked, without a namespace to be found at the path.
    pub netns: Option<NetnsIdentity>,
    /// What the default CNI set up, once a coordinator call has seen it. In underlay mode there is none.
    pub baseline: Option<Baseline>,
    /// In underlay mode, the veth pair by which the pod reaches the node; decided by the first coordinator call.
    #[serde(default)]
    pub auxiliary: Option<AuxiliaryLink>,
    /// Sysctls of others as the first coordinator call found them: what they are set back to in the end.
    #[serde(default)]
    pub sysctls_before: Vec<SysctlValue>,
    /// The highest generation given to an intent of this sandbox.
    pub generation: u64,
    /// How far the kernel has followed.
    pub outcome: Outcome,
}

/// How a reconcile pass of a sandbox ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The generation of the intent it belongs to.
    pub generation: u64,
    /// Empty when the kernel was verified to be as wanted, else why not.
    pub error: String,
}
