//! Addresses of a node that is gone: somebody may still use them, so they are looked for on the wire before anybody else
//! gets one.

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::IpNetwork;
use libtest_mimic::Trial;
use schemas::slot::Subject;
use serde_json::{Value, json};
use tests::fleet::{Book, Fleet, Ground, Node, Options, Pod};

use super::{PATIENCE, alone, assert_right, assert_shown, refusal, start_all};
use crate::bed::eventually;

/// A node is silent after a quarter of it.
const TTL: Duration = Duration::from_secs(20);
/// The shortest quarantine of what a node has left.
const COOLDOWN: Duration = Duration::from_secs(60);
/// For how long an address is kept from everybody whom somebody unknown has, less what the trial takes.
const LONG: Duration = Duration::from_secs(3500);
const ADDRESSES: usize = 4;
/// What the agent says of an address for which nobody has answered.
const SILENT: &str = "nobody uses this address any more";
const SHARDS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spideripshards";

pub(super) fn trials() -> Vec<Trial> {
    vec![
        alone("leases::what_a_gone_machine_still_uses_is_given_to_nobody_ipv4", "gone4", |ground| {
            let at = |last: &str, length: u8| format!("10.11.{last}/{length}").parse().unwrap();
            gone(ground, ["10.11.1.0-10.11.1.3".into()], [at("255.1", 16), at("255.2", 16)]);
        }),
        alone("leases::what_a_gone_machine_still_uses_is_given_to_nobody_ipv6", "gone6", |ground| {
            let at = |last: &str, length: u8| format!("fd00:11::{last}/{length}").parse().unwrap();
            gone(ground, ["fd00:11::10-fd00:11::13".into()], [at("f001", 112), at("f002", 112)]);
        }),
    ]
}

