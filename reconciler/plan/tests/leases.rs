//! Address leases of whole clusters in simulated time: the code that decides in the agent, against a model of the API
//! server with races, lost answers and old reads. `--nocapture` prints the numbers.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

#[path = "leases/server.rs"]
mod server;
#[path = "leases/world.rs"]
mod world;

use world::World;

/// As many pods as addresses: none starves, whoever asks first.
#[test]
fn forty_one_addresses_are_forty_one_pods() {
    for nodes in [1, 3, 10] {
        for seed in 0..20 {
            let mut world = World::new(nodes, 41, seed);
            world.run(6_000);
            for pod in 0..41 {
                world.bind_after(pod as u64 * 20, pod % nodes);
            }
            world.run(1_000);
            let took = world.run_until_served(20_000);
            world.check_pods();
            if seed == 0 {
                println!("{nodes} nodes: 41 pods served after {took} ms: {}", world.summary());
            }
            assert!(world.longest_wait() < 10_000, "{}", world.summary());
            // One too many waits, on whatever node; another one's end is its beginning.
            let late = world.bind_after(0, seed as usize % nodes);
            world.run(10_000);
            assert_eq!(world.pending(), 1);
            let gone = world.pods()[(seed as usize * 7) % 41];
            world.delete_after(0, gone);
            world.run(1);
            let took = world.run_until_served(5_000);
            assert_eq!(world.node_of(late), seed as usize % nodes);
            world.check_pods();
            if seed == 0 {
                println!("{nodes} nodes: the 42nd served {took} ms after one went");
            }
            world.run(60_000);
            assert!(world.server.waiting.is_empty());
        }
    }
}

/// A pool of exactly as many addresses as pods, all deleted and made again elsewhere.
#[test]
fn a_thousand_pods_move_within_a_pool_of_a_thousand() {
    let nodes = 10;
    let mut world = World::new(nodes, 1_000, 7);
    world.run(6_000);
    for pod in 0..1_000 {
        world.bind_after(pod * 10, pod as usize % nodes);
    }
    world.run(10_000);
    let took = world.run_until_served(20_000);
    println!("created: {took} ms more: {}", world.summary());
    world.check_pods();

    world.clear_counts();
    for (place, pod) in world.pods().into_iter().enumerate() {
        world.delete_after(place as u64 * 10, pod);
        let elsewhere = (world.node_of(pod) + 1 + place % (nodes - 1)) % nodes;
        world.bind_after(place as u64 * 10 + 5, elsewhere);
    }
    world.run(10_010);
    let took = world.run_until_served(30_000);
    println!(
        "moved one by one: {took} ms more: {:.2} writes a pod: {}",
        world.server.counts.writes() as f64 / 1_000.0,
        world.summary()
    );
    assert!(world.longest_wait() < 10_000);
    world.check_pods();

    world.clear_counts();
    let pods = world.pods();
    for (place, pod) in pods.iter().enumerate() {
        let at = draw(&mut world, 2_000);
        world.delete_after(at, *pod);
        // All to three nodes.
        let at = 2_000 + draw(&mut world, 2_000);
        world.bind_after(at, place % 3);
    }
    world.run(4_001);
    let took = world.run_until_served(30_000);
    assert!(world.longest_wait() < 10_000);
    println!(
        "all to three nodes: {took} ms more: {:.2} writes a pod: {}",
        world.server.counts.writes() as f64 / 1_000.0,
        world.summary()
    );
    world.check_pods();
    for pod in world.pods() {
        let at = draw(&mut world, 3_000);
        world.delete_after(at, pod);
    }
    world.run(40 * 60_000);
    println!("all gone: {}", world.summary());
    world.check_leased();
    let kept: usize = world.spread().iter().sum();
    assert!(kept <= nodes * 16 * 2, "{kept} are kept by nobody's pods");
}

fn draw(world: &mut World, end: u64) -> u64 {
    world.draw.below(end)
}

/// Pods come and go on random nodes, as many as before; gives writes a pod.
fn churn(world: &mut World, nodes: usize, pods_a_second: u64, seconds: u64) -> f64 {
    world.clear_counts();
    let mut pods = world.pods();
    let count = pods_a_second * seconds;
    for place in 0..count {
        let at = place * 1000 / pods_a_second;
        let chosen = draw(world, pods.len() as u64) as usize;
        world.delete_after(at, pods[chosen]);
        let node = draw(world, nodes as u64) as usize;
        let later = at + draw(world, 1_000);
        pods[chosen] = world.bind_after(later, node);
    }
    world.run(seconds * 1_000 + 1_000);
    world.run_until_served(20_000);
    world.server.counts.writes() as f64 / count as f64
}

