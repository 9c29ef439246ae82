//! Frames as bytes: what is written is read, what is damaged is not, and a damage takes one copy of a group at most.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::trees;

/// A write that owns its bytes.
type Owned = (usize, Vec<u8>, Option<Vec<u8>>);

fn writes() -> impl Strategy<Value = Vec<Owned>> {
    let value = proptest::option::of(prop_oneof![4 => vec(any::<u8>(), 0..60), 1 => vec(any::<u8>(), 0..6000)]);
    vec((0..trees::ALL.len(), vec(any::<u8>(), 0..40), value), 0..8)
}

prop_compose! {
    fn mark()(epoch: u32, salt: u32, number: u64, before: u64, after: u64) -> Mark {
        let after = Position { epoch: Epoch { number: epoch, salt }, number, digest: Digest(after) };
        Mark { before: Digest(before), after }
    }
}

fn borrowed(writes: &[Owned]) -> Vec<Write<'_>> {
    writes.iter().map(|(tree, key, value)| Write { tree: trees::ALL[*tree], key, value: value.as_deref() }).collect()
}

fn encoded(mark: &Mark, writes: &[Owned]) -> Vec<u8> {
    encode(mark, borrowed(writes))
}

/// The frames that stand in some bytes: where, and what they say of themselves.
fn found(bytes: &[u8]) -> (Vec<(usize, Mark)>, Vec<usize>) {
    let mut frames = Vec::new();
    let strange = frames_in_pages(bytes, |range, frame| {
        assert_eq!(range.len(), frame.len);
        frames.push((range.start, frame.mark));
    });
    (frames, strange.expect("nothing here is of a newer version"))
}

/// A stretch of a log.
#[derive(Debug, Clone)]
enum Stretch {
    Group(Mark, Vec<Owned>),
    Zeros(usize),
    /// Whole pages of anything.
    Garbage(Vec<u8>),
    /// A page that begins as a frame does and goes on as it likes.
    Pretence(Vec<u8>),
}

fn stretch() -> impl Strategy<Value = Stretch> {
    prop_oneof![
        3 => (mark(), writes()).prop_map(|(mark, writes)| Stretch::Group(mark, writes)),
        1 => (1..4_usize).prop_map(Stretch::Zeros),
        1 => (vec(1..=u8::MAX, 16), 1..3_usize)
            .prop_map(|(bytes, pages)| Stretch::Garbage(bytes.repeat(pages * PAGE / 16))),
        1 => vec(any::<u8>(), HEADER..PAGE).prop_map(Stretch::Pretence),
    ]
}

