//! What an allocation costs, by the size of the pool, how full it is and how many pods the node knows.
//!
//! The peer is the way of the original: all addresses of the pool as a list, those in use as a set, and a scan for the first
//! that is not among them (../spec/ipam.md 6).

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dragline::catalogue::{Catalogue, Object};
use dragline::ledger::{Ledger, Update};
use ipnetwork::IpNetwork;
use plan::allocate::each;
use schemas::crd::SpiderIPPool;
use schemas::intent::{Allocation, AllocationState, AssignedAddress, Attachment, Learned, Outcome, PodRef, Sandbox};
use schemas::name::AttachmentKey;
use serde_json::json;
use store::Store;
use tokio::runtime::Runtime;

/// The most records of pods that a store gets.
const RECORDS: u128 = 100_000;
/// Reservations that are timed together.
const BATCH: u32 = 1000;
const BATCHES: usize = 21;

struct Size {
    name: &'static str,
    version: u8,
    subnet: &'static str,
    first: IpAddr,
    len: u128,
}

fn sizes() -> [Size; 4] {
    let size =
        |name, version, subnet, first: &str, len| Size { name, version, subnet, first: first.parse().unwrap(), len };
    [
        size("41", 4, "10.6.0.0/16", "10.6.212.200", 41),
        size("65,534", 4, "10.6.0.0/16", "10.6.0.1", 65_534),
        size("16 million", 4, "10.0.0.0/8", "10.0.0.1", (1 << 24) - 2),
        size("IPv6 /64", 6, "fd00:6::/64", "fd00:6::1", (1 << 64) - 2),
    ]
}

impl Size {
    fn at(&self, place: u128) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => IpAddr::V4((first.to_bits() + u32::try_from(place).unwrap()).into()),
            IpAddr::V6(first) => IpAddr::V6((first.to_bits() + place).into()),
        }
    }
}

/// A node with a pool, `used` addresses of which are not free: as many as may be are pods' of this node, every other address
/// from the first one on, so that the free ones are in as many pieces as can be; the others are in one stretch.
struct Bed {
    ledger: Ledger,
    runtime: Runtime,
    pods: u128,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new(size: &Size, used: u128) -> Self {
        let pods = used.min(RECORDS).min(size.len / 2);
        let rest = used - pods;
        let last = size.at(size.len - 1);
        let mut spec =
            json!({"ipVersion": size.version, "subnet": size.subnet, "ips": [format!("{}-{last}", size.first)]});
        if rest > 0 {
            spec["excludeIPs"] = json!([format!("{}-{last}", size.at(size.len - rest))]);
        }
        let pool: SpiderIPPool = serde_json::from_value(json!({"apiVersion": "spiderpool.spidernet.io/v2beta1",
            "kind": "SpiderIPPool", "metadata": {"name": "p"}, "spec": spec}))
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), "node", "boot").unwrap();
        let (ledger, _) = Ledger::load(store, false).unwrap();
        ledger.declare(&Catalogue::of([Object::IpPool(pool)]));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bed = Self { ledger, runtime, pods, _folder: folder };
        let all: Vec<u128> = (0..pods).collect();
        for some in all.chunks(64) {
            let commits = some.iter().map(|pod| bed.commit(*pod, size.at(pod * 2)));
            bed.runtime.block_on(async {
                for commit in commits.collect::<Vec<_>>() {
                    commit.await;
                }
            });
        }
        bed
    }

    async fn commit(&self, pod: u128, address: IpAddr) {
        let key = AttachmentKey { container: format!("c{pod}").parse().unwrap(), ifname: "net1".parse().unwrap() };
        self.ledger.commit(&key.container.clone(), update(key, address)).await.unwrap();
    }

    /// One reservation that is given back.
    fn reserve(&self) -> Duration {
        let mut samples: Vec<Duration> = (0..BATCHES)
            .map(|_| {
                let started = Instant::now();
                for _ in 0..BATCH {
                    let address = self.ledger.reserve("p", "", false, |_| true).unwrap();
                    self.ledger.unreserve(black_box(address));
                }
                started.elapsed() / BATCH
            })
            .collect();
        samples.sort();
        samples[BATCHES / 2]
    }

    /// An allocation made durable, and taken back.
    fn durable(&self, size: &Size) -> Duration {
        let mut samples: Vec<Duration> = (0..201)
            .map(|_| {
                let started = Instant::now();
                let address = self.ledger.reserve("p", "", false, |_| true).unwrap();
                self.runtime.block_on(self.commit(size.len, address));
                let took = started.elapsed();
                let key = AttachmentKey {
                    container: format!("c{}", size.len).parse().unwrap(),
                    ifname: "net1".parse().unwrap(),
                };
                let gone = Update { deleted: vec![key.clone()], freed: vec![address], ..Update::default() };
                self.runtime.block_on(self.ledger.commit(&key.container, gone)).unwrap();
                took
            })
            .collect();
        samples.sort();
        samples[100]
    }
}

