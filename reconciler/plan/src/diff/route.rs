//! Routes: added, put before others of their key, and those that they displace deleted.

use ipnetwork::IpNetwork;

use super::Prune;
use super::view::View;
use crate::desired::{Desired, DesiredRoute};
use crate::object::Route;
use crate::ownership;
use crate::show::Table;
use crate::step::Placement;
use crate::tables::MAIN;

#[derive(Debug, Default)]
pub(super) struct RouteChanges {
    pub(super) add: Vec<(Route, Placement)>,
    pub(super) delete: Vec<Route>,
    pub(super) blocked: Vec<String>,
}

pub(super) fn diff(desired: &Desired, view: &View, prune: Prune) -> RouteChanges {
    let mut changes = RouteChanges::default();
    let mut unmade: Vec<(u32, IpNetwork)> = Vec::new();
    for DesiredRoute { route, exclusive } in &desired.routes {
        if view.routes.iter().any(|it| it.is_same(route)) {
            continue;
        }
        let obstacle = route.dev.as_deref().and_then(|dev| view.obstacle(dev));
        if let Some(obstacle) = obstacle.or_else(|| route.src.and_then(|src| view.lacks(src))) {
            changes.blocked.push(format!("route {route} in table {}: {obstacle}", Table(route.table)));
            unmade.push((route.table, route.dst));
            continue;
        }
        let has_key = |other: &Route| other.key() == route.key();
        let is_alone = !view.routes.iter().any(has_key) && !changes.add.iter().any(|(added, _)| has_key(added));
        let is_second = !exclusive && desired.routes.iter().any(|other| other.exclusive && has_key(&other.route));
        let placement = match (is_alone, is_second) {
            (true, _) => Placement::Alone,
            (false, false) => Placement::Before,
            (false, true) => Placement::After,
        };
        changes.add.push((route.clone(), placement));
    }
    for it in &view.routes {
        let is_wanted = desired.routes.iter().any(|wanted| wanted.route.is_same(it));
        // Nothing leaves its place before that which takes it can stand there.
        let is_needed = unmade.contains(&(it.table, it.dst));
        if !is_wanted && !is_needed && may_go(it, desired, view, prune) {
            changes.delete.push(it.clone());
        }
    }
    changes
}

fn may_go(route: &Route, desired: &Desired, view: &View, prune: Prune) -> bool {
    // A link of ours that goes would take its routes along; in main they go before the rules that overrule them.
    let is_doomed = route.table == MAIN && route.dev.as_ref().is_some_and(|dev| view.doomed.contains(dev));
    ownership::is_displaced(route, desired) || (prune == Prune::Yes && (ownership::is_our_route(route) || is_doomed))
}
