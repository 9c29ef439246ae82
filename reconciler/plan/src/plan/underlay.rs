//! What underlay mode adds: the pair's own addresses and settings, and the way back by it for what came by it
//! (../spec/coordinator.md 7f and 7g).

use ipnetwork::IpNetwork;
use schemas::intent::AuxiliaryLink;

use super::family::Family;
use super::inside::{self, AUXILIARY_LINK};
use super::own::disable_ipv6;
use super::routes::route;
use super::{Plan, Routed, Stack};
use crate::desired::DesiredRoute;
use crate::filter::FilterTable;
use crate::object::{Address, Route, Rule, Scope};
use crate::tables::{self, PROTOCOL};

/// An accepted connection has the mark of the packet that it began with; both families.
const TCP_MARK: &str = "net/ipv4/tcp_fwmark_accept";
/// So have the kernel's own replies.
const REFLECT: &str = "net/ipv4/fwmark_reflect";
const REFLECT_V6: &str = "net/ipv6/fwmark_reflect";
/// Sysctls of the whole pod that underlay mode sets.
pub const UNDERLAY_SYSCTLS: [&str; 3] = [TCP_MARK, REFLECT, REFLECT_V6];

/// The pair, both ends.
pub(super) fn write(routed: &Routed<'_>, auxiliary: &AuxiliaryLink, plan: &mut Plan) {
    let settings = &routed.nics[0].settings;
    plan.node.links.push(inside::node_end(auxiliary, settings));
    let is_used = |family| routed.stacks.iter().any(|stack| stack.family == family);
    if let Some(ip) = settings.veth_link_address.filter(|ip| is_used(Family::of(*ip))) {
        plan.pod.addresses.push(Address {
            dev: AUXILIARY_LINK.to_owned(),
            address: IpNetwork::from(ip),
            scope: Scope::GLOBAL,
            protocol: PROTOCOL,
        });
    }
    if is_used(Family::V4) {
        let setting = |name: &str| format!("net/ipv4/conf/{AUXILIARY_LINK}/{name}");
        // Where no other route leads back, a reply of the kernel or of a connection that was accepted must have the mark
        // before its route is looked up.
        for setting in [TCP_MARK, REFLECT] {
            plan.pod.sysctls.insert(setting.to_owned(), "1".to_owned());
        }
        // What comes by it has its mark when its source is checked, and is looked up by it.
        plan.pod.sysctls.insert(setting("src_valid_mark"), "1".to_owned());
        if settings.pod_rp_filter >= 0 {
            plan.pod.sysctls.insert(setting("rp_filter"), settings.pod_rp_filter.to_string());
        }
    }
    if is_used(Family::V6) {
        plan.pod.sysctls.insert(REFLECT_V6.to_owned(), "1".to_owned());
        plan.pod.sysctls.insert(TCP_MARK.to_owned(), "1".to_owned());
        plan.node.sysctls.insert(disable_ipv6(auxiliary.host_name.as_str()), "0".to_owned());
    }
    plan.pod.filter = Some(FilterTable::of_replies(AUXILIARY_LINK, tables::REPLY_MARK));
    for stack in &routed.stacks {
        reply_path(stack, plan);
    }
}

fn reply_path(stack: &Stack, plan: &mut Plan) {
    let Some(gateway) = stack.gateway else { return };
    let is_v6 = stack.family == Family::V6;
    let default = std::iter::once((stack.family.everything(), Some(gateway)));
    let on_link = stack.node_addresses.iter().map(|address| (IpNetwork::from(*address), None));
    for (dst, gateway) in on_link.chain(default) {
        let route = Route { src: stack.source, ..route(tables::DEFAULT_NIC, dst, gateway, AUXILIARY_LINK) };
        plan.pod.routes.push(DesiredRoute { route, exclusive: true });
    }
    plan.pod.rules.push(Rule {
        priority: tables::REPLY_PRIORITY,
        v6: is_v6,
        from: None,
        to: None,
        mark: Some(tables::REPLY_MARK),
        table: tables::DEFAULT_NIC,
        other: None,
        protocol: PROTOCOL,
    });
}
