//! A simulated kernel: one namespace, with the semantics that the design gives as measured facts. The kernel deletes an
//! IPv4 address's secondaries with it: that is left out, as no plan has two addresses of one subnet on one link.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use plan::desired::LinkOrigin;
use plan::tables::MAIN;
use plan::{Address, Link, LinkKind, Neighbour, Observed, Placement, Route, RouteKind, Rule, Scope, Step};
use schemas::intent::LinkKindIntent;

/// One namespace. Lists are in the kernel's order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kernel {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) sysctls: std::collections::BTreeMap<String, String>,
    pub(crate) filter: Option<plan::FilterTable>,
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) dev: String,
    pub(crate) gateway: Option<IpAddr>,
}

impl Kernel {
    pub(crate) fn of(observed: &Observed) -> Self {
        let mut kernel = Self {
            links: observed.links.clone(),
            addresses: observed.addresses.clone(),
            routes: observed.routes.clone(),
            rules: observed.rules.clone(),
            neighbours: observed.neighbours.clone(),
            sysctls: observed.sysctls.clone(),
            filter: observed.filter.clone(),
        };
        kernel.register_sysctls();
        kernel
    }

    /// Every link has its own; they come and go with its name.
    fn register_sysctls(&mut self) {
        let own = |link: &Link| {
            let name = &link.name;
            let v6 = ["ndisc_notify", "disable_ipv6", "accept_ra_defrtr"]
                .map(|setting| format!("net/ipv6/conf/{name}/{setting}"));
            let v4 = ["arp_notify", "rp_filter", "src_valid_mark"];
            v4.map(|setting| format!("net/ipv4/conf/{name}/{setting}")).into_iter().chain(v6)
        };
        let names: Vec<String> = self.links.iter().flat_map(own).collect();
        self.sysctls.retain(|path, _| path.contains("/all/") || !path.contains("/conf/") || names.contains(path));
        for name in names {
            self.sysctls.entry(name).or_insert_with(|| "0".to_owned());
        }
    }

    pub(crate) fn observe(&self) -> Observed {
        Observed {
            links: self.links.clone(),
            addresses: self.addresses.clone(),
            routes: self.routes.clone(),
            rules: self.rules.clone(),
            neighbours: self.neighbours.clone(),
            sysctls: self.sysctls.clone(),
            filter: self.filter.clone(),
        }
    }

    /// Done already counts as done, gone already as gone; everything else that the kernel refuses is an error.
    pub(crate) fn apply(&mut self, step: &Step) -> Result<(), String> {
        self.change(step)?;
        self.register_sysctls();
        Ok(())
    }

