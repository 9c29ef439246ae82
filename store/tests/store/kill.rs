//! kill -9 at random instants: every acknowledged change is there, none is torn.
//!
//! The test binary runs itself as the writer. It says `try` before it asks for a change and `ok` when it has heard that
//! the change is durable, so of each number the parent knows what must be there, what must not, and what may be either.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use store::{Limits, Store};

use crate::images::{JOURNAL, LOCK, Random, STORE, scratch};
use crate::sample::*;

const DIR: &str = "DRAGLINE_TEST_WRITER_DIR";
const FIRST: &str = "DRAGLINE_TEST_WRITER_FIRST";
const WRITERS: u32 = 4;
/// Numbers per writer and round.
const SPAN: u32 = 10_000;

/// Not a test: the process that is killed.
#[test]
#[ignore = "the child process of kill_9_loses_and_tears_nothing"]
fn writer() {
    let dir = std::env::var(DIR).expect("the parent names the store");
    let first: u32 = std::env::var(FIRST).unwrap().parse().unwrap();
    // So small that logs are replaced and sled is written anew all the time.
    let limits = Limits { log_bytes: 256 << 10, sled_bytes: 4 << 20 };
    let store = Store::open_with(Path::new(&dir), NODE, BOOT, limits).unwrap();
    let say = |word: &str, verb: &str, number: u32| {
        // One write for each line: a pipe takes it whole or not at all.
        std::io::stdout().lock().write_all(format!("\n:{word} {verb} {number}\n").as_bytes()).unwrap();
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, say) = (&store, &say);
            scope.spawn(move || {
                for number in first + writer * SPAN.. {
                    say("try", "put", number);
                    store.commit(put(number)).unwrap();
                    say("ok", "put", number);
                    // Most go again, so that the store stays small and deletes are killed too.
                    if number % 4 != 0 {
                        say("try", "delete", number);
                        store.commit(delete(number)).unwrap();
                        say("ok", "delete", number);
                    }
                }
            });
        }
    });
}

/// What is known of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    There,
    Gone,
    Either,
}

fn learn(known: &mut BTreeMap<u32, Known>, line: &str) {
    let Some(line) = line.strip_prefix(':') else { return };
    let words: Vec<_> = line.split(' ').collect();
    let [word, verb, number] = words[..] else { panic!("{line:?}") };
    let state = match (word, verb) {
        ("ok", "put") => Known::There,
        ("ok", "delete") => Known::Gone,
        _ => Known::Either,
    };
    known.insert(number.parse().unwrap(), state);
}

/// When the writer dies.
enum Death {
    /// At any time, also before it has opened the store.
    After(Duration),
    /// In the middle of its work.
    AfterAcknowledged(u64),
}

/// One life of the writer; returns how many changes it was told are durable.
fn live_and_die(dir: &Path, first: u32, death: Death, known: &mut BTreeMap<u32, Known>) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::writer", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (says_acknowledged, acknowledged) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for line in stdout.lines() {
            let line = line.unwrap();
            if line.starts_with(":ok ") {
                // Nobody listens after the kill.
                let _ = says_acknowledged.send(());
            }
            lines.push(line);
        }
        lines
    });
    match death {
        // The instant is to be any; nothing is expected to have happened by then.
        Death::After(delay) => std::thread::sleep(delay),
        Death::AfterAcknowledged(number) => assert!((0..number).all(|_| acknowledged.recv().is_ok())),
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "the writer ended by itself: {status}");
    let lines = reader.join().unwrap();
    lines.iter().for_each(|line| learn(known, line));
    lines.iter().filter(|line| line.starts_with(":ok ")).count() as u64
}

/// Checks what a dead writer has left; returns whether it has left something to mend.
fn check(dir: &Path, known: &mut BTreeMap<u32, Known>) -> bool {
    let store = open(dir);
    assert_eq!(store.recovery().lost, None);
    let snapshot = store.load().unwrap();
    assert_eq!(snapshot.unreadable, []);
    let number = |container: &str| container[1..].parse::<u32>().unwrap();
    let sandboxes: BTreeSet<_> = snapshot.sandboxes.iter().map(|record| number(record.container.as_str())).collect();
    let attachments: BTreeSet<_> =
        snapshot.attachments.iter().map(|record| number(record.key.container.as_str())).collect();
    let allocations: BTreeSet<_> =
        snapshot.allocations.iter().map(|record| number(record.owner.container.as_str())).collect();
    assert_eq!(sandboxes, attachments, "a change is torn");
    assert_eq!(sandboxes, allocations, "a change is torn");
    assert!(snapshot.attachments.iter().all(|record| *record == attachment(number(record.key.container.as_str()))));
    for (number, state) in known.iter_mut() {
        match *state {
            Known::There => assert!(sandboxes.contains(number), "{number} was acknowledged and is lost"),
            Known::Gone => assert!(!sandboxes.contains(number), "{number} was deleted and is back"),
            // From now on it stays as it is.
            Known::Either => *state = if sandboxes.contains(number) { Known::There } else { Known::Gone },
        }
    }
    assert!(sandboxes.iter().all(|number| known.contains_key(number)), "nobody has put that");
    !store.recovery().is_empty()
}

