//! Which packets are led to which table, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::family::Family;
use crate::object::{Route, Rule};
use crate::tables::{self, MAIN, PROTOCOL};

/// Collects which destinations and sources lead to which table, and gives priorities.
#[derive(Default)]
pub(super) struct Rules {
    /// Destination → table; the first NIC that claims one has it.
    to: BTreeMap<IpNetwork, u32>,
    /// (source, table), in the order of the NICs.
    from: Vec<(IpAddr, u32)>,
    /// What main reaches itself.
    main: BTreeSet<IpNetwork>,
    /// What a table holds besides what leads to it.
    present: BTreeSet<(u32, IpNetwork)>,
}

impl Rules {
    /// Routes that stay in main.
    pub(super) fn reached_by_main(&mut self, routes: impl Iterator<Item = Route>) {
        self.main.extend(routes.filter(|route| !route.is_default()).map(|route| route.dst));
    }

    /// A NIC's own routes in its table, and its addresses.
    pub(super) fn nic(&mut self, table: u32, routes: &[Route], addresses: impl Iterator<Item = IpAddr>) {
        for route in routes.iter().filter(|route| !route.is_default()) {
            self.to.entry(route.dst).or_insert(table);
        }
        self.from.extend(addresses.map(|address| (address, table)));
    }

    /// What stands in a table besides.
    pub(super) fn also_in<'r>(&mut self, table: u32, routes: impl Iterator<Item = &'r Route>) {
        self.present.extend(routes.map(|route| (table, route.dst)));
    }

    /// `to` rules in ascending order of destination from the top down, so that a part of a network is asked before the
    /// whole of it; then the `from` rules, which are asked before all of them.
    pub(super) fn number(mut self, family: Family) -> Vec<Rule> {
        self.to.retain(|destination, _| !self.main.contains(destination));
        // A wide `to` rule must not swallow what main reaches more closely.
        let swallowed: Vec<IpNetwork> = self
            .main
            .iter()
            .filter(|inner| {
                self.to.iter().any(|(outer, table)| {
                    outer.prefix() < inner.prefix()
                        && outer.contains(inner.network())
                        && !self.present.contains(&(*table, **inner))
                })
            })
            .copied()
            .collect();
        self.to.extend(swallowed.into_iter().map(|destination| (destination, MAIN)));
        let to = self.to.iter().map(|(destination, table)| (None, Some(*destination), *table));
        let from = self.from.iter().map(|(source, table)| (Some(IpNetwork::from(*source)), None, *table));
        to.chain(from)
            .zip((1..=tables::FIRST_PRIORITY).rev())
            .map(|((from, to, table), priority)| Rule {
                priority,
                v6: family == Family::V6,
                from,
                to,
                mark: None,
                table,
                other: None,
                protocol: PROTOCOL,
            })
            .collect()
    }
}
