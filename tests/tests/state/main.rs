//! The store's commands, and what the agent makes of a store that was damaged: real processes, files and namespaces.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod bench;
mod checking;
mod damage;
mod dump;
mod dumping;
mod full_disk;
mod history;
mod killed;
mod merging;
#[path = "../node/mod.rs"]
mod node;
mod numbers;
mod refusals;
mod ruin;

fn main() {
    node::run(|| {
        let trials = [
            damage::trials(),
            dumping::trials(),
            refusals::trials(),
            killed::trials(),
            history::trials(),
            merging::trials(),
            checking::trials(),
            full_disk::trials(),
            numbers::trials(),
        ];
        trials.into_iter().flatten().collect()
    });
}
