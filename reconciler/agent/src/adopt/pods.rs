//! Which pods of the node can be taken over, decided from what Spiderpool, the runtime and the kernel say of them: all
//! three have to agree, and a pod is taken over whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemas::crd::endpoint::IpAllocationDetail;
use schemas::crd::ippool::PoolIpUser;
use schemas::intent::{
    Allocation, AllocationState, AssignedAddress, Attachment, Learned, Outcome, PodRef, RouteIntent, Sandbox,
};
use schemas::name::{AttachmentKey, ContainerId, IfName, NetworkName};
use store::Snapshot;

use super::cache::{self, Cached};
use super::namespaces::Namespace;
use super::{Row, State};

/// What a SpiderEndpoint of the node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The pod.
    pub(super) pod: PodRef,
    /// Its interfaces.
    pub(super) nics: Vec<IpAllocationDetail>,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// The node's endpoints.
    pub(super) endpoints: Vec<Endpoint>,
    /// The pools' subnets.
    pub(super) pools: BTreeMap<String, IpNetwork>,
    /// Who has which addresses by `status.allocatedIPs` of the pools.
    pub(super) users: BTreeMap<String, BTreeMap<IpAddr, PoolIpUser>>,
    /// The node's pods as namespace/name.
    pub(super) pods: BTreeSet<String>,
    /// Its network namespaces.
    pub(super) namespaces: Vec<Namespace>,
    /// What the runtime remembers.
    pub(super) cached: Vec<Cached>,
}

/// A pod to be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Adoption {
    /// Its sandbox.
    pub(super) sandbox: Sandbox,
    /// Its interfaces.
    pub(super) attachments: Vec<Attachment>,
    /// What is to be said of it.
    pub(super) note: String,
}

impl Adoption {
    /// Its addresses with their pools.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let assigned = self.attachments.iter().flat_map(|attachment| &attachment.addresses);
        assigned.map(|assigned| (assigned.pool.as_str(), assigned.address.ip()))
    }

    /// The records of its addresses.
    pub(super) fn allocations(&self) -> impl Iterator<Item = Allocation> {
        self.attachments.iter().flat_map(|attachment| {
            attachment.addresses.iter().map(|assigned| Allocation {
                address: assigned.address.ip(),
                pool: assigned.pool.clone(),
                owner: attachment.key.clone(),
                state: AllocationState::Held,
            })
        })
    }

    /// A line for each interface.
    pub(super) fn rows(&self, state: State, note: &str) -> Vec<Row> {
        let row = |attachment: &Attachment| Row {
            state,
            pod: attachment.pod.to_string(),
            ifname: attachment.key.ifname.to_string(),
            addresses: attachment.addresses.iter().map(|assigned| assigned.address.ip().to_string()).collect(),
            pools: attachment.addresses.iter().map(|assigned| assigned.pool.clone()).collect(),
            container: attachment.key.container.to_string(),
            note: note.to_owned(),
        };
        self.attachments.iter().map(row).collect()
    }
}

/// What is taken over, and what is known already or left alone.
pub(super) fn decide(known: &Known, store: &Snapshot) -> (Vec<Adoption>, Vec<Row>) {
    let (mut adoptions, mut rows) = (Vec::new(), Vec::new());
    let mut named: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for endpoint in &known.endpoints {
        for address in endpoint.nics.iter().flat_map(texts).filter_map(|(text, _, _)| ip(text)) {
            named.entry(address).or_default().insert(endpoint.pod.to_string());
        }
    }
    for endpoint in &known.endpoints {
        let state = match adoption(endpoint, known, store, &named) {
            Ok(Some(adoption)) => {
                adoptions.push(adoption);
                continue;
            }
            Ok(None) => (State::Known, String::new()),
            Err(reason) => (State::Left, reason),
        };
        rows.extend(endpoint.nics.iter().filter(|nic| texts(nic).next().is_some()).map(|nic| Row {
            state: state.0,
            pod: endpoint.pod.to_string(),
            ifname: nic.interface.clone(),
            addresses: texts(nic).map(|(text, _, _)| text.to_owned()).collect(),
            pools: texts(nic).map(|(_, pool, _)| pool.to_owned()).collect(),
            container: String::new(),
            note: state.1.clone(),
        }));
    }
    for (pool, users) in &known.users {
        let is_lost =
            |(address, user): &(&IpAddr, &PoolIpUser)| known.pods.contains(&user.pod) && !named.contains_key(*address);
        rows.extend(users.iter().filter(is_lost).map(|(address, user)| Row {
            state: State::Left,
            pod: user.pod.clone(),
            addresses: vec![address.to_string()],
            pools: vec![pool.clone()],
            note: "the pool says that this pod has it, and no SpiderEndpoint of the node does".to_owned(),
            ..Row::default()
        }));
    }
    (adoptions, rows)
}

