//! ADD as coordinator: the routing intent, together with the baseline that the default CNI had set up.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use plan::tables::MAIN;
use plan::{LinkKind, Observed, RouteKind, ownership};
use schemas::cni::error::CniError;
use schemas::cni::result::CniResult;
use schemas::intent::{
    AssignedAddress, Attachment, Baseline, BaselineRoute, CoordinateIntent, CoordinatorMode, CoordinatorSettings,
    HostPeer, Learned, LinkIdentity, LinkKindIntent, RouteIntent, SysctlValue,
};
use schemas::name::IfName;
use schemas::wire::{Answer, CoordinateCall};
use tokio::time::Instant;

use super::detect::Detection;
use super::mode::{self, Resolved};
use super::{allocate, place, wait};
use crate::agent::Agent;
use crate::ledger::{SandboxRecords, Update};
use crate::{learned, readiness, selection};

/// The default CNI's interface unless the network configuration names another.
const DEFAULT_CNI_NIC: &str = "eth0";

/// Answers ADD of `coordinator`.
pub(super) async fn coordinate(
    agent: &Arc<Agent>,
    call: CoordinateCall,
    deadline: Instant,
) -> Result<Answer, CniError> {
    let overrides = call.conf.overrides()?;
    let cluster = readiness::coordinator(agent).map_err(|reason| CniError::new(CniError::TRY_AGAIN, reason))?;
    let mode = overrides.mode.unwrap_or(cluster.mode);
    if mode == CoordinatorMode::Disabled {
        return Ok(Answer::Done);
    }
    let netns = place::identify(agent, &call.place).await?;
    crate::cluster::pod_seen(agent, &call.place.pod, deadline).await?;
    let container = call.place.key.container.clone();
    let default_nic = overrides.default_cni_nic.as_ref().map_or(DEFAULT_CNI_NIC, IfName::as_str).to_owned();
    // Observed in turn: the baseline is what stands before any intent of this sandbox has moved a route.
    let turn = agent.ledger.lock(&container).await;
    // What of the default CNI's is set otherwise for as long as the pod has NICs of ours.
    let mut others = vec![plan::RP_FILTER.to_owned(), format!("net/ipv6/conf/{default_nic}/disable_ipv6")];
    others.extend(plan::UNDERLAY_SYSCTLS.map(ToOwned::to_owned));
    let pod = place::observe(agent, &netns, others).await?;
    let mut records = place::records(agent, &container, &netns);
    let resolved = mode::resolve(mode, &call.place.key.ifname, &default_nic, &records, &pod)?;
    if resolved == Resolved::Underlay && records.sandbox.auxiliary.is_none() {
        records.sandbox.auxiliary = Some(mode::auxiliary(agent, &container)?);
    }
    if resolved == Resolved::Overlay && records.sandbox.baseline.is_none() {
        let mut found = baseline(&default_nic, &pod, &agent.node.observed())?;
        if found.peer.is_none() {
            // Its other end may be younger than the last look at the node.
            agent.node.passed().await;
            found = baseline(&default_nic, &pod, &agent.node.observed())?;
        }
        records.sandbox.baseline = Some(found);
    }
    if records.sandbox.sysctls_before.is_empty() {
        let is_nics = |path: &str| path.contains("/conf/") && path != plan::RP_FILTER;
        let is_others = |path: &str| match resolved {
            Resolved::Overlay => !plan::UNDERLAY_SYSCTLS.contains(&path),
            Resolved::Underlay => !is_nics(path),
        };
        let found = pod.sysctls.iter().filter(|(path, _)| is_others(path));
        records.sandbox.sysctls_before =
            found.map(|(path, value)| SysctlValue { path: path.clone(), value: value.clone() }).collect();
    }
    let catalogue = agent.catalogue();
    let annotated_default_nic = selection::pod_marks(&catalogue, &call.place.pod)
        .and_then(|marks| marks.annotations.get(selection::ANNOTATION_DEFAULT_NIC).cloned());
    let intent = CoordinateIntent { conf: overrides, annotated_default_nic, cluster, mac: None };
    check_table(&intent.cluster, &intent)?;
    check_networks(&agent.node.facts(), &intent)?;
    let mut attachment = attachment(agent, &records, &call, intent, &pod)?;
    give_mac(&mut attachment, &pod)?;
    let addresses = attachment.addresses.clone();
    let mut detection = Detection::new(agent, &call.place, &netns, call.conf.detect(), deadline);
    detection.approves_new(&addresses).await?;
    let repeated = agent.ledger.sandbox(&container).filter(|found| found.is_repeated_by(&records.sandbox, &attachment));
    let generation = match repeated {
        Some(published) => published.sandbox.generation,
        None => {
            let known = records.attachments.get(&call.place.key.ifname);
            let freed = allocate::unused(agent, known, &addresses);
            let sandbox = Some(records.sandbox.clone());
            let update = Update { sandbox, put: vec![attachment], freed, ..Update::default() };
            agent.ledger.commit(&container, update).await.map_err(|error| wait::not_recorded(&error))?;
            records.sandbox.generation
        }
    };
    drop(turn);
    wait::converged(agent, &container, generation, deadline).await?;
    detection.succeeded(&addresses, false).await;
    Ok(Answer::Done)
}

