//! Records as lines of a dump, and back.

use schemas::dump::{RawRecord as RawText, RecordLine};
use schemas::history::HistoryEntry;
use schemas::intent::{Allocation, Attachment, Sandbox};
use serde_json::value::RawValue;

use crate::codec::{self, CatalogueText, KEY_LIMIT, RECORD_LIMIT, Record};
use crate::live::RawRecord;
use crate::snapshot::whole;
use crate::trees::{self, TreeName};

/// The line of a record. One that cannot be read stands there as bytes, with the reason, and comes back as it was.
pub(crate) fn line_of(record: &RawRecord) -> RecordLine {
    let mut line = RecordLine {
        tree: record.tree.as_str().to_owned(),
        key: trees::readable_key(record.tree, &record.key),
        record: None,
        raw: None,
    };
    match json_of(record) {
        Ok(json) => line.record = Some(json),
        Err(reason) => {
            line.raw = Some(RawText { reason, key: hex::encode(&record.key), value: hex::encode(&record.value) });
        }
    }
    line
}

/// Why a record cannot be read; None where it can.
pub(crate) fn fault_of(record: &RawRecord) -> Option<String> {
    json_of(record).err()
}

fn json_of(record: &RawRecord) -> Result<Box<RawValue>, String> {
    match record.tree {
        TreeName::Attachments => typed(record, attachment_key),
        TreeName::Allocations => typed(record, allocation_key),
        TreeName::Sandboxes => typed(record, sandbox_key),
        TreeName::Leases => typed(record, trees::lease_key),
        TreeName::Journal => typed(record, history_key),
        TreeName::Catalogue => {
            if std::str::from_utf8(&record.key).is_err() {
                return Err("its key is no text".to_owned());
            }
            typed(record, |_: &CatalogueText| record.key.clone())
        }
        TreeName::Outbox | TreeName::Meta => Err("this dragline writes no such record".to_owned()),
    }
}

fn attachment_key(attachment: &Attachment) -> Vec<u8> {
    trees::attachment_key(&attachment.key)
}

fn allocation_key(allocation: &Allocation) -> Vec<u8> {
    trees::allocation_key(allocation.address)
}

fn sandbox_key(sandbox: &Sandbox) -> Vec<u8> {
    trees::sandbox_key(&sandbox.container)
}

fn history_key(entry: &HistoryEntry) -> Vec<u8> {
    trees::history_key(&entry.container, entry.number)
}

fn typed<R: Record>(record: &RawRecord, own_key: impl Fn(&R) -> Vec<u8>) -> Result<Box<RawValue>, String> {
    let content = whole(record, own_key)?;
    serde_json::value::to_raw_value(&content).map_err(|error| error.to_string())
}

/// The record of a line.
pub(crate) fn record_of(line: &RecordLine) -> Result<RawRecord, String> {
    let tree = trees::ALL.into_iter().find(|tree| tree.as_str() == line.tree);
    let tree = tree.ok_or_else(|| format!("there is no tree {:?}", line.tree))?;
    let record = match (&line.record, &line.raw) {
        (Some(json), None) => record_from_json(tree, &line.key, json)?,
        (None, Some(raw)) => {
            let bytes = |what, text: &str| hex::decode(text).map_err(|error| format!("its {what}: {error}"));
            RawRecord { tree, key: bytes("key", &raw.key)?, value: bytes("value", &raw.value)? }
        }
        _ => return Err("it has neither or both of record and raw".to_owned()),
    };
    if record.key.len() > KEY_LIMIT || record.value.len() > RECORD_LIMIT {
        return Err("it is larger than a record may be".to_owned());
    }
    let own = trees::readable_key(tree, &record.key);
    if own == line.key { Ok(record) } else { Err(format!("its key is {own:?}, and the line says {:?}", line.key)) }
}

fn record_from_json(tree: TreeName, key: &str, json: &RawValue) -> Result<RawRecord, String> {
    let (key, value) = match tree {
        TreeName::Attachments => encoded(json, attachment_key)?,
        TreeName::Allocations => encoded(json, allocation_key)?,
        TreeName::Sandboxes => encoded(json, sandbox_key)?,
        TreeName::Leases => encoded(json, trees::lease_key)?,
        TreeName::Journal => encoded(json, history_key)?,
        TreeName::Catalogue => encoded(json, |_: &CatalogueText| key.as_bytes().to_vec())?,
        TreeName::Outbox | TreeName::Meta => return Err("this dragline knows no such record".to_owned()),
    };
    Ok(RawRecord { tree, key, value })
}

fn encoded<R: Record>(json: &RawValue, own_key: impl Fn(&R) -> Vec<u8>) -> Result<(Vec<u8>, Vec<u8>), String> {
    let content = R::deserialize(json).map_err(|error| error.to_string())?;
    let value = codec::encode(&content).map_err(|error| error.to_string())?;
    Ok((own_key(&content), value))
}
