//! SQLite as its users have it: a write-ahead log, `synchronous=FULL`, a transaction for each call.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::Connection;

use super::{Step, Subject, TREES, Writer, keys, records};

/// How writers share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    /// Each has its own, and waits as SQLite waits.
    Each,
    /// There is one, behind a lock.
    Shared,
}

pub(crate) struct Sqlite {
    path: PathBuf,
    connections: Connections,
    first: Mutex<Connection>,
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection
}

impl Sqlite {
    pub(crate) fn open(dir: &Path, connections: Connections) -> Self {
        let path = dir.join("sqlite");
        let first = connect(&path);
        for tree in TREES {
            let table = format!("CREATE TABLE IF NOT EXISTS {tree} (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID");
            first.execute(&table, []).unwrap();
        }
        Self { path, connections, first: Mutex::new(first) }
    }
}

impl Subject for Sqlite {
    fn writer(&self) -> Box<dyn Writer + '_> {
        match self.connections {
            Connections::Each => Box::new(connect(&self.path)),
            Connections::Shared => Box::new(&self.first),
        }
    }

    fn load(&self) -> usize {
        let connection = lock(&self.first);
        let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for tree in TREES {
            let mut select = connection.prepare(&format!("SELECT key, value FROM {tree} ORDER BY key")).unwrap();
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            all.extend(rows.map(Result::unwrap));
        }
        all.len()
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap()
}

impl Writer for &Mutex<Connection> {
    fn apply(&mut self, steps: &[Step]) {
        apply(&lock(self), steps);
    }
}

impl Writer for Connection {
    fn apply(&mut self, steps: &[Step]) {
        apply(self, steps);
    }
}

fn apply(connection: &Connection, steps: &[Step]) {
    const PUT: [&str; 3] = [
        "INSERT OR REPLACE INTO attachments VALUES (?, ?)",
        "INSERT OR REPLACE INTO allocations VALUES (?, ?)",
        "INSERT OR REPLACE INTO sandboxes VALUES (?, ?)",
    ];
    const DELETE: [&str; 3] = [
        "DELETE FROM attachments WHERE key = ?",
        "DELETE FROM allocations WHERE key = ?",
        "DELETE FROM sandboxes WHERE key = ?",
    ];
    let run = |statement: &str, values: &[&Vec<u8>]| {
        let mut statement = connection.prepare_cached(statement).unwrap();
        statement.execute(rusqlite::params_from_iter(values)).unwrap();
    };
    run("BEGIN IMMEDIATE", &[]);
    for step in steps {
        match step {
            Step::Put(number) => {
                records(*number).iter().for_each(|record| run(PUT[record.tree], &[&record.key, &record.value]));
            }
            Step::Delete(number) => {
                keys(*number).iter().enumerate().for_each(|(tree, key)| run(DELETE[tree], &[key]));
            }
        }
    }
    run("COMMIT", &[]);
}
