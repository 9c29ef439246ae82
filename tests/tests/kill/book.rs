//! What the runtime has been told: which attachments were acknowledged, with which addresses, and which withdrawals.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// What the runtime knows of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// ADD was acknowledged with this address and DEL has not begun.
    Held {
        /// Without prefix length.
        address: String,
        /// By the whole chain, so it has routes too.
        by_chain: bool,
    },
    /// Something was asked and not answered.
    Uncertain,
    /// DEL was acknowledged.
    Withdrawn,
}

/// The runtime's book. Attachments are called as `dragline get attachments` calls them.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// By attachment.
    pub(crate) claims: BTreeMap<String, Claim>,
    /// What was wrong.
    pub(crate) complaints: Vec<String>,
    /// ADDs acknowledged.
    pub(crate) added: usize,
    /// ADDs that were refused, or not answered.
    pub(crate) failed: usize,
    /// DELs acknowledged.
    pub(crate) deleted: usize,
}

impl Book {
    pub(crate) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap()
    }

    pub(crate) fn claim(&self, key: &str) -> Option<Claim> {
        self.pages().claims.get(key).cloned()
    }

    /// ADD begins. One that repeats an acknowledged ADD takes nothing of it back, whatever comes of it.
    pub(crate) fn begin_add(&self, key: &str) {
        let mut pages = self.pages();
        if !matches!(pages.claims.get(key), Some(Claim::Held { .. })) {
            pages.claims.insert(key.to_owned(), Claim::Uncertain);
        }
    }

    /// ADD was acknowledged.
    pub(crate) fn added(&self, key: &str, address: &str, by_chain: bool) {
        let mut pages = self.pages();
        pages.added += 1;
        let other = pages.claims.iter().find(|(other, claim)| {
            *other != key && matches!(claim, Claim::Held { address: held, .. } if held == address)
        });
        if let Some((other, _)) = other {
            let complaint = format!("address {address} was given to {key} while {other} has it");
            pages.complaints.push(complaint);
        }
        let known = pages.claims.insert(key.to_owned(), Claim::Held { address: address.to_owned(), by_chain });
        if let Some(Claim::Held { address: known, .. }) = known
            && known != address
        {
            pages.complaints.push(format!("{key} had {known} and was given {address} when it asked again"));
        }
    }

    /// ADD was refused or not answered. Trying again later is what a dead agent means; anything else is a complaint.
    pub(crate) fn not_added(&self, key: &str, is_retryable: bool, error: &str) {
        let mut pages = self.pages();
        pages.failed += 1;
        if !is_retryable {
            pages.complaints.push(format!("ADD of {key} failed for good: {error}"));
        }
    }

    /// DEL begins: the address may be another's from now on.
    pub(crate) fn begin_del(&self, key: &str) {
        self.pages().claims.insert(key.to_owned(), Claim::Uncertain);
    }

    /// DEL ended; it has no right to fail.
    pub(crate) fn deleted(&self, key: &str, outcome: Result<(), String>) {
        let mut pages = self.pages();
        match outcome {
            Ok(()) => {
                pages.deleted += 1;
                pages.claims.insert(key.to_owned(), Claim::Withdrawn);
            }
            Err(error) => pages.complaints.push(format!("DEL of {key} failed: {error}")),
        }
    }
}
