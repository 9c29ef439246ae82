//! One pod after another, of every mix of modes, families and NICs: what its tables are, which way its packets go, and
//! that nothing is left of it.
//!
//! `golden/CASE.txt` is what `ip` and `nft` would show; `UPDATE=1 cargo test -p tests --test paths` rewrites the files.
//! Which way packets are to go is worked out from the case alone, without the planner.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod case;
mod cases;
mod lane;
mod run;
mod tables;
mod ways;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use tests::binaries::Binaries;

use crate::lane::Lanes;

fn main() {
    let mut arguments = Arguments::from_args();
    Binaries::build().unwrap();
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        eprintln!("these tests need a network namespace of their own: {error}");
        std::process::exit(1);
    }
    let at_once = arguments.test_threads.unwrap_or(2).clamp(1, 4);
    arguments.test_threads = Some(at_once);
    let all = cases::all();
    let lanes = Arc::new(Lanes::of(&all));
    let names: std::collections::BTreeSet<&str> = all.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), all.len(), "two cases of one name");
    let trials = all.into_iter().map(|case| {
        let lanes = Arc::clone(&lanes);
        Trial::test(case.name, move || {
            let played = panic::catch_unwind(AssertUnwindSafe(|| lanes.with(|lane| run::play(lane, &case))));
            played.map_err(|panic| Failed::from(text_of(&*panic)))
        })
    });
    let concluded = libtest_mimic::run(&arguments, trials.collect());
    drop(lanes);
    concluded.exit();
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}
