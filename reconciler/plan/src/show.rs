//! Kernel objects and steps written as iproute2 writes them.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::intent::{IpvlanMode, LinkKindIntent, MacvlanMode};
use schemas::uplink::{BondSetting, BondValue};

use crate::desired::{DesiredLink, LinkOrigin, PairIntent, Uplink};
use crate::filter::TABLE;
use crate::object::{Route, RouteKind, Rule, Scope};
use crate::step::{Placement, Step};
use crate::tables::MAIN;

/// A destination: `default` for everything, a host without its prefix length.
struct Destination(IpNetwork);

impl Display for Destination {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.prefix() {
            0 => f.write_str("default"),
            _ => Host(self.0).fmt(f),
        }
    }
}

/// A selector: a host without its prefix length, everything as it is.
struct Host(IpNetwork);

impl Display for Host {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bits = if self.0.is_ipv4() { 32 } else { 128 };
        if self.0.prefix() == bits { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

/// A table by the name that iproute2 knows, else by number.
pub(crate) struct Table(pub(crate) u32);

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            253 => f.write_str("default"),
            254 => f.write_str("main"),
            255 => f.write_str("local"),
            number => number.fmt(f),
        }
    }
}

impl Display for Scope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("global"),
            200 => f.write_str("site"),
            253 => f.write_str("link"),
            254 => f.write_str("host"),
            255 => f.write_str("nowhere"),
            number => number.fmt(f),
        }
    }
}

/// As a line of `ip route`, without table and protocol.
impl Display for Route {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast | RouteKind::Multipath => {}
            RouteKind::Other(6) => f.write_str("blackhole ")?,
            RouteKind::Other(7) => f.write_str("unreachable ")?,
            RouteKind::Other(8) => f.write_str("prohibit ")?,
            RouteKind::Other(9) => f.write_str("throw ")?,
            RouteKind::Other(number) => write!(f, "{number} ")?,
        }
        Destination(self.dst).fmt(f)?;
        match self.gateway {
            Some(gateway) if gateway.is_ipv4() == self.dst.is_ipv4() => write!(f, " via {gateway}")?,
            Some(gateway) => write!(f, " via {} {gateway}", if gateway.is_ipv4() { "inet" } else { "inet6" })?,
            None => {}
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        let is_implied = self.gateway.is_some() || self.dst.is_ipv6();
        if self.kind == RouteKind::Unicast && (self.scope != Scope::GLOBAL || !is_implied) {
            write!(f, " scope {}", self.scope)?;
        }
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if self.onlink {
            f.write_str(" onlink")?;
        }
        Ok(())
    }
}

/// As a line of `ip rule`, the tab written as spaces.
impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let priority = format!("{}:", self.priority);
        write!(f, "{priority:<8}from ")?;
        match self.from {
            Some(from) => Host(from).fmt(f)?,
            None => f.write_str("all")?,
        }
        if let Some(to) = self.to {
            write!(f, " to {}", Host(to))?;
        }
        if let Some(mark) = self.mark {
            write!(f, " fwmark {mark:#x}")?;
        }
        if let Some(other) = &self.other {
            write!(f, " {other}")?;
        }
        if self.table != 0 {
            write!(f, " lookup {}", Table(self.table))?;
        }
        Ok(())
    }
}

