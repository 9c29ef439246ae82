//! Bytes of the journal: the one file that knows them.
//!
//! A frame is a group of changes that became durable together. All numbers are little endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | `DLF` and the version of this format, 1 |
//! | 4..8 | CRC-32 of the four bytes before and all that follows |
//! | 8..16 | epoch: its number, its salt |
//! | 16..24 | the group's number in the epoch |
//! | 24..32 | digest of the state before it |
//! | 32..40 | digest of the state after it |
//! | 40..44 | length of the payload |
//! | 44..48 | number of writes in the payload |
//! | 48.. | the writes: tree, 1 to put or 0 to delete, length of the key (2 bytes), of the value (4), key, value |
//!
//! Another version keeps the magic, the checksum and the length where they are, so that a newer frame and a damaged one are
//! told apart.

use std::ops::Range;

use crate::position::{Digest, Epoch, Position};
use crate::trees::TreeName;

/// The version that is written.
const VERSION: u8 = 1;
const MAGIC: [u8; 3] = *b"DLF";

/// Length of what stands before the payload.
pub(crate) const HEADER: usize = 48;

/// The longest frame that is read or written: what one group may hold, and room for the lengths of many small writes.
pub(crate) const FRAME_LIMIT: usize = 16 << 20;

/// A put (with a value) or a delete (without).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Write<'a> {
    pub(crate) tree: TreeName,
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The digest of the state before.
    pub(crate) before: Digest,
    /// Where the state stands after.
    pub(crate) after: Position,
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) mark: Mark,
    pub(crate) writes: Vec<Write<'a>>,
    /// Its bytes on disk, without padding.
    pub(crate) len: usize,
}

/// Bytes that are no whole frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("no frame begins here")]
    Absent,
    #[error("its journal format is {found}, and this dragline knows formats up to {VERSION}: run a newer one")]
    Newer { found: u8 },
    #[error("it is cut off after {found} of {wanted} bytes")]
    Short { found: usize, wanted: usize },
    #[error("its checksum does not match")]
    Checksum,
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
}

/// The bytes of a frame.
pub(crate) fn encode<'a>(mark: &Mark, writes: impl IntoIterator<Item = Write<'a>>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    let mut count = 0_u32;
    for Write { tree, key, value } in writes {
        bytes.push(tree as u8);
        bytes.push(u8::from(value.is_some()));
        bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(value.map_or(0, <[u8]>::len) as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.unwrap_or_default());
        count += 1;
    }
    let payload = (bytes.len() - HEADER) as u32;
    bytes[0..3].copy_from_slice(&MAGIC);
    bytes[3] = VERSION;
    bytes[8..12].copy_from_slice(&mark.after.epoch.number.to_le_bytes());
    bytes[12..16].copy_from_slice(&mark.after.epoch.salt.to_le_bytes());
    bytes[16..24].copy_from_slice(&mark.after.number.to_le_bytes());
    bytes[24..32].copy_from_slice(&mark.before.0.to_le_bytes());
    bytes[32..40].copy_from_slice(&mark.after.digest.0.to_le_bytes());
    bytes[40..44].copy_from_slice(&payload.to_le_bytes());
    bytes[44..48].copy_from_slice(&count.to_le_bytes());
    let crc = checksum(&bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// How long the frame that begins here says it is, its header included; nothing is checked but that.
pub(crate) fn claimed_len(bytes: &[u8]) -> Result<usize, FrameError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(FrameError::Absent);
    }
    let payload = u32_at(bytes, 40).ok_or(FrameError::Short { found: bytes.len(), wanted: HEADER })? as usize;
    if payload > FRAME_LIMIT - HEADER {
        return Err(FrameError::Malformed("it says that it is longer than any frame"));
    }
    Ok(HEADER + payload)
}

/// The frame that begins here; more may follow it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let len = claimed_len(bytes)?;
    let short = FrameError::Short { found: bytes.len(), wanted: len };
    let bytes = bytes.get(..len).ok_or_else(|| short.clone())?;
    if u32_at(bytes, 4).ok_or_else(|| short.clone())? != checksum(bytes) {
        return Err(FrameError::Checksum);
    }
    match bytes[MAGIC.len()] {
        VERSION => {}
        found if found > VERSION => return Err(FrameError::Newer { found }),
        _ => return Err(FrameError::Malformed("there never was this version")),
    }
    let number = |at| u32_at(bytes, at).ok_or_else(|| short.clone());
    let long = |at| u64_at(bytes, at).ok_or_else(|| short.clone());
    let epoch = Epoch { number: number(8)?, salt: number(12)? };
    let after = Position { epoch, number: long(16)?, digest: Digest(long(32)?) };
    let mark = Mark { before: Digest(long(24)?), after };
    let writes = decode_writes(&bytes[HEADER..], number(44)?)?;
    Ok(Frame { mark, writes, len })
}

fn decode_writes(payload: &[u8], count: u32) -> Result<Vec<Write<'_>>, FrameError> {
    const CUT: FrameError = FrameError::Malformed("a write is cut off");
    let mut writes = Vec::with_capacity((count as usize).min(payload.len() / 8));
    let mut rest = payload;
    while !rest.is_empty() {
        let (&[tree, kind, k0, k1, v0, v1, v2, v3], after) = rest.split_first_chunk::<8>().ok_or(CUT)?;
        let tree = TreeName::from_index(tree).ok_or(FrameError::Malformed("it names a tree that there is not"))?;
        let key_len = usize::from(u16::from_le_bytes([k0, k1]));
        let value_len = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
        let (key, after) = after.split_at_checked(key_len).ok_or(CUT)?;
        let (value, after) = after.split_at_checked(value_len).ok_or(CUT)?;
        let value = match kind {
            1 => Some(value),
            0 if value.is_empty() => None,
            _ => return Err(FrameError::Malformed("a write neither puts nor deletes")),
        };
        writes.push(Write { tree, key, value });
        rest = after;
    }
    if writes.len() != count as usize {
        return Err(FrameError::Malformed("it has another number of writes than it says"));
    }
    Ok(writes)
}

/// A page of the log. What is acknowledged shares no page with what is written later, so that a page that a power cut
/// tears never takes anything acknowledged along.
pub(crate) const PAGE: usize = 4096;

/// The bytes of a frame twice, each copy in pages of its own, for one write: a damaged place does not take both.
pub(crate) fn doubled(frame: &[u8]) -> Vec<u8> {
    let padded = frame.len().next_multiple_of(PAGE);
    let mut bytes = Vec::with_capacity(2 * padded);
    for _ in 0..2 {
        bytes.extend_from_slice(frame);
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    }
    bytes
}

/// Every whole frame in the pages of a log, copies included, and the pages that hold something else than frames or zeros.
pub(crate) fn frames_in_pages<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(Range<usize>, Frame<'a>),
) -> Result<Vec<usize>, FrameError> {
    let mut strange = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let here = &bytes[at..];
        match decode(here) {
            Ok(frame) => {
                let len = frame.len;
                // Padding is zeros; anything else there is damage that does no harm, and is still told.
                let end = (at + len.next_multiple_of(PAGE)).min(bytes.len());
                if !is_zero(&bytes[at + len..end]) {
                    strange.push(at / PAGE);
                }
                each(at..at + len, frame);
                at = end;
            }
            Err(newer @ FrameError::Newer { .. }) => return Err(newer),
            Err(_) => {
                let end = (at + PAGE).min(bytes.len());
                if !is_zero(&bytes[at..end]) {
                    strange.push(at / PAGE);
                }
                at = end;
            }
        }
    }
    Ok(strange)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
