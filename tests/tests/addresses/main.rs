//! Addresses: in order, never twice, all of them back, and a clear word when there are none.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod agent_api;
mod exhaustion;
mod ipam;
mod later;
mod nics;
#[path = "../node/mod.rs"]
mod node;
mod spread;

fn main() {
    node::run(|| {
        let trials = [agent_api::trials(), exhaustion::trials(), later::trials(), nics::trials(), spread::trials()];
        trials.into_iter().flatten().collect()
    });
}
