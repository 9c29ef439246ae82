//! Against the real kernel, in a world of its own: works as root and as an ordinary user.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod announcing;
mod applying;
mod detecting;
mod explaining;
mod fixture;
mod identity;
#[path = "../../../plan/tests/kernel/mod.rs"]
mod kernel;
mod links;
mod marking;
mod observing;
mod probing;
mod watching;
#[path = "../../../plan/tests/world/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod world;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        eprintln!("these tests need a network namespace of their own: {error}");
        std::process::exit(1);
    }
    let trials = [
        observing::trials(),
        announcing::trials(),
        applying::trials(),
        links::trials(),
        marking::trials(),
        identity::trials(),
        watching::trials(),
        probing::trials(),
        detecting::trials(),
        explaining::trials(),
    ];
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
