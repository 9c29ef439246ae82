//! kill -9 in the middle of a restore and of an upgrade: the store is the old one or the new one, whole.
//!
//! `DRAGLINE_KILLS` says how many kills in all; 24 of each kind usually.

use std::fs;
use std::io::BufReader;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use store::restore::{RestoreOptions, restore};
use store::{Change, Snapshot};

use crate::images::{Random, scratch};
use crate::sample::*;

const DIR: &str = "DRAGLINE_TEST_INTERRUPTED_DIR";
const DUMP: &str = "DRAGLINE_TEST_INTERRUPTED_DUMP";

fn kills() -> u32 {
    std::env::var("DRAGLINE_KILLS").map_or(24, |text| text.parse::<u32>().unwrap() / 4)
}

fn options() -> RestoreOptions {
    RestoreOptions { node: NODE.into(), ..RestoreOptions::default() }
}

/// Not a test: the process that is killed while it restores.
#[test]
#[ignore = "the child process that restores"]
fn restorer() {
    let [dir, dump] = [DIR, DUMP].map(|name| std::env::var(name).unwrap());
    let dump = BufReader::new(fs::File::open(dump).unwrap());
    restore(&Path::new(&dir).join("store"), dump, &options(), |_| {}).unwrap();
}

/// Not a test: the process that is killed while it opens.
#[test]
#[ignore = "the child process that opens"]
fn opener() {
    drop(open(&Path::new(&std::env::var(DIR).unwrap()).join("store")));
}

/// Starts a child and kills it after a while; whether it had ended by then.
fn interrupted(child: &str, dir: &Path, dump: &Path, after: Duration) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([&format!("interrupted::{child}"), "--exact", "--ignored", "--test-threads=1"])
        .env(DIR, dir)
        .env(DUMP, dump)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The instant is to be any; nothing is expected to have happened by then.
    std::thread::sleep(after);
    let _ = child.kill();
    child.wait().unwrap().success()
}

fn filled(dir: &Path, from: u32, to: u32) -> Snapshot {
    let store = open(&dir.join("store"));
    for number in from..to {
        store.submit(put(number), |answer| answer.unwrap());
    }
    store.commit(Change::new()).unwrap();
    store.load().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_store_or_the_new_one() {
    let home = scratch();
    let path = |name: &str| home.path().join(name);
    let new = filled(&path("new"), 500, 1500);
    let old = filled(&path("old"), 0, 400);
    let dump = path("dump");
    store::dump::dump_offline(&path("new").join("store"), SystemTime::now(), fs::File::create(&dump).unwrap()).unwrap();
    copy(&path("old"), &path("timed"));
    let begun = Instant::now();
    restore(&path("timed/store"), BufReader::new(fs::File::open(&dump).unwrap()), &options(), |_| {}).unwrap();
    // The child has to start as well.
    let longest = begun.elapsed() + Duration::from_millis(30);
    let mut random = Random::seeded();
    let (mut olds, mut news) = (0, 0);
    for _ in 0..kills() {
        let dir = path("one");
        copy(&path("old"), &dir);
        let after = longest.mul_f64(random.below(1000) as f64 / 1000.0);
        let has_ended = interrupted("restorer", &dir, &dump, after);
        let store = open(&dir.join("store"));
        assert_eq!(store.recovery().lost, None);
        let there = store.load().unwrap();
        match (there == new, there == old) {
            (true, _) => news += 1,
            (_, true) if !has_ended => olds += 1,
            _ => panic!("after {after:?}: neither the old store nor the new one: {} sandboxes", there.sandboxes.len()),
        }
        drop(store);
        fs::remove_dir_all(&dir).unwrap();
    }
    eprintln!("killed restores: {olds} left the old store, {news} the new one");
}

#[test]
fn an_upgrade_that_is_killed_is_done_again() {
    let home = scratch();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/0/store.tar.gz");
    let unpack = |to: &Path| {
        fs::create_dir_all(to).unwrap();
        let status = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(to).status();
        assert!(status.unwrap().success());
    };
    let mut random = Random::seeded();
    for number in 0..kills() {
        let dir = home.path().join(number.to_string());
        unpack(&dir);
        // More than one that is interrupted, one after another.
        for _ in 0..3 {
            interrupted("opener", &dir, &dir, Duration::from_micros(random.below(60_000)));
        }
        let store = open(&dir.join("store"));
        assert_eq!(store.recovery().lost, None);
        let snapshot = store.load().unwrap();
        assert_eq!((snapshot.allocations.len(), snapshot.attachments.len(), snapshot.sandboxes.len()), (9, 9, 9));
        assert_eq!(snapshot.unreadable, []);
        drop(store);
        fs::remove_dir_all(&dir).unwrap();
    }
}
