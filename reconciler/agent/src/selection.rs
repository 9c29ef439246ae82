//! Which pools an interface's addresses may come from, in order (../spec/ipam.md 4 and 5).

use ipnetwork::IpNetwork;
use schemas::cni::netconf::SpiderpoolIpam;
use schemas::crd::ip_version::IpVersion;
use schemas::intent::{PodRef, RouteIntent};
use schemas::name::{IfName, NetworkName};
use serde::Deserialize;

use crate::catalogue::{Catalogue, Marks, Pool};
use crate::selector::selects;

const ANNOTATION_POOL: &str = "ipam.spidernet.io/ippool";
const ANNOTATION_POOLS: &str = "ipam.spidernet.io/ippools";
const ANNOTATION_ROUTES: &str = "ipam.spidernet.io/routes";
const ANNOTATION_NAMESPACE_V4: &str = "ipam.spidernet.io/default-ipv4-ippool";
const ANNOTATION_NAMESPACE_V6: &str = "ipam.spidernet.io/default-ipv6-ippool";
/// The pod's choice of the NIC with the default route.
pub const ANNOTATION_DEFAULT_NIC: &str = "ipam.spidernet.io/default-route-nic";

/// For whom addresses are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a PodRef,
    /// The interface.
    pub ifname: &'a IfName,
    /// The network configuration's name.
    pub network: &'a NetworkName,
    /// The network configuration's `ipam`.
    pub ipam: &'a SpiderpoolIpam,
    /// This node.
    pub node: &'a str,
}

/// The pools of one family, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The family.
    pub version: IpVersion,
    /// Pools that fit.
    pub pools: Vec<String>,
    /// Pools that were named and do not fit, with the reason.
    pub rejected: Vec<(String, String)>,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Per family; at least one.
    pub families: Vec<Candidates>,
    /// No default route from the pool's gateway.
    pub clean_gateway: bool,
}