proptest! {
    #[test]
    fn a_frame_survives_its_bytes_and_what_follows_is_left_alone(
        mark in mark(),
        writes in writes(),
        behind in vec(any::<u8>(), 0..100),
    ) {
        let mut bytes = encoded(&mark, &writes);
        let len = bytes.len();
        prop_assert_eq!(claimed_len(&bytes), Ok(len));
        bytes.extend(behind);
        let frame = decode(&bytes).expect("it is whole");
        prop_assert_eq!(frame, Frame { mark, writes: borrowed(&writes), len });
    }

    #[test]
    fn no_bit_may_be_flipped_and_no_byte_may_be_missing(
        mark in mark(),
        writes in writes(),
        at: prop::sample::Index,
        bit in 0..8_u8,
    ) {
        let whole = encoded(&mark, &writes);
        let at = at.index(whole.len());
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << bit;
        let error = decode(&flipped).expect_err("a bit is flipped");
        prop_assert!(!matches!(error, FrameError::Newer { .. }), "damage passes for a newer version: {error}");
        prop_assert!(decode(&whole[..at]).is_err());
    }

    #[test]
    fn garbage_is_no_frame(mut bytes in vec(any::<u8>(), 0..300), dressed: bool, len in 0..400_u32) {
        if dressed && bytes.len() >= HEADER {
            bytes[..3].copy_from_slice(&MAGIC);
            bytes[40..44].copy_from_slice(&len.to_le_bytes());
        }
        prop_assert!(decode(&bytes).is_err());
        prop_assert_eq!(found(&bytes).0, []);
    }

    /// With a right checksum around it: only now is the payload looked at.
    #[test]
    fn a_payload_of_garbage_never_panics(payload in vec(any::<u8>(), 0..200), count: u32, kind in 0..8_u8) {
        let mut bytes = vec![0; HEADER];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = VERSION;
        bytes[40..44].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[44..48].copy_from_slice(&count.to_le_bytes());
        bytes.extend(&payload);
        if let Some(tree) = bytes.get_mut(HEADER) {
            *tree = kind;
        }
        let crc = checksum(&bytes);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        match decode(&bytes) {
            Ok(frame) => prop_assert_eq!(frame.writes.len(), count as usize),
            Err(error) => prop_assert!(matches!(error, FrameError::Malformed(_)), "{error}"),
        }
    }

    #[test]
    fn a_flipped_bit_takes_one_copy_of_a_doubled_frame_at_most(
        mark in mark(),
        writes in writes(),
        at: prop::sample::Index,
        bit in 0..8_u8,
    ) {
        let frame = encoded(&mark, &writes);
        let mut bytes = doubled(&frame);
        prop_assert_eq!(bytes.len(), 2 * frame.len().next_multiple_of(PAGE));
        let second = bytes.len() / 2;
        prop_assert_eq!(found(&bytes), (vec![(0, mark), (second, mark)], vec![]));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (frames, strange) = found(&bytes);
        prop_assert!(!frames.is_empty());
        prop_assert!(frames.iter().all(|(_, there)| *there == mark));
        // Both whole: then the bit is one of the padding, and its page is named.
        prop_assert_eq!(frames.len() == 2, at % second >= frame.len());
        prop_assert!(!strange.is_empty());
    }

    #[test]
    fn a_torn_page_takes_one_copy_of_a_doubled_frame_at_most(
        mark in mark(),
        writes in writes(),
        page: prop::sample::Index,
        keep in 0..PAGE,
    ) {
        let mut bytes = doubled(&encoded(&mark, &writes));
        let from = page.index(bytes.len() / PAGE) * PAGE;
        bytes[from + keep..from + PAGE].fill(0);
        prop_assert!(!found(&bytes).0.is_empty());
    }

    #[test]
    fn frames_are_found_among_anything(stretches in vec(stretch(), 0..12)) {
        let (mut bytes, mut wanted, mut strange) = (Vec::new(), Vec::new(), Vec::new());
        for stretch in &stretches {
            let at = bytes.len();
            match stretch {
                Stretch::Group(mark, writes) => {
                    let group = doubled(&encoded(mark, writes));
                    wanted.extend([(at, *mark), (at + group.len() / 2, *mark)]);
                    bytes.extend(group);
                }
                Stretch::Zeros(pages) => bytes.resize(at + pages * PAGE, 0),
                Stretch::Garbage(garbage) => {
                    strange.extend((at..at + garbage.len()).step_by(PAGE).map(|at| at / PAGE));
                    bytes.extend(garbage);
                }
                Stretch::Pretence(pretence) => {
                    strange.push(at / PAGE);
                    bytes.extend(pretence);
                    bytes[at..at + 3].copy_from_slice(&MAGIC);
                    bytes.resize(at + PAGE, 0);
                }
            }
        }
        prop_assert_eq!(found(&bytes), (wanted.clone(), strange));
        // Cut anywhere, what stands wholly before is still found.
        let cut = bytes.len() / 2;
        let (frames, _) = found(&bytes[..cut]);
        prop_assert!(wanted.starts_with(&frames));
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mark = Mark { before: Digest(1), after: Position { number: 7, ..Position::NOTHING } };
    let mut bytes = encode(&mark, []);
    bytes[3] = VERSION + 1;
    assert_eq!(decode(&bytes), Err(FrameError::Checksum));
    let crc = checksum(&bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode(&bytes), Err(FrameError::Newer { found: VERSION + 1 }));
    let mut log = vec![0; PAGE];
    log.extend(doubled(&bytes));
    let refused = frames_in_pages(&log, |_, _| panic!("nothing of a newer version is taken"));
    assert_eq!(refused, Err(FrameError::Newer { found: VERSION + 1 }));
}
