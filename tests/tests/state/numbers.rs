//! The store's numbers at /metrics.

use libtest_mimic::Trial;

use crate::bench::Bench;
use crate::node::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("metrics::of_the_store", of_the_store)]
}

fn of_the_store() {
    let bench = Bench::new("n1", 1);
    let read = |name: &str| bench.metric(&format!("store_{name}"));
    let growing = ["commits", "changes", "syncs", "bytes"];
    let before = growing.map(read);
    assert!(before.iter().all(|number| *number > 0), "{growing:?}: {before:?}");
    assert_eq!(["snapshots", "compactions", "faults"].map(read), [0, 0, 0]);
    let _member = bench.attached(120);
    let after = growing.map(read);
    assert!(before.iter().zip(after).all(|(before, after)| *before < after), "{before:?} {after:?}");
    // Looking costs nothing.
    bench.dump();
    assert!(bench.dragline(&["check", "--store"]).status.success());
    bench.holders();
    let settled = growing.map(read);
    bench.dump();
    assert!(bench.dragline(&["check", "--store"]).status.success());
    assert_eq!(growing.map(read), settled);
}
