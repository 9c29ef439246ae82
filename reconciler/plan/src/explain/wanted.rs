//! A namespace as it would be with a plan carried out: for what is explained without a look at the kernel.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::intent::{Baseline, LinkKindIntent, Sandbox};

use crate::desired::{Desired, LinkOrigin};
use crate::object::{Address, Link, LinkKind, Observed, Route, RouteKind, Rule, Scope};
use crate::tables::{self, MAIN};

/// `RTPROT_KERNEL`.
const KERNEL: u8 = 2;

/// What the default CNI had set up, with what is wanted in its place.
pub fn wanted(sandbox: &Sandbox, desired: &Desired) -> Observed {
    let mut seen = Observed {
        links: vec![link("lo", 1, LinkKind::Other(String::new()))],
        addresses: vec![address("lo", "127.0.0.1/8"), address("lo", "::1/128")].into_iter().flatten().collect(),
        rules: built_in(),
        neighbours: desired.neighbours.clone(),
        sysctls: desired.sysctls.clone(),
        routes: Vec::new(),
        filter: desired.filter.clone(),
    };
    if let Some(baseline) = &sandbox.baseline {
        add_baseline(&mut seen, baseline);
    }
    for wanted in &desired.links {
        let (index, mac, kind) = match &wanted.origin {
            LinkOrigin::Made { intent, .. } => {
                let kind = match intent.kind {
                    LinkKindIntent::Macvlan(mode) => LinkKind::Macvlan(mode),
                    LinkKindIntent::Ipvlan(mode) => LinkKind::Ipvlan(mode),
                };
                (0, intent.mac, kind)
            }
            LinkOrigin::Pair { pair, .. } => (0, Some(pair.mac), LinkKind::Veth),
            LinkOrigin::Uplink(_) => (0, None, LinkKind::Other(String::new())),
            LinkOrigin::PairEnd { pair, .. } => (0, Some(pair.peer_mac), LinkKind::Veth),
            LinkOrigin::Found(identity) => (identity.index, Some(identity.mac), LinkKind::Other(String::new())),
        };
        if seen.link(&wanted.name).is_none() {
            seen.links.push(Link { mac, ..link(&wanted.name, index, kind) });
        }
    }
    for address in &desired.addresses {
        seen.addresses.push(address.clone());
        seen.routes.extend(connected(address));
    }
    seen.routes.retain(|route| !desired.absent_routes.iter().any(|pattern| pattern.matches(route)));
    for wanted in &desired.routes {
        if wanted.exclusive {
            seen.routes.retain(|route| route.key() != wanted.route.key());
        }
        if !seen.routes.iter().any(|route| route.is_same(&wanted.route)) {
            seen.routes.push(wanted.route.clone());
        }
    }
    seen.rules.extend(desired.rules.iter().cloned());
    seen.rules.sort_by_key(|rule| (rule.v6, rule.priority));
    seen
}

fn add_baseline(seen: &mut Observed, baseline: &Baseline) {
    let nic = baseline.nic.to_string();
    seen.links.push(Link { mac: Some(baseline.mac), ..link(&nic, baseline.index, LinkKind::Veth) });
    for network in &baseline.addresses {
        seen.addresses.push(Address { dev: nic.clone(), address: *network, scope: Scope::GLOBAL, protocol: 0 });
    }
    seen.routes.extend(baseline.routes.iter().map(|route| Route {
        table: MAIN,
        dst: route.dst,
        metric: route.metric,
        dev: Some(nic.clone()),
        gateway: route.gateway,
        src: route.src,
        scope: Scope(route.scope),
        onlink: route.onlink,
        kind: RouteKind::Unicast,
        protocol: route.protocol,
    }));
}

/// What the kernel puts into main with an address.
fn connected(address: &Address) -> Option<Route> {
    let network = address.address;
    let dst = IpNetwork::new(network.network(), network.prefix()).ok()?;
    let is_v4 = network.is_ipv4();
    (dst != IpNetwork::from(network.ip())).then(|| Route {
        table: MAIN,
        dst,
        metric: if is_v4 { 0 } else { tables::KERNEL_METRIC },
        dev: Some(address.dev.clone()),
        gateway: None,
        src: is_v4.then_some(network.ip()),
        scope: if is_v4 { Scope::LINK } else { Scope::GLOBAL },
        onlink: false,
        kind: RouteKind::Unicast,
        protocol: KERNEL,
    })
}

fn link(name: &str, index: u32, kind: LinkKind) -> Link {
    Link {
        name: name.to_owned(),
        index,
        kind,
        mac: None,
        mtu: 0,
        up: true,
        alias: None,
        lower: None,
        master: None,
        tx_queue_len: 0,
    }
}

fn address(dev: &str, text: &str) -> Option<Address> {
    let address: IpNetwork = text.parse().ok()?;
    let scope = if matches!(address.ip(), IpAddr::V4(_)) { Scope::HOST } else { Scope::GLOBAL };
    Some(Address { dev: dev.to_owned(), address, scope, protocol: 0 })
}

fn built_in() -> Vec<Rule> {
    let v4 = [(0, 255), (32766, MAIN), (32767, 253)].map(|it| (false, it));
    let v6 = [(0, 255), (32766, MAIN)].map(|it| (true, it));
    v4.into_iter()
        .chain(v6)
        .map(|(v6, (priority, table))| Rule {
            priority,
            v6,
            from: None,
            to: None,
            table,
            mark: None,
            other: None,
            protocol: KERNEL,
        })
        .collect()
}
