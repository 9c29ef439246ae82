//! The CNI specification as a runtime sees it: every verb of every version, with our main plugin and with the reference
//! one, and nothing left behind however an attachment ends.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

mod chain;
mod endings;
mod nics;
#[path = "../node/mod.rs"]
mod node;
mod shape;
mod verbs;

fn main() {
    node::run(|| [chain::trials(), endings::trials(), nics::trials(), verbs::trials()].into_iter().flatten().collect());
}
