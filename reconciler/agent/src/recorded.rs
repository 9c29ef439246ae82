//! The records of a dump, read for questions about them; nothing is written.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;

use schemas::dump::{DUMP, Header, RecordLine};
use schemas::intent::{Attachment, Sandbox};
use schemas::name::ContainerId;
use schemas::wire::PodQuery;

use crate::call::is_asked;
use crate::catalogue::Catalogue;
use crate::cluster::remembered_objects;
use crate::ledger::SandboxRecords;

/// What of a dump is needed to plan.
#[derive(Debug, Default)]
pub struct Recorded {
    /// By container ID.
    sandboxes: BTreeMap<ContainerId, Arc<SandboxRecords>>,
    /// What the node remembered of the cluster; empty where manifests were its source.
    pub catalogue: Catalogue,
}

/// Why a dump cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// The file.
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    /// It is something else.
    #[error("it is not a dump: `dragline dump > FILE` writes one")]
    NotADump,
    /// A line is not what it should be.
    #[error("line {line} is not a record of a dump: {reason}")]
    Line {
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

impl Recorded {
    /// Reads a dump. Its checksum is not compared, as nothing is kept.
    ///
    /// # Errors
    /// When it cannot be read or is no dump.
    pub fn read(input: impl BufRead) -> Result<Self, RecordedError> {
        let mut lines = input.lines();
        let first = lines.next().ok_or(RecordedError::NotADump)??;
        let header: Header = serde_json::from_str(&first).map_err(|_| RecordedError::NotADump)?;
        if header.dragline != DUMP {
            return Err(RecordedError::NotADump);
        }
        let mut sandboxes = Vec::new();
        let mut attachments: BTreeMap<ContainerId, Vec<Attachment>> = BTreeMap::new();
        let mut texts = BTreeMap::new();
        for (number, line) in lines.enumerate() {
            let line = line?;
            // The trailer is no record.
            let Ok(record) = serde_json::from_str::<RecordLine>(&line) else { continue };
            let Some(json) = record.record else { continue };
            let wrong = |error: serde_json::Error| RecordedError::Line { line: number + 2, reason: error.to_string() };
            match record.tree.as_str() {
                "sandboxes" => sandboxes.push(serde_json::from_str::<Sandbox>(json.get()).map_err(wrong)?),
                "attachments" => {
                    let attachment: Attachment = serde_json::from_str(json.get()).map_err(wrong)?;
                    attachments.entry(attachment.key.container.clone()).or_default().push(attachment);
                }
                "catalogue" => {
                    texts.insert(record.key, serde_json::from_str::<String>(json.get()).map_err(wrong)?);
                }
                _ => {}
            }
        }
        let sandboxes = sandboxes.into_iter().map(|sandbox| {
            let own = attachments.remove(&sandbox.container).unwrap_or_default();
            let own = own.into_iter().map(|attachment| (attachment.key.ifname.clone(), attachment)).collect();
            (sandbox.container.clone(), Arc::new(SandboxRecords { sandbox, attachments: own }))
        });
        let sandboxes = sandboxes.collect();
        Ok(Self { sandboxes, catalogue: Catalogue::of(remembered_objects(texts)) })
    }

    /// The sandboxes that a question is about.
    pub fn selected(&self, query: &PodQuery) -> Vec<Arc<SandboxRecords>> {
        self.sandboxes.values().filter(|records| is_asked(records, query)).cloned().collect()
    }
}
