//! One durable commit against the floor of any durable write, and many writers at once.
//!
//! `cargo bench -p store --bench commit`; run on the disk that the state directory will be on (TMPDIR chooses it).

#![allow(missing_docs, reason = "criterion_group writes an undocumented function")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something it needs is missing")]

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use store::{Counters, Store};

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/store/sample.rs"]
mod sample;

fn raw_append(group: &mut BenchmarkGroup<'_, WallTime>) {
    let dir = tempfile::tempdir().unwrap();
    let mut file = File::create(dir.path().join("log")).unwrap();
    let record = [7; 1024];
    group.bench_function("floor: append of 1 KiB + fdatasync", |bench| {
        bench.iter(|| file.write_all(&record).and_then(|()| file.sync_data()).unwrap());
    });
}

fn writers(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, store: &Store, number: u32) {
    let next = AtomicU32::new(number * 1_000_000);
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

/// What one caller sees, one commit at a time, in the same minutes as the floor.
fn percentiles() {
    let dir = tempfile::tempdir().unwrap();
    let store = sample::open(&dir.path().join("store"));
    let mut file = File::create(dir.path().join("log")).unwrap();
    let record = [7; 1024];
    let (mut floors, mut commits) = (Vec::new(), Vec::new());
    // In turns, so that whatever else the disk does hits both.
    for number in 0..2000 {
        let begun = Instant::now();
        file.write_all(&record).and_then(|()| file.sync_data()).unwrap();
        floors.push(begun.elapsed());
        let change = sample::put(number);
        let begun = Instant::now();
        store.commit(change).unwrap();
        commits.push(begun.elapsed());
    }
    for (name, mut times) in [("append of 1 KiB + fdatasync", floors), ("durable commit, alone", commits)] {
        times.sort();
        eprintln!("{name}: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    }
    let bytes = Counters::read(&store.counters().bytes);
    drop(store);
    let begun = Instant::now();
    let records = sample::open(&dir.path().join("store")).load().unwrap().attachments.len();
    eprintln!("open, load and close {records} attachments of {bytes} bytes in all: {:?}", begun.elapsed());
}

fn commit(criterion: &mut Criterion) {
    percentiles();
    let dir = tempfile::tempdir().unwrap();
    let store = sample::open(&dir.path().join("store"));
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(15).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    raw_append(&mut group);
    writers(&mut group, "1 writer", &store, 1);
    writers(&mut group, "64 writers", &store, 64);
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
