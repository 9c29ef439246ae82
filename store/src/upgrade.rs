//! From one format version to the next.

use crate::journal::JournalDir;
use crate::live::{OpenSled, Size};
use crate::open::{FORMAT_VERSION, OpenError};
use crate::places::Places;
use crate::position::Position;

/// Brings a store to the format that is written today.
pub(crate) fn to_current(
    _journal: &JournalDir,
    places: &Places,
    _sled: OpenSled,
    _position: Position,
    _size: Size,
    format: u32,
) -> Result<(), OpenError> {
    Err(OpenError::Upgrade {
        path: places.sled().to_owned(),
        found: format,
        known: FORMAT_VERSION,
        reason: "there never was this version".to_owned(),
    })
}
