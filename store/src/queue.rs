//! Where changes wait for the committer: bounded, in order, woken by an event.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::change::Change;
use crate::commit::CommitError;

/// The most changes that share one sync.
const GROUP_CHANGES: usize = 512;
/// The most bytes that share one sync; also the largest change.
pub(crate) const GROUP_BYTES: usize = 4 << 20;
/// The most changes that wait.
pub(crate) const QUEUE_CHANGES: usize = 8192;
/// The most bytes that wait.
const QUEUE_BYTES: usize = 32 << 20;

/// What is told of a change's end.
pub(crate) type Done = Box<dyn FnOnce(Result<(), CommitError>) + Send>;

/// A change and who waits for it.
pub(crate) struct Waiting {
    pub(crate) change: Change,
    pub(crate) done: Done,
}

/// The queue between the callers and the one committer.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    closed: bool,
    poison: Option<Arc<str>>,
}

impl Queue {
    /// Lets a change wait, or says at once why it will not be committed. Never blocks.
    pub(crate) fn push(&self, change: Change, done: Done) {
        match self.admit(&change) {
            Ok(mut state) => {
                state.bytes += change.bytes;
                state.waiting.push_back(Waiting { change, done });
                drop(state);
                self.arrived.notify_one();
            }
            Err(error) => done(Err(error)),
        }
    }

    fn admit(&self, change: &Change) -> Result<MutexGuard<'_, State>, CommitError> {
        if let Some(error) = &change.refused {
            return Err(CommitError::Record(error.clone()));
        }
        if change.bytes > GROUP_BYTES {
            return Err(CommitError::ChangeTooLarge { bytes: change.bytes });
        }
        let state = self.lock();
        if let Some(reason) = &state.poison {
            return Err(CommitError::Poisoned { reason: reason.clone() });
        }
        if state.closed {
            return Err(CommitError::Closed);
        }
        if state.waiting.len() >= QUEUE_CHANGES || state.bytes + change.bytes > QUEUE_BYTES {
            return Err(CommitError::Overloaded { changes: state.waiting.len(), bytes: state.bytes });
        }
        Ok(state)
    }

    /// The next changes to commit together, waiting for the first; None once the queue is closed and empty.
    pub(crate) fn next_group(&self) -> Option<Vec<Waiting>> {
        let mut state = self.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(next) = state.waiting.front() {
            if group.len() == GROUP_CHANGES || (!group.is_empty() && bytes + next.change.bytes > GROUP_BYTES) {
                break;
            }
            bytes += next.change.bytes;
            group.extend(state.waiting.pop_front());
        }
        state.bytes -= bytes;
        Some(group)
    }

    /// Nothing is taken any more; what waits is still committed.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Nothing is committed any more.
    pub(crate) fn poison(&self, reason: Arc<str>) {
        self.lock().poison.get_or_insert(reason);
    }

    /// Why nothing is committed any more.
    pub(crate) fn poisoned(&self) -> Option<Arc<str>> {
        self.lock().poison.clone()
    }

    /// How many changes wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// No code of others runs under the lock, so a panic elsewhere leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
