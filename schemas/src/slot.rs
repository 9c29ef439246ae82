//! The text of one slot of a shard: which addresses of a few consecutive ones are whose.
//!
//! | text | meaning |
//! |---|---|
//! | empty | all are free |
//! | `node-a` | all are that node's |
//! | `node-a:3,node-b~2:c` | the first two are node-a's, the next two those of node-b's second incarnation, the others free |
//! | `=shop/cart:1` | the first is kept for that owner |
//! | `!1790000000:8` | the fourth is given to nobody before that second (since 1970, UTC) |
//!
//! A mask is hexadecimal, lower case, its lowest bit the slot's first address. Written, a slot has exactly one text: parts
//! in the order of their lowest bits, a subject once, a part that covers the whole slot without a mask. Read, the order
//! and leading zeros do not matter; whatever else is unclear is an error, and such a slot is left alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest text that the API server takes for a slot, in bytes.
pub const TEXT_MAX: usize = 4096;

/// What is wrong with the text of a slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// A slot has 1 to 64 addresses.
    #[error("a slot of {0} addresses: it has 1 to 64")]
    Width(u32),
    /// Longer than the API server would have taken it.
    #[error("a slot's text of {0} bytes: at most {TEXT_MAX} are read")]
    Long(usize),
    /// No node, owner or time.
    #[error("{0:?} is no holder: it is NODE, NODE~EPOCH (from 2), =NAMESPACE/OWNER or !SECONDS")]
    Subject(String),
    /// No mask.
    #[error("{0:?} is no mask: it is 1 to 16 digits 0-9a-f and not zero")]
    Mask(String),
    /// A mask with addresses that the slot does not have.
    #[error("mask {mask:x} goes past the {width} addresses of the slot")]
    Outside {
        /// The mask.
        mask: u64,
        /// How many addresses the slot has.
        width: u32,
    },
    /// Two parts with the same address.
    #[error("addresses {0:x} are given twice")]
    Twice(u64),
}

impl SlotError {
    fn subject(text: &str) -> Self {
        // An error line stays a line whatever was written.
        Self::Subject(text.chars().take(80).collect())
    }
}

/// A node's incarnation, the one who can hold addresses: `node-a`, or `node-a~2` from the second on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Holder {
    node: String,
    epoch: u64,
}

impl Holder {
    /// A node in its `epoch`-th incarnation, from 1.
    ///
    /// # Errors
    /// The name is no name of a node (lower-case letters, digits, `-` and `.`, at most 253), or the epoch is 0.
    pub fn new(node: &str, epoch: u64) -> Result<Self, SlotError> {
        let is_name = (1..=253).contains(&node.len())
            && node
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
        if is_name && epoch > 0 {
            Ok(Self { node: node.to_owned(), epoch })
        } else {
            Err(SlotError::subject(&format!("{node}~{epoch}")))
        }
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Which incarnation of the node, from 1.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            1 => f.write_str(&self.node),
            epoch => write!(f, "{}~{epoch}", self.node),
        }
    }
}

impl FromStr for Holder {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let wrong = || SlotError::subject(text);
        match text.split_once('~') {
            None => Self::new(text, 1).map_err(|_| wrong()),
            Some((node, epoch)) => match number(epoch) {
                Some(epoch) if epoch >= 2 => Self::new(node, epoch).map_err(|_| wrong()),
                _ => Err(wrong()),
            },
        }
    }
}

impl TryFrom<String> for Holder {
    type Error = SlotError;

    fn try_from(text: String) -> Result<Self, SlotError> {
        text.parse()
    }
}

impl From<Holder> for String {
    fn from(holder: Holder) -> Self {
        holder.to_string()
    }
}

/// A decimal number as [`u64`] prints it, so that it has one text only.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// To whom a part of a slot belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A node, which may give the addresses to its pods.
    Node(Holder),
    /// Kept for an application.
    Fixed {
        /// `namespace/name`.
        owner: String,
    },
    /// Given to nobody for now: somebody unknown has been seen to use it.
    Quarantined {
        /// Until when, in seconds since 1970 (UTC).
        until: u64,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(holder) => holder.fmt(f),
            Self::Fixed { owner } => write!(f, "={owner}"),
            Self::Quarantined { until } => write!(f, "!{until}"),
        }
    }
}

