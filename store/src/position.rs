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

    /// As bytes of fixed length, for sled's own record of it.
    pub(crate) fn to_bytes(self) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[0..4].copy_from_slice(&self.epoch.number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.epoch.salt.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.digest.0.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..24]);
        bytes[24..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) gave; None for anything else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        let (&[n0, n1, n2, n3, s0, s1, s2, s3], rest) = content.split_first_chunk::<8>()?;
        let (number, digest) = rest.split_first_chunk::<8>()?;
        let digest = u64::from_le_bytes(digest.try_into().ok()?);
        (crc32fast::hash(content) == u32::from_le_bytes(*crc)).then_some(Self {
            epoch: Epoch { number: u32::from_le_bytes([n0, n1, n2, n3]), salt: u32::from_le_bytes([s0, s1, s2, s3]) },
            number: u64::from_le_bytes(*number),
            digest: Digest(digest),
        })
    }
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
        fn positions_survive_their_bytes_and_no_flipped_bit_passes(number: u64, digest: u64, epoch: (u32, u32), bit in 0..28 * 8_usize) {
            let position = Position {
                epoch: Epoch { number: epoch.0, salt: epoch.1 },
                number,
                digest: Digest(digest),
            };
            let mut bytes = position.to_bytes();
            prop_assert_eq!(Position::from_bytes(&bytes), Some(position));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Position::from_bytes(&bytes), None);
        }

        #[test]
        fn garbage_is_no_position(bytes: Vec<u8>) {
            prop_assert_eq!(Position::from_bytes(&bytes), None);
        }

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