fn fill(world: &mut World, nodes: usize, pods: usize, over_ms: u64) {
    for _ in 0..pods {
        let at = draw(world, over_ms);
        let node = draw(world, nodes as u64) as usize;
        world.bind_after(at, node);
    }
    world.run(over_ms);
    world.run_until_served(20_000);
}

/// 5,000 nodes on a pool of 65,534 at three fills.
#[test]
fn five_thousand_nodes() {
    let begin = std::time::Instant::now();
    let nodes = 5_000;
    let mut world = World::new(nodes, 65_534, 1);
    world.run(6_000);
    let mut full = 0;
    for (pods, settle, bound) in [(15_000, 60, 0.1), (50_000, 10, 0.6), (63_000, 5, 2.5)] {
        fill(&mut world, nodes, pods - full, 60_000);
        full = pods;
        // Each node finds its level.
        churn(&mut world, nodes, 200, settle);
        let seconds = 20;
        let writes = churn(&mut world, nodes, 200, seconds);
        println!(
            "{pods} pods, 200 starts/s: {writes:.2} writes a pod, {:.0} writes/s, {:.1} reads/s: {}",
            world.server.counts.writes() as f64 / seconds as f64,
            (world.server.counts.gets + world.server.counts.lists) as f64 / seconds as f64,
            world.summary()
        );
        println!("   {:.1} s", begin.elapsed().as_secs_f64());
        world.check_pods();
        assert!(writes <= bound, "{writes} writes a pod");
        assert!(world.longest_wait() < 5_000, "{}", world.summary());
    }
}

/// Answers are lost, come late or tell what was; requests happen up to a minute after they were given up.
#[test]
fn lost_and_late_answers() {
    for seed in 0..6 {
        let nodes = 8;
        let mut world = World::new(nodes, 200, seed);
        world.lost = 60;
        world.run(60_000);
        for _ in 0..185 {
            let (at, node) = (draw(&mut world, 20_000), draw(&mut world, nodes as u64) as usize);
            world.bind_after(at, node);
        }
        world.run(20_000);
        world.run_until_served(180_000);
        churn(&mut world, nodes, 2, 1_200);
        world.check_pods();
        println!("seed {seed}: {}", world.summary());
        empty(&mut world);
    }
}

/// All pods go, requests are answered again: nothing stays leased that nobody knows of.
fn empty(world: &mut World) {
    world.lost = 0;
    for pod in world.pods() {
        world.delete_after(0, pod);
    }
    world.run(50 * 60_000);
    world.check_leased();
    assert!(world.server.waiting.is_empty(), "{:?}", world.server.waiting);
}

/// Nodes stop at any moment, between a claim and its record too, and come back; the API server goes away for a while.
#[test]
fn nodes_and_the_server_die_and_return() {
    for seed in 0..6 {
        let nodes = 8;
        let mut world = World::new(nodes, 200, seed);
        world.lost = 30;
        world.run(10_000);
        let mut pods = Vec::new();
        for _ in 0..150 {
            let (at, node) = (draw(&mut world, 20_000), draw(&mut world, nodes as u64) as usize);
            pods.push(world.bind_after(at, node));
        }
        for round in 0..200 {
            for _ in 0..4 {
                let chosen = draw(&mut world, pods.len() as u64) as usize;
                let at = draw(&mut world, 3_000);
                world.delete_after(at, pods[chosen]);
                let (at, node) = (at + draw(&mut world, 1_000), draw(&mut world, nodes as u64) as usize);
                pods[chosen] = world.bind_after(at, node);
            }
            let (at, node) = (draw(&mut world, 4_000), draw(&mut world, nodes as u64) as usize);
            let down = draw(&mut world, 8_000);
            world.crash_after(at, node, down);
            world.is_down = round % 20 >= 17;
            world.run(4_000);
            world.clear_suspects();
        }
        world.is_down = false;
        world.run(10_000);
        world.run_until_served(180_000);
        world.check_pods();
        println!("seed {seed}: {}", world.summary());
        empty(&mut world);
    }
}