/// The `ip` command that does the same.
impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink(link) => create_link(link, f),
            Self::SetLinkAlias { dev, alias } => write!(f, "ip link set {dev} alias {alias}"),
            Self::RenameLink { from, to, .. } => write!(f, "ip link set {from} name {to}"),
            Self::SetLinkMtu { dev, mtu } => write!(f, "ip link set {dev} mtu {mtu}"),
            Self::SetLinkMac { dev, mac } => write!(f, "ip link set {dev} address {mac}"),
            Self::EnslaveLink { dev, bond } => write!(f, "ip link set {dev} down master {bond}"),
            Self::SetBond { dev, options } => {
                write!(f, "ip link set {dev} type bond")?;
                options.iter().try_for_each(|setting| bond_setting(setting, f))
            }
            Self::SetLinkQueue { dev, length } => write!(f, "ip link set {dev} txqueuelen {length}"),
            Self::SetLinkUp { dev } => write!(f, "ip link set {dev} up"),
            Self::DeleteLink { dev, .. } => write!(f, "ip link delete {dev}"),
            Self::AddAddress(it) => {
                write!(f, "ip address add {} dev {} proto {}", it.address, it.dev, it.protocol)
            }
            Self::DeleteAddress(it) => write!(f, "ip address del {} dev {}", it.address, it.dev),
            Self::AddRoute(it, Placement::Alone) => route("add", it, f),
            Self::AddRoute(it, Placement::Before) => route("prepend", it, f),
            Self::AddRoute(it, Placement::After) => route("append", it, f),
            Self::DeleteRoute(it) => route("del", it, f),
            Self::AddRule(it) => rule("add", it, f),
            Self::DeleteRule(it) => rule("del", it, f),
            Self::SetNeighbour(it) => {
                write!(f, "ip neigh replace {}", it.address)?;
                if let Some(mac) = it.mac {
                    write!(f, " lladdr {mac}")?;
                }
                write!(f, " dev {} nud permanent proto {}", it.dev, it.protocol)
            }
            Self::DeleteNeighbour(it) => write!(f, "ip neigh del {} dev {}", it.address, it.dev),
            Self::SetFilter(table) => write!(f, "nft '{table}'"),
            Self::DeleteFilter => write!(f, "nft delete table inet {TABLE}"),
            Self::SetSysctl { path, value } => write!(f, "sysctl -w {}={value}", sysctl_name(path)),
        }
    }
}

fn create_link(link: &DesiredLink, f: &mut Formatter<'_>) -> fmt::Result {
    let intent = match &link.origin {
        LinkOrigin::Made { intent, .. } => intent,
        LinkOrigin::Pair { pair: PairIntent { mac, peer, peer_mac, mtu }, .. } => {
            let name = &link.name;
            write!(f, "ip link add {name} address {mac} mtu {mtu} type veth")?;
            // `netns 1` is the namespace of the node's first process.
            return write!(f, " peer name {peer} netns 1 address {peer_mac} mtu {mtu}");
        }
        LinkOrigin::Uplink(Uplink::Vlan { parent, id }) => {
            return write!(f, "ip link add {} link {parent} type vlan id {id}", link.name);
        }
        LinkOrigin::Uplink(Uplink::Bond { intent, .. }) => {
            write!(f, "ip link add {} type bond mode {}", link.name, intent.mode)?;
            return intent.options.iter().try_for_each(|setting| bond_setting(setting, f));
        }
        LinkOrigin::PairEnd { .. } | LinkOrigin::Found(_) | LinkOrigin::Uplink(Uplink::Present) => {
            return write!(f, "ip link set {} up", link.name);
        }
    };
    write!(f, "ip link add {} link {}", link.name, intent.master)?;
    if let Some(mac) = intent.mac {
        write!(f, " address {mac}")?;
    }
    if let Some(mtu) = intent.mtu {
        write!(f, " mtu {mtu}")?;
    }
    match intent.kind {
        LinkKindIntent::Macvlan(mode) => {
            let mode = match mode {
                MacvlanMode::Bridge => "bridge",
                MacvlanMode::Private => "private",
                MacvlanMode::Vepa => "vepa",
                MacvlanMode::Passthru => "passthru",
            };
            write!(f, " type macvlan mode {mode}")
        }
        LinkKindIntent::Ipvlan(mode) => {
            let mode = match mode {
                IpvlanMode::L2 => "l2",
                IpvlanMode::L3 => "l3",
                IpvlanMode::L3s => "l3s",
            };
            write!(f, " type ipvlan mode {mode}")
        }
    }
}

