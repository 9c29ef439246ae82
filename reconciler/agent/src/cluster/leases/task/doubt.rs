//! Addresses that another pool may have given: ranges move between pools that are edited while pods use them, and two pools
//! may hold the same ones. A pool's shards tell of that pool alone, so those of the others are read before such an address
//! is given. They are read after the own claim has been written: of two who claim one address of two pools at a time, at
//! least one sees the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::StreamExt;
use futures::stream;
use kube::{Client, ResourceExt};
use plan::lease::tenant::Reply;
use plan::lease::{Layout, Shard};
use schemas::slot::{Holder, Subject};

use super::RETRY;
use crate::agent::Agent;
use crate::catalogue::{Catalogue, Pool};
use crate::cluster::leases::requests::Shards;
use crate::controller::subnets::{fences, naming};

/// For how long an address that another pool has is kept from everybody here, unless a quarantine says longer.
const KEPT_SECONDS: u64 = 120;
/// Shards are read so many at once.
const AT_ONCE: usize = 4;

/// An address that another pool has.
pub(super) struct Elsewhere {
    pub(super) address: IpAddr,
    /// Until when nobody is given it, in seconds since 1970.
    pub(super) until: u64,
    /// Who has it, for people.
    pub(super) text: String,
}

/// A shard of another pool, and which of the addresses it may tell of.
struct Witness {
    shards: Shards,
    number: u128,
    addresses: Vec<IpAddr>,
}

