//! A node that stands still for longer than its addresses are kept for it.

use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::json;
use tests::fleet::{Book, CallError, Fleet, Ground, Options};

use super::{PATIENCE, alone, assert_right, pool, start_all};
use crate::bed::eventually;

const TTL: Duration = Duration::from_secs(12);
const ADDRESSES: u32 = 8;
/// Pods that are bound to the node, and get their ADDs when it wakes up.
const WANTING: usize = 4;

pub(super) fn trials() -> Vec<Trial> {
    vec![alone("leases::a_node_that_slept_gives_nothing_that_it_had", "asleep", sleeps)]
}

fn sleeps(ground: &Ground) {
    let fleet = Fleet::start(ground, "asleep", &Options { lease_ttl: TTL, ..pool(12, ADDRESSES, 2) }).unwrap();
    let [sleeper, other] = &fleet.nodes[..] else { panic!("two nodes") };
    let _controller = ground.controller().unwrap();
    let book = Book::default();
    let wanting = fleet.bind_to(sleeper, "wanting", WANTING).unwrap();
    eventually("addresses for its pods", || {
        let counts = fleet.census().map_err(|error| error.to_string())?.counts();
        let has = counts.get(&sleeper.name).copied().unwrap_or(0);
        if has >= WANTING { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    sleeper.agent().signal(Signal::SIGSTOP).unwrap();

    // For the cluster it is gone, and its pods are: another node has all there are.
    fleet.application("wanting").delete(&ground.objects).unwrap();
    ground.objects.delete("/api/v1/nodes", &sleeper.name).unwrap();
    let all = fleet.bind_to(other, "all", ADDRESSES as usize).unwrap();
    eventually("quarantine of what it had", || {
        let counts = fleet.census().map_err(|error| error.to_string())?.counts();
        if counts.contains_key(&sleeper.name) { Err(format!("{counts:?}")) } else { Ok(()) }
    });
    start_all(&fleet, &book, &all);
    assert_right(&fleet, &book);
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": sleeper.name}});
    ground.objects.create("/api/v1/nodes", &object).unwrap();

    // It is asked before it has noticed anything, and until it has.
    let until = Instant::now() + TTL;
    thread::scope(|scope| {
        for pod in &wanting {
            let (sleeper, book) = (&sleeper, &book);
            scope.spawn(move || {
                while Instant::now() < until {
                    match sleeper.add(pod, book) {
                        Ok(address) => panic!("{address} is another node's"),
                        Err(CallError::Refused(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                    sleeper.delete(pod, book).unwrap();
                }
            });
        }
        sleeper.agent().signal(Signal::SIGCONT).unwrap();
    });
    assert_right(&fleet, &book);

    // It is a node again: what the other one gives back it can give.
    let back = fleet.bind_to(sleeper, "back", 1).unwrap().remove(0);
    other.stop(&all[0], &book, PATIENCE).unwrap();
    all[0].delete(&ground.objects).unwrap();
    sleeper.start(&back, &book, PATIENCE).unwrap();
    assert_right(&fleet, &book);
}
