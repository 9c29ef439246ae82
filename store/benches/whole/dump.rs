//! How fast a store is dumped and restored, against writing the same bytes durably, and how long commits wait meanwhile.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime};

use store::Store;
use store::restore::{RestoreOptions, restore};

use crate::measure::ours::Ours;
use crate::measure::{self, sample, table};

const REPEATS: usize = 5;

/// How long commits took, one after another, while something else went on.
struct Waited(Vec<Duration>);

impl Waited {
    fn at(&mut self, percent: usize) -> f64 {
        self.0.sort();
        self.0[(self.0.len() - 1) * percent / 100].as_secs_f64()
    }
}

/// Commits until `work` has ended.
fn committing<T: Send>(store: &Store, work: impl FnOnce() -> T + Send) -> (T, Waited) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let result = work();
            ended.store(true, SeqCst);
            result
        });
        let mut waited = Vec::new();
        for number in 0_u32.. {
            if ended.load(SeqCst) {
                break;
            }
            // Each change changes something: what is there already would not be written.
            let sandbox = 10_000_000 + number / 2 % 100;
            let change = if number.is_multiple_of(2) { sample::put(sandbox) } else { sample::delete(sandbox) };
            let begun = Instant::now();
            store.commit(change).unwrap();
            waited.push(begun.elapsed());
        }
        (working.join().unwrap(), Waited(waited))
    })
}

fn floor(path: &Path, bytes: &[u8]) -> f64 {
    let begun = Instant::now();
    let mut file = File::create(path).unwrap();
    bytes.chunks(1 << 20).try_for_each(|chunk| file.write_all(chunk)).unwrap();
    file.sync_all().unwrap();
    begun.elapsed().as_secs_f64()
}

pub(crate) fn run(large: bool) {
    let sizes: &[u32] = if large { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000] };
    let mut rows = Vec::new();
    for &attachments in sizes {
        let home = tempfile::tempdir().unwrap();
        let ours = Ours::open(home.path());
        measure::fill(&ours, attachments);
        let (mut dumps, mut restores, mut floors, mut waits, mut alone) = (vec![], vec![], vec![], vec![], vec![]);
        let mut text = Vec::new();
        for _ in 0..REPEATS {
            let (seconds, mut waited) = committing(&ours.0, || {
                let begun = Instant::now();
                text.clear();
                ours.0.dump(SystemTime::now(), &mut text).unwrap();
                begun.elapsed().as_secs_f64()
            });
            dumps.push(seconds);
            waits.push((waited.at(99), waited.at(100)));
            let pause = Duration::from_secs_f64(seconds);
            let (_, mut waited) = committing(&ours.0, || std::thread::sleep(pause));
            alone.push((waited.at(99), waited.at(100)));
            floors.push(floor(&home.path().join("floor"), &text));
            let begun = Instant::now();
            let options = RestoreOptions { node: sample::NODE.into(), ..RestoreOptions::default() };
            restore(&home.path().join("restored/store"), BufReader::new(text.as_slice()), &options, |_| {}).unwrap();
            restores.push(begun.elapsed().as_secs_f64());
        }
        let records = f64::from(3 * attachments);
        let rate = |seconds: &[f64]| format!("{:.0}/s", records / table::median(seconds.to_vec()));
        let floor = table::median(floors.clone());
        let ms = |times: &[(f64, f64)]| {
            let [p99, longest] = [0, 1].map(|which| times.iter().map(move |it| if which == 0 { it.0 } else { it.1 }));
            format!("{} / {}", table::ms(table::median(p99.collect())), table::ms(longest.fold(0.0, f64::max)))
        };
        rows.push([
            attachments.to_string(),
            table::mib(text.len() as f64),
            rate(&dumps),
            rate(&restores),
            table::ratio(table::median(dumps.clone()) / floor),
            table::ratio(table::median(restores.clone()) / floor),
            ms(&waits),
            ms(&alone),
        ]);
    }
    let head = [
        "attachments",
        "text",
        "records dumped",
        "records restored",
        "dump / floor",
        "restore / floor",
        "commits meanwhile: p99 / longest",
        "commits alone: p99 / longest",
    ];
    table::print(
        "Dump and restore (floor: the text written and synced; aim: no commit waits 10 ms longer)",
        head,
        &rows,
    );
}
