//! What the file system forbids is no damage: the open is refused as what it is, or goes on where it needs nothing of
//! it; nothing is changed, and once it is allowed again all is there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use store::{OpenError, Store};

use crate::corruption::{Aged, alive, closed, many_lives};
use crate::images::*;
use crate::namespaces;
use crate::sample::{self, BOOT, NODE};
use crate::traffic;

const DIR: &str = "DRAGLINE_TEST_READ_ONLY_DISK";

fn holds(case: &str, store: &Store, aged: &Aged) {
    let snapshot = store.load().unwrap_or_else(|error| panic!("{case}: {error}"));
    let acknowledged = aged.expected.acknowledged;
    let turns = traffic::turns_in(&snapshot, aged.expected.seed, acknowledged, acknowledged);
    turns.unwrap_or_else(|error| panic!("{case}: {error}"));
}

/// Opens what is forbidden in part; `allow` ends that. Returns the refusal.
fn forbidden(case: &str, dir: &Path, aged: &Aged, says: &str, allow: impl FnOnce()) -> Option<String> {
    let before = Image::taken(dir);
    open_forbidden(case, dir, aged, says, &before, allow)
}

fn open_forbidden(
    case: &str,
    dir: &Path,
    aged: &Aged,
    says: &str,
    before: &Image,
    allow: impl FnOnce(),
) -> Option<String> {
    let opened = Store::open(&dir.join(STORE), NODE, BOOT);
    let refusal = match opened {
        Ok(store) => {
            holds(case, &store, aged);
            store.close();
            allow();
            None
        }
        Err(error) => {
            allow();
            let text = error.to_string();
            assert!(matches!(error, OpenError::Io { .. }) && text.contains(says), "{case}: {error:?}");
            let changed = before.differs(&Image::taken(dir));
            assert!(changed.is_empty(), "{case}: refused ({text}), and changed: {changed:?}");
            Some(text)
        }
    };
    let store = sample::open(&dir.join(STORE));
    assert_eq!(store.recovery().lost, None, "{case}");
    holds(case, &store, aged);
    store.close();
    assert!(sample::open(&dir.join(STORE)).recovery().is_empty(), "{case}");
    refusal
}

#[test]
fn what_may_not_be_read_or_written_is_refused_unchanged() {
    // Without rights over what it owns, but its modes: root of the machine would be let through.
    namespaces::run(&["--user"], "forbidden::modes", |child| child);
}

/// Not a test by itself: it must not run with a right over all files.
#[test]
#[ignore = "the child process of what_may_not_be_read_or_written_is_refused_unchanged"]
fn modes() {
    let (mut refused, mut opened) = (0, 0);
    for aged in [closed(), alive(), many_lives()] {
        let mut paths: Vec<PathBuf> = aged.today.0.keys().cloned().collect();
        paths.push(PathBuf::new());
        for path in paths {
            for mode in [0o000, 0o444, 0o555] {
                let dir = scratch();
                aged.today.put(dir.path());
                let place = dir.path().join(&path);
                let usual = fs::metadata(&place).unwrap().permissions();
                let before = Image::taken(dir.path());
                fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
                assert!(fs::File::options().write(true).open(&place).is_err(), "this user is let through everywhere");
                let case = format!("{}: {} with mode {mode:03o}", aged.name, path.display());
                let allow = || {
                    // Moved aside, it is no longer in the way.
                    if place.exists() {
                        fs::set_permissions(&place, usual).unwrap();
                    }
                };
                let refusal = open_forbidden(&case, dir.path(), &aged, "Permission denied", &before, allow);
                *(if refusal.is_some() { &mut refused } else { &mut opened }) += 1;
                if let (Some(refusal), "closed") = (refusal, aged.name) {
                    eprintln!(
                        "told: {mode:03o} {}: {}",
                        path.display(),
                        refusal.replace(&*dir.path().to_string_lossy(), "")
                    );
                }
            }
        }
    }
    eprintln!("told: modes: {refused} refused, {opened} opened");
    assert!(refused > 0 && opened > 0);
}

#[test]
fn a_read_only_file_system_is_refused_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let test = "forbidden::read_only";
    namespaces::run(&["--user", "--map-root-user", "--mount"], test, |child| child.env(DIR, dir.path()));
}

/// Not a test by itself: it wants a mount of its own.
#[test]
#[ignore = "the child process of a_read_only_file_system_is_refused_unchanged"]
fn read_only() {
    let dir = PathBuf::from(std::env::var(DIR).expect("the parent names the mount point"));
    let mount =
        |arguments: &[&str]| assert!(Command::new("mount").args(arguments).arg(&dir).status().unwrap().success());
    for aged in [closed(), alive(), many_lives()] {
        for gone in ["", STORE, JOURNAL] {
            mount(&["-t", "tmpfs", "none"]);
            match gone {
                "" => aged.today.put(&dir),
                gone => aged.today.clone().without(gone).put(&dir),
            }
            mount(&["-o", "remount,ro"]);
            let case = format!("{}, read-only, without {gone:?}", aged.name);
            let refusal = forbidden(&case, &dir, &aged, "Read-only file system", || mount(&["-o", "remount,rw"]));
            assert!(refusal.is_some(), "{case}: it is opened");
            assert!(Command::new("umount").arg(&dir).status().unwrap().success());
        }
    }
}
