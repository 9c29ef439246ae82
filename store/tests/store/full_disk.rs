//! The disk is full at each instant: while a store is made, opened, mended, written to, and while logs are replaced.
//! Every failure is told as what it is, and with room again everything acknowledged is there.
//!
//! The test binary runs itself in namespaces of its own, where it may mount a small tmpfs. A file of ballast leaves of
//! it as many bytes as a case is to have.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use store::{Change, CommitError, OpenError, Store};

use crate::images::*;
use crate::namespaces;
use crate::sample::{self, BOOT, NODE};
use crate::traffic;
use crate::trial;

const DIR: &str = "DRAGLINE_TEST_SMALL_DISK";
/// The disk's size in bytes.
const DISK: u64 = 24 << 20;
const PAGE: u64 = 4096;
const SEED: u64 = 11;

/// Runs a test of this binary in namespaces of its own, and passes on what it says of itself.
fn in_small_disk(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    namespaces::run(&["--user", "--map-root-user", "--mount"], test, |child| child.env(DIR, dir.path()));
}

#[test]
fn a_full_disk_while_a_store_is_made_and_written_is_told_and_loses_nothing() {
    in_small_disk("full_disk::made_and_written");
}

#[test]
fn a_full_disk_while_a_store_is_opened_is_told_and_loses_nothing() {
    in_small_disk("full_disk::opened");
}

#[test]
fn a_full_disk_while_a_store_is_mended_is_told_and_loses_nothing() {
    in_small_disk("full_disk::mended");
}

#[test]
fn a_full_disk_while_a_store_is_open_is_told_and_loses_nothing() {
    in_small_disk("full_disk::open");
}

/// A small disk, mounted for this process alone.
struct Disk(PathBuf);

impl Disk {
    fn mounted() -> Self {
        trial::watch_panics();
        let dir = PathBuf::from(std::env::var(DIR).expect("the parent names the mount point"));
        let options = format!("size={DISK},nr_inodes=0");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(&dir).status().unwrap();
        assert!(mount.success());
        Self(dir)
    }

    /// Empties it but for an image.
    fn holds(&self, image: &Image) {
        for entry in fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { fs::remove_dir_all(entry).unwrap() } else { fs::remove_file(entry).unwrap() }
        }
        image.put(&self.0);
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves this much room.
    fn leaves(&self, room: u64) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let chunk = vec![1; 1 << 20];
        let mut filled = 0;
        while let Ok(written) = ballast.write(&chunk) {
            filled += written as u64;
        }
        // Whole pages, as the file system counts.
        ballast.set_len((filled / PAGE * PAGE).saturating_sub(room)).unwrap();
    }

    fn has_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn store(&self) -> PathBuf {
        self.0.join(STORE)
    }
}

/// How often each thing happened: a sweep that never met a full disk would prove nothing.
#[derive(Debug, Default)]
struct Met {
    refused: u32,
    /// What the refusals say.
    refusals: BTreeMap<String, u64>,
    opened: u32,
    no_room: u32,
    poisoned: u32,
}

fn says_no_room(error: &dyn std::error::Error) -> bool {
    error.to_string().contains("No space left on device")
}

/// The refusal of an open on a full disk.
fn refusal(case: &str, error: &OpenError) {
    assert!(matches!(error, OpenError::Io { .. }) && says_no_room(error), "{case}: the open fails as {error:?}");
}

/// Commits until the disk is full, at most so many; counts what was acknowledged and what may be there.
fn commit(case: &str, store: &Store, changes: u64, acknowledged: &mut u64, asked: &mut u64, met: &mut Met) {
    for _ in 0..changes {
        let error = match store.commit(traffic::change(SEED, *acknowledged)) {
            Ok(()) => {
                *acknowledged += 1;
                *asked = (*asked).max(*acknowledged);
                continue;
            }
            Err(error) => error,
        };
        assert!(says_no_room(&error), "{case}: {error}");
        match error {
            CommitError::NoRoom { .. } => {
                assert!(error.is_retryable());
                met.no_room += 1;
            }
            CommitError::Poisoned { .. } => {
                assert!(store.poisoned().is_some());
                met.poisoned += 1;
                *asked = *acknowledged + 1;
            }
            other => panic!("{case}: {other:?}"),
        }
        // What is there can still be read.
        let snapshot = store.load().unwrap_or_else(|error| panic!("{case}: {error}"));
        traffic::turns_in(&snapshot, SEED, *acknowledged, *asked).unwrap_or_else(|error| panic!("{case}: {error}"));
        return;
    }
}

