//! What a case is made of.

use serde_json::{Map, Value};

/// IPv4, IPv6 or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Families {
    V4,
    V6,
    Both,
}

impl Families {
    /// Of both families, those that it has: is it IPv6?
    pub(crate) fn each(self) -> Vec<bool> {
        match self {
            Self::V4 => vec![false],
            Self::V6 => vec![true],
            Self::Both => vec![false, true],
        }
    }
}

/// Which underlay network a NIC is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Network {
    /// On ens192: 10.6.0.0/16, fd00:6::/64.
    First,
    /// On ens224: 10.8.212.0/24, fd00:8::/64.
    Second,
}

/// Whose macvlan plugin makes a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Own,
    Reference,
}

/// One NIC that the runtime attaches.
#[derive(Debug, Clone)]
pub(crate) struct Nic {
    pub(crate) name: &'static str,
    pub(crate) network: Network,
    pub(crate) families: Families,
    pub(crate) has_gateway: bool,
    pub(crate) by: By,
    /// Of the coordinator's part of its network configuration.
    pub(crate) keys: Map<String, Value>,
}

pub(crate) fn nic(name: &'static str, network: Network) -> Nic {
    Nic { name, network, families: Families::V4, has_gateway: true, by: By::Own, keys: Map::new() }
}

impl Nic {
    pub(crate) fn families(self, families: Families) -> Self {
        Self { families, ..self }
    }

    pub(crate) fn without_gateway(self) -> Self {
        Self { has_gateway: false, ..self }
    }

    pub(crate) fn by(self, by: By) -> Self {
        Self { by, ..self }
    }

    pub(crate) fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn is_tuned(&self) -> bool {
        self.keys.get("tunePodRoutes") != Some(&Value::Bool(false))
    }
}

/// How a pod reaches its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By the default CNI's eth0, of these families.
    Overlay(Families),
    /// By veth0.
    Underlay,
}

/// In which order the NICs are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first one last.
    Backwards,
    /// The first one first.
    Forwards,
    /// The namespace goes first, as when a node's runtime was killed.
    NamespaceFirst,
}

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) mode: Mode,
    pub(crate) nics: Vec<Nic>,
    /// `ipam.spidernet.io/default-route-nic`.
    pub(crate) annotated: Option<&'static str>,
    pub(crate) order: Order,
    /// Lines that the tables must have, beside what is in the golden file: what the case is about, said again by hand.
    pub(crate) must_have: Vec<&'static str>,
}

pub(crate) fn case(name: &'static str, mode: Mode, nics: impl IntoIterator<Item = Nic>) -> Case {
    Case {
        name,
        mode,
        nics: nics.into_iter().collect(),
        annotated: None,
        order: Order::Backwards,
        must_have: Vec::new(),
    }
}

impl Case {
    pub(crate) fn annotated(self, nic: &'static str) -> Self {
        Self { annotated: Some(nic), ..self }
    }

    pub(crate) fn order(self, order: Order) -> Self {
        Self { order, ..self }
    }

    pub(crate) fn must_have(self, lines: impl IntoIterator<Item = &'static str>) -> Self {
        Self { must_have: lines.into_iter().collect(), ..self }
    }

    /// The link by which the pod reaches its cluster.
    pub(crate) fn inside(&self) -> &'static str {
        match self.mode {
            Mode::Overlay(_) => "eth0",
            Mode::Underlay => "veth0",
        }
    }

    /// The NIC that the pod's unbound packets to the world leave by: `attached` of the NICs are there.
    pub(crate) fn default_nic(&self, attached: &[&Nic], v6: bool) -> Option<&'static str> {
        let can_hold = |nic: &&&Nic| nic.has_gateway && nic.families.each().contains(&v6);
        let inside = match self.mode {
            Mode::Overlay(families) if families.each().contains(&v6) => Some("eth0"),
            Mode::Overlay(_) | Mode::Underlay => None,
        };
        let by_conf = attached.iter().rev().find_map(|nic| nic.keys.get("podDefaultRouteNic")?.as_str());
        let first = attached.iter().find(can_hold).map(|nic| nic.name).or(inside);
        match by_conf.or(self.annotated) {
            Some("eth0") if matches!(self.mode, Mode::Overlay(_)) => inside,
            Some(named) => attached.iter().filter(can_hold).find(|nic| nic.name == named).map(|nic| nic.name).or(first),
            None => first,
        }
    }
}