fn bond_setting(setting: &BondSetting, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, " {} ", setting.option.name())?;
    match &setting.value {
        BondValue::Number(number) => number.fmt(f),
        BondValue::Link(name) => name.fmt(f),
        BondValue::Mac(mac) => mac.fmt(f),
        BondValue::Addresses(addresses) => {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            f.write_str(&texts.join(","))
        }
    }
}

fn route(verb: &str, route: &Route, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "{} route {verb} {route}", ip(route.dst.ip()))?;
    if route.table != MAIN {
        write!(f, " table {}", Table(route.table))?;
    }
    write!(f, " proto {}", route.protocol)
}

fn rule(verb: &str, rule: &Rule, f: &mut Formatter<'_>) -> fmt::Result {
    write!(f, "{} rule {verb} priority {}", if rule.v6 { "ip -6" } else { "ip" }, rule.priority)?;
    match (rule.from, rule.to) {
        (None, None) => f.write_str(" from all")?,
        (Some(from), _) => write!(f, " from {}", Host(from))?,
        (None, Some(_)) => {}
    }
    if let Some(to) = rule.to {
        write!(f, " to {}", Host(to))?;
    }
    if let Some(mark) = rule.mark {
        write!(f, " fwmark {mark:#x}")?;
    }
    if let Some(other) = &rule.other {
        write!(f, " {other}")?;
    }
    write!(f, " lookup {} proto {}", Table(rule.table), rule.protocol)
}

fn ip(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip -6" }
}

