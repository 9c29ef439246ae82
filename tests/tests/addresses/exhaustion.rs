//! The quick start's 41 addresses, and pools that run out.

use std::collections::BTreeSet;
use std::thread;

use libtest_mimic::Trial;

use crate::ipam::{Ipam, Sandbox};
use crate::node::{COORDINATOR, Node, POOL_NAME, address, assert_refused, attachment, eventually, holds, pool, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("all_41_in_order_then_none_then_all_again", all_41),
        trial("the_chain_gives_addresses_back", the_chain_gives_back),
        trial("a_retry_gives_the_same_address", retry),
        trial("add_after_del_of_the_same_sandbox", add_after_del),
        trial("32_at_a_time_are_distinct", at_a_time),
        trial("more_askers_than_addresses", more_askers_than_addresses),
        trial("an_address_on_its_way_back_is_waited_for", on_its_way_back),
        trial("an_address_that_does_not_come_back_is_said_so", does_not_come_back),
    ]
}

fn wanted(last: std::ops::RangeInclusive<u8>) -> Vec<String> {
    last.map(|last| format!("10.6.212.{last}/16")).collect()
}

fn all_41() {
    let node = Node::new("a1");
    let ipam = Ipam::new(&node, &[POOL_NAME]);
    let sandboxes = Sandbox::many(&node, 42);
    let (fitting, last) = (&sandboxes[..41], &sandboxes[41]);
    assert_eq!(fitting.iter().map(|sandbox| ipam.add(sandbox)).collect::<Vec<_>>(), wanted(200..=240));
    assert_eq!(node.counts(POOL_NAME), (41, 41));
    let words = ["all IP addresses used out", "net1", "pool 10-6-v4: 41 of 41 used, 0 on their way back"];
    assert_refused(ipam.try_add(last), 11, &words);
    assert_eq!(node.agent.list("attachments").unwrap().len(), 41, "a refusal leaves nothing");
    ipam.del(last);
    assert_eq!(node.counts(POOL_NAME), (41, 41));

    ipam.del_at_once(fitting);
    node.forgets_all();
    assert_eq!(node.counts(POOL_NAME), (0, 41));
    // Who has had an address gets it again; the newcomer gets the one that nobody asks for.
    let again: Vec<String> = sandboxes[1..].iter().map(|sandbox| ipam.add(sandbox)).collect();
    assert_eq!(again, [wanted(201..=240), wanted(200..=200)].concat());
}

/// With links: an address comes back when its link is gone, and not before.
fn the_chain_gives_back() {
    let node = Node::with(
        "a2",
        &[
            ("pool.yaml", &pool(POOL_NAME, &["10.6.212.200"])),
            ("coordinator.yaml", COORDINATOR),
            ("network.yaml", crate::node::NETWORK),
        ],
    );
    let (runtime, conflist) = (node.runtime(), node.conflist());
    let pods = [node.pod(101), node.pod(102)];
    for round in 0..6 {
        let it = attachment(&pods[round % 2], "net1");
        let result = runtime.add(&conflist, &it).unwrap();
        assert_eq!(address(&result), "10.6.212.200/16");
        runtime.del(&conflist, &it, Some(&result)).unwrap();
    }
    node.forgets_all();
}

