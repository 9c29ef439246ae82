//! How often the API server is written to for a pod.

use libtest_mimic::Trial;
use tests::fleet::{Book, Fleet, Ground, Options};

use super::{alone, assert_right, pool, start_all, stop_all};

const PODS: usize = 80;
/// Of them at once, all on one node.
const GROUP: usize = 8;

pub(super) fn trials() -> Vec<Trial> {
    vec![alone("leases::a_pod_costs_few_writes", "writes", few_writes)]
}

fn few_writes(ground: &Ground) {
    let roomy = Options { fair_share: Some(32), ..pool(5, 65_024, 2) };
    let with_room = writes_of_a_pod(&Fleet::start(ground, "roomy", &roomy).unwrap());
    let tight = Options { fair_share: Some(0), ..pool(6, GROUP as u32, 2) };
    let without = writes_of_a_pod(&Fleet::start(ground, "tight", &tight).unwrap());
    println!("writes to shards and pool: {with_room:.2} a pod with room, {without:.2} without");
    assert!(with_room <= 0.5, "{with_room} writes a pod although there is room");
    assert!(without <= 3.0, "{without} writes a pod");
}

/// Pods come and go in small groups, on one node and then on the other.
fn writes_of_a_pod(fleet: &Fleet<'_>) -> f64 {
    let book = Book::default();
    let warm = fleet.bind("warm", GROUP, &fleet.nodes).unwrap();
    start_all(fleet, &book, &warm);
    stop_all(fleet, &book, &warm);
    warm.iter().for_each(|pod| pod.delete(&fleet.ground().objects).unwrap());
    let before = fleet.ground().requests().unwrap();
    for group in 0..PODS / GROUP {
        let pods = fleet.bind_to(&fleet.nodes[group % 2], &format!("group{group}"), GROUP).unwrap();
        start_all(fleet, &book, &pods);
        assert_right(fleet, &book);
        stop_all(fleet, &book, &pods);
        pods.iter().for_each(|pod| pod.delete(&fleet.ground().objects).unwrap());
    }
    let asked = fleet.ground().requests().unwrap().since(&before);
    println!("{}: {asked}", fleet.name);
    (asked.writes("spideripshards") + asked.writes("spiderippools")) as f64 / PODS as f64
}
