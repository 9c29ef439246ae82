//! What a pod's plan needs to know of its node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::object::{Address, Observed, Route, Scope};
use crate::ownership;
use crate::tables::{self, MAIN};

/// The node's addresses and main routes, in the kernel's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Addresses of all links but loopback, link-local and multicast ones left out.
    pub addresses: Vec<Address>,
    /// Routes of table main, without ours.
    pub routes: Vec<Route>,
}

impl NodeFacts {
    /// Takes the facts out of an observation of the node.
    pub fn of(observed: &Observed) -> Self {
        let is_global = |address: &Address| match address.address.ip() {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_loopback() && !ip.is_multicast(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_loopback() && !ip.is_multicast(),
        };
        let mut routes: Vec<Route> = observed
            .routes
            .iter()
            .filter(|route| route.table == MAIN && !ownership::is_our_route(route))
            .cloned()
            .collect();
        routes.sort();
        Self {
            addresses: observed
                .addresses
                .iter()
                .filter(|address| is_global(address) && address.scope < Scope::HOST)
                .cloned()
                .collect(),
            routes,
        }
    }

    /// The node's own addresses towards the world, each once, in the kernel's order.
    pub fn uplink_addresses(&self) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for address in self.addresses.iter().filter(|address| ownership::is_node_uplink(&address.dev)) {
            if !found.contains(&address.address.ip()) {
                found.push(address.address.ip());
            }
        }
        found
    }

    /// Whether the node has that address, on whatever link.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|address| address.address.ip() == ip)
    }

    /// The source that the node uses towards `ip` by its main table: the longest matching route's preferred source, else
    /// the first address of its link in the destination's subnet, else the first of its link. The kernel's own lookup is
    /// not asked because our table on the node would change its answer.
    pub fn source_towards(&self, ip: IpAddr) -> Option<IpAddr> {
        let route = self
            .routes
            .iter()
            .filter(|route| route.dst.contains(ip))
            .max_by_key(|route| (route.dst.prefix(), std::cmp::Reverse(route.metric)))?;
        if let Some(source) = route.src {
            return Some(source);
        }
        let dev = route.dev.as_deref()?;
        let of_family = |address: &&Address| address.dev == dev && address.address.is_ipv4() == ip.is_ipv4();
        let towards = route.gateway.unwrap_or(ip);
        self.addresses
            .iter()
            .filter(of_family)
            .find(|address| address.address.contains(towards))
            .or_else(|| self.addresses.iter().find(of_family))
            .map(|address| address.address.ip())
    }

    /// The node's address as the gateway of a pod with these underlay addresses, all of one family: the source towards
    /// the first of them that has one on an uplink, else the node's first address of the family.
    pub fn gateway_for(&self, underlay: &[IpAddr], v6: bool) -> Option<IpAddr> {
        let uplinks = self.uplink_addresses();
        underlay
            .iter()
            .filter_map(|address| self.source_towards(*address))
            .find(|source| uplinks.contains(source))
            .or_else(|| uplinks.iter().copied().find(|address| address.is_ipv6() == v6))
    }

    /// The node's rule table is one of those that the kernel or the pods' tables use.
    pub fn is_valid_rule_table(table: u32) -> bool {
        table != 0 && !(253..=255).contains(&table) && table != tables::DEFAULT_NIC
    }
}
