//! The garbage collector, which other people's clusters have.

use libtest_mimic::Trial;
use serde_json::json;
use tests::cluster::Cluster;

use crate::bed::alone;

pub(crate) fn trials() -> Vec<Trial> {
    vec![alone("collection::what_is_owned_goes_with_its_owner", owned)]
}

fn owned(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    kubectl.ask(&["create", "namespace", "owned"], "").unwrap();
    let at = ["--namespace", "owned"];
    for owner in ["leaving", "staying"] {
        kubectl.ask(&["create", "configmap", owner, at[0], at[1]], "").unwrap();
        let uid = kubectl.json(&["get", "configmap", owner, at[0], at[1]]).unwrap()["metadata"]["uid"].clone();
        let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid});
        let metadata = json!({"name": format!("of-{owner}"), "namespace": "owned", "ownerReferences": [reference]});
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        kubectl.ask(&["create", "-f", "-"], &object.to_string()).unwrap();
    }
    kubectl.ask(&["delete", "configmap", "leaving", at[0], at[1]], "").unwrap();
    // Nobody else does it.
    kubectl.ask(&["get", "configmap", "of-leaving", at[0], at[1]], "").unwrap();
    cluster.start_controller_manager(&["garbagecollector"]).unwrap();
    kubectl.ask(&["wait", "configmap/of-leaving", "--for=delete", "--timeout=60s", at[0], at[1]], "").unwrap();
    kubectl.ask(&["get", "configmap", "of-staying", at[0], at[1]], "").unwrap();
}
