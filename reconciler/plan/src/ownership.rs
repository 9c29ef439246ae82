//! What is ours: the one place that says what dragline may delete. Everything else belongs to somebody.
//!
//! - Routes, rules, neighbours: those with our protocol number, in whatever table.
//! - The nftables table `inet dragline` of a pod, with whatever is in it.
//! - Links: those with our alias, or of the name and hardware address that an intent of ours decided.
//! - Routes of others only where the plan took their place: the ones it moved ([`Desired::absent_routes`]) and the ones
//!   that stand on a key that the plan claims for one route alone (a default put over ours).
//! - Addresses: never deleted by protocol alone, see [`is_our_address`].

use schemas::intent::LinkIntent;
use schemas::name::AttachmentKey;

use crate::desired::{Desired, LinkOrigin};
use crate::object::{Address, Link, Neighbour, Route, Rule};
use crate::tables::PROTOCOL;

/// How the alias of every link of ours begins.
pub const ALIAS_PREFIX: &str = "dragline:";

/// The alias of a link that we make.
pub fn alias(key: &AttachmentKey) -> String {
    // The kernel takes 255 bytes; a container ID may have as many. The ID's beginning is enough: the alias marks whose
    // the link is, the hardware address tells which one.
    let container: String = key.container.as_str().chars().take(64).collect();
    format!("{ALIAS_PREFIX}{container}/{}", key.ifname)
}

/// The alias of a pair's ends: their names tell whose they are.
pub fn pair_alias() -> String {
    format!("{ALIAS_PREFIX}auxiliary")
}

/// The name of an uplink until it has its alias: one that was not finished is known by it, and one that has its final
/// name without alias was there before.
pub const UNFINISHED_UPLINK: &str = "dragline-uplink";

/// The alias of a link of the node that we make for pods to stand on.
pub fn uplink_alias(name: &str) -> String {
    format!("{ALIAS_PREFIX}uplink/{name}")
}

/// A link that has an alias of ours.
pub fn has_our_alias(link: &Link) -> bool {
    link.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX))
}

/// A link that we made.
pub fn is_our_link(link: &Link, desired: &Desired) -> bool {
    has_our_alias(link)
        || link.name == UNFINISHED_UPLINK
        || desired.links.iter().chain(&desired.withdrawn_links).any(|wanted| match &wanted.origin {
            LinkOrigin::Made { intent, .. } => link.name == wanted.name && is_as_made(link, intent),
            LinkOrigin::Pair { pair, .. } => link.mac == Some(pair.mac) && link.name == wanted.name,
            LinkOrigin::PairEnd { .. } | LinkOrigin::Found(_) | LinkOrigin::Uplink(_) => false,
        })
}

/// A link that has what tells one of ours from others' of its name when its alias is missing: the hardware address that
/// was decided for it, or, of a kind that takes over its uplink's, the kind.
pub fn is_as_made(link: &Link, intent: &LinkIntent) -> bool {
    if intent.kind.shares_mac() { link.kind.is(&intent.kind) } else { link.mac.is_some() && link.mac == intent.mac }
}

/// A route that we made.
pub fn is_our_route(route: &Route) -> bool {
    route.protocol == PROTOCOL
}

/// A rule that we made.
pub fn is_our_rule(rule: &Rule) -> bool {
    rule.protocol == PROTOCOL
}

/// A neighbour entry that we made.
pub fn is_our_neighbour(neighbour: &Neighbour) -> bool {
    neighbour.protocol == PROTOCOL
}

/// An address that we put on a link.
pub fn is_our_address(address: &Address) -> bool {
    address.protocol == PROTOCOL
}

/// A route of somebody else that the plan replaces: moved away, or standing on a key that ours claims.
pub fn is_displaced(route: &Route, desired: &Desired) -> bool {
    desired.absent_routes.iter().any(|pattern| pattern.matches(route))
        || desired
            .routes
            .iter()
            .any(|wanted| wanted.exclusive && wanted.route.key() == route.key() && !wanted.route.is_same(route))
}

/// Names of links whose addresses are not the node's own towards the world (../spec/coordinator.md 5): other programs'
/// bridges, tunnels and pod ends.
pub fn is_node_uplink(name: &str) -> bool {
    const FOREIGN_PREFIXES: [&str; 12] = [
        "docker",
        "cbr",
        "dummy",
        "virbr",
        "veth",
        "cali",
        "flannel",
        "kube-ipvs",
        "cni",
        "vx-submariner",
        "cilium",
        "lxc",
    ];
    name != "lo" && !FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uplinks_are_the_nodes() {
        for name in ["ens192", "eth0", "bond0", "br-ex", "enp1s0f0"] {
            assert!(is_node_uplink(name), "{name}");
        }
        for name in [
            "lo",
            "docker0",
            "cni0",
            "cilium_host",
            "cilium_vxlan",
            "cali123",
            "flannel.1",
            "veth1",
            "lxc_health",
            "kube-ipvs0",
            "virbr0",
        ] {
            assert!(!is_node_uplink(name), "{name}");
        }
    }

    #[test]
    fn an_alias_fits_the_kernel() {
        let key = AttachmentKey { container: "x".repeat(255).parse().unwrap(), ifname: "net1".parse().unwrap() };
        assert!(alias(&key).len() < 255);
        assert!(alias(&key).ends_with("/net1"));
    }
}
