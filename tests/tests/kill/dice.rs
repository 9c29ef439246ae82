//! Choices that a seed repeats.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed of `DRAGLINE_SEED`, else one of the clock.
    pub(crate) fn seed() -> u64 {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        std::env::var("DRAGLINE_SEED").map_or_else(|_| clock(), |text| text.parse().expect("DRAGLINE_SEED: a number"))
    }

    /// Dice of their own, for a thread of its own.
    pub(crate) fn split(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A time up to so many milliseconds.
    pub(crate) fn up_to_ms(&mut self, milliseconds: usize) -> Duration {
        Duration::from_micros(self.below(milliseconds * 1000 + 1) as u64)
    }
}