    fn change(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::CreateLink(wanted) => self.create_link(wanted),
            Step::SetLinkAlias { dev, alias } => self.with_link(dev, |link| link.alias = Some(alias.clone())),
            Step::RenameLink { index, from: _, to } => self.rename_link(*index, to),
            Step::SetLinkMtu { dev, mtu } => self.with_link(dev, |link| link.mtu = *mtu),
            Step::SetLinkMac { dev, mac } => self.with_link(dev, |link| link.mac = Some(*mac)),
            Step::SetFilter(table) => {
                self.filter = Some(table.clone());
                Ok(())
            }
            Step::DeleteFilter => {
                self.filter = None;
                Ok(())
            }
            Step::EnslaveLink { dev, .. } | Step::SetBond { dev, .. } => Err(format!("{dev}: no bond in a pod")),
            Step::SetLinkQueue { dev, length } => self.with_link(dev, |link| link.tx_queue_len = *length),
            Step::SetLinkUp { dev } => self.set_up(dev),
            Step::DeleteLink { dev, index } => {
                if self.links.iter().any(|link| link.index == *index && link.name == *dev) {
                    self.delete_link(dev);
                }
                Ok(())
            }
            Step::AddAddress(address) => self.add_address(address),
            Step::DeleteAddress(address) => {
                self.delete_address(address);
                Ok(())
            }
            Step::AddRoute(route, placement) => self.add_route(route, *placement),
            Step::DeleteRoute(route) => {
                if let Some(position) = self.routes.iter().position(|it| it == route) {
                    self.routes.remove(position);
                }
                Ok(())
            }
            Step::AddRule(rule) => {
                self.add_rule(rule);
                Ok(())
            }
            Step::DeleteRule(rule) => {
                if let Some(position) = self.rules.iter().position(|it| it == rule) {
                    self.rules.remove(position);
                }
                Ok(())
            }
            Step::SetNeighbour(neighbour) => {
                self.expect_up(&neighbour.dev)?;
                self.neighbours.retain(|it| (&it.dev, it.address) != (&neighbour.dev, neighbour.address));
                self.neighbours.push(neighbour.clone());
                Ok(())
            }
            Step::DeleteNeighbour(neighbour) => {
                self.neighbours.retain(|it| (&it.dev, it.address) != (&neighbour.dev, neighbour.address));
                Ok(())
            }
            Step::SetSysctl { path, value } => match self.sysctls.get_mut(path) {
                Some(present) => {
                    present.clone_from(value);
                    Ok(())
                }
                None => Err(format!("ENOENT {path}")),
            },
        }
    }

    /// It has the default CNI's NIC.
    pub(crate) fn has_default_cni(&self) -> bool {
        self.link("eth0").is_some()
    }

    fn link(&self, dev: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == dev)
    }

    fn with_link(&mut self, dev: &str, change: impl FnOnce(&mut Link)) -> Result<(), String> {
        let link = self.links.iter_mut().find(|link| link.name == dev).ok_or_else(|| format!("ENODEV {dev}"))?;
        change(link);
        Ok(())
    }

    fn expect_up(&self, dev: &str) -> Result<(), String> {
        match self.link(dev) {
            None => Err(format!("ENODEV {dev}")),
            Some(link) if !link.up => Err(format!("ENETDOWN {dev}")),
            Some(_) => Ok(()),
        }
    }

    fn create_link(&mut self, wanted: &plan::DesiredLink) -> Result<(), String> {
        let (kind, mac, mtu, alias) = match &wanted.origin {
            LinkOrigin::Made { intent, alias } => {
                let kind = match intent.kind {
                    LinkKindIntent::Macvlan(mode) => LinkKind::Macvlan(mode),
                    LinkKindIntent::Ipvlan(mode) => LinkKind::Ipvlan(mode),
                };
                (kind, intent.mac, intent.mtu, alias)
            }
            LinkOrigin::Pair { pair, alias } => (LinkKind::Veth, Some(pair.mac), Some(pair.mtu), alias),
            LinkOrigin::PairEnd { .. } | LinkOrigin::Found(_) | LinkOrigin::Uplink(_) => {
                return Err(format!("{} is not ours to make", wanted.name));
            }
        };
        if self.link(&wanted.name).is_some() {
            return Ok(());
        }
        self.links.push(Link {
            name: wanted.name.clone(),
            index: self.links.iter().map(|link| link.index).max().unwrap_or(0) + 1,
            kind,
            mac,
            mtu: mtu.unwrap_or(1500),
            up: false,
            alias: Some(alias.clone()),
            lower: Some(2),
            master: None,
            tx_queue_len: 1000,
        });
        Ok(())
    }

    pub(crate) fn rename_link(&mut self, index: u32, to: &str) -> Result<(), String> {
        let Some(link) = self.links.iter().find(|link| link.index == index) else {
            return Err(format!("ENODEV index {index}"));
        };
        if link.name == to {
            return Ok(());
        }
        if self.link(to).is_some() {
            return Err(format!("EEXIST link {to}"));
        }
        let from = link.name.clone();
        let named = |dev: &mut String| {
            if *dev == from {
                to.clone_into(dev);
            }
        };
        self.links.iter_mut().for_each(|link| named(&mut link.name));
        self.addresses.iter_mut().for_each(|it| named(&mut it.dev));
        self.neighbours.iter_mut().for_each(|it| named(&mut it.dev));
        self.routes.iter_mut().filter_map(|it| it.dev.as_mut()).for_each(named);
        Ok(())
    }

    fn set_up(&mut self, dev: &str) -> Result<(), String> {
        let was_up = self.link(dev).is_some_and(|link| link.up);
        self.with_link(dev, |link| link.up = true)?;
        if !was_up {
            let present: Vec<Address> = self.addresses.iter().filter(|it| it.dev == dev).cloned().collect();
            present.iter().for_each(|address| self.connect(address));
        }
        Ok(())
    }

    /// Its routes vanish in every table, silently, and its IPv6 addresses.
    pub(crate) fn set_down(&mut self, dev: &str) {
        if let Some(link) = self.links.iter_mut().find(|link| link.name == dev) {
            link.up = false;
        }
        self.routes.retain(|route| route.dev.as_deref() != Some(dev));
        self.neighbours.retain(|it| it.dev != dev);
        self.addresses.retain(|it| it.dev != dev || it.address.is_ipv4());
    }

    pub(crate) fn delete_link(&mut self, dev: &str) {
        self.set_down(dev);
        self.links.retain(|link| link.name != dev);
        self.addresses.retain(|it| it.dev != dev);
        self.register_sysctls();
    }

    fn add_address(&mut self, address: &Address) -> Result<(), String> {
        let link = self.link(&address.dev).ok_or_else(|| format!("ENODEV {}", address.dev))?;
        let up = link.up;
        if self.addresses.iter().any(|it| it.dev == address.dev && it.address == address.address) {
            return Ok(());
        }
        self.addresses.push(address.clone());
        if up {
            self.connect(address);
        }
        Ok(())
    }

    pub(crate) fn delete_address(&mut self, address: &Address) {
        let gone = |it: &Address| it.dev == address.dev && it.address == address.address;
        if !self.addresses.iter().any(gone) {
            return;
        }
        self.addresses.retain(|it| !gone(it));
        let ip = address.address.ip();
        // Of IPv6 the subnet stays for as long as the link has another address in it.
        let network = (address.address.network(), address.address.prefix());
        let has_another = self.addresses.iter().any(|it| {
            it.dev == address.dev && (it.address.network(), it.address.prefix()) == network && it.address.is_ipv6()
        });
        let connected = connected(address).filter(|_| !has_another);
        let is_local = self.addresses.iter().any(|it| it.address.ip() == ip);
        let is_last =
            address.address.is_ipv4() && !self.addresses.iter().any(|it| it.dev == address.dev && it.address.is_ipv4());
        self.routes.retain(|route| {
            Some(route) != connected.as_ref()
                && (is_local || route.src != Some(ip))
                && !(is_last && route.dst.is_ipv4() && route.dev.as_deref() == Some(&address.dev))
        });
    }

    fn connect(&mut self, address: &Address) {
        if let Some(route) = connected(address).filter(|route| !self.routes.contains(route)) {
            self.routes.push(route);
        }
    }

    fn add_route(&mut self, route: &Route, placement: Placement) -> Result<(), String> {
        let first = self.routes.iter().position(|it| it.key() == route.key());
        if self.routes.contains(route) || (first.is_some() && placement == Placement::Alone) {
            return Ok(());
        }
        let dev = route.dev.as_deref().ok_or("EINVAL no link")?;
        self.expect_up(dev)?;
        if route.dst.network() != route.dst.ip() {
            return Err(format!("EINVAL host bits in {route}"));
        }
        if route.src.is_some_and(|src| !self.addresses.iter().any(|it| it.address.ip() == src)) {
            return Err(format!("EINVAL source of {route} is not local"));
        }
        let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if let Some(gateway) = route.gateway.filter(|gateway| !route.onlink && !is_link_local(gateway)) {
            let is_on_link = |table: Option<u32>| {
                self.routes.iter().any(|it| {
                    table.is_none_or(|table| table == it.table)
                        && it.dev.as_deref() == Some(dev)
                        && it.gateway.is_none()
                        && it.kind == RouteKind::Unicast
                        && it.dst.contains(gateway)
                })
            };
            // First the route's own table, then the rules: a pod's rules lead to main for what no other table has.
            if !is_on_link(Some(route.table)) && !is_on_link(Some(MAIN)) {
                return Err(format!("ENETUNREACH {route} in table {}", route.table));
            }
        }
        let position = match placement {
            // IPv6 knows no prepending.
            Placement::Alone | Placement::Before if route.dst.is_ipv4() => first,
            _ => None,
        };
        self.routes.insert(position.unwrap_or(self.routes.len()), route.clone());
        Ok(())
    }

    pub(crate) fn add_rule(&mut self, rule: &Rule) {
        if !self.rules.contains(rule) {
            let behind = self.rules.iter().position(|it| it.priority > rule.priority).unwrap_or(self.rules.len());
            self.rules.insert(behind, rule.clone());
        }
    }

    /// The routing decision for a packet that leaves the pod; None is unreachable.
    pub(crate) fn lookup(&self, src: Option<IpAddr>, dst: IpAddr) -> Option<Way> {
        for rule in
            self.rules.iter().filter(|rule| rule.v6 == dst.is_ipv6() && rule.other.is_none() && rule.mark.is_none())
        {
            let from_matches = rule.from.is_none_or(|from| src.is_some_and(|src| from.contains(src)));
            if !from_matches || !rule.to.is_none_or(|to| to.contains(dst)) {
                continue;
            }
            let best = self
                .routes
                .iter()
                .filter(|route| route.table == rule.table && route.dst.contains(dst))
                .min_by_key(|route| (std::cmp::Reverse(route.dst.prefix()), route.metric));
            match best {
                None | Some(Route { kind: RouteKind::Other(9), .. }) => {}
                Some(Route { kind: RouteKind::Unicast, dev: Some(dev), gateway, .. }) => {
                    return Some(Way { dev: dev.clone(), gateway: *gateway });
                }
                Some(_) => return None,
            }
        }
        None
    }
}

fn connected(address: &Address) -> Option<Route> {
    let network = address.address;
    let dst = IpNetwork::new(network.network(), network.prefix()).ok()?;
    let is_v4 = network.is_ipv4();
    // A single IPv6 address has a route as well; nothing looks at it.
    (dst != IpNetwork::from(network.ip())).then(|| Route {
        table: MAIN,
        dst,
        metric: if is_v4 { 0 } else { 256 },
        dev: Some(address.dev.clone()),
        gateway: None,
        src: is_v4.then_some(network.ip()),
        scope: if is_v4 { Scope::LINK } else { Scope::GLOBAL },
        onlink: false,
        kind: RouteKind::Unicast,
        protocol: 2,
    })
}

/// The rules that every namespace has.
pub(crate) fn built_in_rules() -> Vec<Rule> {
    let rule = |v6| {
        move |(priority, table)| Rule {
            priority,
            v6,
            from: None,
            to: None,
            mark: None,
            table,
            other: None,
            protocol: 2,
        }
    };
    let v4 = [(0, 255), (32766, 254), (32767, 253)].map(rule(false));
    v4.into_iter().chain([(0, 255), (32766, 254)].map(rule(true))).collect()
}
