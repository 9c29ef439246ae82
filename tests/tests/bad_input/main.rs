//! Bad input from every side: an exact answer, nothing lost, and an agent that lives.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod combinations;
mod coordination;
mod manifests;
#[path = "../node/mod.rs"]
mod node;
mod plugin;
mod socket;
mod spool;
mod start;
mod witness;

fn main() {
    node::run(|| {
        let trials = [
            plugin::trials(),
            socket::trials(),
            manifests::trials(),
            combinations::trials(),
            coordination::trials(),
            spool::trials(),
            start::trials(),
        ];
        trials.into_iter().flatten().collect()
    });
}
