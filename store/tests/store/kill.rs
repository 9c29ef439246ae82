//! kill -9 at random instants: every acknowledged change is there, none is torn.
//!
//! The test binary runs itself as the writer. It says `try` before it asks for a change and `ok` when it has heard that
//! the change is durable, so of each number the parent knows what must be there, what must not, and what may be either.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

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
    let store = open(Path::new(&dir));
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

fn check(dir: &Path, known: &mut BTreeMap<u32, Known>) {
    let store = open(dir);
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
}

/// A random number generator: the instants are to differ from run to run.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
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

#[test]
fn kill_9_loses_and_tears_nothing() {
    let wanted: u32 = std::env::var("DRAGLINE_KILLS").map_or(60, |text| text.parse().unwrap());
    let limit = if wanted > 60 { Duration::from_secs(3600) } else { Duration::from_secs(60) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut random = Random::seeded();
    let (mut known, mut acknowledged, mut rounds) = (BTreeMap::new(), 0, 0);
    let begun = Instant::now();
    while rounds < wanted && begun.elapsed() < limit {
        let death = if rounds % 2 == 0 {
            Death::AfterAcknowledged(1 + random.below(200))
        } else {
            Death::After(Duration::from_micros(random.below(100_000)))
        };
        acknowledged += live_and_die(&path, rounds * WRITERS * SPAN, death, &mut known);
        check(&path, &mut known);
        rounds += 1;
    }
    eprintln!("{rounds} kills, {acknowledged} acknowledged changes, {:?}", begun.elapsed());
    assert!(rounds >= wanted.min(10), "only {rounds} of {wanted} rounds in {limit:?}");
}
