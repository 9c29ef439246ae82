//! The kernel's lookup: rules by priority, their tables, of a table the longest prefix, the lowest metric, the first.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::local::{self, LOCAL};
use super::selectors::{Action, Selectors};
use crate::object::{Observed, Route, RouteKind, Rule};
use crate::show::Table;

/// `RTN_UNICAST` of a route for one TOS, source or tunnel only.
const SPECIAL: RouteKind = RouteKind::Other(1);
/// `RTN_THROW`.
const THROW: RouteKind = RouteKind::Other(9);

/// A namespace with its table local.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) seen: &'a Observed,
    local: Vec<Route>,
}

/// What is looked up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) to: IpAddr,
    pub(super) from: Option<IpAddr>,
    /// The NIC by which it arrives; None is made here, which rules see as `lo`.
    pub(super) iif: Option<&'a str>,
}

/// What became of the question to a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// It is for other packets.
    Other(String),
    /// Nothing can be said: it is taken for one that does not match.
    Unknown(String),
    /// It matches, and leads nowhere.
    Empty(String),
    /// It matches and decides.
    Decides(String),
}

/// How a lookup ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End<'w> {
    /// A route, or one of several that are the kernel's choice; the first is the likeliest.
    Routes { rule: &'w Rule, routes: Vec<&'w Route> },
    /// A rule refuses: the kernel's number of the kind.
    Refused { rule: &'w Rule, kind: u8 },
    /// No rule leads to a route.
    Nothing,
}

/// A lookup from its first rule to its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Walk<'w> {
    pub(super) asked: Vec<(&'w Rule, Asked)>,
    pub(super) end: End<'w>,
    /// What the lookup does not see to the ground.
    pub(super) doubts: Vec<String>,
}

impl Walk<'_> {
    /// The route that is taken, or the likeliest.
    pub(super) fn route(&self) -> Option<&Route> {
        match &self.end {
            End::Routes { routes, .. } => routes.first().copied(),
            End::Refused { .. } | End::Nothing => None,
        }
    }
}

impl<'a> World<'a> {
    pub(super) fn of(seen: &'a Observed) -> Self {
        Self { seen, local: local::routes(seen) }
    }

    /// Whether the kernel would deliver packets for that address here.
    pub(super) fn is_local(&self, ip: IpAddr) -> bool {
        let fitting = self.local.iter().filter(|route| route.dst.contains(ip));
        fitting.max_by_key(|route| route.dst.prefix()).is_some_and(|route| route.kind == local::TO_US)
    }

    /// The NIC that has the address.
    pub(super) fn holder(&self, ip: IpAddr) -> Option<&str> {
        self.seen.addresses.iter().find(|address| address.address.ip() == ip).map(|address| address.dev.as_str())
    }

    /// Rules other than the kernel's three: then the kernel checks the source of what arrives in full.
    pub(super) fn has_own_rules(&self) -> bool {
        let built_in = [(0, LOCAL), (32766, 254), (32767, 253)];
        let v4 = self.seen.rules.iter().filter(|rule| !rule.v6);
        v4.clone().count() != built_in.len()
            || !v4.clone().zip(built_in).all(|(rule, (priority, table))| {
                rule.priority == priority
                    && rule.table == table
                    && rule.from.is_none()
                    && rule.to.is_none()
                    && rule.other.is_none()
            })
    }

