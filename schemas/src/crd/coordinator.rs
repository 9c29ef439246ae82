//! SpiderCoordinator: how the routes of pods with several interfaces are put in order.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{AddressError, parse_address, parse_destination};
use super::field::{FieldError, null_is_empty};
use super::ip_version::IpVersion;
use super::route::Route;
use crate::intent::{CoordinatorMode, CoordinatorSettings, RouteIntent};
use crate::name::{MacPrefix, MacPrefixError};

/// How routes are put in order, for the cluster (SpiderCoordinator) or one network (SpiderMultusConfig).
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderCoordinator",
    plural = "spidercoordinators",
    shortname = "scc",
    category = "spiderpool",
    status = "SpiderCoordinatorStatus",
    derive = "PartialEq",
    doc = "A SpiderCoordinator says how the routes of pods with several interfaces are put in order."
)]
#[serde(rename_all = "camelCase")]
pub struct SpiderCoordinatorSpec {
    /// What the pod's interfaces are: underlay when all are on the physical network, overlay when the default CNI's comes
    /// first and physical ones beside it, auto to find out from the pod, disabled to do nothing.
    #[serde(default)]
    pub mode: Mode,
    /// Where the pod CIDRs of the overlay are read from: auto to find out from the node's CNI configuration.
    #[serde(rename = "podCIDRType", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PodCidrType")]
    pub pod_cidr_type: Option<PodCidrType>,
    /// Further destinations, CIDRs or addresses, that pods reach by the default CNI's interface.
    #[serde(rename = "hijackCIDR", default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 50)))]
    pub hijack_cidr: Vec<String>,
    /// Further routes in the table of the interface.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub policy_routes: Vec<Route>,
    /// The first two bytes of the interface's hardware address, 0a:1b; the others are made from its IP address.
    #[serde(rename = "podMACPrefix", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub pod_mac_prefix: Option<String>,
    /// Whether the routes of pods with several interfaces are put in order at all.
    #[serde(default = "tune_pod_routes")]
    pub tune_pod_routes: bool,
    /// The interface that keeps the pod's default route.
    #[serde(rename = "podDefaultRouteNIC", default, skip_serializing_if = "Option::is_none")]
    pub pod_default_route_nic: Option<String>,
    /// The routing table of the node that holds the routes to the pods.
    #[serde(default = "host_rule_table")]
    pub host_rule_table: i64,
    /// The pod's sysctl rp_filter: 0, 1 or 2; a negative number leaves it alone.
    #[serde(rename = "podRPFilter", default)]
    pub pod_rp_filter: i32,
    /// The transmit queue length of the interface; 0 leaves it alone.
    #[serde(default)]
    pub tx_queue_len: i64,
    /// The address given to the pod's veth0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    pub veth_link_address: Option<String>,
    /// The MTU of the pod's veth0.
    #[serde(rename = "vethMTU", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub veth_mtu: Option<i32>,
    /// An older spelling of mode; it holds while mode is auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Mode")]
    pub tune_mode: Option<Mode>,
    /// Whether the gateway is probed: read of a SpiderMultusConfig; elsewhere the agent's configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_gateway: Option<bool>,
    /// Whether addresses are probed for conflicts: read of a SpiderMultusConfig; elsewhere the agent's configuration
    /// decides.
    #[serde(rename = "detectIPConflict", default, skip_serializing_if = "Option::is_none")]
    pub detect_ip_conflict: Option<bool>,
    /// Of older releases: the sysctl rp_filter of the node's interfaces on the pod's path.
    #[serde(rename = "hostRPFilter", default, skip_serializing_if = "Option::is_none")]
    pub host_rp_filter: Option<i32>,
}

/// What a pod's interfaces are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Found out from the pod.
    #[default]
    Auto,
    /// All are on the physical network.
    Underlay,
    /// The default CNI's first, physical ones beside it.
    Overlay,
    /// Do nothing.
    #[serde(alias = "disable")]
    Disabled,
}

impl From<Mode> for CoordinatorMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Underlay => Self::Underlay,
            Mode::Overlay => Self::Overlay,
            Mode::Disabled => Self::Disabled,
        }
    }
}

/// Where the pod CIDRs of the overlay are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PodCidrType {
    /// The one of the node's first CNI configuration.
    Auto,
    /// The cluster's own configuration.
    Cluster,
    /// Calico's pools.
    Calico,
    /// Cilium's configuration.
    Cilium,
    /// There is no overlay.
    None,
}

