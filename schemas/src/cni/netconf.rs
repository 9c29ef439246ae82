//! Network configuration: what a runtime or Multus hands a plugin on standard input.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::cni::error::CniError;
use crate::cni::version::CniVersion;
use crate::intent::{CoordinatorMode, CoordinatorOverrides, RouteIntent};
use crate::name::{IfName, Mac, NetworkName};

/// The keys of any plugin's configuration that decide how the rest is read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommonConf {
    /// `cniVersion`; missing means 0.1.0, which is not spoken.
    pub cni_version: CniVersion,
    /// `name`.
    pub name: NetworkName,
    /// `type`.
    #[serde(rename = "type")]
    pub plugin: String,
    /// `prevResult` in the shape of `cniVersion`.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// `cni.dev/valid-attachments`, given to GC.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<crate::wire::ValidAttachment>>,
    /// Where the agent listens, when not at the default.
    #[serde(default)]
    pub agent_socket: Option<String>,
}

/// The `ipam` object of type `spiderpool`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpiderpoolIpam {
    /// `spiderpool`.
    #[serde(rename = "type")]
    pub plugin: String,
    /// Pools for IPv4, in order of preference.
    #[serde(default, deserialize_with = "null_is_default")]
    pub default_ipv4_ippool: Vec<String>,
    /// Pools for IPv6, in order of preference.
    #[serde(default, deserialize_with = "null_is_default")]
    pub default_ipv6_ippool: Vec<String>,
    /// No default route from the pool's gateway.
    #[serde(default)]
    pub clean_gateway: bool,
    /// Only pools whose subnet the uplink has an address of.
    #[serde(default)]
    pub match_master_subnet: bool,
    /// The uplink that the configuration around it names (the plugin copies it for `match_master_subnet`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Likewise the PCI address of the virtual function.
    #[serde(default, rename = "deviceID", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Where the agent listens, when not at the default (dragline's key, as in the plugins' own configuration).
    #[serde(default, rename = "agentSocket", skip_serializing_if = "Option::is_none")]
    pub agent_socket: Option<String>,
    /// Whether others use an address is probed before it is given (dragline's key, named as the coordinator's).
    #[serde(default, rename = "detectIPConflict", skip_serializing_if = "Option::is_none")]
    pub detect_ip_conflict: Option<bool>,
    /// Whether the gateways answer is probed (likewise).
    #[serde(default, rename = "detectGateway", skip_serializing_if = "Option::is_none")]
    pub detect_gateway: Option<bool>,
}

impl SpiderpoolIpam {
    /// With what the plugin's configuration around it, a JSON object, says of the uplink, where that is asked for.
    #[must_use]
    pub fn inside(mut self, plugin: &Value) -> Self {
        if self.match_master_subnet {
            let text = |key: &str| plugin[key].as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
            self.master = text("master");
            self.device_id = text("deviceID");
        }
        self
    }

    /// What it asks to be probed.
    pub fn detect(&self) -> DetectKeys {
        DetectKeys { ip_conflict: self.detect_ip_conflict, gateway: self.detect_gateway }
    }
}

/// What a network configuration asks to be probed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DetectKeys {
    /// Whether others use the addresses.
    pub ip_conflict: Option<bool>,
    /// Whether the gateways answer.
    pub gateway: Option<bool>,
}

/// The configuration of plugin `macvlan`, as the reference plugin defines it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MacvlanConf {
    /// `master`: the uplink.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub master: Option<IfName>,
    /// `mode`.
    #[serde(default, deserialize_with = "empty_is_default")]
    pub mode: crate::intent::MacvlanMode,
    /// `mtu`; 0 takes the uplink's.
    #[serde(default)]
    pub mtu: u32,
    /// `mac`: the hardware address asked for. `MAC` of `CNI_ARGS` beats it, and `runtimeConfig.mac` beats both, as in
    /// the reference plugin; `args.cni.mac` stands between those two, as in its sister `bridge`.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub mac: Option<Mac>,
    /// `linkInContainer`: the uplink is in the pod's namespace.
    #[serde(default)]
    pub link_in_container: bool,
    /// `ipam`, of any type.
    #[serde(default)]
    pub ipam: Option<Value>,
    /// `runtimeConfig`, given by the runtime per capability.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// `args`, the specification's older way.
    #[serde(default)]
    pub args: ConfArgs,
}