/// Why nothing could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// No rule names a pool.
    #[error(
        "no IPPool available, no pool selection rules of any type are specified: name one in the annotation \
         {ANNOTATION_POOL}, in default_ipv4_ippool of the network configuration, or mark one as default"
    )]
    NoRule,
    /// An annotation is not what it should be.
    #[error("wrong input, invalid format of Pod annotation '{0}': {1}")]
    Annotation(&'static str, String),
    /// A named pool is not there.
    #[error("failed to get original IPPool {0}: not found; create it or correct its name in {1}")]
    Unknown(String, &'static str),
    /// No candidate of a family is left.
    #[error("no IPPool available, all IPv{version} IPPools [{names}] of {ifname} filtered out: [{reasons}]")]
    AllFiltered {
        /// The family.
        version: IpVersion,
        /// The pools.
        names: String,
        /// The interface.
        ifname: IfName,
        /// A reason each.
        reasons: String,
    },
}

#[derive(Deserialize)]
struct PoolAnnotation {
    #[serde(default)]
    ipv4: Option<Vec<String>>,
    #[serde(default)]
    ipv6: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct PoolsAnnotation {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    ipv4: Option<Vec<String>>,
    #[serde(default)]
    ipv6: Option<Vec<String>>,
    #[serde(default)]
    cleangateway: bool,
}

#[derive(Deserialize)]
struct RouteAnnotation {
    dst: String,
    gw: String,
}

struct Named {
    source: &'static str,
    v4: Vec<String>,
    v6: Vec<String>,
    clean_gateway: bool,
}

/// Chooses: pod annotation over namespace annotation over network configuration over the pools marked default.
///
/// # Errors
/// When nothing names a pool, something names one wrongly, or none of a family fits.
pub fn select(catalogue: &Catalogue, request: Request<'_>) -> Result<Selection, SelectionError> {
    let named = named(catalogue, request)?;
    let mut families = Vec::new();
    for (version, names) in [(IpVersion::V4, &named.v4), (IpVersion::V6, &named.v6)] {
        if names.is_empty() {
            continue;
        }
        let mut candidates = Candidates { version, pools: Vec::new(), rejected: Vec::new() };
        for name in names {
            let pool = catalogue.pools.get(name).ok_or_else(|| SelectionError::Unknown(name.clone(), named.source))?;
            match unfit(catalogue, request, version, name, pool) {
                Some(reason) => candidates.rejected.push((name.clone(), reason)),
                None => candidates.pools.push(name.clone()),
            }
        }
        if candidates.pools.is_empty() {
            return Err(SelectionError::AllFiltered {
                version,
                names: names.join(" "),
                ifname: request.ifname.clone(),
                reasons: candidates.rejected.iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>().join(", "),
            });
        }
        families.push(candidates);
    }
    if families.is_empty() {
        Err(SelectionError::NoRule)
    } else {
        Ok(Selection { families, clean_gateway: named.clean_gateway })
    }
}

/// The NICs that the annotation is about that chooses for all NICs of the pod; none where another rule chooses.
///
/// # Errors
/// When the annotation is not what it should be.
pub fn listed(catalogue: &Catalogue, request: Request<'_>) -> Result<Vec<IfName>, SelectionError> {
    let pod = pod_marks(catalogue, request.pod);
    let Some(text) = pod.and_then(|pod| pod.annotations.get(ANNOTATION_POOLS)) else { return Ok(Vec::new()) };
    let items = pools_annotation(text)?;
    let name = |item: &PoolsAnnotation| {
        let wrong =
            |error| SelectionError::Annotation(ANNOTATION_POOLS, format!("interface {}: {error}", item.interface));
        item.interface.parse().map_err(wrong)
    };
    items.iter().map(name).collect()
}

fn named(catalogue: &Catalogue, request: Request<'_>) -> Result<Named, SelectionError> {
    let pod = pod_marks(catalogue, request.pod);
    let clean_gateway = request.ipam.clean_gateway;
    if let Some(text) = pod.and_then(|pod| pod.annotations.get(ANNOTATION_POOLS)) {
        return from_pools_annotation(text, request.ifname);
    }
    if let Some(text) = pod.and_then(|pod| pod.annotations.get(ANNOTATION_POOL)) {
        let found: PoolAnnotation = serde_json::from_str(text)
            .map_err(|error| SelectionError::Annotation(ANNOTATION_POOL, error.to_string()))?;
        let (v4, v6) = (found.ipv4.unwrap_or_default(), found.ipv6.unwrap_or_default());
        return Ok(Named { source: ANNOTATION_POOL, v4, v6, clean_gateway });
    }
    if let Some(namespace) = catalogue.namespaces.get(&request.pod.namespace) {
        let list = |key: &'static str| -> Result<Vec<String>, SelectionError> {
            namespace.annotations.get(key).map_or(Ok(Vec::new()), |text| {
                serde_json::from_str(text).map_err(|error| SelectionError::Annotation(key, error.to_string()))
            })
        };
        let (v4, v6) = (list(ANNOTATION_NAMESPACE_V4)?, list(ANNOTATION_NAMESPACE_V6)?);
        if !v4.is_empty() || !v6.is_empty() {
            return Ok(Named { source: "the namespace's annotations", v4, v6, clean_gateway });
        }
    }
    let (v4, v6) = (request.ipam.default_ipv4_ippool.clone(), request.ipam.default_ipv6_ippool.clone());
    if !v4.is_empty() || !v6.is_empty() {
        return Ok(Named { source: "the network configuration", v4, v6, clean_gateway });
    }
    let defaults = |version: IpVersion| {
        let is_default = |pool: &Pool| pool.object.spec.default && pool.ranges.version == version;
        catalogue.pools.iter().filter(|(_, pool)| is_default(pool)).map(|(name, _)| name.clone()).collect()
    };
    Ok(Named { source: "the default pools", v4: defaults(IpVersion::V4), v6: defaults(IpVersion::V6), clean_gateway })
}

fn pools_annotation(text: &str) -> Result<Vec<PoolsAnnotation>, SelectionError> {
    let wrong = |what: String| SelectionError::Annotation(ANNOTATION_POOLS, what);
    let mut items: Vec<PoolsAnnotation> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if items.is_empty() {
        return Err(wrong("value requires at least one item".into()));
    }
    let unnamed = items.iter().filter(|item| item.interface.is_empty()).count();
    if unnamed != 0 && unnamed != items.len() {
        return Err(wrong("NIC should be either all specified or all unspecified".into()));
    }
    if unnamed != 0 {
        // Nameless items go by place: eth0, net1, net2, ... (../spec/ipam.md 4).
        for (index, item) in items.iter_mut().enumerate() {
            item.interface = if index == 0 { "eth0".to_owned() } else { format!("net{index}") };
        }
    }
    for (index, item) in items.iter().enumerate() {
        if items[..index].iter().any(|other| other.interface == item.interface) {
            return Err(wrong(format!("duplicate interface {}", item.interface)));
        }
    }
    Ok(items)
}

fn from_pools_annotation(text: &str, ifname: &IfName) -> Result<Named, SelectionError> {
    let wrong = |what: String| SelectionError::Annotation(ANNOTATION_POOLS, what);
    let item = pools_annotation(text)?
        .into_iter()
        .find(|item| item.interface == ifname.as_str())
        .ok_or_else(|| wrong(format!("interface {ifname} must be specified")))?;
    Ok(Named {
        source: ANNOTATION_POOLS,
        v4: item.ipv4.unwrap_or_default(),
        v6: item.ipv6.unwrap_or_default(),
        clean_gateway: item.cleangateway,
    })
}

/// Why a pool does not fit, in the original's words; None when it does.
fn unfit(catalogue: &Catalogue, request: Request<'_>, version: IpVersion, name: &str, pool: &Pool) -> Option<String> {
    let spec = &pool.object.spec;
    if pool.object.metadata.deletion_timestamp.is_some() {
        return Some(format!("terminating IPPool {name}"));
    }
    if spec.disable {
        return Some(format!("disabled IPPool {name}"));
    }
    if pool.ranges.version != version {
        return Some(format!(
            "expect an IPv{version} IPPool, but the version of the IPPool {name} is IPv{}",
            pool.ranges.version
        ));
    }
    let none = Marks::default();
    let by_label = |what: &str, selector: &Option<_>, marks: Option<&Marks>| {
        let selector = selector.as_ref()?;
        match selects(selector, &marks.unwrap_or(&none).labels) {
            Ok(true) => None,
            Ok(false) => Some(format!("unmatched {what} affinity of IPPool {name}")),
            Err(error) => Some(format!("invalid {what} affinity of IPPool {name}: {error}")),
        }
    };
    let unfit_node = if spec.node_name.is_empty() {
        by_label("Node", &spec.node_affinity, catalogue.nodes.get(request.node))
    } else {
        (!spec.node_name.iter().any(|node| node == request.node))
            .then(|| format!("unmatched Node name of IPPool {name}"))
    };
    let unfit_namespace = || {
        if spec.namespace_name.is_empty() {
            by_label("Namespace", &spec.namespace_affinity, catalogue.namespaces.get(&request.pod.namespace))
        } else {
            let fits = spec.namespace_name.contains(&request.pod.namespace);
            (!fits).then(|| format!("unmatched Namespace name of IPPool {name}"))
        }
    };
    let unfit_network = || {
        let fits = |entry: &String| entry.rsplit('/').next() == Some(request.network.as_str());
        (!spec.multus_name.is_empty() && !spec.multus_name.iter().any(fits))
            .then(|| format!("unmatched multusName of IPPool {name}: the network is {}", request.network))
    };
    unfit_node
        .or_else(unfit_namespace)
        .or_else(|| by_label("Pod", &spec.pod_affinity, pod_marks(catalogue, request.pod)))
        .or_else(unfit_network)
}

/// What is declared of a pod; one of another UID is another pod.
pub fn pod_marks<'a>(catalogue: &'a Catalogue, pod: &PodRef) -> Option<&'a Marks> {
    catalogue
        .pods
        .get(&(pod.namespace.clone(), pod.name.clone()))
        .filter(|marks| marks.uid.is_empty() || pod.uid.is_empty() || marks.uid == pod.uid)
}

/// The routes of `ipam.spidernet.io/routes` whose gateway is in that subnet.
///
/// # Errors
/// When the annotation is not what it should be.
pub fn annotated_routes(
    catalogue: &Catalogue,
    pod: &PodRef,
    subnet: IpNetwork,
) -> Result<Vec<RouteIntent>, SelectionError> {
    let Some(text) = pod_marks(catalogue, pod).and_then(|marks| marks.annotations.get(ANNOTATION_ROUTES)) else {
        return Ok(Vec::new());
    };
    let wrong = |what: String| SelectionError::Annotation(ANNOTATION_ROUTES, what);
    let items: Vec<RouteAnnotation> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let mut routes = Vec::new();
    for item in items {
        let dst = schemas::cni::netconf::parse_cidr(&item.dst).map_err(&wrong)?;
        let gateway: std::net::IpAddr = item.gw.parse().map_err(|_| wrong(format!("invalid gw {:?}", item.gw)))?;
        if dst.is_ipv4() != gateway.is_ipv4() {
            return Err(wrong(format!("dst {dst} and gw {gateway} must use the same IP family")));
        }
        if subnet.contains(gateway) {
            routes.push(RouteIntent { dst, gateway: Some(gateway) });
        }
    }
    Ok(routes)
}