/// By `podMACPrefix` the NIC's hardware address is the prefix and the last four bytes of its first address
/// (../spec/coordinator.md 4, item 14).
fn give_mac(attachment: &mut Attachment, pod: &Observed) -> Result<(), CniError> {
    let Some(coordinate) = &mut attachment.coordinate else { return Ok(()) };
    let prefix = coordinate.conf.mac_prefix.or(coordinate.cluster.mac_prefix);
    let (Some(prefix), Some(first)) = (prefix, attachment.addresses.first()) else { return Ok(()) };
    let ifname = attachment.key.ifname.as_str();
    let is_ipvlan = match &attachment.link {
        Some(link) if attachment.link_wanted => matches!(link.kind, LinkKindIntent::Ipvlan(_)),
        _ => pod.link(ifname).is_some_and(|link| matches!(link.kind, LinkKind::Ipvlan(_))),
    };
    if is_ipvlan {
        let text = format!(
            "podMACPrefix {prefix}: {ifname} is an ipvlan, which shares its uplink's hardware address: leave podMACPrefix \
             away or make the NIC a macvlan"
        );
        return Err(CniError::new(CniError::FAILED, text));
    }
    let mac = Some(prefix.mac(first.address.ip()));
    match &mut attachment.link {
        Some(link) if attachment.link_wanted => link.mac = mac,
        _ => coordinate.mac = mac,
    }
    Ok(())
}

fn check_table(cluster: &CoordinatorSettings, intent: &CoordinateIntent) -> Result<(), CniError> {
    let table = intent.conf.host_rule_table.unwrap_or(cluster.host_rule_table);
    if plan::NodeFacts::is_valid_rule_table(table) {
        Ok(())
    } else {
        let text =
            format!("hostRuleTable {table} is the kernel's own or the pods' table 100: choose another, such as 500");
        Err(CniError::new(CniError::FAILED, text))
    }
}

/// A network that the node itself is in would take the node's neighbours, its gateway among them, by way of the node.
fn check_networks(node: &plan::NodeFacts, intent: &CoordinateIntent) -> Result<(), CniError> {
    let CoordinateIntent { conf, cluster, .. } = intent;
    let lists = [
        ("overlayPodCIDR", &conf.overlay_pod_cidr, &cluster.overlay_pod_cidr),
        ("serviceCIDR", &conf.service_cidr, &cluster.service_cidr),
        ("hijackCIDR", &conf.hijack_cidr, &cluster.hijack_cidr),
    ];
    let own = node.uplink_addresses();
    for (key, of_conf, of_cluster) in lists {
        let networks = if of_conf.is_empty() { of_cluster } else { of_conf };
        let is_wide = |network: &&IpNetwork| **network != IpNetwork::from(network.ip());
        for network in networks.iter().filter(is_wide) {
            if let Some(address) = own.iter().find(|address| network.contains(**address)) {
                let text = format!(
                    "coordinator: {key} {network} overlaps the node's own network: {address} is the node's; name smaller \
                     networks that the node is not in"
                );
                return Err(CniError::new(CniError::FAILED, text));
            }
        }
    }
    Ok(())
}

