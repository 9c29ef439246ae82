//! The floor: no store, only the bytes of the records in a file, and `fdatasync`. Many writers share one sync, as
//! nothing durable can do with less.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex};

use super::{Step, Subject, Writer, keys, records};

/// Length of the file that is overwritten; at its end it begins again.
const FILLED: u64 = 64 << 20;

pub(crate) struct Floor {
    file: File,
    /// The length at which it begins again; None where it only grows.
    filled: Option<u64>,
    state: Mutex<State>,
    synced: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that no sync has begun for.
    pending: Vec<u8>,
    /// How many writers have ever added to them.
    added: u64,
    /// How many of those are durable.
    durable: u64,
    /// Some writer is syncing for all.
    led: bool,
    /// Where the file goes on.
    at: u64,
}

impl Floor {
    pub(crate) fn appending(dir: &Path) -> Self {
        Self::new(File::create(dir.join("log")).unwrap(), None)
    }

    pub(crate) fn overwriting(dir: &Path) -> Self {
        let file = File::create(dir.join("log")).unwrap();
        let zeros = vec![0; 1 << 20];
        for at in (0..FILLED).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).unwrap();
        }
        file.sync_all().unwrap();
        Self::new(file, Some(FILLED))
    }

    fn new(file: File, filled: Option<u64>) -> Self {
        Self { file, filled, state: Mutex::default(), synced: Condvar::new() }
    }
}

impl Subject for Floor {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(self)
    }

    fn load(&self) -> usize {
        unreachable!("nothing can be read from the floor")
    }
}

impl Writer for &Floor {
    fn apply(&mut self, steps: &[Step]) {
        let mut bytes = Vec::new();
        for step in steps {
            match step {
                Step::Put(number) => {
                    records(*number)
                        .iter()
                        .flat_map(|record| [&record.key, &record.value])
                        .for_each(|part| bytes.extend(part));
                }
                Step::Delete(number) => keys(*number).iter().for_each(|key| bytes.extend(key)),
            }
        }
        let mut state = self.state.lock().unwrap();
        state.pending.append(&mut bytes);
        state.added += 1;
        let ticket = state.added;
        while state.durable < ticket {
            if state.led {
                state = self.synced.wait(state).unwrap();
                continue;
            }
            state.led = true;
            let (group, added) = (std::mem::take(&mut state.pending), state.added);
            if self.filled.is_some_and(|filled| state.at + group.len() as u64 > filled) {
                state.at = 0;
            }
            let at = state.at;
            state.at += group.len() as u64;
            drop(state);
            self.file.write_all_at(&group, at).and_then(|()| self.file.sync_data()).unwrap();
            state = self.state.lock().unwrap();
            state.durable = added;
            state.led = false;
            self.synced.notify_all();
        }
    }
}
