//! What can still be read of a store of which neither copy is whole.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use schemas::dump::Counts;

use crate::dump::{self, DumpError, Dumped, Lines};
use crate::journal::Found;
use crate::journal::frame::{self, Write as FrameWrite};
use crate::journal::snapshot::{self, SnapshotError};
use crate::live::{self, Place, RawRecord, Size};
use crate::open::{OpenError, at, lock};
use crate::places::Places;
use crate::position::Digest;
use crate::sled_dir::{self, SledCopy};
use crate::text;
use crate::trees::{self, META_POSITION, TreeName};

/// Dumps what is whole: sled's records, over them those of the journal's newest snapshot up to where it is damaged, over
/// them its logs. Nothing is changed on disk but sled's own bookkeeping.
pub(crate) fn dump(dir: &Path, reason: &str, now: SystemTime, out: impl Write) -> Result<Dumped, DumpError> {
    let places = at("resolve", dir, Places::new)?;
    let _lock = lock(&places)?;
    let mut damaged = vec![reason.to_owned()];
    let mut records = BTreeMap::new();
    read_sled(&places, &mut records, &mut damaged)?;
    read_journal(&places, &mut records, &mut damaged)?;
    records.remove(&(TreeName::Meta, META_POSITION.to_vec()));
    if records.keys().all(|(tree, _)| *tree == TreeName::Meta) {
        return Err(OpenError::Corrupt { path: places.sled().to_owned(), reason: damaged.join("; ") }.into());
    }
    let raw = |((tree, key), value): (Place, Vec<u8>)| RawRecord { tree, key, value };
    let (meta, records): (Vec<_>, Vec<_>) =
        records.into_iter().map(raw).partition(|record| record.tree == TreeName::Meta);
    write(&meta, &records, damaged, now, out)
}

fn write(
    meta: &[RawRecord],
    records: &[RawRecord],
    mut damaged: Vec<String>,
    now: SystemTime,
    out: impl Write,
) -> Result<Dumped, DumpError> {
    let mut size = Size::default();
    for record in records {
        size.add(record.tree, &record.key, &record.value);
        if let Some(reason) = text::fault_of(record) {
            damaged.push(format!("{} in {}: {reason}", trees::readable_key(record.tree, &record.key), record.tree));
        }
    }
    let counts: Counts = dump::counts_of(&size);
    let mut lines = Lines::new(out);
    lines.write(&dump::header(dump::about_of(meta, Digest::default(), now), counts, damaged.clone()))?;
    for record in records {
        lines.write(&text::line_of(record))?;
    }
    lines.end()?;
    Ok(Dumped { counts, damaged })
}

fn read_sled(
    places: &Places,
    records: &mut BTreeMap<Place, Vec<u8>>,
    damaged: &mut Vec<String>,
) -> Result<(), OpenError> {
    let boot_id = at("read the boot ID for", places.sled(), |_| sled_dir::boot_id())?;
    let sled = match sled_dir::open(places.sled(), &boot_id)? {
        SledCopy::Open(sled) => sled,
        // Why has been said by who found the store damaged.
        SledCopy::Absent | SledCopy::Refused(_) => return Ok(()),
    };
    for tree in trees::ALL {
        let read = live::every(&sled.trees, tree, |key, value| {
            records.insert((tree, key.to_vec()), value.to_vec());
        });
        if let Err(error) = read {
            damaged.push(format!("what follows in sled's {tree}: {error}"));
        }
    }
    sled_dir::close(sled);
    Ok(())
}

fn read_journal(
    places: &Places,
    records: &mut BTreeMap<Place, Vec<u8>>,
    damaged: &mut Vec<String>,
) -> Result<(), OpenError> {
    let found: Found = places.journal().scan().map_err(crate::recovery::scan_error)?;
    let mut apply = |writes: &[FrameWrite<'_>]| {
        for write in writes {
            let place = (write.tree, write.key.to_vec());
            match write.value {
                Some(value) => records.insert(place, value.to_vec()),
                None => records.remove(&place),
            };
        }
    };
    if let Some(newest) = found.newest_snapshot_file() {
        let read = snapshot::read(&newest, |writes| {
            apply(writes);
            Ok::<_, SnapshotError>(())
        });
        if let Err(error) = read {
            damaged.push(format!("what follows in {}: {error}", newest.display()));
        }
    }
    for group in found.newest_groups() {
        let bytes = found.read(group).map_err(|source| OpenError::Io {
            action: "read",
            path: places.journal().path().to_owned(),
            source,
        })?;
        if let Ok(frame) = frame::decode(&bytes) {
            apply(&frame.writes);
        }
    }
    Ok(())
}