    pub(super) fn walk(&self, key: Key<'_>) -> Walk<'_> {
        let mut walk = Walk { asked: Vec::new(), end: End::Nothing, doubts: Vec::new() };
        let mut from_priority = 0;
        for rule in self.seen.rules.iter().filter(|rule| rule.v6 == key.to.is_ipv6()) {
            if rule.priority < from_priority {
                continue;
            }
            let selectors = Selectors::of(rule);
            if let Some(not) = mismatch(rule, &selectors, key) {
                if let Asked::Unknown(why) = &not {
                    walk.doubts.push(format!("rule {rule}: {why}"));
                }
                walk.asked.push((rule, not));
                continue;
            }
            match self.act(rule, &selectors, key, &mut walk.doubts) {
                Ok(end) => {
                    let why = decides(rule, key, &end);
                    walk.asked.push((rule, Asked::Decides(why)));
                    walk.end = end;
                    return walk;
                }
                Err(why) => walk.asked.push((rule, Asked::Empty(why))),
            }
            if let Action::Goto(priority) = selectors.action {
                from_priority = priority;
            }
        }
        walk
    }

    /// What a rule that matches leads to, or why the lookup goes on.
    fn act<'w>(
        &'w self,
        rule: &'w Rule,
        selectors: &Selectors,
        key: Key<'_>,
        doubts: &mut Vec<String>,
    ) -> Result<End<'w>, String> {
        match selectors.action {
            Action::Nop => return Err("it matches and does nothing".into()),
            Action::Goto(priority) => return Err(format!("it matches and goes on at {priority}")),
            Action::Unknown => {
                doubts.push(format!("rule {rule} does something that is not understood: taken for nothing"));
                return Err("it matches, and what it does is not understood".into());
            }
            Action::Refuse(kind) => return Ok(End::Refused { rule, kind }),
            Action::Table => {}
        }
        let table = Table(rule.table);
        let routes = self.best(rule.table, key, doubts);
        let Some(first) = routes.first() else {
            return Err(format!("table {table} has no route to {}", key.to));
        };
        if first.kind == THROW {
            return Err(format!("table {table} has `{first}`: back to the rules"));
        }
        match selectors.suppress_prefix {
            Some(longest) if first.dst.prefix() <= longest => {
                Err(format!("table {table} has `{first}`, which this rule does not count"))
            }
            _ => Ok(End::Routes { rule, routes }),
        }
    }

    /// The routes of a table that the kernel would choose among.
    fn best(&self, table: u32, key: Key<'_>, doubts: &mut Vec<String>) -> Vec<&Route> {
        let fits = |route: &&Route| route.table == table && route.dst.contains(key.to) && self.is_alive(route);
        let mut fitting: Vec<&Route> = self.seen.routes.iter().chain(&self.local).filter(fits).collect();
        fitting.sort_by_key(|route| (Reverse(route.dst.prefix()), route.metric));
        let Some(position) = fitting.iter().position(|route| route.kind != SPECIAL && reaches(route, key)) else {
            return Vec::new();
        };
        let passed = fitting.iter().take(position).filter(|route| route.kind == SPECIAL);
        doubts.extend(passed.map(|route| {
            format!("route {route} in table {} is for one TOS, source or tunnel: passed over", Table(table))
        }));
        let first = fitting[position];
        let equal: Vec<&Route> = fitting[position..]
            .iter()
            .filter(|route| route.key() == first.key() && route.kind != SPECIAL && reaches(route, key))
            .copied()
            .collect();
        let chosen = match key.to {
            IpAddr::V4(_) => self.choices_v4(first, equal),
            IpAddr::V6(_) => choices_v6(first, equal, key),
        };
        if chosen.len() > 1 {
            doubts.push(format!(
                "{} routes to {} in table {} have one metric, and which of them is taken changes",
                chosen.len(),
                first.dst,
                Table(table)
            ));
        }
        chosen
    }

    /// A route of a link that is down goes; of several legs of IPv6 one may stay behind, dead.
    fn is_alive(&self, route: &Route) -> bool {
        let link = route.dev.as_deref().and_then(|dev| self.seen.link(dev));
        route.kind != RouteKind::Unicast || link.is_none_or(|link| link.up)
    }

    /// Of defaults of one metric the kernel tries the one whose gateway answers; of all else the first is taken.
    fn choices_v4<'w>(&self, first: &'w Route, equal: Vec<&'w Route>) -> Vec<&'w Route> {
        let is_default = first.is_default() && first.kind == RouteKind::Unicast && first.gateway.is_some();
        let is_broadcast = first.kind == local::TO_ALL;
        equal
            .into_iter()
            .filter(|route| {
                std::ptr::eq(*route, first)
                    || (is_default && route.kind == first.kind && route.scope == first.scope && route.gateway.is_some())
                    || (is_broadcast && route.kind == first.kind)
            })
            .collect()
    }
}

