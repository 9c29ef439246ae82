//! What an agent weighs in a large cluster.

use std::time::Instant;

use libtest_mimic::Trial;
use tests::fleet::{Book, Fleet, Ground, Options, crowd};

use super::{alone, number, pool, start_all};

const OBJECTS: &str = "DRAGLINE_FLEET_OBJECTS";
/// Pods of the node that is weighed.
const PODS: usize = 110;
const LIMIT: u64 = 60 << 20;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        alone("leases::an_agent_is_small_in_a_large_cluster", "large", weigh)
            .with_ignored_flag(number(OBJECTS, 0) == 0),
    ]
}

fn weigh(ground: &Ground) {
    let count = number(OBJECTS, 5000);
    let begun = Instant::now();
    crowd(&ground.objects, count).unwrap();
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
