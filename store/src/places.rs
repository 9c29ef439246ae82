//! Where the files of a store are: the directory that was asked for, and what stands beside it under its name.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::journal::JournalDir;

/// The paths of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    parent: PathBuf,
    dir: PathBuf,
}

impl Places {
    /// Those of the store in `dir`.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        let dir = std::path::absolute(dir)?;
        match (dir.parent(), dir.file_name()) {
            (Some(parent), Some(_)) => Ok(Self { parent: parent.to_owned(), dir }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no directory below another")),
        }
    }

    /// Where sled is.
    pub(crate) fn sled(&self) -> &Path {
        &self.dir
    }

    /// The directory that all of it stands in.
    pub(crate) fn parent(&self) -> &Path {
        &self.parent
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.dir.file_name().unwrap_or(OsStr::new("store")).to_owned();
        name.push(suffix);
        self.parent.join(name)
    }

    /// The journal.
    pub(crate) fn journal(&self) -> JournalDir {
        JournalDir::new(self.beside(".journal"))
    }

    /// Whoever holds this file's lock has the store.
    pub(crate) fn lock(&self) -> PathBuf {
        self.beside(".lock")
    }

    /// A sled that is being made; nothing counts on it.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.beside(".creating")
    }

    /// The sled that has just been replaced by another; nothing counts on it while there is one at its place.
    pub(crate) fn replaced(&self) -> PathBuf {
        self.beside(".replaced")
    }

    /// Copies of records that could not be used.
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.beside(".quarantine")
    }

    /// A free name to move something damaged to: the next number. Of what was moved before, the newest three stay.
    pub(crate) fn aside(&self) -> io::Result<PathBuf> {
        let prefix = self.beside(".damaged-");
        let prefix = prefix.file_name().unwrap_or_default().to_string_lossy();
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.parent)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(&*prefix)?.parse::<u32>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        for old in numbers.iter().rev().skip(3) {
            std::fs::remove_dir_all(self.beside(&format!(".damaged-{old}")))?;
        }
        let next = numbers.last().map_or(1, |last| last.saturating_add(1));
        Ok(self.beside(&format!(".damaged-{next}")))
    }
}
