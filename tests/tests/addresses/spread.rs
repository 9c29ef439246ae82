//! Which pool, and which of its addresses.

use libtest_mimic::Trial;
use serde_json::json;

use crate::ipam::{Ipam, Sandbox};
use crate::node::{COORDINATOR, Node, assert_refused, eventually, holds, object, pool, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("two_ranges_without_excluded_and_reserved", two_ranges),
        trial("the_next_pool_when_the_first_is_full", next_pool),
        trial("pools_that_overlap_give_nothing_twice", overlapping),
        trial("the_pod_s_annotations_come_first", annotations),
        trial("a_pool_that_grows_and_shrinks", grows_and_shrinks),
    ]
}

fn two_ranges() {
    let spec = json!({"ipVersion": 4, "subnet": "10.6.0.0/16", "gateway": "10.6.0.1",
        "ips": ["10.6.212.210-10.6.212.212", "10.6.212.200-10.6.212.202"], "excludeIPs": ["10.6.212.201"]});
    let pool = object("SpiderIPPool", "p", &json!({ "spec": spec }));
    let reserved = object("SpiderReservedIP", "r", &json!({"spec": {"ipVersion": 4, "ips": ["10.6.212.211"]}}));
    let node = Node::with("s1", &[("p.json", &pool), ("r.json", &reserved), ("c.yaml", COORDINATOR)]);
    let ipam = Ipam::new(&node, &["p"]);
    let sandboxes = Sandbox::many(&node, 5);
    let given: Vec<String> = sandboxes[..4].iter().map(|sandbox| ipam.add(sandbox)).collect();
    assert_eq!(given, ["10.6.212.200/16", "10.6.212.202/16", "10.6.212.210/16", "10.6.212.212/16"]);
    assert_refused(ipam.try_add(&sandboxes[4]), 11, &["pool p: 4 of 5 used, 0 on their way back, 1 reserved"]);
    // What was reserved is free as soon as it is not.
    std::fs::remove_file(node.scene.manifests().join("r.json")).unwrap();
    eventually("the address that was reserved", || match ipam.try_add(&sandboxes[4]) {
        Ok(result) => holds(result["ips"][0]["address"] == "10.6.212.211/16", result),
        Err(error) => Err(error.to_string()),
    });
}

fn next_pool() {
    let (p, q) = (pool("p", &["10.6.212.200"]), pool("q", &["10.6.212.100-10.6.212.101"]));
    let node = Node::with("s2", &[("p.json", &p), ("q.json", &q), ("c.yaml", COORDINATOR)]);
    let ipam = Ipam::new(&node, &["p", "q"]);
    let sandboxes = Sandbox::many(&node, 4);
    let given: Vec<String> = sandboxes[..3].iter().map(|sandbox| ipam.add(sandbox)).collect();
    assert_eq!(given, ["10.6.212.200/16", "10.6.212.100/16", "10.6.212.101/16"]);
    assert_refused(ipam.try_add(&sandboxes[3]), 11, &["pool p: 1 of 1 used", "pool q: 2 of 2 used"]);
}

fn overlapping() {
    let (p, q) = (pool("p", &["10.6.212.200-10.6.212.205"]), pool("q", &["10.6.212.203-10.6.212.208"]));
    let node = Node::with("s3", &[("p.json", &p), ("q.json", &q), ("c.yaml", COORDINATOR)]);
    let told = "SpiderIPPools p and q: both hold the addresses 10.6.212.203-10.6.212.205";
    assert!(node.warnings().iter().any(|warning| warning.contains(told)), "{:?}", node.warnings());
    let (of_p, of_q) = (Ipam::new(&node, &["p"]), Ipam::new(&node, &["q"]));
    let sandboxes = Sandbox::many(&node, 11);
    let mut given: Vec<String> = Vec::new();
    for (number, sandbox) in sandboxes[..9].iter().enumerate() {
        // One of each in turn, as long as they have any.
        let (first, second) = if number % 2 == 0 { (&of_p, &of_q) } else { (&of_q, &of_p) };
        let result = first.try_add(sandbox).or_else(|_| second.try_add(sandbox)).unwrap();
        given.push(result["ips"][0]["address"].as_str().unwrap().to_owned());
    }
    given.sort();
    assert_eq!(given, (200..=208).map(|last| format!("10.6.212.{last}/16")).collect::<Vec<_>>());
    assert_refused(of_p.try_add(&sandboxes[9]), 11, &["6 of 6 used"]);
    // What both hold is the first one's to give.
    assert_refused(of_q.try_add(&sandboxes[10]), 11, &["3 of 3 used"]);
    sandboxes.iter().for_each(|sandbox| of_p.del(sandbox));
    node.forgets_all();
}

