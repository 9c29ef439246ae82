//! Records that are not as they were written are brought back from the other copy, or reported and never used; no panic.

use std::path::Path;

use store::Change;

use crate::sample::*;

/// sled behind the store's back.
fn sled_in(path: &Path) -> sled::Db {
    sled::Config::new().path(path).segment_size(4 << 20).flush_every_ms(None).open().unwrap()
}

/// Runs on the closed store's sled, and waits until its lock is free again.
fn behind(path: &Path, act: impl FnOnce(&sled::Db)) {
    let db = sled_in(path);
    act(&db);
    db.flush().unwrap();
    drop(db);
    std::fs::File::open(path.join("db")).unwrap().lock().unwrap();
}

/// The same, of a sled that has no journal beside it and never had one: nothing tells it from what was written.
fn alone(path: &Path, act: impl FnOnce(&sled::Db)) {
    std::fs::remove_dir_all(path.with_extension("journal")).unwrap();
    let db = sled_in(path);
    db.open_tree("meta").unwrap().remove("position").unwrap();
    act(&db);
    db.flush().unwrap();
    drop(db);
    std::fs::File::open(path.join("db")).unwrap().lock().unwrap();
}

fn filled() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path);
    (1..=3).for_each(|number| store.commit(put(number)).unwrap());
    store.commit(Change::new().put_catalogue("pool/p", "text")).unwrap();
    store.close();
    (dir, path)
}

#[test]
fn records_that_changed_behind_the_stores_back_are_brought_back_from_the_journal() {
    let (_dir, path) = filled();
    let tree = |db: &sled::Db, name| db.open_tree(name).unwrap();
    let damages: [&dyn Fn(&sled::Db); 4] = [
        &|db| tree(db, "allocations").clear().unwrap(),
        &|db| drop(tree(db, "attachments").remove(b"c0000002\0net1").unwrap().unwrap()),
        &|db| drop(tree(db, "sandboxes").insert(b"c0000009", b"made up").unwrap()),
        &|db| drop(tree(db, "meta").insert(b"position", b"nowhere").unwrap()),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        behind(&path, damage);
        let store = open(&path);
        let snapshot = store.load().unwrap();
        assert_eq!(snapshot.allocations, (1..=3).map(allocation).collect::<Vec<_>>());
        assert_eq!(snapshot.attachments, (1..=3).map(attachment).collect::<Vec<_>>());
        assert_eq!(snapshot.sandboxes, (1..=3).map(sandbox).collect::<Vec<_>>());
        let recovery = store.recovery();
        assert_eq!((recovery.mended.len(), &recovery.lost), (2, &None), "{recovery:?}");
        assert_eq!(recovery.aside, [path.with_extension(format!("damaged-{}", number + 1))]);
        assert!(recovery.aside[0].join("db").is_file());
        store.close();
        assert!(open(&path).recovery().is_empty());
    }
}

#[test]
fn a_flipped_byte_of_any_record_is_reported_and_the_rest_is_used() {
    let (_dir, path) = filled();
    alone(&path, |db| {
        for (tree, key) in
            [("sandboxes", &b"c0000001"[..]), ("attachments", b"c0000002\0net1"), ("allocations", &[4, 10, 0, 0, 3])]
        {
            let tree = db.open_tree(tree).unwrap();
            let mut value = tree.get(key).unwrap().unwrap().to_vec();
            let middle = value.len() / 2;
            value[middle] ^= 0x10;
            tree.insert(key, value).unwrap();
        }
        db.open_tree("catalogue").unwrap().insert("pool/p", b"no envelope").unwrap();
    });
    let store = open(&path);
    let snapshot = store.load().unwrap();
    assert_eq!(snapshot.sandboxes, [sandbox(2), sandbox(3)]);
    assert_eq!(snapshot.attachments, [attachment(1), attachment(3)]);
    assert_eq!(snapshot.allocations, [allocation(1), allocation(2)]);
    let places: Vec<_> = snapshot.unreadable.iter().map(|record| (record.tree.as_str(), record.key.as_str())).collect();
    assert_eq!(places, [("attachments", "c0000002/net1"), ("allocations", "10.0.0.3"), ("sandboxes", "c0000001")]);
    for record in &snapshot.unreadable {
        assert!(record.reason.starts_with("checksum "), "{record:?}");
    }
    let error = store.catalogue_get("pool/p").unwrap_err().to_string();
    assert!(error.starts_with("the store's record \"pool/p\" in catalogue is unreadable: checksum "), "{error}");
    // The address of an unreadable allocation is not given away; saying so of the record heals it.
    let mut wanted = allocation(9);
    wanted.address = address(3);
    store.commit(Change::new().put_allocation(&wanted)).unwrap_err();
    store.commit(Change::new().delete_allocation(address(3)).put_allocation(&wanted)).unwrap();
}

#[test]
fn a_record_of_another_key_kind_or_version_is_reported() {
    let (_dir, path) = filled();
    alone(&path, |db| {
        let sandboxes = db.open_tree("sandboxes").unwrap();
        let attachments = db.open_tree("attachments").unwrap();
        let first = sandboxes.get("c0000001").unwrap().unwrap();
        sandboxes.insert("c0000002", first.clone()).unwrap();
        attachments.insert("c0000003\0net1", first.clone()).unwrap();
        let mut newer = first.to_vec();
        newer[1] = 9;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&newer[..2]);
        crc.update(&newer[6..]);
        newer[2..6].copy_from_slice(&crc.finalize().to_le_bytes());
        sandboxes.insert("c0000003", newer).unwrap();
    });
    let snapshot = open(&path).load().unwrap();
    let reasons: Vec<_> = snapshot.unreadable.iter().map(|record| record.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "record kind 3 stands where kind 1 (attachment) should",
            "it is the record of c0000001",
            "the sandbox has record version 9, and this dragline knows versions up to 1: run a newer one",
        ]
    );
    assert_eq!(snapshot.sandboxes, [sandbox(1)]);
}

#[test]
fn an_allocation_tree_of_garbage_does_not_panic() {
    let (_dir, path) = filled();
    alone(&path, |db| {
        let tree = db.open_tree("allocations").unwrap();
        for number in 0..200_u8 {
            tree.insert(vec![number; usize::from(number % 20)], vec![number; usize::from(number)]).unwrap();
        }
    });
    let snapshot = open(&path).load().unwrap();
    assert_eq!(snapshot.allocations, (1..=3).map(allocation).collect::<Vec<_>>());
    assert!(snapshot.unreadable.len() > 100);
}
