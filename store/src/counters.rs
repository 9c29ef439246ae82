//! What the store has done since it was opened.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the store was opened; they only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Transactions that wrote something, each of one or many changes.
    pub commits: AtomicU64,
    /// Changes that were acknowledged, those that changed nothing included.
    pub changes: AtomicU64,
    /// Calls of fdatasync that commits waited for.
    pub syncs: AtomicU64,
    /// Bytes of the groups that commits wrote, each counted once.
    pub bytes: AtomicU64,
    /// Snapshots that have replaced grown logs.
    pub snapshots: AtomicU64,
    /// Times that a grown sled has been written anew.
    pub compactions: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, number: u64) {
        counter.fetch_add(number, Relaxed);
    }

    /// One of the counters now.
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }
}
