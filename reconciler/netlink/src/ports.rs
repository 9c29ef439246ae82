//! The numbers of the sockets by which passes change namespaces. The kernel repeats in each event the number of the socket
//! that asked for the change: so what a pass has done itself, and looked at afterwards, need not be looked at once more.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernel gives a socket that asks for none the number of its process, which is at most 2^22, or a negative one: these
/// lie between, so that nobody gets one of them by chance.
const FIRST: u32 = 0x4000_0000;
/// How many a process takes from [`FIRST`] on, in one of as many places as fit below the negative ones.
const COUNT: u32 = 0x1_0000;

/// The numbers of this process, another part for each, so that two of them do not overhear each other's changes.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u32,
    given: AtomicU32,
}

impl Ports {
    pub(crate) fn new() -> Self {
        // Seeded by the system.
        let random = RandomState::new().hash_one(std::process::id());
        let place = u32::try_from(random % u64::from(FIRST / COUNT)).unwrap_or_default();
        Self { first: FIRST + place * COUNT, given: AtomicU32::new(0) }
    }

    /// The next one. They are given again after a while, in a namespace where one may still be in use.
    pub(crate) fn give(&self) -> u32 {
        self.first + self.given.fetch_add(1, Ordering::Relaxed) % COUNT
    }

    /// Whether it is one of these.
    pub(crate) fn has(&self, port: u32) -> bool {
        (self.first..self.first + COUNT).contains(&port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_are_given_are_known_and_none_that_the_kernel_gives() {
        let ports = Ports::new();
        assert!((0..3 * COUNT).all(|_| ports.has(ports.give())));
        assert!(ports.first + (COUNT - 1) <= i32::MAX.unsigned_abs());
        for foreign in [0, 1, 1 << 22, FIRST - 1, 0x8000_0000, u32::MAX, ports.first - 1, ports.first + COUNT] {
            assert!(!ports.has(foreign), "{foreign:x}");
        }
    }
}
