//! Another program that changes things back each time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use plan::object::Rule;
use plan::tables::{FIRST_PRIORITY, NODE_PRIORITY, PROTOCOL};
use tests::stage::{MainPlugin, Stage};
use tests::witness::{Witness, first_changes};

use crate::PATIENCE;

/// Until a fight is seen as one; well above what it takes.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
/// How long the pace is measured, and the repairs that are few in that time: unhindered there are hundreds.
const MEASURED: Duration = Duration::from_secs(4);
const FEW: u64 = 6;
/// A repair sets about it so many times before it gives up.
const ROUNDS: u64 = 3;
/// The slowest pace by then is far below this.
const BACK_WITHIN: Duration = Duration::from_secs(45);

/// Deletes the rule of ours at that priority whenever it is there; how often.
fn fight(netns: &Netns, priority: u32, is_over: &AtomicBool, deleted: &AtomicU64) {
    let mut scene = netns.scene().unwrap();
    let mut witness = [Witness::open(netns).unwrap()];
    while !is_over.load(Ordering::Acquire) {
        let is_it = |rule: &&Rule| rule.priority == priority && rule.protocol == PROTOCOL;
        let found = scene.observe().unwrap().rules.iter().find(is_it).cloned();
        if found.is_some_and(|rule| scene.delete_rule(&rule).is_ok()) {
            deleted.fetch_add(1, Ordering::AcqRel);
        }
        // Looks after every event, and now and then whether it is over.
        first_changes(&mut witness, Duration::from_millis(50)).unwrap();
    }
}

/// Runs `inside` while the fight goes on.
fn during_fight(netns: &Netns, priority: u32, inside: impl FnOnce(&AtomicU64)) {
    let (is_over, deleted) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| fight(netns, priority, &is_over, &deleted));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| inside(&deleted)));
        is_over.store(true, Ordering::Release);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits until the agent counts at least so many slowed-down repairs.
fn until_noticed(stage: &Stage, count: u64) {
    let started = Instant::now();
    while stage.metric("contested_repairs").unwrap() < count {
        assert!(started.elapsed() < NOTICED_WITHIN, "the fight is not noticed");
        // A number of the agent has no event.
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many deletions there are in the measured time.
fn pace(deleted: &AtomicU64) -> u64 {
    let before = deleted.load(Ordering::Acquire);
    // The time itself is what is measured.
    thread::sleep(MEASURED);
    deleted.load(Ordering::Acquire) - before
}

pub(crate) fn in_a_pod() {
    let stage = Stage::set("fight-pod", MainPlugin::Own).unwrap();
    let (contested, other) = (stage.join(1).unwrap(), stage.join(2).unwrap());
    let mut witness = Witness::open(&contested.pod.netns).unwrap();
    let wanted = witness.picture().unwrap();
    during_fight(&contested.pod.netns, FIRST_PRIORITY, |deleted| {
        until_noticed(&stage, 2);
        let repairs = stage.metric("repairs").unwrap();
        let paced = pace(deleted);
        let paced_repairs = stage.metric("repairs").unwrap() - repairs;
        println!("in a fight: {paced} deletions and {paced_repairs} repairs in {MEASURED:?}");
        assert!(
            paced <= FEW * ROUNDS && paced_repairs <= FEW,
            "{paced} deletions, {paced_repairs} repairs in {MEASURED:?}"
        );
        let status = stage.agent.ask(&["status"]).unwrap();
        assert!(status.contains(&contested.attachment.container), "no warning names the sandbox: {status}");
        assert!(!status.contains(&other.attachment.container), "{status}");
        repaired_at_once(&other.pod.netns);
    });
    let started = Instant::now();
    witness.until_like(&wanted, BACK_WITHIN).unwrap();
    println!("after the fight: the rule is back after {:?}", started.elapsed());
    stage.check().unwrap();
}

/// A rule of the other pod comes back as fast as ever.
fn repaired_at_once(netns: &Netns) {
    let mut witness = Witness::open(netns).unwrap();
    let wanted = witness.picture().unwrap();
    let mut scene = netns.scene().unwrap();
    let rules = scene.observe().unwrap().rules;
    let started = Instant::now();
    scene.delete_rule(rules.iter().find(|rule| rule.protocol == PROTOCOL).unwrap()).unwrap();
    witness.until_like(&wanted, Duration::from_secs(2)).unwrap();
    println!("meanwhile another pod is repaired after {:?}", started.elapsed());
}

pub(crate) fn on_the_node() {
    let stage = Stage::set("fight-node", MainPlugin::Own).unwrap();
    let member = stage.join(1).unwrap();
    let mut witness = Witness::open(stage.node()).unwrap();
    let wanted = witness.picture().unwrap();
    during_fight(stage.node(), NODE_PRIORITY, |deleted| {
        until_noticed(&stage, 2);
        let paced = pace(deleted);
        println!("in a fight over the node: {paced} deletions in {MEASURED:?}");
        assert!(paced <= FEW * ROUNDS, "{paced} deletions in {MEASURED:?}");
        let status = stage.agent.ask(&["status"]).unwrap();
        assert!(status.contains("node"), "no warning names the node: {status}");
        repaired_at_once(&member.pod.netns);
    });
    let started = Instant::now();
    witness.until_like(&wanted, BACK_WITHIN).unwrap();
    println!("after the fight: the node's rule is back after {:?}", started.elapsed());
    witness.until_like(&wanted, PATIENCE).unwrap();
    stage.check().unwrap();
}
