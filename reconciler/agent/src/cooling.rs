//! Which addresses have come back when, and whose they were: a pod that asks again gets its address again, and anybody else
//! one that was given back long ago rather than one that others on the network may still take for its last user's. A
//! preference only: it never keeps an address from being given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use schemas::intent::PodRef;
use store::{Change, Store};

/// Texts of the store's catalogue: when, in milliseconds since 1970, and by whom, under `freed/ADDRESS`.
const PREFIX: &str = "freed/";
/// So many are remembered, the newest.
const REMEMBERED: usize = 4096;

/// Addresses that have come back.
#[derive(Debug, Default)]
pub struct Cooling {
    known: BTreeMap<IpAddr, Freed>,
    order: BTreeSet<(u64, IpAddr)>,
    by_user: BTreeSet<(String, IpAddr)>,
}

/// How an address came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freed {
    /// When, in milliseconds since 1970.
    pub since_ms: u64,
    /// Whose it was: see [`user`]; empty when that is not known.
    pub user: String,
}

/// An interface of a pod, whatever its sandbox; empty where the runtime names no pod.
pub fn user(pod: &PodRef, ifname: &str) -> String {
    match (pod.uid.is_empty(), pod.is_named()) {
        (false, _) => format!("{}/{ifname}", pod.uid),
        (true, true) => format!("{pod}/{ifname}"),
        (true, false) => String::new(),
    }
}

impl Cooling {
    /// What the store remembers; what cannot be read is forgotten.
    pub fn load(store: &Store) -> Self {
        let mut cooling = Self::default();
        // Without it, nothing is wrong but the order.
        for (key, text) in store.catalogue(PREFIX).unwrap_or_default().texts {
            let (since, user) = text.split_once(' ').unwrap_or((&text, ""));
            if let (Ok(address), Ok(since_ms)) = (key[PREFIX.len()..].parse(), since.parse()) {
                cooling.put(address, Freed { since_ms, user: user.to_owned() });
            }
        }
        cooling
    }

    /// The addresses, those first that came back first.
    pub fn oldest_first(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.order.iter().map(|(_, address)| *address)
    }

    /// Whether an address is among them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.known.contains_key(&address)
    }

    /// The addresses that were last this user's.
    pub fn last_of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        let least = IpAddr::from([0, 0, 0, 0]);
        let from = self.by_user.range((user.to_owned(), least)..).take_while(move |(found, _)| found == user);
        from.map(|(_, address)| *address).filter(|_| !user.is_empty())
    }

    /// Notes that addresses come back and others are given, in the change that makes it so.
    pub fn note(
        &mut self,
        mut change: Change,
        freed: Vec<(IpAddr, Freed)>,
        given: impl Iterator<Item = IpAddr>,
    ) -> Change {
        for address in given {
            if self.remove(address) {
                change = change.delete_catalogue(&key(address));
            }
        }
        for (address, freed) in freed {
            change = change.put_catalogue(&key(address), &format!("{} {}", freed.since_ms, freed.user));
            self.put(address, freed);
        }
        while self.known.len() > REMEMBERED {
            let Some((_, oldest)) = self.order.first().copied() else { break };
            self.remove(oldest);
            change = change.delete_catalogue(&key(oldest));
        }
        change
    }

    fn put(&mut self, address: IpAddr, freed: Freed) {
        self.remove(address);
        self.order.insert((freed.since_ms, address));
        self.by_user.insert((freed.user.clone(), address));
        self.known.insert(address, freed);
    }

    fn remove(&mut self, address: IpAddr) -> bool {
        let Some(freed) = self.known.remove(&address) else { return false };
        self.by_user.remove(&(freed.user, address));
        self.order.remove(&(freed.since_ms, address))
    }
}

fn key(address: IpAddr) -> String {
    format!("{PREFIX}{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_survives_a_restart_and_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("store");
        let store = Store::open(&dir, "node", "boot").unwrap();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut cooling = Cooling::default();
        for n in 0..5000 {
            let freed = Freed { since_ms: u64::from(10_000 - n), user: format!("pod-{}/net1", n / 2) };
            store.commit(cooling.note(Change::new(), vec![(address(n), freed)], std::iter::empty())).unwrap();
        }
        let change = cooling.note(Change::new(), Vec::new(), [address(4999), address(909)].into_iter());
        store.commit(change).unwrap();
        drop(store);
        let store = Store::open(&dir, "node", "boot").unwrap();
        let read = Cooling::load(&store);
        assert_eq!(read.known, cooling.known);
        assert_eq!(read.last_of("").count(), 0);
        assert_eq!(read.last_of(read.known.values().next().unwrap().user.as_str()).count(), 2);
        assert!(read.oldest_first().eq(cooling.oldest_first()));
    }
}
