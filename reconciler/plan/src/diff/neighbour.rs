//! Permanent neighbours.

use super::Prune;
use super::view::View;
use crate::desired::Desired;
use crate::object::Neighbour;
use crate::ownership;

#[derive(Debug, Default)]
pub(super) struct NeighbourChanges {
    pub(super) set: Vec<Neighbour>,
    pub(super) delete: Vec<Neighbour>,
    pub(super) blocked: Vec<String>,
}

pub(super) fn diff(desired: &Desired, view: &View, prune: Prune) -> NeighbourChanges {
    let mut changes = NeighbourChanges::default();
    for wanted in &desired.neighbours {
        if view.neighbours.iter().any(|it| is_entry(it, wanted) && it.mac == wanted.mac && it.permanent) {
            continue;
        }
        match view.obstacle(&wanted.dev) {
            Some(obstacle) => changes.blocked.push(format!("neighbour {}: {obstacle}", wanted.address)),
            None => changes.set.push(wanted.clone()),
        }
    }
    if prune == Prune::Yes {
        let unwanted = |it: &&Neighbour| {
            ownership::is_our_neighbour(it)
                && !view.doomed.contains(&it.dev)
                && !desired.neighbours.iter().any(|wanted| is_entry(it, wanted))
        };
        changes.delete.extend(view.neighbours.iter().filter(unwanted).cloned());
    }
    changes
}

fn is_entry(one: &Neighbour, other: &Neighbour) -> bool {
    one.dev == other.dev && one.address == other.address
}