/// The nodes are on the wire of the pool, with these addresses of their own.
fn gone(ground: &Ground, ips: [String; 1], own: [IpNetwork; 2]) {
    let subnet = IpNetwork::new(own[0].network(), own[0].prefix()).unwrap().to_string();
    let options = Options { nodes: 2, subnet, ips: ips.into(), fair_share: None, lease_ttl: TTL };
    let fleet = Fleet::start(ground, "gone", &options).unwrap();
    let [gone, living] = &fleet.nodes[..] else { panic!("two nodes") };
    for (node, address) in [gone, living].into_iter().zip(own) {
        node.netns.scene().unwrap().address("eth0", address).unwrap();
    }
    let controller = ground.controller().unwrap();
    let book = Book::default();
    let lost = fleet.bind_to(gone, "lost", ADDRESSES).unwrap();
    start_all(&fleet, &book, &lost);
    assert_shown(&fleet, &book);
    let addresses: Vec<IpAddr> = book.held().into_keys().collect();
    let occupied = addresses[1];

    // Kubernetes knows nothing of it any more, and something on the machine still answers.
    gone.agent().kill().unwrap();
    let mut machine = gone.netns.scene().unwrap();
    let host = IpNetwork::new(occupied, own[0].prefix()).unwrap();
    machine.address("eth0", host).unwrap();
    let mac = machine.link("eth0").unwrap().mac.unwrap().to_string();
    fleet.application("lost").delete(&ground.objects).unwrap();
    lost.iter().for_each(|pod| book.taken_back(pod));
    ground.objects.delete("/api/v1/nodes", &gone.name).unwrap();
    let since = Instant::now();

    let found = fleet.bind_to(living, "found", ADDRESSES - 1).unwrap();
    let until = eventually("quarantine of what the node had", || {
        let census = fleet.census().map_err(|error| error.to_string())?;
        let ends: Option<Vec<u64>> = addresses.iter().map(|address| quarantine(census.holder(*address))).collect();
        ends.and_then(|ends| ends.into_iter().min())
            .ok_or_else(|| format!("{:?}\n{}", census.counts(), last_lines(&controller.log())))
    });
    println!("in quarantine after {:?}, for {:?}", since.elapsed(), instant_of(until) - Instant::now());
    assert!(instant_of(until) >= since + COOLDOWN, "it is too short");

    thread::sleep(instant_of(until).saturating_duration_since(Instant::now()));
    // Killed between the claim and the answer of the wire, the agent asks again.
    eventually("claims of what has been in quarantine", || {
        let counts = fleet.census().map_err(|error| error.to_string())?.counts();
        if counts.contains_key(&living.name) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    living.crash().unwrap();
    let asked = read_log(living).matches(SILENT).count();
    println!("killed after {asked} answers");
    living.wait_ready().unwrap();

    // Those that nobody uses are given once it has ended.
    start_all(&fleet, &book, &found);
    println!("three addresses are given {:?} after the end of their quarantine", instant_of(until).elapsed());
    for (address, tenure) in book.held() {
        assert!(tenure.since >= instant_of(until), "{address} was given in its quarantine");
        assert_ne!(address, occupied, "somebody uses it");
    }
    assert_right(&fleet, &book);

    // The last one is not.
    let late = fleet.bind_to(living, "late", 1).unwrap().remove(0);
    let begun = Instant::now();
    let is_kept = || {
        let census = fleet.census().unwrap();
        quarantine(census.holder(occupied)).map(instant_of).is_some_and(|until| until >= Instant::now() + LONG)
    };
    // A node that waits looks every 10 to 20 s for what nobody holds, an ADD waits for 20.
    while !is_kept() {
        let said = refusal(living.add(&late, &book));
        assert!(said.contains("pool gone"), "{said}");
        living.delete(&late, &book).unwrap();
        assert!(begun.elapsed() < PATIENCE, "{:?}\n{}", fleet.census().unwrap().counts(), living.agent().log_end());
    }
    eventually("its Event", || {
        let events = ground.objects.list("/apis/events.k8s.io/v1/namespaces/default/events");
        let events = events.map_err(|error| error.to_string())?;
        let told = |event: &&Value| event["reason"] == "AddressOccupied" && event["regarding"]["name"] == "gone";
        let notes: Vec<&str> = events.iter().filter(told).filter_map(|event| event["note"].as_str()).collect();
        let is_told = |note: &&str| note.contains(&format!("address {occupied} ")) && note.contains(&mac);
        if notes.iter().any(is_told) { Ok(()) } else { Err(format!("{notes:?} without {mac}")) }
    });
    assert_right(&fleet, &book);

    machine.delete_address("eth0", host).unwrap();
    end_quarantine(ground, occupied);
    let (address, took) = living.start(&late, &book, PATIENCE).unwrap();
    println!("the last one is given {took:?} after its end");
    assert_eq!(address, occupied);
    assert_right(&fleet, &book);
    assert_shown(&fleet, &book);
    assert_looked_for(living, &addresses);
    comes_back(&fleet, &book, &lost, late);
}

/// The machine comes back with all that it knew, and without the leases: the other node's last pod goes for it.
fn comes_back(fleet: &Fleet<'_>, book: &Book, lost: &[Pod], leaving: Pod) {
    let [gone, living] = &fleet.nodes[..] else { panic!("two nodes") };
    let objects = &fleet.ground().objects;
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": gone.name}});
    objects.create("/api/v1/nodes", &object).unwrap();
    gone.launch().unwrap();
    gone.wait_ready().unwrap();
    let back = fleet.bind_to(gone, "back", 1).unwrap().remove(0);
    let said = refusal(gone.add(&back, book));
    assert!(said.contains("pool gone"), "{said}");
    gone.delete(&back, book).unwrap();
    // DELs that are late, of pods whose addresses are others' now.
    lost.iter().for_each(|pod| gone.delete(pod, book).unwrap());
    assert_right(fleet, book);
    living.stop(&leaving, book, PATIENCE).unwrap();
    leaving.delete(objects).unwrap();
    let (_, took) = gone.start(&back, book, PATIENCE).unwrap();
    println!("the node that is back gives an address {took:?} after another one has given it back");
    assert_eq!(book.held().len(), ADDRESSES);
    assert_right(fleet, book);
    assert_shown(fleet, book);
}

/// The agent has not given any of them unseen.
fn assert_looked_for(node: &Node, addresses: &[IpAddr]) {
    let log = read_log(node);
    for address in addresses {
        let is_said = log.lines().any(|line| line.contains(SILENT) && line.contains(&address.to_string()));
        assert!(is_said, "{address}: {log}");
    }
}

fn read_log(node: &Node) -> String {
    fs::read_to_string(&node.agent().settings().log).unwrap()
}

/// Nobody waits here for as long as an address is kept that somebody uses: the only quarantine there is ends now.
fn end_quarantine(ground: &Ground, address: IpAddr) {
    let shards = ground.objects.list(SHARDS).unwrap();
    let slots = |shard: &Value| shard["status"]["slots"].as_array().cloned().unwrap_or_default();
    let is_kept = |slot: &Value| slot.as_str().is_some_and(|text| text.starts_with('!'));
    let kept: Vec<(String, usize, Value)> = shards
        .iter()
        .flat_map(|shard| {
            let name = shard["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let slots = slots(shard).into_iter().enumerate().filter(|(_, slot)| is_kept(slot));
            slots.map(move |(place, slot)| (name.clone(), place, slot)).collect::<Vec<_>>()
        })
        .collect();
    let [(shard, place, text)] = &kept[..] else { panic!("{address} alone is kept from everybody: {kept:?}") };
    let path = format!("/status/slots/{place}");
    let patch = json!([
        {"op": "test", "path": path, "value": text},
        {"op": "replace", "path": path, "value": "!1"},
    ]);
    let patch = patch.to_string();
    let arguments = ["patch", "spideripshard", shard, "--subresource=status", "--type=json", "--patch", &patch];
    ground.kubectl().ask(&arguments, "").unwrap();
}

/// The end of a quarantine, in seconds since 1970, by this machine's other clock.
fn instant_of(until: u64) -> Instant {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
    match end.duration_since(wall) {
        Ok(left) => now + left,
        Err(error) => now - error.duration(),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn quarantine(subject: Option<&Subject>) -> Option<u64> {
    match subject {
        Some(Subject::Quarantined { until }) => Some(*until),
        _ => None,
    }
}
