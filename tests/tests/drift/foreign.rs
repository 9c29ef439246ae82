//! What other programs have in a pod and on a node: flannel, docker, Calico, Cilium, somebody's hands.

use ipnetwork::IpNetwork;
use netlink::testbed::{End, Netns};
use plan::object::{Neighbour, Route, RouteKind, Rule, Scope};
use plan::tables::MAIN;
use schemas::name::Mac;
use tests::picture::Picture;

/// `RTPROT_STATIC`, and the protocol number of BIRD, with which Calico makes its routes.
const BY_HAND: u8 = 4;
const BIRD: u8 = 12;

/// A network from text.
pub(crate) fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// A route as another program makes it.
pub(crate) fn route(table: u32, dst: &str, metric: u32, gateway: Option<&str>, dev: &str, protocol: u8) -> Route {
    Route {
        table,
        dst: net(dst),
        metric,
        dev: Some(dev.into()),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        src: None,
        scope: if gateway.is_some() { Scope::GLOBAL } else { Scope::LINK },
        onlink: false,
        kind: RouteKind::Unicast,
        protocol,
    }
}

/// A rule as another program makes it.
pub(crate) fn rule(priority: u32, from: Option<&str>, to: Option<&str>, table: u32) -> Rule {
    let (from, to) = (from.map(net), to.map(net));
    Rule { priority, v6: false, from, to, table, mark: None, other: None, protocol: BY_HAND }
}

/// Adds links, addresses, routes, rules and neighbours; the picture of the namespace with all of them.
pub(crate) fn settle(netns: &Netns) -> Picture {
    let before = Picture::take(netns).unwrap();
    let mut scene = netns.scene().unwrap();
    for (name, address) in
        [("docker0", "172.17.0.1/16"), ("flannel.1", "10.244.0.0/32"), ("cilium_vxlan", "10.0.0.7/24")]
    {
        scene.bridge(name).unwrap();
        scene.address(name, net(address)).unwrap();
        scene.up(name).unwrap();
    }
    scene.veth(End::here("cali123456789ab"), End::here("calipeer")).unwrap();
    scene.up("cali123456789ab").unwrap();
    scene.up("calipeer").unwrap();
    let routes = [
        route(MAIN, "10.244.1.0/24", 0, Some("172.17.0.9"), "docker0", BY_HAND),
        route(MAIN, "0.0.0.0/0", 500, Some("172.17.0.3"), "docker0", BY_HAND),
        route(MAIN, "192.168.77.5/32", 0, None, "cali123456789ab", BIRD),
        route(77, "0.0.0.0/0", 0, Some("172.17.0.2"), "docker0", BY_HAND),
        route(77, "203.0.113.0/24", 10, None, "flannel.1", BIRD),
        // Beside ours, in our tables.
        route(100, "192.0.2.0/24", 0, None, "docker0", BY_HAND),
        route(100, "0.0.0.0/0", 700, Some("172.17.0.2"), "docker0", BY_HAND),
        route(500, "192.0.2.7/32", 0, None, "docker0", BY_HAND),
    ];
    routes.iter().for_each(|route| scene.add_route(route).unwrap());
    let rules = [
        rule(500, Some("198.51.100.0/24"), None, 77),
        rule(32764, Some("203.0.113.9/32"), None, 77),
        rule(20, None, Some("192.168.0.0/17"), 2004),
    ];
    rules.iter().for_each(|rule| scene.add_rule(rule).unwrap());
    scene.add_rule_for_mark(&rule(9, None, None, 77), 0x200).unwrap();
    scene.add_rule_for_input(&rule(1500, None, None, 77), "docker0").unwrap();
    let neighbour = |dev: &str, address: &str, protocol: u8| Neighbour {
        dev: dev.into(),
        address: address.parse().unwrap(),
        mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        permanent: true,
        protocol,
    };
    scene.set_neighbour(&neighbour("docker0", "172.17.0.9", BY_HAND)).unwrap();
    scene.set_neighbour(&neighbour("cali123456789ab", "169.254.1.1", BIRD)).unwrap();
    drop(scene);
    let after = Picture::take(netns).unwrap();
    let difference = before.difference(&after);
    assert!(!difference.lines().any(|line| line.starts_with('-')), "{difference}");
    // 5 links of two lines each, 3 addresses, 2 connected subnets, 8 routes, 5 rules, 2 neighbours.
    assert_eq!(difference.lines().count(), 10 + 3 + 2 + 8 + 5 + 2, "{difference}");
    after
}