/// Routes by a gateway and of one metric share the traffic, by a hash; of others the first is taken, and of what arrives
/// rather one by the same link.
fn choices_v6<'w>(first: &'w Route, equal: Vec<&'w Route>, key: Key<'_>) -> Vec<&'w Route> {
    let by_same = |route: &&&Route| key.iif.is_some() && route.dev.as_deref() == key.iif;
    let best = equal.iter().find(by_same).copied().unwrap_or(first);
    let shares = |route: &&Route| best.gateway.is_some() && route.gateway.is_some() && !std::ptr::eq(*route, best);
    std::iter::once(best).chain(equal.iter().copied().filter(shares)).collect()
}

/// A packet of a link stays on its link.
fn reaches(route: &Route, key: Key<'_>) -> bool {
    match (key.to, key.iif) {
        (IpAddr::V6(to), Some(iif)) if to.is_unicast_link_local() || to.is_loopback() => {
            route.dev.is_none() || route.dev.as_deref() == Some(iif)
        }
        _ => true,
    }
}

/// Why a rule is not for the packet; None when it is.
fn mismatch(rule: &Rule, selectors: &Selectors, key: Key<'_>) -> Option<Asked> {
    let found = plain_mismatch(rule, selectors, key);
    let found = match (selectors.is_inverted, found) {
        (false, found) => found,
        (true, None) => Some("its `not` turns a match round".to_owned()),
        (true, Some(_)) => None,
    };
    match found {
        Some(why) => Some(Asked::Other(why)),
        None if selectors.unknown.is_empty() => None,
        None => Some(Asked::Unknown(format!(
            "cannot tell: what it asks for ({}) is not understood; taken for one that does not match",
            selectors.unknown.join(" ")
        ))),
    }
}

fn plain_mismatch(rule: &Rule, selectors: &Selectors, key: Key<'_>) -> Option<String> {
    if let Some(from) = rule.from {
        match key.from {
            None => return Some("the packet has no source yet".into()),
            Some(source) if !contains(from, source) => return Some(format!("{source} is not {}", kind_of(from))),
            Some(_) => {}
        }
    }
    if let Some(to) = rule.to.filter(|to| !contains(*to, key.to)) {
        return Some(format!("{} is not {}", key.to, kind_of(to)));
    }
    let arrives = key.iif.unwrap_or("lo");
    if let Some(iif) = selectors.iif.as_deref().filter(|iif| *iif != arrives) {
        let how = key.iif.map_or_else(|| "is made here".to_owned(), |by| format!("arrives by {by}"));
        return Some(format!("the packet {how}, not by {iif}"));
    }
    if let Some(oif) = &selectors.oif {
        return Some(format!("only for sockets bound to {oif}"));
    }
    if let Some((mark, mask)) = selectors.mark.filter(|(mark, _)| *mark != 0) {
        return Some(format!("only for packets with mark {mark:#x}/{mask:#x}; this one has none"));
    }
    if selectors.tos {
        return Some("only for packets of one type of service".into());
    }
    None
}

fn contains(network: IpNetwork, ip: IpAddr) -> bool {
    network.is_ipv4() == ip.is_ipv4() && network.contains(ip)
}

fn kind_of(network: IpNetwork) -> Cow<'static, str> {
    match network.prefix() {
        32 if network.is_ipv4() => network.ip().to_string().into(),
        128 => network.ip().to_string().into(),
        _ => format!("in {network}").into(),
    }
}

fn decides(rule: &Rule, key: Key<'_>, end: &End<'_>) -> String {
    let matches = match (rule.from, rule.to) {
        (Some(_), _) => "source matches",
        (None, Some(_)) => "destination matches",
        (None, None) => "for all packets",
    };
    match end {
        End::Routes { routes, .. } => match routes.first() {
            Some(route) => format!("{matches}; table {} has {}", Table(rule.table), super::text::route(route)),
            None => matches.to_owned(),
        },
        End::Refused { .. } => format!("{matches}: refused"),
        End::Nothing => format!("{matches}, nothing to {}", key.to),
    }
}