/// A store of `acknowledged` changes on a disk that fills: written, opened again while it is full, and then with room.
fn fills(case: &str, disk: &Disk, mut acknowledged: u64, changes: u64, met: &mut Met) {
    let mut asked = acknowledged;
    for _ in 0..2 {
        match Store::open(&disk.store(), NODE, BOOT) {
            Ok(store) => {
                met.opened += 1;
                let snapshot = store.load().unwrap_or_else(|error| panic!("{case}: {error}"));
                acknowledged = traffic::turns_in(&snapshot, SEED, acknowledged, asked)
                    .unwrap_or_else(|error| panic!("{case}: {error}; {:?}", store.recovery()));
                commit(case, &store, changes, &mut acknowledged, &mut asked, met);
                store.close();
            }
            Err(error) => {
                met.refused += 1;
                refusal(case, &error);
                let what = error.to_string().replace(&*disk.0.to_string_lossy(), "");
                *met.refusals.entry(what).or_default() += 1;
            }
        }
    }
    disk.has_room();
    let store = Store::open(&disk.store(), NODE, BOOT).unwrap_or_else(|error| panic!("{case}, with room: {error}"));
    let lost = &store.recovery().lost;
    assert_eq!(lost, &None, "{case}");
    let snapshot = store.load().unwrap();
    let turns = traffic::turns_in(&snapshot, SEED, acknowledged, asked)
        .unwrap_or_else(|error| panic!("{case}, with room: {error}; {:?}", store.recovery()));
    store.commit(traffic::change(SEED, turns)).unwrap_or_else(|error| panic!("{case}, with room: {error}"));
    store.close();
    assert!(sample::open(&disk.store()).recovery().is_empty(), "{case}");
}

/// Sizes by pages, then in steps.
fn rooms(dense: u64, step: u64, end: u64) -> impl Iterator<Item = u64> {
    (0..dense).step_by(PAGE as usize).chain((dense..end).step_by(step as usize))
}

fn told(what: &str, met: &Met) {
    eprintln!("told: full disk, {what}: {met:?}; panics caught: {:?}", trial::panics());
    let own: Vec<_> = trial::panics().into_keys().filter(|place| place.starts_with("store/src")).collect();
    assert!(own.is_empty(), "the store's own code panics: {own:?}");
}

/// Not a test by itself: it wants a small disk.
#[test]
#[ignore = "the child process of a_full_disk_while_a_store_is_made_and_written_is_told_and_loses_nothing"]
fn made_and_written() {
    let disk = Disk::mounted();
    let mut met = Met::default();
    for room in rooms(128 << 10, 100 << 10, 11 << 20) {
        disk.holds(&Image::default());
        disk.leaves(room);
        fills(&format!("made with {room} bytes"), &disk, 0, 60, &mut met);
    }
    told("made and written", &met);
    assert!(met.refused > 0 && met.opened > 0 && met.no_room > 0, "{met:?}");
}

fn filled(turns: u64) -> Image {
    let dir = scratch();
    for life in 0..3 {
        let store = sample::open(&dir.path().join(STORE));
        (life * turns / 3..(life + 1) * turns / 3).for_each(|turn| store.commit(traffic::change(SEED, turn)).unwrap());
        store.close();
    }
    Image::taken(dir.path())
}

