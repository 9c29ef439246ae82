//! From the attachments of one sandbox to what the pod and the node should hold.
//!
//! The rules are those of ../spec/coordinator.md with the numbers of ../design/quickstart.md: one NIC holds the default
//! route and keeps its routes in main; every other NIC's routes stand in a table of its own, reached by `from` rules for its
//! addresses and by `to` rules for the destinations that only it reaches. The destinations inside the cluster (the
//! node itself, pods, services, hijacked ones) are the default CNI's and stand in every table alike.

mod cluster;
mod default_nic;
mod family;
mod inside;
mod layout;
mod on_node;
mod own;
mod routes;
mod rules;
mod settings;
mod underlay;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::intent::{Attachment, CoordinatorMode, CoordinatorSettings, Sandbox};

use crate::desired::{Desired, DesiredLink, DesiredRoute, merge_links};
use crate::node::NodeFacts;
use crate::object::Route;
use crate::tables::MAIN;
use cluster::{cluster_routes, node_addresses};
use default_nic::default_nic;
use family::Family;
pub use inside::AUXILIARY_LINK;
use inside::Inside;
use own::{addresses_of, disable_ipv6, has_family, own_objects};
use routes::baseline_routes;
use settings::settings;
pub use underlay::UNDERLAY_SYSCTLS;

/// All that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The sandbox.
    pub sandbox: &'a Sandbox,
    /// Its attachments, by ordinal.
    pub attachments: &'a [Attachment],
    /// The node.
    pub node: &'a NodeFacts,
    /// The SpiderCoordinator as it is now; None takes what each intent has seen.
    pub cluster: Option<&'a CoordinatorSettings>,
}

/// What should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the pod.
    pub pod: Desired,
    /// On the node, for this pod.
    pub node: Desired,
    /// What could not be done as asked, and what is done instead.
    pub notes: Vec<String>,
}

/// Which sysctl is `podRPFilter` (../spec/coordinator.md 4, item 17).
pub const RP_FILTER: &str = "net/ipv4/conf/all/rp_filter";

/// The sysctl of a link that gives the metric of default routes by router advertisements (Linux 5.12).
pub(crate) const ADVERTISED_METRIC: &str = "ra_defrtr_metric";

/// Decides what one sandbox should hold.
pub fn plan(input: PlanInput<'_>) -> Plan {
    let mut plan = Plan::default();
    let routed = Routed::of(input, &mut plan.notes);
    for attachment in input.attachments {
        own_objects(attachment, routed.as_ref(), &mut plan.pod);
        plan.node.links.extend(attachment.uplink.as_deref().into_iter().flat_map(DesiredLink::of_uplink));
    }
    match (&routed, &input.sandbox.baseline) {
        (Some(routed), _) => routed.write(&mut plan),
        (None, _) if input.sandbox.auxiliary.is_some() => {
            plan.pod.withdrawn_links.extend(input.sandbox.auxiliary.as_ref().map(inside::withdrawn));
        }
        // The last coordinated NIC has gone while the pod lives: the default CNI's routes go back to where they were.
        (None, Some(baseline)) => {
            for route in Family::ALL.into_iter().flat_map(|family| baseline_routes(baseline, MAIN, family)) {
                plan.pod.routes.push(DesiredRoute { route, exclusive: false });
            }
        }
        (None, None) => {}
    }
    if routed.is_none() {
        let before = input.sandbox.sysctls_before.iter();
        plan.pod.sysctls.extend(before.map(|found| (found.path.clone(), found.value.clone())));
    }
    sort(&mut plan.pod);
    sort(&mut plan.node);
    plan
}

fn sort(desired: &mut Desired) {
    merge_links(&mut desired.links);
    desired.withdrawn_links.sort();
    desired.addresses.sort();
    desired.addresses.dedup();
    desired.routes.sort();
    desired.routes.dedup_by(|later, first| {
        let same = later.route == first.route;
        first.exclusive |= same && later.exclusive;
        same
    });
    // Where one route is to be alone, another way by a gateway is not wanted beside it. A NIC's own subnet is: without it
    // the NIC's gateway could not be reached.
    let claimed: BTreeSet<_> =
        desired.routes.iter().filter(|wanted| wanted.exclusive).map(|wanted| wanted.route.key()).collect();
    desired
        .routes
        .retain(|wanted| wanted.exclusive || wanted.route.gateway.is_none() || !claimed.contains(&wanted.route.key()));
    desired.absent_routes.sort();
    desired.absent_routes.dedup();
    desired.rules.sort();
    desired.rules.dedup();
    desired.neighbours.sort();
    desired.neighbours.dedup();
}

