//! As many pods as addresses.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use tests::fleet::{Book, Fleet, Ground, Node, Pod};

use super::{alone, assert_right, assert_shown, beside_others, number, pool, refusal, start_all, stop_all};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        beside_others("leases::forty_one_are_forty_one_on_3_nodes", |ground| exact(ground, "three", 3, 2)),
        beside_others("leases::forty_one_are_forty_one_on_10_nodes", |ground| exact(ground, "ten", 10, 3)),
        alone("leases::all_pods_move_to_other_nodes", "churn", all_move),
    ]
}

fn exact(ground: &Ground, name: &str, nodes: usize, net: u8) {
    let fleet = Fleet::start(ground, name, &pool(net, 41, nodes)).unwrap();
    let book = Book::default();
    let pods = fleet.bind("web", 41, &fleet.nodes).unwrap();
    start_all(&fleet, &book, &pods);
    assert_eq!(book.held().len(), 41);
    assert_right(&fleet, &book);

    let late = fleet.bind("late", 1, &fleet.nodes[1..]).unwrap().remove(0);
    let node = fleet.node_of(&late);
    let said = refusal(node.add(&late, &book));
    for words in [format!("pool {name}"), "41".to_owned()] {
        assert!(said.contains(&words), "{said:?} does not say {words:?}");
    }
    println!("{name}: {said}");

    // It is served as soon as somebody else has none any more: the one on the node after the next.
    let leaving = &pods[3];
    assert_ne!(leaving.node, late.node);
    let waiting = Instant::now();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| node.start(&late, &book, super::PATIENCE).unwrap());
        fleet.node_of(leaving).stop(leaving, &book, super::PATIENCE).unwrap();
        // As long as it is there, its node keeps its address for it.
        leaving.delete(&ground.objects).unwrap();
        served.join().unwrap()
    });
    println!("{name}: an address came to another node in {:?}", waiting.elapsed());
    assert_eq!(book.held().len(), 41);
    assert_right(&fleet, &book);
}

fn all_move(ground: &Ground) {
    let count = number("DRAGLINE_FLEET", 200);
    let nodes = if count >= 1000 { 10 } else { 5 };
    let fleet = Fleet::start(ground, "all", &pool(4, u32::try_from(count).unwrap(), nodes)).unwrap();
    let book = Book::default();
    let first = round(&fleet, &book, "first", &fleet.nodes[..nodes / 2]);
    assert_shown(&fleet, &book);
    stop_all(&fleet, &book, &first);
    fleet.application("first").delete(&ground.objects).unwrap();
    // Every address is another node's now.
    let second = round(&fleet, &book, "second", &fleet.nodes[nodes / 2..]);
    assert_shown(&fleet, &book);
    stop_all(&fleet, &book, &second);
    fleet.application("second").delete(&ground.objects).unwrap();
    assert_right(&fleet, &book);
    assert_shown(&fleet, &book);
}

/// As many pods as the pool has addresses, all at once.
fn round(fleet: &Fleet<'_>, book: &Book, application: &str, nodes: &[Node]) -> Vec<Pod> {
    let count = number("DRAGLINE_FLEET", 200);
    let (before, time) = (fleet.ground().requests().unwrap(), fleet.ground().api_server_time().unwrap());
    let begun = Instant::now();
    let pods = fleet.bind(application, count, nodes).unwrap();
    let bound = begun.elapsed();
    let mut took: Vec<Duration> = start_all(fleet, book, &pods).into_iter().map(|(_, took)| took).collect();
    let all = begun.elapsed();
    assert_eq!(book.held().len(), count);
    assert_right(fleet, book);
    let asked = fleet.ground().requests().unwrap().since(&before);
    let time = fleet.ground().api_server_time().unwrap() - time;
    took.sort();
    println!(
        "{application}: {count} pods on {} nodes: bound in {bound:?}, all with an address in {all:?}, \
         ADD p50 {:?} p99 {:?} max {:?}; shards written {} times ({:.2} a pod), API server {:.1} ms a pod\n  {asked}",
        nodes.len(),
        took[count / 2],
        took[count * 99 / 100],
        took[count - 1],
        asked.writes("spideripshards"),
        asked.writes("spideripshards") as f64 / count as f64,
        time.as_secs_f64() * 1000.0 / count as f64,
    );
    pods
}
