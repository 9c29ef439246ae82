//! What is acknowledged is there, written by however many at once.

use std::sync::mpsc::channel;

use store::{CommitError, Counters};

use crate::sample::*;

#[test]
fn what_is_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path);
    // The keys' order, not the order of commits.
    for number in [3, 1, 2] {
        store.commit(put(number)).unwrap();
    }
    store.commit(delete(2).put_catalogue("pool/p", "text\0with anything").put_catalogue("gone", "")).unwrap();
    store.commit(store::Change::new().delete_catalogue("gone")).unwrap();
    store.close();

    let store = open(&path);
    let snapshot = store.load().unwrap();
    assert_eq!(snapshot.sandboxes, [sandbox(1), sandbox(3)]);
    assert_eq!(snapshot.attachments, [attachment(1), attachment(3)]);
    assert_eq!(snapshot.allocations, [allocation(1), allocation(3)]);
    assert_eq!(snapshot.unreadable, []);
    assert_eq!(store.catalogue_get("pool/p").unwrap().as_deref(), Some("text\0with anything"));
    assert_eq!(store.catalogue_get("gone").unwrap(), None);
}

#[test]
fn many_writers_share_syncs() {
    const WRITERS: u32 = 64;
    const EACH: u32 = 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || (0..EACH).for_each(|turn| store.commit(put(writer * EACH + turn)).unwrap()));
        }
    });
    let counters = store.counters();
    let [commits, changes, syncs] = [&counters.commits, &counters.changes, &counters.syncs].map(Counters::read);
    assert_eq!(changes, u64::from(WRITERS * EACH));
    assert_eq!(syncs, commits);
    assert!(syncs < changes, "{syncs} syncs for {changes} changes");
    drop(store);

    let snapshot = open(&path).load().unwrap();
    assert_eq!(snapshot.attachments, (0..WRITERS * EACH).map(attachment).collect::<Vec<_>>());
    assert_eq!(snapshot.allocations, (0..WRITERS * EACH).map(allocation).collect::<Vec<_>>());
    assert_eq!(snapshot.sandboxes, (0..WRITERS * EACH).map(sandbox).collect::<Vec<_>>());
}

#[test]
fn of_many_who_want_one_address_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    let (sender, answers) = channel();
    for number in 0..50 {
        let mut wanted = allocation(number);
        wanted.address = address(0);
        let sender = sender.clone();
        let change = store::Change::new().put_sandbox(&sandbox(number)).put_allocation(&wanted);
        store.submit(change, move |answer| sender.send((number, answer)).unwrap());
    }
    drop(sender);
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, answer)| answer.is_ok());
    let [(winner, _)] = won.as_slice() else { panic!("{won:?}") };
    assert_eq!(lost.len(), 49);
    for (_, answer) in lost {
        assert_eq!(answer, Err(CommitError::AddressTaken { address: address(0), owner: key(*winner) }));
    }
    // Nothing of the losers' changes is there.
    assert_eq!(store.load().unwrap().sandboxes, [sandbox(*winner)]);
    // The owner may put it again, and once it is free so may others.
    let mut releasing = allocation(*winner);
    releasing.address = address(0);
    releasing.state = schemas::intent::AllocationState::Releasing;
    store.commit(store::Change::new().put_allocation(&releasing)).unwrap();
    store.commit(store::Change::new().delete_allocation(address(0))).unwrap();
    store.commit(put(60).delete_allocation(address(0))).unwrap();
}

/// sled never syncs what it puts into files of their own, so records of the largest size must never get there.
#[test]
fn the_largest_records_never_leave_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path);
    let text = "x".repeat(store::codec::RECORD_LIMIT - 16);
    let blobs = || std::fs::read_dir(path.join("blobs")).unwrap().count();
    for round in 0..3 {
        for number in 0..60 {
            store.commit(store::Change::new().put_catalogue(&format!("{number:03}"), &text)).unwrap();
        }
        assert_eq!(blobs(), 0, "round {round}");
        // Mostly emptied, so that nodes merge, then filled again.
        for number in (0..60).filter(|number| number % 7 != round) {
            store.commit(store::Change::new().delete_catalogue(&format!("{number:03}"))).unwrap();
        }
        assert_eq!(blobs(), 0, "round {round}");
    }
}
