//! What is to be done next, from what was read. Nothing is read or written here.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use plan::allocate::AddressSet;
use schemas::crd::{PoolRanges, SpiderIPPool, SpiderSubnet};
use serde_json::{Value, json};

use super::naming::{APP_UID, Owner, RECLAIM, WITHDRAWN, label_value};
use super::record::{Entry, Records, both, common, parse, text, without};
use super::shape::{self, Shape, Want, created};
use super::sizing::{self, Known, Step};
use super::status::{self, Sights};
use super::view::{Checked, Declared, View, checked, declared};
use super::wants::{Fault, Faulty, Wants, wants};
use crate::controller::pools::reasons::Reason;

/// What is done. Every change of an object that is there names the state that it rests on.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A subnet is patched.
    Subnet {
        /// Its name.
        name: String,
        /// The merge patch.
        patch: Value,
    },
    /// A subnet's status is patched.
    Status {
        /// The subnet's name.
        name: String,
        /// The merge patch.
        patch: Value,
        /// What has just become worth an Event.
        told: Vec<(Reason, String)>,
    },
    /// A pool is made.
    Create(Box<SpiderIPPool>),
    /// A pool is patched.
    Pool {
        /// Its name.
        name: String,
        /// The merge patch.
        patch: Value,
    },
    /// A pool is deleted, which ends when nobody holds anything of it.
    Delete {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// Its version.
        version: String,
    },
    /// A pool's shards are read.
    Look(String),
    /// Slots of a pool are kept from everybody.
    Fence(String, AddressSet),
    /// Slots of a pool are no longer kept from everybody.
    Unfence(String, AddressSet),
}

/// What is remembered from one decision to the next. Without it no more than an Event is missing.
#[derive(Debug, Default)]
pub struct Memory {
    /// The addresses of workloads' pools when these were last as recorded.
    settled: BTreeMap<String, AddressSet>,
}

/// What comes of a decision.
#[derive(Debug, Default)]
pub struct Decision {
    /// To be done in this order, and then it is decided anew.
    pub actions: Vec<Action>,
    /// Why workloads do not have what they ask for.
    pub faults: BTreeMap<Faulty, BTreeSet<Fault>>,
    /// Pools whose addresses somebody has changed, which is put right.
    pub restored: Vec<String>,
    /// Pools that have to wait until somebody gives back addresses.
    pub waiting: BTreeSet<String>,
    /// Pools that are being deleted.
    deleting: BTreeSet<String>,
}

impl Decision {
    /// Whether a pool is about to be deleted.
    fn is_deleting(&self, pool: &str) -> bool {
        self.deleting.contains(pool)
    }
}

/// Decides.
pub fn decide(view: &View, memory: &mut Memory, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let checked = checked(&view.subnets);
    let pools = declared(&view.pools);
    let is_on = view.conf.enable_spider_subnet;
    let mut wants =
        if is_on && view.conf.enable_auto_pool_for_application { wants(view, &checked) } else { Wants::default() };
    reclaim(view, &wants, &mut decision);
    for (name, subnet) in &view.subnets {
        let ranges = checked.get(name).and_then(|checked| checked.as_ref().ok());
        if subnet.metadata.deletion_timestamp.is_none()
            && let Some(patch) = shape::of_subnet(subnet, ranges.map(|ranges| ranges.version))
        {
            decision.actions.push(Action::Subnet { name: name.clone(), patch });
            continue;
        }
        let Some(checked) = checked.get(name) else { continue };
        let turn = Turn { name, subnet, checked, pools: &pools, view, is_on, now };
        turn.decide(&mut wants, memory, &mut decision);
    }
    memory.settled.retain(|name, _| view.pools.contains_key(name));
    decision.faults = wants.faults;
    decision
}

/// Pools of workloads that are gone.
fn reclaim(view: &View, wants: &Wants, decision: &mut Decision) {
    let living = view.living();
    for (name, pool) in &view.pools {
        let Some(owner) = Owner::of(pool) else { continue };
        let label = |key: &str| pool.labels().get(key).map(String::as_str).unwrap_or_default();
        let is_gone = view.is_read(&owner) && living.get(&owner).is_none_or(|uid| label_value(uid) != label(APP_UID));
        let is_kept = label(RECLAIM) != "true" || wants.pools.contains_key(name);
        if !is_gone || is_kept || pool.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let (Some(uid), Some(version)) = (pool.uid(), pool.resource_version()) else { continue };
        decision.deleting.insert(name.clone());
        decision.actions.push(Action::Delete { name: name.clone(), uid, version });
    }
}