/// Releases that come through after the node that sent them has stopped, come back and claimed the same addresses again.
#[test]
fn late_releases_of_an_earlier_life() {
    for seed in 0..20 {
        let nodes = 2;
        let mut world = World::new(nodes, 24, seed);
        world.run(6_000);
        world.lost = 300;
        for round in 0..150 {
            let node = round % nodes;
            for _ in 0..18 {
                let at = draw(&mut world, 500);
                let pod = world.bind_after(at, node);
                let at = at + 3_000 + draw(&mut world, 3_000);
                world.delete_after(at, pod);
            }
            let (at, down) = (draw(&mut world, 8_000), draw(&mut world, 500));
            world.crash_after(at, node, down);
            world.run(8_000);
        }
        world.check_pods();
        empty(&mut world);
    }
}

/// A node's disk was lost: another incarnation runs under its name while the old one has not heard of it yet.
#[test]
fn two_incarnations_of_one_node() {
    for seed in 0..10 {
        let mut world = World::new(3, 60, seed);
        world.run(6_000);
        for pod in 0..30 {
            world.bind_after(pod * 50, pod as usize % 3);
        }
        world.run(10_000);
        world.run_until_served(10_000);
        let second = world.add_node("node-0", 2);
        world.run(5_000);
        for pod in 0..20 {
            world.bind_after(pod * 100, if pod % 2 == 0 { second } else { 0 });
        }
        world.run(3_000);
        world.run_until_served(20_000);
        world.check_pods();
        // The old one has heard of it: it gives and gives back nothing more.
        world.fence(0, true);
        let held = world.held_by(0);
        for pod in world.pods() {
            world.delete_after(0, pod);
        }
        let late = world.bind_after(1_000, 0);
        world.run(60 * 60_000);
        assert_eq!(world.held_by(0), held, "a fenced one released");
        assert_eq!(world.pending(), 1, "a fenced one gave");
        world.delete_after(0, late);
        world.run(1);
    }
}

/// Wall clocks jump by hours: only quarantines hang on them, and what comes out of one is looked for first.
#[test]
fn wall_clocks_jump() {
    let mut world = World::new(3, 64, 3);
    world.run(6_000);
    for pod in 0..50 {
        world.bind_after(pod * 10, pod as usize % 3);
    }
    world.run(5_000);
    world.run_until_served(10_000);
    // All free ones are somebody unknown's for an hour.
    let until = world::EPOCH + 3_600;
    for pod in world.pods() {
        if world.node_of(pod) == 1 {
            world.delete_after(0, pod);
        }
    }
    world.run(20 * 60_000);
    let free = world.quarantine_free(until);
    assert!(free > 0);
    let before = world.leased();
    for pod in 0..30 {
        world.bind_after(pod * 10, 0);
    }
    world.run(20_000);
    assert!(world.pending() > 0, "what is in quarantine is not given");
    assert!(world.leased() <= 64 - free, "{before}");
    world.jump_clock(0, -100_000);
    world.run(60_000);
    assert!(world.pending() > 0);
    world.jump_clock(0, 200_000);
    world.run(60_000);
    assert!(world.pending() > 0, "looked for before it is given");
    assert!(world.clear_suspects() > 0);
    world.run(1_000);
    world.run_until_served(60_000);
    world.check_pods();
    for seed in 0..3 {
        let mut world = World::new(5, 100, seed);
        world.run(6_000);
        for pod in 0..80 {
            world.bind_after(pod * 10, pod as usize % 5);
        }
        world.run(2_000);
        for _ in 0..50 {
            let node = draw(&mut world, 5) as usize;
            let by = draw(&mut world, 200_000) as i64 - 100_000;
            world.jump_clock(node, by);
            churn(&mut world, 5, 4, 5);
        }
        world.check_pods();
    }
}

/// A pool of a million costs a claim no more than a small one.
#[test]
fn the_size_of_the_pool_costs_nothing() {
    let mut costs = Vec::new();
    for total in [4_000, 65_534, 1_000_000] {
        let nodes = 100;
        let mut world = World::new(nodes, total, 5);
        world.run(6_000);
        world.clear_counts();
        fill(&mut world, nodes, 3_000, 60_000);
        let counts = &world.server.counts;
        let cost = (counts.writes() + counts.gets + counts.lists) as f64 / 3_000.0;
        println!("{total} addresses: {cost:.2} requests a pod: {}", world.summary());
        costs.push(cost);
        churn(&mut world, nodes, 20, 60);
        world.check_pods();
        empty(&mut world);
    }
    assert!(costs[2] <= costs[0] * 1.5 + 0.1, "{costs:?}");
}
