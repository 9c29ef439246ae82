//! More happens than the agent's sockets hold: what was changed meanwhile is found all the same, and repaired.

use std::fs;
use std::time::{Duration, Instant};

use netlink::testbed::Scene;
use nix::sys::signal::Signal;
use plan::object::{Route, RouteKind};
use tests::full_node::Flush;
use tests::scene::UPLINK;

use crate::ground::{CALM, Ground, times};

/// Changes of another program; more than the largest buffer holds.
const CHANGES: u32 = 60_000;
/// How long another program goes on without a pause.
const NOISE: Duration = Duration::from_secs(3);

pub(crate) fn while_everything_changes() {
    let ground = Ground::lay("storm-lost");
    let watch = ground.watch();
    let mut worker = ground.node.scene.worker.scene().unwrap();
    let mut flushes = ground.flushes();
    let flushed: usize = flushes.iter().map(Flush::len).sum();
    let start = ground.start();
    // It reads nothing until its buffer has overrun.
    ground.node.agent.signal(Signal::SIGSTOP).unwrap();
    let act = |calm: &tests::full_node::Calm| {
        (0..CHANGES / 2).for_each(|_| noise(&mut worker));
        flushes.iter_mut().for_each(|flush| _ = flush.flush().unwrap());
        let woken = Instant::now();
        ground.node.agent.signal(Signal::SIGCONT).unwrap();
        calm.wait(CALM);
        vec![Some(woken); ground.node.occupants.len()]
    };
    let (began, seen) = watch.during(act).unwrap();
    let cost = start.cost(&ground);
    cost.tell("events lost, from when the agent woke", &times(&began, &seen));
    ground.is_as_before("none");
    assert!(lost(&ground) > 0, "no event was lost: the test is none");
    assert_eq!(cost.steps, u64::try_from(flushed).unwrap());
    amid_noise(&ground, &watch);
}

/// Pods are flushed while another program does not stop changing the node.
fn amid_noise(ground: &Ground, watch: &tests::full_node::Watch) {
    let mut flushes = ground.flushes();
    let flushed: usize = flushes.iter().map(Flush::len).sum();
    let (start, before) = (ground.start(), lost(ground));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let act = |calm: &tests::full_node::Calm| {
        std::thread::scope(|scope| {
            let noisy = scope.spawn(|| {
                let mut worker = ground.node.scene.worker.scene().unwrap();
                let (started, mut count) = (Instant::now(), 0);
                while started.elapsed() < NOISE && !is_over.load(std::sync::atomic::Ordering::Acquire) {
                    noise(&mut worker);
                    count += 2;
                }
                count
            });
            let began: Vec<Option<Instant>> = flushes.iter_mut().map(|flush| Some(flush.flush().unwrap())).collect();
            let count = noisy.join().unwrap();
            calm.wait(CALM);
            (began, count)
        })
    };
    let ((began, count), seen) = watch.during(act).unwrap();
    let cost = start.cost(ground);
    let lost = lost(ground) - before;
    cost.tell(&format!("amid {count} changes in {NOISE:?}, {lost} times events were lost"), &times(&began, &seen));
    ground.is_as_before("none");
    assert_eq!(cost.steps, u64::try_from(flushed).unwrap());
}

/// A route of another program comes and goes: two events.
fn noise(worker: &mut Scene) {
    let route = Route {
        table: 4242,
        dst: "192.0.2.0/24".parse().unwrap(),
        metric: 0,
        dev: Some(UPLINK.into()),
        gateway: None,
        src: None,
        scope: plan::object::Scope::LINK,
        onlink: false,
        kind: RouteKind::Unicast,
        protocol: 4,
    };
    worker.add_route(&route).unwrap();
    worker.delete_route(&route).unwrap();
}

/// How often the agent has said that events were lost.
fn lost(ground: &Ground) -> usize {
    fs::read_to_string(&ground.node.agent.settings().log).unwrap().matches("events were lost").count()
}
