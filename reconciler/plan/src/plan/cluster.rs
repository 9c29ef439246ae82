//! What is reached by the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Nic;
use super::family::Family;
use super::inside::Inside;
use super::own::addresses_of;
use super::routes::subnet;
use crate::node::NodeFacts;

/// The node's addresses that the pod reaches by its default CNI's NIC: the sources that the node uses towards the pod's
/// addresses, then the addresses of its uplinks; ascending. Of the default CNI's own links on the node, those count
/// that the pod's NIC has as its gateway.
pub(super) fn node_addresses(nics: &[Nic<'_>], inside: Inside<'_>, node: &NodeFacts, family: Family) -> Vec<IpAddr> {
    let underlay = nics.iter().flat_map(|nic| addresses_of(nic.attachment, family)).map(|address| address.ip());
    let sources = inside.addresses().chain(underlay).filter_map(|ip| node.source_towards(ip));
    let routes = inside.baseline().into_iter().flat_map(|baseline| &baseline.routes);
    let gateways = routes.filter_map(|route| route.gateway).filter(|gateway| node.has(*gateway));
    let all: BTreeSet<IpAddr> =
        sources.chain(gateways).chain(node.uplink_addresses()).filter(|ip| family.has(*ip)).collect();
    all.into_iter().collect()
}

/// Destinations inside the cluster: the node on the link; pod, service and hijacked networks by the node.
pub(super) fn cluster_routes(
    nics: &[Nic<'_>],
    node_addresses: &[IpAddr],
    gateway: Option<IpAddr>,
    family: Family,
    notes: &mut Vec<String>,
) -> Vec<(IpNetwork, Option<IpAddr>)> {
    let mut routes: BTreeMap<IpNetwork, Option<IpAddr>> =
        node_addresses.iter().map(|address| (IpNetwork::from(*address), None)).collect();
    let networks: BTreeSet<IpNetwork> = nics
        .iter()
        .flat_map(|nic| {
            let settings = &nic.settings;
            settings.overlay_pod_cidr.iter().chain(&settings.service_cidr).chain(&settings.hijack_cidr)
        })
        .filter(|network| family.has_network(**network))
        .map(|network| subnet(*network))
        .collect();
    match gateway {
        Some(gateway) => {
            for network in networks {
                routes.entry(network).or_insert(Some(gateway));
            }
        }
        None if networks.is_empty() => {}
        None => {
            let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
            notes.push(format!(
                "the node has no {family} address of its own: no routes to pod, service and hijacked networks of that family"
            ));
        }
    }
    routes.into_iter().collect()
}
