//! The store as text: streamed, in a stable order, with a checksum over all of it.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use schemas::dump::{Counts, DUMP, Header, Trailer};
use sha2::{Digest as _, Sha256};

use crate::codec::{self, MetaText};
use crate::live::{RawRecord, Size, View};
use crate::open::FORMAT_VERSION;
use crate::position::Digest;
use crate::snapshot::ReadError;
use crate::text;
use crate::trees::{self, TreeName};

/// A dump that was not written to its end.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Who reads it has gone, or the disk is full.
    #[error("cannot write the dump: {0}")]
    Write(#[from] io::Error),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A line cannot be written as JSON.
    #[error("cannot write the dump: {0}")]
    Json(#[from] serde_json::Error),
    /// The store cannot be opened, and nothing of it can be read either.
    #[error(transparent)]
    Open(#[from] crate::OpenError),
}

/// What a dump holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dumped {
    /// Records, by tree.
    pub counts: Counts,
    /// What could not be read, a line each: such records stand in the dump as bytes, other things do not.
    pub damaged: Vec<String>,
}

/// What the store says of itself in a dump's header.
pub(crate) struct About {
    pub(crate) node: String,
    pub(crate) boot: String,
    pub(crate) time: String,
}

/// Counts by tree.
pub(crate) fn counts_of(size: &Size) -> Counts {
    Counts {
        attachments: size.records(TreeName::Attachments),
        allocations: size.records(TreeName::Allocations),
        sandboxes: size.records(TreeName::Sandboxes),
        leases: size.records(TreeName::Leases),
        catalogue: size.records(TreeName::Catalogue),
        outbox: size.records(TreeName::Outbox),
        journal: size.records(TreeName::Journal),
    }
}

/// A time as a dump has it: RFC 3339 in UTC, to the millisecond; later ones sort behind earlier ones as texts.
pub fn time_text(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

/// The text under which a store remembers that its content is a dump's: that dump's time, and the digest of the content.
/// As long as nothing is changed, a dump of it is the same dump.
pub(crate) fn origin_text(time: &str, content: Digest) -> String {
    format!("{time} {:016x}", content.0)
}

/// What the meta tree says of a state, and what the state's digest is without that tree.
pub(crate) fn about_of(meta: &[RawRecord], mut digest: Digest, now: SystemTime) -> About {
    let text = |key: &[u8]| {
        let record = meta.iter().find(|record| record.key == key)?;
        codec::decode(&record.value).ok().map(|MetaText(text)| text)
    };
    meta.iter().for_each(|record| digest.subtract(TreeName::Meta, &record.key, &record.value));
    let origin = text(trees::META_ORIGIN).and_then(|origin| {
        let (time, _) = origin.split_once(' ')?;
        (origin == origin_text(time, digest)).then(|| time.to_owned())
    });
    About {
        node: text(trees::META_NODE).unwrap_or_default(),
        boot: text(trees::META_BOOT).unwrap_or_default(),
        time: origin.unwrap_or_else(|| time_text(now)),
    }
}

/// Lines on their way out, counted and summed up.
pub(crate) struct Lines<W> {
    out: W,
    hash: Sha256,
    lines: u64,
    buffer: Vec<u8>,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, hash: Sha256::new(), lines: 0, buffer: Vec::new() }
    }

    pub(crate) fn write(&mut self, line: &impl serde::Serialize) -> Result<(), DumpError> {
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, line)?;
        self.buffer.push(b'\n');
        self.hash.update(&self.buffer);
        self.lines += 1;
        self.out.write_all(&self.buffer)?;
        Ok(())
    }

    pub(crate) fn end(mut self) -> Result<(), DumpError> {
        let trailer = Trailer { lines: self.lines, sha256: hex::encode(self.hash.clone().finalize()) };
        self.write(&trailer)?;
        self.out.flush()?;
        Ok(())
    }
}

/// Writes a view as a dump.
pub(crate) fn write(mut view: View, now: SystemTime, out: impl Write) -> Result<Dumped, DumpError> {
    let counts = counts_of(&view.size());
    let about = about_of(&view.meta()?, view.position().digest, now);
    let mut lines = Lines::new(out);
    lines.write(&header(about, counts, Vec::new()))?;
    let mut damaged = Vec::new();
    while let Some(records) = view.next_records()? {
        for record in records.iter().filter(|record| record.tree != TreeName::Meta) {
            let line = text::line_of(record);
            if let Some(raw) = &line.raw {
                damaged.push(format!("{} in {}: {}", line.key, line.tree, raw.reason));
            }
            lines.write(&line)?;
        }
    }
    lines.end()?;
    Ok(Dumped { counts, damaged })
}

pub(crate) fn header(about: About, counts: Counts, damaged: Vec<String>) -> Header {
    let About { node, boot, time } = about;
    Header { dragline: DUMP.to_owned(), format: FORMAT_VERSION, node, boot, time, counts, damaged }
}

/// Dumps a store that no agent has open. One that opens, by whatever recovery, is dumped whole; of one that does not, what
/// can still be read is, and the dump's header names what cannot.
///
/// # Errors
/// When the store is in use, or nothing of it can be read.
pub fn dump_offline(dir: &Path, now: SystemTime, out: impl Write) -> Result<Dumped, DumpError> {
    match crate::open::open_as_it_is(dir) {
        Ok(still) => write(still.live.view(), now, out),
        Err(crate::OpenError::Corrupt { reason, .. }) => crate::salvage::dump(dir, &reason, now, out),
        Err(error) => Err(error.into()),
    }
}