/// One subnet.
struct Turn<'a> {
    name: &'a str,
    subnet: &'a SpiderSubnet,
    checked: &'a Checked,
    pools: &'a BTreeMap<&'a str, Declared<'a>>,
    view: &'a View,
    is_on: bool,
    now: Timestamp,
}

impl<'a> Turn<'a> {
    fn decide(&self, wants: &mut Wants, memory: &mut Memory, decision: &mut Decision) {
        let observed = self.subnet.status.clone().unwrap_or_default();
        let mut sights = Sights { observed: &observed, ..Sights::default() };
        let mut records = parse(observed.controlled_ip_pools.as_deref());
        match self.checked {
            Err(error) => sights.invalid = Some(error),
            Ok(ranges) if self.is_on => self.pools(ranges, &mut records, &mut sights, wants, memory, decision),
            Ok(_) => {}
        }
        if let Ok(ranges) = self.checked {
            sights.total = Some(AddressSet::from_ranges(ranges.usable()).len());
        }
        if self.subnet.metadata.deletion_timestamp.is_some() {
            if sights.pools.is_empty() && observed.controlled_ip_pools.is_none() {
                let patch = shape::release(self.subnet);
                decision.actions.extend(patch.map(|patch| Action::Subnet { name: self.name.to_owned(), patch }));
                return;
            }
            sights.is_going = true;
        }
        sights.records = text(&records);
        let all = records.values().fold(AddressSet::default(), |all, entry| both(&all, &entry.ips));
        sights.allocated = all.len();
        let generation = self.subnet.metadata.generation;
        if let Some((status, told)) = status::patch(&sights, generation, self.now) {
            let version = &self.subnet.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
            decision.actions.push(Action::Status { name: self.name.to_owned(), patch, told });
        }
    }

