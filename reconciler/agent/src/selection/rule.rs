//! The rules of which the first that applies names the pools.

use std::fmt;

use schemas::crd::ip_version::IpVersion;
use schemas::name::IfName;

use super::annotation::{self, Annotation};
use super::{Request, SelectionError, fit, multus, pod_marks, subnet};
use crate::catalogue::Catalogue;
use crate::listed::Item;

/// What may name pools, the stronger first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Pod annotation `ipam.spidernet.io/subnets`.
    Subnets,
    /// Pod annotation `ipam.spidernet.io/subnet`.
    Subnet,
    /// Pod annotation `ipam.spidernet.io/ippools`.
    Pools,
    /// Pod annotation `ipam.spidernet.io/ippool`.
    Pool,
    /// The namespace's annotations.
    Namespace,
    /// The network configuration.
    Network,
    /// Pools with `spec.default: true`.
    Default,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subnets => write!(f, "the pod's annotation {}", annotation::SUBNETS.key),
            Self::Subnet => write!(f, "the pod's annotation {}", annotation::SUBNET.key),
            Self::Pools => write!(f, "the pod's annotation {}", annotation::POOLS.key),
            Self::Pool => write!(f, "the pod's annotation {}", annotation::POOL.key),
            Self::Namespace => {
                let (v4, v6) = (annotation::NAMESPACE_V4.key, annotation::NAMESPACE_V6.key);
                write!(f, "the namespace's annotations {v4} and {v6}")
            }
            Self::Network => f.write_str("default_ipv4_ippool and default_ipv6_ippool of the network configuration"),
            Self::Default => f.write_str("the pools with spec.default: true"),
        }
    }
}

/// What a rule names for one interface, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) rule: Rule,
    pub(super) v4: Vec<String>,
    pub(super) v6: Vec<String>,
    pub(super) clean_gateway: bool,
}

impl Rule {
    const ALL: [Self; 7] =
        [Self::Subnets, Self::Subnet, Self::Pools, Self::Pool, Self::Namespace, Self::Network, Self::Default];

    /// The rules that have something to say, the one that decides first.
    pub(super) fn present(catalogue: &Catalogue, request: Request<'_>) -> Vec<Self> {
        Self::ALL.into_iter().filter(|rule| rule.is_present(catalogue, request)).collect()
    }

    /// The rule that decides.
    pub(super) fn first(catalogue: &Catalogue, request: Request<'_>) -> Result<Self, SelectionError> {
        let first = Self::ALL.into_iter().find(|rule| rule.is_present(catalogue, request));
        first.ok_or(SelectionError::NoRule)
    }

    fn is_present(self, catalogue: &Catalogue, request: Request<'_>) -> bool {
        let is_annotated = |annotation: Annotation| pod_annotation(catalogue, request, annotation).is_some();
        match self {
            Self::Subnets => is_annotated(annotation::SUBNETS),
            Self::Subnet => is_annotated(annotation::SUBNET),
            Self::Pools => is_annotated(annotation::POOLS),
            Self::Pool => is_annotated(annotation::POOL),
            // A list that cannot be read is one that was meant to say something.
            Self::Namespace => [annotation::NAMESPACE_V4, annotation::NAMESPACE_V6]
                .into_iter()
                .any(|annotation| !list(catalogue, request, annotation).is_ok_and(|names| names.is_empty())),
            Self::Network => {
                !request.ipam.default_ipv4_ippool.is_empty() || !request.ipam.default_ipv6_ippool.is_empty()
            }
            Self::Default => catalogue.pools.values().any(|pool| pool.object.spec.default),
        }
    }

    pub(super) fn named(self, catalogue: &Catalogue, request: Request<'_>) -> Result<Named, SelectionError> {
        let clean_gateway = request.ipam.clean_gateway;
        let text = |annotation: Annotation| pod_annotation(catalogue, request, annotation).unwrap_or_default();
        let (v4, v6) = match self {
            Self::Subnets => {
                let items = annotation::subnets(text(annotation::SUBNETS))?;
                subnet::pools(catalogue, request, self, subnet::of_nic(annotation::SUBNETS, &items, request.ifname)?)?
            }
            Self::Subnet => {
                let items = annotation::subnet(text(annotation::SUBNET))?;
                subnet::pools(catalogue, request, self, subnet::of_nic(annotation::SUBNET, &items, request.ifname)?)?
            }
            Self::Pools => {
                let further = multus::interfaces(catalogue, request.pod);
                let items = annotation::pools(text(annotation::POOLS), &further)?;
                return of_nic(&items, request.ifname).map(of_item);
            }
            Self::Pool => {
                let item = annotation::pool(text(annotation::POOL))?;
                (item.ipv4, item.ipv6)
            }
            Self::Namespace => (
                list(catalogue, request, annotation::NAMESPACE_V4)?,
                list(catalogue, request, annotation::NAMESPACE_V6)?,
            ),
            Self::Network => (request.ipam.default_ipv4_ippool.clone(), request.ipam.default_ipv6_ippool.clone()),
            Self::Default => (defaults(catalogue, IpVersion::V4), defaults(catalogue, IpVersion::V6)),
        };
        Ok(Named { rule: self, v4, v6, clean_gateway })
    }
}

/// The text of `ippools` where that is what decides.
pub(super) fn ippools<'c>(catalogue: &'c Catalogue, request: Request<'_>) -> Result<Option<&'c str>, SelectionError> {
    match Rule::first(catalogue, request)? {
        Rule::Pools => Ok(pod_annotation(catalogue, request, annotation::POOLS)),
        _ => Ok(None),
    }
}

/// The item of an interface.
pub(super) fn of_nic<'i>(items: &'i [Item], ifname: &IfName) -> Result<&'i Item, SelectionError> {
    let own = items.iter().find(|item| item.interface == ifname.as_str());
    own.ok_or_else(|| annotation::POOLS.wrong(format!("interface {ifname} must be specified")))
}

/// What an item of `ippools` names: whether the gateway gives a default route is its own affair.
pub(super) fn of_item(item: &Item) -> Named {
    Named { rule: Rule::Pools, v4: item.ipv4.clone(), v6: item.ipv6.clone(), clean_gateway: item.cleangateway }
}

fn pod_annotation<'c>(catalogue: &'c Catalogue, request: Request<'_>, annotation: Annotation) -> Option<&'c str> {
    pod_marks(catalogue, request.pod)?.annotations.get(annotation.key).map(String::as_str)
}

fn list(catalogue: &Catalogue, request: Request<'_>, annotation: Annotation) -> Result<Vec<String>, SelectionError> {
    let namespace = catalogue.namespaces.get(&request.pod.namespace);
    let text = namespace.and_then(|namespace| namespace.annotations.get(annotation.key));
    text.map_or_else(|| Ok(Vec::new()), |text| annotation::names(annotation, text))
}

fn defaults(catalogue: &Catalogue, version: IpVersion) -> Vec<String> {
    let of_family = catalogue.pools.iter().filter(|(_, pool)| pool.ranges.version == version);
    fit::in_order(of_family.filter(|(_, pool)| pool.object.spec.default))
}
