//! Reading: typed, never waiting for a commit, and never trusting what fails its checksum.

use schemas::intent::{Allocation, Attachment, Sandbox};

use crate::codec::{self, CatalogueText, DecodeError, Record};
use crate::trees::{self, TreeName, Trees};

/// Everything that is wanted, in the order of the keys, and what could not be read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// By container ID.
    pub sandboxes: Vec<Sandbox>,
    /// By container ID, then interface.
    pub attachments: Vec<Attachment>,
    /// By address, IPv4 first.
    pub allocations: Vec<Allocation>,
    /// Records that are there and are not used.
    pub unreadable: Vec<Unreadable>,
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

pub(crate) fn load(trees: &Trees) -> Result<Snapshot, ReadError> {
    let mut unreadable = Vec::new();
    let sandboxes =
        scan(trees, TreeName::Sandboxes, &mut unreadable, |record: &Sandbox| trees::sandbox_key(&record.container))?;
    let attachments =
        scan(trees, TreeName::Attachments, &mut unreadable, |record: &Attachment| trees::attachment_key(&record.key))?;
    let allocations = scan(trees, TreeName::Allocations, &mut unreadable, |record: &Allocation| {
        trees::allocation_key(record.address)
    })?;
    Ok(Snapshot { sandboxes, attachments, allocations, unreadable })
}

/// Every record of a tree that is whole and stands under its own key.
fn scan<R: Record>(
    trees: &Trees,
    tree: TreeName,
    unreadable: &mut Vec<Unreadable>,
    own_key: impl Fn(&R) -> Vec<u8>,
) -> Result<Vec<R>, ReadError> {
    let mut records = Vec::new();
    for entry in trees.tree(tree) {
        let (key, value) = entry.map_err(|source| ReadError::Sled { tree, source })?;
        let reason = match codec::decode::<R>(&value) {
            Ok(record) => {
                let own = own_key(&record);
                if own == *key {
                    records.push(record);
                    continue;
                }
                format!("it is the record of {}", trees::readable_key(tree, &own))
            }
            Err(error) => error.to_string(),
        };
        unreadable.push(Unreadable { tree, key: trees::readable_key(tree, &key), reason });
    }
    Ok(records)
}

pub(crate) fn catalogue_get(trees: &Trees, key: &str) -> Result<Option<String>, ReadError> {
    let tree = TreeName::Catalogue;
    let value = trees.tree(tree).get(key).map_err(|source| ReadError::Sled { tree, source })?;
    value
        .map(|value| codec::decode(&value).map(|CatalogueText(text)| text))
        .transpose()
        .map_err(|source| ReadError::Unreadable { tree, key: key.to_owned(), source })
}
