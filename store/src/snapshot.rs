//! Reading: typed, never waiting for a commit, and never trusting what fails its checksum.

use schemas::history::HistoryEntry;
use schemas::intent::{Allocation, Attachment, Sandbox};
use schemas::lease::Lease;

use crate::codec::{self, CatalogueText, DecodeError, Record};
use crate::live::{Live, RawRecord, View};
use crate::trees::{self, TreeName};

/// Everything that is wanted, in the order of the keys, and what could not be read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By container ID.
    pub sandboxes: Vec<Sandbox>,
    /// By container ID, then interface.
    pub attachments: Vec<Attachment>,
    /// By address, IPv4 first.
    pub allocations: Vec<Allocation>,
    /// By pool, then first address.
    pub leases: Vec<Lease>,
    /// By container ID, then number.
    pub history: Vec<HistoryEntry>,
    /// Records that are there and are not used.
    pub unreadable: Vec<Unreadable>,
}

/// Texts of the catalogue.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Texts {
    /// Keys and texts, in the order of the keys.
    pub texts: Vec<(String, String)>,
    /// The keys of those that are not as they were written.
    pub unreadable: Vec<String>,
}

/// A record that is not used, because it is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it stands.
    pub tree: TreeName,
    /// Its key as a person would write it.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// A read that failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// sled could not read.
    #[error("cannot read the store's {tree}: {source}")]
    Sled {
        /// The tree.
        tree: TreeName,
        /// What sled says.
        source: sled::Error,
    },
    /// sled panicked where it should have refused: a page of it is damaged.
    #[error("cannot read the store's {tree}: sled panics on it; restart, so that it is rebuilt from the journal")]
    Panicked {
        /// The tree.
        tree: TreeName,
    },
    /// The store has been closed.
    #[error("the store is closed: the agent is stopping")]
    Closed,
    /// The record is there and is not used.
    #[error("the store's record {key:?} in {tree} is unreadable: {source}")]
    Unreadable {
        /// The tree.
        tree: TreeName,
        /// The record's key.
        key: String,
        /// What is wrong with it.
        source: DecodeError,
    },
}

/// Reads a view to its end.
pub(crate) fn load(mut view: View) -> Result<Snapshot, ReadError> {
    let mut snapshot = Snapshot::default();
    while let Some(records) = view.next_records()? {
        for record in records {
            snapshot.take(&record);
        }
    }
    Ok(snapshot)
}

impl Snapshot {
    /// Adds a record, if it is one of those that a snapshot has.
    pub(crate) fn take(&mut self, record: &RawRecord) {
        let taken = match record.tree {
            TreeName::Sandboxes => whole(record, |sandbox: &Sandbox| trees::sandbox_key(&sandbox.container))
                .map(|sandbox| self.sandboxes.push(sandbox)),
            TreeName::Attachments => whole(record, |attachment: &Attachment| trees::attachment_key(&attachment.key))
                .map(|attachment| self.attachments.push(attachment)),
            TreeName::Allocations => whole(record, |allocation: &Allocation| trees::allocation_key(allocation.address))
                .map(|allocation| self.allocations.push(allocation)),
            TreeName::Leases => whole(record, trees::lease_key).map(|lease| self.leases.push(lease)),
            TreeName::Journal => {
                whole(record, |entry: &HistoryEntry| trees::history_key(&entry.container, entry.number))
                    .map(|entry| self.history.push(entry))
            }
            TreeName::Catalogue | TreeName::Outbox | TreeName::Meta => Ok(()),
        };
        if let Err(reason) = taken {
            let key = trees::readable_key(record.tree, &record.key);
            self.unreadable.push(Unreadable { tree: record.tree, key, reason, value: record.value.clone() });
        }
    }
}

/// A record that is whole and stands under its own key; else why it is not used.
pub(crate) fn whole<R: Record>(record: &RawRecord, own_key: impl Fn(&R) -> Vec<u8>) -> Result<R, String> {
    let content = codec::decode::<R>(&record.value).map_err(|error| error.to_string())?;
    let own = own_key(&content);
    if own == record.key {
        Ok(content)
    } else {
        Err(format!("it is the record of {}", trees::readable_key(record.tree, &own)))
    }
}

pub(crate) fn catalogue_get(live: &Live, key: &str) -> Result<Option<String>, ReadError> {
    let tree = TreeName::Catalogue;
    let trees = live.trees().ok_or(ReadError::Closed)?;
    let value = trees.tree(tree).get(key).map_err(|source| ReadError::Sled { tree, source })?;
    value
        .map(|value| codec::decode(&value).map(|CatalogueText(text)| text))
        .transpose()
        .map_err(|source| ReadError::Unreadable { tree, key: key.to_owned(), source })
}

pub(crate) fn history(live: &Live) -> Result<Vec<HistoryEntry>, ReadError> {
    let tree = TreeName::Journal;
    let trees = live.trees().ok_or(ReadError::Closed)?;
    let mut entries = Vec::new();
    for value in trees.tree(tree).iter().values() {
        let value = value.map_err(|source| ReadError::Sled { tree, source })?;
        entries.extend(codec::decode(&value));
    }
    Ok(entries)
}

pub(crate) fn catalogue(live: &Live, prefix: &str) -> Result<Texts, ReadError> {
    let tree = TreeName::Catalogue;
    let trees = live.trees().ok_or(ReadError::Closed)?;
    let mut found = Texts::default();
    for entry in trees.tree(tree).scan_prefix(prefix) {
        let (key, value) = entry.map_err(|source| ReadError::Sled { tree, source })?;
        let key = String::from_utf8_lossy(&key).into_owned();
        match codec::decode(&value) {
            Ok(CatalogueText(text)) => found.texts.push((key, text)),
            Err(_) => found.unreadable.push(key),
        }
    }
    Ok(found)
}
