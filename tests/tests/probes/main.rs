//! Addresses that others use are not given, and gateways that are away are told: probes of ADD, on the wire.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod background;
mod bed;
mod conflicts;
mod gateways;
mod latency;
#[path = "../node/mod.rs"]
mod node;
mod stateful;
mod switches;

fn main() {
    node::run(|| {
        let trials = [
            conflicts::trials(),
            stateful::trials(),
            gateways::trials(),
            background::trials(),
            switches::trials(),
            latency::trials(),
        ];
        trials.into_iter().flatten().collect()
    });
}
