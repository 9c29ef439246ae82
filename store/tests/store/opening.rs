//! Opening: made once and whole, for one process, one node, and a format that is known.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use store::{OpenError, Store};

use crate::sample::*;

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    (dir, path)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_store_is_made_with_the_directories_above_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/store");
    let store = open(&path);
    let meta = store.meta();
    assert_eq!((meta.format_version, meta.node.as_str(), meta.boot_id.as_str()), (1, NODE, BOOT));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(names(&dir.path().join("a/b")), ["store", "store.journal", "store.lock"]);
}

#[test]
fn one_of_which_nothing_is_left_is_told_from_one_that_never_was() {
    let (dir, path) = place();
    // Somebody has looked, or was killed before there was anything.
    fs::write(dir.path().join("store.lock"), "1\n").unwrap();
    let store = open(&path);
    assert!(store.recovery().is_empty());
    store.commit(put(1)).unwrap();
    store.close();
    for copy in ["store", "store.journal"] {
        fs::remove_dir_all(dir.path().join(copy)).unwrap();
    }
    let store = open(&path);
    let lost = store.recovery().lost.as_deref().unwrap();
    assert!(
        lost.starts_with("neither sled nor journal is there, and the store had come to change 2 of epoch 1-"),
        "{lost}"
    );
    assert_eq!(store.meta().previous_boot_id, None);
    store.commit(put(2)).unwrap();
    drop(store);
    assert!(open(&path).recovery().is_empty());
}

#[test]
fn the_boot_before_is_remembered() {
    let (_dir, path) = place();
    assert_eq!(open(&path).meta().previous_boot_id, None);
    assert_eq!(open(&path).meta().previous_boot_id.as_deref(), Some(BOOT));
    drop(Store::open(&path, NODE, "other").unwrap());
    let again = open(&path);
    assert_eq!(again.meta().previous_boot_id.as_deref(), Some("other"));
    assert_eq!(again.meta().boot_id, BOOT);
}

#[test]
fn a_second_open_is_refused_and_the_next_is_not() {
    let (_dir, path) = place();
    for _ in 0..20 {
        let store = open(&path);
        store.commit(put(1)).unwrap();
        let error = Store::open(&path, NODE, BOOT).unwrap_err();
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!(
                "the store {} is in use by process {}: stop that, or choose another state directory",
                path.display(),
                std::process::id()
            )
        );
        drop(store);
    }
}

#[test]
fn a_store_that_another_program_has_open_is_refused() {
    let (_dir, path) = place();
    open(&path).close();
    let file = fs::File::open(path.join("db")).unwrap();
    file.lock().unwrap();
    let error = Store::open(&path, NODE, BOOT).unwrap_err();
    assert!(error.to_string().contains("in use by another program that uses sled"), "{error}");
}

#[test]
fn another_nodes_store_is_refused() {
    let (_dir, path) = place();
    open(&path).close();
    let error = Store::open(&path, "node2", BOOT).unwrap_err();
    assert!(error.to_string().contains("belongs to node \"node1\", and this is node \"node2\""), "{error}");
    // Asking has changed nothing.
    open(&path).close();
}

#[test]
fn another_nodes_journal_is_refused_and_the_own_sled_stays() {
    let (dir, path) = place();
    let store = open(&path);
    store.commit(put(1)).unwrap();
    store.close();
    let (own, aside) = (path.with_extension("journal"), path.with_extension("aside"));
    fs::rename(&own, &aside).unwrap();
    // Its epoch is a later one, or it is not: both are tried often.
    for number in 0..8 {
        let other = dir.path().join(format!("{number}/store"));
        drop(Store::open(&other, "node2", BOOT).unwrap());
        fs::rename(other.with_extension("journal"), &own).unwrap();
        if let Err(error) = Store::open(&path, NODE, BOOT) {
            assert!(matches!(error, OpenError::OtherNode { .. }), "{error}");
            fs::remove_dir_all(&own).unwrap();
        } else {
            break;
        }
    }
    let _ = fs::remove_dir_all(&own);
    fs::rename(&aside, &own).unwrap();
    assert_eq!(open(&path).load().unwrap().sandboxes, [sandbox(1)]);
}