/// The configuration of plugin `ipvlan`, as the reference plugin defines it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpvlanConf {
    /// `master`: the uplink.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub master: Option<IfName>,
    /// `mode`.
    #[serde(default, deserialize_with = "empty_is_default")]
    pub mode: crate::intent::IpvlanMode,
    /// `mtu`; 0 takes the uplink's.
    #[serde(default)]
    pub mtu: u32,
    /// `linkInContainer`: the uplink is in the pod's namespace.
    #[serde(default)]
    pub link_in_container: bool,
    /// `ipam`, of any type.
    #[serde(default)]
    pub ipam: Option<Value>,
}

/// `runtimeConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct RuntimeConfig {
    /// `mac`.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub mac: Option<Mac>,
}

/// `args`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ConfArgs {
    /// `args.cni`.
    #[serde(default)]
    pub cni: RuntimeConfig,
}

/// One of `policyRoutes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRoute {
    /// The destination, a CIDR.
    pub dst: String,
    /// The gateway, an address of the same family.
    pub gw: String,
}

impl PolicyRoute {
    fn checked(&self) -> Result<RouteIntent, String> {
        let Self { dst, gw } = self;
        let destination = parse_cidr(dst).map_err(|_| format!("invalid route dst {dst:?}; write a CIDR"))?;
        let gateway: IpAddr = gw.parse().map_err(|_| format!("invalid route gw {gw:?}; write an IP address"))?;
        if destination.is_ipv4() != gateway.is_ipv4() {
            return Err(format!("route dst {dst:?} and gw {gw:?} must use the same IP family"));
        }
        Ok(RouteIntent { dst: destination, gateway: Some(gateway) })
    }
}

