//! Power cuts: whatever a crash may leave on the disk, the store opens and holds every acknowledged change.
//!
//! A writer's system calls are recorded with strace; a simulated disk replays them, and at many instants a state that a
//! power cut may leave there is made real, opened and checked. Nothing here knows which files the store keeps.
//!
//! - `DRAGLINE_POWER_CUTS=20000` tries so many distinct states instead of 2,000.
//! - `DRAGLINE_POWER_CUT_SEED=n` chooses others than the usual ones.
//! - `DRAGLINE_POWER_CUT_GARBAGE=0` keeps pages that were being written from coming back as garbage all over.
//! - `DRAGLINE_POWER_CUT_LONG=n` sets the changes of the long life before an opening.
//! - `DRAGLINE_POWER_CUT_KEEP=dir` keeps failing states.
//!
//! Everything else in the environment reaches the writer and the processes that open the states; see
//! [`record::ENVIRONMENT`].

mod check;
mod content;
mod disk;
mod kernel;
mod model_tests;
mod random;
mod record;
mod replay;
mod states;
mod trace;
mod writer;

use std::time::Instant;

use check::Findings;
use record::{Recording, record};
use replay::{Options, Syncs, replay};
use writer::End;

/// Not a test: the process that is recorded.
#[test]
#[ignore = "the child process that is recorded"]
fn writer() {
    writer::live();
}

/// Not a test: the process that opens the states.
#[test]
#[ignore = "the child process that opens states"]
fn checker() {
    check::answer();
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

fn seed() -> u64 {
    number("DRAGLINE_POWER_CUT_SEED", 1)
}

/// Creation interrupted twice, then lives of all kinds, `scale` times as long as the shortest useful ones.
fn lives(scale: u64) -> Vec<(u64, End)> {
    let killed = |call, number| End::Killed { call, number };
    vec![
        (0, killed("fsync", 2)),
        (0, killed("rename", 1)),
        (3, End::Close),
        (12 * scale, End::LeaveAtWork),
        (0, killed("rename", 1)),
        (12 * scale, End::Leave),
        (12 * scale, End::Close),
        (0, killed("fsync", 2)),
        (0, End::Leave),
        (16 * scale, End::LeaveAtWork),
        (0, End::Close),
        (12 * scale, End::LeaveAtWork),
        (6, End::Close),
    ]
}

fn report(what: &str, recording: &Recording, findings: &Findings, begun: Instant) {
    eprintln!(
        "{what}: {} distinct states in {} openings, of {} changes, {} acknowledged; {} lost, {} failed, {} panics; {:.1?}",
        findings.states,
        findings.checks,
        recording.effects.len(),
        recording.acknowledged,
        findings.lost,
        findings.failed,
        findings.panics,
        begun.elapsed()
    );
}

#[test]
fn no_power_cut_loses_what_was_acknowledged() {
    let wanted = number("DRAGLINE_POWER_CUTS", 2000);
    let begun = Instant::now();
    let recording = record(seed(), &lives((wanted / 500).clamp(4, 20)));
    eprintln!("recorded in {:.1?}", begun.elapsed());
    let page_garbage = number("DRAGLINE_POWER_CUT_GARBAGE", 1) != 0;
    let options = Options { wanted, page_garbage, syncs: Syncs::All, life: None };
    let findings = replay(&recording, &options);
    report("power cuts", &recording, &findings, begun);
    assert!(findings.is_clean(), "seed {}: {}", seed(), findings.examples.join("\n"));
    assert_eq!(findings.states, wanted, "there are not so many distinct states");
}

/// By then sled has freed segments; at the next opening it zeroes them before the rename of the snapshot that frees them is
/// durable. A sled that was open when the machine went down is therefore not opened again.
const LONG_LIFE: u64 = 5000;

#[test]
fn no_power_cut_while_opening_after_a_long_life_loses_anything() {
    let begun = Instant::now();
    let lives = [(3, End::Close), (number("DRAGLINE_POWER_CUT_LONG", LONG_LIFE), End::Leave), (1, End::Close)];
    let recording = record(seed(), &lives);
    let page_garbage = number("DRAGLINE_POWER_CUT_GARBAGE", 1) != 0;
    let options = Options { wanted: 150, page_garbage, syncs: Syncs::All, life: Some(lives.len() as u64) };
    let findings = replay(&recording, &options);
    report("opening after a long life", &recording, &findings, begun);
    assert!(findings.is_clean(), "seed {}: {}", seed(), findings.examples.join("\n"));
    assert_eq!(findings.states, options.wanted, "there are not so many distinct states");
}

#[test]
fn syncs_that_lack_are_seen() {
    let recording = record(seed(), &lives(1));
    for syncs in [Syncs::None, Syncs::NoneBetweenCommits, Syncs::NoneOfDirectories] {
        let begun = Instant::now();
        let findings = replay(&recording, &Options { wanted: 150, page_garbage: false, syncs, life: None });
        report(&format!("syncs {syncs:?}"), &recording, &findings, begun);
        assert!(findings.lost > 0, "seed {}, syncs {syncs:?}: nothing is lost without them", seed());
    }
}
