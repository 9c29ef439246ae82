//! kill -9 of the agent at any moment, under ADD/DEL traffic and while it starts: whatever was acknowledged stands.
//!
//! `DRAGLINE_KILLS` says how many kills (200), `DRAGLINE_SEED` repeats a run's choices.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod bench;
mod book;
mod dice;
mod judge;
mod lane;
mod sabotage;
mod storm;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    if let Err(error) = tests::binaries::Binaries::build() {
        eprintln!("there is nothing to test: {error}");
        std::process::exit(1);
    }
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        eprintln!("these tests need a network namespace of their own: {error}");
        std::process::exit(1);
    }
    let trials = [storm::trials(), sabotage::trials()];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}

/// A test by name; a panic is a failure.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || std::panic::catch_unwind(test).map_err(|panic| Failed::from(text_of(&*panic))))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}
