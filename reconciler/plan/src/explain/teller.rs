//! A lookup in words, each rule, route and neighbour with its reason.

use std::net::IpAddr;

use super::local::{TO_ALL, TO_US};
use super::lookup::{Asked, End, Key, Walk, World};
use super::reason::{Context, Thing};
use super::{Arrival, Fate, Hop, NextHop, ReturnPath, RuleStep, RuleVerdict, Taken, Way, arrival, source, text};
use crate::RP_FILTER;
use crate::object::{Route, RouteKind};
use crate::show::Table;

/// Puts a lookup into words and reasons.
pub(super) struct Teller<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) context: &'a Context<'a>,
}

impl Teller<'_> {
    pub(super) fn way(&self, walk: &Walk<'_>, to: IpAddr) -> Way {
        let rules = walk.asked.iter().map(|(rule, asked)| {
            let (verdict, why) = match asked {
                Asked::Other(why) => (RuleVerdict::NotMatched, why),
                Asked::Unknown(why) => (RuleVerdict::Unknown, why),
                Asked::Empty(why) => (RuleVerdict::Empty, why),
                Asked::Decides(why) => (RuleVerdict::Decides, why),
            };
            RuleStep {
                rule: rule.to_string(),
                priority: rule.priority,
                verdict,
                why: why.clone(),
                reason: self.context.reason(Thing::Rule(rule)),
            }
        });
        let rules = rules.collect();
        let refused = |why: String| (Fate::Refused, why);
        let (fate, why) = match (&walk.end, walk.route()) {
            (End::Nothing, _) => refused(format!("no rule leads to a route to {to} (network is unreachable)")),
            (End::Refused { rule, kind }, _) => refused(format!("rule `{rule}`: {}", refusal(*kind))),
            (End::Routes { .. }, Some(route)) => match route.kind {
                RouteKind::Unicast | RouteKind::Multipath => (Fate::Leaves, String::new()),
                kind if kind == TO_US => (Fate::Stays, String::new()),
                kind if kind == TO_ALL => (Fate::Leaves, String::new()),
                RouteKind::Other(kind) => refused(refusal(kind).to_owned()),
            },
            (End::Routes { .. }, None) => refused(format!("no route to {to}")),
        };
        let route = walk.route().map(|route| self.taken(route, walk, to));
        Way { rules, fate, route, why }
    }

    fn taken(&self, route: &Route, walk: &Walk<'_>, to: IpAddr) -> Taken {
        let stays = route.kind == TO_US;
        let others = match &walk.end {
            End::Routes { routes, .. } => routes.get(1..).unwrap_or_default(),
            End::Refused { .. } | End::Nothing => &[],
        };
        let others = others.iter().map(|other| Hop {
            dev: other.dev.clone(),
            gateway: other.gateway,
            source: source::choose(self.world.seen, other, to).0,
        });
        let others = others.collect();
        let dev = if stays { Some("lo".to_owned()) } else { route.dev.clone() };
        Taken {
            route: text::route(route),
            table: route.table,
            next_hop: if route.kind == RouteKind::Unicast { self.next_hop(route, to) } else { None },
            dev,
            gateway: route.gateway,
            others,
            reason: self.context.reason(Thing::Route(route)),
        }
    }

    fn next_hop(&self, route: &Route, to: IpAddr) -> Option<NextHop> {
        let dev = route.dev.as_deref()?;
        let address = route.gateway.unwrap_or(to);
        let known = self.world.seen.neighbours.iter().find(|it| it.dev == dev && it.address == address);
        let how = if address.is_ipv4() { "ARP" } else { "NDP" };
        let (neighbour, reason) = match known {
            Some(neighbour) => {
                let mac = neighbour.mac.map_or_else(|| "no hardware address".to_owned(), |mac| mac.to_string());
                let lasts = if neighbour.permanent { "permanent" } else { "not permanent" };
                (format!("{address} is {mac} on {dev}, {lasts}"), self.context.reason(Thing::Neighbour(neighbour)))
            }
            None => (format!("{address} is resolved on the link of {dev} ({how})"), None),
        };
        Some(NextHop { address, neighbour, reason })
    }

    /// `connect` of TCP and UDP asks IPv4 again with the source that it was given: `from` rules count then.
    pub(super) fn looked_up_again(&self, to: IpAddr, own: IpAddr, request: &Way) -> Option<String> {
        if to.is_ipv6() {
            return None;
        }
        let again = self.way(&self.world.walk(Key { to, from: Some(own), iif: None }), to);
        let (first, second) = (request.route.as_ref()?, again.route.as_ref()?);
        let is_same = (first.table, &first.dev, first.gateway) == (second.table, &second.dev, second.gateway);
        (!is_same).then(|| {
            format!(
                "a connected socket (TCP) is looked up again with source {own}, and goes along `{}` in table {}",
                second.route,
                Table(second.table)
            )
        })
    }

    /// The peer's packet comes to the NIC that has the pod's address.
    pub(super) fn way_back(
        &self,
        to: IpAddr,
        own: IpAddr,
        request: &Way,
        notes: &mut Vec<String>,
    ) -> Option<ReturnPath> {
        let nic = self.world.holder(own)?.to_owned();
        let (arrival, _) = arrival::arrive(self.world, own, to, &nic);
        let arrival = self.reasoned(arrival);
        let answer = self.answer(to, own, notes);
        let leaves = request.route.as_ref().and_then(|route| route.dev.clone());
        let answers = answer.route.as_ref().and_then(|route| route.dev.clone());
        let is_same = leaves.as_deref() == Some(&nic) && answers.as_deref() == Some(&nic);
        let text = match (is_same, &leaves, &answers) {
            (true, ..) => format!("request and reply both use {nic}"),
            (false, Some(leaves), _) if *leaves != nic => {
                format!("request and reply differ: it leaves by {leaves}, and the reply to {own} comes by {nic}")
            }
            (false, _, Some(answers)) => {
                format!("what {to} begins comes by {nic} and is answered by {answers}: they differ")
            }
            (false, _, None) => format!("what {to} begins comes by {nic} and finds no way back"),
        };
        Some(ReturnPath { arrival, answer, is_same, text })
    }

    /// With the object that decided how strict the check is.
    pub(super) fn reasoned(&self, mut arrival: Arrival) -> Arrival {
        if arrival.rp_filter.mode.is_some() {
            arrival.rp_filter.reason = self.context.reason(Thing::Sysctl(RP_FILTER));
        }
        arrival
    }

    pub(super) fn answer_to_arrival(
        &self,
        arrival: &Arrival,
        from: IpAddr,
        to: IpAddr,
        notes: &mut Vec<String>,
    ) -> ReturnPath {
        let answer = self.answer(from, to, notes);
        let answers = answer.route.as_ref().and_then(|route| route.dev.as_deref());
        let is_same = answer.fate == Fate::Leaves && answers == Some(&arrival.nic);
        let text = match answers {
            Some(_) if is_same => format!("the reply leaves by {}, as the request came", arrival.nic),
            Some(dev) => format!("request and reply differ: it came by {}, and the reply leaves by {dev}", arrival.nic),
            None => format!("there is no way back to {from}"),
        };
        ReturnPath { arrival: arrival.clone(), answer, is_same, text }
    }

    fn answer(&self, to: IpAddr, from: IpAddr, notes: &mut Vec<String>) -> Way {
        let walk = self.world.walk(Key { to, from: Some(from), iif: None });
        notes.extend(walk.doubts.iter().cloned());
        self.way(&walk, to)
    }
}

fn refusal(kind: u8) -> &'static str {
    match kind {
        6 => "blackhole: thrown away without a word (EINVAL)",
        7 => "unreachable (EHOSTUNREACH)",
        8 => "prohibited (EACCES)",
        _ => "a kind of route that is not understood",
    }
}
