//! What can happen to the files of a store.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The length of a file's content: what follows is zeros.
fn content_len(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

/// Turns a byte in the middle of the content into another; one that is not zero, as zeros may be anything's padding.
pub(crate) fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = content_len(path) as usize / 2;
    let at = middle + bytes[middle..].iter().position(|byte| *byte != 0).unwrap();
    bytes[at] ^= 0x10;
    File::options().write(true).open(path).unwrap().write_all_at(&bytes[at..=at], at as u64).unwrap();
}

/// Cuts off the second half of the content.
pub(crate) fn halve(path: &Path) {
    File::options().write(true).open(path).unwrap().set_len(content_len(path) / 2).unwrap();
}

pub(crate) fn store(state_dir: &Path) -> PathBuf {
    state_dir.join("store")
}

pub(crate) fn journal(state_dir: &Path) -> PathBuf {
    state_dir.join("store.journal")
}

/// The journal's files whose names begin so, in their order; there is one at least.
pub(crate) fn of_journal(state_dir: &Path, start: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(journal(state_dir)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start)).collect();
    found.sort();
    assert!(!found.is_empty(), "the journal has no {start}");
    found
}

/// The log that holds most.
pub(crate) fn fullest_log(state_dir: &Path) -> PathBuf {
    of_journal(state_dir, "log-").into_iter().max_by_key(|path| content_len(path)).unwrap()
}

/// Copies a directory with its files.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a copy in the place of a directory.
pub(crate) fn put_back(copied: &Path, place: &Path) {
    fs::remove_dir_all(place).unwrap();
    copy(copied, place);
}
