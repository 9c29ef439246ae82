//! An address in conflict of a pod that keeps its addresses, and of one that does not.

use libtest_mimic::Trial;
use netlink::testbed::Netns;
use serde_json::{Value, json};
use tests::runtime::Attachment;

use crate::bed::{CONFLICT, Main, occupied, probing_with, squat, with_both};
use crate::node::{COORDINATOR, NETWORK, Node, POOL, POOL_NAME, address, assert_refused, eventually};

pub(crate) fn trials() -> Vec<Trial> {
    with_both("c00018_c00019_a_stateless_pod_gets_another_address_and_a_stateful_one_none", conflicts)
}

fn pod(name: &str, kind: &str, controller: &str) -> String {
    let owner = json!([{"apiVersion": "apps/v1", "kind": kind, "name": controller, "uid": "o", "controller": true}]);
    json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
        "metadata": {"name": name, "namespace": "default", "ownerReferences": owner}})
    .to_string()
}

fn conf(keeps: bool) -> String {
    let metadata = json!({"name": "spiderpool-conf", "namespace": "kube-system"});
    let conf = json!({ "enableStatefulSet": keeps }).to_string();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"conf.yml": conf}}).to_string()
}

/// A further sandbox of a pod.
fn sandbox(pod: &str, number: u8, netns: &Netns) -> Attachment {
    Attachment::of_pod("default", pod, &format!("c-{pod}-{number}"), netns.path(), "net1")
}

fn conflicts(main: Main) {
    let (web, db) = (pod("web-5d4f-1", "ReplicaSet", "web-5d4f"), pod("db-0", "StatefulSet", "db"));
    let manifests = [
        ("pool.yaml", POOL),
        ("coordinator.yaml", COORDINATOR),
        ("network.yaml", NETWORK),
        ("web.json", web.as_str()),
        ("db.json", db.as_str()),
    ];
    let node = probing_with(&main.name("cst"), &[(CONFLICT, "on")], &manifests);
    let (conflist, runtime) = (node.conflist(), main.runtime(&node));
    let netns: Vec<Netns> = (101..=106).map(|number| node.pod(number).netns).collect();
    let begin = |it: &Attachment| runtime.add(&conflist, it);
    let end = |it: &Attachment, result: Option<&Value>| runtime.del(&conflist, it, result).unwrap();

    // Both have had an address, which another uses when they come again.
    let (first, second) = (sandbox("db-0", 1, &netns[0]), sandbox("web-5d4f-1", 1, &netns[1]));
    let results = [begin(&first).unwrap(), begin(&second).unwrap()];
    assert_eq!(results.each_ref().map(address), ["10.6.212.200/16", "10.6.212.201/16"]);
    end(&first, Some(&results[0]));
    end(&second, Some(&results[1]));
    // What is kept is in use by nobody.
    eventually("both are gone", || match node.agent.list("attachments").unwrap() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    let mac = squat(&node.scene.controller, "10.6.212.200/16");
    squat(&node.scene.controller, "10.6.212.201/16");

    // C00018: it had .201, and has the next one that is nobody's.
    let again = sandbox("web-5d4f-1", 2, &netns[2]);
    let result = begin(&again).unwrap();
    assert_eq!(address(&result), "10.6.212.202/16");
    assert_eq!(taken(&node), ["10.6.212.201"]);

    // C00019: refused, whenever it is tried; nothing of the pool is used for it.
    let stateful = sandbox("db-0", 2, &netns[3]);
    let said = format!("10.6.212.200 is located at {mac}");
    assert_refused(begin(&stateful), 11, &["ip conflict: pod's interface net1", &said]);
    end(&stateful, None);
    assert_eq!(taken(&node), ["10.6.212.200", "10.6.212.201"]);
    let third = sandbox("db-0", 3, &netns[4]);
    let words = ["10.6.212.200 of pool 10-6-v4 is kept for default/db-0/net1", "others use it"];
    for _ in 0..3 {
        assert_refused(begin(&third), 11, &words);
        end(&third, None);
    }
    assert_eq!(node.counts(POOL_NAME), (1, 41), "the other pod's alone");

    // Where such pods keep nothing, it gets another one too.
    node.scene.apply("conf.json", &conf(false)).unwrap();
    let last = sandbox("db-0", 4, &netns[5]);
    let result = eventually("the switch", || begin(&last).map_err(|error| error.to_string()));
    assert_eq!(address(&result), "10.6.212.203/16");
}

/// Addresses that are kept from everybody.
fn taken(node: &Node) -> Vec<String> {
    occupied(&node.agent.list("leases").unwrap()).into_iter().map(|(address, _)| address).collect()
}
