//! Which pools an interface's addresses may come from, in order (../spec/ipam.md 4 and 5).
//!
//! One rule (`rule`) decides what is named, what is named is taken apart to pools (`name`), and each pool fits or says why
//! it does not (`fit`). All of it is a function of the catalogue and a [`Request`]; what only the agent knows of a pod
//! comes from [`Facts`].

mod annotation;
mod error;
mod explanation;
mod facts;
mod fit;
pub(crate) mod ignored;
pub(crate) mod multus;
mod name;
mod owner;
mod rule;
mod subnet;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use schemas::cni::netconf::SpiderpoolIpam;
use schemas::crd::ip_version::IpVersion;
use schemas::intent::PodRef;
use schemas::name::{IfName, NetworkName};

pub use annotation::{ANNOTATION_DEFAULT_NIC, annotated_routes};
pub use error::{Filtered, SelectionError};
pub use explanation::{Decision, Family, Judged, decide};
pub(crate) use facts::top;
pub use facts::{Facts, Site};
pub use fit::Uplink;
pub use name::matching;
pub use owner::{Top, is_auto};
pub use rule::Rule;
pub(crate) use subnet::asks_for_subnet;

use crate::catalogue::{Catalogue, Marks};
use rule::Named;

/// The interface that the cluster's own network gives.
pub(crate) const CLUSTER_NIC: &str = "eth0";

/// For whom addresses are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a PodRef,
    /// The interface.
    pub ifname: &'a IfName,
    /// The network configuration's name; None when that is not known.
    pub network: Option<&'a NetworkName>,
    /// The network configuration's `ipam`.
    pub ipam: &'a SpiderpoolIpam,
    /// This node.
    pub node: &'a str,
    /// What holds for all pods of the agent.
    pub site: &'a Site,
    /// Who controls the pod.
    pub top: &'a Top,
    /// The interface's uplink.
    pub uplink: &'a Uplink,
}

/// The pools of one family, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The family.
    pub version: IpVersion,
    /// Pools that fit.
    pub pools: Vec<String>,
    /// Pools that were named and do not fit, and patterns that no pool matches, with the reason.
    pub rejected: Vec<(String, String)>,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Per family, IPv4 first; at least one, and each has a pool that fits.
    pub families: Vec<Candidates>,
    /// No default route from the pool's gateway.
    pub clean_gateway: bool,
}

/// Chooses by the first rule that applies: the pod's subnet annotations, its `ippools`, its `ippool`, its namespace's
/// annotations, the network configuration, the pools marked default.
///
/// # Errors
/// When nothing names a pool, something names one wrongly, or none of a family fits.
pub fn select(catalogue: &Catalogue, request: Request<'_>) -> Result<Selection, SelectionError> {
    let rule = Rule::first(catalogue, request)?;
    chosen(catalogue, request, &rule.named(catalogue, request)?)
}

/// Chooses for all interfaces of a pod at once, in the annotation's order, where annotation `ipam.spidernet.io/ippools`
/// decides; None where it does not. Interfaces that the annotation gives no pools are left out. Of all but the requested
/// interface the network configuration is not known, so that their uplinks are not looked at, and the annotations alone
/// say which network they are of.
///
/// # Errors
/// As [`select`], for the first interface that has one; and for an interface that is neither eth0 nor the requested one nor
/// of a network that the pod asks for: the original has no pool that fits such a one.
pub fn select_all(
    catalogue: &Catalogue,
    request: Request<'_>,
) -> Result<Option<Vec<(IfName, Selection)>>, SelectionError> {
    let Some(text) = rule::ippools(catalogue, request)? else { return Ok(None) };
    let further = multus::interfaces(catalogue, request.pod);
    let items = annotation::pools(text, &further)?;
    rule::of_nic(&items, request.ifname)?;
    let is_of_pod = |name: &str| {
        name == CLUSTER_NIC || name == request.ifname.as_str() || further.iter().any(|interface| interface == name)
    };
    let mut all = Vec::new();
    for item in items.iter().filter(|item| !item.names_none()) {
        let wrong = |_| annotation::POOLS.wrong(format!("{:?} is no name of an interface", item.interface));
        let ifname: IfName = item.interface.parse().map_err(wrong)?;
        if !is_of_pod(ifname.as_str()) {
            return Err(annotation::POOLS.wrong(format!(
                "the pod has no interface {ifname}: {} names no network for it",
                multus::ANNOTATION_NETWORKS
            )));
        }
        let is_asked = ifname == *request.ifname;
        let own = Request {
            ifname: &ifname,
            network: request.network.filter(|_| is_asked),
            uplink: if is_asked { request.uplink } else { &Uplink::Unasked },
            ..request
        };
        let selection = chosen(catalogue, own, &rule::of_item(item))?;
        all.push((ifname, selection));
    }
    Ok(Some(all))
}

