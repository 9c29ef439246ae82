//! Spreading nodes apart: a hash and a sequence of numbers, the same on every machine and in every version.

/// A number for a text (FNV-1a of 64 bits, its bits mixed): where a node begins to look.
pub fn hash(text: &str) -> u64 {
    let folded = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    Draw::new(folded).next()
}

/// Numbers that look random (SplitMix64): equal seeds give equal sequences. Not for secrets.
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// The sequence of that seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Puts the elements into another order.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for place in (1..elements.len()).rev() {
            elements.swap(place, self.below(place as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_never_change() {
        // The first of SplitMix64's reference for seed 0: nodes of two versions must begin at the same shard.
        assert_eq!(Draw::new(0).next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(hash("node-a"), hash("node-a"));
        assert_ne!(hash("node-a"), hash("node-b"));
        assert_eq!(Draw::new(7).below(0), 0);
    }

    #[test]
    fn nodes_are_spread() {
        let mut places = [0u32; 64];
        for node in 0..6400 {
            places[(hash(&format!("node-{node}")) % 64) as usize] += 1;
        }
        assert!(places.iter().all(|count| (60..=140).contains(count)), "{places:?}");
    }
}
