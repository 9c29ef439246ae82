//! The order of the steps: a path that works before and after works all the way.
//!
//! 1. Links are made and named, sysctls set.
//! 2. What stands on links that are up: neighbours, routes of other tables than main, then the rules that lead there.
//! 3. Link by link: addresses, up, and what stands on it in other tables than main. The kernel now puts connected subnets
//!    into main: the rules of 2 and the routes of main that lie inside such a subnet are there already, so that it
//!    captures nothing.
//! 4. Main: added, then the rules that lead there, then what it displaces deleted.
//! 5. Rules that are not wanted go, then the routes of the tables they led to, then neighbours, addresses, links.
//!
//! Inside a table what the kernel asks first (the longest prefix, the lowest metric) is added first and deleted last; among
//! rules likewise. So each lookup finds either what it found before or what it will find in the end. The one exception:
//! a gateway's own subnet has to be there before the routes by that gateway.

use std::cmp::Reverse;

use ipnetwork::IpNetwork;

use super::Diff;
use super::address::AddressChanges;
use super::link::LinkChanges;
use super::neighbour::NeighbourChanges;
use super::route::RouteChanges;
use super::rule::RuleChanges;
use super::sysctl::SysctlChanges;
use super::view::View;
use crate::object::{Address, Route, Rule};
use crate::step::{Placement, Step};
use crate::tables::MAIN;

pub(super) struct Changes {
    pub(super) links: LinkChanges,
    pub(super) addresses: AddressChanges,
    pub(super) neighbours: NeighbourChanges,
    pub(super) routes: RouteChanges,
    pub(super) rules: RuleChanges,
    pub(super) sysctls: SysctlChanges,
    pub(super) filter: Option<Step>,
}

pub(super) fn order(view: &View, changes: Changes) -> Diff {
    let Changes { links, addresses, neighbours, routes, rules, sysctls, filter } = changes;
    let blocked = [links.blocked, addresses.blocked, neighbours.blocked, routes.blocked, sysctls.blocked].concat();
    let (main, others): (Vec<_>, Vec<_>) = adding(routes.add).into_iter().partition(|(route, _)| route.table == MAIN);
    let (main_now, main_later): (Vec<_>, Vec<_>) =
        main.into_iter().partition(|(route, _)| is_early(route, view) && is_captured(route, view));
    let (others_now, mut others_later): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(route, _)| is_early(route, view));
    let arrivals = arrivals(view, addresses.replace, addresses.add, links.up, &mut others_later);
    let (rules_later, rules_now): (Vec<_>, Vec<_>) =
        asked_first(rules.add.clone()).into_iter().partition(|rule| awaits_main(rule, &rules.add, view));
    let (neighbours_now, neighbours_later): (Vec<_>, Vec<_>) =
        neighbours.set.into_iter().partition(|neighbour| view.is_ready(&neighbour.dev));
    let (main_gone, others_gone): (Vec<_>, Vec<_>) =
        deleting(routes.delete).into_iter().partition(|route| route.table == MAIN);

    let steps = (links.prepare.into_iter())
        .chain(sysctls.set)
        .chain(neighbours_now.into_iter().map(Step::SetNeighbour))
        .chain(others_now.into_iter().map(add_route))
        .chain(rules_now.into_iter().map(Step::AddRule))
        .chain(main_now.into_iter().map(add_route))
        .chain(arrivals)
        .chain(neighbours_later.into_iter().map(Step::SetNeighbour))
        .chain(others_later.into_iter().map(add_route))
        .chain(main_later.into_iter().map(add_route))
        .chain(rules_later.into_iter().map(Step::AddRule))
        // Marks mean nothing before their rule is there, and nothing leads anywhere without them.
        .chain(filter)
        .chain(departures(main_gone, rules.delete))
        .chain(others_gone.into_iter().map(Step::DeleteRoute))
        .chain(neighbours.delete.into_iter().map(Step::DeleteNeighbour))
        .chain(addresses.delete.into_iter().map(Step::DeleteAddress))
        .chain(links.delete)
        .collect();
    Diff { steps, blocked }
}

fn add_route((route, placement): (Route, Placement)) -> Step {
    Step::AddRoute(route, placement)
}

