//! A pool that gets another gateway and other routes while pods have addresses of it.

use libtest_mimic::Trial;
use netlink::testbed::Netns;
use serde_json::{Value, json};
use tests::runtime::Attachment;
use tests::{repair, show};

use crate::node::{Node, POOL, POOL_NAME, attachment, eventually, holds, trial};

const GATEWAY: &str = "10.6.0.1";
const NEW_GATEWAY: &str = "10.6.0.2";
/// All tables that a pod of the quick start has.
const TABLES: [u32; 3] = [plan::tables::MAIN, plan::tables::DEFAULT_NIC, plan::tables::DEFAULT_NIC + 1];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("d00002_new_routes_and_a_new_gateway_are_for_new_pods", later)]
}

/// The quick start's pool with these routes.
fn pool(gateway: &str, routes: Value) -> String {
    let spec = json!({"ipVersion": 4, "subnet": "10.6.0.0/16", "gateway": gateway, "routes": routes,
        "ips": ["10.6.212.200-10.6.212.240"]});
    crate::node::object("SpiderIPPool", POOL_NAME, &json!({ "spec": spec }))
}

/// Rules and routes of a pod, as `ip` shows them.
fn picture(netns: &Netns) -> String {
    let routes = TABLES.map(|table| show::comparable(&show::routes(netns, table).unwrap()));
    [&[show::comparable(&show::rules(netns).unwrap())], &routes[..]].concat().join("\n\n")
}

fn gateway(result: &Value) -> &str {
    result["ips"][0]["gateway"].as_str().unwrap()
}

fn later() {
    let mut node = Node::new("later");
    let (conflist, pods) = (node.conflist().with_version("1.0.0"), [101, 102, 103].map(|number| node.pod(number)));
    let its = pods.each_ref().map(|pod| attachment(pod, "net1"));
    let before = node.runtime().add(&conflist, &its[0]).unwrap();
    assert_eq!(gateway(&before), GATEWAY);
    let as_it_was = picture(&pods[0].netns);
    assert!(as_it_was.contains(&format!("default via {GATEWAY} dev net1")), "{as_it_was}");

    // Two changes: routes first, then the gateway as well.
    let first = json!([{"dst": "10.9.0.0/16", "gw": "10.6.0.3"}]);
    node.scene.apply("pool.yaml", &pool(GATEWAY, first)).unwrap();
    wait_told(&node, |spec| spec["routes"][0]["dst"] == "10.9.0.0/16");
    let between = node.runtime().add(&conflist, &its[1]).unwrap();
    let between_picture = picture(&pods[1].netns);
    assert_eq!(gateway(&between), GATEWAY);
    assert!(between_picture.contains("10.9.0.0/16 via 10.6.0.3 dev net1"), "{between_picture}");
    let second = json!([{"dst": "10.10.0.0/16", "gw": "10.6.0.4"}]);
    node.scene.apply("pool.yaml", &pool(NEW_GATEWAY, second)).unwrap();
    wait_told(&node, |spec| spec["gateway"] == NEW_GATEWAY);
    let after = node.runtime().add(&conflist, &its[2]).unwrap();
    let after_picture = picture(&pods[2].netns);
    assert_eq!(gateway(&after), NEW_GATEWAY);
    for (words, is_there) in [
        (format!("default via {NEW_GATEWAY} dev net1"), true),
        ("10.10.0.0/16 via 10.6.0.4 dev net1".to_owned(), true),
        ("10.9.0.0/16".to_owned(), false),
        (format!("via {GATEWAY} "), false),
    ] {
        assert_eq!(after_picture.contains(&words), is_there, "{words}: {after_picture}");
    }

    // Who was there before is as before: by itself, when it is repaired, and with a new agent.
    let stays = |node: &Node| {
        for (pod, picture_of) in pods.iter().zip([&as_it_was, &between_picture, &after_picture]) {
            assert_eq!(picture(&pod.netns), *picture_of, "{}", pod.name);
        }
        node.has_no_drift().unwrap();
        for (it, result) in its.iter().zip([&before, &between, &after]) {
            node.runtime().check(&conflist, it, result).unwrap();
        }
    };
    stays(&node);
    for pod in &pods {
        repair::flush_rules(&pod.netns).unwrap();
        let mut scene = pod.netns.scene().unwrap();
        let own = scene.observe().unwrap().routes;
        let net1 =
            own.iter().find(|route| route.dst.prefix() == 0 && route.dev.as_deref() == Some("net1")).unwrap().clone();
        scene.delete_route(&net1).unwrap();
    }
    eventually("what was deleted is back", || {
        let found = pods.each_ref().map(|pod| picture(&pod.netns));
        holds([&as_it_was, &between_picture, &after_picture].into_iter().eq(&found), found)
    });
    node.agent.kill().unwrap();
    node.agent.restart().unwrap();
    stays(&node);
    // An ADD that is asked again is answered as before.
    assert_eq!(node.runtime().add(&conflist, &its[0]).unwrap()["ips"], before["ips"]);
    stays(&node);
    let told = node.agent.list("endpoints").unwrap();
    let gateways: Vec<&Value> = told.iter().map(|one| &one["status"]["current"]["ips"][0]["ipv4Gateway"]).collect();
    assert_eq!(gateways, [GATEWAY, GATEWAY, NEW_GATEWAY]);

    // The first pod's next sandbox is a new one.
    node.runtime().del(&conflist, &its[0], Some(&before)).unwrap();
    let sandbox = node.pod(104);
    let next = Attachment::of_pod("default", &pods[0].name, "c-next", sandbox.netns.path(), "net1");
    let result = node.runtime().add(&conflist, &next).unwrap();
    assert_eq!(gateway(&result), NEW_GATEWAY);
    let found = picture(&sandbox.netns);
    assert!(found.contains("10.10.0.0/16 via 10.6.0.4 dev net1"), "{found}");
    // As it was declared at first.
    node.scene.apply("pool.yaml", POOL).unwrap();
    wait_told(&node, |spec| spec["gateway"] == GATEWAY);
    assert_eq!(picture(&pods[2].netns), after_picture);
}

/// Waits until the agent has read the pool.
fn wait_told(node: &Node, is_read: impl Fn(&Value) -> bool) {
    eventually("the pool as it is now", || {
        let pools = node.agent.list("ippools").unwrap();
        holds(is_read(&pools[0]["spec"]), pools)
    });
}
