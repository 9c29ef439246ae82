//! From the attachments of one sandbox to what the pod and the node should hold.
//!
//! The rules are those of ../spec/coordinator.md with the numbers of ../design/quickstart.md: one NIC holds the default
//! route and keeps its routes in main; every other NIC's routes stand in a table of its own, reached by `from` rules for its
//! addresses and by `to` rules for the destinations that only it reaches. The destinations inside the cluster (the
//! node itself, pods, services, hijacked ones) are the default CNI's and stand in every table alike.

mod family;
mod inside;
mod routes;
mod rules;
mod underlay;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::intent::{Attachment, CoordinateIntent, CoordinatorMode, CoordinatorSettings, LinkKindIntent, Sandbox};
use schemas::name::Mac;

use crate::desired::{Desired, DesiredLink, DesiredRoute, LinkOrigin, RoutePattern, merge_links};
use crate::node::NodeFacts;
use crate::object::{Address, Route, Rule, Scope};
use crate::ownership;
use crate::tables::{self, MAIN, PROTOCOL};
use family::Family;
pub use inside::AUXILIARY_LINK;
use inside::Inside;
use routes::{
    attachment_routes, baseline_routes, given_default, has_default, leaving_main, permanent, policy_routes, route,
    subnet,
};
use rules::Rules;
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
        plan.node.links.extend(attachment.uplink.iter().flat_map(DesiredLink::of_uplink));
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

/// The link and addresses of an attachment, and its routes in main while no coordinator puts them in order.
fn own_objects(attachment: &Attachment, routed: Option<&Routed<'_>>, pod: &mut Desired) {
    let name = attachment.key.ifname.to_string();
    let settings = routed.and_then(|routed| routed.nics.iter().find(|nic| nic.name == name)).map(|nic| &nic.settings);
    let tx_queue_len = settings.map(|settings| settings.tx_queue_len).filter(|length| *length > 0);
    if let Some(intent) = &attachment.link {
        let origin = LinkOrigin::Made { intent: intent.clone(), alias: ownership::alias(&attachment.key) };
        let link = DesiredLink { name: name.clone(), origin, mac: None, tx_queue_len };
        if attachment.link_wanted {
            // An address that was another pod's comes with another hardware address: neighbours are told when the link
            // goes up, as the reference plugin has it.
            let has_neighbours = match intent.kind {
                LinkKindIntent::Macvlan(_) => true,
                LinkKindIntent::Ipvlan(mode) => mode.has_neighbours(),
            };
            if has_neighbours {
                pod.sysctls.insert(format!("net/ipv4/conf/{name}/arp_notify"), "1".to_owned());
            }
            if has_neighbours && has_family(attachment, Family::V6) {
                pod.sysctls.insert(format!("net/ipv6/conf/{name}/ndisc_notify"), "1".to_owned());
            }
            pod.links.push(link);
        } else {
            pod.withdrawn_links.push(link);
        }
    } else if let (Some(identity), Some(coordinate)) = (attachment.foreign_link, &attachment.coordinate) {
        let origin = LinkOrigin::Found(identity);
        pod.links.push(DesiredLink { name: name.clone(), origin, mac: coordinate.mac, tx_queue_len });
    }
    // Without a link of ours and without coordinator we only gave addresses: whoever asked puts them on the link.
    if !attachment.link_wanted && attachment.coordinate.is_none() {
        return;
    }
    if has_family(attachment, Family::V6) {
        pod.sysctls.insert(disable_ipv6(&name), "0".to_owned());
    }
    for assigned in &attachment.addresses {
        pod.addresses.push(Address {
            dev: name.clone(),
            address: assigned.address,
            scope: Scope::GLOBAL,
            protocol: PROTOCOL,
        });
    }
    if settings.is_none_or(|settings| !settings.tune_pod_routes) && attachment.link_wanted {
        for route in Family::ALL.into_iter().flat_map(|family| attachment_routes(attachment, MAIN, family)) {
            pod.routes.push(DesiredRoute { route, exclusive: false });
        }
    }
}

/// An attachment's addresses of a family: IPAM's, then the network's own.
fn addresses_of(attachment: &Attachment, family: Family) -> impl Iterator<Item = IpNetwork> + Clone + '_ {
    let given = attachment.addresses.iter().map(|assigned| assigned.address);
    given.chain(attachment.learned.addresses.iter().copied()).filter(move |address| family.has_network(*address))
}

