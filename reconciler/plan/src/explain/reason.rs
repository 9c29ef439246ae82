//! Which field of which object a rule, a route or a neighbour comes from.
//!
//! Each source of a decision is one function of [`FINDERS`], asked in that order; the first that knows the thing answers.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::intent::{AssignedAddress, Attachment, Baseline, CoordinateIntent, CoordinatorSettings, RouteIntent};

use crate::object::{Neighbour, Route, RouteKind, Rule};
use crate::ownership;
use crate::plan::{AUXILIARY_LINK, Plan, PlanInput, RP_FILTER};
use crate::tables::{self, MAIN, PROTOCOL};

/// How the reason of what every namespace has begins.
pub(super) const KERNELS_OWN: &str = "the kernel's own";

/// What a plan was made of, and what came out.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// What it was made of.
    pub input: PlanInput<'a>,
    /// What came out.
    pub plan: &'a Plan,
    /// The SpiderCoordinator's name.
    pub coordinator: &'a str,
}

/// What a reason is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Thing<'a> {
    /// A rule of the pod.
    Rule(&'a Rule),
    /// A route of the pod.
    Route(&'a Route),
    /// A neighbour of the pod.
    Neighbour(&'a Neighbour),
    /// A sysctl of the pod, by its path below /proc/sys.
    Sysctl(&'a str),
}

type Finder = fn(&Context<'_>, Thing<'_>) -> Option<String>;

const FINDERS: [Finder; 12] = [
    sysctl,
    built_in,
    foreign,
    reply_path,
    closer_in_main,
    own_source,
    node_address,
    cluster_network,
    policy_route,
    nic_route,
    baseline_route,
    connected_address,
];

impl<'a> Context<'a> {
    /// Where the thing comes from; None when nothing here knows it.
    pub fn reason(&self, thing: Thing<'_>) -> Option<String> {
        FINDERS.iter().find_map(|find| find(self, thing)).or_else(|| unknown(thing))
    }

    /// Why the NIC of that name holds the default route of a family.
    pub fn default_nic(&self, holder: &str) -> String {
        let (wanted, by) = match self.wanted_default_nic() {
            Some((wanted, by)) => (wanted, by),
            None if Some(holder) == self.baseline_name() => {
                return format!("no attached NIC has a gateway: {holder} keeps the default route");
            }
            None => return format!("{holder} is the first attached NIC that has a gateway (the default)"),
        };
        if wanted == holder {
            return by;
        }
        match self.attachment(&wanted) {
            None => format!("{by} names {wanted}, which is not in the pod (yet): {holder} holds the default route"),
            Some(_) => {
                format!("{by} names {wanted}, which has no gateway of that family: {holder} holds the default route")
            }
        }
    }

    /// The NIC that configuration, annotation or SpiderCoordinator names, and which of them did.
    fn wanted_default_nic(&self) -> Option<(String, String)> {
        let coordinated = || self.coordinated();
        let by_conf = coordinated().filter(|(_, intent)| intent.conf.default_route_nic.is_some()).last();
        let (attachment, intent) = by_conf.or_else(|| coordinated().last())?;
        if let Some(wanted) = &intent.conf.default_route_nic {
            let by = format!("podDefaultRouteNic of the network configuration {}", attachment.network);
            return (!wanted.is_empty()).then(|| (wanted.clone(), by));
        }
        if let Some(wanted) = &intent.annotated_default_nic {
            let by = format!("annotation ipam.spidernet.io/default-route-nic of pod {}", attachment.pod);
            return (!wanted.is_empty()).then(|| (wanted.clone(), by));
        }
        let wanted = self.settings(intent).default_route_nic.clone().filter(|wanted| !wanted.is_empty())?;
        Some((wanted, format!("spec.podDefaultRouteNIC of {}", self.coordinator())))
    }

    /// Where an address of the pod comes from.
    pub(super) fn address(&self, ip: IpAddr) -> Option<String> {
        if let Some((attachment, own)) = assigned(self, |assigned| assigned.address.ip() == ip) {
            return Some(giver(attachment, own));
        }
        let baseline = self.baseline()?;
        let is_its = baseline.addresses.iter().any(|own| own.ip() == ip);
        is_its.then(|| "as the default CNI set it up (baseline)".to_owned())
    }

    fn settings<'s>(&'s self, intent: &'s CoordinateIntent) -> &'s CoordinatorSettings {
        self.input.cluster.unwrap_or(&intent.cluster)
    }

    fn coordinator(&self) -> String {
        format!("SpiderCoordinator {}", self.coordinator)
    }

    fn coordinated(&self) -> impl Iterator<Item = (&'a Attachment, &'a CoordinateIntent)> {
        let attachments = self.input.attachments;
        attachments.iter().filter_map(|attachment| Some((attachment, attachment.coordinate.as_deref()?)))
    }

    fn attachment(&self, name: &str) -> Option<&'a Attachment> {
        self.input.attachments.iter().find(|attachment| attachment.key.ifname.as_str() == name)
    }

    fn baseline(&self) -> Option<&'a Baseline> {
        self.input.sandbox.baseline.as_ref()
    }

    fn baseline_name(&self) -> Option<&'a str> {
        self.baseline().map(|baseline| baseline.nic.as_str())
    }

    /// The link by which the pod reaches its node: the default CNI's, or `veth0` in underlay mode.
    fn inside_name(&self) -> Option<&'a str> {
        self.input.sandbox.auxiliary.as_ref().map(|_| AUXILIARY_LINK).or(self.baseline_name())
    }

    fn is_inside(&self, dev: Option<&str>) -> bool {
        dev.is_some() && dev == self.inside_name()
    }

    /// The node's end of it.
    fn peer_name(&self) -> Option<&'a str> {
        let auxiliary = self.input.sandbox.auxiliary.as_ref().map(|pair| pair.host_name.as_str());
        auxiliary.or_else(|| self.baseline()?.peer.as_ref().map(|peer| peer.name.as_str()))
    }

    /// The NIC whose default route is in main.
    fn holder(&self, v6: bool) -> Option<&'a str> {
        let routes = self.plan.pod.routes.iter().map(|wanted| &wanted.route);
        let mut defaults = routes.filter(|it| it.table == MAIN && it.is_default() && it.dst.is_ipv6() == v6);
        defaults.next().and_then(|route| route.dev.as_deref())
    }

    /// Why a NIC's routes are not in main.
    fn moved(&self, dev: &str, table: u32, v6: bool) -> String {
        match self.holder(v6).filter(|holder| *holder != dev && table != MAIN) {
            Some(holder) => {
                format!("; in table {table}, as {holder} holds the default route: {}", self.default_nic(holder))
            }
            None => String::new(),
        }
    }
}

