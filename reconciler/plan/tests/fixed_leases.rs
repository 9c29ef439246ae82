//! Addresses of pods with an identity, in simulated time: whoever moves over the nodes takes its address along, whatever
//! crashes and whichever answers are lost, and nobody else has it meanwhile.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the world serves other tests too")]

#[path = "leases/server.rs"]
mod server;
#[path = "leases/world.rs"]
mod world;

use world::{Pod, World};

fn draw(world: &mut World, end: u64) -> u64 {
    world.draw.below(end)
}

fn owner(place: usize) -> String {
    format!("shop/cart-{place}/net1")
}

/// So many identities, each with its pod.
fn begin(world: &mut World, nodes: usize, count: usize) -> Vec<Pod> {
    let mut pods = Vec::new();
    for place in 0..count {
        let (at, node) = (draw(world, 10_000), draw(world, nodes as u64) as usize);
        pods.push(world.bind_fixed_after(at, &owner(place), node));
    }
    world.run(10_000);
    world.run_until_served(180_000);
    pods
}

/// One pod goes and the next of its name comes, on any node: DEL may come after the next one is bound.
fn restart(world: &mut World, nodes: usize, pods: &mut [Pod], place: usize) {
    let (at, lag) = (draw(world, 3_000), draw(world, 500));
    let node = draw(world, nodes as u64) as usize;
    let is_late = draw(world, 2) == 0;
    world.delete_after(at + if is_late { lag } else { 0 }, pods[place]);
    pods[place] = world.bind_fixed_after(at + if is_late { 0 } else { lag }, &owner(place), node);
}

fn end(world: &mut World, pods: &[Pod]) {
    world.lost = 0;
    world.is_down = false;
    for pod in pods {
        world.delete_after(0, *pod);
    }
    world.run(10 * 60_000);
    let kept: Vec<String> = world.named().into_keys().collect();
    assert_eq!(world.reservations(), kept, "each is kept for its owner, and nothing else");
    assert_eq!(world.remembered(), 0, "no node has anything to do with them");
    for owner in kept {
        world.end_owner(&owner);
    }
    for pod in world.pods() {
        world.delete_after(0, pod);
    }
    world.run(50 * 60_000);
    assert_eq!(world.reservations(), [""; 0]);
    world.check_leased();
}

/// G00011, E00003: pods of StatefulSets that fill their pool but for one address, all restarted over and over.
#[test]
fn g00011_who_moves_takes_its_address_along() {
    for seed in 0..10 {
        let nodes = 5;
        let mut world = World::new(nodes, 41, seed);
        world.run(6_000);
        let mut pods = begin(&mut world, nodes, 40);
        let before = world.named();
        world.clear_counts();
        for _ in 0..40 {
            let place = draw(&mut world, 40) as usize;
            restart(&mut world, nodes, &mut pods, place);
            world.run(4_000);
        }
        world.run_until_served(20_000);
        assert_eq!(world.named(), before, "every one has its own");
        world.check_pods();
        if seed == 0 {
            println!("40 restarts one after another: {}", world.summary());
        }
        assert!(world.longest_wait() < 2_000, "{}", world.summary());
        end(&mut world, &pods);
    }
}

/// The same while answers are lost, nodes stop and start at any moment, the API server is away for a while, and other pods
/// take what they can get.
#[test]
fn crashes_and_lost_answers() {
    for seed in 0..8 {
        let nodes = 6;
        let mut world = World::new(nodes, 120, seed);
        world.lost = 30;
        world.run(10_000);
        let mut pods = begin(&mut world, nodes, 40);
        let before = world.named();
        let mut others = Vec::new();
        for _ in 0..60 {
            let (at, node) = (draw(&mut world, 10_000), draw(&mut world, nodes as u64) as usize);
            others.push(world.bind_after(at, node));
        }
        world.run(10_000);
        for round in 0..150 {
            let mut places: Vec<usize> = (0..2).map(|_| draw(&mut world, 40) as usize).collect();
            places.dedup();
            for place in places {
                restart(&mut world, nodes, &mut pods, place);
            }
            let chosen = draw(&mut world, others.len() as u64) as usize;
            let at = draw(&mut world, 3_000);
            world.delete_after(at, others[chosen]);
            let (at, node) = (at + draw(&mut world, 1_000), draw(&mut world, nodes as u64) as usize);
            others[chosen] = world.bind_after(at, node);
            let (at, node) = (draw(&mut world, 4_000), draw(&mut world, nodes as u64) as usize);
            let down = draw(&mut world, 6_000);
            world.crash_after(at, node, down);
            world.is_down = round % 20 >= 18;
            world.run(4_000);
        }
        world.is_down = false;
        world.run(10_000);
        world.run_until_served(240_000);
        world.check_pods();
        assert_eq!(world.named(), before, "every one has its own");
        println!("seed {seed}: {}", world.summary());
        end(&mut world, &pods);
    }
}

/// A node is off: what its pods had is theirs on other nodes, after a look on the wire.
#[test]
fn a_dead_nodes_pods_find_their_addresses_elsewhere() {
    for seed in 0..10 {
        let nodes = 4;
        let mut world = World::new(nodes, 41, seed);
        world.run(6_000);
        let mut pods = begin(&mut world, nodes, 24);
        let before = world.named();
        let dead: Vec<usize> = (0..24).filter(|place| world.node_of(pods[*place]) == 0).collect();
        // Bound elsewhere before the node is known to be dead.
        for place in &dead {
            pods[*place] = world.bind_fixed_after(0, &owner(*place), 1 + place % 3);
        }
        world.run(20_000);
        assert_eq!(world.pending(), dead.len(), "nobody is given what the dead node may still use");
        world.bury(0);
        world.run(30_000);
        assert_eq!(world.pending(), dead.len(), "looked for first");
        assert_eq!(world.clear_suspects(), dead.len());
        world.run(5_000);
        world.run_until_served(20_000);
        world.check_pods();
        assert_eq!(world.named(), before);
        end(&mut world, &pods);
    }
}

/// Scaled down and up: what was given back is anybody's, and the next one of the name gets another.
#[test]
fn what_is_given_back_is_anybodys() {
    let mut world = World::new(3, 10, 1);
    world.run(6_000);
    let pods = begin(&mut world, 3, 10);
    let late = world.bind_after(0, 0);
    world.run(60_000);
    assert_eq!(world.pending(), 1, "all are kept");
    world.delete_after(0, pods[4]);
    world.run(60_000);
    assert_eq!(world.pending(), 1, "kept while its owner is there");
    assert_eq!(world.reservations(), [owner(4)]);
    world.end_owner(&owner(4));
    world.run(1);
    world.run_until_served(30_000);
    world.check_pods();
    let again = world.bind_fixed_after(0, &owner(4), 2);
    world.run(20_000);
    assert_eq!(world.pending(), 1, "there is none left");
    world.delete_after(0, late);
    world.run(1);
    world.run_until_served(30_000);
    world.check_pods();
    let mut pods = pods;
    pods[4] = again;
    end(&mut world, &pods);
}
