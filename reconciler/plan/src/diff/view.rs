//! The namespace as it will be once the link steps are done: what the other kinds compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::object::{Address, Neighbour, Observed, Route, RouteKind, Scope};
use crate::tables::{self, MAIN};

/// Whether a link can carry routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It is up.
    Ready,
    /// It goes up in this diff.
    Fresh,
    /// It is down, and not ours to set up.
    Down,
}

#[derive(Debug, Default)]
pub(super) struct View {
    /// By the names that they will have.
    pub(super) links: BTreeMap<String, Readiness>,
    /// Links that this diff deletes in the end.
    pub(super) doomed: BTreeSet<String>,
    pub(super) addresses: Vec<Address>,
    /// Those that the kernel will make for connected subnets included.
    pub(super) routes: Vec<Route>,
    pub(super) neighbours: Vec<Neighbour>,
    /// Subnets that the kernel will put into main when addresses and links come up.
    pub(super) connecting: BTreeSet<IpNetwork>,
    /// The fresh links in the order in which they are to go up.
    pub(super) arrivals: Vec<String>,
    /// Addresses that are not there yet: no route can have them as its source before.
    pub(super) arriving: BTreeSet<IpAddr>,
}

impl View {
    /// Takes over the objects of the observed links, `named` from the present to the coming name; links that are not in
    /// there are gone, and their objects with them. Objects without link stay.
    pub(super) fn of(observed: &Observed, named: &BTreeMap<&str, &str>) -> Self {
        let rename = |dev: &str| named.get(dev).map(|name| (*name).to_owned());
        Self {
            addresses: (observed.addresses.iter())
                .filter_map(|it| Some(Address { dev: rename(&it.dev)?, ..it.clone() }))
                .collect(),
            routes: (observed.routes.iter())
                .filter_map(|it| match &it.dev {
                    Some(dev) => Some(Route { dev: Some(rename(dev)?), ..it.clone() }),
                    None => Some(it.clone()),
                })
                .collect(),
            neighbours: (observed.neighbours.iter())
                .filter_map(|it| Some(Neighbour { dev: rename(&it.dev)?, ..it.clone() }))
                .collect(),
            ..Self::default()
        }
    }

    /// Why an object on that link cannot be made; None when it can.
    pub(super) fn obstacle(&self, dev: &str) -> Option<String> {
        match self.links.get(dev) {
            Some(Readiness::Ready | Readiness::Fresh) => None,
            Some(Readiness::Down) => Some(format!("link {dev} is down and not dragline's to set up")),
            None => Some(format!("link {dev} is not there and not dragline's to make")),
        }
    }

    /// Why no route can have that source; None when one can.
    pub(super) fn lacks(&self, src: IpAddr) -> Option<String> {
        let is_there = self.arriving.contains(&src) || self.addresses.iter().any(|it| it.address.ip() == src);
        (!is_there).then(|| format!("its source {src} is no address of the pod"))
    }

    /// The link is up and nothing on it is about to change.
    pub(super) fn is_ready(&self, dev: &str) -> bool {
        self.links.get(dev) == Some(&Readiness::Ready)
    }

    /// The kernel puts an address's subnet into main when address and link are up: appended, so that it never goes
    /// before what is there.
    pub(super) fn connect(&mut self, address: &Address) {
        let network = address.address;
        let Ok(dst) = IpNetwork::new(network.network(), network.prefix()) else { return };
        if dst == IpNetwork::from(network.ip()) {
            return;
        }
        let is_v4 = network.is_ipv4();
        let connected = Route {
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
        };
        if !self.routes.contains(&connected) {
            self.connecting.insert(dst);
            self.routes.push(connected);
        }
    }
}

/// `RTPROT_KERNEL`.
const KERNEL: u8 = 2;
