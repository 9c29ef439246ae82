//! A shard as read: a window of numbers, and whose each of them is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use schemas::crd::SpiderIPShard;
use schemas::crd::ip_shard::SLOTS;
use schemas::slot::{Holder, Slot, Subject, whole};

use super::space::number;

/// Whose the addresses of a window are.
#[derive(Debug, Clone)]
pub struct Shard {
    /// The pool's name.
    pub pool: String,
    /// The pool's UID; of another pool than that it is void.
    pub pool_uid: String,
    /// The first address as a number.
    pub first: u128,
    /// Addresses in a slot, 1 to 64.
    pub width: u32,
    /// The slots, as many as there are.
    pub slots: Vec<Held>,
    /// The incarnations of nodes that hold anything.
    pub holders: BTreeSet<Holder>,
    /// Whether anything is kept for owners.
    pub has_kept: bool,
    /// Whether the addresses are IPv4's.
    pub is_v4: bool,
}

/// One slot: its text, and what that says when it can be read.
#[derive(Debug, Clone)]
pub struct Held {
    /// As written.
    pub text: String,
    /// As read; None when the text is unclear. Such a slot is left alone by everybody.
    pub slot: Option<Slot>,
}

impl Shard {
    /// What an object says; None when its window is unclear, which the API server does not let pass.
    pub fn of(object: &SpiderIPShard) -> Option<Self> {
        let spec = &object.spec;
        let first: IpAddr = spec.first.parse().ok()?;
        let (is_v4, first) = (first.is_ipv4(), number(first));
        let width = spec.size / u32::try_from(SLOTS).ok()?;
        if !(1..=64).contains(&width) || first.checked_add(u128::from(spec.size)).is_none() {
            return None;
        }
        let held = |text: String| Held { slot: Slot::parse(&text, width).ok(), text };
        let slots: Vec<Held> = object.slots().into_iter().take(SLOTS).map(held).collect();
        let mut holders = BTreeSet::new();
        let mut has_kept = false;
        for (subject, _) in slots.iter().filter_map(|held| held.slot.as_ref()).flat_map(Slot::parts) {
            match subject {
                Subject::Node(holder) if !holders.contains(holder) => {
                    holders.insert(holder.clone());
                }
                Subject::Fixed { .. } => has_kept = true,
                Subject::Node(_) | Subject::Quarantined { .. } => {}
            }
        }
        let (pool, pool_uid) = (spec.pool.clone(), spec.pool_uid.clone());
        Some(Self { pool, pool_uid, first, width, slots, holders, has_kept, is_v4 })
    }

    /// The number of a slot's first address.
    pub fn first_of(&self, slot: usize) -> u128 {
        // At most 64 slots of 64 addresses: checked with the window.
        self.first + u128::from(self.width) * slot as u128
    }

    /// The last address of the window.
    pub fn last(&self) -> u128 {
        self.first_of(SLOTS) - 1
    }

    /// All bits of a slot.
    pub fn whole(&self) -> u64 {
        whole(self.width)
    }
}