impl FromStr for Subject {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        if let Some(owner) = text.strip_prefix('=') {
            let is_word = |word: &str| {
                !word.is_empty()
                    && word
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'/'))
            };
            return match owner.split_once('/') {
                Some((namespace, name)) if is_word(namespace) && is_word(name) => {
                    Ok(Self::Fixed { owner: owner.to_owned() })
                }
                _ => Err(SlotError::subject(text)),
            };
        }
        match text.strip_prefix('!') {
            Some(until) => {
                number(until).map(|until| Self::Quarantined { until }).ok_or_else(|| SlotError::subject(text))
            }
            None => text.parse().map(Self::Node),
        }
    }
}

/// The bits of a slot of that many addresses (1 to 64).
pub fn whole(width: u32) -> u64 {
    match width {
        0 => 0,
        1..64 => (1 << width) - 1,
        _ => u64::MAX,
    }
}

/// Who has which addresses of one slot. Masks never overlap and are never zero; what nobody has is free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slot {
    /// Each subject once, in the order of the lowest bits.
    parts: Vec<(Subject, u64)>,
}

impl Slot {
    /// Reads the text of a slot of `width` addresses.
    ///
    /// # Errors
    /// The text does not say clearly whose each address is: nobody may change such a slot.
    pub fn parse(text: &str, width: u32) -> Result<Self, SlotError> {
        if !(1..=64).contains(&width) {
            return Err(SlotError::Width(width));
        }
        if text.len() > TEXT_MAX {
            return Err(SlotError::Long(text.len()));
        }
        let mut slot = Self::default();
        if text.is_empty() {
            return Ok(slot);
        }
        for part in text.split(',') {
            let (subject, mask) = match part.split_once(':') {
                Some((subject, digits)) => (subject, parse_mask(digits, width)?),
                None => (part, whole(width)),
            };
            let subject: Subject = subject.parse()?;
            match slot.taken() & mask {
                0 => slot.add(subject, mask),
                twice => return Err(SlotError::Twice(twice)),
            }
        }
        slot.tidy();
        Ok(slot)
    }