fn annotations() {
    let pod = |name: &str, annotations: serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "team", "annotations": annotations},
            "spec": {"containers": []}})
        .to_string()
    };
    let pools: Vec<String> = ["conf", "space", "one", "each"]
        .iter()
        .zip(1..)
        .map(|(name, n)| pool(name, &[&format!("10.6.{n}.10-10.6.{n}.19")]))
        .collect();
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team",
        "annotations": {"ipam.spidernet.io/default-ipv4-ippool": "[\"space\"]"}}})
    .to_string();
    let one = json!({"ipam.spidernet.io/ippool": "{\"ipv4\":[\"one\"]}"});
    let each = json!({"ipam.spidernet.io/ippool": "{\"ipv4\":[\"one\"]}", "k8s.v1.cni.cncf.io/networks": "first, second",
        "ipam.spidernet.io/ippools": "[{\"interface\":\"net1\",\"ipv4\":[\"each\"]},{\"interface\":\"net2\",\"ipv4\":[\"one\"]}]"});
    let wrong = json!({"ipam.spidernet.io/ippool": "one"});
    let pods = [("one.json", pod("one", one)), ("each.json", pod("each", each)), ("wrong.json", pod("wrong", wrong))];
    let mut manifests: Vec<(&str, &str)> = vec![("c.yaml", COORDINATOR), ("space.json", &space)];
    manifests.extend(["p0.json", "p1.json", "p2.json", "p3.json"].into_iter().zip(pools.iter().map(String::as_str)));
    manifests.extend(pods.iter().map(|(file, text)| (*file, text.as_str())));
    let node = Node::with("s4", &manifests);
    let ipam = Ipam::new(&node, &["conf"]);
    let of = |namespace: &str, name: &str| Sandbox::of_pod(&node, namespace, name);
    assert_eq!(ipam.add(&of("default", "plain")), "10.6.1.10/16", "the network configuration's");
    assert_eq!(ipam.add(&of("team", "plain2")), "10.6.2.10/16", "the namespace's over the configuration's");
    assert_eq!(ipam.add(&of("team", "one")), "10.6.3.10/16", "the pod's over the namespace's");
    assert_eq!(ipam.add(&of("team", "each")), "10.6.4.10/16", "one for each interface over one for all");
    let refused = ipam.try_add(&of("team", "wrong"));
    assert_refused(refused, 7, &["Pod annotation 'ipam.spidernet.io/ippool'"]);
    assert_eq!(node.agent.list("attachments").unwrap().len(), 5, "the last one has two");
}

fn grows_and_shrinks() {
    let node = Node::with("s5", &[("p.json", &pool("p", &["10.6.212.200"])), ("c.yaml", COORDINATOR)]);
    let ipam = Ipam::new(&node, &["p"]);
    let sandboxes = Sandbox::many(&node, 3);
    assert_eq!(ipam.add(&sandboxes[0]), "10.6.212.200/16");
    assert_refused(ipam.try_add(&sandboxes[1]), 11, &["1 of 1 used"]);
    node.scene.apply("p.json", &pool("p", &["10.6.212.200-10.6.212.201"])).unwrap();
    eventually("the larger pool", || ipam.try_add(&sandboxes[1]).map_err(|error| error.to_string()));
    // Smaller than what is in use: it stays with who has it, and nobody else gets any.
    node.scene.apply("p.json", &pool("p", &["10.6.212.201"])).unwrap();
    eventually("the smaller pool", || holds(node.counts("p").1 == 1, node.counts("p")));
    assert_eq!(ipam.add(&sandboxes[0]), "10.6.212.200/16");
    assert_refused(ipam.try_add(&sandboxes[2]), 11, &["1 of 1 used"]);
    sandboxes.iter().for_each(|sandbox| ipam.del(sandbox));
    node.forgets_all();
    assert_eq!(ipam.add(&sandboxes[2]), "10.6.212.201/16");
}
