//! Links, addresses, routes, rules and neighbours made as any other program would make them.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::rule::RuleAttribute;
use plan::object::{Address, Link, Neighbour, Observed, Route, RouteKind, Rule, Scope};
use plan::step::Placement;
use rtnetlink::LinkBridge;
use schemas::intent::{IpvlanMode, LinkIntent, LinkKindIntent, MacvlanMode};
use schemas::name::{IfName, Mac};
use schemas::uplink::BondIntent;

use super::{Netns, TestbedError};
use crate::exchange::{Exchange, Request};
use crate::link::State;
use crate::observe::{self, RouteScope};
use crate::{address, link, neighbour, route, rule, sysctl, uplink};

/// `RTPROT_STATIC`: what scenes' routes and rules carry, as made by hand.
const BY_HAND: u8 = 4;

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address, or the kernel's choice.
    pub mac: Option<Mac>,
    /// Where it is; None is the scene's own namespace.
    pub netns: Option<&'a Netns>,
}

impl<'a> End<'a> {
    /// An end in the scene's own namespace, with a hardware address of the kernel's choice.
    pub fn here(name: &'a str) -> Self {
        Self { name, mac: None, netns: None }
    }

    /// The same in another namespace.
    pub fn inside(netns: &'a Netns, name: &'a str) -> Self {
        Self { name, mac: None, netns: Some(netns) }
    }

    /// The same with that hardware address.
    pub fn with_mac(self, mac: Mac) -> Self {
        Self { mac: Some(mac), ..self }
    }
}

/// Builds in one namespace. It holds a socket there, which keeps the namespace alive until this is dropped.
pub struct Scene {
    pub(super) exchange: Exchange,
}

impl Scene {
    /// In the calling thread's namespace; for another one see [`Netns::scene`].
    pub fn here() -> Result<Self, TestbedError> {
        let exchange = Exchange::open()
            .map_err(|source| TestbedError::Kernel { what: "opening a netlink socket".into(), source })?;
        Ok(Self { exchange })
    }

