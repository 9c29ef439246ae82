//! Random pods: what their attachments ask for, and what the kernel holds before anybody of us came.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use plan::tables::MAIN;
use plan::{
    Address, Desired, Link, LinkKind, NodeFacts, Observed, Plan, PlanInput, RP_FILTER, Route, RouteKind, Scope, plan,
};
use proptest::prelude::*;
use schemas::intent::{
    AssignedAddress, Attachment, AuxiliaryLink, Baseline, BaselineRoute, CoordinateIntent, CoordinatorOverrides,
    CoordinatorSettings, HostPeer, Learned, LinkIdentity, LinkIntent, LinkKindIntent, MacvlanMode, Outcome, PodRef,
    RouteIntent, Sandbox,
};
use schemas::name::{AttachmentKey, Mac};

use crate::kernel::{Kernel, built_in_rules};

/// One NIC that a pod has, may have, or had.
#[derive(Debug, Clone)]
pub(crate) struct Nic {
    /// Its subnets are 10.{subnet}.0.0/16 and fd00:{subnet}::/64; two NICs may share them.
    pub(crate) subnet: u8,
    /// It has an address of the first.
    pub(crate) v4: bool,
    /// It has an address of the second.
    pub(crate) v6: bool,
    /// We make the link; else the reference macvlan did.
    pub(crate) made: bool,
    pub(crate) gateway: bool,
    /// A pool route to all of 10.0.0.0/8.
    pub(crate) wide: bool,
    /// The coordinator was asked.
    pub(crate) coordinated: bool,
    pub(crate) tuned: bool,
    pub(crate) attached: bool,
}

/// A pod. NICs are net1, net2, ... by place.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) nics: Vec<Nic>,
    /// 0 says nothing, 1 eth0, 2 net1, ...
    pub(crate) default_nic: u8,
    pub(crate) calico: bool,
    /// The default CNI gives IPv6 too.
    pub(crate) v6: bool,
    /// There is no default CNI: the node is reached by veth0.
    pub(crate) underlay: bool,
}

pub(crate) fn nic(wide: bool) -> impl Strategy<Value = Nic> {
    let chance = |percent: u32| prop::bool::weighted(f64::from(percent) / 100.0);
    let families = prop_oneof![3 => Just((true, false)), 2 => Just((true, true)), 1 => Just((false, true))];
    (6u8..9, families, any::<bool>(), chance(85), chance(15), chance(85), chance(85)).prop_map(
        move |(subnet, (v4, v6), made, gateway, is_wide, coordinated, tuned)| Nic {
            subnet,
            v4,
            v6,
            made,
            gateway,
            wide: wide && is_wide && gateway && coordinated && tuned,
            coordinated,
            tuned,
            attached: true,
        },
    )
}

pub(crate) fn world(wide: bool) -> impl Strategy<Value = World> {
    let nics = prop::collection::vec(nic(wide), 1..=3);
    (nics, 0u8..5, any::<bool>(), any::<bool>()).prop_map(|(nics, default_nic, calico, v6)| World {
        nics,
        default_nic,
        calico,
        v6,
        underlay: false,
    })
}

