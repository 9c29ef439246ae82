//! One annotation about all NICs of a pod: their addresses come together, or none.

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::runtime::Attachment;

use crate::ipam::{Ipam, Sandbox};
use crate::node::{COORDINATOR, Node, assert_refused, pool, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a00016_an_exhausted_pool_of_one_nic_drains_no_other", all_or_none),
        trial("the_addresses_of_all_nics_come_and_go_together", together),
        trial("a00013_a_nic_that_is_not_listed", not_listed),
        trial("a00014_a_nic_that_is_listed_twice", listed_twice),
        trial("nics_that_are_added_in_another_order_have_their_tables_by_it", in_another_order),
        trial("addresses_of_all_nics_survive_the_agent", survive),
    ]
}

fn pod(name: &str, nics: &Value) -> (String, String) {
    let annotations = json!({
        "ipam.spidernet.io/ippools": nics.to_string(),
        // Of net1, net2 and net3, by their places.
        "k8s.v1.cni.cncf.io/networks": "first, second, third",
    });
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
        "metadata": {"name": name, "namespace": "default", "annotations": annotations}});
    (format!("{name}.json"), pod.to_string())
}

fn node(name: &str, pods: &[(String, String)]) -> Node {
    let pools =
        [pool("wide", &["10.6.1.10-10.6.1.19"]), pool("next", &["10.6.2.10-10.6.2.19"]), pool("one", &["10.6.3.10"])];
    let mut manifests: Vec<(&str, &str)> = vec![("c.yaml", COORDINATOR)];
    manifests.extend(["p0.json", "p1.json", "p2.json"].into_iter().zip(pools.iter().map(String::as_str)));
    manifests.extend(pods.iter().map(|(file, text)| (file.as_str(), text.as_str())));
    Node::with(name, &manifests)
}

/// The same sandbox's attachment of another interface.
fn of_nic(sandbox: &Sandbox, ifname: &str) -> Attachment {
    Attachment { ifname: ifname.to_owned(), ..sandbox.it.clone() }
}

fn two(second: &str) -> Value {
    json!([{"interface": "net1", "ipv4": ["wide"]}, {"interface": "net2", "ipv4": [second]}])
}

fn all_or_none() {
    let node = node("n1", &[pod("first", &two("one")), pod("second", &two("one"))]);
    let ipam = Ipam::new(&node, &[]);
    let (first, second) = (Sandbox::new(&node, "first"), Sandbox::new(&node, "second"));
    assert_eq!(ipam.add(&first), "10.6.1.10/16");
    assert_eq!((node.counts("wide"), node.counts("one")), ((1, 10), (1, 1)));
    for _ in 0..12 {
        let words = ["IPv4", "NIC net2", "pool one: 1 of 1 used"];
        assert_refused(ipam.try_add(&second), 11, &words);
        assert_eq!(node.counts("wide"), (1, 10), "the other NIC's pool");
    }
    assert_eq!(ipam.add_nic(&of_nic(&first, "net2")), "10.6.3.10/16");
    assert_eq!(node.counts("one"), (1, 1));
    // With the DEL of one NIC the other's address stays: its pod lives.
    ipam.del(&first);
    assert_refused(ipam.try_add(&second), 11, &["pool one: 1 of 1 used"]);
    ipam.del_nic(&of_nic(&first, "net2"));
    assert_eq!(ipam.add(&second), "10.6.1.10/16");
    assert_eq!(ipam.add_nic(&of_nic(&second, "net2")), "10.6.3.10/16");
}

fn together() {
    let node = node("n2", &[pod("it", &two("next"))]);
    let ipam = Ipam::new(&node, &[]);
    let it = Sandbox::new(&node, "it");
    for _ in 0..5 {
        // The second NIC's ADD never comes: what it was given goes with the first one's.
        assert_eq!(ipam.add(&it), "10.6.1.10/16");
        assert_eq!((node.counts("wide"), node.counts("next")), ((1, 10), (1, 10)));
        let found = node.agent.list("attachments").unwrap();
        let prepared: Vec<&Value> = found.iter().filter(|it| it["state"] == "Prepared").collect();
        assert_eq!((found.len(), prepared.len()), (2, 1), "{found:?}");
        assert_eq!(prepared[0]["attachment"]["key"]["ifname"], "net2");
        ipam.gc(&[&it.it]);
        assert_eq!(node.counts("next"), (1, 10), "a runtime does not know of it yet");
        ipam.del(&it);
        node.forgets_all();
        assert_eq!((node.counts("wide"), node.counts("next")), ((0, 10), (0, 10)));
    }
    // The second NIC is deleted alone, before it was ever added.
    assert_eq!(ipam.add(&it), "10.6.1.10/16");
    ipam.del_nic(&of_nic(&it, "net2"));
    ipam.del(&it);
    node.forgets_all();
}

fn not_listed() {
    let node = node("n3", &[pod("it", &json!([{"interface": "net2", "ipv4": ["wide"]}]))]);
    let ipam = Ipam::new(&node, &["next"]);
    let it = Sandbox::new(&node, "it");
    assert_refused(ipam.try_add(&it), 7, &["ipam.spidernet.io/ippools", "interface net1 must be specified"]);
    assert_eq!(node.counts("wide"), (0, 10));
}

fn listed_twice() {
    let nics = json!([{"interface": "net1", "ipv4": ["wide"]}, {"interface": "net1", "ipv4": ["next"]}]);
    let node = node("n4", &[pod("it", &nics)]);
    let ipam = Ipam::new(&node, &["one"]);
    let it = Sandbox::new(&node, "it");
    assert_refused(ipam.try_add(&it), 7, &["ipam.spidernet.io/ippools", "duplicate interface net1"]);
    assert_eq!((node.counts("wide"), node.counts("next")), ((0, 10), (0, 10)));
}

fn in_another_order() {
    let nics = json!([{"interface": "net1", "ipv4": ["wide"]}, {"interface": "net2", "ipv4": ["next"]},
        {"interface": "net3", "ipv4": ["one"]}]);
    let node = node("n5", &[pod("it", &nics)]);
    let ipam = Ipam::new(&node, &[]);
    let it = Sandbox::new(&node, "it");
    assert_eq!(ipam.add_nic(&of_nic(&it, "net3")), "10.6.3.10/16");
    assert_eq!(ipam.add_nic(&of_nic(&it, "net2")), "10.6.2.10/16");
    assert_eq!(ipam.add(&it), "10.6.1.10/16");
    let mut found: Vec<(String, i64)> = node
        .agent
        .list("attachments")
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["attachment"]["key"]["ifname"].as_str().unwrap().to_owned(),
                it["attachment"]["ordinal"].as_i64().unwrap(),
            )
        })
        .collect();
    found.sort_by_key(|(_, ordinal)| *ordinal);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["net3", "net2", "net1"]);
}

fn survive() {
    let mut node = node("n6", &[pod("it", &two("next"))]);
    let it = {
        let it = Sandbox::new(&node, "it");
        assert_eq!(Ipam::new(&node, &[]).add(&it), "10.6.1.10/16");
        it
    };
    node.agent.kill().unwrap();
    node.agent.restart().unwrap();
    let ipam = Ipam::new(&node, &[]);
    assert_eq!(ipam.add_nic(&of_nic(&it, "net2")), "10.6.2.10/16");
    assert_eq!((node.counts("wide"), node.counts("next")), ((1, 10), (1, 10)));
    ipam.del(&it);
    ipam.del_nic(&of_nic(&it, "net2"));
    node.forgets_all();
}
