//! A node with 250 pods on which something happens to all of them at once. What is dragline's is back afterwards, with not a
//! step more than that takes, and what is somebody else's is as it was; how long it took is printed, and judged nowhere.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod contested;
mod flushed;
mod ground;
mod lost;
mod node;
mod pieces;
mod uplink;

use libtest_mimic::{Arguments, Failed, Trial};
use tests::binaries::Binaries;

fn main() {
    let mut arguments = Arguments::from_args();
    // Each has the machine for itself.
    arguments.test_threads = Some(1);
    Binaries::build().unwrap();
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        eprintln!("these tests need a network namespace of their own: {error}");
        std::process::exit(1);
    }
    let trials = vec![
        trial("rules_of_all_pods_are_flushed", flushed::everywhere),
        trial("many_pods_are_damaged_in_many_ways", pieces::at_once),
        trial("the_uplink_flaps", uplink::flaps),
        trial("everything_of_ours_is_taken_from_the_node", node::cleared),
        trial("a_fight_over_one_pod_delays_no_other", contested::one_of_many),
        trial("lost_events_are_made_up_for", lost::while_everything_changes),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test by name; a panic is a failure.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || std::panic::catch_unwind(test).map_err(|panic| Failed::from(text_of(&*panic))))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}
