//! Changes: what is decided together, and is durable together or not at all.

use std::net::IpAddr;

use schemas::history::HistoryEntry;
use schemas::intent::{Allocation, Attachment, Sandbox};
use schemas::lease::Lease;
use schemas::name::{AttachmentKey, ContainerId};

use crate::codec::{self, CatalogueText, EncodeError, KEY_LIMIT, Record};
use crate::trees::{self, TreeName};

/// Puts and deletes that belong together, in order: one intent. Records are encoded when they are added; one that cannot
/// be encoded lets the whole change fail when it is committed.
#[derive(Debug, Default)]
pub struct Change {
    pub(crate) ops: Vec<Op>,
    pub(crate) bytes: usize,
    pub(crate) refused: Option<EncodeError>,
}

/// One put (with a value) or delete (without).
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) tree: TreeName,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    /// The put holds only if the address is free or this owner's already.
    pub(crate) claim: Option<Claim>,
}

/// Whose an address is to be.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) address: IpAddr,
    pub(crate) owner: AttachmentKey,
}

impl Change {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it holds no put and no delete.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.refused.is_none()
    }

    /// Records an interface as wanted, in place of what was recorded of it.
    #[must_use]
    pub fn put_attachment(self, attachment: &Attachment) -> Self {
        self.put(TreeName::Attachments, trees::attachment_key(&attachment.key), attachment, None)
    }

    /// Forgets an interface.
    #[must_use]
    pub fn delete_attachment(self, key: &AttachmentKey) -> Self {
        self.delete(TreeName::Attachments, trees::attachment_key(key))
    }

    /// Records whose an address is. The change fails with
    /// [`AddressTaken`](crate::CommitError::AddressTaken) if it is another owner's when its turn comes.
    #[must_use]
    pub fn put_allocation(self, allocation: &Allocation) -> Self {
        let claim = Claim { address: allocation.address, owner: allocation.owner.clone() };
        self.put(TreeName::Allocations, trees::allocation_key(allocation.address), allocation, Some(claim))
    }

    /// Frees an address.
    #[must_use]
    pub fn delete_allocation(self, address: IpAddr) -> Self {
        self.delete(TreeName::Allocations, trees::allocation_key(address))
    }

    /// Records a sandbox, in place of what was recorded of it.
    #[must_use]
    pub fn put_sandbox(self, sandbox: &Sandbox) -> Self {
        self.put(TreeName::Sandboxes, trees::sandbox_key(&sandbox.container), sandbox, None)
    }

    /// Forgets a sandbox.
    #[must_use]
    pub fn delete_sandbox(self, container: &ContainerId) -> Self {
        self.delete(TreeName::Sandboxes, trees::sandbox_key(container))
    }

    /// Records a stretch of addresses as this node's.
    #[must_use]
    pub fn put_lease(self, lease: &Lease) -> Self {
        self.put(TreeName::Leases, trees::lease_key(lease), lease, None)
    }

    /// Forgets a stretch of addresses that has been given back.
    #[must_use]
    pub fn delete_lease(self, lease: &Lease) -> Self {
        self.delete(TreeName::Leases, trees::lease_key(lease))
    }

    /// Records a line of a sandbox's history.
    #[must_use]
    pub fn put_history(self, entry: &HistoryEntry) -> Self {
        self.put(TreeName::Journal, trees::history_key(&entry.container, entry.number), entry, None)
    }

    /// Forgets a line of a sandbox's history.
    #[must_use]
    pub fn delete_history(self, container: &ContainerId, number: u64) -> Self {
        self.delete(TreeName::Journal, trees::history_key(container, number))
    }

    /// Records what was last seen of something outside; what the text means is the caller's.
    #[must_use]
    pub fn put_catalogue(self, key: &str, text: &str) -> Self {
        self.put(TreeName::Catalogue, key.as_bytes().to_vec(), &CatalogueText(text.to_owned()), None)
    }

    /// Forgets what was last seen.
    #[must_use]
    pub fn delete_catalogue(self, key: &str) -> Self {
        self.delete(TreeName::Catalogue, key.as_bytes().to_vec())
    }

    fn put<R: Record>(mut self, tree: TreeName, key: Vec<u8>, record: &R, claim: Option<Claim>) -> Self {
        let encoded = match key.len() {
            size if size > KEY_LIMIT => Err(EncodeError::KeyTooLong { kind: R::KIND, size }),
            _ => codec::encode(record),
        };
        match encoded {
            Ok(value) => {
                self.bytes += key.len() + value.len();
                self.ops.push(Op { tree, key, value: Some(value), claim });
            }
            Err(error) => {
                self.refused.get_or_insert(error);
            }
        }
        self
    }

    fn delete(mut self, tree: TreeName, key: Vec<u8>) -> Self {
        self.bytes += key.len();
        self.ops.push(Op { tree, key, value: None, claim: None });
        self
    }
}
