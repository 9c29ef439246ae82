//! Who decides whether anything is probed.

use libtest_mimic::Trial;
use serde_json::json;
use tests::runtime::RuntimeError;

use crate::bed::{CONFLICT, addresses_on, probing, probing_with, squat};
use crate::node::{COORDINATOR, NETWORK, Node, POOL, POOL_NAME, address, attachment, eventually, holds, object, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("nothing_is_probed_unless_somebody_asks_for_it", off),
        trial("spiderpools_config_map_is_followed", config_map),
        trial("the_agents_switch_beats_the_config_map", switch),
        trial("a_networks_ipam_may_ask_for_it", ipam),
        trial("a_spider_multus_config_may_ask_for_it", network),
        trial("without_a_link_there_is_nobody_to_ask", no_link),
    ]
}

fn map(is_on: bool) -> String {
    let conf = format!("enableIPv4: true\nenableIPConflictDetection: {is_on}\nenableGatewayDetection: false\n");
    let metadata = json!({"name": "spiderpool-conf", "namespace": "kube-system"});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"conf.yml": conf}}).to_string()
}

/// The address of a pod while the first of the pool is in use by another.
fn given(node: &Node, number: u8) -> String {
    try_given(node, number).unwrap()
}

fn try_given(node: &Node, number: u8) -> Result<String, RuntimeError> {
    let pod = node.pod(number);
    let (conflist, it) = (node.conflist(), attachment(&pod, "net1"));
    let result = node.runtime().add(&conflist, &it);
    node.runtime().del(&conflist, &it, result.as_ref().ok()).unwrap();
    node.forgets_all();
    result.map(|result| address(&result))
}

fn off() {
    let node = probing("swo", &[]);
    squat(&node.scene.controller, "10.6.212.200/16");
    assert_eq!(given(&node, 101), "10.6.212.200/16");
}

fn config_map() {
    let node = probing("swc", &[]);
    squat(&node.scene.controller, "10.6.212.200/16");
    assert_eq!(given(&node, 101), "10.6.212.200/16");
    node.scene.apply("conf.json", &map(true)).unwrap();
    let mut number = 101;
    eventually("the ConfigMap's switch", || {
        number += 1;
        // Switched on in the middle of a chain, it is the coordinator that finds the conflict.
        let found = try_given(&node, number).map_err(|error| error.to_string())?;
        holds(found == "10.6.212.201/16", found)
    });
}

fn switch() {
    let map = map(true);
    let manifests = [
        ("pool.yaml", POOL),
        ("coordinator.yaml", COORDINATOR),
        ("network.yaml", NETWORK),
        ("conf.json", map.as_str()),
    ];
    let node = probing_with("sws", &[(CONFLICT, "off")], &manifests);
    squat(&node.scene.controller, "10.6.212.200/16");
    assert_eq!(given(&node, 101), "10.6.212.200/16");
}

fn ipam() {
    let node = probing("swi", &[]);
    squat(&node.scene.controller, "10.6.212.200/16");
    let (pod, plain) = (node.pod(101), node.conflist());
    let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": [POOL_NAME], "detectIPConflict": true});
    let conflist = plain.with_key("macvlan", "ipam", ipam);
    let result = node.runtime().add(&conflist, &attachment(&pod, "net1")).unwrap();
    assert_eq!(address(&result), "10.6.212.201/16");
}

fn network() {
    let spec = json!({"cniType": "macvlan", "macvlan": {"master": ["ens192"], "ippools": {"ipv4": [POOL_NAME]}},
        "coordinator": {"detectIPConflict": true, "mode": "overlay"}});
    let network = object("SpiderMultusConfig", "macvlan-ens192", &json!({ "spec": spec }));
    let manifests = [("pool.yaml", POOL), ("coordinator.yaml", COORDINATOR), ("network.json", network.as_str())];
    let node = probing_with("swm", &[], &manifests);
    squat(&node.scene.controller, "10.6.212.200/16");
    assert_eq!(given(&node, 101), "10.6.212.201/16");
}

/// A main plugin that asks for addresses before it makes its link.
fn no_link() {
    let node = probing("swn", &[(CONFLICT, "on")]);
    squat(&node.scene.controller, "10.6.212.200/16");
    let pod = node.pod(101);
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "late",
        "ipam": {"type": "spiderpool", "default_ipv4_ippool": [POOL_NAME]}});
    let it = attachment(&pod, "net1");
    let result = node.runtime().call("spiderpool", "ADD", Some(&it), conf.to_string().as_bytes()).unwrap().unwrap();
    assert_eq!(address(&result), "10.6.212.200/16");
    assert!(addresses_on(&pod.netns, "net1").is_empty());
}
