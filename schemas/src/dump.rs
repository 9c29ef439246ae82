//! Lines of a dump: the store as text, one JSON object a line.
//!
//! The first line is a [`Header`], the last a [`Trailer`], and between them stands a [`RecordLine`] for each record, in the
//! order of trees and keys. The SHA-256 of the trailer is over all bytes before its line.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What the first line's `dragline` says.
pub const DUMP: &str = "dump";

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`DUMP`].
    pub dragline: String,
    /// The store's format version.
    pub format: u32,
    /// The node whose memory it is.
    pub node: String,
    /// The boot under which the store was last open.
    pub boot: String,
    /// When the dump was made, RFC 3339 in UTC. What was restored and not changed since keeps its time.
    pub time: String,
    /// How many records there are of each tree.
    pub counts: Counts,
    /// What of the store could not be read; not there when all of it could.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

/// How many records there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Interfaces as wanted.
    pub attachments: u64,
    /// Addresses that are not free.
    pub allocations: u64,
    /// Sandboxes.
    pub sandboxes: u64,
    /// Addresses that the node holds.
    pub leases: u64,
    /// What was last seen of the outside.
    pub catalogue: u64,
    /// Status writes that wait.
    pub outbox: u64,
    /// Lines of history.
    pub journal: u64,
}

/// A record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordLine {
    /// The tree.
    pub tree: String,
    /// The key as people write it.
    pub key: String,
    /// The record; not there when it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Box<RawValue>>,
    /// What could not be read, as it stands in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<RawRecord>,
}

/// A record that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRecord {
    /// Why it could not be read.
    pub reason: String,
    /// Its key, hexadecimal.
    pub key: String,
    /// Its value, hexadecimal.
    pub value: String,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trailer {
    /// How many lines stand before this one.
    pub lines: u64,
    /// SHA-256 of all bytes before this line, hexadecimal.
    pub sha256: String,
}
