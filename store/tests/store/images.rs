//! Whole stores as bytes: taken from disk, harmed, and put down elsewhere to be opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The name of the store in each directory here.
pub(crate) const STORE: &str = "store";
/// The name of its journal.
pub(crate) const JOURNAL: &str = "store.journal";
/// The name of its lock, whose content is only the process that holds it.
pub(crate) const LOCK: &str = "store.lock";

/// Everything below one directory. A path without bytes is a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Image(pub(crate) BTreeMap<PathBuf, Option<Vec<u8>>>);

/// A directory for stores that need not survive a power cut: in memory where there is such a place.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Image {
    /// Takes what stands in a directory now. While a store is open there, that is what kill -9 would leave, provided
    /// that its upkeep rests.
    pub(crate) fn taken(dir: &Path) -> Self {
        loop {
            let mut image = Self::default();
            match image.take(dir, Path::new("")) {
                Ok(()) => return image,
                // A file went between listing and reading: the upkeep has just replaced it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => panic!("{}: {error}", dir.display()),
            }
        }
    }

    fn take(&mut self, root: &Path, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root.join(below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.0.insert(path.clone(), None);
                self.take(root, &path)?;
            } else {
                self.0.insert(path, Some(fs::read(entry.path())?));
            }
        }
        Ok(())
    }

    /// Puts all of it into an empty directory.
    pub(crate) fn put(&self, dir: &Path) {
        for (path, bytes) in &self.0 {
            let path = dir.join(path);
            match bytes {
                None => fs::create_dir(&path).unwrap(),
                Some(bytes) => {
                    // The zeros at the end are a hole: most files have a mebibyte of them.
                    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                    fs::write(&path, &bytes[..end]).unwrap();
                    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes.len() as u64).unwrap();
                }
            }
        }
    }

    /// The files that the store's content is in, all but the lock.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&PathBuf, &Vec<u8>)> {
        self.0
            .iter()
            .filter_map(|(path, bytes)| Some((path, bytes.as_ref()?)))
            .filter(|(path, _)| *path != Path::new(LOCK))
    }

    /// One file's bytes.
    pub(crate) fn file(&mut self, path: &Path) -> &mut Vec<u8> {
        self.0.get_mut(path).and_then(Option::as_mut).unwrap_or_else(|| panic!("no file {}", path.display()))
    }

    /// Without a file, or a directory and all that is below it.
    pub(crate) fn without(mut self, path: impl AsRef<Path>) -> Self {
        self.0.retain(|there, _| !there.starts_with(&path));
        self
    }

    /// Where it differs from another, but for the marks of who has it and for sled's own snapshots: those are an index of its log,
    /// which sled may write anew whenever it opens.
    pub(crate) fn differs(&self, other: &Self) -> Vec<PathBuf> {
        let marks = [Path::new(LOCK), Path::new("store/in-use")];
        let counts =
            |path: &&PathBuf| !marks.contains(&path.as_path()) && !path.to_string_lossy().starts_with("store/snap.");
        let both: BTreeSet<&PathBuf> = self.0.keys().chain(other.0.keys()).filter(counts).collect();
        both.into_iter().filter(|path| self.0.get(*path) != other.0.get(*path)).cloned().collect()
    }

    /// With a file or directory, and all that is below it, as it is in another image; gone if it is not there.
    pub(crate) fn with_from(self, path: impl AsRef<Path>, other: &Self) -> Self {
        let mut image = self.without(&path);
        let taken = other.0.iter().filter(|(there, _)| there.starts_with(&path));
        image.0.extend(taken.map(|(path, bytes)| (path.clone(), bytes.clone())));
        image
    }
}

/// A random number generator: what is tried is to differ from run to run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
        Self(now.as_nanos() as u64 | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
