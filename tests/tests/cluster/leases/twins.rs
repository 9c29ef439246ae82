//! Two agents that call themselves the same.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use tests::fleet::{Book, Fleet, Ground, Node, Options};

use super::{PATIENCE, alone, assert_right, pool, refusal, start_all};
use crate::bed::eventually;

const TTL: Duration = Duration::from_secs(8);
/// A quarter of it is longer than anybody waits here.
const RARE: Duration = Duration::from_secs(240);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        alone("leases::of_two_agents_with_one_name_one_gives", "twins", twins),
        alone("leases::a_node_that_comes_back_with_an_empty_disk_is_another_one", "anew", anew),
    ]
}

fn twins(ground: &Ground) {
    let options = Options { lease_ttl: TTL, fair_share: Some(4), ..pool(9, 41, 2) };
    let fleet = Fleet::start(ground, "twins", &options).unwrap();
    let book = Book::default();
    let first = &fleet.nodes[0];
    let own = |application: &str, count: usize| fleet.bind_to(first, application, count).unwrap();
    let living = own("living", 6);
    start_all(&fleet, &book, &living);

    let second = fleet.node("twins-second", &first.name).unwrap();
    second.launch().unwrap();
    says_another_runs(&second);
    let wanting = own("wanting", 4);
    let said = refusal(second.add(&wanting[0], &book));
    assert!(said.contains("another agent") && said.contains(&first.name), "{said}");
    second.delete(&wanting[0], &book).unwrap();
    // The first one goes on meanwhile.
    first.start(&wanting[1], &book, PATIENCE).unwrap();
    assert_right(&fleet, &book);

    first.agent().kill().unwrap();
    let since = Instant::now();
    for pod in wanting.iter().filter(|pod| pod.name != wanting[1].name) {
        second.start(pod, &book, PATIENCE).unwrap();
    }
    println!("the second one gave {:?} after the end of the first one", since.elapsed());
    assert!(since.elapsed() >= TTL / 12, "it did not wait");
    assert_right(&fleet, &book);

    // The first one is somebody else now: it knows its pods, and gives nothing new.
    first.launch().unwrap();
    says_another_runs(first);
    let known = book.held();
    for pod in &living {
        let address = first.add(pod, &book).unwrap();
        assert_eq!(known[&address].uid, pod.uid);
    }
    let late = own("late", 1);
    let said = refusal(first.add(&late[0], &book));
    assert!(said.contains("another agent"), "{said}");
    first.delete(&late[0], &book).unwrap();
    first.delete(&living[0], &book).unwrap();
    second.start(&late[0], &book, PATIENCE).unwrap();
    assert_right(&fleet, &book);
}

/// It is there, and not ready, since another one is the node.
fn says_another_runs(node: &Node) {
    eventually("an agent that is not its node", || {
        let said = node.agent().run(&["status"]).map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        if said.contains("another agent") { Ok(()) } else { Err(said) }
    });
}

fn anew(ground: &Ground) {
    let options = Options { lease_ttl: RARE, fair_share: Some(4), ..pool(10, 41, 2) };
    let fleet = Fleet::start(ground, "anew", &options).unwrap();
    let book = Book::default();
    let node = &fleet.nodes[0];
    let lost = fleet.bind("lost", 8, &fleet.nodes).unwrap();
    start_all(&fleet, &book, &lost);

    eventually("the node's UID in its Lease", || {
        let lease = format!("dragline-node-{}", node.name);
        let lease = ground.objects.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", &lease);
        let metadata = lease.map_err(|error| error.to_string())?["metadata"].clone();
        if metadata["annotations"]["dragline.io/node-uid"].is_string() { Ok(()) } else { Err(metadata.to_string()) }
    });

    // Its disk is gone, and its pods are, as far as anybody knows, not yet.
    node.agent().kill().unwrap();
    ground.objects.delete("/api/v1/nodes", &node.name).unwrap();
    let reborn = fleet.node("anew-reborn", &node.name).unwrap();
    let object = serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name}});
    ground.objects.create("/api/v1/nodes", &object).unwrap();
    reborn.launch().unwrap();
    reborn.wait_ready().unwrap();
    let pods = fleet.bind_to(node, "found", 4).unwrap();
    let since = Instant::now();
    for pod in &pods {
        reborn.start(pod, &book, PATIENCE).unwrap();
    }
    println!("it gave after {:?}", since.elapsed());
    assert!(since.elapsed() < RARE / 4, "it waited for the one that it was before");
    assert_right(&fleet, &book);
    let second = format!("{}~2", node.name);
    eventually("addresses of the second incarnation", || {
        let counts = fleet.census().map_err(|error| error.to_string())?.counts();
        let enough = counts.get(&second).copied().unwrap_or(0) >= pods.len();
        if enough { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}
