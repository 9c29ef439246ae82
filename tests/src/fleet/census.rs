//! Whose each address is, by what the shards say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use schemas::slot::{Slot, Subject};
use serde_json::Value;

use super::{FleetError, Objects, SPIDERPOOL, Tenure};

/// The shards of one pool, read once.
#[derive(Debug, Clone, Default)]
pub struct Census {
    holders: BTreeMap<IpAddr, Subject>,
    faults: Vec<String>,
}

impl Census {
    pub(super) fn take(objects: &Objects, pool: &str) -> Result<Self, FleetError> {
        let uid = objects.get(&format!("{SPIDERPOOL}/spiderippools"), pool)?["metadata"]["uid"].clone();
        let shards = objects.list_where(&format!("{SPIDERPOOL}/spideripshards"), &format!("spec.pool={pool}"))?;
        let mut census = Self::default();
        // Those of a pool of the same name that is gone say nothing.
        for shard in shards.iter().filter(|shard| shard["spec"]["poolUID"] == uid) {
            census.read(shard)?;
        }
        Ok(census)
    }

    fn read(&mut self, shard: &Value) -> Result<(), FleetError> {
        let name = shard["metadata"]["name"].as_str().unwrap_or_default();
        let unclear = || FleetError::shape(format!("shard {name}"), shard);
        let first = shard["spec"]["first"].as_str().and_then(|first| first.parse::<IpAddr>().ok());
        let size = shard["spec"]["size"].as_u64().and_then(|size| u32::try_from(size).ok());
        let (first, size) = first.zip(size).ok_or_else(unclear)?;
        let slots = shard["status"]["slots"].as_array().ok_or_else(unclear)?;
        let width = size / u32::try_from(slots.len()).ok().filter(|count| *count > 0).ok_or_else(unclear)?;
        let mut start = 0;
        for text in slots {
            match Slot::parse(text.as_str().ok_or_else(unclear)?, width) {
                Ok(slot) => {
                    for (subject, mask) in slot.parts() {
                        let bits = (0..width).filter(|bit| mask & (1 << bit) != 0);
                        let addresses = bits.map(|bit| after(first, start + bit));
                        self.holders.extend(addresses.map(|address| (address, subject.clone())));
                    }
                }
                Err(error) => self.faults.push(format!("{name}, slot of {}: {error}", after(first, start))),
            }
            start += width;
        }
        Ok(())
    }

    /// How many addresses each has: a node with its incarnation, an owner, a quarantine.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for subject in self.holders.values() {
            *counts.entry(subject.to_string()).or_default() += 1;
        }
        counts
    }

    /// Who has an address.
    pub fn holder(&self, address: IpAddr) -> Option<&Subject> {
        self.holders.get(&address)
    }

    /// How many addresses somebody has.
    pub fn taken(&self) -> usize {
        self.holders.len()
    }

    /// Slots that cannot be read, and addresses in use that their node does not hold: a line each.
    pub fn faults(&self, held: &BTreeMap<IpAddr, Tenure>) -> Vec<String> {
        let mut faults = self.faults.clone();
        for (address, tenure) in held {
            let holder = self.holder(*address);
            let is_own = matches!(holder, Some(Subject::Node(holder)) if holder.node() == tenure.node);
            if !is_own {
                let holder = holder.map_or_else(|| "nobody".to_owned(), ToString::to_string);
                faults.push(format!("{address} is used by {} on {} and held by {holder}", tenure.pod, tenure.node));
            }
        }
        faults
    }
}

/// The address that is so many after that one; those of shards do not end with the family's last one.
fn after(first: IpAddr, number: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(number)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(number.into())).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_used_is_to_be_held() {
        let mut slots = vec![""; 64];
        (slots[0], slots[1], slots[2]) = ("a:1,b~2:2", "b", "?");
        let shard = json!({
            "metadata": {"name": "p.0"}, "spec": {"first": "10.0.0.0", "size": 128}, "status": {"slots": slots},
        });
        let mut census = Census::default();
        census.read(&shard).unwrap();
        assert_eq!(census.counts(), [("a".to_owned(), 1), ("b".to_owned(), 2), ("b~2".to_owned(), 1)].into());
        let used = |address: &str, node: &str| {
            let pod = format!("n/{node}");
            let tenure = Tenure { pod, uid: String::new(), node: node.into(), since: Instant::now() };
            (address.parse::<IpAddr>().unwrap(), tenure)
        };
        let right = [used("10.0.0.0", "a"), used("10.0.0.1", "b"), used("10.0.0.3", "b")];
        let faults = census.faults(&right.into());
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("p.0, slot of 10.0.0.4: "), "{faults:?}");
        let faults = census.faults(&[used("10.0.0.1", "a"), used("10.0.0.6", "a")].into());
        assert_eq!(faults[1], "10.0.0.1 is used by n/a on a and held by b~2");
        assert_eq!(faults[2], "10.0.0.6 is used by n/a on a and held by nobody");
    }
}