    fn pools(
        &self,
        ranges: &PoolRanges,
        records: &mut Records,
        sights: &mut Sights<'_>,
        wants: &mut Wants,
        memory: &mut Memory,
        decision: &mut Decision,
    ) {
        let total = AddressSet::from_ranges(ranges.usable());
        let is_of = |pool: &Declared<'_>| pool.ranges.as_ref().is_some_and(|pool| pool.subnet == ranges.subnet);
        // A pool that breaks a rule by its addresses is still the subnet's.
        let is_named = |pool: &Declared<'_>| pool.object.spec.subnet == self.subnet.spec.subnet;
        let own: Vec<(&'a str, &'a Declared<'a>)> = self
            .pools
            .iter()
            .filter(|(_, pool)| is_of(pool) || is_named(pool))
            .map(|(name, pool)| (*name, pool))
            .collect();
        sights.pools = own.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mine: BTreeMap<String, Want> = wants
            .pools
            .iter()
            .filter(|(_, want)| want.subnet == self.name)
            .map(|(name, want)| (name.clone(), want.clone()))
            .collect();
        let is_made = |name: &str, pool: &Declared<'_>| mine.contains_key(name) || Owner::of(pool.object).is_some();
        let there: BTreeMap<&str, &'a Declared<'a>> = own.iter().copied().collect();
        // Records of pools that neither are nor are to be.
        records.retain(|name, entry| match there.get(name.as_str()) {
            Some(pool) => is_made(name, pool),
            None => entry.application.is_some() && mine.contains_key(name),
        });
        let written: BTreeMap<String, AddressSet> =
            records.iter().map(|(name, entry)| (name.clone(), entry.ips.clone())).collect();
        self.tidy(records, &total);
        let mut free = total.clone();
        free.subtract(&self.reserved());
        if let Some(gateway) = ranges.gateway {
            free.remove(gateway);
        }
        // What others may have, and what a pool itself has without its being recorded.
        let unreserved = free.clone();
        for entry in records.values() {
            free.subtract(&entry.ips);
        }
        for pool in
            self.pools.values().filter(|pool| pool.ranges.as_ref().is_some_and(|pool| pool.version == ranges.version))
        {
            free.subtract(&pool.ips);
        }
        for (name, pool) in &own {
            if is_made(name, pool) {
                continue;
            }
            let ips = common(&pool.ips, &total);
            sights.conflict(name, pool, &without(&pool.ips, &total));
            if !ips.is_empty() {
                records.insert((*name).to_owned(), Entry { ips, application: None });
            }
            if pool.object.metadata.deletion_timestamp.is_none() {
                self.patch(name, pool.object, Shape::of(pool.object, self.subnet), decision);
            }
        }
        let names: BTreeSet<&str> = own
            .iter()
            .filter(|(name, pool)| is_made(name, pool))
            .map(|(name, _)| *name)
            .chain(mine.keys().map(String::as_str))
            .collect();
        // Nobody gets anything as long as it is not known what a pool has that is in no record.
        let is_unrecorded = |name: &str| there.contains_key(name) && !records.contains_key(name);
        let unrecorded: BTreeSet<&str> = names.iter().copied().filter(|name| is_unrecorded(name)).collect();
        for name in if unrecorded.is_empty() { names } else { unrecorded } {
            if decision.is_deleting(name) {
                continue;
            }
            let one = One { name, pool: there.get(name).copied(), want: mine.get(name) };
            let recorded = records.get(name).map(|entry| entry.ips.clone());
            if recorded != written.get(name).cloned() && recorded.is_some() {
                // What is recorded comes before what rests on it.
                continue;
            }
            let others = || self.others(name, records, &unreserved);
            let step = one.step(self.view, recorded.as_ref(), &free, others);
            self.take(&one, step, recorded, records, &mut free, sights, wants, memory, decision);
        }
    }

    /// What is recorded for a pool and not in it yet is only to come: nothing that is another's by now, or not the subnet's.
    fn tidy(&self, records: &mut Records, total: &AddressSet) {
        let mut claimed = AddressSet::default();
        for (name, entry) in records.iter_mut() {
            let none = AddressSet::default();
            let own = self.pools.get(name.as_str()).map_or(&none, |pool| &pool.ips);
            let to_come = without(&entry.ips, own);
            if !to_come.is_empty() {
                let mut wrong = without(&to_come, total);
                wrong = both(&wrong, &common(&to_come, &claimed));
                for pool in self.pools.values() {
                    wrong = both(&wrong, &common(&pool.ips, &to_come));
                }
                entry.ips.subtract(&wrong);
            }
            claimed = both(&claimed, &entry.ips);
        }
    }

    fn reserved(&self) -> AddressSet {
        let reserved = self.view.reserved.values();
        reserved.fold(AddressSet::default(), |all, one| both(&all, one))
    }

    /// What of the subnet no other pool has, and no record of another.
    fn others(&self, name: &str, records: &Records, unreserved: &AddressSet) -> AddressSet {
        let mut rest = unreserved.clone();
        for (_, entry) in records.iter().filter(|(other, _)| *other != name) {
            rest.subtract(&entry.ips);
        }
        for (_, pool) in self.pools.iter().filter(|(other, _)| **other != name) {
            rest.subtract(&pool.ips);
        }
        rest
    }

    #[expect(clippy::too_many_arguments, reason = "what a step may touch")]
    fn take(
        &self,
        one: &One<'_>,
        step: Step,
        recorded: Option<AddressSet>,
        records: &mut Records,
        free: &mut AddressSet,
        sights: &mut Sights<'_>,
        wants: &mut Wants,
        memory: &mut Memory,
        decision: &mut Decision,
    ) {
        let name = one.name.to_owned();
        let mut shape = match one.pool {
            Some(pool) if pool.object.metadata.deletion_timestamp.is_none() => Shape::of(pool.object, self.subnet),
            _ => Shape::default(),
        };
        if let (Some(pool), Some(want)) = (one.pool, one.want) {
            shape.want(pool.object, want);
        }
        if let (Some(pool), Some(recorded)) = (one.pool, &recorded) {
            if pool.ips == *recorded {
                memory.settled.insert(name.clone(), recorded.clone());
            } else if memory.settled.get(&name) == Some(recorded) && !matches!(step, Step::Rest) {
                // It was as recorded before, and only what is written here changes both.
                memory.settled.remove(&name);
                if pool.object.labels().get(WITHDRAWN).is_none_or(|label| label != super::naming::PENDING) {
                    decision.restored.push(name.clone());
                }
            }
        }
        match step {
            Step::Rest => {}
            Step::Look => decision.actions.push(Action::Look(name.clone())),
            Step::Short { required, left } => {
                if let Some(want) = one.want {
                    let fault = Fault::Insufficient { subnet: self.name.to_owned(), required, left };
                    sights.short.push(format!("{}/{}: {fault}", want.app.namespace, want.app.name));
                    wants.fault((want.app.clone(), want.uid.clone()), fault);
                }
            }
            Step::Record(ips) => {
                free.subtract(&ips);
                let application = one.want.map(|want| want.app.text());
                let entry = records.entry(name.clone()).or_default();
                entry.application = application.or_else(|| entry.application.take()).or_else(|| one.application());
                entry.ips = ips;
            }
            Step::Create => {
                if let Some(want) = one.want {
                    decision.actions.push(Action::Create(Box::new(created(&name, want, self.subnet))));
                }
            }
            Step::Label(label) => shape.withdrawn(label),
            Step::Pool(ips, label) => {
                shape.ips(&ips);
                shape.withdrawn(label);
            }
            Step::Fence(ips) => decision.actions.push(Action::Fence(name.clone(), ips)),
            Step::Unfence(ips) => decision.actions.push(Action::Unfence(name.clone(), ips)),
            Step::Held(number) => {
                sights.held.push(format!("{name}: {number}"));
                decision.waiting.insert(name.clone());
            }
        }
        if let Some(pool) = one.pool {
            self.patch(&name, pool.object, shape, decision);
        }
    }

    fn patch(&self, name: &str, pool: &SpiderIPPool, shape: Shape, decision: &mut Decision) {
        if let Some(patch) = shape.patch(pool) {
            decision.actions.push(Action::Pool { name: name.to_owned(), patch });
        }
    }
}

/// One pool of a workload, there or to be.
struct One<'a> {
    name: &'a str,
    pool: Option<&'a Declared<'a>>,
    want: Option<&'a Want>,
}

