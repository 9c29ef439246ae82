//! What decisions are made from.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use plan::allocate::AddressSet;
use schemas::crd::ip_version::IpVersion;
use schemas::crd::ippool::SpiderIPPoolSpec;
use schemas::crd::{PoolRanges, SpiderIPPool, SpiderSubnet};

use super::annotations::Asked;
use super::naming::{App, Owner};
use super::sizing::Usage;
use super::workload::{OnBehalf, Workload, is_known};
use crate::catalogue::Conf;
use crate::overlap::overlaps;

/// UIDs by namespace and name.
pub type Uids = BTreeMap<(String, String), String>;

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// SpiderSubnets by name.
    pub subnets: BTreeMap<String, SpiderSubnet>,
    /// SpiderIPPools by name.
    pub pools: BTreeMap<String, SpiderIPPool>,
    /// What SpiderReservedIPs reserve, by name.
    pub reserved: BTreeMap<String, AddressSet>,
    /// The workloads of the known kinds that are there.
    pub workloads: BTreeMap<App, Workload>,
    /// What is asked for on behalf of foreign kinds, by who asks.
    pub on_behalf: BTreeMap<App, BTreeMap<String, OnBehalf>>,
    /// The UIDs of foreign kinds' objects, for kinds that have been read whole; group, version, kind.
    pub foreign: BTreeMap<(String, String, String), Uids>,
    /// The cluster's settings.
    pub conf: Conf,
    /// Of the shards of pools from which addresses are taken back.
    pub usage: BTreeMap<String, Usage>,
}

/// A workload that asks for pools.
#[derive(Debug)]
pub struct Applicant<'a> {
    /// The workload.
    pub app: &'a App,
    /// Its UID.
    pub uid: &'a str,
    /// What it asks for, or why that cannot be.
    pub asked: &'a Result<Asked, String>,
    /// How many pods it is to have.
    pub pods: u64,
}

impl View {
    /// Who asks for pools.
    pub fn applicants(&self) -> Vec<Applicant<'_>> {
        let known = self.workloads.iter().filter_map(|(app, workload)| {
            let asks = workload.asks.as_deref()?;
            Some(Applicant { app, uid: &workload.uid, asked: &asks.asked, pods: asks.pods })
        });
        let foreign = self.on_behalf.iter().filter_map(|(app, asking)| {
            // Of several pods the last one by name; they say the same but while they are being replaced.
            let last = asking.values().next_back()?;
            let objects = self.foreign.get(&(app.group.clone(), app.version.clone(), app.kind.clone()));
            let key = (app.namespace.clone(), app.name.clone());
            let is_there = objects.is_none_or(|objects| objects.get(&key) == Some(&last.uid));
            is_there.then_some(Applicant { app, uid: &last.uid, asked: &last.asked, pods: 0 })
        });
        known.chain(foreign).collect()
    }

    /// The UIDs of all workloads that are there, by what their pools say of them.
    pub fn living(&self) -> BTreeMap<Owner, &str> {
        let known = self.workloads.iter().map(|(app, workload)| (app.owner(), workload.uid.as_str()));
        let foreign = self.foreign.iter().flat_map(|((group, version, kind), objects)| {
            objects.iter().map(move |((namespace, name), uid)| {
                let app = App {
                    group: group.clone(),
                    version: version.clone(),
                    kind: kind.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                };
                (app.owner(), uid.as_str())
            })
        });
        known.chain(foreign).collect()
    }

    /// Whether it can be said that a workload of that kind is gone.
    pub fn is_read(&self, owner: &Owner) -> bool {
        let key = owner.group_version_kind();
        is_known(&key.0, &key.2) || self.foreign.contains_key(&key)
    }

    /// The foreign kinds whose objects matter: group, version, kind.
    pub fn foreign_kinds(&self) -> BTreeSet<(String, String, String)> {
        let asking = self.on_behalf.keys().map(|app| (app.group.clone(), app.version.clone(), app.kind.clone()));
        let having = self.pools.values().filter_map(Owner::of).map(|owner| owner.group_version_kind());
        asking.chain(having).filter(|(group, _, kind)| !is_known(group, kind)).collect()
    }
}

/// A subnet that can be used, or why it cannot.
pub type Checked = Result<PoolRanges, String>;

/// The checked form of every subnet: it breaks no rule, and overlaps no older one.
pub fn checked(subnets: &BTreeMap<String, SpiderSubnet>) -> BTreeMap<String, Checked> {
    let mut sorted: Vec<(&String, &SpiderSubnet)> = subnets.iter().collect();
    sorted.sort_by_key(|(name, subnet)| {
        let created = subnet.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, (*name).clone())
    });
    let mut found: BTreeMap<String, Checked> = BTreeMap::new();
    let mut used: Vec<(&String, PoolRanges)> = Vec::new();
    for (name, subnet) in sorted {
        let ranges = ranges(subnet).and_then(|ranges| {
            let net = ranges.subnet;
            let is_shared = |other: &PoolRanges| net.contains(other.subnet.ip()) || other.subnet.contains(net.ip());
            match used.iter().find(|(_, other)| other.version == ranges.version && is_shared(other)) {
                Some((older, other)) => Err(format!(
                    "overlap with Subnet {older} which 'spec.subnet' is {}, and which is older",
                    other.subnet
                )),
                None => Ok(ranges),
            }
        });
        if let Ok(ranges) = &ranges {
            used.push((name, ranges.clone()));
        }
        found.insert(name.clone(), ranges);
    }
    found
}

fn ranges(subnet: &SpiderSubnet) -> Checked {
    let spec = &subnet.spec;
    let pool = SpiderIPPoolSpec {
        ip_version: spec.ip_version,
        subnet: spec.subnet.clone(),
        ips: spec.ips.clone(),
        exclude_ips: spec.exclude_ips.clone(),
        gateway: spec.gateway.clone(),
        routes: Some(spec.routes.clone()),
        ..SpiderIPPoolSpec::default()
    };
    pool.ranges().map_err(|error| error.to_string())
}

/// A pool's addresses; none of one that breaks a rule.
#[derive(Debug)]
pub struct Declared<'a> {
    /// As declared.
    pub object: &'a SpiderIPPool,
    /// Its checked form.
    pub ranges: Option<PoolRanges>,
    /// `ips` without `excludeIPs`.
    pub ips: AddressSet,
    /// What it loses to an older pool, for people.
    pub overlap: Option<String>,
}

/// All pools.
pub fn declared(pools: &BTreeMap<String, SpiderIPPool>) -> BTreeMap<&str, Declared<'_>> {
    let mut found: BTreeMap<&str, Declared<'_>> = BTreeMap::new();
    for (name, object) in pools {
        let ranges = object.spec.ranges().ok();
        let ips = ranges.as_ref().map(|ranges| AddressSet::from_ranges(ranges.usable())).unwrap_or_default();
        found.insert(name, Declared { object, ranges, ips, overlap: None });
    }
    let valid = found.values().filter_map(|pool| Some((pool.object, pool.ranges.as_ref()?)));
    let lost = overlaps(valid);
    for (name, overlap) in lost {
        if let Some(pool) = found.get_mut(name.as_str()) {
            pool.overlap = Some(overlap.text);
        }
    }
    found
}

/// The family of a pool by its own word.
pub fn version_of(pool: &SpiderIPPool) -> Option<IpVersion> {
    let network = pool.spec.subnet.split('/').next()?;
    network.parse().ok().map(IpVersion::of)
}

/// The time at which an object was last written, as a number that grows.
pub fn age(object: &impl ResourceExt) -> Option<u64> {
    object.resource_version()?.parse().ok()
}
