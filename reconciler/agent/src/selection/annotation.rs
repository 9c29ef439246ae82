//! The annotations of pods and namespaces by which pools are chosen, as values.

use schemas::intent::{PodRef, RouteIntent};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{CLUSTER_NIC, SelectionError, pod_marks, twice};
use crate::auto_pool::{self, Interface};
use crate::catalogue::Catalogue;
use crate::listed::{self, Item};

/// The pod's choice of the NIC with the default route.
pub const ANNOTATION_DEFAULT_NIC: &str = "ipam.spidernet.io/default-route-nic";

/// An annotation with JSON in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Annotation {
    on: &'static str,
    pub(super) key: &'static str,
    expected: &'static str,
}

pub(super) const SUBNETS: Annotation = Annotation {
    on: "Pod",
    key: auto_pool::SUBNETS,
    expected: r#"[{"interface": "eth0", "ipv4": ["SUBNET"], "ipv6": ["SUBNET"]}, ...]"#,
};
pub(super) const SUBNET: Annotation = Annotation {
    on: "Pod",
    key: auto_pool::SUBNET,
    expected: r#"{"interface": "eth0", "ipv4": ["SUBNET"], "ipv6": ["SUBNET"]}"#,
};
pub(super) const POOLS: Annotation = Annotation {
    on: "Pod",
    key: "ipam.spidernet.io/ippools",
    expected: r#"[{"interface": "eth0", "ipv4": ["POOL"], "ipv6": ["POOL"], "cleangateway": false}, ...]"#,
};
pub(super) const POOL: Annotation =
    Annotation { on: "Pod", key: "ipam.spidernet.io/ippool", expected: r#"{"ipv4": ["POOL"], "ipv6": ["POOL"]}"# };
pub(super) const ROUTES: Annotation =
    Annotation { on: "Pod", key: "ipam.spidernet.io/routes", expected: r#"[{"dst": "CIDR", "gw": "ADDRESS"}, ...]"# };
pub(super) const NAMESPACE_V4: Annotation =
    Annotation { on: "Namespace", key: "ipam.spidernet.io/default-ipv4-ippool", expected: r#"["POOL", ...]"# };
pub(super) const NAMESPACE_V6: Annotation =
    Annotation { on: "Namespace", key: "ipam.spidernet.io/default-ipv6-ippool", expected: r#"["POOL", ...]"# };

impl Annotation {
    pub(super) fn wrong(self, problem: impl Into<String>) -> SelectionError {
        let Self { on, key, expected } = self;
        SelectionError::Annotation { on, key, problem: problem.into(), expected }
    }

    pub(super) fn parse<T: DeserializeOwned>(self, text: &str) -> Result<T, SelectionError> {
        serde_json::from_str(text).map_err(|error| self.wrong(error.to_string()))
    }
}

/// `ippools`, each item with its interface: those without one go by place, the first is eth0's, the next those of
/// `further`, which are the pod's further interfaces in the order of its networks; beyond them `net<k>`.
pub(super) fn pools(text: &str, further: &[String]) -> Result<Vec<Item>, SelectionError> {
    let mut items: Vec<Item> = POOLS.parse(text)?;
    listed::bounded(&items).map_err(|problem| POOLS.wrong(problem))?;
    if items.is_empty() {
        return Err(POOLS.wrong("value requires at least one item"));
    }
    let nameless = items.iter().filter(|item| item.interface.is_empty()).count();
    if nameless != 0 && nameless != items.len() {
        return Err(POOLS.wrong("NIC should be either all specified or all unspecified"));
    }
    if nameless != 0 {
        for (place, item) in items.iter_mut().enumerate() {
            item.interface = match place.checked_sub(1) {
                None => CLUSTER_NIC.to_owned(),
                Some(index) => further.get(index).cloned().unwrap_or_else(|| format!("net{place}")),
            };
        }
    }
    match twice(items.iter().map(|item| &item.interface)) {
        Some(interface) => Err(POOLS.wrong(format!("duplicate interface {interface}"))),
        None => Ok(items),
    }
}

/// `subnets`.
pub(super) fn subnets(text: &str) -> Result<Vec<Interface>, SelectionError> {
    auto_pool::several(text).map_err(|problem| SUBNETS.wrong(problem))
}

/// `subnet`; its interface is eth0 where it says none.
pub(super) fn subnet(text: &str) -> Result<Vec<Interface>, SelectionError> {
    auto_pool::single(text).map_err(|problem| SUBNET.wrong(problem))
}

/// `ippool`.
pub(super) fn pool(text: &str) -> Result<Item, SelectionError> {
    let item: Item = POOL.parse(text)?;
    listed::bounded(std::slice::from_ref(&item)).map_err(|problem| POOL.wrong(problem))?;
    Ok(item)
}

/// A namespace's list.
pub(super) fn names(annotation: Annotation, text: &str) -> Result<Vec<String>, SelectionError> {
    let names: Vec<String> = annotation.parse(text)?;
    listed::names_bounded("it", &names).map_err(|problem| annotation.wrong(problem))?;
    Ok(names)
}

#[derive(Deserialize)]
struct RouteItem {
    dst: String,
    gw: String,
}

/// The routes of `ipam.spidernet.io/routes`, each with its gateway.
///
/// # Errors
/// When the annotation is not what it should be.
pub fn annotated_routes(catalogue: &Catalogue, pod: &PodRef) -> Result<Vec<RouteIntent>, SelectionError> {
    let Some(text) = pod_marks(catalogue, pod).and_then(|marks| marks.annotations.get(ROUTES.key)) else {
        return Ok(Vec::new());
    };
    let items: Vec<RouteItem> = ROUTES.parse(text)?;
    let route = |item: RouteItem| {
        let dst = schemas::cni::netconf::parse_cidr(&item.dst).map_err(|error| ROUTES.wrong(error))?;
        let gateway: std::net::IpAddr =
            item.gw.parse().map_err(|_| ROUTES.wrong(format!("invalid gw {:?}", item.gw)))?;
        if dst.is_ipv4() != gateway.is_ipv4() {
            return Err(ROUTES.wrong(format!("dst {dst} and gw {gateway} must use the same IP family")));
        }
        Ok(RouteIntent { dst, gateway: Some(gateway) })
    };
    items.into_iter().map(route).collect()
}