fn tune_pod_routes() -> bool {
    true
}

/// The routing table of the node that holds the routes to the pods, unless another is named.
const HOST_RULE_TABLE: u32 = 500;

fn host_rule_table() -> i64 {
    HOST_RULE_TABLE.into()
}

impl Default for SpiderCoordinatorSpec {
    /// What the CRD's defaults give.
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            pod_cidr_type: None,
            hijack_cidr: Vec::new(),
            policy_routes: Vec::new(),
            pod_mac_prefix: None,
            tune_pod_routes: tune_pod_routes(),
            pod_default_route_nic: None,
            host_rule_table: host_rule_table(),
            pod_rp_filter: 0,
            tx_queue_len: 0,
            veth_link_address: None,
            veth_mtu: None,
            tune_mode: None,
            detect_gateway: None,
            detect_ip_conflict: None,
            host_rp_filter: None,
        }
    }
}

impl SpiderCoordinatorSpec {
    fn checked_policy_routes(&self) -> Result<Vec<RouteIntent>, CoordinatorError> {
        let checked = |(index, Route { dst, gw }): (usize, &Route)| {
            let error = |key: &str, fault| CoordinatorError::new(format!("spec.policyRoutes[{index}].{key}"), fault);
            let dst = parse_destination(dst).map_err(|fault| error("dst", fault))?;
            let gateway = parse_address(gw).map_err(|fault| error("gw", fault))?;
            let family = IpVersion::of(dst.ip());
            if IpVersion::of(gateway) != family {
                return Err(error("gw", AddressError::Family(gateway, family)));
            }
            Ok(RouteIntent { dst, gateway: Some(gateway) })
        };
        self.policy_routes.iter().enumerate().map(checked).collect()
    }

    fn checked_mac_prefix(&self) -> Result<Option<MacPrefix>, CoordinatorError> {
        // Empty texts are what the original's client writes.
        let given = self.pod_mac_prefix.as_deref().filter(|text| !text.is_empty());
        given.map(str::parse).transpose().map_err(|fault| CoordinatorError::new("spec.podMACPrefix", fault))
    }

    fn checked_veth_link_address(&self) -> Result<Option<IpAddr>, CoordinatorError> {
        let given = self.veth_link_address.as_deref().filter(|text| !text.is_empty());
        given.map(parse_address).transpose().map_err(|fault| CoordinatorError::new("spec.vethLinkAddress", fault))
    }

    fn checked_veth_mtu(&self) -> Result<Option<u32>, CoordinatorError> {
        let checked = |mtu: i32| match u32::try_from(mtu) {
            Ok(mtu) if mtu > 0 => Ok(mtu),
            _ => Err(CoordinatorError::new("spec.vethMTU", CoordinatorFault::VethMtu(mtu))),
        };
        self.veth_mtu.map(checked).transpose()
    }

    /// `mode`, or `tuneMode` where only that one says something.
    pub fn effective_mode(&self) -> Mode {
        match (self.mode, self.tune_mode) {
            (Mode::Auto, Some(older)) => older,
            (mode, _) => mode,
        }
    }
}

/// What the controller found out about the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderCoordinatorStatus {
    /// Synced when the CIDRs below are known, else NotReady; pods wait for Synced.
    pub phase: String,
    /// Why the phase is not Synced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The pod CIDRs of the overlay.
    #[serde(
        rename = "overlayPodCIDR",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub overlay_pod_cidr: Vec<String>,
    /// The CIDRs of the services.
    #[serde(
        rename = "serviceCIDR",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_cidr: Vec<String>,
}

impl SpiderCoordinatorStatus {
    /// `phase` when the CIDRs are known.
    pub const SYNCED: &'static str = "Synced";
    /// `phase` when they are not.
    pub const NOT_READY: &'static str = "NotReady";
}

/// The rule that a SpiderCoordinator breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorFault {
    /// Not an address or CIDR.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A table that is not ours to fill.
    #[error("{0} is one of the kernel's own tables or no table, use one of 1 to 4294967295 without 253, 254 and 255")]
    Table(i64),
    /// A number outside its range.
    #[error("{0} is not supported, use 0, 1, 2, or a negative number to leave the sysctl alone")]
    RpFilter(i32),
    /// A queue length outside its range.
    #[error("{0} is no queue length, use 0 to 4294967295")]
    TxQueueLen(i64),
    /// Not two bytes, or a group's.
    #[error(transparent)]
    MacPrefix(#[from] MacPrefixError),
    /// No MTU.
    #[error("vethMTU must be greater than 0, not {0}")]
    VethMtu(i32),
}

