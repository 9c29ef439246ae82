//! Slots that are kept from everybody: whose address a pool is about to lose, or has lost. A node that does not know yet
//! that its pool is smaller cannot take it any more, so another pool may have it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use plan::allocate::{AddressSet, each};
use plan::lease::tenant::{Reply, Seen};
use plan::lease::{Layout, SlotEdit, size_for};
use schemas::crd::SpiderIPPool;
use schemas::slot::{Slot, Subject};
use serde_json::json;

use super::sizing::Usage;
use crate::cluster::leases::requests::Shards;
use crate::kubernetes::FIELD_MANAGER;

/// As whose they are kept: no namespace has this name.
pub const OWNER: &str = "_subnet/withdrawn";
/// How often a shard is read again after others have changed it.
const ATTEMPTS: usize = 5;

/// What is to become of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// They are kept from everybody, as far as nobody has them.
    Fence,
    /// They are anybody's again.
    Unfence,
}

fn subject() -> Subject {
    Subject::Fixed { owner: OWNER.to_owned() }
}

/// Who has which addresses of a pool, by the API server's own word. One in quarantine is held also when that is over: only
/// a node can look for it on the wire, and in another pool nobody would.
///
/// # Errors
/// What the API server did not tell.
pub async fn look(client: &Client, pool: &SpiderIPPool) -> Result<Usage, String> {
    // Without a size nobody has ever taken any.
    let Some(size) = pool.status.as_ref().and_then(|status| status.shard_size) else { return Ok(Usage::default()) };
    let shards = shards(client, pool, size)?;
    let layout = shards.layout;
    match shards.list().await {
        Reply::Listed(seen) => Ok(usage(&layout, &seen)),
        reply => Err(format!("its shards cannot be listed: {reply:?}")),
    }
}

fn shards(client: &Client, pool: &SpiderIPPool, size: u32) -> Result<Shards, String> {
    let subnet = pool.spec.subnet.parse().map_err(|_| format!("spec.subnet {:?} is no subnet", pool.spec.subnet))?;
    let layout = Layout::new(subnet, size).map_err(|error| error.to_string())?;
    Ok(Shards { client: client.clone(), pool: pool.name_any(), pool_uid: pool.uid().unwrap_or_default(), layout })
}

fn usage(layout: &Layout, seen: &[Seen]) -> Usage {
    let mut usage = Usage::default();
    for shard in seen {
        for (slot, text) in shard.slots.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
            let Ok(read) = Slot::parse(text, layout.width()) else {
                // Nobody may touch what is unclear.
                layout.addresses(shard.number, slot, u64::MAX).into_iter().for_each(|ip| usage.held.insert(ip));
                continue;
            };
            for (owner, mask) in read.parts() {
                let set = if *owner == subject() { &mut usage.fenced } else { &mut usage.held };
                layout.addresses(shard.number, slot, *mask).into_iter().for_each(|ip| set.insert(ip));
            }
        }
    }
    usage
}

/// Changes slots as far as that is possible; [`look`] tells how far.
///
/// # Errors
/// What the API server did not do.
pub async fn write(client: &Client, pool: &SpiderIPPool, addresses: &AddressSet, wish: Wish) -> Result<(), String> {
    let size = match pool.status.as_ref().and_then(|status| status.shard_size) {
        Some(size) => size,
        None => fix_size(client, pool).await?,
    };
    let shards = shards(client, pool, size)?;
    let mut by_shard: BTreeMap<u128, BTreeMap<usize, u64>> = BTreeMap::new();
    for (shard, slot, bit) in
        addresses.iter().flat_map(|(first, last)| each(first, last)).filter_map(|ip: IpAddr| shards.layout.place(ip))
    {
        *by_shard.entry(shard).or_default().entry(slot).or_default() |= 1 << bit;
    }
    for (number, slots) in by_shard {
        write_one(&shards, number, &slots, wish).await?;
    }
    Ok(())
}