/// The configuration of plugin `coordinator` (../spec/coordinator.md 2.2). Keys of others are read and kept, so that a
/// configuration written for the original is accepted whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorConf {
    /// `mode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// `tunePodRoutes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tune_pod_routes: Option<bool>,
    /// `podDefaultRouteNic`; `podDefaultRouteNIC` is read too.
    #[serde(default, alias = "podDefaultRouteNIC", skip_serializing_if = "Option::is_none")]
    pub pod_default_route_nic: Option<String>,
    /// `podDefaultCniNic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_default_cni_nic: Option<String>,
    /// `overlayPodCIDR`.
    #[serde(
        default,
        rename = "overlayPodCIDR",
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub overlay_pod_cidr: Vec<String>,
    /// `serviceCIDR`.
    #[serde(
        default,
        rename = "serviceCIDR",
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub service_cidr: Vec<String>,
    /// `hijackCIDR`.
    #[serde(
        default,
        rename = "hijackCIDR",
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub hijack_cidr: Vec<String>,
    /// `hostRuleTable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_rule_table: Option<i64>,
    /// `podRPFilter`.
    #[serde(default, rename = "podRPFilter", skip_serializing_if = "Option::is_none")]
    pub pod_rp_filter: Option<i64>,
    /// `txQueueLen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_queue_len: Option<i64>,
    /// `policyRoutes`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub policy_routes: Vec<PolicyRoute>,
    /// `podMACPrefix`.
    #[serde(default, rename = "podMACPrefix", skip_serializing_if = "Option::is_none")]
    pub pod_mac_prefix: Option<String>,
    /// `vethLinkAddress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veth_link_address: Option<String>,
    /// `vethMTU`.
    #[serde(default, rename = "vethMTU", skip_serializing_if = "Option::is_none")]
    pub veth_mtu: Option<i64>,
    /// `hostRPFilter`.
    #[serde(default, rename = "hostRPFilter", skip_serializing_if = "Option::is_none")]
    pub host_rp_filter: Option<i64>,
    /// `detectIPConflict`, of the seed's release.
    #[serde(default, rename = "detectIPConflict", skip_serializing_if = "Option::is_none")]
    pub detect_ip_conflict: Option<bool>,
    /// `detectGateway`, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_gateway: Option<bool>,
    /// Whatever else the configuration has.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl CoordinatorConf {
    /// What it asks to be probed.
    pub fn detect(&self) -> DetectKeys {
        DetectKeys { ip_conflict: self.detect_ip_conflict, gateway: self.detect_gateway }
    }

    /// The checked form: what of it beats the SpiderCoordinator.
    ///
    /// # Errors
    /// [`CniError::FAILED`] naming the key.
    pub fn overrides(&self) -> Result<CoordinatorOverrides, CniError> {
        // The original's code for all of its errors (../spec/coordinator.md 1).
        let invalid = |text: String| CniError::new(CniError::FAILED, format!("coordinator: {text}"));
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let cidrs = |key: &str, texts: &[String]| -> Result<Vec<IpNetwork>, CniError> {
            texts.iter().map(|text| parse_cidr(text).map_err(|error| invalid(format!("{key}: {error}")))).collect()
        };
        let nic = |key: &str, name: Option<String>| -> Result<Option<IfName>, CniError> {
            name.map(|name| name.parse().map_err(|error| invalid(format!("{key}: {error}")))).transpose()
        };
        let number = |key: &str, value: Option<i64>, low: i64, high: i64| -> Result<Option<i64>, CniError> {
            match value {
                Some(value) if !(low..=high).contains(&value) => {
                    Err(invalid(format!("{key}: {value} is not in {low}..={high}")))
                }
                value => Ok(value),
            }
        };
        Ok(CoordinatorOverrides {
            mode: text(&self.mode).map(|mode| parse_mode(&mode).map_err(&invalid)).transpose()?,
            tune_pod_routes: self.tune_pod_routes,
            default_route_nic: nic("podDefaultRouteNic", text(&self.pod_default_route_nic))?
                .map(|name| name.to_string()),
            default_cni_nic: nic("podDefaultCniNic", text(&self.pod_default_cni_nic))?,
            overlay_pod_cidr: cidrs("overlayPodCIDR", &self.overlay_pod_cidr)?,
            service_cidr: cidrs("serviceCIDR", &self.service_cidr)?,
            hijack_cidr: cidrs("hijackCIDR", &self.hijack_cidr)?,
            // Tables 0 and 253-255 are the kernel's own.
            host_rule_table: match number("hostRuleTable", self.host_rule_table, 1, i64::from(u32::MAX))? {
                Some(253..=255) => {
                    return Err(invalid("hostRuleTable: 253, 254 and 255 are the kernel's own tables".into()));
                }
                table => table.map(|table| u32::try_from(table).unwrap_or(u32::MAX)),
            },
            pod_rp_filter: number("podRPFilter", self.pod_rp_filter, i64::from(i32::MIN), 2)?
                .map(|value| i32::try_from(value).unwrap_or(-1)),
            tx_queue_len: number("txQueueLen", self.tx_queue_len, 0, i64::from(u32::MAX))?
                .map(|value| u32::try_from(value).unwrap_or(0)),
            policy_routes: (self.policy_routes.iter())
                .map(|route| route.checked().map_err(|error| invalid(format!("policyRoutes: {error}"))))
                .collect::<Result<_, CniError>>()?,
            mac_prefix: text(&self.pod_mac_prefix)
                .map(|prefix| {
                    prefix.parse().map_err(|error| {
                        invalid(format!(
                            "podMACPrefix: {error} (mac_prefix format should be match regex: {MAC_PREFIX})"
                        ))
                    })
                })
                .transpose()?,
            veth_link_address: text(&self.veth_link_address)
                .map(|address| {
                    let told = || invalid(format!("vethLinkAddress: invalid IP address: {address}"));
                    address.parse::<IpAddr>().map_err(|_| told())
                })
                .transpose()?,
            veth_mtu: match self.veth_mtu {
                Some(mtu) if mtu <= 0 => return Err(invalid(format!("vethMTU must be greater than 0, not {mtu}"))),
                mtu => number("vethMTU", mtu, 1, i64::from(u16::MAX))?.map(|mtu| u32::try_from(mtu).unwrap_or(1500)),
            },
            host_rp_filter: number("hostRPFilter", self.host_rp_filter, i64::from(i32::MIN), 2)?
                .map(|value| i32::try_from(value).unwrap_or(-1)),
        })
    }
}

/// What the original checks a MAC prefix by.
const MAC_PREFIX: &str = "[a-fA-F0-9][a-fA-F,0,2-9][:][a-fA-F0-9]{2}, like '0a:1b'";

/// A coordinator mode in any accepted spelling.
///
/// # Errors
/// The text of the original for any other.
pub fn parse_mode(text: &str) -> Result<CoordinatorMode, String> {
    match text {
        "auto" => Ok(CoordinatorMode::Auto),
        "underlay" => Ok(CoordinatorMode::Underlay),
        "overlay" => Ok(CoordinatorMode::Overlay),
        "disabled" | "disable" => Ok(CoordinatorMode::Disabled),
        other => Err(format!("unknown tuneMode: {other}; it is one of auto, underlay, overlay, disabled")),
    }
}

/// A CIDR, its host bits cleared; an address alone is a CIDR of full length. Blanks around it are the original's habit.
///
/// # Errors
/// The text of the original.
pub fn parse_cidr(text: &str) -> Result<IpNetwork, String> {
    let network: IpNetwork = text.trim().parse().map_err(|_| format!("invalid CIDR address: {text}"))?;
    IpNetwork::new(network.network(), network.prefix())
        .map_err(|error| format!("invalid CIDR address: {text}: {error}"))
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn empty_is_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !text.is_empty() => text.parse().map(Some).map_err(serde::de::Error::custom),
        _ => Ok(None),
    }
}