#[test]
fn kill_9_while_the_store_is_made_leaves_none_or_a_whole_one() {
    let mut random = Random::seeded();
    let (mut interrupted, mut made) = (0, 0);
    for _ in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut known = BTreeMap::new();
        live_and_die(&path, 0, Death::After(Duration::from_micros(random.below(120_000))), &mut known);
        interrupted += u32::from(dir.path().join("store.creating").exists());
        made += u32::from(path.exists());
        check(&path, &mut known);
        assert!(!dir.path().join("store.creating").exists());
    }
    eprintln!("of 30 creations {interrupted} were interrupted and {made} came to their end");
}

/// Damages one copy of a closed store, so that the next writer is killed while it mends, or just after.
fn harm(dir: &Path, random: &mut Random) -> &'static str {
    let (sled, journal) = (dir.join(STORE), dir.join(JOURNAL));
    let flip = |file: &Path, at: u64| {
        let mut bytes = std::fs::read(file).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) as u64 + 1;
        bytes[(at % used) as usize] ^= 0xff;
        std::fs::write(file, bytes).unwrap();
    };
    match random.below(4) {
        0 => {
            std::fs::remove_dir_all(sled).unwrap();
            "sled removed"
        }
        1 => {
            flip(&sled.join("db"), random.below(1 << 40));
            "sled flipped"
        }
        2 => {
            std::fs::remove_dir_all(journal).unwrap();
            "journal removed"
        }
        _ => {
            let files: Vec<_> = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path()).collect();
            let filled: Vec<_> = files.iter().filter(|file| file.metadata().unwrap().len() > 0).collect();
            flip(filled[random.below(filled.len() as u64) as usize], random.below(1 << 40));
            "journal flipped"
        }
    }
}

/// What a series of kills came to.
#[derive(Debug, Default)]
struct Tally {
    rounds: u32,
    acknowledged: u64,
    /// By harm and by how far the writer had come with mending it: how often.
    mending: BTreeMap<(&'static str, &'static str), u32>,
}

/// Kills the writers of one store, one after another.
fn kill_again_and_again(wanted: u32, until: Instant) -> Tally {
    // What is moved aside piles up: sled's file alone has 4 MiB.
    let (dir, mut random, mut tally) = (scratch(), Random::seeded(), Tally::default());
    let path = dir.path().join(STORE);
    let mut known = BTreeMap::new();
    while tally.rounds < wanted && Instant::now() < until {
        let first = tally.rounds * WRITERS * SPAN;
        let harmed = (tally.rounds % 3 == 2).then(|| harm(dir.path(), &mut random));
        let death = match tally.rounds % 3 {
            0 => Death::AfterAcknowledged(1 + random.below(200)),
            1 => Death::After(Duration::from_micros(random.below(100_000))),
            _ => Death::After(Duration::from_micros(random.below(60_000))),
        };
        let acknowledged = live_and_die(&path, first, death, &mut known);
        tally.acknowledged += acknowledged;
        let names = || std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let beside: Vec<_> = names().filter(|name| ![STORE, JOURNAL, LOCK].iter().any(|usual| name == usual)).collect();
        let to_mend = check(&path, &mut known);
        if let Some(harmed) = harmed {
            let stage = match (to_mend, beside.is_empty()) {
                (true, true) => "not begun",
                (true, false) => "in the middle",
                (false, _) => "done",
            };
            *tally.mending.entry((harmed, stage)).or_default() += 1;
        }
        for aside in names().filter(|name| name.to_string_lossy().contains(".damaged-")) {
            std::fs::remove_dir_all(dir.path().join(aside)).unwrap();
        }
        tally.rounds += 1;
    }
    tally
}

#[test]
fn kill_9_loses_and_tears_nothing() {
    let wanted: u32 = std::env::var("DRAGLINE_KILLS").map_or(60, |text| text.parse().unwrap());
    let limit = if wanted > 60 { Duration::from_secs(3600) } else { Duration::from_secs(60) };
    let begun = Instant::now();
    let series = [(); 2].map(|()| std::thread::spawn(move || kill_again_and_again(wanted.div_ceil(2), begun + limit)));
    let tallies = series.map(|series| series.join().unwrap());
    eprintln!("{:?}: {tallies:?}", begun.elapsed());
    let rounds: u32 = tallies.iter().map(|tally| tally.rounds).sum();
    assert!(rounds >= wanted.min(10), "only {rounds} of {wanted} rounds in {limit:?}");
}
