//! Another program fights over one pod while all others are flushed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use plan::object::Rule;
use plan::tables::PROTOCOL;
use tests::full_node::{Calm, Flush, Watch};
use tests::witness::{Witness, first_changes};

use crate::ground::{CALM, Cost, Ground, PATIENCE, times};

/// The first pod is fought over; the others come after it.
const CONTESTED: usize = 0;

pub(crate) fn one_of_many() {
    let ground = Ground::lay("storm-fight");
    let others = || ground.node.occupants.iter().skip(CONTESTED + 1);
    let watch = Watch::open(others().map(|occupant| occupant.netns())).unwrap();
    let (quiet, flushed) = flush(&ground, &watch, "no fight");
    assert_eq!(quiet.steps, flushed);
    let fought = &ground.node.occupants[CONTESTED];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| fight(fought.netns(), &is_over));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            flush(&ground, &watch, "a fight has begun");
            until_reported(&ground, &fought.attachment.container);
            let (fighting, flushed) = flush(&ground, &watch, "a fight is known");
            assert!(fighting.steps >= flushed, "{} steps for {flushed} rules", fighting.steps);
            // All others are whole while it goes on: `check` says so of all but the one.
            let text = ground.node.agent.ask(&["status"]).unwrap();
            assert!(text.contains(&fought.attachment.container), "no warning names the pod: {text}");
            others()
                .for_each(|occupant| assert!(!text.contains(&format!("{} ", occupant.attachment.container)), "{text}"));
        }));
        is_over.store(true, Ordering::Release);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    ground.is_as_before("none");
}

/// Flushes all others; what it cost and how many rules it were. They are whole afterwards, whatever happens to the one.
fn flush(ground: &Ground, watch: &Watch, what: &str) -> (Cost, u64) {
    let mut flushes: Vec<Flush> = ground.flushes().into_iter().skip(CONTESTED + 1).collect();
    let flushed: usize = flushes.iter().map(Flush::len).sum();
    let start = ground.start();
    let act = |calm: &Calm| {
        let began: Vec<Option<Instant>> = flushes.iter_mut().map(|flush| Some(flush.flush().unwrap())).collect();
        calm.wait(CALM);
        began
    };
    let (began, seen) = watch.during(act).unwrap();
    let cost = start.cost(ground);
    cost.tell(what, &times(&began, &seen));
    for (occupant, wanted) in ground.pods().skip(CONTESTED + 1) {
        Witness::open(occupant.netns()).unwrap().until_like(wanted, PATIENCE).unwrap();
    }
    (cost, u64::try_from(flushed).unwrap())
}

/// Deletes a rule of ours whenever there is one.
fn fight(netns: &Netns, is_over: &AtomicBool) {
    let mut scene = netns.scene().unwrap();
    let mut witness = [Witness::open(netns).unwrap()];
    while !is_over.load(Ordering::Acquire) {
        let is_ours = |rule: &&Rule| rule.protocol == PROTOCOL;
        if let Some(rule) = scene.observe().unwrap().rules.iter().find(is_ours) {
            // It may have gone meanwhile.
            let _ = scene.delete_rule(rule);
        }
        // Looks after every event, and now and then whether it is over.
        first_changes(&mut witness, Duration::from_millis(50)).unwrap();
    }
}

fn until_reported(ground: &Ground, container: &str) {
    let started = Instant::now();
    while !ground.node.agent.ask(&["status"]).unwrap().contains(container) {
        assert!(started.elapsed() < PATIENCE, "the fight is not reported");
        // A status of the agent has no event.
        thread::sleep(Duration::from_millis(20));
    }
}