async fn write_one(shards: &Shards, number: u128, slots: &BTreeMap<usize, u64>, wish: Wish) -> Result<(), String> {
    let mut reply = shards.clone().get(number, true).await;
    for _ in 0..ATTEMPTS {
        reply = match reply {
            Reply::Seen(seen) => {
                let edits = edits(shards.layout.width(), &seen.slots, slots, wish);
                if edits.is_empty() {
                    return Ok(());
                }
                match shards.clone().patch(number, edits).await {
                    Reply::Seen(_) => return Ok(()),
                    Reply::Refused | Reply::Absent => shards.clone().get(number, true).await,
                    reply => reply,
                }
            }
            Reply::Absent if wish == Wish::Unfence => return Ok(()),
            Reply::Absent => shards.clone().create(number).await,
            Reply::Exists => shards.clone().get(number, true).await,
            reply => return Err(format!("shard {number} cannot be written: {reply:?}")),
        };
    }
    Err(format!("shard {number} is being changed all the time"))
}

fn edits(width: u32, texts: &[String], slots: &BTreeMap<usize, u64>, wish: Wish) -> Vec<SlotEdit> {
    let edit = |(slot, mask): (&usize, &u64)| {
        let from = texts.get(*slot)?;
        // What is unclear is left alone.
        let mut read = Slot::parse(from, width).ok()?;
        let changed = match wish {
            Wish::Fence => read.set_aside(&subject(), *mask),
            Wish::Unfence => read.put_back(&subject(), *mask),
        };
        let edit = SlotEdit { slot: *slot, from: from.clone(), to: read.to_text(width), ..SlotEdit::default() };
        (changed != 0).then_some(edit)
    };
    slots.iter().filter_map(edit).collect()
}

/// Fixes how many addresses a shard of the pool has, as the first node would that needs one.
async fn fix_size(client: &Client, pool: &SpiderIPPool) -> Result<u32, String> {
    let size = size_for(
        pool.spec.ranges().map(|ranges| u128::try_from(ranges.total()).unwrap_or_default()).unwrap_or_default(),
    );
    let patch = json!({"metadata": {"resourceVersion": pool.resource_version()}, "status": {"shardSize": size}});
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let pools: Api<SpiderIPPool> = Api::all(client.clone());
    let written = pools.patch_status(&pool.name_any(), &parameters, &Patch::Merge(patch)).await;
    let status = written.map_err(|error| error.to_string())?.status;
    status.and_then(|status| status.shard_size).ok_or_else(|| "its definition is older than this controller".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_fenced_unless_somebody_has_them() {
        let layout = Layout::new("10.0.0.0/24".parse().unwrap(), 128).unwrap();
        let mut slots = vec![String::new(); 64];
        slots[0] = "a:1".into();
        slots[1] = "what?".into();
        slots[2] = "!5:1,!50:2".into();
        let wanted = BTreeMap::from([(0, 3), (1, 3), (2, 3), (3, 2)]);
        let made = edits(2, &slots, &wanted, Wish::Fence);
        let texts: Vec<&str> = made.iter().map(|edit| edit.to.as_str()).collect();
        assert_eq!(texts, ["a:1,=_subnet/withdrawn:2", "=_subnet/withdrawn:2"]);
        for edit in made {
            slots[edit.slot] = edit.to;
        }
        let seen = [Seen { number: 0, version: 1, slots: slots.clone() }];
        let usage = usage(&layout, &seen);
        let set = |numbers: &[u8]| {
            numbers.iter().map(|number| IpAddr::from([10, 0, 0, *number])).fold(AddressSet::default(), |mut set, ip| {
                set.insert(ip);
                set
            })
        };
        assert_eq!(usage, Usage { held: set(&[0, 2, 3, 4, 5]), fenced: set(&[1, 7]) });
        let back = edits(2, &slots, &wanted, Wish::Unfence);
        let texts: Vec<&str> = back.iter().map(|edit| edit.to.as_str()).collect();
        assert_eq!(texts, ["a:1", ""]);
    }
}