/// What the default CNI set up.
fn baseline(nic: &str, pod: &Observed, node: &Observed) -> Result<Baseline, CniError> {
    let missing = |text: String| CniError::new(CniError::FAILED, text);
    let link = pod.link(nic).ok_or_else(|| {
        missing(format!("the pod has no {nic}: in overlay mode the default CNI's interface must be there first"))
    })?;
    let mac = link.mac.ok_or_else(|| missing(format!("the pod's {nic} has no hardware address")))?;
    let is_routed = |address: &&plan::Address| match address.address.ip() {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    let addresses = pod.addresses.iter().filter(|address| address.dev == nic).filter(is_routed);
    let routes = pod.routes.iter().filter(|route| {
        route.table == MAIN
            && route.dev.as_deref() == Some(nic)
            && route.kind == RouteKind::Unicast
            && !is_links_own(route, &pod.addresses)
            && !ownership::is_our_route(route)
    });
    Ok(Baseline {
        nic: link.name.parse().map_err(|error| missing(format!("the pod's {nic}: {error}")))?,
        index: link.index,
        mac,
        addresses: addresses.map(|address| address.address).collect(),
        routes: routes
            .map(|route| BaselineRoute {
                dst: route.dst,
                gateway: route.gateway,
                src: route.src,
                scope: route.scope.0,
                metric: route.metric,
                onlink: route.onlink,
                protocol: route.protocol,
            })
            .collect(),
        peer: peer(link, node),
    })
}

/// What the kernel gives each link for itself in IPv6, whoever else is there; also the route to an address of its own.
fn is_links_own(route: &plan::Route, addresses: &[plan::Address]) -> bool {
    let IpAddr::V6(ip) = route.dst.ip() else { return false };
    let is_itself = || addresses.iter().any(|own| route.dst == IpNetwork::from(own.address.ip()));
    ip.is_unicast_link_local() || ip.is_multicast() || (route.gateway.is_none() && is_itself())
}

/// The node's end of the pod's interface: each names the other's index.
fn peer(link: &plan::Link, node: &Observed) -> Option<HostPeer> {
    if link.kind != LinkKind::Veth {
        return None;
    }
    let found = node.links.iter().find(|other| {
        Some(other.index) == link.lower && other.lower == Some(link.index) && other.kind == LinkKind::Veth
    })?;
    Some(HostPeer { name: found.name.parse().ok()?, index: found.index, mac: found.mac? })
}

/// The attachment with its routing: addresses from our own record, else from prevResult.
fn attachment(
    agent: &Agent,
    records: &SandboxRecords,
    call: &CoordinateCall,
    intent: CoordinateIntent,
    pod: &Observed,
) -> Result<Attachment, CniError> {
    let ifname = &call.place.key.ifname;
    let known = records.attachments.get(ifname).cloned().map(|known| match known.prepared {
        // Another IPAM was asked for this NIC.
        true => Attachment { addresses: Vec::new(), routes: Vec::new(), allocated: false, prepared: false, ..known },
        false => known,
    });
    let mut attachment = known.unwrap_or_else(|| Attachment {
        key: call.place.key.clone(),
        network: call.place.network.clone(),
        pod: call.place.pod.clone(),
        ordinal: records.free_ordinal(),
        generation: 0,
        addresses: Vec::new(),
        routes: Vec::new(),
        allocated: false,
        link: None,
        link_wanted: false,
        learned: Learned::default(),
        foreign_link: None,
        coordinate: None,
        uplink: None,
        closing: false,
        prepared: false,
    });
    // Also addresses that are on their way back stay the attachment's own: their release is still to be verified.
    let is_ours = attachment.addresses.iter().any(|own| agent.ledger.is_owner(own.address.ip(), &attachment.key));
    attachment.closing = false;
    if !is_ours && !attachment.link_wanted {
        attachment.addresses = addresses(&call.prev_result, ifname);
        attachment.routes = routes(&call.prev_result);
    }
    if attachment.addresses.is_empty() {
        let text = format!("no usable IP addresses on {:?}: prevResult and our IPAM have none for it", ifname.as_str());
        return Err(CniError::new(CniError::FAILED, text));
    }
    if !attachment.link_wanted {
        let link = pod.link(ifname.as_str()).ok_or_else(|| {
            CniError::new(CniError::FAILED, format!("the pod has no {ifname}: the main plugin must come first"))
        })?;
        let known = attachment.foreign_link.filter(|known| known.index == link.index);
        // Asked again, it may have the hardware address that it was given.
        attachment.foreign_link = known.or(link.mac.map(|mac| LinkIdentity { index: link.index, mac }));
    }
    attachment.coordinate = Some(Box::new(intent));
    attachment.learned = learned::of(&attachment, pod);
    attachment.generation = records.sandbox.generation;
    Ok(attachment)
}

/// The addresses of prevResult that are this interface's, or nobody's.
fn addresses(result: &CniResult, ifname: &IfName) -> Vec<AssignedAddress> {
    let is_own = |interface: Option<usize>| match interface.and_then(|index| result.interfaces.get(index)) {
        Some(interface) => interface.name == ifname.as_str() && !interface.sandbox.is_empty(),
        None => true,
    };
    let own = result.ips.iter().filter(|ip| is_own(ip.interface));
    own.map(|ip| AssignedAddress { address: ip.address, gateway: ip.gateway, pool: String::new() }).collect()
}

fn routes(result: &CniResult) -> Vec<RouteIntent> {
    // Routes of other tables (CNI 1.1.0) are the other plugin's own affair.
    let in_main = result.routes.iter().filter(|route| route.table.is_none_or(|table| table == MAIN));
    in_main.map(|route| RouteIntent { dst: route.dst, gateway: route.gw }).collect()
}
