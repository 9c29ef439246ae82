//! What others have in a large cluster.

use serde_json::{Value, json};

use super::{FleetError, Objects, SPIDERPOOL};

/// The Kubernetes namespace of the foreign pods.
const NAMESPACE: &str = "namespace-0";

/// Makes so many nodes' worth of objects, none of which concerns any agent of ours: for each node a pod and its
/// SpiderEndpoint, for five a Kubernetes namespace, for fifty a pool of 231 addresses below `172.16.0.0/12`.
pub fn crowd(objects: &Objects, nodes: usize) -> Result<(), FleetError> {
    let fill = |kind: &str, count: usize, object: fn(usize) -> Value| {
        let made: Vec<Value> = (0..count).map(object).collect();
        objects.create_all(kind, &made).map(drop)
    };
    fill("/api/v1/nodes", nodes, node)?;
    fill("/api/v1/namespaces", (nodes / 5).max(1), namespace)?;
    fill(&format!("{SPIDERPOOL}/spiderippools"), nodes / 50, pool)?;
    fill(&format!("/api/v1/namespaces/{NAMESPACE}/pods"), nodes, pod)?;
    fill(&format!("{SPIDERPOOL}/namespaces/{NAMESPACE}/spiderendpoints"), nodes, endpoint)
}

fn name(number: usize) -> String {
    format!("foreign-{number}")
}

fn node(number: usize) -> Value {
    let name = name(number);
    let metadata = json!({"name": name, "labels": {"kubernetes.io/hostname": name}});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
}

fn namespace(number: usize) -> Value {
    let labels = json!({"team": format!("team-{}", number % 50)});
    let metadata = json!({"name": format!("namespace-{number}"), "labels": labels});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
}

fn pool(number: usize) -> Value {
    let subnet = format!("172.{}.{}.0/24", 16 + number / 250, number % 250);
    let ips = format!("{0}10-{0}240", subnet.trim_end_matches("0/24"));
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool",
        "metadata": {"name": name(number)}, "spec": {"subnet": subnet, "ips": [ips]},
    })
}

fn pod(number: usize) -> Value {
    let name = name(number);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": name, "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "app"}],
        },
    })
}

fn endpoint(number: usize) -> Value {
    let name = name(number);
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint",
        "metadata": {"name": name},
        "status": {
            "current": {"uid": format!("{number}"), "node": name, "ips": [
                {"interface": "net1", "ipv4": "172.16.0.1/24", "ipv4Pool": "foreign-0", "vlan": 0},
            ]},
            "ownerControllerType": "Pod", "ownerControllerName": name,
        },
    })
}