fn empty_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !text.is_empty() => T::deserialize(serde::de::value::StringDeserializer::<D::Error>::new(text)),
        _ => Ok(T::default()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn coordinator(text: &str) -> Result<CoordinatorOverrides, CniError> {
        serde_json::from_str::<CoordinatorConf>(text).unwrap().overrides()
    }

    #[test]
    fn the_seeds_coordinator_plugin_is_read() {
        let overrides = coordinator(
            r#"{"type":"coordinator","ipam":{},"dns":{},"detectGateway":false,"tunePodRoutes":true,"mode":"overlay","hostRuleTable":500,"detectIPConflict":false}"#,
        )
        .unwrap();
        assert_eq!(overrides.mode, Some(CoordinatorMode::Overlay));
        assert_eq!(overrides.tune_pod_routes, Some(true));
        assert_eq!(overrides.host_rule_table, Some(500));
    }

    #[test]
    fn both_spellings_of_disabled_are_one() {
        for mode in ["disable", "disabled"] {
            let overrides = coordinator(&format!(r#"{{"mode":"{mode}"}}"#)).unwrap();
            assert_eq!(overrides.mode, Some(CoordinatorMode::Disabled));
        }
    }

    #[test]
    fn invalid_keys_are_named() {
        for (text, what) in [
            (r#"{"mode":"x"}"#, "unknown tuneMode: x"),
            (r#"{"hijackCIDR":["1.2.3"]}"#, "hijackCIDR: invalid CIDR address: 1.2.3"),
            (r#"{"hostRuleTable":254}"#, "hostRuleTable: 253, 254 and 255"),
            (r#"{"hostRuleTable":0}"#, "hostRuleTable: 0 is not in"),
            (r#"{"podRPFilter":3}"#, "podRPFilter: 3 is not in"),
            (r#"{"podDefaultRouteNic":"a/b"}"#, "podDefaultRouteNic: interface name"),
            (r#"{"policyRoutes":[{"dst":"x","gw":"10.6.0.1"}]}"#, "policyRoutes: invalid route dst \"x\""),
            (r#"{"policyRoutes":[{"dst":"10.0.0.0/8","gw":"y"}]}"#, "policyRoutes: invalid route gw \"y\""),
            (
                r#"{"policyRoutes":[{"dst":"10.0.0.0/8","gw":"fd00::1"}]}"#,
                "route dst \"10.0.0.0/8\" and gw \"fd00::1\" must use the same IP family",
            ),
            (r#"{"podMACPrefix":"0b:11"}"#, "podMACPrefix: not a unicast MAC"),
            (r#"{"podMACPrefix":"0a-1b"}"#, "mac_prefix format should be match regex"),
            (r#"{"vethLinkAddress":"169.254.1"}"#, "vethLinkAddress: invalid IP address: 169.254.1"),
            (r#"{"vethMTU":0}"#, "vethMTU must be greater than 0"),
            (r#"{"vethMTU":65536}"#, "vethMTU: 65536 is not in"),
            (r#"{"hostRPFilter":3}"#, "hostRPFilter: 3 is not in"),
        ] {
            let error = coordinator(text).unwrap_err();
            assert_eq!(error.code, CniError::FAILED);
            assert!(error.msg.contains(what), "{error}");
        }
    }

    #[test]
    fn empty_texts_of_macvlan_are_defaults() {
        let conf: MacvlanConf = serde_json::from_str(r#"{"master":"","mode":"","mac":""}"#).unwrap();
        assert_eq!((conf.master, conf.mode, conf.mac), (None, crate::intent::MacvlanMode::Bridge, None));
        assert!(serde_json::from_str::<MacvlanConf>(r#"{"mode":"what"}"#).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_cidr(&text);
            let _ = serde_json::from_str::<CommonConf>(&text);
            let _ = serde_json::from_str::<CoordinatorConf>(&text).map(|conf| conf.overrides());
            let _ = serde_json::from_str::<MacvlanConf>(&text);
            let _ = serde_json::from_str::<IpvlanConf>(&text);
        }

        #[test]
        fn no_number_panics(table: i64, filter: i64, queue: i64) {
            let conf = CoordinatorConf {
                host_rule_table: Some(table), pod_rp_filter: Some(filter), tx_queue_len: Some(queue), ..Default::default()
            };
            let _ = conf.overrides();
        }
    }
}