/// The sandbox's NICs, once a coordinator has been asked about at least one of them.
struct Routed<'a> {
    inside: Inside<'a>,
    /// Coordinated attachments, by ordinal.
    nics: Vec<Nic<'a>>,
    /// Of the families that a NIC has an address of.
    stacks: Vec<Stack>,
}

/// What is decided for a family.
struct Stack {
    family: Family,
    /// The tuned NIC that holds the default route: None is the default CNI's.
    default_nic: Option<usize>,
    /// The node's addresses as the pod is to reach them, ascending.
    node_addresses: Vec<IpAddr>,
    /// The node's address as the pod's gateway to the cluster.
    gateway: Option<IpAddr>,
    /// The source of packets to the cluster, where the link by which they leave has an address that nobody answers.
    source: Option<IpAddr>,
    /// Routes that stand in every table alike, for one table.
    cluster_routes: Vec<(IpNetwork, Option<IpAddr>)>,
}

struct Nic<'a> {
    name: String,
    attachment: &'a Attachment,
    settings: CoordinatorSettings,
}

impl<'a> Routed<'a> {
    fn of(input: PlanInput<'a>, notes: &mut Vec<String>) -> Option<Self> {
        let inside = Inside::of(input.sandbox)?;
        let mut nics: Vec<Nic<'a>> = input
            .attachments
            .iter()
            .filter_map(|attachment| {
                let intent = attachment.coordinate.as_ref()?;
                let settings = settings(intent, input.cluster);
                let is_on = settings.mode != CoordinatorMode::Disabled;
                is_on.then(|| Nic { name: attachment.key.ifname.to_string(), attachment, settings })
            })
            .collect();
        if nics.is_empty() {
            return None;
        }
        if inside.auxiliary().is_some() {
            // The first NIC has what is left of main: where another's routes are put in order, its own are.
            nics[0].settings.tune_pod_routes = nics.iter().any(|nic| nic.settings.tune_pod_routes);
        }
        let has_nic = |family: &Family| nics.iter().any(|nic| has_family(nic.attachment, *family));
        let families: Vec<Family> = Family::ALL.into_iter().filter(has_nic).collect();
        let stack = |family| {
            let default_nic = default_nic(&nics, inside, family, notes);
            let node_addresses = node_addresses(&nics, inside, input.node, family);
            let underlay: Vec<IpAddr> =
                nics.iter().flat_map(|nic| addresses_of(nic.attachment, family)).map(|address| address.ip()).collect();
            let gateway = input.node.gateway_for(&underlay, family == Family::V6);
            // Otherwise the kernel takes the first NIC's by itself, and no route waits for that.
            let link_address = nics[0].settings.veth_link_address.filter(|ip| family.has(*ip));
            let source = underlay.first().copied().filter(|_| inside.auxiliary().is_some() && link_address.is_some());
            let cluster_routes = cluster_routes(&nics, &node_addresses, gateway, family, notes);
            Stack { family, default_nic, node_addresses, gateway, source, cluster_routes }
        };
        let stacks = families.into_iter().map(stack).collect();
        notes.dedup();
        Some(Self { inside, nics, stacks })
    }

    fn write(&self, plan: &mut Plan) {
        // Without it up, none of the cluster's destinations is reached.
        plan.pod.links.push(self.inside.link(&self.nics[0].settings));
        if let Some(auxiliary) = self.inside.auxiliary() {
            underlay::write(self, auxiliary, plan);
        }
        let is_tuned = self.nics.iter().any(|nic| nic.settings.tune_pod_routes);
        for stack in &self.stacks {
            if is_tuned {
                self.write_tables(stack, &mut plan.pod);
                continue;
            }
            // Left as the plugins made it, with the cluster's destinations added (../spec/coordinator.md 10.6).
            let baseline = self.inside.routes(MAIN, stack.family);
            let is_new = |new: &Route| !baseline.iter().any(|it| it.key() == new.key());
            for route in self.cluster_routes_in(stack, MAIN).filter(is_new) {
                plan.pod.routes.push(DesiredRoute { route, exclusive: false });
            }
        }
        if self.stacks.iter().any(|stack| stack.family == Family::V6) {
            plan.pod.sysctls.insert(disable_ipv6(self.inside.name()), "0".to_owned());
        }
        let settings = &self.nics[0].settings;
        if settings.pod_rp_filter >= 0 {
            plan.pod.sysctls.insert(RP_FILTER.to_owned(), settings.pod_rp_filter.to_string());
        }
        self.write_host_filters(plan);
        match self.inside.peer() {
            Some(peer) => self.write_node(peer, plan),
            None => plan.notes.push(format!(
                "{} has no other end on the node: no neighbours and no node routes for this pod",
                self.inside.name()
            )),
        }
    }
}