impl One<'_> {
    fn step(
        &self,
        view: &View,
        recorded: Option<&AddressSet>,
        free: &AddressSet,
        others: impl Fn() -> AddressSet,
    ) -> Step {
        let is_going = self.pool.is_some_and(|pool| pool.object.metadata.deletion_timestamp.is_some());
        let (Some(recorded), Some(pool)) = (recorded, self.pool) else {
            // Not recorded yet: what it has, and what somebody has of it, as far as nobody else has it.
            if let Some(pool) = self.pool {
                let Some(usage) = view.usage.get(self.name) else { return Step::Look };
                return Step::Record(common(&both(&pool.ips, &usage.held), &others()));
            }
            let none = AddressSet::default();
            let wanted = self.want.map(|want| want.number);
            let known = Known {
                recorded: recorded.unwrap_or(&none),
                actual: None,
                wanted,
                available: free,
                usage: None,
                withdrawn: None,
            };
            // One without addresses is recorded too, or its pool would not be known to be to come.
            return match sizing::next(&known) {
                Step::Create if recorded.is_none() => Step::Record(none),
                step => step,
            };
        };
        // Until it is gone it keeps what it has.
        if is_going {
            return Step::Rest;
        }
        // Somebody may have put in what others have.
        let available = if pool.ips == *recorded { None } else { Some(others()) };
        let available = available.as_ref().map(|others| both(free, &common(others, &without(&pool.ips, recorded))));
        sizing::next(&Known {
            recorded,
            actual: Some(&pool.ips),
            wanted: self.want.map(|want| want.number),
            available: available.as_ref().unwrap_or(free),
            usage: view.usage.get(self.name),
            withdrawn: pool.object.labels().get(WITHDRAWN).map(String::as_str),
        })
    }

    /// Of a pool that no workload asks for any more.
    fn application(&self) -> Option<String> {
        let owner = Owner::of(self.pool?.object)?;
        let (group, version, kind) = owner.group_version_kind();
        Some(format!("{group}_{version}_{kind}_{}_{}", owner.namespace, owner.name))
    }
}
