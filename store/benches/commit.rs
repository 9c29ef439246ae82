//! One durable commit, alone and among many writers, against the floor of any durable write and against other stores.
//!
//! `cargo bench -p store --bench commit`; run on the disk that the state directory will be on (TMPDIR chooses it).
//! First the comparison, in short turns, so that whatever else the machine does hits all; then criterion, which
//! remembers what it measured before; an argument (`-- "64 writers"`) leaves the comparison out.

#![allow(missing_docs, reason = "criterion_group writes an undocumented function")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something it needs is missing")]

#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod measure;

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use measure::{Kind, Step, Subject, sample, table};
use store::{Counters, Store};

const KINDS: [Kind; 6] = [Kind::Ours, Kind::Append, Kind::Overwrite, Kind::Redb, Kind::Sqlite, Kind::SqliteShared];
/// Above so many writers SQLite's connections starve each other for seconds; one connection behind a lock is faster
/// then.
const MOST_CONNECTIONS: usize = 8;
const WRITERS: [usize; 4] = [1, 8, 64, 256];
const ROUNDS: usize = 12;
/// How long a store's turn is.
const TURN: Duration = Duration::from_millis(250);
/// What one store does behind its commits is over after this, before the next one's turn.
const PAUSE: Duration = Duration::from_millis(100);

/// What was seen of one store in one turn.
struct Turn {
    /// Seconds of each commit.
    times: Vec<f64>,
    p50: f64,
    rate: f64,
}

fn turn(subject: &dyn Subject, writers: usize, next: &AtomicU32) -> Turn {
    let barrier = Barrier::new(writers + 1);
    let (times, elapsed) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|_| {
                scope.spawn(|| {
                    let mut writer = subject.writer();
                    let mut times = Vec::new();
                    barrier.wait();
                    let begun = Instant::now();
                    while begun.elapsed() < TURN {
                        let number = next.fetch_add(1, Relaxed);
                        let asked = Instant::now();
                        writer.apply(&[Step::Put(number)]);
                        times.push(asked.elapsed());
                    }
                    times
                })
            })
            .collect();
        barrier.wait();
        let begun = Instant::now();
        let times: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (table::seconds(&times), begun.elapsed())
    });
    let (p50, rate) = (table::median(times.clone()), times.len() as f64 / elapsed.as_secs_f64());
    Turn { times, p50, rate }
}

/// All stores with some number of writers; each one's turns, in the order of [`KINDS`], none where it is left out.
fn compare(writers: usize) -> Vec<Vec<Turn>> {
    let dirs = KINDS.map(|_| tempfile::tempdir().unwrap());
    let subjects: Vec<_> =
        KINDS.iter().zip(&dirs).map(|(kind, dir)| (kind.open(dir.path()), AtomicU32::new(0))).collect();
    let mut turns: Vec<Vec<Turn>> = KINDS.map(|_| Vec::new()).into();
    for round in 0..ROUNDS {
        for place in 0..KINDS.len() {
            let which = (round + place) % KINDS.len();
            if KINDS[which] == Kind::Sqlite && writers > MOST_CONNECTIONS {
                continue;
            }
            let (subject, next) = &subjects[which];
            turns[which].push(turn(&**subject, writers, next));
            std::thread::sleep(PAUSE);
        }
    }
    turns
}

/// The middle of what the turns of two stores say, each compared with the other's of the same round.
fn against(ours: &[Turn], other: &[Turn], of: impl Fn(&Turn) -> f64) -> f64 {
    table::median(ours.iter().zip(other).map(|(ours, other)| of(ours) / of(other)).collect())
}

fn comparison() {
    let mut rows = Vec::new();
    let mut first: Option<Vec<f64>> = None;
    let mut aims = Vec::new();
    for writers in WRITERS {
        let all = compare(writers);
        let rates: Vec<f64> =
            all.iter().map(|turns| table::median(turns.iter().map(|turn| turn.rate).collect())).collect();
        for ((kind, turns), rate) in KINDS.iter().zip(&all).zip(&rates).filter(|((_, turns), _)| !turns.is_empty()) {
            let mut times: Vec<f64> = turns.iter().flat_map(|turn| &turn.times).copied().collect();
            rows.push([
                writers.to_string(),
                kind.name().to_owned(),
                table::ms(table::quantile(&mut times, 0.5)),
                table::ms(table::quantile(&mut times, 0.99)),
                format!("{rate:.0}"),
                table::ratio(against(&all[0], turns, |turn| turn.p50)),
                table::ratio(against(&all[0], turns, |turn| turn.rate)),
            ]);
        }
        if writers == 1 {
            let p50 = against(&all[0], &all[1], |turn| turn.p50);
            aims.push(format!("one durable commit: p50 {} of the floor (a) (aim: at most 1.5)", table::ratio(p50)));
        }
        let first = first.get_or_insert_with(|| rates.clone());
        let scaled: Vec<_> = KINDS
            .iter()
            .zip(&rates)
            .zip(first)
            .filter(|((_, rate), _)| **rate > 0.0)
            .map(|((kind, rate), first)| format!("{} {:.1}", kind.name(), rate / *first))
            .collect();
        if writers == 64 {
            aims.push(format!("64 writers over one: {} (aim for ours: at least 20)", scaled.join("; ")));
        }
    }
    let head = ["writers", "store", "p50", "p99", "commits/s", "our p50 / its p50", "our commits/s / its commits/s"];
    table::print(&format!("Durable commits of {} bytes", measure::bytes(0)), head, &rows);
    println!();
    aims.iter().for_each(|aim| println!("- {aim}"));
    // On a busy machine a lone writer waits for a core longer than for the disk, and the ratios say nothing.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("- load of the machine at the end: {}", load.trim());
}

fn writers(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, store: &Store, number: u32) {
    let next = AtomicU32::new(number * 100_000);
    let (mut changes, mut syncs) = (0, 0);
    group.throughput(Throughput::Elements(1));
    group.bench_function(name, |bench| {
        bench.iter_custom(|wanted| {
            let each = wanted.div_ceil(u64::from(number));
            let before = Counters::read(&store.counters().syncs);
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..number {
                    scope.spawn(|| {
                        for _ in 0..each {
                            store.commit(sample::put(next.fetch_add(1, Relaxed))).unwrap();
                        }
                    });
                }
            });
            let elapsed = begun.elapsed();
            let done = each * u64::from(number);
            changes += done;
            syncs += Counters::read(&store.counters().syncs) - before;
            Duration::from_secs_f64(elapsed.as_secs_f64() * wanted as f64 / done as f64)
        });
    });
    eprintln!("{name}: {:.1} changes for each sync", changes as f64 / syncs.max(1) as f64);
}

fn commit(criterion: &mut Criterion) {
    // With arguments it is criterion alone that is asked for.
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        comparison();
    }
    let dir = tempfile::tempdir().unwrap();
    let store = sample::open(&dir.path().join("store"));
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(15).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    writers(&mut group, "1 writer", &store, 1);
    writers(&mut group, "64 writers", &store, 64);
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
