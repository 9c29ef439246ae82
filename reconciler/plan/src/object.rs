//! Kernel objects as values: what netlink says, with interface names instead of indexes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::intent::{IpvlanMode, LinkKindIntent, MacvlanMode};
use schemas::name::Mac;
use schemas::uplink::BondOption;
use serde::{Deserialize, Serialize};

use crate::filter::FilterTable;

/// One namespace, whole. What is missing here is missing in the kernel; a dump that was cut never becomes one of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// All links.
    pub links: Vec<Link>,
    /// All addresses.
    pub addresses: Vec<Address>,
    /// Routes of all tables, without those of table local and without cached ones.
    pub routes: Vec<Route>,
    /// All rules.
    pub rules: Vec<Rule>,
    /// Neighbours that are permanent or carry our protocol.
    pub neighbours: Vec<Neighbour>,
    /// The asked-for sysctls by path below /proc/sys, trimmed; one that does not exist is missing.
    pub sysctls: BTreeMap<String, String>,
    /// Our nftables table; None when there is none, or when it was not asked for.
    #[serde(default)]
    pub filter: Option<FilterTable>,
}

impl Observed {
    /// The link of that name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index in this namespace.
    pub index: u32,
    /// Its kind.
    pub kind: LinkKind,
    /// Its hardware address; None for kinds without one.
    pub mac: Option<Mac>,
    /// Its MTU.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// `ip link set alias`.
    pub alias: Option<String>,
    /// `IFLA_LINK`: the index of its lower link or peer, maybe in another namespace.
    pub lower: Option<u32>,
    /// `IFLA_MASTER`: the index of the bond or bridge that it is in.
    #[serde(default)]
    pub master: Option<u32>,
    /// Length of the transmit queue.
    pub tx_queue_len: u32,
}

/// A link's kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LinkKind {
    /// macvlan.
    Macvlan(MacvlanMode),
    /// ipvlan.
    Ipvlan(IpvlanMode),
    /// A VLAN sub-interface by its ID; its parent is [`Link::lower`].
    Vlan(u16),
    /// A bond.
    Bond(Bond),
    /// One end of a veth pair.
    Veth,
    /// Any other; the kernel's name of it, empty for real hardware.
    Other(String),
}

impl LinkKind {
    /// Whether it is the kind that is asked for, mode included.
    pub fn is(&self, intent: &LinkKindIntent) -> bool {
        match (self, intent) {
            (Self::Macvlan(found), LinkKindIntent::Macvlan(wanted)) => found == wanted,
            (Self::Ipvlan(found), LinkKindIntent::Ipvlan(wanted)) => found == wanted,
            _ => false,
        }
    }
}

/// A bond as it is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bond {
    /// The kernel's number of its mode.
    pub mode: u8,
    /// Its options that are numbers.
    pub numbers: BTreeMap<BondOption, u32>,
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The link.
    pub dev: String,
    /// Address and prefix length.
    pub address: IpNetwork,
    /// The scope.
    pub scope: Scope,
    /// `IFA_PROTO`, 0 when absent.
    pub protocol: u8,
}

/// The kernel's scope of an address or route, ordered from wide to narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope(pub u8);

impl Scope {
    /// Everywhere.
    pub const GLOBAL: Self = Self(0);
    /// On the link.
    pub const LINK: Self = Self(253);
    /// This host.
    pub const HOST: Self = Self(254);
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Its table.
    pub table: u32,
    /// The destination; the default route is 0.0.0.0/0 or ::/0.
    pub dst: IpNetwork,
    /// The metric; 0 is IPv4's default.
    pub metric: u32,
    /// The outgoing link; None for multipath, blackhole and the like.
    pub dev: Option<String>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The preferred source.
    pub src: Option<IpAddr>,
    /// The scope.
    pub scope: Scope,
    /// The next hop needs no route to it.
    pub onlink: bool,
    /// The kind.
    pub kind: RouteKind,
    /// Who made it: 2 the kernel, 3 by hand, [`crate::tables::PROTOCOL`] dragline.
    pub protocol: u8,
}

/// A route's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    /// To one next hop.
    Unicast,
    /// To several, or by a nexthop object: never made by dragline.
    Multipath,
    /// Blackhole, unreachable, prohibit, throw and all others: never made by dragline; the kernel's number.
    Other(u8),
}

impl Route {
    /// What the kernel tells IPv4 routes apart by before it looks at next hops.
    pub fn key(&self) -> (u32, IpNetwork, u32) {
        (self.table, self.dst, self.metric)
    }

    /// The same route whoever made it.
    pub fn is_same(&self, other: &Self) -> bool {
        Self { protocol: 0, ..self.clone() } == Self { protocol: 0, ..other.clone() }
    }

    /// Whether it is the default route of its family.
    pub fn is_default(&self) -> bool {
        self.dst.prefix() == 0
    }
}

/// A policy rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// The priority: lower is asked first.
    pub priority: u32,
    /// IPv6.
    pub v6: bool,
    /// Source; None is all.
    pub from: Option<IpNetwork>,
    /// Destination; None is all.
    pub to: Option<IpNetwork>,
    /// The packet's mark, all of its bits; None is any.
    #[serde(default)]
    pub mark: Option<u32>,
    /// The table looked up; 0 when it does something else.
    pub table: u32,
    /// It has other selectors or another action (part of a mark, iif, goto, ...): never made by dragline, kept as a text that is
    /// only compared.
    pub other: Option<String>,
    /// Who made it: 0 or 2 the kernel, [`crate::tables::PROTOCOL`] dragline.
    pub protocol: u8,
}

impl Rule {
    /// The same rule whoever made it.
    pub fn is_same(&self, other: &Self) -> bool {
        Self { protocol: 0, ..self.clone() } == Self { protocol: 0, ..other.clone() }
    }
}

/// A neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbour {
    /// The link.
    pub dev: String,
    /// The neighbour.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// It does not age.
    pub permanent: bool,
    /// Who made it.
    pub protocol: u8,
}
