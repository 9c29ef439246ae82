//! A program that keeps changing things back: noticed, and met at a slower pace.

use std::time::{Duration, Instant};

/// So many repairs in one place in so short a time are a fight with another program.
const FIGHT: (usize, Duration) = (120, Duration::from_secs(30));
/// In a fight, the first and the longest wait before the next repair.
const PACE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Repairs of late, and the pace they are down to.
#[derive(Debug, Default)]
pub struct Fight {
    repairs: Vec<Instant>,
    pace: Option<Duration>,
}

impl Fight {
    /// Notes a repair; the wait before the next one, when there is a fight.
    pub fn repaired(&mut self, now: Instant) -> Option<Duration> {
        let (count, window) = FIGHT;
        if self.pace.is_some() && !self.is_on(now) {
            *self = Self::default();
        }
        self.repairs.retain(|repair| now.duration_since(*repair) <= window);
        self.repairs.push(now);
        let is_fight = self.pace.is_some() || self.repairs.len() >= count;
        is_fight.then(|| self.slow_down())
    }

    /// Notes a repair that was undone before it was over: a fight for certain; the wait before the next one.
    pub fn lost(&mut self, now: Instant) -> Duration {
        self.repaired(now).unwrap_or_else(|| self.slow_down())
    }

    fn slow_down(&mut self) -> Duration {
        let pace = self.pace.map_or(PACE.0, |pace| (pace * 2).min(PACE.1));
        self.pace = Some(pace);
        pace
    }

    /// There is a fight: quiet for longer than the pace and the window together means that the other program has given up.
    pub fn is_on(&self, now: Instant) -> bool {
        let last = self.repairs.last();
        self.pace.zip(last).is_some_and(|(pace, last)| now.duration_since(*last) <= FIGHT.1 + pace * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_in_a_row_become_slow_and_quiet_makes_them_fast_again() {
        let mut fight = Fight::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for repair in 0..119 {
            assert_eq!(fight.repaired(at(repair * 10)), None);
        }
        assert_eq!(fight.repaired(at(1_200)), Some(PACE.0));
        assert_eq!(fight.repaired(at(1_700)), Some(PACE.0 * 2));
        let mut last = at(2_700);
        for _ in 0..10 {
            fight.repaired(last);
            last += Duration::from_secs(30);
        }
        assert_eq!(fight.pace, Some(PACE.1));
        assert!(fight.is_on(last) && !fight.is_on(last + Duration::from_secs(200)));
        assert_eq!(fight.repaired(last + Duration::from_secs(200)), None);
        assert_eq!(fight.lost(last + Duration::from_secs(201)), PACE.0);
    }
}
