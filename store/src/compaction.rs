//! A grown sled written anew: its successor is made beside from a view, follows what is committed meanwhile, and takes the
//! place of the old one between two commits.
//!
//! The journal holds everything all the time, so no instant of this can lose anything: at worst the next open makes sled
//! anew once more.

use std::fs;

use crate::live::{Live, OpenSled, View, note_position};
use crate::open::{OpenError, at};
use crate::places::Places;
use crate::sled_dir::{self, sync_path};
use crate::trees::Trees;

/// A successor that follows with fewer groups than this is ready: commits wait while it follows with them.
const FEW: usize = 16;

/// Why a sled was not written anew; the old one goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactionError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{0}")]
    Failed(String),
    #[error("the store is being closed")]
    Closing,
}

/// Writes sled anew.
pub(crate) fn compact(
    live: &std::sync::Arc<Live>,
    places: &Places,
    boot_id: &str,
    stop: impl Fn() -> bool,
) -> Result<(), CompactionError> {
    let unfinished = places.unfinished();
    if unfinished.exists() {
        at("remove", &unfinished, |path| fs::remove_dir_all(path))?;
    }
    let successor = sled_dir::create(&unfinished, boot_id)?;
    let made = make(live, &successor, stop).and_then(|()| Ok(sled_dir::settle(&unfinished, &successor)?));
    let replaced = match made {
        Ok(()) => live.replace(successor).map_err(|(successor, reason)| (successor, CompactionError::Failed(reason))),
        Err(error) => Err((successor, error)),
    };
    live.end_successor();
    match replaced {
        Ok(old) => move_into_place(places, old),
        Err((successor, error)) => {
            sled_dir::close(successor);
            at("remove", &unfinished, |path| fs::remove_dir_all(path))?;
            Err(error)
        }
    }
}

fn make(live: &std::sync::Arc<Live>, successor: &OpenSled, stop: impl Fn() -> bool) -> Result<(), CompactionError> {
    let view = live.begin_successor();
    let position = view.position();
    fill(&successor.trees, view, &stop)?;
    let failed = |error: sled::Error| CompactionError::Failed(error.to_string());
    note_position(&successor.trees, position).map_err(failed)?;
    // Each round takes less time than the one before, unless commits come faster than they can be followed.
    for _ in 0..64 {
        if stop() {
            return Err(CompactionError::Closing);
        }
        if live.catch_up(successor).map_err(CompactionError::Failed)? <= FEW {
            return successor.make_durable().map_err(CompactionError::Failed);
        }
    }
    Err(CompactionError::Failed("commits come faster than a new sled can follow".to_owned()))
}

fn fill(trees: &Trees, mut view: View, stop: impl Fn() -> bool) -> Result<(), CompactionError> {
    let failed = |error: &dyn std::fmt::Display| CompactionError::Failed(error.to_string());
    while let Some(records) = view.next_records().map_err(|error| failed(&error))? {
        if stop() {
            return Err(CompactionError::Closing);
        }
        for record in records {
            trees.tree(record.tree).insert(record.key, record.value).map_err(|error| failed(&error))?;
        }
    }
    Ok(())
}

/// Puts the successor's directory, which is open and in use already, under sled's name.
fn move_into_place(places: &Places, old: OpenSled) -> Result<(), CompactionError> {
    let (sled, replaced) = (places.sled(), places.replaced());
    if replaced.exists() {
        at("remove", &replaced, |path| fs::remove_dir_all(path))?;
    }
    at("move away", sled, |sled| fs::rename(sled, &replaced))?;
    at("move into place", sled, |sled| fs::rename(places.unfinished(), sled))?;
    sync_path(places.parent())?;
    sled_dir::close(old);
    at("remove", &replaced, |path| fs::remove_dir_all(path))?;
    Ok(())
}

#[cfg(test)]
#[path = "compaction_tests.rs"]
mod tests;
