//! The numbers by which the kernel names the namespaces of sandboxes in its events, until those namespaces are no more. The
//! kernel gives a number to the next one at once, and says only later that the one before is gone.

use std::collections::{BTreeMap, HashMap};

use schemas::name::ContainerId;

/// Which sandbox has which number; asked at each event.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    of: HashMap<ContainerId, (i32, u64)>,
    /// By number and, for each, in the order in which it was learnt: the sandbox, and its namespace's cookie (see
    /// [`schemas::intent::NetnsIdentity`]).
    holders: HashMap<i32, BTreeMap<u64, (ContainerId, u64)>>,
    /// How many have been learnt.
    learnt: u64,
}

impl Numbers {
    /// Which sandbox the events of a namespace belong to: who had the number before is gone.
    pub(super) fn container_of(&self, nsid: i32) -> Option<ContainerId> {
        let (container, _) = self.holders.get(&nsid)?.values().next_back()?;
        Some(container.clone())
    }

    /// The namespace that had this number first is no more: whose it was, all of whom forget it.
    pub(super) fn gone(&mut self, nsid: i32) -> Vec<ContainerId> {
        let Some(holders) = self.holders.get(&nsid) else { return Vec::new() };
        let Some((_, first)) = holders.values().next() else { return Vec::new() };
        let gone: Vec<ContainerId> =
            holders.values().filter(|(_, cookie)| cookie == first).map(|(container, _)| container.clone()).collect();
        gone.iter().for_each(|container| self.forget(container));
        gone
    }

    pub(super) fn has(&self, container: &ContainerId) -> bool {
        self.of.contains_key(container)
    }

    pub(super) fn set(&mut self, container: &ContainerId, nsid: i32, cookie: u64) {
        self.forget(container);
        self.learnt += 1;
        self.of.insert(container.clone(), (nsid, self.learnt));
        self.holders.entry(nsid).or_default().insert(self.learnt, (container.clone(), cookie));
    }

    pub(super) fn forget(&mut self, container: &ContainerId) {
        let Some((nsid, order)) = self.of.remove(container) else { return };
        if let Some(holders) = self.holders.get_mut(&nsid) {
            holders.remove(&order);
            if holders.is_empty() {
                self.holders.remove(&nsid);
            }
        }
    }

    pub(super) fn forget_all(&mut self) {
        self.of.clear();
        self.holders.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_given_again_is_first_taken_from_who_had_it_first() {
        let mut numbers = Numbers::default();
        let container = |name: &str| name.parse::<ContainerId>().unwrap();
        let [first, same, second, third] = ["first", "same", "second", "third"].map(container);
        numbers.set(&first, 7, 100);
        numbers.set(&same, 7, 100);
        numbers.set(&third, 8, 102);
        // The kernel has not said yet that the first one is gone.
        numbers.set(&second, 7, 101);
        assert_eq!(numbers.container_of(7), Some(second.clone()));
        assert_eq!(numbers.gone(7), [first.clone(), same.clone()]);
        assert!(!numbers.has(&first) && !numbers.has(&same) && numbers.has(&second));
        assert_eq!(numbers.gone(7), [second]);
        assert_eq!((numbers.gone(7), numbers.container_of(8)), (Vec::new(), Some(third.clone())));
        numbers.set(&third, 9, 103);
        assert_eq!((numbers.container_of(8), numbers.container_of(9)), (None, Some(third)));
        numbers.forget_all();
        assert!(numbers.of.is_empty() && numbers.holders.is_empty());
    }
}
