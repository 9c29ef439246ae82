//! What an agent weighs in a large cluster.

use std::time::Instant;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::fleet::{Book, Fleet, Ground, Options};

use super::{alone, number, pool, start_all};

const OBJECTS: &str = "DRAGLINE_FLEET_OBJECTS";
/// Pods of the node that is weighed.
const PODS: usize = 110;
const LIMIT: u64 = 60 << 20;
const SPIDERPOOL: &str = "/apis/spiderpool.spidernet.io/v2beta1";

pub(super) fn trials() -> Vec<Trial> {
    vec![
        alone("leases::an_agent_is_small_in_a_large_cluster", "large", weigh)
            .with_ignored_flag(number(OBJECTS, 0) == 0),
    ]
}

fn weigh(ground: &Ground) {
    let count = number(OBJECTS, 5000);
    let begun = Instant::now();
    let fill = |kind: &str, count: usize, object: &dyn Fn(usize) -> Value| {
        let objects: Vec<Value> = (0..count).map(object).collect();
        ground.objects.create_all(kind, &objects).unwrap();
    };
    fill("/api/v1/nodes", count, &|number| {
        let name = format!("foreign-{number}");
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
    });
    fill("/api/v1/namespaces", count / 5, &|number| {
        let labels = json!({"team": format!("team-{}", number % 50)});
        let metadata = json!({"name": format!("namespace-{number}"), "labels": labels});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    });
    fill(&format!("{SPIDERPOOL}/spiderippools"), count / 50, &|number| {
        let subnet = format!("172.{}.{}.0/24", 16 + number / 250, number % 250);
        let ips = format!("{0}10-{0}240", subnet.trim_end_matches("0/24"));
        json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool",
            "metadata": {"name": format!("foreign-{number}")}, "spec": {"subnet": subnet, "ips": [ips]},
        })
    });
    fill("/api/v1/namespaces/namespace-0/pods", count, &|number| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("foreign-{number}")},
            "spec": {
                "nodeName": format!("foreign-{number}"), "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "app"}],
            },
        })
    });
    fill(&format!("{SPIDERPOOL}/namespaces/namespace-0/spiderendpoints"), count, &|number| {
        let node = format!("foreign-{number}");
        json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint",
            "metadata": {"name": format!("foreign-{number}")},
            "status": {
                "current": {"uid": format!("{number}"), "node": node, "ips": [
                    {"interface": "net1", "ipv4": "172.16.0.1/24", "ipv4Pool": "foreign-0", "vlan": 0},
                ]},
                "ownerControllerType": "Pod", "ownerControllerName": node,
            },
        })
    });
    println!("the cluster is filled in {:?}", begun.elapsed());

    let options = Options { fair_share: Some(16), ..pool(11, 65_024, 1) };
    let fleet = Fleet::start(ground, "large", &options).unwrap();
    let node = &fleet.nodes[0];
    let empty = node.memory().unwrap();
    let book = Book::default();
    let pods = fleet.bind("web", PODS, &fleet.nodes).unwrap();
    start_all(&fleet, &book, &pods);
    super::assert_shown(&fleet, &book);
    let full = node.memory().unwrap();
    let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "an agent beside {count} nodes: {:.1} MB without pods, {:.1} MB with {PODS}",
        megabytes(empty),
        megabytes(full)
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.agent().pid().unwrap())).unwrap();
    status
        .lines()
        .filter(|line| line.starts_with("Rss") || line.starts_with("VmHWM"))
        .for_each(|line| println!("{line}"));
    assert!(full < LIMIT, "{:.1} MB", megabytes(full));
}
