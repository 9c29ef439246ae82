//! kill -9 in the middle of a restore, and of an agent's start that has a store to make anew.

use std::io::{ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::Trial;
use tests::scene::WORKER;

use crate::bench::Bench;
use crate::dump::Dump;
use crate::node::{eventually, stderr, trial};
use crate::ruin::store;

const SANDBOXES: u32 = 5_000;
const KILLS: u32 = 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("killed::in_the_middle_of_a_restore", restoring),
        trial("killed::in_the_middle_of_making_a_store_anew", opening),
    ]
}

/// Instants that differ from run to run.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1)
    }

    fn below(&mut self, bound: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % (bound.as_micros() as u64).max(1))
    }
}

/// Lets any time pass: the instant of the kill is to be any.
fn wait_any(random: &mut Random, bound: Duration) {
    std::thread::sleep(random.below(bound));
}

/// The dump of a store with one pod, with that pod so many times under other names: none of them lives.
fn many(bench: &Bench, dump: &Dump, letter: char) -> Dump {
    let member = &bench.members[0];
    let (container, address, path) = (&member.it.container, member.address(), member.pod.netns.path());
    let mut records = Vec::new();
    for tree in ["attachments", "allocations", "sandboxes"] {
        let [line] = dump.of_tree(tree)[..] else { panic!("not one in {tree}: {dump:?}") };
        records.extend((0..SANDBOXES).map(|number| {
            let other = format!("10.200.{}.{}", number / 250, number % 250 + 1);
            line.replace(container, &format!("{letter}-{number:05}"))
                .replace(&address, &other)
                .replace(path, &format!("/run/netns/none-{letter}{number}"))
        }));
    }
    dump.with_records(records)
}

/// A bench whose agent is stopped, and its dump with one pod.
fn stopped(name: &str) -> (Bench, Dump) {
    let mut bench = Bench::new(name, 1);
    bench.node.agent.terminate().unwrap();
    let dump = bench.dump_of(&bench.state_dir());
    (bench, dump)
}

const EDITED: [&str; 2] = ["--recompute-checksum", "--force"];

fn restoring() {
    let (bench, dump) = stopped("q1");
    let state_dir = bench.state_dir();
    // As they stand in a store: then they need no flags, and a dump of it is the same text.
    let [first, second] = ['a', 'b'].map(|letter| {
        bench.restore(&state_dir, &many(&bench, &dump, letter), &EDITED);
        bench.dump_of(&state_dir)
    });
    let begun = Instant::now();
    bench.restore(&state_dir, &first, &[]);
    let (whole, mut random) = (begun.elapsed(), Random::seeded());
    let (mut is_first, mut killed, mut replaced) = (true, 0, 0);
    for _ in 0..KILLS {
        let new = if is_first { &second } else { &first };
        killed += u32::from(restore_and_kill(&bench, &state_dir, new, &mut random, whole * 3 / 2));
        let found = bench.dragline(&["dump", "--state-dir", state_dir.to_str().unwrap()]);
        assert!(found.status.success(), "{}", stderr(&found));
        let was_first = std::mem::replace(&mut is_first, found.stdout == first.text().as_bytes());
        assert!(is_first || found.stdout == second.text().as_bytes(), "it is neither the old store nor the new one");
        replaced += u32::from(was_first != is_first);
    }
    eprintln!("of {KILLS} restores of {whole:?} {killed} were killed, and {replaced} came to count");
    assert!(killed > 0, "no restore was killed before its end");
    let left = std::fs::read_dir(&state_dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.starts_with("store.") && name != "store.lock").collect();
    assert_eq!(left, ["store.journal"], "killed restores leave something behind");
}

/// Whether it was killed before its end.
fn restore_and_kill(bench: &Bench, state_dir: &Path, dump: &Dump, random: &mut Random, bound: Duration) -> bool {
    let arguments = ["restore", "--state-dir", state_dir.to_str().unwrap(), "--node-name", WORKER];
    let mut child = bench.command(&arguments).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let text = dump.text().to_owned();
    let writer = std::thread::spawn(move || match pipe.write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
        _ => {}
    });
    wait_any(random, bound);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    writer.join().unwrap();
    assert!(status.success() || status.signal() == Some(9), "it ended by itself: {status}");
    status.signal() == Some(9)
}

fn opening() {
    let (mut bench, dump) = stopped("q2");
    let state_dir = bench.state_dir();
    bench.restore(&state_dir, &many(&bench, &dump, 'a'), &EDITED);
    let wanted = bench.dump_of(&state_dir);
    let without_sled = || std::fs::remove_dir_all(store(&state_dir)).unwrap();
    without_sled();
    let begun = Instant::now();
    bench.node.agent.launch().unwrap();
    eventually("an agent that answers", || {
        let output = bench.node.agent.run(&["status"]).unwrap();
        if stderr(&output).contains("no agent answers") { Err(stderr(&output)) } else { Ok(()) }
    });
    let (whole, mut random) = (begun.elapsed(), Random::seeded());
    bench.node.agent.kill().unwrap();
    let (mut interrupted, mut unfinished) = (0, 0);
    for _ in 0..KILLS {
        without_sled();
        bench.node.agent.launch().unwrap();
        wait_any(&mut random, whole);
        bench.node.agent.kill().unwrap();
        interrupted += u32::from(!store(&state_dir).exists());
        unfinished += u32::from(state_dir.join("store.creating").exists());
        let found = bench.dragline(&["dump", "--state-dir", state_dir.to_str().unwrap()]);
        assert!(found.status.success(), "{}", stderr(&found));
        let found = Dump::new(String::from_utf8(found.stdout).unwrap());
        for tree in ["attachments", "allocations"] {
            assert_eq!(found.of_tree(tree), wanted.of_tree(tree));
        }
        assert_eq!(found.of_tree("sandboxes").len(), SANDBOXES as usize);
        assert!(!state_dir.join("store.creating").exists());
    }
    eprintln!("of {KILLS} starts of {whole:?} {interrupted} had no sled yet, {unfinished} of them a part of one");
    assert!(interrupted > 0, "no start was killed before the store was there");
    assert!(!bench.node.log().contains("panicked"), "{}", bench.node.log());
}