/// `podRPFilter`, as the first coordinated NIC has it.
fn sysctl(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let Thing::Sysctl(path) = thing else { return None };
    let value = context.plan.pod.sysctls.get(path).filter(|_| path == RP_FILTER)?;
    let (attachment, intent) = context.coordinated().next()?;
    Some(match intent.conf.pod_rp_filter {
        Some(_) => format!("{value} in all: podRPFilter of the network configuration {}", attachment.network),
        None => format!("{value} in all: spec.podRPFilter of {}", context.coordinator()),
    })
}

/// The rules and routes that every namespace has.
fn built_in(_: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    match thing {
        Thing::Rule(rule) if matches!(rule.priority, 0 | 32766 | 32767) && rule.from.is_none() && rule.to.is_none() => {
            Some(format!("{KERNELS_OWN} rule"))
        }
        Thing::Route(route) if route.table == 255 => {
            let dev = route.dev.as_deref().unwrap_or("lo");
            Some(format!("{KERNELS_OWN}: the address is on {dev}"))
        }
        _ => None,
    }
}

/// Things of other programs, but for what the default CNI and the NICs' plugins are known to have made.
fn foreign(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let (protocol, is_known) = match thing {
        Thing::Rule(rule) => (rule.protocol, false),
        Thing::Route(route) => {
            let dev = route.dev.as_deref();
            let has_dev = context.is_inside(dev) || dev.is_some_and(|dev| context.attachment(dev).is_some());
            (route.protocol, has_dev && route.kind == RouteKind::Unicast)
        }
        Thing::Neighbour(neighbour) => (neighbour.protocol, false),
        Thing::Sysctl(_) => return None,
    };
    (protocol != PROTOCOL && !is_known).then(|| format!("not dragline's: made by {}", maker(protocol)))
}

fn maker(protocol: u8) -> String {
    match protocol {
        0 | 4 => "hand or another program".into(),
        2 => "the kernel".into(),
        3 => "hand or another program (proto boot)".into(),
        9 => "a router advertisement".into(),
        other => format!("another program (proto {other})"),
    }
}

/// Underlay mode: the way back by `veth0` for what came by it.
fn reply_path(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let is_auxiliary = context.input.sandbox.auxiliary.is_some();
    let what = match thing {
        Thing::Rule(rule) if rule.mark == Some(tables::REPLY_MARK) => "replies to what came by",
        Thing::Route(route) if route.table == tables::DEFAULT_NIC && context.is_inside(route.dev.as_deref()) => {
            "the way back for what came by"
        }
        Thing::Rule(_) | Thing::Route(_) | Thing::Neighbour(_) | Thing::Sysctl(_) => return None,
    };
    is_auxiliary.then(|| format!("{what} {AUXILIARY_LINK} (underlay mode), told by the connection's mark"))
}

