//! Which route stands in which table, which rules lead there, and what leaves main.

use std::net::IpAddr;

use super::family::Family;
use super::own::addresses_of;
use super::routes::{attachment_routes, given_default, leaving_main, policy_routes, route};
use super::rules::Rules;
use super::{ADVERTISED_METRIC, Nic, Routed, Stack};
use crate::desired::{Desired, DesiredRoute, RoutePattern};
use crate::object::Route;
use crate::tables::{self, MAIN};

impl Routed<'_> {
    /// Default routes of router advertisements: none where IPAM gives one; else they count for less than the default CNI's,
    /// unless this NIC holds the default route.
    pub(super) fn write_advertised(&self, stack: &Stack, pod: &mut Desired) {
        for (index, nic) in self.nics.iter().enumerate() {
            let setting = |name: &str| format!("net/ipv6/conf/{}/{name}", nic.name);
            if given_default(nic.attachment, Family::V6) {
                pod.sysctls.insert(setting("accept_ra_defrtr"), "0".to_owned());
                continue;
            }
            if nic.attachment.learned.gateway.is_none() || !nic.settings.tune_pod_routes {
                continue;
            }
            let is_default = stack.default_nic == Some(index);
            let metric = if is_default { tables::USER_METRIC } else { tables::ADVERTISED_METRIC };
            pod.sysctls.insert(setting(ADVERTISED_METRIC), metric.to_string());
            if !is_default {
                // One that was there before; the next advertisement brings it back with the other metric.
                let metric = Some(tables::USER_METRIC);
                pod.absent_routes.push(RoutePattern {
                    table: MAIN,
                    dst: stack.family.everything(),
                    dev: nic.name.clone(),
                    metric,
                });
            }
        }
    }

    /// Another NIC than the holder of the default route has networks of its own, to which rules lead: asked from there, an
    /// address of the holder would answer by that other NIC. So the holder's routes stand in its own table too, for what has
    /// its address.
    pub(super) fn has_rivals(&self, stack: &Stack) -> bool {
        let is_rival = |(index, nic): (usize, &Nic<'_>)| {
            let routes = attachment_routes(nic.attachment, MAIN, stack.family);
            let has_own = routes.iter().any(|route| !route.is_default());
            // Also one whose routes are left in main.
            stack.default_nic != Some(index) && has_own
        };
        self.nics.iter().enumerate().any(is_rival)
    }

    /// Tables, rules and what leaves main.
    pub(super) fn write_tables(&self, stack: &Stack, pod: &mut Desired) {
        let family = stack.family;
        if family == Family::V6 {
            self.write_advertised(stack, pod);
        }
        let mut rules = Rules::default();
        let has_rivals = self.has_rivals(stack);
        // Its rules stand before all others: those are where they would be without it.
        let mut holder: Option<(u32, Vec<IpAddr>)> = None;
        if stack.default_nic.is_none() || self.inside.auxiliary().is_some() {
            let main = self.inside.routes(MAIN, family).into_iter().chain(self.cluster_routes_in(stack, MAIN));
            rules.reached_by_main(main.clone());
            claim(main, pod);
            let own: Vec<IpAddr> = self.inside.addresses().filter(|ip| family.has(*ip)).collect();
            if has_rivals && !own.is_empty() {
                let table = tables::DEFAULT_NIC;
                holder = Some((table, own));
                let all = self.inside.routes(table, family).into_iter().chain(self.cluster_routes_in(stack, table));
                claim(all, pod);
            }
        } else {
            let table = tables::DEFAULT_NIC;
            let own: Vec<Route> =
                self.inside.routes(table, family).into_iter().chain(self.cluster_routes_in(stack, table)).collect();
            rules.nic(table, &own, self.inside.addresses().filter(|ip| family.has(*ip)));
            pod.absent_routes.extend(leaving_main(&self.inside.routes(MAIN, family)));
            claim(own, pod);
        }
        for (index, nic) in self.nics.iter().enumerate().filter(|(_, nic)| nic.settings.tune_pod_routes) {
            let in_main = attachment_routes(nic.attachment, MAIN, family);
            let policy = |table| policy_routes(nic.attachment, &nic.settings.policy_routes, table, family);
            if stack.default_nic == Some(index) {
                let all: Vec<Route> = in_main.into_iter().chain(policy(MAIN)).collect();
                rules.reached_by_main(all.iter().cloned());
                claim(all, pod);
                if has_rivals {
                    let table = tables::of_ordinal(nic.attachment.ordinal);
                    let addresses = addresses_of(nic.attachment, family).map(|address| address.ip());
                    holder = Some((table, addresses.collect()));
                    let own = attachment_routes(nic.attachment, table, family).into_iter().chain(policy(table));
                    claim(own.chain(self.cluster_and_link_routes_in(stack, table)), pod);
                }
                continue;
            }
            let table = tables::of_ordinal(nic.attachment.ordinal);
            let own = attachment_routes(nic.attachment, table, family);
            let mut addresses = addresses_of(nic.attachment, family).peekable();
            if own.is_empty() && addresses.peek().is_none() {
                continue;
            }
            rules.nic(table, &own, addresses.map(|address| address.ip()));
            pod.absent_routes.extend(leaving_main(&in_main));
            let cluster = self.cluster_and_link_routes_in(stack, table);
            rules.also_in(table, cluster.iter());
            // Only what has the NIC's own address goes by these: no `to` rules lead there.
            claim(own.into_iter().chain(policy(table)).chain(cluster), pod);
        }
        if let Some((table, addresses)) = holder {
            rules.nic(table, &[], addresses.into_iter());
        }
        pod.rules.extend(rules.number(family));
    }

    /// The cluster's destinations by the default CNI's NIC.
    pub(super) fn cluster_routes_in<'s>(
        &'s self,
        stack: &'s Stack,
        table: u32,
    ) -> impl Iterator<Item = Route> + Clone + 's {
        let dev = self.inside.name();
        stack
            .cluster_routes
            .iter()
            .map(move |(dst, gateway)| Route { src: stack.source, ..route(table, *dst, *gateway, dev) })
    }

    /// The same for another NIC's table, with the default CNI's own destinations on the link: a packet from that NIC's
    /// address to the cluster is to find the same way as one without a source.
    pub(super) fn cluster_and_link_routes_in(&self, stack: &Stack, table: u32) -> Vec<Route> {
        self.inside
            .routes(table, stack.family)
            .into_iter()
            .filter(|route| !route.is_default() && route.gateway.is_none())
            .map(|route| Route { src: None, ..route })
            .chain(self.cluster_routes_in(stack, table))
            .collect()
    }
}

/// Wants each route alone on its key; who comes first has it (an existing destination stays as it was,
/// ../spec/coordinator.md 7).
pub(super) fn claim(routes: impl IntoIterator<Item = Route>, pod: &mut Desired) {
    for route in routes {
        if !pod.routes.iter().any(|wanted| wanted.exclusive && wanted.route.key() == route.key()) {
            pod.routes.push(DesiredRoute { route, exclusive: true });
        }
    }
}
