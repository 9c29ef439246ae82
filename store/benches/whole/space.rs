//! Space: what a store takes on disk while intents come and go, and only a few are there at a time.

use std::path::Path;
use std::time::Instant;

use store::{Counters, Limits, Store};

use crate::measure::footprint::on_disk;
use crate::measure::{self, Kind, Step, ours, sample, table};

/// Intents that are there at a time.
const LIVE: u32 = 200;
const SAMPLES: u32 = 20;

/// Who writes, and how many pairs of steps at a time.
const RUNS: [(Kind, u32); 4] = [(Kind::Ours, 32), (Kind::Ours, 1), (Kind::Redb, 32), (Kind::SqliteShared, 32)];

/// Bytes on disk after each stretch of pairs: all of it, and of ours sled and the journal.
fn churn(kind: Kind, dir: &Path, pairs: u32, together: u32) -> Vec<[u64; 3]> {
    let subject = kind.open(dir);
    measure::fill(&*subject, LIVE);
    let mut writer = subject.writer();
    let mut samples = Vec::new();
    let stretch = pairs / SAMPLES;
    for first in (LIVE..).step_by(stretch as usize).take(SAMPLES as usize) {
        for first in (first..first + stretch).step_by(together as usize) {
            let steps: Vec<_> =
                (first..first + together).flat_map(|number| [Step::Put(number), Step::Delete(number - LIVE)]).collect();
            // One at a time is a put, then a delete, each durable before the next.
            steps.chunks(if together == 1 { 1 } else { steps.len() }).for_each(|steps| writer.apply(steps));
        }
        samples.push([
            on_disk(dir),
            on_disk(&dir.join(ours::NAME)),
            on_disk(&dir.join(format!("{}.journal", ours::NAME))),
        ]);
    }
    drop(writer);
    drop(subject);
    samples.push([on_disk(dir), on_disk(&dir.join(ours::NAME)), on_disk(&dir.join(format!("{}.journal", ours::NAME)))]);
    samples
}

/// How long commits wait while sled is written anew, and while snapshots replace logs.
fn pauses() {
    const RECORDS: u32 = 30_000;
    let home = tempfile::tempdir().unwrap();
    let limits = Limits { log_bytes: 16 << 20, sled_bytes: 8 << 20 };
    let store = Store::open_with(&home.path().join(ours::NAME), sample::NODE, sample::BOOT, limits).unwrap();
    let subject = ours::Ours(store);
    measure::fill(&subject, RECORDS / 3);
    let counters = subject.0.counters().clone();
    let done = || [&counters.compactions, &counters.snapshots].map(Counters::read);
    let before = done();
    let mut took = Vec::new();
    for number in 0_u32..600_000 {
        // Every record in turn, so that sled's pages grow old.
        let change = sample::delete(number / 2 % (RECORDS / 3));
        let change = if number.is_multiple_of(2) { change } else { sample::put(number / 2 % (RECORDS / 3)) };
        let begun = Instant::now();
        subject.0.commit(change).unwrap();
        took.push(begun.elapsed().as_secs_f64());
        if done()[0] >= before[0] + 3 {
            break;
        }
    }
    let after = done();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| table::ms(took[((took.len() - 1) as f64 * share) as usize]);
    println!(
        "\n- sled of {RECORDS} records was written anew {} times and {} snapshots replaced logs while one writer made {} \
         commits: p50 {}, p99 {}, longest {} (aim: no pause beyond 50 ms)",
        after[0] - before[0],
        after[1] - before[1],
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

pub(crate) fn run(large: bool) {
    pauses();
    let pairs: u32 = if large { 1_000_000 } else { 50_000 };
    // A multiple of what is done at a time, so that every store does the same.
    let pairs = pairs.next_multiple_of(SAMPLES * 32);
    let live = (LIVE as usize * measure::bytes(LIVE)) as f64;
    let mut all = Vec::new();
    for (kind, together) in RUNS {
        let home = tempfile::tempdir().unwrap();
        let begun = std::time::Instant::now();
        all.push(churn(kind, home.path(), pairs, together));
        eprintln!(
            "{}, {together} at a time: {:.0} pairs/s",
            kind.name(),
            f64::from(pairs) / begun.elapsed().as_secs_f64()
        );
    }
    let head = [
        "pairs",
        "ours: sled",
        "journal",
        "total / live",
        "ours, one at a time: sled",
        "journal",
        "total / live",
        "redb",
        "total / live",
        "SQLite",
        "total / live",
        "ours / redb",
        "ours / SQLite",
    ];
    let rows: Vec<_> = (0..=SAMPLES as usize)
        .map(|sample| {
            let [together, alone, redb, sqlite] =
                [0, 1, 2, 3].map(|run: usize| all[run][sample].map(|bytes| bytes as f64));
            let per_live = |bytes: f64| format!("{:.0}", bytes / live);
            let after = (sample as u32 + 1) * (pairs / SAMPLES);
            [
                if sample == SAMPLES as usize { "closed".to_owned() } else { after.to_string() },
                table::mib(together[1]),
                table::mib(together[2]),
                per_live(together[0]),
                table::mib(alone[1]),
                table::mib(alone[2]),
                per_live(alone[0]),
                table::mib(redb[0]),
                per_live(redb[0]),
                table::mib(sqlite[0]),
                per_live(sqlite[0]),
                table::ratio(together[0] / redb[0]),
                table::ratio(together[0] / sqlite[0]),
            ]
        })
        .collect();
    table::print(
        &format!("Space under churn: {LIVE} intents of {:.0} KiB in all are there at a time", live / 1024.0),
        head,
        &rows,
    );
}