/// `policyRoutes`.
fn policy_route(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let Thing::Route(route) = thing else { return None };
    let is_it = |wanted: &RouteIntent| wanted.gateway == route.gateway && wanted.dst == route.dst;
    context.coordinated().find_map(|(attachment, intent)| {
        if Some(attachment.key.ifname.as_str()) != route.dev.as_deref() {
            return None;
        }
        if intent.conf.policy_routes.iter().any(is_it) {
            return Some(format!("policyRoutes of the network configuration {}", attachment.network));
        }
        let is_clusters =
            intent.conf.policy_routes.is_empty() && context.settings(intent).policy_routes.iter().any(is_it);
        is_clusters.then(|| format!("spec.policyRoutes of {}", context.coordinator()))
    })
}

/// A destination that main reaches more closely than a wide rule.
fn closer_in_main(_: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    match thing {
        Thing::Rule(Rule { table: MAIN, to: Some(to), .. }) => {
            Some(format!("main reaches {to} more closely than the wider rule behind this one"))
        }
        _ => None,
    }
}

/// `from` rules: what an address of a NIC sends goes by that NIC's table.
fn own_source(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let Thing::Rule(rule) = thing else { return None };
    let source = rule.from?.ip();
    let moved = |dev: &str| context.moved(dev, rule.table, rule.v6);
    if let Some(baseline) = context.baseline().filter(|it| it.addresses.iter().any(|own| own.ip() == source)) {
        let nic = baseline.nic.as_str();
        return Some(format!("address of {nic} as the default CNI set it up (baseline){}", moved(nic)));
    }
    let (attachment, assigned) = assigned(context, |assigned| assigned.address.ip() == source)?;
    let nic = attachment.key.ifname.as_str();
    Some(format!("address of {nic} {}{}", giver(attachment, assigned), moved(nic)))
}

/// The node, reached by the default CNI's NIC.
fn node_address(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let (ip, is_host) = match thing {
        Thing::Rule(rule) => (rule.to?.ip(), is_host(rule.to?)),
        Thing::Route(route) => (route.dst.ip(), is_host(route.dst) && context.is_inside(route.dev.as_deref())),
        Thing::Neighbour(neighbour) => (neighbour.address, context.is_inside(Some(&neighbour.dev))),
        Thing::Sysctl(_) => return None,
    };
    let on_node = context.input.node.addresses.iter().find(|address| is_host && address.address.ip() == ip)?;
    let dev = &on_node.dev;
    let what = if ownership::is_node_uplink(dev) {
        format!("address of the node's uplink {dev}")
    } else {
        format!("address of the node's {dev}, which the default CNI uses")
    };
    Some(match (thing, context.peer_name()) {
        (Thing::Neighbour(_), Some(peer)) => {
            format!("{what}; the hardware address is that of {peer} on the node")
        }
        _ => what,
    })
}

/// Pod, service and hijacked networks.
fn cluster_network(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let network = match thing {
        Thing::Rule(rule) => rule.to?,
        Thing::Route(route) if context.is_inside(route.dev.as_deref()) => route.dst,
        Thing::Route(_) | Thing::Neighbour(_) | Thing::Sysctl(_) => return None,
    };
    let has = |list: &[IpNetwork]| list.iter().any(|it| it.prefix() == network.prefix() && it.contains(network.ip()));
    context.coordinated().find_map(|(attachment, intent)| {
        let (conf, cluster) = (&intent.conf, context.settings(intent));
        let lists = [
            ("overlayPodCIDR", "status.overlayPodCIDR", &conf.overlay_pod_cidr, &cluster.overlay_pod_cidr),
            ("serviceCIDR", "status.serviceCIDR", &conf.service_cidr, &cluster.service_cidr),
            ("hijackCIDR", "spec.hijackCIDR", &conf.hijack_cidr, &cluster.hijack_cidr),
        ];
        lists.into_iter().find_map(|(key, field, own, clusters)| {
            if has(own) {
                Some(format!("{key} of the network configuration {}", attachment.network))
            } else if own.is_empty() && has(clusters) {
                Some(format!("{field} of {}", context.coordinator()))
            } else {
                None
            }
        })
    })
}

