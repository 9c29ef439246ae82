//! Single differences between what is wanted and what is there, each with its steps in their order.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use plan::tables::{MAIN, PROTOCOL};
use plan::{
    Address, Desired, DesiredLink, DesiredRoute, Diff, Link, LinkKind, LinkOrigin, Neighbour, Observed, Prune, Route,
    RouteKind, RoutePattern, Rule, Scope, diff,
};
use schemas::intent::{LinkIdentity, LinkIntent, LinkKindIntent, MacvlanMode};
use schemas::name::Mac;

const MACVLAN: LinkKind = LinkKind::Macvlan(MacvlanMode::Bridge);

fn link(name: &str, index: u32, kind: LinkKind, mac: u8) -> Link {
    Link {
        name: name.into(),
        index,
        kind,
        mac: Some(Mac([2, 0, 0, 0, 0, mac])),
        mtu: 1500,
        up: true,
        alias: None,
        lower: None,
        master: None,
        tx_queue_len: 1000,
    }
}

fn ours(name: &str, index: u32, mac: u8) -> Link {
    Link { alias: Some(format!("dragline:c/{name}")), ..link(name, index, MACVLAN, mac) }
}

fn made(name: &str, mac: u8) -> DesiredLink {
    let intent = LinkIntent {
        kind: LinkKindIntent::Macvlan(MacvlanMode::Bridge),
        master: "ens192".parse().unwrap(),
        master_in_container: false,
        mtu: None,
        mac: Some(Mac([2, 0, 0, 0, 0, mac])),
    };
    DesiredLink {
        name: name.into(),
        origin: LinkOrigin::Made { intent, alias: format!("dragline:c/{name}") },
        mac: None,
        tx_queue_len: None,
    }
}

fn found(name: &str, index: u32, mac: u8) -> DesiredLink {
    let identity = LinkIdentity { index, mac: Mac([2, 0, 0, 0, 0, mac]) };
    DesiredLink { name: name.into(), origin: LinkOrigin::Found(identity), mac: None, tx_queue_len: None }
}

fn address(dev: &str, text: &str, protocol: u8) -> Address {
    Address { dev: dev.into(), address: text.parse().unwrap(), scope: Scope::GLOBAL, protocol }
}

fn route(dst: &str, via: Option<&str>, dev: &str, protocol: u8) -> Route {
    Route {
        table: MAIN,
        dst: dst.parse().unwrap(),
        metric: 0,
        dev: Some(dev.into()),
        gateway: via.map(|via| via.parse().unwrap()),
        src: None,
        scope: if via.is_some() { Scope::GLOBAL } else { Scope::LINK },
        onlink: false,
        kind: RouteKind::Unicast,
        protocol,
    }
}

fn wanted(route: Route, exclusive: bool) -> DesiredRoute {
    DesiredRoute { route, exclusive }
}

fn eth0() -> Link {
    link("eth0", 2, LinkKind::Veth, 2)
}