/// None when the store has the pod already.
fn adoption(
    endpoint: &Endpoint,
    known: &Known,
    store: &Snapshot,
    named: &BTreeMap<IpAddr, BTreeSet<String>>,
) -> Result<Option<Adoption>, String> {
    let mut nics: BTreeMap<IfName, (Vec<AssignedAddress>, Vec<RouteIntent>)> = BTreeMap::new();
    for nic in endpoint.nics.iter().filter(|nic| texts(nic).next().is_some()) {
        let ifname = nic.interface.parse().map_err(|_| format!("{:?} is no interface's name", nic.interface))?;
        if nics.insert(ifname, read(nic, known)?).is_some() {
            return Err(format!("interface {} stands in the SpiderEndpoint twice", nic.interface));
        }
    }
    let addresses: Vec<(&IfName, IpAddr, &str)> = nics
        .iter()
        .flat_map(|(ifname, (all, _))| all.iter().map(move |one| (ifname, one.address.ip(), one.pool.as_str())))
        .collect();
    if addresses.is_empty() {
        return Ok(None);
    }
    let mut is_known = true;
    for (_, address, pool) in &addresses {
        if let Some(others) = named.get(address).filter(|pods| pods.len() > 1) {
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            return Err(format!("{address} stands in several SpiderEndpoints: {}", others.join(", ")));
        }
        let user = known.users.get(*pool).and_then(|users| users.get(address));
        if let Some(user) = user.filter(|user| user.pod != endpoint.pod.to_string()) {
            return Err(format!("pool {pool} says that {} has {address}", user.pod));
        }
        match store.allocations.iter().find(|allocation| allocation.address == *address) {
            None => is_known = false,
            Some(allocation) => {
                let owner = store.attachments.iter().find(|attachment| attachment.key == allocation.owner);
                if owner.is_none_or(|owner| owner.pod.uid != endpoint.pod.uid) {
                    return Err(format!("the store has {address} as that of {}", allocation.owner));
                }
            }
        }
    }
    if is_known {
        return Ok(None);
    }
    let namespace = namespace_of(&addresses, known)?;
    let cached = cached_of(endpoint, namespace, known)?;
    let container = &cached[0].container;
    if store.sandboxes.iter().any(|sandbox| sandbox.container == *container) {
        return Err(format!("the store has sandbox {container} with other addresses"));
    }
    Ok(Some(made(endpoint, nics, namespace, &cached)))
}

/// The one namespace that has all of the addresses where they should be.
fn namespace_of<'a>(addresses: &[(&IfName, IpAddr, &str)], known: &'a Known) -> Result<&'a Namespace, String> {
    let has_all =
        |namespace: &&Namespace| addresses.iter().all(|(ifname, address, _)| namespace.has(ifname.as_str(), *address));
    let mut found = known.namespaces.iter().filter(has_all);
    match (found.next(), found.next()) {
        (Some(namespace), None) => Ok(namespace),
        (Some(one), Some(other)) => {
            Err(format!("both {} and {} have its addresses", one.identity.path, other.identity.path))
        }
        (None, _) => {
            for (ifname, address, _) in addresses {
                let elsewhere = known.namespaces.iter().find_map(|namespace| {
                    let nic = namespace.nics.iter().find(|(_, nic)| nic.addresses.contains(address))?;
                    Some((namespace.identity.path.as_str(), nic.0.as_str()))
                });
                match elsewhere {
                    None => return Err(format!("no network namespace has {address}")),
                    Some((path, name)) if name != ifname.as_str() => {
                        return Err(format!("{path} has {address} on {name}, not on {ifname}"));
                    }
                    Some(_) => {}
                }
            }
            Err("no network namespace has all of its addresses".to_owned())
        }
    }
}