/// Routes that an attachment's IPAM gave, and the rules that lead to them.
fn nic_route(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let (dst, dev, table, v6) = match thing {
        Thing::Rule(rule) => (rule.to?, None, rule.table, rule.v6),
        Thing::Route(route) => (route.dst, route.dev.as_deref(), route.table, route.dst.is_ipv6()),
        Thing::Neighbour(_) | Thing::Sysctl(_) => return None,
    };
    let of_rule = |attachment: &Attachment| tables::of_ordinal(attachment.ordinal) == table;
    let attachment = match dev {
        Some(dev) => context.attachment(dev)?,
        None => context.input.attachments.iter().find(|attachment| of_rule(attachment))?,
    };
    let nic = attachment.key.ifname.as_str();
    let moved = context.moved(nic, table, v6);
    let is_same = |network: IpNetwork| network.network() == dst.network() && network.prefix() == dst.prefix();
    let of_family = |assigned: &&AssignedAddress| assigned.address.is_ipv6() == v6;
    if let Some(own) = attachment.addresses.iter().filter(of_family).find(|assigned| is_same(assigned.address)) {
        return Some(format!("subnet of {}, {nic}'s address {}{moved}", own.address, giver(attachment, own)));
    }
    let given = attachment.routes.iter().find(|given| is_same(given.dst))?;
    let own = attachment.addresses.iter().find(of_family);
    let pool = own.map(|own| own.pool.as_str()).filter(|pool| !pool.is_empty());
    let is_gateway =
        dst.prefix() == 0 && own.is_some_and(|own| given.gateway.is_none() || given.gateway == own.gateway);
    let field = if is_gateway { "spec.gateway" } else { "spec.routes" };
    let from = match pool {
        Some(pool) => format!("{field} of SpiderIPPool {pool}"),
        None => format!("what the IPAM plugin of the network {} gave", attachment.network),
    };
    let why_default = match dst.prefix() {
        0 if table == MAIN && context.holder(v6) == Some(nic) => format!("; in main: {}", context.default_nic(nic)),
        _ => moved,
    };
    Some(format!("{from}{why_default}"))
}

/// What the default CNI had made.
fn baseline_route(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let (dst, table, v6) = match thing {
        Thing::Rule(rule) => (rule.to?, rule.table, rule.v6),
        Thing::Route(route) if context.is_inside(route.dev.as_deref()) => (route.dst, route.table, route.dst.is_ipv6()),
        Thing::Route(_) | Thing::Neighbour(_) | Thing::Sysctl(_) => return None,
    };
    let baseline = context.baseline()?;
    let is_there = baseline.routes.iter().any(|route| route.dst == dst);
    let nic = baseline.nic.as_str();
    let is_default_cni = table == tables::DEFAULT_NIC || table == MAIN;
    (is_there && is_default_cni)
        .then(|| format!("{nic} as the default CNI set it up (baseline){}", context.moved(nic, table, v6)))
}

/// What the kernel or a plugin made of an attachment's address in main, without dragline.
fn connected_address(context: &Context<'_>, thing: Thing<'_>) -> Option<String> {
    let Thing::Route(route) = thing else { return None };
    let dev = route.dev.as_deref()?;
    (route.protocol != PROTOCOL).then(|| match context.attachment(dev) {
        Some(attachment) => {
            format!("on {dev} of the network {}, not dragline's: made by {}", attachment.network, maker(route.protocol))
        }
        None => format!("on {dev}, not dragline's: made by {}", maker(route.protocol)),
    })
}

fn unknown(thing: Thing<'_>) -> Option<String> {
    let protocol = match thing {
        Thing::Rule(rule) => rule.protocol,
        Thing::Route(route) => route.protocol,
        Thing::Neighbour(neighbour) => neighbour.protocol,
        Thing::Sysctl(_) => return None,
    };
    (protocol == PROTOCOL).then(|| "dragline's, for a reason that the records do not tell (any more)".to_owned())
}

fn assigned<'a>(
    context: &Context<'a>,
    is_it: impl Fn(&AssignedAddress) -> bool,
) -> Option<(&'a Attachment, &'a AssignedAddress)> {
    let all = context.input.attachments.iter();
    all.flat_map(|attachment| attachment.addresses.iter().map(move |it| (attachment, it))).find(|(_, it)| is_it(it))
}

fn giver(attachment: &Attachment, assigned: &AssignedAddress) -> String {
    if assigned.pool.is_empty() {
        format!("from the IPAM plugin of the network {}", attachment.network)
    } else {
        format!("from SpiderIPPool {}", assigned.pool)
    }
}

fn is_host(network: IpNetwork) -> bool {
    IpNetwork::from(network.ip()) == network
}
