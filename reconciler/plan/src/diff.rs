//! What to change, in an order that cuts no working path.

mod address;
mod filter;
mod link;
mod neighbour;
mod order;
mod route;
mod rule;
mod sysctl;
mod view;

use std::collections::BTreeSet;

use crate::desired::{Desired, LinkOrigin, Uplink};
use crate::object::{Link, LinkKind, Observed};
use crate::step::Step;

/// Whether what is not wanted may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Ours and not desired: deleted.
    Yes,
    /// Not all inputs have synced since the start, so that what seems unwanted may only be unknown yet: nothing goes but
    /// routes and addresses of which a desired one takes the place, and routes that the plan moved.
    No,
}

/// The way from what is to what should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// In the order in which to do them.
    pub steps: Vec<Step>,
    /// Desired objects that cannot be made because their link is not there (or is down) and is not ours to create, one
    /// text each.
    pub blocked: Vec<String>,
}

impl Diff {
    /// Nothing to do and nothing missing.
    pub fn is_converged(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_empty()
    }
}

/// Compares one namespace with what it should hold. Equal inputs give equal output; desired and observed lists may be in
/// any order of the kernel's.
pub fn diff(desired: &Desired, observed: &Observed, prune: Prune) -> Diff {
    let (links, mut view) = link::diff(desired, observed, prune);
    let addresses = address::diff(desired, &mut view, prune);
    let neighbours = neighbour::diff(desired, &view, prune);
    let routes = route::diff(desired, &view, prune);
    let rules = rule::diff(desired, observed, prune);
    let sysctls = sysctl::diff(desired, observed, &view, &links);
    let filter = filter::diff(desired, observed, prune);
    order::order(&view, order::Changes { links, addresses, neighbours, routes, rules, sysctls, filter })
}

impl Desired {
    /// The `ip` commands that make all of this in a namespace which has nothing but the links of other programs.
    pub fn commands(&self) -> Vec<String> {
        let made: BTreeSet<&str> = self
            .links
            .iter()
            .filter(|link| {
                !matches!(
                    link.origin,
                    LinkOrigin::Found(_) | LinkOrigin::PairEnd { .. } | LinkOrigin::Uplink(Uplink::Present)
                )
            })
            .map(|link| link.name.as_str())
            .collect();
        let used = (self.links.iter().map(|link| link.name.as_str()))
            .chain(self.addresses.iter().map(|address| address.dev.as_str()))
            .chain(self.routes.iter().filter_map(|wanted| wanted.route.dev.as_deref()))
            .chain(self.neighbours.iter().map(|neighbour| neighbour.dev.as_str()));
        let found: BTreeSet<&str> = used.filter(|name| !made.contains(name)).collect();
        let links = found.into_iter().zip(u32::MAX / 2..).map(|(name, number)| {
            let identity = self.links.iter().find_map(|link| match &link.origin {
                LinkOrigin::Found(identity) if link.name == name => Some(*identity),
                _ => None,
            });
            Link {
                name: name.to_owned(),
                index: identity.map_or(number, |identity| identity.index),
                kind: LinkKind::Other(String::new()),
                mac: identity.map(|identity| identity.mac),
                mtu: 1500,
                up: true,
                alias: None,
                lower: None,
                master: None,
                tx_queue_len: 0,
            }
        });
        let sysctls = self.sysctls.keys().map(|path| (path.clone(), String::new())).collect();
        let empty = Observed { links: links.collect(), sysctls, ..Observed::default() };
        diff(self, &empty, Prune::Yes).steps.iter().map(Step::to_string).collect()
    }
}
