//! CNI results: one shape inside (1.1.0's), printed and read in the shape of any version.
//!
//! Differences (specification, "Result"): up to 0.4.0 an address has `version: "4"|"6"`; since 1.0.0 it has not; 1.1.0
//! adds `mtu`, `socketPath` and `pciID` of interfaces and `mtu`, `advmss`, `priority`, `table` and `scope` of routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cni::error::CniError;
use crate::cni::version::CniVersion;

/// A result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    /// Interfaces, of the pod and of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<ResultInterface>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<ResultIp>,
    /// Routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<ResultRoute>,
    /// Name resolution.
    #[serde(default)]
    pub dns: ResultDns,
}

/// An interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultInterface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace's path; empty on the node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// A vhost-user socket (1.1.0).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// A PCI device (1.1.0).
    #[serde(default, rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultIp {
    /// Address and prefix length.
    pub address: IpNetwork,
    /// The subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRoute {
    /// The destination.
    pub dst: IpNetwork,
    /// The next hop; without one the plugin takes the address's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU on the path (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Segment size on the path (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Table (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

/// Name resolution of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultDns {
    /// Servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A result as some plugin printed it: any version, null lists as Go writes them, unknown keys ignored.
#[derive(Deserialize)]
struct AnyResult {
    #[serde(default)]
    interfaces: Option<Vec<ResultInterface>>,
    #[serde(default)]
    ips: Option<Vec<ResultIp>>,
    #[serde(default)]
    routes: Option<Vec<ResultRoute>>,
    #[serde(default)]
    dns: Option<BTreeMap<String, Value>>,
}

impl CniResult {
    /// Reads a result of any version from 0.3.0 on.
    ///
    /// # Errors
    /// [`CniError::DECODE`] naming what is wrong with it.
    pub fn from_json(value: &Value) -> Result<Self, CniError> {
        let invalid = |error: &dyn std::fmt::Display| {
            CniError::new(CniError::DECODE, format!("prevResult is not a CNI result: {error}"))
        };
        let any: AnyResult = AnyResult::deserialize(value).map_err(|error| invalid(&error))?;
        let dns = match any.dns {
            Some(dns) => {
                let present: Map<String, Value> = dns.into_iter().filter(|(_, value)| !value.is_null()).collect();
                ResultDns::deserialize(Value::Object(present)).map_err(|error| invalid(&error))?
            }
            None => ResultDns::default(),
        };
        let result = Self {
            interfaces: any.interfaces.unwrap_or_default(),
            ips: any.ips.unwrap_or_default(),
            routes: any.routes.unwrap_or_default(),
            dns,
        };
        if let Some(index) = result.ips.iter().filter_map(|ip| ip.interface).find(|i| *i >= result.interfaces.len()) {
            return Err(invalid(&format!("an address names interface {index} of {}", result.interfaces.len())));
        }
        Ok(result)
    }

    /// The result in the shape of `version`, `cniVersion` included.
    pub fn to_json(&self, version: CniVersion) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".into(), json!(version));
        let newest = version >= CniVersion::V1_1_0;
        if !self.interfaces.is_empty() {
            let mut interfaces = json!(self.interfaces);
            if !newest {
                remove_keys(&mut interfaces, &["mtu", "socketPath", "pciID"]);
            }
            object.insert("interfaces".into(), interfaces);
        }
        if !self.ips.is_empty() {
            let mut ips = json!(self.ips);
            if version < CniVersion::V1_0_0 {
                for (ip, value) in self.ips.iter().zip(ips.as_array_mut().into_iter().flatten()) {
                    value["version"] = json!(if ip.address.is_ipv4() { "4" } else { "6" });
                }
            }
            object.insert("ips".into(), ips);
        }
        if !self.routes.is_empty() {
            let mut routes = json!(self.routes);
            if !newest {
                remove_keys(&mut routes, &["mtu", "advmss", "priority", "table", "scope"]);
            }
            object.insert("routes".into(), routes);
        }
        object.insert("dns".into(), json!(self.dns));
        Value::Object(object)
    }
}

fn remove_keys(list: &mut Value, keys: &[&str]) {
    for object in list.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for key in keys {
            object.remove(*key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn result() -> CniResult {
        CniResult {
            interfaces: vec![ResultInterface {
                name: "net1".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1500),
                sandbox: "/run/netns/x".into(),
                ..Default::default()
            }],
            ips: vec![ResultIp {
                address: "10.6.212.200/16".parse().unwrap(),
                gateway: Some("10.6.0.1".parse().unwrap()),
                interface: Some(0),
            }],
            routes: vec![ResultRoute {
                dst: "0.0.0.0/0".parse().unwrap(),
                gw: Some("10.6.0.1".parse().unwrap()),
                mtu: None,
                advmss: None,
                priority: Some(5),
                table: None,
                scope: None,
            }],
            dns: ResultDns::default(),
        }
    }

    #[test]
    fn every_version_has_its_own_shape() {
        let old = result().to_json(CniVersion::V0_3_1);
        assert_eq!(
            old,
            json!({"cniVersion":"0.3.1","interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","sandbox":"/run/netns/x"}],
                "ips":[{"version":"4","address":"10.6.212.200/16","gateway":"10.6.0.1","interface":0}],
                "routes":[{"dst":"0.0.0.0/0","gw":"10.6.0.1"}],"dns":{}})
        );
        assert_eq!(result().to_json(CniVersion::V0_4_0)["ips"][0]["version"], "4");
        assert!(result().to_json(CniVersion::V1_0_0)["ips"][0].get("version").is_none());
        assert!(result().to_json(CniVersion::V1_0_0)["interfaces"][0].get("mtu").is_none());
        assert_eq!(result().to_json(CniVersion::V1_1_0)["interfaces"][0]["mtu"], 1500);
        assert_eq!(result().to_json(CniVersion::V1_1_0)["routes"][0]["priority"], 5);
    }

    #[test]
    fn the_newest_shape_comes_back_whole() {
        assert_eq!(CniResult::from_json(&result().to_json(CniVersion::NEWEST)).unwrap(), result());
    }

    #[test]
    fn go_s_nulls_are_empty_lists() {
        let read =
            CniResult::from_json(&json!({"ips":null,"interfaces":null,"routes":null,"dns":{"nameservers":null}}));
        assert_eq!(read.unwrap(), CniResult::default());
    }

    #[test]
    fn an_address_of_no_interface_is_refused() {
        let error = CniResult::from_json(&json!({"ips":[{"address":"10.0.0.1/8","interface":1}]})).unwrap_err();
        assert!(error.msg.contains("interface 1 of 0"), "{error}");
    }

    proptest! {
        #[test]
        fn no_json_panics(text in ".*", n in any::<i64>()) {
            if let Ok(value) = serde_json::from_str(&text) { let _ = CniResult::from_json(&value); }
            let _ = CniResult::from_json(&json!({"ips":[{"address":text,"interface":n}],"routes":text}));
        }
    }
}
