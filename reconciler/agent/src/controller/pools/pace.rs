//! Whose turn it is: a pool is looked at soon after a change, and not again for a while. The last change always counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What happens together is waited for.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two looks at one pool, and so between two writes of its status.
const PAUSE: Duration = Duration::from_secs(5);
/// After a failed write; doubled with each further one.
const RETRY: Duration = Duration::from_secs(5);
/// The longest pause after failed writes.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// When each pool has its turn.
#[derive(Debug, Default)]
pub(super) struct Pace {
    due: BTreeMap<String, Instant>,
    last: BTreeMap<String, Instant>,
    failures: BTreeMap<String, u32>,
}

impl Pace {
    /// Something about a pool may have changed.
    pub(super) fn changed(&mut self, pool: String, now: Instant) {
        if self.failures.contains_key(&pool) && self.due.contains_key(&pool) {
            return;
        }
        self.by(pool, now + SETTLE);
    }

    /// Something about a pool will have changed by itself in that time.
    pub(super) fn later(&mut self, pool: String, time: Duration, now: Instant) {
        self.by(pool, now + time.max(SETTLE));
    }

    fn by(&mut self, pool: String, time: Instant) {
        let then = self.last.get(&pool).map_or(time, |last| time.max(*last + PAUSE));
        let due = self.due.entry(pool).or_insert(then);
        *due = then.min(*due);
    }

    /// A pool's turn is over; `is_done` when all that was to be written is.
    pub(super) fn ended(&mut self, pool: &str, is_done: bool, now: Instant) {
        if is_done {
            self.failures.remove(pool);
            return;
        }
        let count = self.failures.entry(pool.to_owned()).or_default();
        *count = count.saturating_add(1);
        let pause = RETRY.saturating_mul(1 << (*count - 1).min(8)).min(RETRY_MAX);
        self.due.insert(pool.to_owned(), now + pause);
    }

    /// The pools whose turn it is.
    pub(super) fn take(&mut self, now: Instant) -> Vec<String> {
        let turn: Vec<String> = self.due.iter().filter(|(_, due)| **due <= now).map(|(pool, _)| pool.clone()).collect();
        for pool in &turn {
            self.due.remove(pool);
            self.last.insert(pool.clone(), now);
        }
        turn
    }

    /// When the next turn is.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// There is no such pool any more.
    pub(super) fn forget(&mut self, pool: &str) {
        self.due.remove(pool);
        self.last.remove(pool);
        self.failures.remove(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_its_turn_soon_then_after_a_pause_and_the_last_change_counts() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut pace = Pace::default();
        pace.changed("a".into(), at(0));
        pace.changed("a".into(), at(900));
        assert_eq!(pace.next(), Some(at(1000)));
        assert!(pace.take(at(999)).is_empty());
        assert_eq!(pace.take(at(1000)), ["a"]);
        pace.changed("a".into(), at(1001));
        pace.changed("b".into(), at(1001));
        assert_eq!(pace.take(at(2001)), ["b"]);
        assert!(pace.take(at(5999)).is_empty());
        assert_eq!(pace.take(at(6000)), ["a"]);
        assert_eq!(pace.next(), None);
    }

    #[test]
    fn failures_make_the_pause_longer_until_one_succeeds() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pace.ended("a", false, start);
            pauses.push((pace.next().unwrap() - start).as_secs());
            pace.take(start + RETRY_MAX);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        pace.ended("a", false, start);
        pace.changed("a".into(), start);
        assert_eq!(pace.next(), Some(start + RETRY_MAX), "a change does not make it shorter");
        pace.ended("a", true, start);
        pace.ended("a", false, start);
        assert_eq!(pace.next(), Some(start + RETRY));
    }

    #[test]
    fn what_happens_by_itself_waits_for_the_pause_too() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.later("a".into(), Duration::from_secs(30), start);
        pace.changed("a".into(), start);
        assert_eq!(pace.next(), Some(start + Duration::from_secs(1)), "a change does not wait for what comes later");
    }
}