fn has_family(attachment: &Attachment, family: Family) -> bool {
    addresses_of(attachment, family).next().is_some()
}

/// The sysctl that lets a link have no IPv6, as some images and default CNIs set it.
fn disable_ipv6(dev: &str) -> String {
    format!("net/ipv6/conf/{dev}/disable_ipv6")
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

    /// Default routes of router advertisements: none where IPAM gives one; else they count for less than the default CNI's,
    /// unless this NIC holds the default route.
    fn write_advertised(&self, stack: &Stack, pod: &mut Desired) {
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
    fn has_rivals(&self, stack: &Stack) -> bool {
        let is_rival = |(index, nic): (usize, &Nic<'_>)| {
            let routes = attachment_routes(nic.attachment, MAIN, stack.family);
            let has_own = routes.iter().any(|route| !route.is_default());
            // Also one whose routes are left in main.
            stack.default_nic != Some(index) && has_own
        };
        self.nics.iter().enumerate().any(is_rival)
    }

    /// Tables, rules and what leaves main.
    fn write_tables(&self, stack: &Stack, pod: &mut Desired) {
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
    fn cluster_routes_in<'s>(&'s self, stack: &'s Stack, table: u32) -> impl Iterator<Item = Route> + Clone + 's {
        let dev = self.inside.name();
        stack
            .cluster_routes
            .iter()
            .map(move |(dst, gateway)| Route { src: stack.source, ..route(table, *dst, *gateway, dev) })
    }

    /// The same for another NIC's table, with the default CNI's own destinations on the link: a packet from that NIC's
    /// address to the cluster is to find the same way as one without a source.
    fn cluster_and_link_routes_in(&self, stack: &Stack, table: u32) -> Vec<Route> {
        self.inside
            .routes(table, stack.family)
            .into_iter()
            .filter(|route| !route.is_default() && route.gateway.is_none())
            .map(|route| Route { src: None, ..route })
            .chain(self.cluster_routes_in(stack, table))
            .collect()
    }

    /// `hostRPFilter`: on the node's links that the pod's packets come by. Another program's `all` is left alone: of the
    /// two the kernel takes the greater.
    fn write_host_filters(&self, plan: &mut Plan) {
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
    fn write_node(&self, (peer, peer_mac): (&str, Mac), plan: &mut Plan) {
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

/// Wants each route alone on its key; who comes first has it (an existing destination stays as it was,
/// ../spec/coordinator.md 7).
fn claim(routes: impl IntoIterator<Item = Route>, pod: &mut Desired) {
    for route in routes {
        if !pod.routes.iter().any(|wanted| wanted.exclusive && wanted.route.key() == route.key()) {
            pod.routes.push(DesiredRoute { route, exclusive: true });
        }
    }
}

/// The network configuration over what the cluster says now over what it said at ADD.
fn settings(intent: &CoordinateIntent, cluster: Option<&CoordinatorSettings>) -> CoordinatorSettings {
    let conf = &intent.conf;
    let cluster = cluster.unwrap_or(&intent.cluster);
    let list = |own: &Vec<IpNetwork>, other: &Vec<IpNetwork>| if own.is_empty() { other } else { own }.clone();
    CoordinatorSettings {
        mode: conf.mode.unwrap_or(cluster.mode),
        tune_pod_routes: conf.tune_pod_routes.unwrap_or(cluster.tune_pod_routes),
        default_route_nic: conf
            .default_route_nic
            .clone()
            .or_else(|| match &intent.annotated_default_nic {
                Some(annotated) => Some(annotated.clone()),
                None => cluster.default_route_nic.clone(),
            })
            .filter(|name| !name.is_empty()),
        overlay_pod_cidr: list(&conf.overlay_pod_cidr, &cluster.overlay_pod_cidr),
        service_cidr: list(&conf.service_cidr, &cluster.service_cidr),
        hijack_cidr: list(&conf.hijack_cidr, &cluster.hijack_cidr),
        host_rule_table: conf.host_rule_table.unwrap_or(cluster.host_rule_table),
        pod_rp_filter: conf.pod_rp_filter.unwrap_or(cluster.pod_rp_filter),
        tx_queue_len: conf.tx_queue_len.unwrap_or(cluster.tx_queue_len),
        policy_routes: if conf.policy_routes.is_empty() { &cluster.policy_routes } else { &conf.policy_routes }.clone(),
        mac_prefix: conf.mac_prefix.or(cluster.mac_prefix),
        veth_link_address: conf.veth_link_address.or(cluster.veth_link_address),
        veth_mtu: conf.veth_mtu.or(cluster.veth_mtu),
        host_rp_filter: conf.host_rp_filter.or(cluster.host_rp_filter),
    }
}

/// Which tuned NIC holds the default route; None is the default CNI's.
///
/// The latest network configuration that names one decides, else annotation and SpiderCoordinator; a NIC that is not there
/// (yet) or has no default route leaves it to the first attached NIC that has one.
fn default_nic(nics: &[Nic<'_>], inside: Inside<'_>, family: Family, notes: &mut Vec<String>) -> Option<usize> {
    let can_hold = |nic: &Nic<'_>| nic.settings.tune_pod_routes && has_default(nic.attachment, family);
    let first = nics.iter().position(can_hold);
    let named_by_conf = nics
        .iter()
        .rev()
        .find(|nic| nic.attachment.coordinate.as_ref().is_some_and(|c| c.conf.default_route_nic.is_some()));
    let Some(wanted) = named_by_conf.or(nics.last()).and_then(|nic| nic.settings.default_route_nic.as_deref()) else {
        return first;
    };
    if inside.baseline().is_some_and(|baseline| wanted == baseline.nic.as_str()) {
        return None;
    }
    match nics.iter().position(|nic| nic.name == wanted) {
        Some(index) if can_hold(&nics[index]) => Some(index),
        // It has nothing to do with this family.
        Some(index) if !has_family(nics[index].attachment, family) => first,
        Some(_) => {
            notes.push(format!("default route NIC {wanted} has no gateway: {} is used", name_of(nics, first, inside)));
            first
        }
        None => {
            notes.push(format!(
                "podDefaultRouteNIC: {wanted} don't exist in pod (yet): {} is used until it does",
                name_of(nics, first, inside)
            ));
            first
        }
    }
}

fn name_of(nics: &[Nic<'_>], index: Option<usize>, inside: Inside<'_>) -> String {
    index.map_or_else(|| inside.name().to_owned(), |index| nics[index].name.clone())
}

/// The node's addresses that the pod reaches by its default CNI's NIC: the sources that the node uses towards the pod's
/// addresses, then the addresses of its uplinks; ascending. Of the default CNI's own links on the node, those count
/// that the pod's NIC has as its gateway.
fn node_addresses(nics: &[Nic<'_>], inside: Inside<'_>, node: &NodeFacts, family: Family) -> Vec<IpAddr> {
    let underlay = nics.iter().flat_map(|nic| addresses_of(nic.attachment, family)).map(|address| address.ip());
    let sources = inside.addresses().chain(underlay).filter_map(|ip| node.source_towards(ip));
    let routes = inside.baseline().into_iter().flat_map(|baseline| &baseline.routes);
    let gateways = routes.filter_map(|route| route.gateway).filter(|gateway| node.has(*gateway));
    let all: BTreeSet<IpAddr> =
        sources.chain(gateways).chain(node.uplink_addresses()).filter(|ip| family.has(*ip)).collect();
    all.into_iter().collect()
}

/// Destinations inside the cluster: the node on the link; pod, service and hijacked networks by the node.
fn cluster_routes(
    nics: &[Nic<'_>],
    node_addresses: &[IpAddr],
    gateway: Option<IpAddr>,
    family: Family,
    notes: &mut Vec<String>,
) -> Vec<(IpNetwork, Option<IpAddr>)> {
    let mut routes: BTreeMap<IpNetwork, Option<IpAddr>> =
        node_addresses.iter().map(|address| (IpNetwork::from(*address), None)).collect();
    let networks: BTreeSet<IpNetwork> = nics
        .iter()
        .flat_map(|nic| {
            let settings = &nic.settings;
            settings.overlay_pod_cidr.iter().chain(&settings.service_cidr).chain(&settings.hijack_cidr)
        })
        .filter(|network| family.has_network(**network))
        .map(|network| subnet(*network))
        .collect();
    match gateway {
        Some(gateway) => {
            for network in networks {
                routes.entry(network).or_insert(Some(gateway));
            }
        }
        None if networks.is_empty() => {}
        None => {
            let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
            notes.push(format!(
                "the node has no {family} address of its own: no routes to pod, service and hijacked networks of that family"
            ));
        }
    }
    routes.into_iter().collect()
}
