//! A node whose agent probes, and a neighbour who uses what is not his.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use libtest_mimic::Trial;
use netlink::testbed::Netns;
use serde_json::Value;
use tests::runtime::{Runtime, reference_plugins};
use tests::scene::UPLINK;

use crate::node::{COORDINATOR, NETWORK, Node, POOL, trial};

pub(crate) const CONFLICT: &str = "DRAGLINE_DETECT_IP_CONFLICT";
pub(crate) const GATEWAY: &str = "DRAGLINE_DETECT_GATEWAY";

/// Whose `macvlan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Main {
    Own,
    Reference,
}

impl Main {
    pub(crate) fn runtime(self, node: &Node) -> Runtime<'_> {
        match self {
            Self::Own => node.runtime(),
            Self::Reference => node.runtime_with_reference(),
        }
    }

    /// Of scenes, which have short names.
    pub(crate) fn name(self, test: &str) -> String {
        format!("{test}{}", if self == Self::Own { "o" } else { "r" })
    }
}

/// A test with either plugin; the reference one has to be installed (containernetworking-plugins).
pub(crate) fn with_both(name: &str, test: fn(Main)) -> Vec<Trial> {
    let own = trial(format!("{name}_with_our_macvlan"), move || test(Main::Own));
    let reference = trial(format!("{name}_with_the_reference_macvlan"), move || test(Main::Reference));
    vec![own, reference.with_ignored_flag(reference_plugins().is_none())]
}

/// One that has the quick start's objects, with these variables for its agent.
pub(crate) fn probing(name: &str, variables: &[(&str, &str)]) -> Node {
    probing_with(name, variables, &[("pool.yaml", POOL), ("coordinator.yaml", COORDINATOR), ("network.yaml", NETWORK)])
}

/// The same with other manifests.
pub(crate) fn probing_with(name: &str, variables: &[(&str, &str)], manifests: &[(&str, &str)]) -> Node {
    let mut node = Node::asleep(name, manifests);
    for (variable, value) in variables {
        node.agent.set_variable(variable, value);
    }
    node.agent.restart().unwrap();
    node
}

/// Gives the other node an address that is not his; the hardware address by which he is found there.
pub(crate) fn squat(squatter: &Netns, address: &str) -> String {
    let mut scene = squatter.scene().unwrap();
    scene.address(UPLINK, address.parse().unwrap()).unwrap();
    scene.link(UPLINK).unwrap().mac.unwrap().to_string()
}

pub(crate) fn leave(squatter: &Netns, address: &str) {
    squatter.scene().unwrap().delete_address(UPLINK, address.parse().unwrap()).unwrap();
}

/// What `dragline get leases` says of addresses that others use: address and hardware address.
pub(crate) fn occupied(leases: &[Value]) -> Vec<(String, String)> {
    let all = leases.iter().flat_map(|pool| pool["occupied"].as_array().unwrap().clone());
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    all.map(|one| (text(&one, "address"), text(&one, "mac"))).collect()
}

/// The addresses on a link.
pub(crate) fn addresses_on(netns: &Netns, link: &str) -> Vec<IpAddr> {
    let observed = netns.scene().unwrap().observe().unwrap();
    let own = observed.addresses.iter().filter(|address| address.dev == link);
    own.map(|address| address.address).map(|address: IpNetwork| address.ip()).collect()
}
