//! SpiderIPPool: addresses of one subnet that pods may get.
#![allow(clippy::duplicated_attributes, reason = "the lint does not tell one printer column from another")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::null_is_empty;
use super::ip_version::IpVersion;
use super::route::Route;

/// What a pool holds and who may use it.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderIPPool",
    plural = "spiderippools",
    shortname = "sp",
    category = "spiderpool",
    status = "SpiderIPPoolStatus",
    derive = "PartialEq",
    doc = "A SpiderIPPool holds addresses of one subnet that pods may get.",
    printcolumn(name = "VERSION", type_ = "string", json_path = ".spec.ipVersion"),
    printcolumn(name = "SUBNET", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "ALLOCATED-IP-COUNT", type_ = "integer", json_path = ".status.allocatedIPCount"),
    printcolumn(name = "TOTAL-IP-COUNT", type_ = "integer", json_path = ".status.totalIPCount"),
    printcolumn(name = "DEFAULT", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(name = "DISABLE", type_ = "boolean", json_path = ".spec.disable", priority = "10"),
    printcolumn(name = "NodeName", type_ = "string", json_path = ".spec.nodeName", priority = "10"),
    printcolumn(name = "MultusName", type_ = "string", json_path = ".spec.multusName", priority = "10"),
    printcolumn(
        name = "APP-NAMESPACE",
        type_ = "string",
        json_path = r".spec.podAffinity.matchLabels['ipam\.spidernet\.io/app\-namespace']",
        priority = "10"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SpiderIPPoolSpec {
    /// The address family, 4 or 6; that of the subnet when absent. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "IpVersion")]
    pub ip_version: Option<IpVersion>,
    /// The subnet as a CIDR without host bits, 10.6.0.0/16. It cannot be changed.
    #[schemars(length(max = 50))]
    pub subnet: String,
    /// The addresses of the pool, each entry one address A or a range A-B inside the subnet.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 80)))]
    pub ips: Vec<String>,
    /// Addresses that are taken out of ips, written as there.
    #[serde(rename = "excludeIPs", default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 80)))]
    pub exclude_ips: Vec<String>,
    /// The default gateway of the pods, an address of the subnet that is not in ips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub gateway: Option<String>,
    /// Further routes of the pods; the default route is written as gateway. An empty list keeps the pool from inheriting
    /// those of its SpiderSubnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub routes: Option<Vec<Route>>,
    /// The pods that may use the pool, by label; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub pod_affinity: Option<LabelSelector>,
    /// The namespaces that may use the pool, by label; not looked at when namespaceName has entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub namespace_affinity: Option<LabelSelector>,
    /// The namespaces that may use the pool, by name.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub namespace_name: Vec<String>,
    /// The nodes that may use the pool, by label; not looked at when nodeName has entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub node_affinity: Option<LabelSelector>,
    /// The nodes that may use the pool, by name.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub node_name: Vec<String>,
    /// The network configurations that may use the pool, as namespace/name, or as name in the agent's own namespace.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub multus_name: Vec<String>,
    /// Whether pods that ask for no pool may use this one.
    #[serde(default)]
    pub default: bool,
    /// Whether the pool gives no further addresses; what it has given stays in use.
    #[serde(default)]
    pub disable: bool,
    /// Of older releases: the VLAN of the addresses. It has no effect here; the SpiderMultusConfig decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<i64>,
}

/// What of a pool is in use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderIPPoolStatus {
    /// The addresses in use as the text of a JSON object: the address is the key, pod as namespace/name and podUid are
    /// the value's keys. Absent while none is in use.
    #[serde(rename = "allocatedIPs", default, skip_serializing_if = "Option::is_none")]
    pub allocated_ips: Option<String>,
    /// How many addresses the pool holds: those of ips without those of excludeIPs, at most 9223372036854775807.
    #[serde(rename = "totalIPCount", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_ip_count: Option<i64>,
    /// How many of them are in use.
    #[serde(rename = "allocatedIPCount", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub allocated_ip_count: Option<i64>,
    /// How many addresses nodes hold, in use or ready to be given: at least those in use, at most the total.
    #[serde(rename = "leasedIPCount", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub leased_ip_count: Option<i64>,
    /// How many addresses a shard of the pool covers. It is set by the first node that needs one, and never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 4096))]
    pub shard_size: Option<u32>,
    /// How many addresses beyond its need a node may keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub fair_share: Option<i64>,
    /// The nodes that have found no free address and wait for one, each with the time since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waiting: BTreeMap<String, String>,
    /// What else is to be said about the pool, by type.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Who uses an address: a value of the JSON object in `status.allocatedIPs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolIpUser {
    /// The pod as namespace/name.
    pub pod: String,
    /// Its UID.
    #[serde(rename = "podUid")]
    pub pod_uid: String,
}

impl SpiderIPPoolStatus {
    /// The users of the addresses in use, by address as text.
    ///
    /// # Errors
    /// `allocatedIPs` is not the JSON text that it should be.
    pub fn users(&self) -> Result<BTreeMap<String, PoolIpUser>, serde_json::Error> {
        self.allocated_ips.as_deref().map_or_else(|| Ok(BTreeMap::new()), serde_json::from_str)
    }

    /// The status of a pool of `total` addresses with these users.
    pub fn of(total: i64, users: &BTreeMap<String, PoolIpUser>) -> Self {
        // Texts and maps with text keys always have a JSON form.
        let text = || serde_json::to_string(users).ok();
        Self {
            allocated_ips: if users.is_empty() { None } else { text() },
            total_ip_count: Some(total),
            allocated_ip_count: Some(i64::try_from(users.len()).unwrap_or(i64::MAX)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_are_a_json_text_sorted_by_address() {
        let user = |pod: &str| PoolIpUser { pod: pod.into(), pod_uid: "u".into() };
        let users = BTreeMap::from([("10.6.212.9".into(), user("d/b")), ("10.6.212.10".into(), user("d/a"))]);
        let status = SpiderIPPoolStatus::of(41, &users);
        assert_eq!(
            serde_json::to_string(&status).unwrap(),
            concat!(
                r#"{"allocatedIPs":"{\"10.6.212.10\":{\"pod\":\"d/a\",\"podUid\":\"u\"},"#,
                r#"\"10.6.212.9\":{\"pod\":\"d/b\",\"podUid\":\"u\"}}","totalIPCount":41,"allocatedIPCount":2}"#
            )
        );
        assert_eq!(status.users().unwrap(), users);
    }

    #[test]
    fn without_users_the_text_is_absent() {
        let status = SpiderIPPoolStatus::of(41, &BTreeMap::new());
        assert_eq!(serde_json::to_string(&status).unwrap(), r#"{"totalIPCount":41,"allocatedIPCount":0}"#);
        assert!(status.users().unwrap().is_empty());
    }
}
