//! The path table of ../design/quickstart.md, row by row on the wire.

use std::net::{Ipv4Addr, SocketAddrV4};

use netlink::testbed::Netns;
use tests::probe::{Passage, Protocol, passage};
use tests::scene::{
    CONTROLLER_ADDRESS, COREDNS_ADDRESS, DNS_PORT, DNS_SERVICE, OUTSIDE_ADDRESS, OVERLAY_POD_ADDRESS, PORT, Pod, Scene,
    WORKER_ADDRESS,
};

use crate::checks::Checks;

const ETH0: &str = "eth0";
const NET1: &str = "net1";

/// What must be seen.
#[derive(Debug, Clone, Copy)]
enum Must {
    /// The question leaves by that interface, arrives with that source, and is forwarded by the router or not.
    Leave { by: &'static str, source: Ipv4Addr, router: bool },
    /// The answer leaves by that interface.
    Reply { by: &'static str },
}

struct Row<'a> {
    from: (&'static str, &'a Netns),
    to: (&'static str, &'a Netns),
    protocols: &'static [Protocol],
    address: SocketAddrV4,
    must: Must,
}

/// A pod and its net1 address.
pub(super) struct Seat<'a> {
    pub(super) pod: &'a Pod,
    pub(super) net1: Ipv4Addr,
}

/// The table with default settings.
pub(super) fn check_default(scene: &Scene, first: &Seat<'_>, second: &Seat<'_>, checks: &mut Checks) {
    const PING_AND_TCP: &[Protocol] = &[Protocol::Icmp, Protocol::Tcp];
    let from = ("pod", &first.pod.netns);
    let eth0 = Must::Leave { by: ETH0, source: first.pod.address, router: false };
    let net1 = Must::Leave { by: NET1, source: first.net1, router: false };
    let ask = |to, address, port, must| Row {
        from,
        to,
        protocols: PING_AND_TCP,
        address: SocketAddrV4::new(address, port),
        must,
    };
    let to_pod = |from, address, by| Row {
        from,
        to: ("pod", &first.pod.netns),
        protocols: &[Protocol::Tcp],
        address: SocketAddrV4::new(address, PORT),
        must: Must::Reply { by },
    };
    let coredns = ("CoreDNS", &scene.coredns.netns);
    let node = ("node", &scene.worker);
    let outside = ("outside", &scene.outside);
    let rows = [
        ask(("other pod", &second.pod.netns), second.pod.address, PORT, eth0),
        ask(("overlay pod", &scene.overlay_pod.netns), OVERLAY_POD_ADDRESS, PORT, eth0),
        ask(coredns, COREDNS_ADDRESS, DNS_PORT, eth0),
        Row { protocols: &[Protocol::Tcp, Protocol::Udp], ..ask(coredns, DNS_SERVICE, DNS_PORT, eth0) },
        ask(node, WORKER_ADDRESS, PORT, eth0),
        ask(("other pod", &second.pod.netns), second.net1, PORT, net1),
        ask(("other node", &scene.controller), CONTROLLER_ADDRESS, PORT, net1),
        ask(outside, OUTSIDE_ADDRESS, PORT, Must::Leave { by: NET1, source: first.net1, router: true }),
        to_pod(outside, first.net1, NET1),
        to_pod(node, first.pod.address, ETH0),
        to_pod(node, first.net1, ETH0),
    ];
    for row in rows {
        row.check(scene, checks);
    }
}

/// The row with `default-route-nic: eth0`, and that net1 still has what only it can reach.
pub(super) fn check_default_route_eth0(scene: &Scene, first: &Seat<'_>, second: &Seat<'_>, checks: &mut Checks) {
    const PING_AND_TCP: &[Protocol] = &[Protocol::Icmp, Protocol::Tcp];
    let ask = |to, address, must| Row {
        from: ("pod", &first.pod.netns),
        to,
        protocols: PING_AND_TCP,
        address: SocketAddrV4::new(address, PORT),
        must,
    };
    let by_eth0 = |router| Must::Leave { by: ETH0, source: first.pod.address, router };
    let rows = [
        ask(("outside", &scene.outside), OUTSIDE_ADDRESS, by_eth0(true)),
        ask(("node", &scene.worker), WORKER_ADDRESS, by_eth0(false)),
        ask(("other pod", &second.pod.netns), second.net1, Must::Leave { by: NET1, source: first.net1, router: false }),
        Row {
            from: ("outside", &scene.outside),
            protocols: &[Protocol::Tcp],
            ..ask(("pod", &first.pod.netns), first.net1, Must::Reply { by: NET1 })
        },
    ];
    for row in rows {
        row.check(scene, checks);
    }
}

impl Row<'_> {
    fn check(&self, scene: &Scene, checks: &mut Checks) {
        for protocol in self.protocols {
            let at = match protocol {
                Protocol::Icmp => self.address.ip().to_string(),
                Protocol::Tcp | Protocol::Udp => self.address.to_string(),
            };
            let name = format!("{} -> {} {at} {protocol:?}", self.from.0, self.to.0);
            let seen = passage(self.from.1, self.to.1, &scene.router, *protocol, self.address);
            checks.check(name, seen.map_err(|error| error.to_string()).and_then(|seen| self.must.judge(&seen)));
        }
    }
}

impl Must {
    fn judge(self, seen: &Passage) -> Result<String, String> {
        let found = match self {
            Self::Leave { .. } => format!(
                "leaves by {}{}, arrives with source {}",
                seen.left_by.join("+"),
                if seen.via_router { " via the router" } else { "" },
                seen.source
            ),
            Self::Reply { .. } => format!("reply by {}", seen.reply_by.join("+")),
        };
        let holds = match self {
            Self::Leave { by, source, router } => {
                seen.left_by == [by] && seen.source == source && seen.via_router == router
            }
            Self::Reply { by } => seen.reply_by == [by],
        };
        if holds { Ok(found) } else { Err(format!("{found}; wanted: {self:?}")) }
    }
}
