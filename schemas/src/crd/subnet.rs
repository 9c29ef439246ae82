//! SpiderSubnet: addresses of one subnet that pools take theirs from.
#![allow(clippy::duplicated_attributes, reason = "the lint does not tell one printer column from another")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::null_is_empty;
use super::ip_version::IpVersion;
use super::route::Route;

/// What a subnet holds.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderSubnet",
    plural = "spidersubnets",
    shortname = "ss",
    category = "spiderpool",
    status = "SpiderSubnetStatus",
    derive = "PartialEq",
    doc = "A SpiderSubnet holds addresses of one subnet that SpiderIPPools take theirs from.",
    printcolumn(name = "VERSION", type_ = "string", json_path = ".spec.ipVersion"),
    printcolumn(name = "SUBNET", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "ALLOCATED-IP-COUNT", type_ = "integer", json_path = ".status.allocatedIPCount"),
    printcolumn(name = "TOTAL-IP-COUNT", type_ = "integer", json_path = ".status.totalIPCount")
)]
#[serde(rename_all = "camelCase")]
pub struct SpiderSubnetSpec {
    /// The address family, 4 or 6; that of the subnet when absent. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "IpVersion")]
    pub ip_version: Option<IpVersion>,
    /// The subnet as a CIDR without host bits, 10.6.0.0/16. It cannot be changed.
    #[schemars(length(max = 50))]
    pub subnet: String,
    /// The addresses that pools may take, each entry one address A or a range A-B inside the subnet.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 80)))]
    pub ips: Vec<String>,
    /// Addresses that are taken out of ips, written as there.
    #[serde(rename = "excludeIPs", default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 80)))]
    pub exclude_ips: Vec<String>,
    /// The default gateway of pools that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub gateway: Option<String>,
    /// The routes of pools that have no list of their own.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub routes: Vec<Route>,
    /// Of older releases: the VLAN of the addresses. It has no effect here; the SpiderMultusConfig decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<i64>,
}

/// What of a subnet its pools hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderSubnetStatus {
    /// The pools of the subnet as the text of a JSON object: the pool's name is the key, ips and, for pools made for an
    /// application, application are the value's keys. Absent while there is none.
    #[serde(rename = "controlledIPPools", default, skip_serializing_if = "Option::is_none")]
    pub controlled_ip_pools: Option<String>,
    /// How many addresses the subnet holds: those of ips without those of excludeIPs, at most 9223372036854775807.
    #[serde(rename = "totalIPCount", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_ip_count: Option<i64>,
    /// How many of them its pools hold.
    #[serde(rename = "allocatedIPCount", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub allocated_ip_count: Option<i64>,
    /// What else is to be said about the subnet, by type.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
