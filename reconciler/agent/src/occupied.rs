//! Addresses that somebody whom dragline does not know has answered for: nobody is given them for an hour.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schemas::name::Mac;
use store::{Change, Store};

use crate::agent::Agent;

/// Texts of the store's catalogue under `occupied/ADDRESS`: since when, in milliseconds since 1970, by which hardware
/// address, and of which pool the address is.
const PREFIX: &str = "occupied/";
/// For how long such an address is kept from everybody.
pub const QUARANTINE: Duration = Duration::from_secs(3600);
/// After an end that could not be recorded.
const RETRY: Duration = Duration::from_secs(1);

/// Who was found at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// When, in milliseconds since 1970.
    pub since_ms: u64,
    /// The hardware address that answered.
    pub mac: Mac,
    /// The pool that the address is of.
    pub pool: String,
}

impl Occupant {
    /// When the address may be given again, in milliseconds since 1970.
    pub fn until_ms(&self) -> u64 {
        self.since_ms.saturating_add(u64::try_from(QUARANTINE.as_millis()).unwrap_or(u64::MAX))
    }

    /// What people are told of it.
    pub fn text(&self, address: IpAddr) -> String {
        format!(
            "address {address} of SpiderIPPool {} is in use by {}, whom dragline does not know: it is kept from everybody until {}; find it, or exclude the address",
            self.pool,
            self.mac,
            store::dump::time_text(SystemTime::UNIX_EPOCH + Duration::from_millis(self.until_ms()))
        )
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Occupied {
    known: BTreeMap<IpAddr, Occupant>,
}

impl Occupied {
    /// What the store remembers. A text that cannot be read is told, and its address is not kept back.
    pub fn load(store: &Store, now_ms: u64) -> Self {
        let mut known = BTreeMap::new();
        for (key, text) in store.catalogue(PREFIX).unwrap_or_default().texts {
            let Some((address, mut occupant)) = parse(&key, &text) else {
                tracing::error!(key, text, "the record of an address in use by others cannot be read");
                continue;
            };
            // A clock that was put back would keep it for longer.
            occupant.since_ms = occupant.since_ms.min(now_ms);
            known.insert(address, occupant);
        }
        Self { known }
    }

    /// Whether an address is among them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.known.contains_key(&address)
    }

    /// All of them, by address.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Occupant)> {
        self.known.iter().map(|(address, occupant)| (*address, occupant))
    }

    /// Adds one, in the change that makes it durable.
    pub fn put(&mut self, change: Change, address: IpAddr, occupant: Occupant) -> Change {
        let text = format!("{} {} {}", occupant.since_ms, occupant.mac, occupant.pool);
        self.known.insert(address, occupant);
        change.put_catalogue(&key(address), &text)
    }

    /// Those whose quarantine is over by then.
    pub fn over(&self, now_ms: u64) -> Vec<IpAddr> {
        self.iter().filter(|(_, occupant)| occupant.until_ms() <= now_ms).map(|(address, _)| address).collect()
    }

    /// The change after which these are no longer among them.
    pub fn without(addresses: &[IpAddr]) -> Change {
        addresses.iter().fold(Change::new(), |change, address| change.delete_catalogue(&key(*address)))
    }

    /// Takes them out; those that were among them.
    pub fn remove(&mut self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        addresses.iter().copied().filter(|address| self.known.remove(address).is_some()).collect()
    }

    /// When the next quarantine is over.
    pub fn next_end_ms(&self) -> Option<u64> {
        self.known.values().map(Occupant::until_ms).min()
    }
}

fn key(address: IpAddr) -> String {
    format!("{PREFIX}{address}")
}

fn parse(key: &str, text: &str) -> Option<(IpAddr, Occupant)> {
    let address = key.strip_prefix(PREFIX)?.parse().ok()?;
    let mut parts = text.splitn(3, ' ');
    let (since, mac, pool) = (parts.next()?, parts.next()?, parts.next()?);
    Some((address, Occupant { since_ms: since.parse().ok()?, mac: mac.parse().ok()?, pool: pool.to_owned() }))
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Ends quarantines for as long as the agent runs.
pub async fn keep(agent: Arc<Agent>) {
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        let changed = agent.ledger.quarantined();
        let pause = match agent.ledger.end_quarantines(now_ms()).await {
            Ok(None) => None,
            Ok(Some(until_ms)) => Some(Duration::from_millis(until_ms.saturating_sub(now_ms())).min(QUARANTINE)),
            Err(error) => {
                tracing::error!(%error, "the end of a quarantine is not recorded");
                Some(RETRY)
            }
        };
        let over = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = over => {}
            () = &mut stopping => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_was_found_is_known_after_a_restart_and_forgotten_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("store");
        let store = Store::open(&dir, "node", "boot").unwrap();
        let address: IpAddr = "fd00::9".parse().unwrap();
        let occupant = Occupant { since_ms: 5000, mac: Mac([2, 0, 0, 0, 0, 9]), pool: "a-pool".into() };
        let mut occupied = Occupied::default();
        store.commit(occupied.put(Change::new(), address, occupant.clone())).unwrap();
        drop(store);
        let store = Store::open(&dir, "node", "boot").unwrap();
        let mut read = Occupied::load(&store, 10_000);
        assert_eq!(read.known, occupied.known);
        assert_eq!(read.next_end_ms(), Some(5000 + 3_600_000));
        assert_eq!(Occupied::load(&store, 4000).next_end_ms(), Some(4000 + 3_600_000), "the clock was put back");
        assert_eq!(read.over(3_604_999), [] as [IpAddr; 0]);
        assert_eq!(read.over(3_605_000), [address]);
        store.commit(Occupied::without(&[address])).unwrap();
        assert_eq!(read.remove(&[address]), [address]);
        assert_eq!(Occupied::load(&store, 10_000).known, BTreeMap::new());
        let text = occupant.text(address);
        assert!(text.contains("address fd00::9 of SpiderIPPool a-pool is in use by 02:00:00:00:00:09"), "{text}");
    }

    proptest! {
        #[test]
        fn no_record_panics(key in ".*", text in ".*") {
            let _ = parse(&key, &text);
            let _ = parse("occupied/10.0.0.1", &text);
        }
    }
}
