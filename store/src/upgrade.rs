//! From one format version to the next: one function per step, on a copy, which one rename then makes the store.
//!
//! Version 0 was never released. It is what version 1 would have been without the state of an allocation, and it is kept to
//! prove that the machinery works before the first real step needs it: a store and a dump of it stand with the tests.

use std::net::IpAddr;

use schemas::dump::RecordLine;
use schemas::intent::{Allocation, AllocationState};
use schemas::name::AttachmentKey;
use serde::{Deserialize, Serialize};

use crate::codec::{self, MetaText, Record, RecordKind};
use crate::journal::JournalDir;
use crate::journal::snapshot::SnapshotWriter;
use crate::live::{Live, OpenSled, RawRecord, Size};
use crate::open::{FORMAT_VERSION, OpenError};
use crate::places::Places;
use crate::position::{Digest, Position};
use crate::recovery::make_journal_dir;
use crate::sled_dir;
use crate::trees::{self, TreeName};

/// Brings a store to the format that is written today: its records, each step after step, become the first snapshot of a
/// new epoch. Until that is published the old state stands untouched, and counts.
pub(crate) fn to_current(
    journal: &JournalDir,
    places: &Places,
    sled: OpenSled,
    position: Position,
    size: Size,
    format: u32,
) -> Result<(), OpenError> {
    let refused = |reason: String| OpenError::Upgrade {
        path: places.sled().to_owned(),
        found: format,
        known: FORMAT_VERSION,
        reason,
    };
    make_journal_dir(journal, places)?;
    let live = Live::new(sled, position, size);
    let written = write_upgraded(journal, &live, position, format);
    if let Some(sled) = live.close() {
        sled_dir::close(sled);
    }
    written.map_err(refused)
}

fn write_upgraded(journal: &JournalDir, live: &std::sync::Arc<Live>, old: Position, format: u32) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let position = Position { epoch: old.epoch.next().map_err(text)?, ..Position::NOTHING };
    let mut writer = SnapshotWriter::create(journal.snapshot_path(position), position).map_err(text)?;
    let mut digest = Digest::default();
    let mut view = live.view();
    while let Some(records) = view.next_records().map_err(|error| error.to_string())? {
        for record in records {
            let place = trees::readable_key(record.tree, &record.key);
            let record = upgraded(record, format).map_err(|reason| format!("{place}: {reason}"))?;
            digest.add(record.tree, &record.key, &record.value);
            writer.put(record.tree, record.key, record.value).map_err(text)?;
        }
    }
    writer.publish(digest).map_err(text)?;
    Ok(())
}

/// A record of an old store, brought through every step.
fn upgraded(mut record: RawRecord, format: u32) -> Result<RawRecord, String> {
    for version in format..FORMAT_VERSION {
        record = match version {
            0 => from_0(record)?,
            _ => return Err(format!("there never was a format version {version}")),
        };
    }
    if record.tree == TreeName::Meta && record.key == trees::META_FORMAT {
        record.value = codec::encode(&MetaText(FORMAT_VERSION.to_string())).map_err(|error| error.to_string())?;
    }
    Ok(record)
}

/// A line of an old dump, brought through every step.
pub(crate) fn line(mut line: RecordLine, format: u32) -> Result<RecordLine, String> {
    for version in format..FORMAT_VERSION {
        line = match version {
            0 => line_from_0(line)?,
            _ => return Err(format!("there never was a format version {version}")),
        };
    }
    Ok(line)
}

/// An allocation of format 0: whoever has an address holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AllocationV0 {
    pub(crate) address: IpAddr,
    pub(crate) pool: String,
    pub(crate) owner: AttachmentKey,
}

impl Record for AllocationV0 {
    const KIND: RecordKind = RecordKind::Allocation;
    const VERSION: u8 = 0;
}

impl From<AllocationV0> for Allocation {
    fn from(old: AllocationV0) -> Self {
        let AllocationV0 { address, pool, owner } = old;
        Self { address, pool, owner, state: AllocationState::Held }
    }
}

fn from_0(record: RawRecord) -> Result<RawRecord, String> {
    if record.tree != TreeName::Allocations {
        return Ok(record);
    }
    // A damaged one stays as it is: it is reported, and its address counts as taken.
    let Ok(old) = codec::decode::<AllocationV0>(&record.value) else { return Ok(record) };
    let value = codec::encode(&Allocation::from(old)).map_err(|error| error.to_string())?;
    Ok(RawRecord { value, ..record })
}

fn line_from_0(mut line: RecordLine) -> Result<RecordLine, String> {
    if let (true, Some(record)) = (line.tree == TreeName::Allocations.as_str(), &line.record) {
        let old = AllocationV0::deserialize(&**record).map_err(|error| error.to_string())?;
        let new = serde_json::value::to_raw_value(&Allocation::from(old)).map_err(|error| error.to_string())?;
        line.record = Some(new);
    }
    Ok(line)
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