    /// A veth pair, each end made where it belongs; both are down.
    pub fn veth(&mut self, end: End<'_>, peer: End<'_>) -> Result<(), TestbedError> {
        // Open until the kernel has answered.
        let (end_door, peer_door) = (end.netns.map(Netns::open).transpose()?, peer.netns.map(Netns::open).transpose()?);
        let message = |end: &End<'_>, door: Option<&std::fs::File>| {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::IfName(end.name.to_owned()));
            message.attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
            message.attributes.extend(door.map(|door| LinkAttribute::NetNsFd(door.as_raw_fd())));
            message
        };
        let mut pair = message(&end, end_door.as_ref());
        let peer_message = message(&peer, peer_door.as_ref());
        pair.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer_message))),
        ]));
        self.make(format!("making veth {} - {}", end.name, peer.name), pair)
    }

    /// A bridge, down.
    pub fn bridge(&mut self, name: &str) -> Result<(), TestbedError> {
        self.make(format!("making bridge {name}"), LinkBridge::new(name).build())
    }

    /// A macvlan on a link of the same namespace, down.
    pub fn macvlan(&mut self, name: &str, master: &IfName, mode: MacvlanMode, mac: Mac) -> Result<(), TestbedError> {
        let index = self.index(master.as_str())?;
        let kind = LinkKindIntent::Macvlan(mode);
        let intent = LinkIntent { kind, master: master.clone(), master_in_container: true, mtu: None, mac: Some(mac) };
        self.change(format!("making macvlan {name} on {master}"), link::create(name, &intent, index, None, None))
    }

    /// An ipvlan on a link of the same namespace, down.
    pub fn ipvlan(&mut self, name: &str, master: &IfName, mode: IpvlanMode) -> Result<(), TestbedError> {
        let index = self.index(master.as_str())?;
        let kind = LinkKindIntent::Ipvlan(mode);
        let intent = LinkIntent { kind, master: master.clone(), master_in_container: true, mtu: None, mac: None };
        self.change(format!("making ipvlan {name} on {master}"), link::create(name, &intent, index, None, None))
    }

    /// A VLAN sub-interface, down.
    pub fn vlan(&mut self, name: &str, parent: &str, id: u16) -> Result<(), TestbedError> {
        let index = self.index(parent)?;
        self.change(format!("making VLAN {id} on {parent}"), uplink::create_vlan(name, index, id))
    }

    /// A bond without slaves, down.
    pub fn bond(&mut self, name: &str, mode: u8) -> Result<(), TestbedError> {
        let called = name.parse().map_err(|error| TestbedError::system("naming a bond", io::Error::other(error)))?;
        let intent = BondIntent { name: called, mode, options: Vec::new() };
        let request = uplink::create_bond(name, &intent, |_| None)
            .map_err(|error| TestbedError::system("making a bond", io::Error::other(error)))?;
        self.change(format!("making bond {name}"), request)
    }

    /// Changes the mode of a macvlan or ipvlan, as `ip link set dev LINK type KIND mode MODE` does.
    pub fn set_mode(&mut self, link: &str, mode: &LinkKindIntent) -> Result<(), TestbedError> {
        let index = self.index(link)?;
        self.change(format!("setting the mode of {link}"), link::set_mode(index, mode))
    }

    /// Makes the link a port of the bridge.
    pub fn port(&mut self, link: &str, bridge: &str) -> Result<(), TestbedError> {
        let bridge_index = self.index(bridge)?;
        self.set_link(link, LinkAttribute::Controller(bridge_index))
    }

    /// Sets a link up.
    pub fn up(&mut self, link: &str) -> Result<(), TestbedError> {
        let index = self.index(link)?;
        self.change(format!("setting {link} up"), link::set_state(index, State::Up))
    }

    /// Sets a link down; its routes go.
    pub fn down(&mut self, link: &str) -> Result<(), TestbedError> {
        let index = self.index(link)?;
        self.change(format!("setting {link} down"), link::set_state(index, State::Down))
    }

    /// Renames a link.
    pub fn rename(&mut self, link: &str, to: &str) -> Result<(), TestbedError> {
        self.set_link(link, LinkAttribute::IfName(to.to_owned()))
    }

    /// Sets one attribute of a link.
    pub fn set_link(&mut self, link: &str, attribute: LinkAttribute) -> Result<(), TestbedError> {
        let index = self.index(link)?;
        self.change(format!("setting {attribute:?} of {link}"), link::set(index, vec![attribute]))
    }

    /// Deletes a link.
    pub fn delete_link(&mut self, link: &str) -> Result<(), TestbedError> {
        let index = self.index(link)?;
        self.change(format!("deleting {link}"), link::delete(index))
    }

    /// Adds an address.
    pub fn address(&mut self, dev: &str, address: IpNetwork) -> Result<(), TestbedError> {
        let index = self.index(dev)?;
        self.change(format!("adding {address} to {dev}"), address::add(&plain_address(dev, address), index))
    }

    /// Deletes an address.
    pub fn delete_address(&mut self, dev: &str, address: IpNetwork) -> Result<(), TestbedError> {
        let index = self.index(dev)?;
        self.change(format!("deleting {address} from {dev}"), address::delete(&plain_address(dev, address), index))
    }

    /// Adds a route to table main, by hand.
    pub fn route(&mut self, dst: IpNetwork, gateway: Option<IpAddr>, dev: &str) -> Result<(), TestbedError> {
        self.add_route(&Route {
            table: plan::tables::MAIN,
            dst,
            metric: 0,
            dev: Some(dev.to_owned()),
            gateway,
            src: None,
            scope: if gateway.is_some() || dst.is_ipv6() { Scope::GLOBAL } else { Scope::LINK },
            onlink: false,
            kind: RouteKind::Unicast,
            protocol: BY_HAND,
        })
    }

    /// Adds any route, before those of its key.
    pub fn add_route(&mut self, wanted: &Route) -> Result<(), TestbedError> {
        let index = wanted.dev.as_deref().map(|dev| self.index(dev)).transpose()?;
        self.change(format!("adding route {wanted:?}"), route::add(wanted, index, Placement::Before))
    }

    /// What `ip route replace` does: takes the place of the first route of its key, whoever made it.
    pub fn replace_route(&mut self, wanted: &Route) -> Result<(), TestbedError> {
        let index = wanted.dev.as_deref().map(|dev| self.index(dev)).transpose()?;
        let request = Request { flags: NLM_F_CREATE | NLM_F_REPLACE, ..route::add(wanted, index, Placement::Before) };
        self.change(format!("replacing route {wanted:?}"), request)
    }

    /// Deletes a route.
    pub fn delete_route(&mut self, old: &Route) -> Result<(), TestbedError> {
        let index = old.dev.as_deref().map(|dev| self.index(dev)).transpose()?;
        self.change(format!("deleting route {old:?}"), route::delete(old, index))
    }

    /// Deletes all routes of a table.
    pub fn flush_routes(&mut self, table: u32) -> Result<(), TestbedError> {
        let routes = self.observe()?.routes;
        routes.iter().filter(|route| route.table == table).try_for_each(|route| self.delete_route(route))
    }

    /// Adds a rule.
    pub fn add_rule(&mut self, wanted: &Rule) -> Result<(), TestbedError> {
        self.change(format!("adding rule {wanted:?}"), rule::add(wanted))
    }

    /// Adds a rule for packets with that mark, as Calico and Cilium have them.
    pub fn add_rule_for_mark(&mut self, wanted: &Rule, mark: u32) -> Result<(), TestbedError> {
        self.add_rule_with(wanted, RuleAttribute::FwMark(mark))
    }

    /// Adds a rule for packets that come in by a link.
    pub fn add_rule_for_input(&mut self, wanted: &Rule, link: &str) -> Result<(), TestbedError> {
        self.add_rule_with(wanted, RuleAttribute::Iifname(link.to_owned()))
    }

    fn add_rule_with(&mut self, wanted: &Rule, selector: RuleAttribute) -> Result<(), TestbedError> {
        let mut request = rule::add(wanted);
        if let RouteNetlinkMessage::NewRule(message) = &mut request.message {
            message.attributes.push(selector);
        }
        self.change(format!("adding rule {wanted:?}"), request)
    }

    /// Deletes a rule.
    pub fn delete_rule(&mut self, old: &Rule) -> Result<(), TestbedError> {
        self.change(format!("deleting rule {old:?}"), rule::delete(old))
    }

    /// What `ip rule flush` does: deletes all IPv4 rules but the one of priority 0, those of main and default included.
    pub fn flush_rules(&mut self) -> Result<(), TestbedError> {
        let rules = self.observe()?.rules;
        rules.iter().filter(|rule| !rule.v6 && rule.priority != 0).try_for_each(|rule| self.delete_rule(rule))
    }

    /// Sets a permanent neighbour.
    pub fn set_neighbour(&mut self, wanted: &Neighbour) -> Result<(), TestbedError> {
        let index = self.index(&wanted.dev)?;
        self.change(format!("setting neighbour {wanted:?}"), neighbour::set(wanted, index))
    }

    /// Deletes a neighbour.
    pub fn delete_neighbour(&mut self, old: &Neighbour) -> Result<(), TestbedError> {
        let index = self.index(&old.dev)?;
        self.change(format!("deleting neighbour {old:?}"), neighbour::delete(old, index))
    }

    /// All that is there, without sysctls.
    pub fn observe(&mut self) -> Result<Observed, TestbedError> {
        observe::observe(&mut self.exchange, &RouteScope::All)
            .map_err(|error| TestbedError::system("observing", std::io::Error::other(error)))
    }

    /// The link of that name.
    pub fn link(&mut self, name: &str) -> Result<Link, TestbedError> {
        link::find(&mut self.exchange, name)
            .map_err(|source| TestbedError::Kernel { what: format!("finding link {name}"), source })
    }

    fn index(&mut self, name: &str) -> Result<u32, TestbedError> {
        Ok(self.link(name)?.index)
    }

    fn make(&mut self, what: String, message: LinkMessage) -> Result<(), TestbedError> {
        self.change(what, Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL })
    }

    fn change(&mut self, what: String, request: Request) -> Result<(), TestbedError> {
        let outcome: Result<(), _> = self.exchange.change(vec![request]).into_iter().collect();
        outcome.map_err(|source| TestbedError::Kernel { what, source })
    }
}

impl Netns {
    /// Sets a sysctl inside (path below /proc/sys).
    pub fn set_sysctl(&self, path: &str, value: &str) -> Result<(), TestbedError> {
        self.run(|| sysctl::write(path, value))?
            .map_err(|source| TestbedError::System { what: format!("writing sysctl {path}"), source })
    }

    /// A sysctl inside (path below /proc/sys); None when there is none.
    pub fn sysctl(&self, path: &str) -> Result<Option<String>, TestbedError> {
        self.run(|| sysctl::read(path))?
            .map_err(|source| TestbedError::System { what: format!("reading sysctl {path}"), source })
    }
}

fn plain_address(dev: &str, address: IpNetwork) -> Address {
    Address { dev: dev.to_owned(), address, scope: Scope::GLOBAL, protocol: 0 }
}
