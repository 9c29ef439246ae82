//! What a million addresses cost. `cargo test -p dragline --lib -- --nocapture scale` prints the numbers.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use super::cleanup;
use super::tests::World;

const ENDPOINTS: usize = 65_000;
const SHARDS: u32 = 256;
const NODES: usize = 5000;

/// What of this process is in memory, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn address(number: usize) -> String {
    std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap()).to_string()
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = act();
    let time = start.elapsed();
    println!("{what}: {time:?}");
    (result, time)
}

#[test]
fn a_change_costs_what_it_touches() {
    let before = resident();
    let mut world = World::new();
    world.pool("wide", 1, json!({"subnet": "10.0.0.0/8", "ips": ["10.0.0.0-10.15.255.255"]}));
    let (_, fill) = timed("reading 5,000 nodes, 256 shards, 65,000 pods and endpoints", || {
        for node in 0..NODES {
            world.node(&format!("node-{node}"), json!({"zone": "z"}), json!(null));
            world.agent(&format!("node-{node}"), 1);
        }
        for shard in 0..SHARDS {
            // A quarter of the slots whole, a quarter shared by two nodes.
            let slots: Vec<String> = (0..64)
                .map(|slot| match slot % 4 {
                    0 => format!("node-{}", (shard * 64 + slot) % 5000),
                    1 => format!("node-{}:ffff,node-{}:ffff0000", (shard + slot) % 5000, (shard * slot) % 5000),
                    _ => String::new(),
                })
                .collect();
            let slots: Vec<&str> = slots.iter().map(String::as_str).collect();
            world.shard("wide", shard, &address(shard as usize * 4096), 4096, &slots);
        }
        for pod in 0..ENDPOINTS {
            let name = format!("deployment-5d4f8c7d9b-{pod:05}");
            world.pod(&name);
            world.endpoint(&name, &format!("node-{}", pod % NODES), "wide", &address(pod * 16));
        }
    });
    let kept = resident().saturating_sub(before);
    println!("memory: {kept} KiB");

    let (verdict, whole) = timed("deciding about the pool", || world.decide("wide"));
    let status = world.write("wide", verdict.patch.as_ref());
    assert_eq!(status.allocated_ip_count, Some(65_000));
    assert_eq!((status.total_ip_count, status.allocated_ips), (Some(1 << 20), None));
    assert!(status.leased_ip_count.unwrap() > 300_000);
    let (verdict, again) = timed("deciding again", || world.decide("wide"));
    assert_eq!(verdict.patch, None);

    const CHANGES: usize = 1000;
    let (_, change) = timed("1,000 endpoints come", || {
        for pod in 0..CHANGES {
            world.endpoint(&format!("late-{pod}"), "node-1", "wide", &address(pod * 16 + 1));
        }
    });
    let (_, renewals) =
        timed("1,000 renewals", || (0..CHANGES).for_each(|node| world.agent(&format!("node-{node}"), 1)));
    let mut memory = cleanup::Memory::default();
    let (found, look) =
        timed("looking for what to clear away", || cleanup::look(&world.cluster, &mut memory, world.now));
    assert_eq!(found.chores, []);

    // Ten to a hundred times what a machine with one busy core took: these fail when a change costs the whole.
    assert!(kept < 200 * 1024, "{kept} KiB");
    assert!(fill < Duration::from_secs(60), "{fill:?}");
    assert!(whole < Duration::from_secs(2) && again < Duration::from_secs(2), "{whole:?}, {again:?}");
    assert!(change < Duration::from_secs(2), "{change:?}");
    assert!(renewals < Duration::from_secs(2), "{renewals:?}");
    assert!(look < Duration::from_secs(2), "{look:?}");
}