    /// The one text of this slot, which has `width` addresses.
    pub fn to_text(&self, width: u32) -> String {
        let all = whole(width);
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|(subject, mask)| if *mask == all { subject.to_string() } else { format!("{subject}:{mask:x}") })
            .collect();
        parts.join(",")
    }

    /// The parts: each subject once with its addresses, ascending by their first.
    pub fn parts(&self) -> &[(Subject, u64)] {
        &self.parts
    }

    /// The addresses that nobody has.
    pub fn free(&self, width: u32) -> u64 {
        whole(width) & !self.taken()
    }

    /// The addresses that somebody has.
    pub fn taken(&self) -> u64 {
        self.parts.iter().fold(0, |taken, (_, mask)| taken | mask)
    }

    /// A holder's addresses.
    pub fn of(&self, holder: &Holder) -> u64 {
        self.mask_of(|subject| matches!(subject, Subject::Node(node) if node == holder))
    }

    /// The addresses whose quarantine has ended at `now` (seconds since 1970): they may be claimed, and are looked for on
    /// the wire before they are given.
    pub fn expired(&self, now: u64) -> u64 {
        self.mask_of(|subject| matches!(subject, Subject::Quarantined { until } if *until <= now))
    }

    fn mask_of(&self, is_meant: impl Fn(&Subject) -> bool) -> u64 {
        self.parts.iter().filter(|(subject, _)| is_meant(subject)).fold(0, |all, (_, mask)| all | mask)
    }

    /// Gives a holder those of the addresses that are free, or whose quarantine has ended at `now`. Which ones it got.
    pub fn claim(&mut self, holder: &Holder, mask: u64, now: u64) -> u64 {
        let gained = mask & (!self.taken() | self.expired(now));
        self.clear(gained);
        self.put(&Subject::Node(holder.clone()), gained);
        gained
    }

    /// Makes those of the addresses free that are the holder's. Which ones.
    pub fn release(&mut self, holder: &Holder, mask: u64) -> u64 {
        let lost = mask & self.of(holder);
        self.clear(lost);
        lost
    }

    /// Gives those of the addresses that are `from`'s to `to`. Which ones.
    pub fn hand_over(&mut self, from: &Holder, to: &Holder, mask: u64) -> u64 {
        let lost = self.release(from, mask);
        self.put(&Subject::Node(to.clone()), lost);
        lost
    }

    /// Keeps those of the addresses that are the holder's from everybody until then (seconds since 1970). Which ones.
    pub fn quarantine(&mut self, holder: &Holder, mask: u64, until: u64) -> u64 {
        let lost = self.release(holder, mask);
        self.put(&Subject::Quarantined { until }, lost);
        lost
    }

    /// Keeps those of the addresses that are the holder's for an application (`namespace/name`, see
    /// [`reservation`](crate::reservation)). Which ones.
    pub fn reserve(&mut self, holder: &Holder, owner: &str, mask: u64) -> u64 {
        let lost = mask & self.of(holder);
        self.clear(lost);
        self.put(&Subject::Fixed { owner: owner.to_owned() }, lost);
        lost
    }

    /// The addresses that are kept for owners who are meant.
    pub fn kept(&self, is_meant: impl Fn(&str) -> bool) -> u64 {
        self.mask_of(|subject| matches!(subject, Subject::Fixed { owner } if is_meant(owner)))
    }

    /// Gives a holder those of the addresses that are kept for that owner. Which ones.
    pub fn take_up(&mut self, holder: &Holder, owner: &str, mask: u64) -> u64 {
        let gained = mask & self.kept(|kept| kept == owner);
        self.clear(gained);
        self.put(&Subject::Node(holder.clone()), gained);
        gained
    }

    /// Keeps those of the addresses that are kept for that owner no longer: they are free, or, where a time is given, in
    /// quarantine until then (seconds since 1970). Which ones.
    pub fn let_go(&mut self, owner: &str, mask: u64, until: Option<u64>) -> u64 {
        let lost = mask & self.kept(|kept| kept == owner);
        self.clear(lost);
        if let Some(until) = until {
            self.put(&Subject::Quarantined { until }, lost);
        }
        lost
    }

    /// Sets those of the addresses aside for that subject that nobody has. Which ones.
    pub fn set_aside(&mut self, subject: &Subject, mask: u64) -> u64 {
        let gained = mask & !self.taken();
        self.put(subject, gained);
        gained
    }

    /// Makes those of the addresses free that are that subject's. Which ones.
    pub fn put_back(&mut self, subject: &Subject, mask: u64) -> u64 {
        let lost = mask & self.mask_of(|known| known == subject);
        self.clear(lost);
        lost
    }

    fn clear(&mut self, mask: u64) {
        for (_, bits) in &mut self.parts {
            *bits &= !mask;
        }
        self.tidy();
    }

    /// Adds bits that nobody has.
    fn put(&mut self, subject: &Subject, mask: u64) {
        self.add(subject.clone(), mask);
        self.tidy();
    }

    fn add(&mut self, subject: Subject, mask: u64) {
        match self.parts.iter_mut().find(|(known, _)| *known == subject) {
            Some((_, bits)) => *bits |= mask,
            None => self.parts.push((subject, mask)),
        }
    }

    fn tidy(&mut self) {
        self.parts.retain(|(_, mask)| *mask != 0);
        self.parts.sort_by_key(|(_, mask)| mask.trailing_zeros());
    }
}

