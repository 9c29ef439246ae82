//! SpiderEndpoint: the addresses that a pod has.
#![allow(clippy::duplicated_attributes, reason = "the lint does not tell one printer column from another")]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::null_is_empty;
use super::route::Route;

/// Nothing: an endpoint has no `spec`, and this adds no key to the object.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderEndpoint",
    plural = "spiderendpoints",
    shortname = "se",
    category = "spiderpool",
    namespaced,
    no_spec,
    status = "SpiderEndpointStatus",
    derive = "PartialEq",
    doc = "A SpiderEndpoint shows the addresses of the pod of the same name.",
    selectable = ".status.current.node",
    printcolumn(name = "INTERFACE", type_ = "string", json_path = ".status.current.ips[0].interface"),
    printcolumn(name = "IPV4POOL", type_ = "string", json_path = ".status.current.ips[0].ipv4Pool"),
    printcolumn(name = "IPV4", type_ = "string", json_path = ".status.current.ips[0].ipv4"),
    printcolumn(name = "IPV6POOL", type_ = "string", json_path = ".status.current.ips[0].ipv6Pool"),
    printcolumn(name = "IPV6", type_ = "string", json_path = ".status.current.ips[0].ipv6"),
    printcolumn(name = "NODE", type_ = "string", json_path = ".status.current.node")
)]
pub struct SpiderEndpointSpec {}

/// What a pod has. It is written by plain updates: the kind has no status subresource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpiderEndpointStatus {
    /// The addresses of the pod that is there now.
    pub current: PodIpAllocation,
    /// The kind of the topmost object that the pod belongs to, such as Deployment, StatefulSet or Pod.
    pub owner_controller_type: String,
    /// The name of that object.
    pub owner_controller_name: String,
}

/// The addresses of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodIpAllocation {
    /// The pod's UID.
    pub uid: String,
    /// The pod's node.
    pub node: String,
    /// One entry for each interface.
    #[serde(deserialize_with = "null_is_empty")]
    pub ips: Vec<IpAllocationDetail>,
}

/// The addresses of one interface of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpAllocationDetail {
    /// The interface in the pod, such as eth0 or net1; empty for one that is not used yet.
    pub interface: String,
    /// The IPv4 address with the prefix length of its pool's subnet, 10.6.212.202/16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// The IPv6 address with the prefix length of its pool's subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
    /// The pool of the IPv4 address.
    #[serde(rename = "ipv4Pool", default, skip_serializing_if = "Option::is_none")]
    pub ipv4_pool: Option<String>,
    /// The pool of the IPv6 address.
    #[serde(rename = "ipv6Pool", default, skip_serializing_if = "Option::is_none")]
    pub ipv6_pool: Option<String>,
    /// The VLAN of the interface, 0 for none.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4094))]
    pub vlan: i64,
    /// The IPv4 gateway.
    #[serde(rename = "ipv4Gateway", default, skip_serializing_if = "Option::is_none")]
    pub ipv4_gateway: Option<String>,
    /// The IPv6 gateway.
    #[serde(rename = "ipv6Gateway", default, skip_serializing_if = "Option::is_none")]
    pub ipv6_gateway: Option<String>,
    /// Whether the interface goes without default route although its pool has a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_gateway: Option<bool>,
    /// The further routes of the interface.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The hardware address, where the infrastructure gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_no_spec_and_comes_back_as_it_went() {
        let mut endpoint = SpiderEndpoint::new("nginx", SpiderEndpointSpec {});
        endpoint.status = Some(SpiderEndpointStatus {
            current: PodIpAllocation {
                uid: "u".into(),
                node: "worker01".into(),
                ips: vec![IpAllocationDetail {
                    interface: "net1".into(),
                    ipv4: Some("10.6.212.202/16".into()),
                    ipv4_pool: Some("10-6-v4".into()),
                    ..IpAllocationDetail::default()
                }],
            },
            owner_controller_type: "Deployment".into(),
            owner_controller_name: "nginx".into(),
        });
        let json = serde_json::to_value(&endpoint).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "apiVersion": "spiderpool.spidernet.io/v2beta1",
                "kind": "SpiderEndpoint",
                "metadata": {"name": "nginx"},
                "status": {
                    "current": {
                        "uid": "u",
                        "node": "worker01",
                        "ips": [{"interface": "net1", "ipv4": "10.6.212.202/16", "ipv4Pool": "10-6-v4", "vlan": 0}],
                    },
                    "ownerControllerType": "Deployment",
                    "ownerControllerName": "nginx",
                },
            })
        );
        assert_eq!(serde_json::from_value::<SpiderEndpoint>(json).unwrap(), endpoint);
    }
}
