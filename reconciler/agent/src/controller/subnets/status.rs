//! The status of a subnet.
//!
//! | condition | true | false |
//! |---|---|---|
//! | `Valid` | the spec can be used | `SpecInvalid`: field and rule, or the older subnet that it overlaps |
//! | `Exhausted` | `TooFewLeft`: which workloads ask for more than is left | `Enough` |
//! | `PoolConflict` | `PoolsOverlap`: pools that share addresses, or have some that are not the subnet's | `NoConflict` |
//! | `ShrinkPending` | `AddressesHeld`: pools that are to have fewer addresses, which are still held | `NothingHeld` |
//! | `InUse` | `HasPools`: it is being deleted, and goes when these pools are gone | `NoPools` |
//!
//! The first is always there, the others once they have been true.

use k8s_openapi::jiff::Timestamp;
use plan::allocate::AddressSet;
use schemas::crd::subnet::SpiderSubnetStatus;
use serde_json::{Map, Value, json};

use super::record::texts;
use super::view::Declared;
use crate::controller::pools::conditions::{Finding, renew};
use crate::controller::pools::reasons::Reason;

/// As many are named in a message; the others are counted.
const NAMED: usize = 3;

/// What of the pools of a subnet its status says.
#[derive(Debug)]
pub struct Sights<'a> {
    /// What it says now.
    pub observed: &'a SpiderSubnetStatus,
    /// Why it cannot be used.
    pub invalid: Option<&'a str>,
    /// How many addresses it has.
    pub total: Option<u128>,
    /// How many its pools have.
    pub allocated: u128,
    /// `controlledIPPools`.
    pub records: Option<String>,
    /// The names of its pools.
    pub pools: Vec<String>,
    /// It is being deleted.
    pub is_going: bool,
    /// Workloads that ask for more than is left.
    pub short: Vec<String>,
    /// Pools that have what they should not.
    pub conflicts: Vec<String>,
    /// Pools that wait for addresses to be given back.
    pub held: Vec<String>,
}

static NOTHING: SpiderSubnetStatus = SpiderSubnetStatus {
    controlled_ip_pools: None,
    total_ip_count: None,
    allocated_ip_count: None,
    conditions: Vec::new(),
};

impl Default for Sights<'_> {
    fn default() -> Self {
        Self {
            observed: &NOTHING,
            invalid: None,
            total: None,
            allocated: 0,
            records: None,
            pools: Vec::new(),
            is_going: false,
            short: Vec::new(),
            conflicts: Vec::new(),
            held: Vec::new(),
        }
    }
}

impl Sights<'_> {
    /// Notes what is wrong with a pool that users have made.
    pub fn conflict(&mut self, name: &str, pool: &Declared<'_>, outside: &AddressSet) {
        if !outside.is_empty() {
            let ranges = texts(outside);
            let ranges = listed(&ranges, ranges.len());
            self.conflicts.push(format!("SpiderIPPool {name} has addresses that are not the subnet's: {ranges}"));
        }
        if let Some(overlap) = &pool.overlap {
            self.conflicts.push(format!("SpiderIPPool {name}: {overlap}"));
        }
    }
}

fn listed(texts: &[String], count: usize) -> String {
    let named = texts.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = count.saturating_sub(NAMED);
    if more == 0 { named } else { format!("{named}; and {more} more") }
}

/// What differs of the status, and what has just become worth an Event. None when it says all this already.
pub fn patch(sights: &Sights<'_>, generation: Option<i64>, now: Timestamp) -> Option<(Value, Vec<(Reason, String)>)> {
    let observed = sights.observed;
    let count = |number: u128| Some(i64::try_from(number).unwrap_or(i64::MAX));
    let total = sights.total.map_or(observed.total_ip_count, count);
    let allocated = count(sights.allocated);
    let (conditions, told) = renew(&observed.conditions, findings(sights), generation, now);
    let mut changed = Map::new();
    if observed.controlled_ip_pools != sights.records {
        changed.insert("controlledIPPools".into(), json!(sights.records));
    }
    if observed.total_ip_count != total {
        changed.insert("totalIPCount".into(), json!(total));
    }
    if observed.allocated_ip_count != allocated {
        changed.insert("allocatedIPCount".into(), json!(allocated));
    }
    if observed.conditions != conditions {
        changed.insert("conditions".into(), json!(conditions));
    }
    if changed.is_empty() { None } else { Some((Value::Object(changed), told)) }
}

fn findings(sights: &Sights<'_>) -> Vec<Finding> {
    let valid = Finding {
        kind: "Valid",
        is_true: sights.invalid.is_none(),
        reason: if sights.invalid.is_none() { "SpecValid" } else { "SpecInvalid" },
        message: sights.invalid.unwrap_or("the subnet can be used").to_owned(),
        alarm: (false, Reason::SubnetInvalid),
        is_always_there: true,
    };
    let optional = |kind, texts: &[String], reasons: (&'static str, &'static str), alarm| {
        let is_true = !texts.is_empty();
        let reason = if is_true { reasons.0 } else { reasons.1 };
        Finding {
            kind,
            is_true,
            reason,
            message: listed(texts, texts.len()),
            alarm: (true, alarm),
            is_always_there: false,
        }
    };
    let pools = if sights.is_going { sights.pools.as_slice() } else { &[] };
    vec![
        valid,
        optional("Exhausted", &sights.short, ("TooFewLeft", "Enough"), Reason::SubnetExhausted),
        optional("PoolConflict", &sights.conflicts, ("PoolsOverlap", "NoConflict"), Reason::SubnetPoolConflict),
        optional("ShrinkPending", &sights.held, ("AddressesHeld", "NothingHeld"), Reason::SubnetShrinkPending),
        optional("InUse", pools, ("HasPools", "NoPools"), Reason::SubnetInUse),
    ]
}