/// sysctl(8) separates by dots and writes a dot inside a name (eth0.100) as a slash.
fn sysctl_name(path: &str) -> String {
    path.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemas::intent::LinkIntent;

    use super::*;
    use crate::object::{Address, Neighbour};
    use crate::tables::PROTOCOL;

    fn via(table: u32, dst: &str, gateway: Option<&str>) -> Route {
        Route {
            table,
            dst: dst.parse().unwrap(),
            metric: 0,
            dev: Some("eth0".into()),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            src: None,
            scope: if gateway.is_some() { Scope::GLOBAL } else { Scope::LINK },
            onlink: false,
            kind: RouteKind::Unicast,
            protocol: PROTOCOL,
        }
    }

    fn rule(from: Option<&str>, to: Option<&str>) -> Rule {
        Rule {
            priority: 32765,
            v6: false,
            from: from.map(|from| from.parse().unwrap()),
            to: to.map(|to| to.parse().unwrap()),
            mark: None,
            table: 100,
            other: None,
            protocol: PROTOCOL,
        }
    }

    #[test]
    fn every_step_is_its_ip_command() {
        let intent = LinkIntent {
            kind: LinkKindIntent::Macvlan(MacvlanMode::Bridge),
            master: "ens192".parse().unwrap(),
            master_in_container: false,
            mtu: Some(1500),
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
        };
        let made = DesiredLink {
            name: "net1".into(),
            origin: LinkOrigin::Made { intent, alias: "dragline:c/net1".into() },
            mac: None,
            tx_queue_len: None,
        };
        let default = via(100, "0.0.0.0/0", Some("10.233.65.96"));
        let blackhole =
            Route { dev: None, scope: Scope::GLOBAL, kind: RouteKind::Other(6), ..via(254, "10.1.0.0/16", None) };
        let onlink = Route { onlink: true, metric: 7, ..via(254, "0.0.0.0/0", Some("169.254.1.1")) };
        let address = Address {
            dev: "net1".into(),
            address: "10.6.212.200/16".parse().unwrap(),
            scope: Scope::GLOBAL,
            protocol: PROTOCOL,
        };
        let neighbour = Neighbour {
            dev: "eth0".into(),
            address: "10.6.212.131".parse().unwrap(),
            mac: Some("0a:00:00:00:00:01".parse().unwrap()),
            permanent: true,
            protocol: PROTOCOL,
        };
        let dev = || "net1".to_owned();
        let cases = [
            (
                Step::CreateLink(made),
                "ip link add net1 link ens192 address 02:00:00:00:00:01 mtu 1500 type macvlan mode bridge",
            ),
            (
                Step::SetLinkAlias { dev: dev(), alias: "dragline:c/net1".into() },
                "ip link set net1 alias dragline:c/net1",
            ),
            (Step::RenameLink { index: 3, from: "x".into(), to: dev() }, "ip link set x name net1"),
            (Step::SetLinkMtu { dev: dev(), mtu: 9000 }, "ip link set net1 mtu 9000"),
            (
                Step::SetLinkMac { dev: dev(), mac: "0a:1b:0a:06:d4:ca".parse().unwrap() },
                "ip link set net1 address 0a:1b:0a:06:d4:ca",
            ),
            (Step::SetLinkQueue { dev: dev(), length: 500 }, "ip link set net1 txqueuelen 500"),
            (Step::SetLinkUp { dev: dev() }, "ip link set net1 up"),
            (Step::DeleteLink { dev: dev(), index: 3 }, "ip link delete net1"),
            (Step::AddAddress(address.clone()), "ip address add 10.6.212.200/16 dev net1 proto 111"),
            (Step::DeleteAddress(address), "ip address del 10.6.212.200/16 dev net1"),
            (
                Step::AddRoute(default.clone(), Placement::Alone),
                "ip route add default via 10.233.65.96 dev eth0 table 100 proto 111",
            ),
            (
                Step::AddRoute(default.clone(), Placement::Before),
                "ip route prepend default via 10.233.65.96 dev eth0 table 100 proto 111",
            ),
            (
                Step::AddRoute(default.clone(), Placement::After),
                "ip route append default via 10.233.65.96 dev eth0 table 100 proto 111",
            ),
            (Step::DeleteRoute(default), "ip route del default via 10.233.65.96 dev eth0 table 100 proto 111"),
            (
                Step::DeleteRoute(via(254, "10.6.212.131/32", None)),
                "ip route del 10.6.212.131 dev eth0 scope link proto 111",
            ),
            (Step::DeleteRoute(blackhole), "ip route del blackhole 10.1.0.0/16 proto 111"),
            (
                Step::AddRoute(onlink, Placement::Alone),
                "ip route add default via 169.254.1.1 dev eth0 metric 7 onlink proto 111",
            ),
            (
                Step::AddRoute(via(101, "fd00::/64", None), Placement::Alone),
                "ip -6 route add fd00::/64 dev eth0 scope link table 101 proto 111",
            ),
            (
                Step::AddRule(rule(None, Some("10.6.212.131/32"))),
                "ip rule add priority 32765 to 10.6.212.131 lookup 100 proto 111",
            ),
            (
                Step::AddRule(rule(Some("10.6.212.131/32"), None)),
                "ip rule add priority 32765 from 10.6.212.131 lookup 100 proto 111",
            ),
            (Step::DeleteRule(rule(None, None)), "ip rule del priority 32765 from all lookup 100 proto 111"),
            (
                Step::SetNeighbour(neighbour.clone()),
                "ip neigh replace 10.6.212.131 lladdr 0a:00:00:00:00:01 dev eth0 nud permanent proto 111",
            ),
            (Step::DeleteNeighbour(neighbour), "ip neigh del 10.6.212.131 dev eth0"),
            (
                Step::SetSysctl { path: "net/ipv4/conf/eth0.5/rp_filter".into(), value: "0".into() },
                "sysctl -w net.ipv4.conf.eth0/5.rp_filter=0",
            ),
        ];
        let printed: BTreeMap<String, &str> = cases.iter().map(|(step, want)| (step.to_string(), *want)).collect();
        for (got, want) in printed {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn rules_are_the_lines_of_ip_rule() {
        assert_eq!(rule(None, Some("10.233.0.0/18")).to_string(), "32765:  from all to 10.233.0.0/18 lookup 100");
        let local = Rule { priority: 0, table: 255, protocol: 2, ..rule(None, None) };
        assert_eq!(local.to_string(), "0:      from all lookup local");
    }
}
