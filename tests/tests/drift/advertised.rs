//! Addresses and routers that a network advertises (RFC 4862): seen, and put in order like what IPAM gave.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netlink::testbed::Netns;
use plan::tables::{MAIN, PROTOCOL};
use serde_json::json;
use tests::advertiser::advertise;
use tests::probe::{Protocol, passage};
use tests::scene::dual::OUTSIDE_ADDRESS;
use tests::scene::{PORT, dual};
use tests::stage::{MainPlugin, Stage};

use crate::PATIENCE;

const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 6, 0, 0, 0, 0, 0, 0);

fn eventually<T>(what: &str, is: impl Fn() -> Result<T, String>) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match is() {
            Ok(found) => return found,
            Err(found) => assert!(std::time::Instant::now() < deadline, "{what}: {found}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// net1's address by the advertisement.
fn learned(pod: &Netns) -> Ipv6Addr {
    eventually("an address by advertisement", || {
        let observed = pod.scene().unwrap().observe().unwrap();
        let of_net1 = observed.addresses.iter().filter(|it| it.dev == "net1");
        let found = of_net1.filter_map(|it| match it.address.ip() {
            IpAddr::V6(ip) if ip.segments()[..4] == PREFIX.segments()[..4] => Some(ip),
            _ => None,
        });
        found.into_iter().next().ok_or_else(|| format!("{:?}", observed.addresses))
    })
}

fn pod_that_listens(stage: &Stage) -> tests::scene::Pod {
    let pod = stage.pod(1).unwrap();
    dual::give(&pod, stage.node()).unwrap();
    for of in ["all", "default"] {
        pod.netns.set_sysctl(&format!("net/ipv6/conf/{of}/accept_ra"), "1").unwrap();
    }
    pod
}

/// By which links the question leaves outside's way, and the answer the pod.
fn reply_by(stage: &Stage, pod: &Netns, address: Ipv6Addr) -> Result<Vec<String>, String> {
    let to = SocketAddr::from((address, PORT));
    let seen = passage(&stage.scene.outside, pod, &stage.scene.router, Protocol::Tcp, to);
    seen.map(|seen| seen.reply_by).map_err(|error| error.to_string())
}

/// IPAM gives net1 IPv4 alone; eth0 keeps the default route.
pub(crate) fn beside_the_default_nic() {
    let stage = Stage::set_dual("advertised", MainPlugin::Own).unwrap();
    let pod = pod_that_listens(&stage);
    let attachment = Stage::attachment(&pod);
    let v4_only = json!({"type": "spiderpool", "default_ipv4_ippool": ["10-6-v4"]});
    let conflist = (stage.conflist.clone()).with_key("macvlan", "ipam", v4_only).with_key(
        "coordinator",
        "podDefaultRouteNic",
        json!("eth0"),
    );
    let result = stage.runtime().add(&conflist, &attachment).unwrap();
    advertise(&stage.scene.router, "eth0", PREFIX).unwrap();
    let own = learned(&pod.netns);
    // Its rule, its table, and the node's way to it.
    eventually("what is learned is in order", || {
        let observed = pod.netns.scene().unwrap().observe().unwrap();
        let rule = observed.rules.iter().find(|it| it.from.is_some_and(|from| from.ip() == IpAddr::V6(own)));
        let table = rule.map(|rule| rule.table).ok_or("no rule")?;
        let default = observed.routes.iter().find(|it| it.table == table && it.is_default() && it.dst.is_ipv6());
        let default = default.ok_or("no default route")?;
        if default.dev.as_deref() == Some("net1") { Ok(()) } else { Err(format!("{default}")) }
    });
    assert_eq!(eventually("a way back", || reply_by(&stage, &pod.netns, own)), ["net1"]);
    let to_pod = passage(stage.node(), &pod.netns, &stage.scene.router, Protocol::Tcp, SocketAddr::from((own, PORT)));
    assert_eq!(to_pod.unwrap().reply_by, ["eth0"]);
    let out = SocketAddr::from((OUTSIDE_ADDRESS, PORT));
    let seen = passage(&pod.netns, &stage.scene.outside, &stage.scene.router, Protocol::Tcp, out).unwrap();
    assert_eq!(seen.left_by, ["eth0"], "eth0 keeps the default route whatever is advertised: {seen:?}");
    // Said again, it is no news; and eth0's default still counts for more.
    stage.check().unwrap();
    advertise(&stage.scene.router, "eth0", PREFIX).unwrap();
    eventually("the router's route counts for less", || {
        let observed = pod.netns.scene().unwrap().observe().unwrap();
        let routes = observed.routes.iter().filter(|it| it.table == MAIN && it.is_default() && it.dst.is_ipv6());
        let of_net1: Vec<_> = routes.filter(|it| it.dev.as_deref() == Some("net1")).collect();
        let is_behind = of_net1.iter().all(|it| it.metric == 2048 && it.protocol != PROTOCOL) && of_net1.len() == 1;
        if is_behind { Ok(()) } else { Err(format!("{of_net1:?}")) }
    });
    let seen = passage(&pod.netns, &stage.scene.outside, &stage.scene.router, Protocol::Tcp, out).unwrap();
    assert_eq!(seen.left_by, ["eth0"]);
    stage.check().unwrap();
    stage.runtime().del(&conflist, &attachment, Some(&result)).unwrap();
}

/// net1 holds the default route, of IPv6 by what is advertised alone.
pub(crate) fn on_the_default_nic() {
    let stage = Stage::set_dual("advertised-net1", MainPlugin::Own).unwrap();
    let pod = pod_that_listens(&stage);
    let attachment = Stage::attachment(&pod);
    let v4_only = json!({"type": "spiderpool", "default_ipv4_ippool": ["10-6-v4"]});
    let conflist = stage.conflist.clone().with_key("macvlan", "ipam", v4_only);
    let result = stage.runtime().add(&conflist, &attachment).unwrap();
    advertise(&stage.scene.router, "eth0", PREFIX).unwrap();
    let own = learned(&pod.netns);
    let out = SocketAddr::from((OUTSIDE_ADDRESS, PORT));
    eventually("net1 holds the default route", || {
        let seen = passage(&pod.netns, &stage.scene.outside, &stage.scene.router, Protocol::Tcp, out);
        let seen = seen.map_err(|error| error.to_string())?;
        if seen.left_by == ["net1"] && seen.source == own { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(reply_by(&stage, &pod.netns, own).unwrap(), ["net1"]);
    stage.check().unwrap();
    let changes = stage.metric("kernel_steps").unwrap();
    for _ in 0..3 {
        advertise(&stage.scene.router, "eth0", PREFIX).unwrap();
    }
    stage.check().unwrap();
    assert_eq!(stage.metric("kernel_steps").unwrap(), changes, "an advertisement is no drift");
    stage.runtime().del(&conflist, &attachment, Some(&result)).unwrap();
}