fn update(key: AttachmentKey, address: IpAddr) -> Update {
    let sandbox = Sandbox {
        container: key.container.clone(),
        netns: None,
        baseline: None,
        auxiliary: None,
        sysctls_before: Vec::new(),
        generation: 1,
        outcome: Outcome::default(),
    };
    let length = if address.is_ipv4() { 16 } else { 64 };
    let assigned =
        AssignedAddress { address: IpNetwork::new(address, length).unwrap(), gateway: None, pool: "p".to_owned() };
    let attachment = Attachment {
        key: key.clone(),
        network: "net".parse().unwrap(),
        pod: PodRef { namespace: "default".into(), name: key.container.to_string(), uid: String::new() },
        ordinal: 0,
        generation: 1,
        addresses: vec![assigned],
        routes: Vec::new(),
        allocated: true,
        link: None,
        link_wanted: false,
        foreign_link: None,
        learned: Learned::default(),
        coordinate: None,
        uplink: None,
        closing: false,
        prepared: false,
    };
    let allocation = Allocation { address, pool: "p".to_owned(), owner: key, state: AllocationState::Held };
    Update { sandbox: Some(sandbox), put: vec![attachment], allocations: vec![allocation], ..Update::default() }
}

/// The original's way; none where the list has no place in memory.
fn by_list(size: &Size, used: u128) -> Option<Duration> {
    if size.len > 1 << 24 {
        return None;
    }
    let taken: BTreeSet<IpAddr> = (0..used).map(|place| size.at(place)).collect();
    let mut samples: Vec<Duration> = (0..3)
        .map(|_| {
            let started = Instant::now();
            let list: Vec<IpAddr> = each(size.first, size.at(size.len - 1)).collect();
            black_box(list.iter().find(|address| !taken.contains(address)));
            started.elapsed()
        })
        .collect();
    samples.sort();
    Some(samples[1])
}

fn shown(duration: Duration) -> String {
    match duration.as_nanos() {
        nanos @ 0..10_000 => format!("{nanos} ns"),
        nanos @ 10_000..10_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        nanos => format!("{:.1} ms", nanos as f64 / 1e6),
    }
}

fn main() {
    println!(
        "| pool | full | pods on this node | an address reserved and given back | against 41, empty | by list | by list / ours |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut smallest = None;
    let mut durable = Vec::new();
    for size in sizes() {
        for (name, used) in [("0 %", 0), ("50 %", size.len / 2), ("99.9 %", (size.len * 999 / 1000).min(size.len - 1))]
        {
            let bed = Bed::new(&size, used);
            let took = bed.reserve();
            let least = *smallest.get_or_insert(took);
            let ratio = took.as_secs_f64() / least.as_secs_f64();
            let list = by_list(&size, used);
            let against = list.map(|list| format!("{:.0} ×", list.as_secs_f64() / took.as_secs_f64()));
            println!(
                "| {} | {name} | {} | {} | {ratio:.2} × | {} | {} |",
                size.name,
                bed.pods,
                shown(took),
                list.map_or_else(|| "no memory for it".to_owned(), shown),
                against.unwrap_or_default()
            );
            durable.push((size.name, name, bed.pods, bed.durable(&size)));
        }
    }
    println!("\n| pool | full | pods on this node | an allocation made durable, p50 | against none |");
    println!("|---|---|---|---|---|");
    let least = durable[0].3;
    for (size, full, pods, took) in durable {
        let ratio = took.as_secs_f64() / least.as_secs_f64();
        println!("| {size} | {full} | {pods} | {} | {ratio:.2} × |", shown(took));
    }
}
