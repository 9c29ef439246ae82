//! Networks and their definitions.

use serde_json::{Value, json};
use tests::cluster::Cluster;

use super::{
    Controller, Named, coordinator, definition, macvlan, network, prepare, wait_definition, wait_event, wait_status,
};

pub(super) const TRIALS: &[Named] = &[
    ("controller::definitions_stay_as_they_are_to_be", drift),
    ("controller::what_no_rule_of_a_crd_can_tell_is_an_event", events),
];

fn drift(cluster: &mut Cluster) {
    let kubectl = prepare(cluster);
    cluster.start_controller_manager(&["garbagecollector"]).unwrap();
    // There before, and nobody's.
    let orphan = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "net", "namespace": "default"}, "spec": {"config": "{}"}});
    kubectl.apply(&orphan.to_string()).unwrap();
    kubectl.apply(&network("net", json!({"a": "b"}), macvlan())).unwrap();
    let mut controller = Controller::leading(cluster, &[]);
    let is_macvlan =
        |found: &Value| found["spec"]["config"].as_str().unwrap_or_default().contains("\"type\":\"macvlan\"");
    let owned = |found: &Value| is_macvlan(found) && found["metadata"]["ownerReferences"][0]["name"] == "net";
    let good = wait_definition(&controller, &kubectl, "net", owned);

    let same = |found: &Value| {
        found["spec"] == good["spec"]
            && found["metadata"]["annotations"] == good["metadata"]["annotations"]
            && owned(found)
    };
    for patch in [
        json!({"spec": {"config": "{}"}}),
        json!({"metadata": {"annotations": {"a": "c", "x": "y"}}}),
        json!({"metadata": {"ownerReferences": null}}),
    ] {
        kubectl.ask(&["patch", "net-attach-def", "net", "--type=merge", "-p", &patch.to_string()], "").unwrap();
        wait_definition(&controller, &kubectl, "net", same);
    }
    kubectl.ask(&["delete", "net-attach-def", "net", "--wait=false"], "").unwrap();
    let made_anew = |found: &Value| same(found) && found["metadata"]["uid"] != good["metadata"]["uid"];
    wait_definition(&controller, &kubectl, "net", made_anew);
    kubectl
        .apply(&network("net", json!({"a": "b"}), json!({"cniType": "ipvlan", "ipvlan": {"master": ["ens192"]}})))
        .unwrap();
    wait_definition(&controller, &kubectl, "net", |found| !is_macvlan(found));

    // What changes while nobody looks is seen afterwards.
    controller.child.kill().unwrap();
    controller.child.wait().unwrap();
    kubectl.ask(&["delete", "net-attach-def", "net"], "").unwrap();
    kubectl.apply(&network("net", json!({"a": "b"}), macvlan())).unwrap();
    // The same identity: the Lease is its own.
    let controller = Controller::leading(cluster, &[]);
    wait_definition(&controller, &kubectl, "net", same);

    // With its network the definition goes, and it stays away.
    kubectl.ask(&["delete", "spidermultusconfig", "net"], "").unwrap();
    kubectl.ask(&["wait", "net-attach-def/net", "--for=delete", "--timeout=60s"], "").unwrap();
    kubectl.apply(&network("last", json!({}), macvlan())).unwrap();
    wait_definition(&controller, &kubectl, "last", is_macvlan);
    definition(&kubectl, "net").unwrap_err();
}

fn events(cluster: &mut Cluster) {
    let kubectl = prepare(cluster);
    let controller = Controller::leading(cluster, &[]);
    let chained = json!({"cniType": "macvlan", "macvlan": {"master": ["ens192"]}, "chainCNIJsonData": ["{\"type\": \"tuning\", \"mtu\": }"]});
    kubectl.apply(&network("broken", json!({}), chained)).unwrap();
    wait_event(&kubectl, "InvalidNetworkConfig", "broken", "spec.chainCNIJsonData[0]: invalid");
    let named = json!({"multus.spidernet.io/cr-name": "net"});
    kubectl.apply(&network("first", named.clone(), macvlan())).unwrap();
    let made = wait_definition(&controller, &kubectl, "net", |_| true);
    assert!(made["spec"]["config"].as_str().unwrap().contains("\"name\":\"net\""), "{made}");
    kubectl.apply(&network("later", named, macvlan())).unwrap();
    wait_event(&kubectl, "NetworkNameTaken", "later", "default/first");
    assert_eq!(controller.metric("dragline_controller_networks_refused"), 2);
    let now = definition(&kubectl, "net").unwrap();
    assert_eq!(now["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    definition(&kubectl, "broken").unwrap_err();

    coordinator(&kubectl, "default", "none");
    wait_status(&controller, &kubectl, "default", "Synced", "", &[]);
    coordinator(&kubectl, "default", "cilium");
    wait_status(&controller, &kubectl, "default", "NotReady", "kube-system/cilium-config is not found", &[]);
    wait_event(&kubectl, "PodCIDRTypeChanged", "default", "from none to cilium");
    wait_event(&kubectl, "CiliumNotReady", "default", "kube-system/cilium-config");
}
