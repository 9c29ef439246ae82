//! Where a copy of the state stands: how many groups of changes it holds, and what their sum is.
//!
//! sled opens with older data after a flipped byte and does not say so, and an operator may bring back yesterday's file.
//! So each copy carries its own number, and with it a digest of all its records: two copies with the same position hold the
//! same, and a copy whose records do not add up to its digest is damaged.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use crate::trees::TreeName;

/// The sum of all records of a state, in no order: a record more or less is one addition or subtraction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Digest(pub(crate) u64);

impl Digest {
    /// With one record more.
    pub(crate) fn add(&mut self, tree: TreeName, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_add(hash(tree, key, value));
    }

    /// With one record less.
    pub(crate) fn subtract(&mut self, tree: TreeName, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_sub(hash(tree, key, value));
    }
}

fn hash(tree: TreeName, key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(&[tree as u8]);
    // The length, so that no byte of the key can pass for one of the value.
    hasher.write(&(key.len() as u32).to_le_bytes());
    hasher.write(key);
    hasher.write(value);
    hasher.finish()
}

/// One line of descent of states. Restoring, upgrading and recovering begin a new one: what an older one wrote can then
/// never be taken for a part of it, not even where its numbers run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch {
    /// Counts from 1; the higher one is the newer one. 0 is a sled from before there was a journal.
    pub(crate) number: u32,
    /// Random: two stores at the same number are still two.
    pub(crate) salt: u32,
}

impl Epoch {
    /// The one after this.
    pub(crate) fn next(self) -> std::io::Result<Self> {
        let number = self.number.checked_add(1).ok_or_else(|| std::io::Error::other("the store has no epoch left"))?;
        let salt = getrandom::u32().map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Self { number, salt })
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.number, self.salt)
    }
}

/// Where a copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) epoch: Epoch,
    /// Groups of changes since the epoch began.
    pub(crate) number: u64,
    pub(crate) digest: Digest,
}

impl Position {
    /// Before anything was ever written.
    pub(crate) const NOTHING: Self = Self { epoch: Epoch { number: 0, salt: 0 }, number: 0, digest: Digest(0) };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change {} of epoch {}", self.number, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_digest_knows_no_order_and_forgets_what_is_taken_away(
            records: Vec<(Vec<u8>, Vec<u8>)>,
            one: (Vec<u8>, Vec<u8>),
        ) {
            let mut forward = Digest::default();
            records.iter().for_each(|(key, value)| forward.add(TreeName::Sandboxes, key, value));
            let mut backward = Digest::default();
            backward.add(TreeName::Sandboxes, &one.0, &one.1);
            records.iter().rev().for_each(|(key, value)| backward.add(TreeName::Sandboxes, key, value));
            prop_assert_ne!(forward, backward);
            backward.subtract(TreeName::Sandboxes, &one.0, &one.1);
            prop_assert_eq!(forward, backward);
        }
    }

    #[test]
    fn a_byte_that_moves_from_key_to_value_changes_the_digest() {
        let digest = |tree, key: &[u8], value: &[u8]| {
            let mut digest = Digest::default();
            digest.add(tree, key, value);
            digest
        };
        assert_ne!(digest(TreeName::Sandboxes, b"ab", b"c"), digest(TreeName::Sandboxes, b"a", b"bc"));
        assert_ne!(digest(TreeName::Sandboxes, b"a", b"b"), digest(TreeName::Attachments, b"a", b"b"));
    }
}
