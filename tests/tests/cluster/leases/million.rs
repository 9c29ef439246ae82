//! A pool of a million addresses costs what a small one costs.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use libtest_mimic::Trial;
use plan::lease::Layout;
use serde_json::{Value, json};
use tests::fleet::{Book, Controller, Fleet, Ground, Node, Options};

use super::{alone, assert_right, assert_shown, start_all, stop_all};
use crate::bed::eventually;

const POOLS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools";
const SHARDS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spideripshards";
/// 256 shards.
const GREAT: &str = "10.32.0.0/12";
const NODES: usize = 2;
/// Of a round: more than a node keeps in stock, so that it has to claim.
const GROUP: usize = 40;
const ROUNDS: usize = 4;
/// The greatest object that a claim reads and writes.
const SHARD_BYTES: usize = 16 << 10;
/// What the great pool may add to an agent's memory.
const GROWTH: u64 = 3 << 20;

pub(super) fn trials() -> Vec<Trial> {
    vec![alone("leases::a_pool_of_a_million_addresses_costs_no_more", "million", million)]
}

fn million(ground: &Ground) {
    let controller = Controller::start(ground, "one").unwrap();
    let options = |subnet: &str, ips: &str| Options {
        nodes: NODES,
        subnet: subnet.to_owned(),
        ips: vec![ips.to_owned()],
        fair_share: None,
        lease_ttl: Duration::from_secs(600),
    };
    let small = Fleet::start(ground, "small", &options("10.20.0.0/20", "10.20.0.1-10.20.15.160")).unwrap();
    wait_counted(&small, &controller, 4000);
    let of_small = Cost::measure(&small);
    println!("4,000 addresses: {of_small:#?}");

    let great = Fleet::start(ground, "great", &options(GREAT, "10.32.0.1-10.47.255.254")).unwrap();
    wait_counted(&great, &controller, (1 << 20) - 2);
    fill(&great);
    let of_great = Cost::measure(&great);
    println!("1,048,574 addresses: {of_great:#?}");

    assert!(of_small.writes > 0.0, "nothing was claimed");
    assert_eq!(of_great.shards, 256);
    assert!(of_great.writes <= of_small.writes * 1.5 + 0.2, "more writes");
    assert!(of_great.bytes <= of_small.bytes * 2.0, "more bytes");
    assert!(of_great.shard_bytes <= SHARD_BYTES, "a shard of {} bytes", of_great.shard_bytes);
    assert!(of_great.memory <= of_small.memory + GROWTH, "more memory");
    println!("memory of the small pool's agents: {} bytes", memory(&small));
}

/// All shards are there, and other nodes hold most of every one.
fn fill(fleet: &Fleet<'_>) {
    const SIZE: u32 = 4096;
    let objects = &fleet.ground().objects;
    objects.patch_status(POOLS, &fleet.name, &json!({"status": {"shardSize": SIZE}})).unwrap();
    let uid = objects.get(POOLS, &fleet.name).unwrap()["metadata"]["uid"].clone();
    let layout = Layout::new(GREAT.parse().unwrap(), SIZE).unwrap();
    let firsts = (u32::from(Ipv4Addr::new(10, 32, 0, 0))..).step_by(SIZE as usize).take((1 << 20) / SIZE as usize);
    let names: Vec<(String, Ipv4Addr)> = firsts
        .map(|first| {
            (plan::lease::name(&fleet.name, layout.number(Ipv4Addr::from(first).into()).unwrap()), first.into())
        })
        .collect();
    let shards: Vec<Value> = names
        .iter()
        .map(|(name, first)| {
            let spec = json!({"pool": fleet.name, "poolUID": uid, "first": first, "size": SIZE});
            json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPShard", "metadata": {"name": name}, "spec": spec})
        })
        .collect();
    objects.create_all(SHARDS, &shards).unwrap();
    for (number, (name, _)) in names.iter().enumerate() {
        let slots: Vec<String> =
            (0..64).map(|slot| if slot < 60 { format!("foreign-{}", number % 50) } else { String::new() }).collect();
        objects.patch_status(SHARDS, name, &json!({"status": {"slots": slots}})).unwrap();
    }
}

/// What pods cost.
#[derive(Debug)]
struct Cost {
    /// Writes of shards and pools, a pod.
    writes: f64,
    /// Bytes to and from the nodes, a pod.
    bytes: f64,
    /// Of the largest shard.
    shard_bytes: usize,
    shards: usize,
    /// The agents' resident memory, the largest.
    memory: u64,
}

impl Cost {
    /// Of pods that come and go in groups, on one node and then on the other.
    fn measure(fleet: &Fleet<'_>) -> Self {
        let ground = fleet.ground();
        let book = Book::default();
        let (before, traffic) = (ground.requests().unwrap(), traffic(fleet));
        for round in 0..ROUNDS {
            let pods = fleet.bind_to(&fleet.nodes[round % NODES], &format!("group{round}"), GROUP).unwrap();
            start_all(fleet, &book, &pods);
            assert_right(fleet, &book);
            assert_shown(fleet, &book);
            stop_all(fleet, &book, &pods);
            pods.iter().for_each(|pod| pod.delete(&ground.objects).unwrap());
        }
        assert_shown(fleet, &book);
        let asked = ground.requests().unwrap().since(&before);
        println!("{}: {asked}", fleet.name);
        let pods = (ROUNDS * GROUP) as f64;
        let shards = ground.objects.list_where(SHARDS, &format!("spec.pool={}", fleet.name)).unwrap();
        Self {
            writes: (asked.writes("spideripshards") + asked.writes("spiderippools")) as f64 / pods,
            bytes: (self::traffic(fleet) - traffic) as f64 / pods,
            shard_bytes: shards.iter().map(|shard| shard.to_string().len()).max().unwrap(),
            shards: shards.len(),
            memory: memory(fleet),
        }
    }
}

/// What has gone over the links of the nodes, in bytes.
fn traffic(fleet: &Fleet<'_>) -> u64 {
    let count = |node: &Node| {
        let read = || -> io::Result<u64> {
            let text = fs::read_to_string("/proc/thread-self/net/dev")?;
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
            let numbers: Vec<u64> = line.unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
            numbers
                .first()
                .zip(numbers.get(8))
                .map(|(to, from)| to + from)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        node.netns.run(read).unwrap().unwrap()
    };
    fleet.nodes.iter().map(count).sum()
}

fn memory(fleet: &Fleet<'_>) -> u64 {
    fleet.nodes.iter().map(|node| node.memory().unwrap()).max().unwrap()
}

/// The controller has looked at the pool, and publishes what a node may keep.
fn wait_counted(fleet: &Fleet<'_>, controller: &Controller, addresses: u64) {
    eventually("a pool's counts", || {
        let pool = fleet.ground().objects.get(POOLS, &fleet.name).map_err(|error| error.to_string())?;
        let status: &Value = &pool["status"];
        let is_counted =
            status["totalIPCount"] == addresses && status["fairShare"].as_u64().is_some_and(|share| share > 0);
        if is_counted { Ok(()) } else { Err(format!("{status}\n{}", controller.log())) }
    });
}
