//! How many addresses beyond its need a node may keep, as published: [`plan::lease::demand`] says how many there should
//! be, in steps, falling at once and rising only with room to spare. Here it is also kept from rising again too soon, or
//! nodes would fill up with what the one that has just waited is about to need.

use std::time::{Duration, Instant};

use plan::lease::demand::steady_fair_share;

/// How long it does not rise after it has fallen: nodes give back within ten seconds, and those that waited settle.
pub const SETTLE: Duration = Duration::from_secs(30);

/// What it is decided from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// How many addresses may be given.
    pub givable: i64,
    /// How many of them are in use.
    pub busy: i64,
    /// How many nodes may use the pool.
    pub nodes: usize,
    /// Nobody is to keep anything: somebody waits, or the pool gives nothing.
    pub is_wanted: bool,
}

/// What to publish, given what is, and when it was last made smaller.
pub fn fair_share(published: Option<i64>, room: Room, fallen: &mut Option<Instant>, now: Instant) -> i64 {
    let count = |number: i64| u128::try_from(number).unwrap_or_default();
    let (givable, busy) = (count(room.givable), count(room.busy));
    let share = steady_fair_share(published.map(count), givable, busy, room.nodes as u128, room.is_wanted);
    let share = i64::try_from(share).unwrap_or(i64::MAX);
    let Some(published) = published else { return share };
    if share < published || room.is_wanted {
        *fallen = Some(now);
    } else if share > published && fallen.is_some_and(|since| now.saturating_duration_since(since) < SETTLE) {
        return published;
    }
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(givable: i64, busy: i64, nodes: usize) -> Room {
        Room { givable, busy, nodes, is_wanted: false }
    }

    #[test]
    fn it_falls_at_once_and_rises_when_it_has_settled() {
        let start = Instant::now();
        let mut fallen = None;
        let mut at =
            |published, room, second| fair_share(published, room, &mut fallen, start + Duration::from_secs(second));
        assert_eq!(at(None, room(41, 0, 1), 0), 40);
        assert_eq!(at(Some(40), room(41, 11, 1), 1), 28);
        assert_eq!(at(Some(28), room(41, 0, 1), 30), 28, "it has just fallen");
        assert_eq!(at(Some(28), room(41, 0, 1), 31), 32);
        let waited = Room { is_wanted: true, ..room(41, 0, 1) };
        assert_eq!(at(Some(32), waited, 100), 0);
        assert_eq!(at(Some(0), room(41, 0, 1), 110), 0, "who waited has just been served");
        assert_eq!(at(Some(0), waited, 120), 0);
        assert_eq!(at(Some(0), room(41, 0, 1), 149), 0);
        assert_eq!(at(Some(0), room(41, 0, 1), 150), 32);
    }

    #[test]
    fn one_address_up_and_down_moves_it_once() {
        for givable in [41, 253, 1000] {
            for busy in 0..givable {
                let (mut fallen, start) = (None, Instant::now());
                let mut published = None;
                let mut values = std::collections::BTreeSet::new();
                for round in 0..20 {
                    let now = start + SETTLE * u32::try_from(round).unwrap() * 2;
                    published = Some(fair_share(published, room(givable, busy + round % 2, 7), &mut fallen, now));
                    if round > 1 {
                        values.insert(published);
                    }
                }
                assert_eq!(values.len(), 1, "{givable} {busy}: {values:?}");
            }
        }
    }
}