/// A sled that was open when the machine went down is not opened again if the journal has everything; only then.
#[test]
fn after_the_machine_went_down_a_sled_that_knows_more_than_the_journal_is_kept() {
    let next_boot = "5d1a3b2e-0000-4000-8000-000000000002";
    let (dir, path) = place();
    let (journal, yesterday) = (path.with_extension("journal"), dir.path().join("yesterday"));
    let moved_away = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    let store = open(&path);
    store.commit(put(1)).unwrap();
    store.close();
    fs::create_dir(&yesterday).unwrap();
    for name in names(&journal) {
        fs::copy(journal.join(&name), yesterday.join(&name)).unwrap();
    }
    let store = open(&path);
    store.commit(put(2)).unwrap();
    store.close();
    fs::write(path.join("in-use"), BOOT).unwrap();
    // With its own journal it is made anew, and nothing has to be said of it.
    fs::write(path.join("stays only with the old one"), "").unwrap();
    let store = Store::open(&path, NODE, next_boot).unwrap();
    assert!(store.recovery().is_empty(), "{:?}", store.recovery());
    assert_eq!(store.load().unwrap().sandboxes, [sandbox(1), sandbox(2)]);
    store.close();
    assert!(!path.join("stays only with the old one").exists());
    fs::write(path.join("in-use"), BOOT).unwrap();
    // With another node's it is left alone.
    let (own, other) = (dir.path().join("own"), dir.path().join("other/store"));
    moved_away(&journal, &own);
    let lock = fs::read(path.with_extension("lock")).unwrap();
    fs::remove_file(path.with_extension("lock")).unwrap();
    drop(Store::open(&other, "node2", BOOT).unwrap());
    moved_away(&other.with_extension("journal"), &journal);
    let error = Store::open(&path, NODE, "another boot").unwrap_err();
    assert!(matches!(error, OpenError::OtherNode { .. }), "{error}");
    assert!(path.join("db").is_file());
    fs::remove_dir_all(&journal).unwrap();
    // With yesterday's it is what counts.
    fs::write(path.with_extension("lock"), lock).unwrap();
    moved_away(&yesterday, &journal);
    let store = Store::open(&path, NODE, "another boot").unwrap();
    assert_eq!(store.recovery().lost, None);
    assert_eq!(store.load().unwrap().sandboxes, [sandbox(1), sandbox(2)]);
}

#[test]
fn of_what_is_moved_aside_the_newest_stay() {
    let (_dir, path) = place();
    open(&path).close();
    for number in 1..=6 {
        fs::write(path.join("db"), b"damaged").unwrap();
        let store = open(&path);
        assert_eq!(store.recovery().aside, [path.with_extension(format!("damaged-{number}"))]);
    }
    let kept = names(path.parent().unwrap()).into_iter().filter(|name| name.contains("damaged"));
    assert_eq!(kept.collect::<Vec<_>>(), ["store.damaged-3", "store.damaged-4", "store.damaged-5", "store.damaged-6"]);
}

#[test]
fn a_newer_format_is_refused_naming_both() {
    let (_dir, path) = place();
    open(&path).close();
    write_meta(&path, "format", "3");
    let error = Store::open(&path, NODE, BOOT).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 3, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("has format version 3, and this dragline knows versions up to 1"), "{error}");
}

#[test]
fn a_store_that_does_not_say_what_it_is_is_refused() {
    let (_dir, path) = place();
    open(&path).close();
    write_meta(&path, "format", "one");
    fs::remove_dir_all(path.with_extension("journal")).unwrap();
    let error = Store::open(&path, NODE, BOOT).unwrap_err();
    assert!(error.to_string().contains("is damaged: its format version is \"one\""), "{error}");
}

/// A meta entry with a right envelope.
fn write_meta(path: &Path, key: &str, text: &str) {
    let mut payload = vec![text.len() as u8];
    payload.extend_from_slice(text.as_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[8, 1]);
    hasher.update(&payload);
    let mut value = vec![8, 1];
    value.extend_from_slice(&hasher.finalize().to_le_bytes());
    value.extend_from_slice(&payload);
    let db = sled::Config::new().path(path).segment_size(4 << 20).flush_every_ms(None).open().unwrap();
    db.open_tree("meta").unwrap().insert(key, value).unwrap();
    db.flush().unwrap();
    drop(db);
    fs::File::open(path.join("db")).unwrap().lock().unwrap();
}