/// The fresh links one after another, each with what stands on it in other tables than main (taken out of `routes`).
fn arrivals(
    view: &View,
    replace: Vec<Address>,
    add: Vec<Address>,
    up: Vec<Step>,
    routes: &mut Vec<(Route, Placement)>,
) -> Vec<Step> {
    // Addresses on links that are down and stay so come first: they change nothing.
    let mut steps: Vec<Step> = Vec::new();
    let is_arriving = |address: &Address| view.arrivals.contains(&address.dev);
    let (add, inert): (Vec<Address>, Vec<Address>) = add.into_iter().partition(is_arriving);
    steps.extend(replace.into_iter().map(Step::DeleteAddress));
    steps.extend(inert.into_iter().map(Step::AddAddress));
    for name in &view.arrivals {
        steps.extend(add.iter().filter(|address| address.dev == *name).cloned().map(Step::AddAddress));
        steps.extend(up.iter().filter(|step| matches!(step, Step::SetLinkUp { dev } if dev == name)).cloned());
        // A source that is another link's address may come later than this link.
        // One by another link that only waited for this one's address as its source goes before what is wider here.
        let is_on = |(route, _): &(Route, Placement)| {
            let comes_now = |src| add.iter().any(|it| it.dev == *name && it.address.ip() == src);
            let is_ready = || route.dev.as_deref().is_some_and(|dev| view.is_ready(dev));
            match route.src {
                Some(src) if comes_now(src) => route.dev.as_ref() == Some(name) || is_ready(),
                Some(src) => route.dev.as_ref() == Some(name) && !view.arriving.contains(&src),
                None => route.dev.as_ref() == Some(name),
            }
        };
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(routes).into_iter().partition(is_on);
        steps.extend(now.into_iter().map(add_route));
        *routes = later;
    }
    steps
}

/// Main loses its routes, then the rules go, what is asked first last.
///
/// A rule that leads to main keeps its packets from a wider rule behind it: what main has for it stays as long as the
/// rule, and goes right after, while the rules that are asked before still stand.
fn departures(main: Vec<Route>, rules: Vec<Rule>) -> Vec<Step> {
    let rules = asked_first(rules);
    let keeper_of = |route: &Route| {
        rules.iter().position(|rule| {
            let is_inside = |to: IpNetwork| to.prefix() <= route.dst.prefix() && to.contains(route.dst.ip());
            rule.table == MAIN && rule.from.is_none() && rule.to.is_some_and(is_inside)
        })
    };
    let (kept, free): (Vec<Route>, Vec<Route>) = main.into_iter().partition(|route| keeper_of(route).is_some());
    let mut steps: Vec<Step> = free.into_iter().map(Step::DeleteRoute).collect();
    for (position, rule) in rules.iter().enumerate().rev() {
        steps.push(Step::DeleteRule(rule.clone()));
        let released = kept.iter().filter(|route| keeper_of(route) == Some(position));
        steps.extend(released.cloned().map(Step::DeleteRoute));
    }
    steps
}

/// The route can stand before any address arrives and any link goes up.
fn is_early(route: &Route, view: &View) -> bool {
    route.dev.as_deref().is_none_or(|dev| view.is_ready(dev))
        && route.src.is_none_or(|src| !view.arriving.contains(&src))
}

/// A connected subnet that comes up would take its packets.
fn is_captured(route: &Route, view: &View) -> bool {
    view.connecting.iter().any(|subnet| subnet.prefix() <= route.dst.prefix() && subnet.contains(route.dst.ip()))
}

/// The rule leads to main for what main does not have yet, or would take the packets of such a rule.
fn awaits_main(rule: &Rule, added: &[Rule], view: &View) -> bool {
    let Some(to) = rule.to else { return false };
    added.iter().filter(|other| other.table == MAIN && other.from.is_none()).filter_map(|other| other.to).any(|inner| {
        let is_in_main = !view.connecting.contains(&inner)
            && view.routes.iter().any(|route| route.table == MAIN && route.dst == inner);
        !is_in_main && to.prefix() <= inner.prefix() && to.contains(inner.ip())
    })
}

/// Routes in the order to add them: table by table, what is asked first comes first, but a gateway's subnet before the
/// routes by that gateway.
fn adding(mut routes: Vec<(Route, Placement)>) -> Vec<(Route, Placement)> {
    routes.sort_by_key(|(route, _)| {
        (route.table, route.dst.is_ipv6(), Reverse(route.dst.prefix()), route.metric, route.dst)
    });
    let mut ordered: Vec<(Route, Placement)> = Vec::with_capacity(routes.len());
    while !routes.is_empty() {
        let first = routes[0].0.gateway.and_then(|gateway| {
            let table = routes[0].0.table;
            let dev = &routes[0].0.dev;
            routes.iter().position(|(route, _)| {
                route.gateway.is_none() && route.table == table && route.dev == *dev && route.dst.contains(gateway)
            })
        });
        ordered.push(routes.remove(first.unwrap_or(0)));
    }
    ordered
}

/// Routes in the order to delete them: what is asked first goes last; of one key that is the first.
fn deleting(mut routes: Vec<Route>) -> Vec<Route> {
    routes.reverse();
    routes
        .sort_by_key(|route| (route.table, route.dst.is_ipv6(), route.dst.prefix(), Reverse(route.metric), route.dst));
    routes
}

/// Rules in the order in which the kernel asks them.
fn asked_first(mut rules: Vec<Rule>) -> Vec<Rule> {
    rules.sort();
    rules
}
