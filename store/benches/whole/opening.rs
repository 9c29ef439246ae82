//! Opening: how long, and how much memory, after a clean end and after kill -9.
//!
//! The benchmark runs itself again, as the writer that fills a store and as the reader whose memory is looked at. Every
//! reader gets a fresh copy of what the writer left, so that none finds what another has mended; the copy is in the
//! page cache, as after a restart of the agent, not of the machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::measure::footprint::{self, Memory};
use crate::measure::{self, Kind, Step, table};

/// The first argument of a child.
pub(crate) const CHILD: &str = "child";

const KINDS: [Kind; 3] = [Kind::Ours, Kind::Redb, Kind::SqliteShared];
const REPEATS: usize = 5;
/// Commits one after another before the writer is killed: the logs then hold groups of one change too.
const ALONE: u32 = 1000;

/// How the writer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Clean,
    Killed,
}

impl End {
    fn word(self) -> &'static str {
        match self {
            Self::Clean => "clean close",
            Self::Killed => "kill -9",
        }
    }
}

/// What a child does: `fill KIND DIR INTENTS`, then alone until it is ended, or `open KIND DIR`.
pub(crate) fn child(arguments: &[&str]) {
    match arguments {
        ["fill", kind, dir, intents] => write(Kind::from_word(kind).unwrap(), Path::new(dir), intents.parse().unwrap()),
        ["open", kind, dir] => read(Kind::from_word(kind).unwrap(), Path::new(dir)),
        _ => panic!("no such child: {arguments:?}"),
    }
}

/// Fills a store and goes on until the parent says that it is enough; the state it leaves does not depend on when that
/// is.
fn write(kind: Kind, dir: &Path, intents: u32) {
    let subject = kind.open(dir);
    measure::fill(&*subject, intents);
    let enough = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut writer = subject.writer();
    for number in intents.. {
        writer.apply(&[Step::Put(number)]);
        writer.apply(&[Step::Delete(number)]);
        if number == intents + ALONE / 2 {
            println!("filled");
        }
        if enough.is_finished() {
            break;
        }
    }
}

/// Opens, looks at its own memory, loads, looks again, and says it all in one line.
fn read(kind: Kind, dir: &Path) {
    let before = Memory::read();
    let begun = Instant::now();
    let subject = kind.open(dir);
    let opened = begun.elapsed();
    let open = Memory::read();
    let records = subject.load();
    let loaded = begun.elapsed();
    let load = Memory::read();
    let numbers = [
        opened.as_micros() as u64,
        loaded.as_micros() as u64,
        before.now,
        open.now,
        open.peak,
        load.peak,
        records as u64,
    ];
    println!("{}", numbers.map(|number| number.to_string()).join(" "));
}

/// What a reader says.
struct Seen {
    /// Seconds.
    open: f64,
    /// Seconds, opening included.
    load: f64,
    /// KiB: before opening, after it, the most until then, the most when all had been loaded.
    memory: [f64; 4],
    records: u64,
}

fn start(arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(CHILD).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

fn line(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn filled(kind: Kind, dir: &Path, intents: u32, end: End) {
    let (mut child, mut stdout) = start(&["fill", kind.word(), dir.to_str().unwrap(), &intents.to_string()]);
    assert_eq!(line(&mut stdout), "filled");
    match end {
        // Its end of file.
        End::Clean => drop(child.stdin.take()),
        End::Killed => child.kill().unwrap(),
    }
    assert_eq!(child.wait().unwrap().success(), end == End::Clean);
}

fn opened(kind: Kind, dir: &Path) -> Seen {
    let (mut child, mut stdout) = start(&["open", kind.word(), dir.to_str().unwrap()]);
    let said = line(&mut stdout);
    assert!(child.wait().unwrap().success());
    let numbers: Vec<u64> = said.split(' ').map(|number| number.parse().unwrap()).collect();
    let [open, load, before, now, peak, loaded, records] = numbers[..] else { panic!("{said:?}") };
    let memory = [before, now, peak, loaded].map(|kib| kib as f64);
    Seen { open: open as f64 / 1e6, load: load as f64 / 1e6, memory, records }
}

pub(crate) fn run(large: bool) {
    let sizes: &[u32] = if large { &[1_000, 100_000, 1_000_000] } else { &[1_000, 100_000] };
    let mut rows = Vec::new();
    for &records in sizes {
        let intents = records / 3;
        for end in [End::Clean, End::Killed] {
            let home = tempfile::tempdir().unwrap();
            let mut seen: Vec<Vec<Seen>> = KINDS.map(|_| Vec::new()).into();
            for kind in KINDS {
                let dir = home.path().join(kind.word());
                std::fs::create_dir(&dir).unwrap();
                filled(kind, &dir, intents, end);
            }
            // In turns, so that whatever else the machine does hits all.
            for _ in 0..REPEATS {
                for (kind, seen) in KINDS.iter().zip(&mut seen) {
                    let copy = home.path().join("copy");
                    footprint::copy(&home.path().join(kind.word()), &copy);
                    let one = opened(*kind, &copy);
                    // The writer was killed between a put and its delete, or not.
                    assert!((0..=3).contains(&(one.records - u64::from(3 * intents))), "{}", one.records);
                    seen.push(one);
                    std::fs::remove_dir_all(&copy).unwrap();
                }
            }
            let middle = |of: &dyn Fn(&Seen) -> f64, seen: &[Seen]| table::median(seen.iter().map(of).collect());
            for (kind, one) in KINDS.iter().zip(&seen) {
                let against = |of: &dyn Fn(&Seen) -> f64| table::ratio(middle(of, &seen[0]) / middle(of, one));
                let kib = |which: usize| table::mib(1024.0 * middle(&|seen| seen.memory[which], one));
                let longest = one.iter().map(|seen| seen.open).fold(0.0, f64::max);
                rows.push([
                    records.to_string(),
                    end.word().to_owned(),
                    kind.name().to_owned(),
                    table::ms(middle(&|seen| seen.open, one)),
                    table::ms(longest),
                    table::ms(middle(&|seen| seen.load, one)),
                    format!("{} -> {}, at most {}", kib(0), kib(1), kib(2)),
                    kib(3),
                    table::mib(footprint::on_disk(&home.path().join(kind.word())) as f64),
                    against(&|seen| seen.open),
                    against(&|seen| seen.load),
                ]);
            }
            std::io::stderr().write_all(b".").unwrap();
        }
    }
    let head = [
        "records",
        "after",
        "store",
        "open",
        "longest",
        "open and load",
        "memory: before -> open",
        "most when loaded",
        "on disk",
        "our open / its open",
        "our load / its load",
    ];
    table::print("Opening (aim: 100,000 records in less than 1,000 ms)", head, &rows);
}
