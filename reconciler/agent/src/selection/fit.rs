//! Whether a pool is for an interface of a pod, in the original's order and words (../spec/ipam.md 5).

use std::cmp::Reverse;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemas::crd::ip_version::IpVersion;

use super::owner::{self, Top};
use super::{Request, multus, pod_marks};
use crate::catalogue::{Catalogue, Marks, Pool};
use crate::selector::selects;

/// The uplink of the interface, where the network configuration asks for pools of its subnets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// It does not ask.
    Unasked,
    /// It asks, and which link it is is not known, for this reason.
    Unknown(String),
    /// This link, which has these addresses.
    Known {
        /// Its name on the node.
        name: String,
        /// Without link-local ones.
        addresses: Vec<IpAddr>,
    },
}

/// Why a pool does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) text: String,
    /// The pool, or what is known of the pod, is about to change.
    pub(super) may_pass: bool,
}

/// Why a pool does not fit; None when it does.
pub(super) fn unfit(
    catalogue: &Catalogue,
    request: Request<'_>,
    version: IpVersion,
    name: &str,
    pool: &Pool,
) -> Option<Misfit> {
    let passing = |text: String| Some(Misfit { text, may_pass: true });
    if pool.object.metadata.deletion_timestamp.is_some() {
        return passing(format!("terminating IPPool {name}"));
    }
    if pool.object.spec.disable {
        return passing(format!("disabled IPPool {name}"));
    }
    let lasting = |text: String| Misfit { text, may_pass: false };
    let by_place = wrong_family(version, name, pool)
        .or_else(|| unfit_node(catalogue, request, name, pool))
        .or_else(|| unfit_namespace(catalogue, request, name, pool));
    if let Some(text) = by_place {
        return Some(lasting(text));
    }
    if owner::is_auto(pool) {
        let text = unfit_owner(request, name, pool)?;
        return Some(Misfit { text, may_pass: matches!(request.top, Top::Unknown(_)) });
    }
    by_label("Pod", &pool.object.spec.pod_affinity, pod_marks(catalogue, request.pod), name)
        .or_else(|| unfit_network(catalogue, request, name, pool))
        .or_else(|| unfit_uplink(request, name, pool))
        .map(lasting)
}

/// The names of these pools, the more specific first, then by name.
pub(super) fn in_order<'p>(pools: impl Iterator<Item = (&'p String, &'p Pool)>) -> Vec<String> {
    let mut pools: Vec<_> = pools.collect();
    pools.sort_by_key(|(name, pool)| (Reverse(specifics(pool)), *name));
    pools.into_iter().map(|(name, _)| name.clone()).collect()
}

/// What a pool says of whom it is for, the weightiest first.
fn specifics(pool: &Pool) -> [bool; 6] {
    let spec = &pool.object.spec;
    [
        spec.pod_affinity.is_some(),
        !spec.node_name.is_empty(),
        spec.node_affinity.is_some(),
        !spec.namespace_name.is_empty(),
        spec.namespace_affinity.is_some(),
        !spec.multus_name.is_empty(),
    ]
}

fn wrong_family(version: IpVersion, name: &str, pool: &Pool) -> Option<String> {
    let own = pool.ranges.version;
    (own != version).then(|| format!("expect an IPv{version} IPPool, but the version of the IPPool {name} is IPv{own}"))
}

fn unfit_node(catalogue: &Catalogue, request: Request<'_>, name: &str, pool: &Pool) -> Option<String> {
    let spec = &pool.object.spec;
    if spec.node_name.is_empty() {
        return by_label("Node", &spec.node_affinity, catalogue.nodes.get(request.node), name);
    }
    let fits = spec.node_name.iter().any(|node| node == request.node);
    (!fits).then(|| format!("unmatched Node name of IPPool {name}"))
}

fn unfit_namespace(catalogue: &Catalogue, request: Request<'_>, name: &str, pool: &Pool) -> Option<String> {
    let spec = &pool.object.spec;
    if spec.namespace_name.is_empty() {
        let namespace = catalogue.namespaces.get(&request.pod.namespace);
        return by_label("Namespace", &spec.namespace_affinity, namespace, name);
    }
    let fits = spec.namespace_name.contains(&request.pod.namespace);
    (!fits).then(|| format!("unmatched Namespace name of IPPool {name}"))
}

fn by_label(what: &str, selector: &Option<LabelSelector>, marks: Option<&Marks>, name: &str) -> Option<String> {
    let none = Marks::default();
    match selects(selector.as_ref()?, &marks.unwrap_or(&none).labels) {
        Ok(true) => None,
        Ok(false) => Some(format!("unmatched {what} affinity of IPPool {name}")),
        Err(error) => Some(format!("invalid {what} affinity of IPPool {name}: {error}")),
    }
}

/// Whose pool one of a SpiderSubnet is.
fn unfit_owner(request: Request<'_>, name: &str, pool: &Pool) -> Option<String> {
    let why = match request.top {
        Top::Known(top) if owner::is_pool_of(pool, &request.pod.namespace, top) => return None,
        Top::Known(top) => format!("it is another's than {top}'s"),
        Top::None => "nothing controls the pod".to_owned(),
        Top::Unknown(owner) => format!("who controls {owner} is not known yet"),
    };
    Some(format!("unmatched Pod affinity of IPPool {name}: {why}"))
}

fn unfit_network(catalogue: &Catalogue, request: Request<'_>, name: &str, pool: &Pool) -> Option<String> {
    let allowed = &pool.object.spec.multus_name;
    if allowed.is_empty() {
        return None;
    }
    let listed = allowed.join(" ");
    let ifname = request.ifname;
    let Some(network) = multus::identity(catalogue, request) else {
        return Some(format!(
            "the spec.multusName [{listed}] in the IPPool {name} used by the Pod interface {ifname} is not matched: no \
             annotation of the Pod says of which network the interface is"
        ));
    };
    let fits = allowed.iter().any(|entry| network.is_meant_by(entry, &request.site.namespace, &request.pod.namespace));
    (!fits).then(|| {
        format!(
            "the spec.multusName [{listed}] in the IPPool {name} used by the Pod interface {ifname} is not matched with \
             the multusCR {network} specified by the Pod"
        )
    })
}

/// The uplink has an address of the pool's subnet. A pool that says which networks it is for is not asked.
fn unfit_uplink(request: Request<'_>, name: &str, pool: &Pool) -> Option<String> {
    if !pool.object.spec.multus_name.is_empty() {
        return None;
    }
    let subnet = pool.ranges.subnet;
    let why = match request.uplink {
        Uplink::Unasked => return None,
        Uplink::Known { addresses, .. } if addresses.iter().any(|address| subnet.contains(*address)) => return None,
        Uplink::Known { name: link, addresses } if addresses.is_empty() => format!("uplink {link} has no address"),
        Uplink::Known { name: link, addresses } => {
            let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("uplink {link} has none, but [{}]", all.join(" "))
        }
        Uplink::Unknown(why) => why.clone(),
    };
    Some(format!(
        "filterPoolCandidatesByPfSubnet: match_master_subnet asks for an address of the uplink in subnet {subnet} of \
         IPPool {name}: {why}"
    ))
}
