//! Links as intent: the kinds that we make and those that other plugins make, used on the wire, kept for life, and gone
//! after DEL.
//!
//! What this machine's kernel has no module for is shown as ignored; `cargo verify` runs these trials in a virtual machine
//! whose kernel has them.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod bench;
mod foreign;
mod ifacer;
mod ipvlan;
mod macvlan;
#[path = "../node/mod.rs"]
mod node;
mod prefix;
mod wire;

fn main() {
    node::run(|| {
        [foreign::trials(), ifacer::trials(), ipvlan::trials(), macvlan::trials(), prefix::trials()]
            .into_iter()
            .flatten()
            .collect()
    });
}
