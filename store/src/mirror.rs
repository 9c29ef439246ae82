//! How sled comes to hold what the journal holds.

use std::path::Path;

use crate::journal::frame::Write;
use crate::journal::snapshot::{self, SnapshotError};
use crate::live::{self, Effect, Size, Touched};
use crate::position::{Digest, Position};
use crate::trees::Trees;

/// Why a snapshot's records are not in a new sled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FillError {
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("its records do not add up to what it says")]
    Digest,
    #[error("{0}")]
    Sled(#[from] sled::Error),
}

/// Puts a snapshot's records into an empty sled.
pub(crate) fn fill(trees: &Trees, path: &Path, base: Position) -> Result<(), FillError> {
    let mut digest = Digest::default();
    let read = snapshot::read(path, |writes: &[Write<'_>]| {
        for write in writes {
            let value = write.value.unwrap_or_default();
            digest.add(write.tree, write.key, value);
            trees.tree(write.tree).insert(write.key, value)?;
        }
        Ok::<_, FillError>(())
    });
    if read? != base || digest != base.digest {
        return Err(FillError::Digest);
    }
    Ok(live::note_position(trees, base)?)
}

/// Applies a group of the journal to sled.
pub(crate) fn replay(
    trees: &Trees,
    writes: &[Write<'_>],
    position: &mut Position,
    size: &mut Size,
) -> Result<(), sled::Error> {
    let mut effect = Effect::new();
    for write in writes {
        let old = trees.tree(write.tree).get(write.key)?;
        if let Some(old) = &old {
            size.subtract(write.tree, write.key, old);
        }
        if let Some(new) = write.value {
            size.add(write.tree, write.key, new);
        }
        let new = write.value.map(<[u8]>::to_vec);
        effect.insert((write.tree, write.key.to_vec()), Touched { old, new });
    }
    let after = crate::commit::after(*position, &effect);
    let frame = live::frame_of(position.digest, after, &effect);
    *position = after;
    live::write(trees, &effect, &frame, after)
}
