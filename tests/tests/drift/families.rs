//! IPv6 beside IPv4: planned, on the wire, and kept.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use netlink::testbed::Netns;
use plan::tables::{DEFAULT_NIC, MAIN, NODE_TABLE};
use plan::{Route, Rule};
use tests::picture::Picture;
use tests::scene::dual::{CILIUM_HOST, CONTROLLER_ADDRESS, OUTSIDE_ADDRESS, WORKER_ADDRESS};
use tests::stage::{MainPlugin, Member, Stage};
use tests::witness::Witness;

use crate::PATIENCE;

const PORT: u16 = 8080;
const MAIN_TABLE: &str = "\
default via fd00:6::1 dev net1 metric 1024
fd00:6::/64 dev net1 metric 256
fd85:ee78::65 dev eth0 metric 256";
const TABLE_100: &str = "\
default via fd85:ee78::96 dev eth0 metric 1024
fd00:6::131 dev eth0 metric 1024
fd85:ee78::/64 via fd00:6::131 dev eth0 metric 1024
fd85:ee78::96 dev eth0 metric 1024
fd85:ee79::/108 via fd00:6::131 dev eth0 metric 1024";

pub(crate) fn with_own_macvlan() {
    both("dual", MainPlugin::Own);
}

pub(crate) fn with_reference_macvlan() {
    both("dual-reference", MainPlugin::Reference);
}

fn both(name: &str, main: MainPlugin) {
    let stage = Stage::set_dual(name, main).unwrap();
    let members = [stage.join_dual(1).unwrap(), stage.join_dual(2).unwrap()];
    let [first, second] = &members;
    let eth0 = |last| Ipv6Addr::new(0xfd85, 0xee78, 0, 0, 0, 0, 0, last);
    assert_eq!(given(first), "fd00:6::200".parse::<Ipv6Addr>().unwrap());
    assert_eq!(given(second), "fd00:6::201".parse::<Ipv6Addr>().unwrap());

    let rules = "\
32761: from fd85:ee78::65 lookup 100
32762: from all to fd85:ee79::/108 lookup 100
32763: from all to fd85:ee78::96 lookup 100
32764: from all to fd85:ee78::/64 lookup 100
32765: from all to fd00:6::131 lookup 100";
    let pod = &first.pod.netns;
    assert_eq!(our_rules(pod), rules);
    assert_eq!(routes(pod, MAIN), MAIN_TABLE);
    assert_eq!(routes(pod, DEFAULT_NIC), TABLE_100);
    assert_eq!(our_rules(stage.node()), "1000: from all lookup 500");
    let to_pod = |member: &Member| format!("{} dev {} metric 1024", given(member), member.pod.host_link);
    assert_eq!(routes(stage.node(), NODE_TABLE), [to_pod(first), to_pod(second)].join("\n"));
    // IPv4 is as without it.
    stage.check().unwrap();

    // Who is asked sees who asks, and by which NIC: their addresses differ.
    let (net1, other) = (given(first), given(second));
    assert_eq!(asks(pod, &second.pod.netns, other), net1);
    assert_eq!(asks(pod, &second.pod.netns, eth0(102)), eth0(101));
    assert_eq!(asks(pod, &stage.scene.outside, OUTSIDE_ADDRESS), net1);
    assert_eq!(asks(pod, &stage.scene.controller, CONTROLLER_ADDRESS), net1);
    assert_eq!(asks(pod, stage.node(), WORKER_ADDRESS), eth0(101));
    assert_eq!(asks(pod, stage.node(), CILIUM_HOST), eth0(101));
    assert_eq!(asks(stage.node(), pod, net1), WORKER_ADDRESS);
    assert_eq!(asks(&stage.scene.outside, pod, net1), OUTSIDE_ADDRESS);

    // What is changed comes back.
    let before = Picture::take(pod).unwrap();
    let mut scene = pod.scene().unwrap();
    let observed = scene.observe().unwrap();
    for rule in observed.rules.iter().filter(|rule| rule.v6 && rule.protocol == plan::tables::PROTOCOL) {
        scene.delete_rule(rule).unwrap();
    }
    again(pod, &before);
    for route in observed.routes.iter().filter(|route| route.dst.is_ipv6() && route.table == DEFAULT_NIC) {
        scene.delete_route(route).unwrap();
    }
    again(pod, &before);
    let default = observed.routes.iter().find(|route| route.table == MAIN && route.is_default() && route.dst.is_ipv6());
    scene.delete_route(default.unwrap()).unwrap();
    again(pod, &before);
    // The kernel forgets IPv6 addresses and all their routes with it.
    scene.down("net1").unwrap();
    again(pod, &before);
    assert_eq!(asks(pod, &stage.scene.outside, OUTSIDE_ADDRESS), net1);

    for member in &members {
        stage.leave(member).unwrap();
    }
    let is_left = |found: &Picture| {
        let of_net1 = [given(first), given(second)].map(|address| address.to_string());
        let left: Vec<&str> =
            found.lines().filter(|line| of_net1.iter().any(|own| line.contains(own.as_str()))).collect();
        left.join("\n")
    };
    Witness::open(stage.node()).unwrap().until("without the pods", PATIENCE, is_left).unwrap();
    assert_eq!(our_rules(stage.node()), "");
    assert_eq!(routes(stage.node(), NODE_TABLE), "");
}

#[track_caller]
fn again(netns: &Netns, before: &Picture) {
    Witness::open(netns).unwrap().until_like(before, PATIENCE).unwrap();
}

/// The IPv6 address that ADD gave.
fn given(member: &Member) -> Ipv6Addr {
    let ips = member.result["ips"].as_array().unwrap().iter();
    let texts = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next());
    texts.filter_map(|text| text.parse().ok()).next().unwrap()
}

fn our_rules(netns: &Netns) -> String {
    let observed = netns.scene().unwrap().observe().unwrap();
    let mut rules: Vec<&Rule> =
        observed.rules.iter().filter(|rule| rule.v6 && (1..32766).contains(&rule.priority)).collect();
    rules.sort();
    let texts: Vec<String> = rules.iter().map(ToString::to_string).collect();
    tests::show::comparable(&texts.join("\n"))
}

/// Those that are no link's own.
fn routes(netns: &Netns, table: u32) -> String {
    let observed = netns.scene().unwrap().observe().unwrap();
    let is_links_own = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast());
    let mut routes: Vec<&Route> = observed
        .routes
        .iter()
        .filter(|route| route.dst.is_ipv6() && route.table == table && !is_links_own(route.dst.ip()))
        .collect();
    routes.sort_by_key(|route| (route.dst.ip(), route.dst.prefix()));
    let texts: Vec<String> = routes.iter().map(ToString::to_string).collect();
    tests::show::comparable(&texts.join("\n"))
}

/// Asks over TCP; as whom the one asked sees the asker.
fn asks(from: &Netns, to: &Netns, address: Ipv6Addr) -> Ipv6Addr {
    let listener = to.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))).unwrap().unwrap();
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b".").unwrap();
            peer
        });
        let to = SocketAddr::from((address, PORT));
        from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
        match asked.join().unwrap().ip() {
            IpAddr::V6(ip) => ip,
            IpAddr::V4(ip) => panic!("asked by {ip}"),
        }
    })
}
