//! A sled that is written anew while commits go on, and what an interruption leaves.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::*;
use crate::{Change, Limits, Store};

fn texts(from: u32, to: u32) -> Change {
    (from..to).fold(Change::new(), |change, number| change.put_catalogue(&format!("key{number:05}"), &"x".repeat(500)))
}

#[test]
fn a_successor_holds_what_is_committed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, "node", "boot").unwrap();
    (0..40).for_each(|number| store.commit(texts(number * 50, number * 50 + 50)).unwrap());
    let places = Places::new(&path).unwrap();
    let stop = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !stop.load(SeqCst) {
                let key = format!("key{:05}", number * 37 % 2000);
                store.commit(Change::new().delete_catalogue(&key).put_catalogue("last", &number.to_string())).unwrap();
                store.commit(Change::new().put_catalogue(&key, &number.to_string())).unwrap();
                number += 1;
            }
            number - 1
        });
        for _ in 0..3 {
            compact(&store.live, &places, "boot", || false).unwrap();
            assert!(!places.unfinished().exists() && !places.replaced().exists());
        }
        stop.store(true, SeqCst);
        writer.join().unwrap()
    });
    let check = |store: &Store| {
        assert_eq!(store.catalogue_get("last").unwrap(), Some(last.to_string()));
        let (digest, size) = crate::live::add_up(&store.live.trees().unwrap()).unwrap();
        assert_eq!((digest, size), (store.live.position().digest, store.live.size()));
    };
    check(&store);
    store.close();
    let store = Store::open(&path, "node", "boot").unwrap();
    assert!(store.recovery().is_empty(), "{:?}", store.recovery());
    check(&store);
}

#[test]
fn a_compaction_that_is_stopped_leaves_the_old_sled_at_work() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, "node", "boot").unwrap();
    store.commit(texts(0, 1000)).unwrap();
    let places = Places::new(&path).unwrap();
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    assert!(matches!(compact(&store.live, &places, "boot", stop), Err(CompactionError::Closing)));
    assert!(!places.unfinished().exists());
    store.commit(texts(1000, 1001)).unwrap();
    store.close();
    let store = Store::open(&path, "node", "boot").unwrap();
    assert!(store.recovery().is_empty(), "{:?}", store.recovery());
    assert!(store.catalogue_get("key01000").unwrap().is_some());
}

#[test]
fn a_crash_between_the_two_renames_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, "node", "boot").unwrap();
    store.commit(texts(0, 10)).unwrap();
    store.close();
    let places = Places::new(&path).unwrap();
    fs::rename(&path, places.replaced()).unwrap();
    fs::create_dir(places.unfinished()).unwrap();
    let store = Store::open(&path, "node", "boot").unwrap();
    assert!(store.catalogue_get("key00009").unwrap().is_some());
    store.close();
    // Both there: the one in place is the newer one.
    fs::create_dir(places.replaced()).unwrap();
    drop(Store::open(&path, "node", "boot").unwrap());
    assert!(!places.replaced().exists());
}

#[test]
fn churn_sets_both_off_and_neither_grows_without_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let limits = Limits { log_bytes: 1 << 20, sled_bytes: 8 << 20 };
    let store = Store::open_with(&path, "node", "boot", limits).unwrap();
    let counters = store.counters().clone();
    let done = |counter| crate::Counters::read(counter) >= 3;
    let mut number = 0_u32;
    while !(done(&counters.snapshots) && done(&counters.compactions)) {
        store.commit(texts(0, 200)).unwrap();
        let emptied = (0..200).fold(Change::new(), |change, key| change.delete_catalogue(&format!("key{key:05}")));
        store.commit(emptied.put_catalogue("last", &number.to_string())).unwrap();
        number += 1;
        assert!(number < 20_000, "{counters:?}");
    }
    store.close();
    let size = |path: &std::path::Path| -> u64 {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        entries.filter(|entry| entry.is_file()).map(|entry| entry.len()).sum()
    };
    let (sled, journal) = (size(&path), size(&path.with_extension("journal")));
    assert!(sled < 64 << 20 && journal < 64 << 20, "{sled} {journal}");
    let store = Store::open_with(&path, "node", "boot", limits).unwrap();
    assert!(store.recovery().is_empty(), "{:?}", store.recovery());
    assert_eq!(store.catalogue_get("last").unwrap(), Some((number - 1).to_string()));
}