fn steps(diff: &Diff) -> Vec<String> {
    diff.steps.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn expect(desired: &Desired, observed: &Observed, prune: Prune, steps_wanted: &[&str], blocked: &[&str]) {
    let got = diff(desired, observed, prune);
    assert_eq!(steps(&got), steps_wanted);
    assert_eq!(got.blocked, blocked);
}

#[test]
fn a_link_that_another_plugin_has_to_make_blocks_what_stands_on_it() {
    let desired = Desired {
        links: vec![found("net1", 3, 3)],
        addresses: vec![address("net1", "10.6.0.9/16", PROTOCOL)],
        routes: vec![wanted(route("0.0.0.0/0", Some("10.6.0.1"), "net1", PROTOCOL), true)],
        absent_routes: vec![RoutePattern {
            table: MAIN,
            dst: "0.0.0.0/0".parse().unwrap(),
            dev: "eth0".into(),
            metric: None,
        }],
        ..Desired::default()
    };
    let observed = Observed {
        links: vec![eth0()],
        routes: vec![route("0.0.0.0/0", Some("10.1.0.1"), "eth0", 3)],
        ..Observed::default()
    };
    // The default route that would move stays until the one that takes its place can stand.
    expect(
        &desired,
        &observed,
        Prune::Yes,
        &[],
        &[
            "link net1 (index 3, 02:00:00:00:00:03) is not there and not dragline's to make",
            "address 10.6.0.9/16: link net1 is not there",
            "route default via 10.6.0.1 dev net1 in table main: link net1 is not there and not dragline's to make",
        ],
    );
}

#[test]
fn a_foreign_link_that_is_down_blocks_and_stays_down() {
    let desired = Desired {
        routes: vec![wanted(route("10.1.0.0/16", None, "eth0", PROTOCOL), true)],
        neighbours: vec![Neighbour {
            dev: "eth0".into(),
            address: "10.1.0.1".parse().unwrap(),
            mac: None,
            permanent: true,
            protocol: PROTOCOL,
        }],
        ..Desired::default()
    };
    let observed = Observed { links: vec![Link { up: false, ..eth0() }], ..Observed::default() };
    expect(
        &desired,
        &observed,
        Prune::Yes,
        &[],
        &[
            "neighbour 10.1.0.1: link eth0 is down and not dragline's to set up",
            "route 10.1.0.0/16 dev eth0 scope link in table main: link eth0 is down and not dragline's to set up",
        ],
    );
}

#[test]
fn a_name_that_a_foreign_link_has_is_not_taken() {
    let desired = Desired { links: vec![made("net1", 1)], ..Desired::default() };
    let observed = Observed { links: vec![link("net1", 7, LinkKind::Other("dummy".into()), 9)], ..Observed::default() };
    let text = "link net1: another link (index 7) has that name; rename or delete it";
    expect(&desired, &observed, Prune::Yes, &[], &[text]);
    // Nor is ours renamed to it, nor anything behind it in a row.
    let desired = Desired { links: vec![made("net1", 1), made("net2", 2)], ..Desired::default() };
    let observed = Observed {
        links: vec![link("net1", 7, LinkKind::Other("dummy".into()), 9), ours("net2", 8, 1), ours("net9", 9, 2)],
        ..Observed::default()
    };
    let second = "link net2: another link (index 8) has that name; rename or delete it";
    expect(&desired, &observed, Prune::Yes, &[], &[text, second]);
}

#[test]
fn a_link_of_ours_gets_its_hardware_address_back() {
    let desired = Desired { links: vec![made("net1", 1)], ..Desired::default() };
    let observed = Observed { links: vec![ours("net1", 7, 9)], ..Observed::default() };
    let set = ["ip link set net1 address 02:00:00:00:00:01"];
    expect(&desired, &observed, Prune::Yes, &set, &[]);
    expect(&desired, &observed, Prune::No, &set, &[]);
}

#[test]
fn links_that_changed_names_change_them_back() {
    let desired = Desired { links: vec![made("net1", 1), made("net2", 2), found("net3", 9, 3)], ..Desired::default() };
    let observed = Observed {
        links: vec![ours("net2", 7, 1), ours("net1", 8, 2), link("x", 9, MACVLAN, 3)],
        ..Observed::default()
    };
    let renamed = [
        "ip link set x name net3",
        "ip link set net2 name dragline7",
        "ip link set net1 name net2",
        "ip link set dragline7 name net1",
        "ip link set net1 alias dragline:c/net1",
        "ip link set net2 alias dragline:c/net2",
    ];
    expect(&desired, &observed, Prune::Yes, &renamed, &[]);
}

#[test]
fn a_link_is_announced_with_its_addresses() {
    let mut net1 = made("net1", 1);
    net1.tx_queue_len = Some(500);
    let LinkOrigin::Made { intent, .. } = &mut net1.origin else { unreachable!() };
    intent.mtu = Some(9000);
    let desired = Desired {
        links: vec![net1],
        addresses: vec![address("net1", "10.6.0.9/16", PROTOCOL)],
        routes: vec![wanted(route("0.0.0.0/0", Some("10.6.0.1"), "net1", PROTOCOL), false)],
        ..Desired::default()
    };
    let down = Link { up: false, alias: None, ..ours("net1", 3, 1) };
    let observed = Observed { links: vec![down], ..Observed::default() };
    let in_order = [
        "ip link set net1 alias dragline:c/net1",
        "ip link set net1 mtu 9000",
        "ip link set net1 txqueuelen 500",
        "ip address add 10.6.0.9/16 dev net1 proto 111",
        "ip link set net1 up",
        "ip route add default via 10.6.0.1 dev net1 proto 111",
    ];
    expect(&desired, &observed, Prune::Yes, &in_order, &[]);
}

#[test]
fn a_prefix_length_is_put_right_without_losing_the_address() {
    let desired = Desired {
        links: vec![made("net1", 1)],
        addresses: vec![address("net1", "10.6.0.9/16", PROTOCOL), address("net1", "fd00::9/64", PROTOCOL)],
        ..Desired::default()
    };
    let observed = Observed {
        links: vec![ours("net1", 3, 1), eth0()],
        addresses: vec![
            address("net1", "10.6.0.9/24", PROTOCOL),
            address("net1", "fd00::9/128", PROTOCOL),
            // On the wrong link: ours goes, another's stays.
            address("eth0", "10.6.0.9/16", PROTOCOL),
            address("eth0", "10.1.0.9/24", 0),
        ],
        ..Observed::default()
    };
    let v6 = ["ip address del fd00::9/128 dev net1"];
    let added = ["ip address add 10.6.0.9/16 dev net1 proto 111", "ip address add fd00::9/64 dev net1 proto 111"];
    let v4 = ["ip address del 10.6.0.9/24 dev net1"];
    let elsewhere = ["ip address del 10.6.0.9/16 dev eth0"];
    let all = [v6.as_slice(), &added, &v4, &elsewhere].concat();
    expect(&desired, &observed, Prune::Yes, &all, &[]);
    expect(&desired, &observed, Prune::No, &all[..4], &[]);
}

#[test]
fn a_key_of_ours_is_taken_back_before_the_other_goes() {
    let ours = route("0.0.0.0/0", Some("10.1.0.1"), "eth0", PROTOCOL);
    let theirs = route("0.0.0.0/0", Some("10.1.0.7"), "eth0", 3);
    let observed = Observed { links: vec![eth0()], routes: vec![theirs], ..Observed::default() };
    let alone = Desired { routes: vec![wanted(ours.clone(), true)], ..Desired::default() };
    let taken_back = [
        "ip route prepend default via 10.1.0.1 dev eth0 proto 111",
        "ip route del default via 10.1.0.7 dev eth0 proto 3",
    ];
    expect(&alone, &observed, Prune::Yes, &taken_back, &[]);
    expect(&alone, &observed, Prune::No, &taken_back, &[]);
    let beside = Desired { routes: vec![wanted(ours.clone(), false)], ..Desired::default() };
    expect(&beside, &observed, Prune::Yes, &taken_back[..1], &[]);
    // Whoever made it, the same route is the same route.
    let made_by_hand =
        Observed { routes: vec![Route { protocol: 3, ..ours }], links: vec![eth0()], ..Observed::default() };
    expect(&alone, &made_by_hand, Prune::Yes, &[], &[]);
}

#[test]
fn what_is_wanted_beside_an_exclusive_route_stands_behind_it() {
    let first = route("10.6.0.0/16", None, "eth0", PROTOCOL);
    let second = route("10.6.0.0/16", None, "net1", PROTOCOL);
    let desired = Desired { routes: vec![wanted(first.clone(), true), wanted(second, false)], ..Desired::default() };
    let observed =
        Observed { links: vec![eth0(), link("net1", 3, MACVLAN, 3)], routes: vec![first], ..Observed::default() };
    expect(&desired, &observed, Prune::Yes, &["ip route append 10.6.0.0/16 dev net1 scope link proto 111"], &[]);
}

#[test]
fn what_is_ours_and_not_wanted_goes_once_all_is_known() {
    let rule = |protocol| Rule {
        priority: 32000,
        v6: false,
        from: None,
        to: Some("10.9.0.0/16".parse().unwrap()),
        table: 109,
        mark: None,
        other: None,
        protocol,
    };
    let neighbour = |protocol| Neighbour {
        dev: "eth0".into(),
        address: "10.9.0.1".parse().unwrap(),
        mac: None,
        permanent: true,
        protocol,
    };
    let observed = Observed {
        links: vec![eth0(), ours("net9", 9, 9), link("net8", 8, MACVLAN, 8)],
        addresses: vec![address("eth0", "10.9.0.2/32", PROTOCOL), address("eth0", "10.9.0.3/32", 0)],
        routes: vec![
            route("10.9.0.0/16", None, "eth0", PROTOCOL),
            route("10.8.0.0/16", None, "eth0", 3),
            route("10.7.0.0/16", None, "net9", 2),
        ],
        rules: vec![rule(PROTOCOL), rule(3)],
        neighbours: vec![neighbour(PROTOCOL), neighbour(3)],
        ..Observed::default()
    };
    let gone = [
        "ip route del 10.7.0.0/16 dev net9 scope link proto 2",
        "ip route del 10.9.0.0/16 dev eth0 scope link proto 111",
        "ip rule del priority 32000 to 10.9.0.0/16 lookup 109 proto 111",
        "ip neigh del 10.9.0.1 dev eth0",
        "ip address del 10.9.0.2/32 dev eth0",
        "ip link delete net9",
    ];
    expect(&Desired::default(), &observed, Prune::Yes, &gone, &[]);
    expect(&Desired::default(), &observed, Prune::No, &[], &[]);
}

#[test]
fn a_withdrawn_link_that_lost_its_alias_goes_too() {
    let desired = Desired { withdrawn_links: vec![made("net1", 1)], ..Desired::default() };
    let observed = Observed { links: vec![link("net1", 3, MACVLAN, 1)], ..Observed::default() };
    expect(&desired, &observed, Prune::Yes, &["ip link delete net1"], &[]);
    let another = Observed { links: vec![link("net1", 3, MACVLAN, 5)], ..Observed::default() };
    expect(&desired, &another, Prune::Yes, &[], &[]);
}

#[test]
fn a_sysctl_that_does_not_exist_is_said() {
    let desired = Desired { sysctls: [("net/x".to_owned(), "0".to_owned())].into(), ..Desired::default() };
    let text = "sysctl net/x does not exist in this namespace";
    expect(&desired, &Observed::default(), Prune::Yes, &[], &[text]);
    let set = Observed { sysctls: [("net/x".to_owned(), "0".to_owned())].into(), ..Observed::default() };
    expect(&desired, &set, Prune::Yes, &[], &[]);
    let other = Observed { sysctls: [("net/x".to_owned(), "1".to_owned())].into(), ..Observed::default() };
    expect(&desired, &other, Prune::Yes, &["sysctl -w net.x=0"], &[]);
}

#[test]
fn two_attachments_of_one_name_end_in_a_text() {
    let desired = Desired { links: vec![made("net1", 1), made("net1", 2)], ..Desired::default() };
    let got = diff(&desired, &Observed::default(), Prune::Yes);
    assert_eq!(got.blocked, ["link net1: two attachments want that name"]);
    assert_eq!(steps(&got)[0], "ip link add net1 link ens192 address 02:00:00:00:00:01 type macvlan mode bridge");
}

/// Of two new links in one subnet, the one whose routes stand in a table of their own comes up first, and whole: its
/// packets never see the other one.
#[test]
fn a_link_with_its_own_table_comes_up_first() {
    let connected = Route { src: Some("10.6.0.8".parse().unwrap()), ..route("10.6.0.0/16", None, "net1", PROTOCOL) };
    let own =
        Route { table: 102, src: Some("10.6.0.9".parse().unwrap()), ..route("10.6.0.0/16", None, "net2", PROTOCOL) };
    let desired = Desired {
        links: vec![made("net1", 1), made("net2", 2)],
        addresses: vec![address("net1", "10.6.0.8/16", PROTOCOL), address("net2", "10.6.0.9/16", PROTOCOL)],
        routes: vec![wanted(connected, true), wanted(own, true)],
        ..Desired::default()
    };
    let in_order = [
        "ip link add net1 link ens192 address 02:00:00:00:00:01 type macvlan mode bridge",
        "ip link add net2 link ens192 address 02:00:00:00:00:02 type macvlan mode bridge",
        "ip address add 10.6.0.9/16 dev net2 proto 111",
        "ip link set net2 up",
        "ip route add 10.6.0.0/16 dev net2 scope link src 10.6.0.9 table 102 proto 111",
        "ip address add 10.6.0.8/16 dev net1 proto 111",
        "ip link set net1 up",
        "ip route del 10.6.0.0/16 dev net2 scope link src 10.6.0.9 proto 2",
    ];
    expect(&desired, &Observed::default(), Prune::Yes, &in_order, &[]);
}