/// The same, in either mode. Without a coordinator there is no underlay mode.
#[allow(dead_code, reason = "not in every test binary")]
pub(crate) fn world_of_any_mode(wide: bool) -> impl Strategy<Value = World> {
    (world(wide), prop::bool::weighted(0.4)).prop_map(|(world, underlay)| {
        let first = world.nics.iter().find(|nic| nic.attached);
        let underlay = underlay && first.is_some_and(|nic| nic.coordinated);
        World { underlay, ..world }
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

pub(crate) fn name(place: usize) -> String {
    format!("net{}", place + 1)
}

/// Its addresses with their gateways.
fn addresses(place: usize, nic: &Nic) -> Vec<(IpNetwork, IpAddr)> {
    let (subnet, last) = (nic.subnet, 200 + u8::try_from(place).unwrap());
    let v4 = nic.v4.then(|| (net(&format!("10.{subnet}.212.{last}/16")), ip(&format!("10.{subnet}.0.1"))));
    let v6 = nic.v6.then(|| (net(&format!("fd00:{subnet}::{last}/64")), ip(&format!("fd00:{subnet}::1"))));
    v4.into_iter().chain(v6).collect()
}

/// What its IPAM routes by that gateway.
fn destinations(nic: &Nic, gateway: IpAddr) -> Vec<IpNetwork> {
    let (all, wide) = if gateway.is_ipv4() { ("0.0.0.0/0", "10.0.0.0/8") } else { ("::/0", "fd00::/16") };
    std::iter::once(net(all)).chain(nic.wide.then(|| net(wide))).collect()
}

fn mac(place: usize) -> Mac {
    Mac([2, 0xd1, 0, 0, 0, u8::try_from(place).unwrap()])
}

pub(crate) fn route(table: u32, dst: &str, via: Option<IpAddr>, dev: &str, protocol: u8) -> Route {
    Route {
        table,
        dst: net(dst),
        metric: if net(dst).is_ipv4() { 0 } else { 1024 },
        dev: Some(dev.into()),
        gateway: via,
        src: None,
        scope: if via.is_some() || net(dst).is_ipv6() { Scope::GLOBAL } else { Scope::LINK },
        onlink: false,
        kind: RouteKind::Unicast,
        protocol,
    }
}

pub(crate) fn link(name: &str, index: u32, kind: LinkKind, mac: Option<Mac>) -> Link {
    Link {
        name: name.into(),
        index,
        kind,
        mac,
        mtu: 1500,
        up: true,
        alias: None,
        lower: None,
        master: None,
        tx_queue_len: 1000,
    }
}

pub(crate) fn node() -> NodeFacts {
    let address =
        |dev: &str, text: &str| Address { dev: dev.into(), address: net(text), scope: Scope::GLOBAL, protocol: 0 };
    let connected = Route { src: Some(ip("10.6.212.131")), ..route(MAIN, "10.6.0.0/16", None, "ens192", 2) };
    NodeFacts {
        addresses: vec![
            address("ens192", "10.6.212.131/16"),
            address("ens192", "fd00:6::131/64"),
            address("cilium_host", "10.233.65.96/32"),
            address("cilium_host", "fd85::96/128"),
        ],
        routes: vec![
            route(MAIN, "0.0.0.0/0", Some(ip("10.6.0.1")), "ens192", 3),
            connected,
            route(MAIN, "10.233.120.101/32", None, "lxc1", 3),
            route(MAIN, "::/0", Some(ip("fd00:6::1")), "ens192", 3),
            Route { metric: 256, ..route(MAIN, "fd00:6::/64", None, "ens192", 2) },
            route(MAIN, "fd85::101/128", None, "lxc1", 3),
        ],
    }
}

fn settings() -> CoordinatorSettings {
    CoordinatorSettings {
        mode: schemas::intent::CoordinatorMode::Auto,
        tune_pod_routes: true,
        default_route_nic: None,
        overlay_pod_cidr: vec![net("10.233.64.0/18"), net("fd85::/64")],
        service_cidr: vec![net("10.233.0.0/18"), net("fd86::/108")],
        hijack_cidr: vec![net("169.254.0.0/16")],
        host_rule_table: 500,
        pod_rp_filter: 0,
        tx_queue_len: 0,
        policy_routes: Vec::new(),
        mac_prefix: None,
        veth_link_address: None,
        veth_mtu: None,
        host_rp_filter: None,
    }
}

impl World {
    fn nic_gateway(&self) -> IpAddr {
        if self.calico { ip("169.254.1.1") } else { ip("10.233.65.96") }
    }

    fn sandbox(&self) -> Sandbox {
        let baseline = self.baseline();
        Sandbox {
            container: "c0".parse().unwrap(),
            netns: None,
            baseline: (!self.underlay).then(|| Baseline {
                nic: "eth0".parse().unwrap(),
                index: 2,
                mac: mac(200),
                addresses: baseline.addresses.iter().map(|it| it.address).collect(),
                routes: (baseline.routes.iter())
                    .map(|it| BaselineRoute {
                        dst: it.dst,
                        gateway: it.gateway,
                        src: it.src,
                        scope: it.scope.0,
                        metric: it.metric,
                        onlink: it.onlink,
                        protocol: it.protocol,
                    })
                    .collect(),
                peer: Some(HostPeer { name: "lxc1".parse().unwrap(), index: 9, mac: mac(201) }),
            }),
            auxiliary: self.underlay.then(|| AuxiliaryLink {
                host_name: "vethc0".parse().unwrap(),
                pod_mac: mac(210),
                host_mac: mac(211),
            }),
            sysctls_before: Vec::new(),
            generation: 1,
            outcome: Outcome::default(),
        }
    }

    fn attachment(&self, place: usize, nic: &Nic) -> Attachment {
        let via = |gateway| nic.gateway.then_some(gateway);
        let own = addresses(place, nic);
        let named = match self.default_nic {
            0 => None,
            1 => Some("eth0".to_owned()),
            number => Some(name(usize::from(number) - 2)),
        };
        let routes = own.iter().filter(|_| nic.gateway).flat_map(|(_, gateway)| {
            destinations(nic, *gateway).into_iter().map(|dst| RouteIntent { dst, gateway: Some(*gateway) })
        });
        let coordinate = CoordinateIntent {
            conf: CoordinatorOverrides { tune_pod_routes: Some(nic.tuned), ..CoordinatorOverrides::default() },
            annotated_default_nic: named,
            cluster: settings(),
            mac: None,
        };
        Attachment {
            key: AttachmentKey { container: "c0".parse().unwrap(), ifname: name(place).parse().unwrap() },
            network: "n".parse().unwrap(),
            pod: PodRef::default(),
            ordinal: u32::try_from(place).unwrap(),
            generation: 1,
            addresses: (own.iter())
                .map(|(address, gateway)| AssignedAddress {
                    address: *address,
                    gateway: via(*gateway),
                    pool: "p".into(),
                })
                .collect(),
            routes: routes.collect(),
            allocated: nic.attached,
            link: nic.made.then(|| LinkIntent {
                kind: LinkKindIntent::Macvlan(MacvlanMode::Bridge),
                master: "ens192".parse().unwrap(),
                master_in_container: false,
                mtu: Some(1500),
                mac: Some(mac(place)),
            }),
            link_wanted: nic.attached && nic.made,
            learned: Learned::default(),
            foreign_link: (!nic.made).then(|| LinkIdentity { index: self.index(place), mac: mac(place) }),
            coordinate: (nic.attached && nic.coordinated).then(|| Box::new(coordinate)),
            uplink: None,
            closing: false,
            prepared: false,
        }
    }

    fn index(&self, place: usize) -> u32 {
        // What the kernel makes in between gets the next number.
        1000 * (1 + u32::try_from(place).unwrap())
    }

    pub(crate) fn plan(&self) -> Plan {
        let attachments: Vec<Attachment> =
            self.nics.iter().enumerate().map(|(place, nic)| self.attachment(place, nic)).collect();
        plan(PlanInput { sandbox: &self.sandbox(), attachments: &attachments, node: &node(), cluster: None })
    }

    pub(crate) fn desired(&self) -> Desired {
        self.plan().pod
    }

    /// What the default CNI leaves.
    pub(crate) fn baseline(&self) -> Kernel {
        let gateway = self.nic_gateway();
        let other = |kind: &str| LinkKind::Other(kind.to_owned());
        let address =
            |text: &str| Address { dev: "eth0".into(), address: net(text), scope: Scope::GLOBAL, protocol: 0 };
        let mut addresses = vec![address("10.233.120.101/32")];
        let mut routes = vec![
            route(MAIN, "0.0.0.0/0", Some(gateway), "eth0", 3),
            route(MAIN, &gateway.to_string(), None, "eth0", 3),
        ];
        if self.v6 {
            addresses.push(address("fd85::101/128"));
            let link_local = self.calico.then(|| ip("fe80::ecee:eeff:feee:eeee"));
            routes.push(route(MAIN, "::/0", Some(link_local.unwrap_or(ip("fd85::96"))), "eth0", 3));
            if link_local.is_none() {
                routes.push(route(MAIN, "fd85::96/128", None, "eth0", 3));
            }
        }
        let ours = plan::UNDERLAY_SYSCTLS.map(|path| (path.to_owned(), "0".to_owned()));
        let sysctls = std::iter::once((RP_FILTER.to_owned(), "1".to_owned())).chain(ours).collect();
        if self.underlay {
            let links = vec![link("lo", 1, other("loopback"), None)];
            return Kernel::of(&Observed { links, rules: built_in_rules(), sysctls, ..Observed::default() });
        }
        let observed = Observed {
            filter: None,
            links: vec![link("lo", 1, other("loopback"), None), link("eth0", 2, LinkKind::Veth, Some(mac(200)))],
            addresses,
            routes,
            rules: built_in_rules(),
            neighbours: Vec::new(),
            sysctls,
        };
        Kernel::of(&observed)
    }

    /// The reference macvlan adds its link: its routes come before what is there.
    pub(crate) fn attach_foreign(&self, place: usize, kernel: &mut Kernel) {
        let nic = &self.nics[place];
        if nic.made || !nic.attached || kernel.links.iter().any(|link| link.index == self.index(place)) {
            return;
        }
        let dev = name(place);
        kernel.links.push(link(&dev, self.index(place), LinkKind::Macvlan(MacvlanMode::Bridge), Some(mac(place))));
        for (address, gateway) in addresses(place, nic) {
            let address = Address { dev: dev.clone(), address, scope: Scope::GLOBAL, protocol: 0 };
            kernel.apply(&plan::Step::AddAddress(address)).unwrap();
            for dst in nic.gateway.then(|| destinations(nic, gateway)).into_iter().flatten() {
                let route = route(MAIN, &dst.to_string(), Some(gateway), &dev, 3);
                kernel.apply(&plan::Step::AddRoute(route, plan::Placement::Before)).unwrap();
            }
        }
    }

    /// And takes it away.
    pub(crate) fn detach_foreign(&self, place: usize, kernel: &mut Kernel) {
        if !self.nics[place].made {
            kernel.delete_link(&name(place));
        }
    }

    pub(crate) fn start(&self) -> Kernel {
        let mut kernel = self.baseline();
        (0..self.nics.len()).for_each(|place| self.attach_foreign(place, &mut kernel));
        kernel
    }
}

/// Objects of other programs: never touched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Foreign {
    pub(crate) links: Vec<Link>,
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<plan::Rule>,
}

impl Foreign {
    /// flannel, docker, Calico, Cilium, and tables made by hand; `which` picks some.
    pub(crate) fn pick(which: u8) -> Self {
        let is = |bit: u8| which & (1 << bit) != 0;
        let mut all = Self::default();
        let rule = |priority, table, from: Option<&str>, to: Option<&str>, other: Option<&str>| plan::Rule {
            priority,
            v6: false,
            from: from.map(net),
            to: to.map(net),
            table,
            mark: None,
            other: other.map(str::to_owned),
            protocol: 3,
        };
        let other = |kind: &str| LinkKind::Other(kind.to_owned());
        if is(0) {
            all.links.push(link("flannel.1", 50, other("vxlan"), Some(mac(50))));
            all.routes.push(route(MAIN, "10.244.0.0/16", None, "flannel.1", 3));
        }
        if is(1) {
            all.links.push(link("docker0", 51, other("bridge"), Some(mac(51))));
            all.routes.push(route(MAIN, "172.17.0.0/16", None, "docker0", 2));
        }
        if is(2) {
            all.links.push(link("cali0123456789a", 52, LinkKind::Veth, Some(mac(52))));
            all.routes.push(route(MAIN, "192.168.66.5/32", None, "cali0123456789a", 3));
        }
        if is(3) {
            all.links.push(link("cilium_host", 53, LinkKind::Veth, Some(mac(53))));
            all.rules.push(rule(9, 2004, None, None, Some("fwmark 0x200/0xf00")));
            all.routes.push(route(2004, "0.0.0.0/0", None, "cilium_host", 3));
        }
        if is(4) {
            all.rules.push(rule(5000, 200, Some("192.168.7.0/24"), None, None));
            all.routes.push(route(200, "192.168.7.0/24", None, "eth0", 3));
        }
        if is(5) {
            all.rules.push(rule(32766, 100, None, Some("192.168.9.0/24"), None));
            all.routes.push(route(100, "192.168.9.0/24", None, "eth0", 3));
        }
        all
    }

    pub(crate) fn put(&self, kernel: &mut Kernel) {
        kernel.links.extend(self.links.iter().cloned());
        kernel.routes.extend(self.routes.iter().cloned());
        self.rules.iter().for_each(|rule| kernel.add_rule(rule));
    }

    pub(crate) fn is_untouched(&self, kernel: &Kernel) -> Result<(), String> {
        let lost_link = self.links.iter().find(|link| !kernel.links.contains(link));
        let lost_route = self.routes.iter().find(|route| !kernel.routes.contains(route));
        let lost_rule = self.rules.iter().find(|rule| !kernel.rules.contains(rule));
        match (lost_link, lost_route, lost_rule) {
            (None, None, None) => Ok(()),
            lost => Err(format!("{lost:?}")),
        }
    }
}