/// A field of a SpiderCoordinator that breaks a rule.
pub type CoordinatorError = FieldError<CoordinatorFault>;

/// The CIDRs of the cluster are not known, so no pod's routes can be decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("SpiderCoordinator {name} is not Synced: phase {phase:?}, reason {reason:?}; see its status")]
pub struct NotSynced {
    /// The object's name.
    pub name: String,
    /// `status.phase`, empty without status.
    pub phase: String,
    /// `status.reason`, empty without one.
    pub reason: String,
}

impl SpiderCoordinator {
    /// Spec and status as the node remembers them. The lists of an absent status are empty; whether it may be used is
    /// [`SpiderCoordinator::synced`]'s to say.
    ///
    /// # Errors
    /// The first field that breaks a rule, such as `spec.hijackCIDR[1]`, and the rule.
    pub fn settings(&self) -> Result<CoordinatorSettings, CoordinatorError> {
        let spec = &self.spec;
        let status = |list: fn(&SpiderCoordinatorStatus) -> &Vec<String>| {
            self.status.as_ref().map_or(&[][..], |status| list(status))
        };
        Ok(CoordinatorSettings {
            mode: spec.effective_mode().into(),
            tune_pod_routes: spec.tune_pod_routes,
            default_route_nic: spec.pod_default_route_nic.clone().filter(|nic| !nic.is_empty()),
            overlay_pod_cidr: destinations("status.overlayPodCIDR", status(|status| &status.overlay_pod_cidr))?,
            service_cidr: destinations("status.serviceCIDR", status(|status| &status.service_cidr))?,
            hijack_cidr: destinations("spec.hijackCIDR", &spec.hijack_cidr)?,
            host_rule_table: checked_table(spec.host_rule_table)?,
            pod_rp_filter: if spec.pod_rp_filter > 2 {
                return Err(CoordinatorError::new("spec.podRPFilter", CoordinatorFault::RpFilter(spec.pod_rp_filter)));
            } else {
                spec.pod_rp_filter
            },
            tx_queue_len: u32::try_from(spec.tx_queue_len).map_err(|_| {
                CoordinatorError::new("spec.txQueueLen", CoordinatorFault::TxQueueLen(spec.tx_queue_len))
            })?,
            policy_routes: spec.checked_policy_routes()?,
            mac_prefix: spec.checked_mac_prefix()?,
            veth_link_address: spec.checked_veth_link_address()?,
            veth_mtu: spec.checked_veth_mtu()?,
            host_rp_filter: match spec.host_rp_filter {
                Some(value) if value > 2 => {
                    return Err(CoordinatorError::new("spec.hostRPFilter", CoordinatorFault::RpFilter(value)));
                }
                value => value,
            },
        })
    }

    /// Whether the controller has found out the CIDRs of the cluster.
    ///
    /// # Errors
    /// The phase and the reason, when not.
    pub fn synced(&self) -> Result<(), NotSynced> {
        let status = self.status.clone().unwrap_or_default();
        if status.phase == SpiderCoordinatorStatus::SYNCED {
            return Ok(());
        }
        let name = self.metadata.name.clone().unwrap_or_default();
        Err(NotSynced { name, phase: status.phase, reason: status.reason.unwrap_or_default() })
    }
}

fn destinations(field: &str, texts: &[String]) -> Result<Vec<IpNetwork>, CoordinatorError> {
    let entry = |(index, text): (usize, &String)| {
        parse_destination(text).map_err(|fault| CoordinatorError::new(format!("{field}[{index}]"), fault))
    };
    texts.iter().enumerate().map(entry).collect()
}

