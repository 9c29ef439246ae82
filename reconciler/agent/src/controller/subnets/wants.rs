//! Which pools workloads are to have, and which of the pools that are there these are.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use schemas::crd::ip_version::IpVersion;
use schemas::crd::{PoolRanges, SpiderIPPool};

use super::annotations::Interface;
use super::naming::{APP_UID, INTERFACE, IP_VERSION, OWNER_SUBNET, Owner, RECLAIM, family, label_value, pool_name};
use super::shape::Want;
use super::view::{Applicant, Checked, View};

/// Why a workload does not have what it asks for. The texts are its Events' notes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Fault {
    /// Its annotations cannot be followed.
    #[error("{0}")]
    Annotation(String),
    /// The subnet cannot be used.
    #[error("SpiderSubnet {0}: {1}")]
    Subnet(String, String),
    /// There are too few addresses.
    #[error("SpiderSubnet {subnet}: insufficient subnet FreeIPs, required '{required}' but only left '{left}'")]
    Insufficient {
        /// The subnet.
        subnet: String,
        /// How many more the pool needs.
        required: u128,
        /// How many there are.
        left: u128,
    },
    /// It has a pool of another subnet.
    #[error(
        "its pool {pool} is of SpiderSubnet {old}; it stays so, since pods have addresses of it: to use SpiderSubnet {new} make \
         the workload anew, under another name or after deleting the pool"
    )]
    Changed {
        /// The pool.
        pool: String,
        /// The pool's subnet.
        old: String,
        /// The one asked for now.
        new: String,
    },
}

impl Fault {
    /// The Event's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Annotation(_) => "InvalidSubnetAnnotation",
            Self::Subnet(..) => "SubnetUnusable",
            Self::Insufficient { .. } => "InsufficientSubnetIPs",
            Self::Changed { .. } => "ApplicationSubnetChanged",
        }
    }
}

/// Whose fault it is: a workload and its UID.
pub type Faulty = (super::naming::App, String);

/// The pools that are wanted, by name, and what cannot be had.
#[derive(Debug, Default)]
pub struct Wants {
    /// By the pool's name.
    pub pools: BTreeMap<String, Want>,
    /// By workload.
    pub faults: BTreeMap<Faulty, BTreeSet<Fault>>,
}

impl Wants {
    /// Notes a fault.
    pub fn fault(&mut self, faulty: Faulty, fault: Fault) {
        self.faults.entry(faulty).or_default().insert(fault);
    }
}

/// The pools made for a workload's interface in one family.
type Made<'a> = BTreeMap<(Owner, String, String), Vec<&'a SpiderIPPool>>;

/// What all workloads ask for.
pub fn wants(view: &View, subnets: &BTreeMap<String, Checked>) -> Wants {
    let mut made: Made<'_> = BTreeMap::new();
    for pool in view.pools.values() {
        let label = |key: &str| pool.labels().get(key).cloned().unwrap_or_default();
        if let Some(owner) = Owner::of(pool) {
            made.entry((owner, label(INTERFACE), label(IP_VERSION))).or_default().push(pool);
        }
    }
    let mut wants = Wants::default();
    for applicant in view.applicants() {
        let faulty = || (applicant.app.clone(), applicant.uid.to_owned());
        let asked = match applicant.asked {
            Ok(asked) => asked,
            Err(text) => {
                wants.fault(faulty(), Fault::Annotation(text.clone()));
                continue;
            }
        };
        for interface in &asked.interfaces {
            let families = [
                (IpVersion::V4, &interface.ipv4, view.conf.enable_ipv4),
                (IpVersion::V6, &interface.ipv6, view.conf.enable_ipv6),
            ];
            for (version, subnet, is_enabled) in families {
                let Some(subnet) = subnet.as_ref().filter(|_| is_enabled) else { continue };
                match want(view, subnets, &made, &applicant, interface, version, subnet) {
                    Ok(Some((name, want))) => {
                        wants.pools.insert(name, want);
                    }
                    Ok(None) => {}
                    Err(fault) => wants.fault(faulty(), fault),
                }
            }
        }
    }
    wants
}

/// None while a pool of that name is being deleted.
fn want(
    view: &View,
    subnets: &BTreeMap<String, Checked>,
    made: &Made<'_>,
    applicant: &Applicant<'_>,
    interface: &Interface,
    version: IpVersion,
    subnet: &str,
) -> Result<Option<(String, Want)>, Fault> {
    let unusable = |text: &str| Err(Fault::Subnet(subnet.to_owned(), text.to_owned()));
    match subnets.get(subnet) {
        None => return unusable("there is none of that name"),
        Some(Err(text)) => return unusable(text),
        Some(Ok(PoolRanges { version: other, .. })) if *other != version => {
            return unusable(&format!("it is of {}, and {} is asked for", family(*other), family(version)));
        }
        Some(Ok(_)) => {}
    }
    let of = label_value(subnet);
    let label = |pool: &SpiderIPPool, key: &str| pool.labels().get(key).cloned().unwrap_or_default();
    let is_own = |pool: &SpiderIPPool| label(pool, APP_UID) == label_value(applicant.uid);
    let is_going = |pool: &SpiderIPPool| pool.metadata.deletion_timestamp.is_some();
    let key = (applicant.app.owner(), interface.name.clone(), family(version).to_owned());
    let pools = made.get(&key).map(Vec::as_slice).unwrap_or_default();
    let fresh = pool_name(version, &applicant.app.name, &interface.name, applicant.uid);
    // Its own; else, one that it would be given the name of; else, one that an earlier workload of that name has left.
    let own = pools.iter().copied().find(|pool| is_own(pool) && !is_going(pool));
    let own = own.or_else(|| view.pools.get(&fresh));
    let kept = || {
        let is_kept = |pool: &&SpiderIPPool| {
            !is_own(pool) && !is_going(pool) && label(pool, RECLAIM) == "false" && label(pool, OWNER_SUBNET) == of
        };
        pools.iter().copied().find(is_kept)
    };
    let name = match own {
        Some(pool) if is_going(pool) => return Ok(None),
        Some(pool) => {
            let old = label(pool, OWNER_SUBNET);
            if old != of && !old.is_empty() {
                return Err(Fault::Changed { pool: pool.name_any(), old, new: subnet.to_owned() });
            }
            pool.name_any()
        }
        None => match kept() {
            Some(pool) => pool.name_any(),
            None if view.subnets.get(subnet).is_some_and(|subnet| subnet.metadata.deletion_timestamp.is_some()) => {
                return unusable("it is being deleted");
            }
            None => fresh,
        },
    };
    // Checked above: there is no applicant without.
    let Ok(asked) = applicant.asked else { return Ok(None) };
    let want = Want {
        app: applicant.app.clone(),
        uid: applicant.uid.to_owned(),
        subnet: subnet.to_owned(),
        interface: interface.name.clone(),
        version,
        number: asked.number.of(applicant.pods, view.conf.flexible_ip_number),
        number_text: asked.number.text(view.conf.flexible_ip_number),
        is_reclaimed: asked.is_reclaimed,
    };
    Ok(Some((name, want)))
}
