//! When the power goes.

use super::nbd::Cut;
use super::random::Random;

/// From when a cut's requests are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The power has come.
    Start,
    /// The file system is mounted; the store is about to be opened, or made.
    Opening,
    /// So many acknowledgements were heard in this boot.
    Acknowledged(u64),
}

/// How a boot is to end.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// By a cut of the power.
    Cut { after: Moment, cut: Cut },
    /// With the proof that the store is whole and takes changes.
    Checked,
}

impl End {
    /// Any instant; a disk's first one is while the store is made.
    pub(super) fn any(random: &mut Random, is_first: bool) -> Self {
        let (after, requests) = match random.below(8) {
            _ if is_first => (Moment::Opening, 60),
            0 => (Moment::Start, 100),
            1 => (Moment::Opening, 60),
            // So long that the store has tidied up in between.
            2 | 3 => (Moment::Acknowledged(1 + random.below(1000)), 30),
            // At once, where what the last commit has not synced is lost.
            4 | 5 => (Moment::Acknowledged(1 + random.below(150)), 2),
            _ => (Moment::Acknowledged(1 + random.below(150)), 30),
        };
        Self::Cut { after, cut: Cut { request: 1 + random.below(requests), performs_last: random.below(2) == 0 } }
    }

    /// An instant at which there is something to lose.
    pub(super) fn late(random: &mut Random) -> Self {
        let cut = Cut { request: 1 + random.below(30), performs_last: false };
        Self::Cut { after: Moment::Acknowledged(50 + random.below(150)), cut }
    }
}
