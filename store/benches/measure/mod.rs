//! What is measured: our store, its peers and the floor below all of them, behind the same few calls and with the same
//! records.

pub(crate) mod floor;
pub(crate) mod footprint;
pub(crate) mod ours;
pub(crate) mod redb;
pub(crate) mod sqlite;
pub(crate) mod table;

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/store/sample.rs"]
pub(crate) mod sample;

use std::path::Path;

use bincode::config::standard;
use bincode::serde::encode_to_vec;

/// One intent, by its number: begun or ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Put(u32),
    Delete(u32),
}

/// A store that is open; dropping it closes it cleanly.
pub(crate) trait Subject: Sync {
    /// A writer's way in: each thread has its own.
    fn writer(&self) -> Box<dyn Writer + '_>;

    /// Reads everything; returns how many records there are.
    fn load(&self) -> usize;
}

/// A way in.
pub(crate) trait Writer {
    /// Applies steps in order; all of them are durable when it returns. Those of a peer share one transaction, ours are
    /// submitted together.
    fn apply(&mut self, steps: &[Step]);
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    /// One file that grows.
    Append,
    /// One file that was filled with zeros before.
    Overwrite,
    Redb,
    /// Every writer has a connection of its own.
    Sqlite,
    /// All writers share one connection.
    SqliteShared,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Append => "floor (a): append",
            Self::Overwrite => "floor (b): overwrite",
            Self::Redb => "redb",
            Self::Sqlite => "SQLite, a connection each",
            Self::SqliteShared => "SQLite, one connection",
        }
    }

    /// The word that names it on a command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Append => "append",
            Self::Overwrite => "overwrite",
            Self::Redb => "redb",
            Self::Sqlite => "sqlite",
            Self::SqliteShared => "sqlite-shared",
        }
    }

    /// The one that a word names.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Ours, Self::Append, Self::Overwrite, Self::Redb, Self::Sqlite, Self::SqliteShared];
        all.into_iter().find(|kind| kind.word() == word)
    }

    /// Opens it in a directory that is its own, making it if there is none.
    pub(crate) fn open(self, dir: &Path) -> Box<dyn Subject> {
        match self {
            Self::Ours => Box::new(ours::Ours::open(dir)),
            Self::Append => Box::new(floor::Floor::appending(dir)),
            Self::Overwrite => Box::new(floor::Floor::overwriting(dir)),
            Self::Redb => Box::new(redb::Redb::open(dir)),
            Self::Sqlite => Box::new(sqlite::Sqlite::open(dir, sqlite::Connections::Each)),
            Self::SqliteShared => Box::new(sqlite::Sqlite::open(dir, sqlite::Connections::Shared)),
        }
    }
}

/// The trees of a record, as our store numbers them.
pub(crate) const TREES: [&str; 3] = ["attachments", "allocations", "sandboxes"];

/// A record as the peers have it: our keys, and the bytes that our records have inside their envelopes.
pub(crate) struct Plain {
    /// Index into [`TREES`].
    pub(crate) tree: usize,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// The records of one intent.
pub(crate) fn records(number: u32) -> [Plain; 3] {
    let [attachment, allocation, sandbox] = keys(number);
    let (config, plain) = (standard(), |tree, key, value| Plain { tree, key, value });
    [
        plain(0, attachment, encode_to_vec(sample::attachment(number), config).unwrap()),
        plain(1, allocation, encode_to_vec(sample::allocation(number), config).unwrap()),
        plain(2, sandbox, encode_to_vec(sample::sandbox(number), config).unwrap()),
    ]
}

/// Their keys, in the order of [`TREES`].
pub(crate) fn keys(number: u32) -> [Vec<u8>; 3] {
    let key = sample::key(number);
    let container = key.container.as_str().as_bytes();
    [
        [container, &[0], key.ifname.as_str().as_bytes()].concat(),
        [4, 10].into_iter().chain(number.to_be_bytes()[1..].iter().copied()).collect(),
        container.to_vec(),
    ]
}

/// How many bytes the records of one intent have, keys included.
pub(crate) fn bytes(number: u32) -> usize {
    records(number).iter().map(|record| record.key.len() + record.value.len()).sum()
}

/// Puts intents 0 to `intents`, many at a time.
pub(crate) fn fill(subject: &dyn Subject, intents: u32) {
    const TOGETHER: u32 = 2000;
    let mut writer = subject.writer();
    for first in (0..intents).step_by(TOGETHER as usize) {
        let steps: Vec<_> = (first..intents.min(first + TOGETHER)).map(Step::Put).collect();
        writer.apply(&steps);
    }
}