/// Not a test by itself: it wants a small disk.
#[test]
#[ignore = "the child process of a_full_disk_while_a_store_is_opened_is_told_and_loses_nothing"]
fn opened() {
    let disk = Disk::mounted();
    let mut met = Met::default();
    let image = filled(30);
    for room in rooms(32 << 10, 200 << 10, 12 << 20) {
        disk.holds(&image);
        disk.leaves(room);
        fills(&format!("opened with {room} bytes"), &disk, 30, 60, &mut met);
    }
    told("opened", &met);
    assert!(met.refused > 0 && met.opened > 0 && met.no_room > 0, "{met:?}");
}

/// Not a test by itself: it wants a small disk.
#[test]
#[ignore = "the child process of a_full_disk_while_a_store_is_mended_is_told_and_loses_nothing"]
fn mended() {
    let disk = Disk::mounted();
    let image = filled(30);
    let logs: Vec<PathBuf> = image.files().map(|(path, _)| path.clone()).filter(|path| is_log(path)).collect();
    // A page of a log and no more: a new snapshot replaces the logs.
    let mut torn = image.clone();
    torn.file(&logs[0])[..1000].fill(0x55);
    let cases = [
        ("sled deleted", image.clone().without(STORE)),
        ("sled cut", {
            let mut image = image.clone();
            image.file(Path::new("store/db")).truncate(9000);
            image
        }),
        ("journal deleted", image.clone().without(JOURNAL)),
        ("a log deleted", image.clone().without(&logs[1])),
        ("a page of a log torn", torn),
    ];
    for (what, image) in cases {
        let mut met = Met::default();
        for room in rooms(32 << 10, 300 << 10, 14 << 20) {
            disk.holds(&image);
            disk.leaves(room);
            fills(&format!("{what}, opened with {room} bytes"), &disk, 30, 30, &mut met);
        }
        told(what, &met);
        assert!(met.refused > 0 && met.opened > 0, "{what}: {met:?}");
    }
}

/// Not a test by itself: it wants a small disk.
#[test]
#[ignore = "the child process of a_full_disk_while_a_store_is_open_is_told_and_loses_nothing"]
fn open() {
    let disk = Disk::mounted();
    let mut met = Met::default();
    // Of another text each time: what does not change is not written.
    let bulk = |number: u64| {
        let text = format!("{number:09} ").repeat(3000);
        Change::new().put_catalogue(&format!("bulk/{:02}", number % 40), &text)
    };
    for room in rooms(32 << 10, 250 << 10, 15 << 20) {
        let case = format!("open with {room} bytes");
        disk.holds(&Image::default());
        let store = sample::open(&disk.store());
        disk.leaves(room);
        let (mut acknowledged, mut asked, mut failed) = (0, 0, None);
        for number in 0..1000 {
            commit(&case, &store, 1, &mut acknowledged, &mut asked, &mut met);
            failed = store.commit(bulk(number)).err();
            if failed.is_some() {
                break;
            }
        }
        let failed = failed.unwrap_or_else(|| panic!("{case}: the disk never was full"));
        assert!(says_no_room(&failed), "{case}: {failed}");
        disk.has_room();
        let again = store.commit(traffic::change(SEED, acknowledged));
        match (failed, again) {
            (CommitError::NoRoom { .. }, Ok(())) => {
                met.no_room += 1;
                acknowledged += 1;
                asked = acknowledged;
            }
            // sled, which wants 4 MiB at once, has met the full disk behind the journal's back, and says so for ever.
            (CommitError::NoRoom { .. } | CommitError::Poisoned { .. }, Err(CommitError::Poisoned { .. })) => {
                met.poisoned += 1;
                asked = acknowledged + 1;
            }
            other => panic!("{case}: {other:?}"),
        }
        store.close();
        let store = sample::open(&disk.store());
        let snapshot = store.load().unwrap();
        traffic::turns_in(&snapshot, SEED, acknowledged, asked)
            .unwrap_or_else(|error| panic!("{case}, with room: {error}; {:?}", store.recovery()));
        store.close();
        met.opened += 1;
    }
    told("open", &met);
    assert!(met.no_room > 0 && met.poisoned > 0, "{met:?}");
}

fn is_log(path: &Path) -> bool {
    path.starts_with(JOURNAL) && path.to_string_lossy().contains("/log-")
}