fn parse_mask(digits: &str, width: u32) -> Result<u64, SlotError> {
    let wrong = || SlotError::Mask(digits.chars().take(80).collect());
    let is_hex =
        (1..=16).contains(&digits.len()) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex {
        return Err(wrong());
    }
    match u64::from_str_radix(digits, 16) {
        Ok(0) | Err(_) => Err(wrong()),
        Ok(mask) if mask & !whole(width) != 0 => Err(SlotError::Outside { mask, width }),
        Ok(mask) => Ok(mask),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(text: &str) -> Holder {
        text.parse().unwrap()
    }

    #[test]
    fn the_texts_of_the_table_are_read_and_written() {
        for (text, width) in [
            ("", 1),
            ("node-a", 1),
            ("node-a", 64),
            ("node-a:3,node-b~2:c", 16),
            ("=shop/cart:1", 4),
            ("!1790000000:8", 16),
            ("!0", 1),
            ("node-a:1,=shop/cart:2,!17:4,node-b:8000000000000000", 64),
        ] {
            assert_eq!(Slot::parse(text, width).unwrap().to_text(width), text);
        }
        let slot = Slot::parse("node-b~2:c,node-a:003", 16).unwrap();
        assert_eq!(slot.to_text(16), "node-a:3,node-b~2:c");
        assert_eq!(slot.of(&holder("node-b~2")), 0xc);
        assert_eq!(slot.of(&holder("node-b")), 0);
        assert_eq!(slot.free(16), 0xfff0);
        assert_eq!(Slot::parse("node-a:f", 4).unwrap().to_text(4), "node-a");
        assert_eq!(Slot::parse("node-a:1,node-a:2", 4).unwrap().to_text(4), "node-a:3");
    }

    #[test]
    fn what_nobody_has_is_set_aside_and_put_back() {
        let mut slot = Slot::parse("a:1,!9:4", 8).unwrap();
        let aside: Subject = "=_subnet/x".parse().unwrap();
        assert_eq!(slot.set_aside(&aside, 0xf), 0xa);
        assert_eq!(slot.to_text(8), "a:1,=_subnet/x:a,!9:4");
        assert_eq!(slot.put_back(&aside, 0x7), 0x2);
        assert_eq!(slot.to_text(8), "a:1,!9:4,=_subnet/x:8");
    }

    #[test]
    fn unclear_texts_are_refused() {
        for text in [
            ",",
            "a,",
            ",a",
            "a,b",
            "a:1,b",
            "a:1,b:1",
            "a:1,b:3",
            "a:0",
            "a:",
            "a:g",
            "a:F",
            "a:0x1",
            "a:+1",
            "a:10",
            "a: 1",
            "a:00000000000000001",
            "a~1",
            "a~0",
            "a~",
            "a~02",
            "a~2~3",
            "a~-2",
            "a~+2",
            "a~99999999999999999999",
            "~2",
            ":1",
            "A",
            "a b",
            "a_b",
            "=a",
            "=/a",
            "=a/",
            "=",
            "=a/b c",
            "!",
            "!x",
            "!-1",
            "!01",
            "!+1",
            " a",
            "a ",
            "a:1:2",
            "é",
        ] {
            assert!(Slot::parse(text, 4).is_err(), "{text:?} is read as {:?}", Slot::parse(text, 4));
        }
        assert_eq!(Slot::parse("", 0), Err(SlotError::Width(0)));
        assert_eq!(Slot::parse("", 65), Err(SlotError::Width(65)));
        assert!(Slot::parse(&"a".repeat(TEXT_MAX + 1), 4).is_err());
        assert!(Holder::new("", 1).is_err() && Holder::new("a", 0).is_err() && Holder::new("a,b", 1).is_err());
        assert!(Holder::new(&"a".repeat(254), 1).is_err());
    }

    #[test]
    fn an_edit_moves_only_what_it_may() {
        let (a, b) = (holder("a"), holder("b~7"));
        let mut slot = Slot::parse("a:1,!100:2,=n/o:4", 8).unwrap();
        assert_eq!(
            slot.claim(&b, 0xff, 99),
            0xf8,
            "not another's, not what is in quarantine yet, not what is reserved"
        );
        assert_eq!(slot.claim(&a, 0xff, 100), 0x2);
        assert_eq!(slot.to_text(8), "a:3,=n/o:4,b~7:f8");
        assert_eq!(slot.release(&a, 0xfe), 0x2);
        assert_eq!(slot.hand_over(&b, &a, 0x1f), 0x18);
        assert_eq!(slot.quarantine(&a, 0x10, 200), 0x10);
        assert_eq!(slot.to_text(8), "a:9,=n/o:4,!200:10,b~7:e0");
        assert_eq!(slot.release(&a, 0xff) | slot.release(&b, 0xfe), 0xe9);
        assert_eq!(slot.free(8), 0xeb);
        assert_eq!(slot.claim(&a, 0x3, 0), 0x3);
        assert_eq!(slot.reserve(&a, "n/p/net1", 0xfe), 0x2);
        assert_eq!(slot.to_text(8), "a:1,=n/p/net1:2,=n/o:4,!200:10");
        assert_eq!(slot.take_up(&b, "n/x/net1", 0xff) | slot.let_go("n/x/net1", 0xff, None), 0);
        assert_eq!(slot.take_up(&b, "n/p/net1", 0xff), 0x2);
        assert_eq!(slot.let_go("n/o", 0xff, Some(300)), 0x4);
        assert_eq!(slot.to_text(8), "a:1,b~7:2,!300:4,!200:10");
    }

    fn subject() -> impl Strategy<Value = Subject> {
        prop_oneof![
            ("[a-c]", 1u64..4).prop_map(|(node, epoch)| Subject::Node(Holder::new(&node, epoch).unwrap())),
            "[a-c]/[a-c]".prop_map(|owner| Subject::Fixed { owner }),
            (0u64..4).prop_map(|until| Subject::Quarantined { until }),
        ]
    }

    /// A width and any slot of that width.
    fn slot() -> impl Strategy<Value = (u32, Slot)> {
        (1u32..=64, prop::collection::vec((subject(), any::<u64>()), 0..6)).prop_map(|(width, parts)| {
            let mut slot = Slot::default();
            for (subject, mask) in parts {
                let mask = mask & slot.free(width);
                slot.put(&subject, mask);
            }
            (width, slot)
        })
    }

    fn is_sound(width: u32, slot: &Slot) -> bool {
        let sum: u32 = slot.parts.iter().map(|(_, mask)| mask.count_ones()).sum();
        sum == slot.taken().count_ones()
            && slot.taken() & !whole(width) == 0
            && slot.parts.iter().all(|(_, mask)| *mask != 0)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read((width, slot) in slot()) {
            let text = slot.to_text(width);
            prop_assert_eq!(Slot::parse(&text, width), Ok(slot));
        }

        #[test]
        fn no_text_panics_and_what_is_read_has_one_text(text in "[a-c~:,=!/0-9f]{0,24}", width in 0u32..70) {
            if let Ok(slot) = Slot::parse(&text, width) {
                prop_assert!(is_sound(width, &slot));
                let canonical = slot.to_text(width);
                prop_assert_eq!(Slot::parse(&canonical, width), Ok(slot));
            }
        }

        #[test]
        fn any_bytes_at_all(text in any::<String>(), width in any::<u32>()) {
            let _ = Slot::parse(&text, width);
            let _ = text.parse::<Holder>();
        }

        #[test]
        fn edits_keep_masks_apart((width, slot) in slot(), one in subject(), two in subject(), mask in any::<u64>(), kind in 0..7) {
            let (Subject::Node(one), Subject::Node(two)) = (one, two) else { return Ok(()) };
            let mask = mask & whole(width);
            let mut edited = slot.clone();
            let changed = match kind {
                0 => edited.claim(&one, mask, 2),
                1 => edited.release(&one, mask),
                2 => edited.hand_over(&one, &two, mask),
                3 => edited.reserve(&one, "a/b", mask),
                4 => edited.take_up(&one, "a/b", mask),
                5 => edited.let_go("a/b", mask, mask.is_multiple_of(2).then_some(3)),
                _ => edited.quarantine(&one, mask, 9),
            };
            prop_assert!(is_sound(width, &edited));
            prop_assert_eq!(changed & !mask, 0);
            let others = |slot: &Slot| slot.parts.iter().map(|(subject, bits)| (subject.clone(), bits & !changed)).filter(|part| part.1 != 0).collect::<std::collections::BTreeSet<_>>();
            prop_assert_eq!(others(&slot), others(&edited), "only what it says has changed");
            prop_assert_eq!(Slot::parse(&edited.to_text(width), width), Ok(edited));
        }
    }
}
