//! Bytes of records: the one file that knows bincode.
//!
//! bincode does not describe itself, and more than half of all flipped bits decode into other content without an error.
//! So every value stands in an envelope:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | record kind |
//! | 1 | record version |
//! | 2..6 | CRC-32 of kind, version and payload, little endian |
//! | 6.. | payload: bincode, standard configuration, to the last byte |
//!
//! A changed shape is a new version with a struct of its own and a function from the version before.

use std::fmt;

use schemas::history::HistoryEntry;
use schemas::intent::{Allocation, Attachment, Sandbox};
use schemas::lease::Lease;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Length of the envelope before the payload.
const HEADER: usize = 6;

/// The most that decoding takes from a value, whatever lengths the value claims, in bytes.
const DECODE_LIMIT: usize = 1 << 20;

/// The largest record that is written, in bytes with its envelope.
///
/// sled logs a tree node with up to some 20 records as one item, and puts an item above a quarter of a segment into a file
/// of its own, *which it never syncs*: after a power cut the node, and with it records acknowledged long before, is gone.
/// With the segments of [`open`](crate::open) 31 records of this size, with keys of [`KEY_LIMIT`], stay below.
pub const RECORD_LIMIT: usize = 32 << 10;

/// The longest key that is written, in bytes.
pub const KEY_LIMIT: usize = 1 << 10;

/// What a value is. The numbers are on disk: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// [`Attachment`].
    Attachment = 1,
    /// [`Allocation`].
    Allocation = 2,
    /// [`Sandbox`].
    Sandbox = 3,
    /// [`Lease`].
    Lease = 4,
    /// A text of the catalogue.
    Catalogue = 5,
    /// [`HistoryEntry`].
    History = 7,
    /// A text about the store itself.
    Meta = 8,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attachment => "attachment",
            Self::Allocation => "allocation",
            Self::Sandbox => "sandbox",
            Self::Lease => "lease",
            Self::Catalogue => "catalogue entry",
            Self::History => "journal entry",
            Self::Meta => "meta entry",
        })
    }
}

/// A struct that is a record of the store, in the version that is written today.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// Its kind.
    const KIND: RecordKind;
    /// Its version, from 1.
    const VERSION: u8;
}

impl Record for Attachment {
    const KIND: RecordKind = RecordKind::Attachment;
    const VERSION: u8 = 1;
}

impl Record for Allocation {
    const KIND: RecordKind = RecordKind::Allocation;
    const VERSION: u8 = 1;
}

impl Record for Sandbox {
    const KIND: RecordKind = RecordKind::Sandbox;
    const VERSION: u8 = 1;
}

impl Record for Lease {
    const KIND: RecordKind = RecordKind::Lease;
    const VERSION: u8 = 1;
}

impl Record for HistoryEntry {
    const KIND: RecordKind = RecordKind::History;
    const VERSION: u8 = 1;
}

/// A text that somebody else's format gives meaning to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogueText(pub(crate) String);

impl Record for CatalogueText {
    const KIND: RecordKind = RecordKind::Catalogue;
    const VERSION: u8 = 1;
}

/// A text about the store itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MetaText(pub(crate) String);

impl Record for MetaText {
    const KIND: RecordKind = RecordKind::Meta;
    const VERSION: u8 = 1;
}

/// A record that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is larger than [`RECORD_LIMIT`].
    #[error("the {kind} would take {size} bytes, and a record of the store may have {RECORD_LIMIT}: make it smaller")]
    TooLarge {
        /// What it is.
        kind: RecordKind,
        /// Its size in bytes.
        size: usize,
    },
    /// Its key is longer than [`KEY_LIMIT`].
    #[error("the key of the {kind} has {size} bytes, and a key of the store may have {KEY_LIMIT}: make it shorter")]
    KeyTooLong {
        /// What it is.
        kind: RecordKind,
        /// The key's length in bytes.
        size: usize,
    },
    /// bincode refused its shape.
    #[error("the {kind} cannot be encoded: {reason}")]
    Shape {
        /// What it is.
        kind: RecordKind,
        /// What bincode says.
        reason: String,
    },
}

/// A value that is not the record it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not those that were written.
    #[error("checksum {found:08x} does not match the content, which has {computed:08x}")]
    Checksum {
        /// The stored checksum.
        found: u32,
        /// The checksum of what is there.
        computed: u32,
    },
    /// A newer dragline wrote it.
    #[error("the {kind} has record version {found}, and this dragline knows versions up to {known}: run a newer one")]
    NewerVersion {
        /// What it is.
        kind: RecordKind,
        /// The version of the record.
        found: u8,
        /// The newest version that is known here.
        known: u8,
    },
    /// It is whole, but another kind of record.
    #[error("record kind {found} stands where kind {} ({expected}) should", *expected as u8)]
    WrongKind {
        /// The kind that is there.
        found: u8,
        /// The kind that should be there.
        expected: RecordKind,
    },
    /// Its envelope is whole, its content is not what the version says; or there is no envelope.
    #[error("malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

fn malformed(reason: impl fmt::Display) -> DecodeError {
    DecodeError::Malformed { reason: reason.to_string() }
}

fn checksum(kind: u8, version: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind, version]);
    hasher.update(payload);
    hasher.finalize()
}

/// The bytes of a record; equal records have equal bytes.
pub(crate) fn encode<R: Record>(record: &R) -> Result<Vec<u8>, EncodeError> {
    let kind = R::KIND as u8;
    let mut bytes = vec![0; HEADER];
    bincode::serde::encode_into_std_write(record, &mut bytes, bincode::config::standard())
        .map_err(|error| EncodeError::Shape { kind: R::KIND, reason: error.to_string() })?;
    if bytes.len() > RECORD_LIMIT {
        return Err(EncodeError::TooLarge { kind: R::KIND, size: bytes.len() });
    }
    let crc = checksum(kind, R::VERSION, &bytes[HEADER..]);
    bytes[0] = kind;
    bytes[1] = R::VERSION;
    bytes[2..HEADER].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// The record that [`encode`] wrote; anything else is refused.
pub(crate) fn decode<R: Record>(bytes: &[u8]) -> Result<R, DecodeError> {
    let Some((&[kind, version, c0, c1, c2, c3], payload)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(malformed(format_args!("{} bytes are less than an envelope", bytes.len())));
    };
    let found = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum(kind, version, payload);
    if found != computed {
        return Err(DecodeError::Checksum { found, computed });
    }
    if kind != R::KIND as u8 {
        return Err(DecodeError::WrongKind { found: kind, expected: R::KIND });
    }
    if version > R::VERSION {
        return Err(DecodeError::NewerVersion { kind: R::KIND, found: version, known: R::VERSION });
    }
    if version < R::VERSION {
        return Err(malformed(format_args!("there never was a record version {version}")));
    }
    let config = bincode::config::standard().with_limit::<DECODE_LIMIT>();
    let (record, read) = bincode::serde::decode_from_slice(payload, config).map_err(malformed)?;
    if read != payload.len() {
        return Err(malformed(format_args!("{} bytes follow the content", payload.len() - read)));
    }
    Ok(record)
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