/// Which of these addresses of a pool, just claimed for `me`, are somebody else's by another pool's shards at `now` (seconds
/// since 1970). It is asked until the API server has told: what is not known is not given. What this node itself has is left
/// to its ledger, which gives nothing twice whatever pool it is of.
pub(super) async fn elsewhere(
    agent: &Agent,
    own: &str,
    me: &Holder,
    addresses: Vec<IpAddr>,
    now: u64,
) -> Vec<Elsewhere> {
    let Some(cluster) = &agent.cluster else { return Vec::new() };
    let mut witnesses = witnesses(&agent.catalogue(), &cluster.client, own, &addresses);
    let mut found: BTreeMap<IpAddr, Elsewhere> = BTreeMap::new();
    while !witnesses.is_empty() {
        let answers: Vec<(Witness, Reply)> = stream::iter(witnesses)
            .map(|witness| async move {
                let reply = witness.shards.clone().get(witness.number, true).await;
                (witness, reply)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        witnesses = Vec::new();
        for (witness, reply) in answers {
            match reply {
                Reply::Seen(seen) => {
                    let shard = Shard::read(witness.shards.layout, witness.number, &seen.slots);
                    let held = witness.addresses.iter().filter_map(|address| {
                        let (until, text) = holder(&witness.shards, &shard, me, *address, now)?;
                        Some(Elsewhere { address: *address, until, text })
                    });
                    found.extend(held.map(|elsewhere| (elsewhere.address, elsewhere)));
                }
                // One of an earlier pool of that name goes only when nobody has anything of it.
                Reply::Absent | Reply::Void => {}
                _ => witnesses.push(witness),
            }
        }
        if !witnesses.is_empty() {
            tokio::time::sleep(RETRY).await;
        }
    }
    let taken = agent.ledger.taken_of(own, &found.keys().copied().collect());
    found.into_values().filter(|elsewhere| !taken.contains(&elsewhere.address)).collect()
}

/// The shards of other pools that may tell of these addresses.
fn witnesses(catalogue: &Catalogue, client: &Client, own: &str, addresses: &[IpAddr]) -> Vec<Witness> {
    let others = catalogue.pools.iter().filter(|(name, _)| *name != own);
    let mut witnesses = Vec::new();
    for (name, pool) in others {
        let meant: Vec<IpAddr> = addresses.iter().copied().filter(|address| may_have(pool, *address)).collect();
        // Without a size nobody has ever taken any of it.
        let size = pool.object.status.as_ref().and_then(|status| status.shard_size);
        let layout = size.and_then(|size| Layout::new(pool.ranges.subnet, size).ok());
        let (false, Some(layout)) = (meant.is_empty(), layout) else { continue };
        let shards = Shards {
            client: client.clone(),
            pool: name.clone(),
            pool_uid: pool.object.uid().unwrap_or_default(),
            layout,
        };
        let numbers: BTreeSet<u128> = meant.iter().filter_map(|address| layout.number(*address)).collect();
        witnesses.extend(numbers.into_iter().map(|number| Witness {
            shards: shards.clone(),
            number,
            addresses: meant.iter().copied().filter(|address| layout.number(*address) == Some(number)).collect(),
        }));
    }
    witnesses
}

/// Whether pods may have this address of a pool: it is among its addresses, or it may have been. Of a pool that was made for
/// an application none goes as long as somebody has it.
fn may_have(pool: &Pool, address: IpAddr) -> bool {
    if !pool.ranges.subnet.contains(address) {
        return false;
    }
    let is_of = |(first, last): &(IpAddr, IpAddr)| (*first..=*last).contains(&address);
    let is_edited = pool.object.metadata.generation.is_some_and(|generation| generation > 1)
        && naming::Owner::of(&pool.object).is_none();
    is_edited || pool.ranges.usable().iter().any(is_of)
}

/// Who else has an address by a shard of another pool, until when it is to be left alone; None when nobody.
fn holder(shards: &Shards, shard: &Shard, me: &Holder, address: IpAddr, now: u64) -> Option<(u64, String)> {
    let (_, place, bit) = shards.layout.place(address)?;
    let later = now.saturating_add(KEPT_SECONDS);
    let pool = &shards.pool;
    let Some(slot) = shard.slot(place) else {
        return Some((later, format!("a slot of pool {pool} that cannot be read may tell whose it is")));
    };
    let (subject, _) = slot.parts().iter().find(|(_, mask)| mask & (1 << bit) != 0)?;
    match subject {
        // Set aside so that nobody takes it of that pool.
        Subject::Fixed { owner } if owner == fences::OWNER => None,
        Subject::Fixed { owner } => Some((later, format!("pool {pool} keeps it for {owner}"))),
        Subject::Node(node) if node == me => None,
        Subject::Node(node) => Some((later, format!("node {node} has it of pool {pool}"))),
        // Out of an ended quarantine only a look on the wire leads, which is for the pool that knows of it.
        Subject::Quarantined { until } => Some(((*until).max(later), format!("it is in quarantine in pool {pool}"))),
    }
}

#[cfg(test)]
mod tests {
    use schemas::crd::SpiderIPPool;
    use serde_json::json;

    use super::*;
    use crate::catalogue::Object;

    fn pool(name: &str, generation: i64, ips: &str, labels: serde_json::Value) -> Object {
        let pool: SpiderIPPool = serde_json::from_value(json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool",
            "metadata": {"name": name, "generation": generation, "labels": labels},
            "spec": {"subnet": "10.6.0.0/16", "ips": [ips]},
            "status": {"shardSize": 64},
        }))
        .unwrap();
        Object::IpPool(pool)
    }

    #[test]
    fn pools_that_have_or_may_have_had_an_address_are_asked() {
        let auto = json!({
            "ipam.spidernet.io/owner-application-gv": "apps_v1", "ipam.spidernet.io/owner-application-kind": "Deployment",
            "ipam.spidernet.io/owner-application-namespace": "d", "ipam.spidernet.io/owner-application-name": "web",
        });
        let catalogue = Catalogue::of([
            pool("own", 3, "10.6.0.1-10.6.0.9", json!({})),
            pool("apart", 1, "10.6.0.100-10.6.0.109", json!({})),
            pool("edited", 2, "10.6.0.200", json!({})),
            pool("shared", 1, "10.6.0.9-10.6.0.12", json!({})),
            pool("made", 7, "10.6.0.210", auto),
        ]);
        let asked = |address: &str| -> Vec<&str> {
            let address: IpAddr = address.parse().unwrap();
            let others = catalogue.pools.iter().filter(|(name, _)| *name != "own");
            others.filter(|(_, pool)| may_have(pool, address)).map(|(name, _)| name.as_str()).collect()
        };
        assert_eq!(asked("10.6.0.1"), ["edited"]);
        assert_eq!(asked("10.6.0.9"), ["edited", "shared"]);
        assert_eq!(asked("10.6.0.210"), ["edited", "made"]);
        assert_eq!(asked("10.7.0.1"), [""; 0]);
    }

    #[tokio::test]
    async fn whoever_has_it_there_has_it() {
        let client = Client::try_from(kube::Config::new("http://localhost".parse().unwrap())).unwrap();
        let layout = Layout::new("10.6.0.0/16".parse().unwrap(), 64).unwrap();
        let shards = Shards { client, pool: "other".into(), pool_uid: "u".into(), layout };
        let mut texts = vec![String::new(); plan::lease::SLOTS];
        for (place, text) in [(1, "node-a"), (2, "=shop/cart-0/net1"), (3, "!5000"), (4, "!7"), (5, "what?")] {
            texts[place] = text.into();
        }
        texts[6] = format!("={}", fences::OWNER);
        (texts[7], texts[8]) = ("me".into(), "me~2".into());
        let shard = Shard::read(layout, 0, &texts);
        let me: Holder = "me".parse().unwrap();
        let told = |last: u8| holder(&shards, &shard, &me, IpAddr::from([10, 6, 0, last]), 1000);
        assert_eq!((told(0), told(6), told(7)), (None, None, None));
        assert!(told(8).is_some(), "an earlier incarnation is another one");
        assert_eq!(told(1), Some((1120, "node node-a has it of pool other".into())));
        assert_eq!(told(2), Some((1120, "pool other keeps it for shop/cart-0/net1".into())));
        assert_eq!(told(3).unwrap().0, 5000);
        assert_eq!(told(4).unwrap().0, 1120);
        assert!(told(5).unwrap().1.contains("cannot be read"));
    }
}
