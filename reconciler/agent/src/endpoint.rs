//! What SpiderEndpoints say: the addresses of the node's pods, as the store has them.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use schemas::crd::endpoint::{IpAllocationDetail, PodIpAllocation, SpiderEndpointStatus};
use schemas::crd::route::Route;
use schemas::intent::{Attachment, PodRef};

use crate::agent::Agent;
use crate::call::pod_name;
use crate::catalogue::Owner;
use crate::identity::Identity;
use crate::selection;

/// The endpoint of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod.
    pub pod: PodRef,
    /// What the endpoint says. The owner is the pod's own controller; who controls that one is asked of the cluster.
    pub status: SpiderEndpointStatus,
    /// The pod's controller, where it has one.
    pub owner: Option<Owner>,
    /// The pod's addresses are kept for the next one.
    pub is_kept: bool,
}

/// All endpoints of the node, by namespace and name: the pod's, or its virtual machine's.
pub fn all(agent: &Agent) -> BTreeMap<(String, String), Endpoint> {
    let catalogue = agent.catalogue();
    let mut pods: BTreeMap<(String, String), Vec<Attachment>> = BTreeMap::new();
    for records in agent.ledger.sandboxes() {
        for attachment in records.by_ordinal().into_iter().filter(|attachment| !attachment.is_withdrawn()) {
            let namespace = attachment.pod.namespace.clone();
            let name = pod_name(&records).rsplit('/').next().unwrap_or_default().to_owned();
            let identity = Identity::of(&catalogue, &attachment.pod);
            let name = identity.map_or(name, |identity| identity.name);
            pods.entry((namespace, name)).or_default().push(attachment);
        }
    }
    let endpoint = |((namespace, name), attachments): ((String, String), Vec<Attachment>)| {
        let pod = attachments.first().map(|attachment| attachment.pod.clone()).unwrap_or_default();
        let owner = selection::pod_marks(&catalogue, &pod).and_then(|marks| marks.owner.clone());
        let (kind, owner_name) = match &owner {
            Some(owner) => (owner.kind.clone(), owner.name.clone()),
            None => ("Pod".to_owned(), name.clone()),
        };
        let current = PodIpAllocation {
            uid: pod.uid.clone(),
            node: agent.config.node_name.clone(),
            ips: attachments.iter().map(detail).collect(),
        };
        let status = SpiderEndpointStatus { current, owner_controller_type: kind, owner_controller_name: owner_name };
        let is_kept = Identity::of(&catalogue, &pod).is_some();
        ((namespace, name), Endpoint { pod, status, owner, is_kept })
    };
    pods.into_iter().map(endpoint).collect()
}

fn detail(attachment: &Attachment) -> IpAllocationDetail {
    let mut detail =
        IpAllocationDetail { interface: attachment.key.ifname.to_string(), ..IpAllocationDetail::default() };
    for assigned in &attachment.addresses {
        let pool = Some(assigned.pool.clone());
        let address = Some(assigned.address.to_string());
        let gateway = assigned.gateway.map(|gateway| gateway.to_string());
        match assigned.address {
            IpNetwork::V4(_) => (detail.ipv4, detail.ipv4_pool, detail.ipv4_gateway) = (address, pool, gateway),
            IpNetwork::V6(_) => (detail.ipv6, detail.ipv6_pool, detail.ipv6_gateway) = (address, pool, gateway),
        }
        if assigned.gateway.is_some() {
            detail.clean_gateway = Some(!attachment.routes.iter().any(|route| route.dst.prefix() == 0));
        }
    }
    let further = attachment.routes.iter().filter(|route| route.dst.prefix() != 0);
    detail.routes = further
        .filter_map(|route| Some(Route { dst: route.dst.to_string(), gw: route.gateway?.to_string() }))
        .collect();
    let by_prefix = || attachment.coordinate.as_ref().and_then(|coordinate| coordinate.mac);
    let mac = attachment.link.as_ref().map_or_else(by_prefix, |link| link.mac);
    detail.mac = mac.map(|mac| mac.to_string());
    detail
}