/// What the runtime remembers of the sandbox, all of one container; never empty.
fn cached_of<'a>(endpoint: &Endpoint, namespace: &Namespace, known: &'a Known) -> Result<Vec<&'a Cached>, String> {
    let path = cache::short(&namespace.identity.path);
    let is_of_pod = |cached: &&Cached| {
        cached.netns.contains(&path)
            || (cached.netns.is_empty() && cached.pod_uid.as_deref() == Some(endpoint.pod.uid.as_str()))
    };
    let cached: Vec<&Cached> = known.cached.iter().filter(is_of_pod).collect();
    let containers: BTreeSet<&ContainerId> = cached.iter().map(|cached| &cached.container).collect();
    if containers.len() > 1 {
        let containers: Vec<&str> = containers.into_iter().map(ContainerId::as_str).collect();
        return Err(format!("the runtime's CNI cache has {path} as that of {}", containers.join(" and ")));
    }
    if cached.is_empty() {
        return Err(format!("the runtime's CNI cache has nothing of {path}: its container ID is not known"));
    }
    let is_other = |cached: &&&Cached| cached.pod_uid.as_ref().is_some_and(|uid| *uid != endpoint.pod.uid);
    match cached.iter().find(is_other) {
        Some(other) => Err(format!(
            "container {} is of another pod by the runtime's CNI cache (UID {})",
            other.container,
            other.pod_uid.as_deref().unwrap_or_default()
        )),
        None => Ok(cached),
    }
}

fn made(
    endpoint: &Endpoint,
    nics: BTreeMap<IfName, (Vec<AssignedAddress>, Vec<RouteIntent>)>,
    namespace: &Namespace,
    cached: &[&Cached],
) -> Adoption {
    let container = cached[0].container.clone();
    let network = |ifname: &IfName| -> NetworkName {
        let own = cached.iter().find(|cached| cached.ifname == *ifname);
        own.unwrap_or(&cached[0]).network.clone()
    };
    let attachment = |(ordinal, (ifname, (addresses, routes))): (u32, (IfName, (Vec<_>, Vec<_>)))| Attachment {
        network: network(&ifname),
        learned: Learned::default(),
        foreign_link: namespace.nics.get(ifname.as_str()).map(|nic| nic.link),
        key: AttachmentKey { container: container.clone(), ifname },
        pod: endpoint.pod.clone(),
        ordinal,
        generation: 1,
        addresses,
        routes,
        allocated: true,
        link: None,
        link_wanted: false,
        coordinate: None,
        uplink: None,
        closing: false,
        prepared: false,
    };
    let attachments = (0..).zip(nics).map(attachment).collect();
    let is_coordinated = cached.iter().any(|cached| cached.has_coordinator);
    Adoption {
        sandbox: Sandbox {
            container: container.clone(),
            netns: Some(namespace.identity.clone()),
            baseline: None,
            auxiliary: None,
            sysctls_before: Vec::new(),
            generation: 1,
            outcome: Outcome { generation: 1, error: String::new() },
        },
        attachments,
        note: if is_coordinated { "routing stays as it is".to_owned() } else { String::new() },
    }
}

/// Addresses of an entry as texts, with pool and gateway.
pub(super) fn texts(nic: &IpAllocationDetail) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
    [(&nic.ipv4, &nic.ipv4_pool, &nic.ipv4_gateway), (&nic.ipv6, &nic.ipv6_pool, &nic.ipv6_gateway)]
        .into_iter()
        .filter_map(|(address, pool, gateway)| {
            let address = address.as_deref().filter(|address| !address.is_empty())?;
            let gateway = gateway.as_deref().filter(|gateway| !gateway.is_empty());
            Some((address, pool.as_deref().unwrap_or_default(), gateway))
        })
}

/// The address of a text with or without prefix length.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|network: IpNetwork| network.ip())
}

fn read(nic: &IpAllocationDetail, known: &Known) -> Result<(Vec<AssignedAddress>, Vec<RouteIntent>), String> {
    let (mut addresses, mut routes) = (Vec::new(), Vec::new());
    for route in &nic.routes {
        let (dst, gateway) = (route.dst.parse().ok(), route.gw.parse().ok());
        let dst = dst.ok_or_else(|| format!("{:?} is no destination of a route", route.dst))?;
        routes.push(RouteIntent { dst, gateway });
    }
    for (text, pool, gateway) in texts(nic) {
        let address: IpNetwork = text.parse().map_err(|_| format!("{text:?} is no address"))?;
        let subnet = known.pools.get(pool).ok_or_else(|| format!("there is no SpiderIPPool {pool:?}"))?;
        if !subnet.contains(address.ip()) {
            return Err(format!("{text} is not of {subnet}, the subnet of pool {pool}"));
        }
        let gateway: Option<IpAddr> = match gateway {
            Some(text) => Some(text.parse().map_err(|_| format!("{text:?} is no gateway"))?),
            None => None,
        };
        if let (Some(gateway), false) = (gateway, nic.clean_gateway == Some(true)) {
            let any = crate::adopt::any_of(gateway);
            routes.push(RouteIntent { dst: any, gateway: Some(gateway) });
        }
        addresses.push(AssignedAddress { address, gateway, pool: pool.to_owned() });
    }
    Ok((addresses, routes))
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
