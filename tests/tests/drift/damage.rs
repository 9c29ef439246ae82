//! The ways in which what is ours is damaged.

use netlink::testbed::{Netns, Scene};
use plan::RP_FILTER;
use plan::object::{Observed, Route, Rule};
use plan::tables::{DEFAULT_NIC, MAIN, NODE_TABLE, PROTOCOL};
use tests::scene::CILIUM_HOST;

use crate::foreign::{net, route};

/// Where the damage is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Pod,
    Node,
}

/// One kind of damage.
pub(crate) struct Damage {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) act: fn(&Netns, &mut Scene),
}

/// The twelve kinds, some of them in more than one form.
pub(crate) const ALL: [Damage; 16] = [
    Damage { name: "rule gone", place: Place::Pod, act: rule_gone },
    Damage { name: "all rules flushed", place: Place::Pod, act: |_, scene| flush_rules(scene) },
    Damage { name: "route gone", place: Place::Pod, act: |_, scene| default_gone(scene, DEFAULT_NIC) },
    Damage { name: "default route of main gone", place: Place::Pod, act: |_, scene| default_gone(scene, MAIN) },
    Damage { name: "table flushed", place: Place::Pod, act: |_, scene| flush_our_table(scene, DEFAULT_NIC) },
    Damage { name: "default replaced", place: Place::Pod, act: |_, scene| scene.replace_route(&by_eth0()).unwrap() },
    Damage { name: "default prepended", place: Place::Pod, act: |_, scene| scene.add_route(&by_eth0()).unwrap() },
    Damage { name: "address gone", place: Place::Pod, act: address_gone },
    Damage { name: "link down", place: Place::Pod, act: |_, scene| scene.down("net1").unwrap() },
    Damage { name: "link renamed", place: Place::Pod, act: |_, scene| rename(scene) },
    Damage { name: "neighbour gone", place: Place::Pod, act: |_, scene| neighbour_gone(scene) },
    Damage { name: "sysctl changed", place: Place::Pod, act: |netns, _| netns.set_sysctl(RP_FILTER, "1").unwrap() },
    Damage { name: "host rule gone", place: Place::Node, act: rule_gone },
    Damage { name: "host rules flushed", place: Place::Node, act: |_, scene| flush_rules(scene) },
    Damage { name: "host table flushed", place: Place::Node, act: |_, scene| flush_our_table(scene, NODE_TABLE) },
    Damage { name: "host neighbour gone", place: Place::Node, act: |_, scene| neighbour_gone(scene) },
];

fn our_rules(observed: &Observed) -> Vec<Rule> {
    observed.rules.iter().filter(|rule| rule.protocol == PROTOCOL).cloned().collect()
}

fn rule_gone(_: &Netns, scene: &mut Scene) {
    let rules = our_rules(&scene.observe().unwrap());
    scene.delete_rule(&rules[rules.len() / 2]).unwrap();
}

/// `ip rule flush`; whoever does that puts his own rules back, and so are those of everybody else here, as they were.
fn flush_rules(scene: &mut Scene) {
    let rules = scene.observe().unwrap().rules;
    let all: Vec<&Rule> = rules.iter().filter(|rule| !rule.v6 && rule.priority != 0).collect();
    // Ours may come back before the rest is gone: not by the list at that time, but by this one.
    let (ours, others): (Vec<&Rule>, Vec<&Rule>) = all.into_iter().partition(|rule| rule.protocol == PROTOCOL);
    let plain: Vec<&Rule> = others.into_iter().filter(|rule| rule.other.is_none()).collect();
    plain.iter().chain(&ours).for_each(|rule| scene.delete_rule(rule).unwrap());
    plain.iter().for_each(|rule| scene.add_rule(rule).unwrap());
}

fn default_gone(scene: &mut Scene, table: u32) {
    let is_it = |route: &&Route| route.table == table && route.dst == net("0.0.0.0/0") && route.metric == 0;
    let found = scene.observe().unwrap().routes.iter().find(is_it).cloned().unwrap();
    scene.delete_route(&found).unwrap();
}

/// Everything in a table but what other programs have in it.
fn flush_our_table(scene: &mut Scene, table: u32) {
    let routes = scene.observe().unwrap().routes;
    let ours: Vec<&Route> = routes.iter().filter(|route| route.table == table && route.protocol == PROTOCOL).collect();
    assert!(!ours.is_empty());
    ours.into_iter().for_each(|route| scene.delete_route(route).unwrap());
}

/// `default via 10.233.65.96 dev eth0`, as the default CNI had it in main.
fn by_eth0() -> Route {
    route(MAIN, "0.0.0.0/0", 0, Some(&CILIUM_HOST.to_string()), "eth0", 4)
}

fn address_gone(_: &Netns, scene: &mut Scene) {
    let addresses = scene.observe().unwrap().addresses;
    let found = addresses.iter().find(|address| address.dev == "net1" && address.address.is_ipv4()).unwrap();
    scene.delete_address("net1", found.address).unwrap();
}

/// Kernels before 6.2 rename no link that is up.
fn rename(scene: &mut Scene) {
    if scene.rename("net1", "stolen").is_err() {
        scene.down("net1").unwrap();
        scene.rename("net1", "stolen").unwrap();
    }
}

fn neighbour_gone(scene: &mut Scene) {
    let neighbours = scene.observe().unwrap().neighbours;
    let found = neighbours.iter().find(|neighbour| neighbour.protocol == PROTOCOL).unwrap();
    scene.delete_neighbour(found).unwrap();
}