#[test]
fn the_rest_of_an_interrupted_creation_is_removed() {
    let (dir, path) = place();
    let unfinished = dir.path().join("store.creating");
    for existing in [false, true] {
        fs::create_dir_all(unfinished.join("blobs")).unwrap();
        fs::write(unfinished.join("db"), b"half").unwrap();
        let store = open(&path);
        assert!(!unfinished.exists());
        if existing {
            assert_eq!(store.load().unwrap().sandboxes, [sandbox(1)]);
        } else {
            store.commit(put(1)).unwrap();
        }
    }
}

#[test]
fn an_empty_directory_is_no_store() {
    let (_dir, path) = place();
    fs::create_dir(&path).unwrap();
    let store = open(&path);
    store.commit(put(1)).unwrap();
    drop(store);
    assert_eq!(open(&path).load().unwrap().sandboxes, [sandbox(1)]);
}

#[test]
fn half_a_sled_is_made_anew_and_without_a_journal_refused() {
    let (_dir, path) = place();
    let store = open(&path);
    store.commit(put(1)).unwrap();
    drop(store);
    let (journal, aside) = (path.with_extension("journal"), path.with_extension("aside"));
    for file in ["db", "conf"] {
        let content = fs::read(path.join(file)).unwrap();
        fs::remove_file(path.join(file)).unwrap();
        fs::rename(&journal, &aside).unwrap();
        let error = Store::open(&path, NODE, BOOT).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert!(!path.join(file).exists() && !journal.exists(), "nothing is made up in its place");
        // Put back, it is as before.
        fs::write(path.join(file), content).unwrap();
        fs::rename(&aside, &journal).unwrap();
        assert!(open(&path).recovery().is_empty());
        fs::remove_file(path.join(file)).unwrap();
        let store = open(&path);
        assert!(store.recovery().mended[0].contains(&format!("there is no file {file}")), "{:?}", store.recovery());
        assert_eq!(store.load().unwrap().sandboxes, [sandbox(1)]);
    }
}

#[test]
fn garbage_in_place_of_the_log_is_refused_or_healed_never_a_panic() {
    for content in [&b""[..], b"x", &[0xff; 5000], &[0; 70_000]] {
        let (_dir, path) = place();
        let store = open(&path);
        store.commit(put(1)).unwrap();
        store.close();
        let (journal, aside) = (path.with_extension("journal"), path.with_extension("aside"));
        fs::rename(&journal, &aside).unwrap();
        for snapshot in fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()) {
            if snapshot.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
                fs::remove_file(snapshot).unwrap();
            }
        }
        fs::write(path.join("db"), content).unwrap();
        let error = Store::open(&path, NODE, BOOT).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        fs::rename(&aside, &journal).unwrap();
        assert_eq!(open(&path).load().unwrap().sandboxes, [sandbox(1)]);
    }
}

/// The snapshot that sled has written, by name.
fn snapshot_name(path: &Path) -> String {
    names(path).into_iter().find(|name| name.starts_with("snap.")).expect("sled writes one when it opens")
}

#[test]
fn a_whole_snapshot_under_way_is_finished() {
    let (_dir, path) = place();
    let store = open(&path);
    store.commit(put(1)).unwrap();
    drop(store);
    // Opening writes the snapshot.
    open(&path).close();
    let name = snapshot_name(&path);
    fs::rename(path.join(&name), path.join(format!("{name}.generating"))).unwrap();
    let store = open(&path);
    assert_eq!(store.load().unwrap().sandboxes, [sandbox(1)]);
    assert!(!path.join(format!("{name}.generating")).exists());
}

#[test]
fn a_torn_snapshot_under_way_is_removed() {
    let (_dir, path) = place();
    let store = open(&path);
    store.commit(put(1)).unwrap();
    drop(store);
    open(&path).close();
    let whole = fs::read(path.join(snapshot_name(&path))).unwrap();
    for len in [0, 1, 11, 12, 13, whole.len() / 2, whole.len() - 1] {
        // Newer than every other, so that sled would take it.
        let torn = path.join("snap.7FFFFFFFFFFFFFFF.generating");
        fs::write(&torn, &whole[..len]).unwrap();
        let store = open(&path);
        assert_eq!(store.load().unwrap().sandboxes, [sandbox(1)], "cut to {len}");
        assert!(!torn.exists() && !path.join("snap.7FFFFFFFFFFFFFFF").exists());
    }
}