fn retry() {
    let node = Node::new("a3");
    let ipam = Ipam::new(&node, &[POOL_NAME]);
    let sandboxes = Sandbox::many(&node, 3);
    let first: Vec<String> = sandboxes.iter().map(|sandbox| ipam.add(sandbox)).collect();
    let second: Vec<String> = sandboxes.iter().rev().map(|sandbox| ipam.add(sandbox)).collect();
    assert_eq!(first, second.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(node.counts(POOL_NAME), (3, 41));
    // Ten at once for one sandbox: one address.
    let one = thread::scope(|scope| {
        let asked: Vec<_> = (0..10).map(|_| scope.spawn(|| ipam.add(&sandboxes[1]))).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect::<BTreeSet<_>>()
    });
    assert_eq!(one.into_iter().collect::<Vec<_>>(), [first[1].clone()]);
    assert_eq!(node.counts(POOL_NAME), (3, 41));
}

/// A runtime that tries a pod again asks DEL and ADD of one container.
fn add_after_del() {
    let node = Node::new("a4");
    let ipam = Ipam::new(&node, &[POOL_NAME]);
    let sandbox = Sandbox::new(&node, "s");
    for _ in 0..20 {
        assert_eq!(ipam.add(&sandbox), "10.6.212.200/16");
        ipam.del(&sandbox);
    }
    node.forgets_all();
    assert_eq!(ipam.add(&sandbox), "10.6.212.200/16");
    assert_eq!(node.counts(POOL_NAME), (1, 41));
}

fn at_a_time() {
    let node = Node::new("a5");
    let ipam = Ipam::new(&node, &[POOL_NAME]);
    let sandboxes = Sandbox::many(&node, 32);
    let given: BTreeSet<String> =
        ipam.add_at_once(&sandboxes).into_iter().map(|result| address(&result.unwrap())).collect();
    assert_eq!(given.into_iter().collect::<Vec<_>>(), wanted(200..=231));
    assert_eq!(node.counts(POOL_NAME), (32, 41));
    ipam.del_at_once(&sandboxes);
    node.forgets_all();
}

fn more_askers_than_addresses() {
    let node = Node::with("a6", &[("pool.yaml", &pool("p", &["10.6.212.200-10.6.212.209"])), ("c.yaml", COORDINATOR)]);
    let ipam = Ipam::new(&node, &["p"]);
    let sandboxes = Sandbox::many(&node, 24);
    let (given, refused): (Vec<_>, Vec<_>) = ipam.add_at_once(&sandboxes).into_iter().partition(Result::is_ok);
    let given: BTreeSet<String> = given.into_iter().map(|result| address(&result.unwrap())).collect();
    assert_eq!(given.into_iter().collect::<Vec<_>>(), wanted(200..=209));
    assert_eq!(refused.len(), 14);
    refused.into_iter().for_each(|refused| assert_refused(refused, 11, &["10 of 10 used"]));
    assert_eq!(node.counts("p"), (10, 10));
}

/// A pool of one address, whose owner is withdrawn while something still holds its namespace: the address stays out
/// until the namespace ends.
struct Withdrawn {
    node: Node,
    door: std::fs::File,
}

fn withdrawn(name: &str) -> Withdrawn {
    let node = Node::with(name, &[("pool.yaml", &pool("p", &["10.6.212.200"])), ("c.yaml", COORDINATOR)]);
    let ipam = Ipam::new(&node, &["p"]);
    let first = Sandbox::new(&node, "first");
    assert_eq!(ipam.add(&first), "10.6.212.200/16");
    // The agent has seen the namespace, and hears of its end.
    eventually("the first one as wanted", || {
        let found = node.agent.list("attachments").unwrap();
        holds(found[0]["state"] == "Converged", found)
    });
    let door = first.netns.open().unwrap();
    let Sandbox { netns, it } = first;
    let gone = Sandbox { netns: node.netns("stand-in"), it };
    netns.delete();
    ipam.del(&gone);
    eventually("a withdrawal that lasts", || {
        let leases = node.agent.list("leases").unwrap();
        holds(leases[0]["releasing"] == "1", leases)
    });
    drop(ipam);
    Withdrawn { node, door }
}

fn on_its_way_back() {
    let Withdrawn { node, door } = withdrawn("a7");
    let ipam = Ipam::new(&node, &["p"]);
    let second = Sandbox::new(&node, "second");
    thread::scope(|scope| {
        let asked = scope.spawn(|| ipam.add(&second));
        // The namespace ends: while the ADD waits, or before it comes.
        drop(door);
        assert_eq!(asked.join().unwrap(), "10.6.212.200/16");
    });
    assert_eq!(node.counts("p"), (1, 1));
}

fn does_not_come_back() {
    let Withdrawn { node, door } = withdrawn("a8");
    let ipam = Ipam::new(&node, &["p"]);
    let second = Sandbox::new(&node, "second");
    assert_refused(ipam.try_add(&second), 11, &["pool p: 1 of 1 used, 1 on their way back"]);
    drop(door);
    node.forgets_all();
    assert_eq!(ipam.add(&second), "10.6.212.200/16");
}
