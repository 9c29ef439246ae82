//! One pod with eth0, the node's end of which is named after the test.

use ipnetwork::IpNetwork;
use netlink::testbed::{End, Netns, Scene};
use netlink::{Kernel, Pass, StepError};
use plan::desired::{DesiredLink, LinkOrigin};
use plan::object::{Address, Neighbour, Observed, Route, RouteKind, Rule, Scope};
use plan::step::Step;
use plan::tables::PROTOCOL;
use schemas::intent::{LinkIntent, LinkKindIntent, MacvlanMode, NetnsIdentity};
use schemas::name::Mac;

pub(crate) struct Pod {
    pub(crate) kernel: Kernel,
    pub(crate) netns: Netns,
    pub(crate) identity: NetnsIdentity,
    /// The node's end of eth0.
    pub(crate) peer: String,
}

impl Pod {
    /// eth0 is up on both ends and has 10.9.0.2/24.
    pub(crate) fn new(name: &str) -> Self {
        let kernel = Kernel::new().unwrap();
        let netns = Netns::create(name).unwrap();
        let peer = format!("h-{name}");
        let mut node = Scene::here().unwrap();
        node.veth(End::here(&peer), End::inside(&netns, "eth0").with_mac(MAC)).unwrap();
        node.up(&peer).unwrap();
        // The kernel's link-local address would come some time later.
        netns.set_sysctl("net/ipv6/conf/eth0/addr_gen_mode", "1").unwrap();
        let mut scene = netns.scene().unwrap();
        scene.address("eth0", net("10.9.0.2/24")).unwrap();
        scene.up("eth0").unwrap();
        let identity = kernel.identify(netns.path()).unwrap();
        Self { kernel, netns, identity, peer }
    }

    pub(crate) fn pass(&self) -> Pass {
        self.kernel.pass(&self.identity).unwrap()
    }

    pub(crate) fn observe(&self) -> Observed {
        self.pass().observe(&[]).unwrap()
    }

    pub(crate) fn apply(&self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        self.pass().apply(steps)
    }

    pub(crate) fn apply_all(&self, steps: &[Step]) {
        for (step, outcome) in steps.iter().zip(self.apply(steps)) {
            assert!(outcome.is_ok(), "{step:?}: {outcome:?}");
        }
    }

    pub(crate) fn scene(&self) -> Scene {
        self.netns.scene().unwrap()
    }
}

pub(crate) const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

pub(crate) fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

pub(crate) fn address(text: &str, dev: &str) -> Address {
    Address { dev: dev.into(), address: net(text), scope: Scope::GLOBAL, protocol: PROTOCOL }
}

/// By the gateway, or on the link when there is none.
pub(crate) fn route(table: u32, dst: &str, gateway: Option<&str>) -> Route {
    let dst = net(dst);
    Route {
        table,
        dst,
        metric: if dst.is_ipv6() { 1024 } else { 0 },
        dev: Some("eth0".into()),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        src: None,
        scope: if gateway.is_some() || dst.is_ipv6() { Scope::GLOBAL } else { Scope::LINK },
        onlink: false,
        kind: RouteKind::Unicast,
        protocol: PROTOCOL,
    }
}

pub(crate) fn rule(priority: u32, from: Option<&str>, to: Option<&str>, table: u32) -> Rule {
    let (from, to) = (from.map(net), to.map(net));
    let v6 = from.or(to).is_some_and(|network| network.is_ipv6());
    Rule { priority, v6, from, to, table, mark: None, other: None, protocol: PROTOCOL }
}

pub(crate) fn neighbour(address: &str, last: u8) -> Neighbour {
    Neighbour {
        dev: "eth0".into(),
        address: address.parse().unwrap(),
        mac: Some(Mac([2, 0, 0, 0, 1, last])),
        permanent: true,
        protocol: PROTOCOL,
    }
}

pub(crate) fn macvlan(name: &str, master: &str, mac: Mac) -> DesiredLink {
    DesiredLink {
        name: name.into(),
        origin: LinkOrigin::Made {
            intent: LinkIntent {
                kind: LinkKindIntent::Macvlan(MacvlanMode::Bridge),
                master: master.parse().unwrap(),
                master_in_container: false,
                mtu: Some(1400),
                mac: Some(mac),
            },
            alias: format!("dragline:test/{name}"),
        },
        mac: None,
        tx_queue_len: None,
    }
}
