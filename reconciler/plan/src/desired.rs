//! What one namespace should hold.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use schemas::intent::{LinkIdentity, LinkIntent};
use schemas::name::{IfName, Mac};
use schemas::uplink::{BondIntent, UplinkIntent};
use serde::{Deserialize, Serialize};

use crate::filter::FilterTable;
use crate::object::{Address, Neighbour, Route, Rule};

/// What should be in one namespace, and what should have left table main. Every list is sorted and without duplicates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Links, ours and those of other plugins that we keep in place.
    pub links: Vec<DesiredLink>,
    /// Links of ours that were withdrawn: by name and hardware address, so that one without its alias goes too.
    pub withdrawn_links: Vec<DesiredLink>,
    /// Addresses; `protocol` is ours.
    pub addresses: Vec<Address>,
    /// Routes; `protocol` is ours.
    pub routes: Vec<DesiredRoute>,
    /// Routes that the plan moved out of a table: whoever made them, they are to be absent.
    pub absent_routes: Vec<RoutePattern>,
    /// Rules; `protocol` is ours.
    pub rules: Vec<Rule>,
    /// Permanent neighbours; `protocol` is ours.
    pub neighbours: Vec<Neighbour>,
    /// Sysctls by path below /proc/sys.
    pub sysctls: BTreeMap<String, String>,
    /// Our nftables table.
    #[serde(default)]
    pub filter: Option<FilterTable>,
}

/// A link that should be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DesiredLink {
    /// Its name.
    pub name: String,
    /// Who makes it.
    pub origin: LinkOrigin,
    /// The hardware address that a link of another plugin is given; one of ours has it in its intent.
    pub mac: Option<Mac>,
    /// The transmit queue's length, where one is asked for.
    pub tx_queue_len: Option<u32>,
}

/// Who makes a link. Either way it is to have its name and to be up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LinkOrigin {
    /// We do, and mark it with this alias.
    Made {
        /// How.
        intent: LinkIntent,
        /// `ip link set alias`: see [`crate::ownership::alias`].
        alias: String,
    },
    /// We do, as one end of a veth pair whose other end is in the node's namespace, and mark it with this alias.
    Pair {
        /// How.
        pair: PairIntent,
        /// `ip link set alias`.
        alias: String,
    },
    /// The node's end of such a pair: it comes and goes with the other one.
    PairEnd {
        /// How both were made.
        pair: PairIntent,
        /// `ip link set alias`.
        alias: String,
    },
    /// Another plugin did: never created, changed or deleted by us beyond name, state and what is asked for here.
    Found(LinkIdentity),
    /// A link of the node that pods stand on.
    Uplink(Uplink),
}

/// A link of the node that pods stand on. One that was there before is used as it is, and never deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Uplink {
    /// A VLAN sub-interface.
    Vlan {
        /// Of this link.
        parent: IfName,
        /// Its ID.
        id: u16,
    },
    /// A bond.
    Bond {
        /// How.
        intent: BondIntent,
        /// Its slaves, where it is ours.
        slaves: Vec<IfName>,
    },
    /// Hardware or another program's: only set up.
    Present,
}

impl DesiredLink {
    /// The links of an uplink, by name: those below it first.
    pub fn of_uplink(uplink: &UplinkIntent) -> Vec<Self> {
        let link = |name: String, kind| Self { name, origin: LinkOrigin::Uplink(kind), mac: None, tx_queue_len: None };
        let mut links: Vec<Self> =
            uplink.interfaces.iter().map(|name| link(name.to_string(), Uplink::Present)).collect();
        if let Some(intent) = &uplink.bond {
            let kind = Uplink::Bond { intent: intent.clone(), slaves: uplink.interfaces.clone() };
            links.push(link(intent.name.to_string(), kind));
        }
        if let (Some(parent), Some(id), Some(name)) = (uplink.base(), uplink.vlan, uplink.vlan_name()) {
            links.push(link(name, Uplink::Vlan { parent: parent.clone(), id }));
        }
        links
    }
}

/// Puts what several sandboxes want of the node's links into one list: each once, and what one of them makes is there
/// for the others.
pub fn merge_links(links: &mut Vec<DesiredLink>) {
    links.sort();
    links.dedup();
    let is_present = |link: &DesiredLink| link.origin == LinkOrigin::Uplink(Uplink::Present);
    links.dedup_by(|later, first| later.name == first.name && is_present(later));
}

/// A veth pair from a pod to its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PairIntent {
    /// The hardware address of the pod's end.
    pub mac: Mac,
    /// The name of the node's end.
    pub peer: String,
    /// The hardware address of the node's end.
    pub peer_mac: Mac,
    /// The MTU of both.
    pub mtu: u32,
}

/// A route that should be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DesiredRoute {
    /// The route.
    pub route: Route,
    /// It alone may hold its key (table, destination, metric): another route with that key goes. Otherwise it stands
    /// beside it.
    pub exclusive: bool,
}

/// Routes by what all of them have, whoever made them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RoutePattern {
    /// The table.
    pub table: u32,
    /// The destination.
    pub dst: IpNetwork,
    /// The outgoing link.
    pub dev: String,
    /// The metric; None is any.
    #[serde(default)]
    pub metric: Option<u32>,
}

impl RoutePattern {
    /// Whether the route is one of these.
    pub fn matches(&self, route: &Route) -> bool {
        let has_metric = self.metric.is_none_or(|metric| route.metric == metric);
        has_metric && route.table == self.table && route.dst == self.dst && route.dev.as_deref() == Some(&self.dev)
    }
}