fn chosen(catalogue: &Catalogue, request: Request<'_>, named: &Named) -> Result<Selection, SelectionError> {
    let wanted = enabled(catalogue, named)?;
    let mut families = Vec::new();
    let mut filtered = Vec::new();
    let mut lacking = Vec::new();
    let mut may_pass = false;
    for (version, names) in wanted {
        let found = name::expanded(catalogue, version, names, request.ifname, named.rule)?;
        let mut candidates = Candidates { version, pools: Vec::new(), rejected: Vec::new() };
        for name in &found.pools {
            let Some(pool) = catalogue.pools.get(name) else { continue };
            match fit::unfit(catalogue, request, version, name, pool) {
                Some(misfit) => {
                    may_pass |= misfit.may_pass;
                    candidates.rejected.push((name.clone(), misfit.text));
                }
                None => candidates.pools.push(name.clone()),
            }
        }
        let text = |pattern: &String| format!("no IPv{version} IPPool matches {pattern}");
        candidates.rejected.extend(found.unmatched.iter().map(|pattern| (pattern.clone(), text(pattern))));
        may_pass |= !found.invalid.is_empty();
        candidates.rejected.extend(found.invalid);
        lacking.extend(found.lacking);
        if candidates.pools.is_empty() {
            filtered.push(Filtered { version, rejected: candidates.rejected });
        } else {
            families.push(candidates);
        }
    }
    if !lacking.is_empty() {
        let mut others = Vec::new();
        for Candidates { pools, rejected, .. } in families {
            others.extend(pools.into_iter().map(|name| (name, "it fits".to_owned())));
            others.extend(rejected);
        }
        others.extend(filtered.into_iter().flat_map(|family| family.rejected));
        return Err(SelectionError::Lacking { ifname: request.ifname.clone(), lacking, others });
    }
    if filtered.is_empty() {
        Ok(Selection { families, clean_gateway: named.clean_gateway })
    } else {
        Err(SelectionError::AllFiltered { ifname: request.ifname.clone(), filtered, may_pass })
    }
}

/// The families that pools are named of, without those that the ConfigMap switches off.
fn enabled<'n>(catalogue: &Catalogue, named: &'n Named) -> Result<Vec<(IpVersion, &'n [String])>, SelectionError> {
    let families = [
        (IpVersion::V4, &named.v4, catalogue.conf.enable_ipv4),
        (IpVersion::V6, &named.v6, catalogue.conf.enable_ipv6),
    ];
    let asked: Vec<_> = families.into_iter().filter(|(_, names, _)| !names.is_empty()).collect();
    let left: Vec<_> =
        asked.iter().filter(|(.., is_on)| *is_on).map(|(version, names, _)| (*version, names.as_slice())).collect();
    match (asked.first(), left.is_empty()) {
        (None, _) => Err(SelectionError::NoPool(named.rule)),
        (Some((version, ..)), true) => Err(SelectionError::FamilyOff { rule: named.rule, version: *version }),
        (Some(_), false) => Ok(left),
    }
}

/// What is declared of a pod; one of another UID is another pod.
pub fn pod_marks<'a>(catalogue: &'a Catalogue, pod: &PodRef) -> Option<&'a Marks> {
    catalogue
        .pods
        .get(&(pod.namespace.clone(), pod.name.clone()))
        .filter(|marks| marks.uid.is_empty() || pod.uid.is_empty() || marks.uid == pod.uid)
}

/// The first that comes twice.
fn twice<'t, T: Ord>(all: impl IntoIterator<Item = &'t T>) -> Option<&'t T> {
    let mut seen = BTreeSet::new();
    all.into_iter().find(|one| !seen.insert(*one))
}