/// What is not above 0 stands for the default, as in the original (../spec/coordinator.md 2.2).
fn checked_table(table: i64) -> Result<u32, CoordinatorError> {
    let reserved = || CoordinatorError::new("spec.hostRuleTable", CoordinatorFault::Table(table));
    match u32::try_from(table) {
        _ if table <= 0 => Ok(HOST_RULE_TABLE),
        Ok(253..=255) | Err(_) => Err(reserved()),
        Ok(table) => Ok(table),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn coordinator(spec: &str) -> SpiderCoordinator {
        SpiderCoordinator::new("default", serde_saphyr::from_str(spec).unwrap())
    }

    #[test]
    fn defaults_are_those_of_the_crd() {
        assert_eq!(serde_json::from_str::<SpiderCoordinatorSpec>("{}").unwrap(), SpiderCoordinatorSpec::default());
        let settings = coordinator("{}").settings().unwrap();
        assert_eq!(
            settings,
            CoordinatorSettings {
                mode: CoordinatorMode::Auto,
                tune_pod_routes: true,
                default_route_nic: None,
                overlay_pod_cidr: vec![],
                service_cidr: vec![],
                hijack_cidr: vec![],
                host_rule_table: 500,
                pod_rp_filter: 0,
                tx_queue_len: 0,
                policy_routes: vec![],
                mac_prefix: None,
                veth_link_address: None,
                veth_mtu: None,
                host_rp_filter: None,
            }
        );
    }

    #[test]
    fn the_older_spelling_holds_while_mode_is_auto() {
        for (spec, mode) in [
            ("{tuneMode: overlay}", Mode::Overlay),
            ("{mode: auto, tuneMode: underlay}", Mode::Underlay),
            ("{mode: underlay, tuneMode: overlay}", Mode::Underlay),
            ("{mode: disable}", Mode::Disabled),
            ("{mode: disabled}", Mode::Disabled),
        ] {
            assert_eq!(coordinator(spec).spec.effective_mode(), mode, "{spec}");
        }
    }

    #[test]
    fn every_rule_names_its_field() {
        for (spec, text) in [
            ("{hijackCIDR: [10.0.0.0/8, x]}", "spec.hijackCIDR[1]: \"x\" is not a CIDR"),
            ("{hostRuleTable: 254}", "spec.hostRuleTable: 254 is one of the kernel's own"),
            ("{hostRuleTable: 4294967296}", "spec.hostRuleTable: 4294967296 is"),
            ("{podRPFilter: 3}", "spec.podRPFilter: 3 is not supported"),
            ("{txQueueLen: -1}", "spec.txQueueLen: -1 is no queue length"),
        ] {
            let error = coordinator(spec).settings().unwrap_err().to_string();
            assert!(error.starts_with(text), "{spec}: {error}");
        }
        let mut broken = coordinator("{}");
        broken.status =
            Some(SpiderCoordinatorStatus { service_cidr: vec!["10.0.0.0/33".into()], ..Default::default() });
        assert!(broken.settings().unwrap_err().to_string().starts_with("status.serviceCIDR[0]: "));
    }

    #[test]
    fn odd_but_accepted_values() {
        let settings =
            coordinator("{hostRuleTable: 0, podRPFilter: -1, hijackCIDR: [1.2.3.4, 10.0.0.1/8]}").settings().unwrap();
        assert_eq!((settings.host_rule_table, settings.pod_rp_filter), (500, -1));
        let texts: Vec<String> = settings.hijack_cidr.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["1.2.3.4/32", "10.0.0.0/8"]);
    }

    #[test]
    fn without_status_nothing_is_synced() {
        let mut coordinator = coordinator("{}");
        assert_eq!(coordinator.synced().unwrap_err().phase, "");
        let status = |phase: &str, reason: Option<&str>| SpiderCoordinatorStatus {
            phase: phase.into(),
            reason: reason.map(Into::into),
            ..SpiderCoordinatorStatus::default()
        };
        coordinator.status = Some(status("NotReady", Some("no kubeadm-config")));
        assert_eq!(
            coordinator.synced().unwrap_err().to_string(),
            r#"SpiderCoordinator default is not Synced: phase "NotReady", reason "no kubeadm-config"; see its status"#
        );
        coordinator.status = Some(status("Synced", None));
        assert_eq!(coordinator.synced(), Ok(()));
    }

    proptest! {
        #[test]
        fn no_value_panics(text in ".*|[0-9a-f.:/]{0,24}", table: i64, filter: i32, queue: i64) {
            let spec = SpiderCoordinatorSpec {
                hijack_cidr: vec![text],
                host_rule_table: table,
                pod_rp_filter: filter,
                tx_queue_len: queue,
                ..SpiderCoordinatorSpec::default()
            };
            let _ = SpiderCoordinator::new("default", spec).settings();
        }
    }
}
