//! What the node holds for a pod.

use ipnetwork::IpNetwork;
use schemas::name::Mac;

use super::family::Family;
use super::own::addresses_of;
use super::routes::{permanent, route};
use super::{Plan, Routed};
use crate::desired::DesiredRoute;
use crate::object::Rule;
use crate::tables::{self, PROTOCOL};

impl Routed<'_> {
    /// `hostRPFilter`: on the node's links that the pod's packets come by. Another program's `all` is left alone: of the
    /// two the kernel takes the greater.
    pub(super) fn write_host_filters(&self, plan: &mut Plan) {
        for nic in &self.nics {
            let Some(value) = nic.settings.host_rp_filter.filter(|value| *value >= 0) else { continue };
            let on_node = nic.attachment.link.iter().filter(|link| !link.master_in_container);
            let masters = on_node.map(|link| link.master.as_str());
            for dev in masters.chain(self.inside.peer().map(|(name, _)| name)) {
                plan.node.sysctls.insert(format!("net/ipv4/conf/{dev}/rp_filter"), value.to_string());
            }
        }
    }

    /// The node's way to the pod's underlay addresses, and neighbours both ways (../spec/coordinator.md 6 and 7).
    pub(super) fn write_node(&self, (peer, peer_mac): (&str, Mac), plan: &mut Plan) {
        for address in self.stacks.iter().flat_map(|stack| &stack.node_addresses) {
            plan.pod.neighbours.push(permanent(self.inside.name(), *address, peer_mac));
        }
        for nic in &self.nics {
            let table = nic.settings.host_rule_table;
            let both = Family::ALL.into_iter().flat_map(|family| addresses_of(nic.attachment, family));
            for ip in both.map(|address| address.ip()) {
                plan.node.rules.push(Rule {
                    priority: tables::NODE_PRIORITY,
                    v6: ip.is_ipv6(),
                    from: None,
                    to: None,
                    mark: None,
                    table,
                    other: None,
                    protocol: PROTOCOL,
                });
                plan.node
                    .routes
                    .push(DesiredRoute { route: route(table, IpNetwork::from(ip), None, peer), exclusive: true });
                plan.node.neighbours.push(permanent(peer, ip, self.inside.mac()));
            }
        }
    }
}
