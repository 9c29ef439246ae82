//! ADD as IPAM: addresses for an attachment, in one durable transaction, without kernel or API server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use schemas::cni::error::CniError;
use schemas::cni::netconf::SpiderpoolIpam;
use schemas::cni::result::{CniResult, ResultIp, ResultRoute};
use schemas::intent::{Allocation, AllocationState, AssignedAddress, Attachment, Learned, RouteIntent};
use schemas::name::{AttachmentKey, IfName};
use schemas::wire::{AllocateCall, Answer, Place};
use store::CommitError;
use tokio::sync::futures::Notified;
use tokio::sync::watch;
use tokio::time::Instant;

use super::detect::Detection;
use super::kept::Chooser;
use super::{arrival, place, routes, wait};
use crate::agent::Agent;
use crate::catalogue::{Catalogue, Marks};
use crate::cluster::Standing;
use crate::kept::KeptFor;
use crate::ledger::{PoolCounts, SandboxRecords, Update};
use crate::selection::{self, Candidates, Selection, SelectionError};
use crate::worker::Cause;
use crate::{cluster, cooling};

/// How long an exhausted pool is waited for when addresses of it are on their way back.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it is waited for in a cluster, where other nodes give addresses up.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(20);
/// How long an application's own pool is waited for, which the controller makes: as long as the original does.
const POOL_PATIENCE: Duration = Duration::from_secs(50);

/// What an attachment gets from our pools.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    pub(super) addresses: Vec<AssignedAddress>,
    pub(super) routes: Vec<RouteIntent>,
    /// For whom the addresses are kept from now on, see [`schemas::reservation`].
    pub(super) owner: Option<String>,
    /// What other NICs of the pod get with it, where one annotation is about all of them: all or nothing.
    pub(super) others: Vec<(IfName, Given)>,
    /// The pod's own routes that fit none of its interfaces so far.
    pub(super) unplaced: Vec<RouteIntent>,
}

impl Given {
    fn kept(known: &Attachment) -> Self {
        Self { addresses: known.addresses.clone(), routes: known.routes.clone(), ..Self::default() }
    }

    /// The addresses of all NICs.
    fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let others = self.others.iter().flat_map(|(_, given)| &given.addresses);
        self.addresses.iter().chain(others).map(|assigned| assigned.address.ip())
    }
}

/// Answers ADD of `spiderpool`.
pub(super) async fn allocate(agent: &Arc<Agent>, call: AllocateCall, deadline: Instant) -> Result<Answer, CniError> {
    let netns = place::identify(agent, &call.place).await?;
    arrival::supersede(agent, &call.place).await;
    let begun = Instant::now();
    let mut detection = Detection::new(agent, &call.place, &netns, call.ipam.detect(), deadline);
    loop {
        // Before looking for an address: one that comes back after the look must not be missed.
        let released = agent.ledger.released();
        let turn = agent.ledger.lock(&call.place.key.container).await;
        let mut records = place::records(agent, &call.place.key.container, &netns);
        if let Some(kept) = retry(agent, &call.place, &records, &netns) {
            detection.approves(&kept.addresses).await?;
            return Ok(Answer::Result(result(&kept)));
        }
        cluster::pod_seen(agent, &call.place.pod, deadline).await?;
        let given = match choose(agent, &call.place, &call.ipam) {
            Ok(given) => given,
            Err(refusal) => {
                drop(turn);
                if let Some(error) = detection.exhausted() {
                    return Err(error);
                }
                refusal.wait(agent, &call.place, released, begun, deadline).await?;
                place::still(agent, &call.place, &netns).await?;
                continue;
            }
        };
        if !detection.accepts(&given).await? {
            continue;
        }
        let attachment = attachment(&mut records, &call.place, &given);
        let result = result(&given);
        let update = update(&records, attachment, &given);
        match agent.ledger.commit(&call.place.key.container, update).await {
            Ok(()) => {
                agent.mark(&call.place.key.container, Cause::Intent);
                routes::tell_unplaced(agent, &call.place, &records, &given);
                detection.succeeded(&given.addresses, false).await;
                return Ok(Answer::Result(result));
            }
            // The store knows better whose the address is: another is taken.
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(wait::not_recorded(&error)),
        }
    }
}

/// What an ADD that is asked again was given before.
fn retry(
    agent: &Agent,
    place: &Place,
    records: &SandboxRecords,
    netns: &schemas::intent::NetnsIdentity,
) -> Option<Given> {
    let known = records.attachments.get(&place.key.ifname)?;
    let published = agent.ledger.sandbox(&place.key.container)?;
    let is_given = known.allocated && !known.closing && !known.prepared;
    (is_given && published.sandbox.netns.as_ref() == Some(netns)).then(|| Given::kept(known))
}

/// The store has the address as another's.
pub(super) fn is_taken(error: &CommitError) -> bool {
    matches!(error, CommitError::AddressTaken { .. } | CommitError::UnreadableAllocation { .. })
}

/// Why no address was found, and whether waiting may help.
pub(super) struct Refusal {
    error: CniError,
    may_come_back: bool,
    /// What was tried, in a cluster: asked for, these pools may get addresses.
    tried: Option<Box<Candidates>>,
    /// What is declared is about to have what is missing; of before the look.
    declared: Option<watch::Receiver<u64>>,
}

impl Refusal {
    /// Waits for an address to come back; `released` was created before the look that found none, `begun` is when the
    /// call came.
    ///
    /// # Errors
    /// When none is on its way, or none came in time.
    pub(super) async fn wait(
        self,
        agent: &Agent,
        place: &Place,
        released: Notified<'_>,
        begun: Instant,
        deadline: Instant,
    ) -> Result<(), CniError> {
        if let Some(mut declared) = self.declared {
            let until = deadline.min(begun + POOL_PATIENCE);
            return match tokio::time::timeout_at(until, declared.changed()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(self.error),
            };
        }
        let (Some(cluster), Some(tried)) = (&agent.cluster, &self.tried) else {
            if !self.may_come_back {
                return Err(self.error);
            }
            let until = deadline.min(Instant::now() + PATIENCE);
            return tokio::time::timeout_at(until, released).await.map_err(|_| self.error);
        };
        let _asked = cluster.ask(&tried.pools, place);
        let until = deadline.min(begun + CLUSTER_PATIENCE);
        // The numbers are those of the end of the wait.
        tokio::time::timeout_at(until, released).await.map_err(|_| exhausted(agent, place, tried).error)
    }
}

/// Reserves an address of every family that is asked for, of all NICs that the pod's annotation is about: all or none.
pub(super) fn choose(agent: &Agent, place: &Place, ipam: &SpiderpoolIpam) -> Result<Given, Refusal> {
    let refuse = |error: CniError| Refusal { error, may_come_back: false, tried: None, declared: None };
    if !agent.has_synced() {
        let text = "the agent has not read its pools yet: try again";
        return Err(refuse(CniError::new(CniError::TRY_AGAIN, text)));
    }
    let records = agent.ledger.sandbox(&place.key.container);
    let known = |ifname: &IfName| records.as_ref().and_then(|records| records.attachments.get(ifname));
    if let Some(known) = known(&place.key.ifname).filter(|known| !known.addresses.is_empty()) {
        // DEL has come, or not, and the same attachment is added again before its addresses went back; or they were given
        // with another NIC's: it keeps them.
        let owns = |assigned: &AssignedAddress| agent.ledger.is_owner(assigned.address.ip(), &place.key);
        if known.addresses.iter().all(owns) {
            let is_occupied = |assigned: &AssignedAddress| agent.ledger.is_occupied(assigned.address.ip());
            if (known.closing || known.prepared) && known.addresses.iter().any(is_occupied) {
                let text = format!("others use the addresses of {}, which go back with the sandbox", place.key);
                let error = CniError::new(CniError::TRY_AGAIN, text);
                return Err(Refusal { error, may_come_back: true, tried: None, declared: None });
            }
            return Ok(Given::kept(known));
        }
    }
    // Why only pods that have had an address get one, if so.
    let mut only_own = None;
    let standing = agent.cluster.as_ref().map_or(Standing::Unknown, |cluster| cluster.standing());
    if let Some(cluster) = &agent.cluster
        && let Err(reason) = standing.may_give(agent.kernel.boot_id(), cluster.config.lease_ttl)
    {
        let error = CniError::new(CniError::TRY_AGAIN, format!("no new addresses are given: {reason}"));
        if !standing.is_node() {
            return Err(refuse(error));
        }
        only_own = Some(error);
    }
    let declared = agent.declared();
    let catalogue = agent.catalogue();
    let pod = &place.pod;
    let is_dead = |marks: &Marks| marks.is_terminating && !pod.uid.is_empty() && marks.uid == pod.uid;
    if selection::pod_marks(&catalogue, pod).is_some_and(is_dead) {
        let text = format!("dead Pod {pod}, we cannot allocate IP addresses to it: it is being deleted");
        return Err(refuse(CniError::new(CniError::FAILED, text)));
    }
    let facts = selection::Facts::of(agent, &catalogue, pod, ipam);
    let request = facts.request(agent, place, ipam);
    let refused = |error: SelectionError| {
        let declared = error.is_awaited().then(|| declared.clone());
        Refusal { declared, ..refuse(CniError::new(error.code(), error.to_string())) }
    };
    let selection = selection::select(&catalogue, request).map_err(refused)?;
    let others = selection::select_all(&catalogue, request).map_err(refused)?.unwrap_or_default();
    let own_routes = selection::annotated_routes(&catalogue, &place.pod).map_err(refused)?;
    let order: Vec<IfName> = others.iter().map(|(ifname, _)| ifname.clone()).collect();
    let give = |ifname: &IfName, selection: &Selection| {
        let own = Place { key: AttachmentKey { ifname: ifname.clone(), ..place.key.clone() }, ..place.clone() };
        give(agent, &catalogue, &own, selection, &standing, only_own.as_ref())
    };
    let mut given = give(&place.key.ifname, &selection)?;
    let is_new = |ifname: &IfName| *ifname != place.key.ifname && known(ifname).is_none();
    for (ifname, selection) in others.into_iter().filter(|(ifname, _)| is_new(ifname)) {
        match give(&ifname, &selection) {
            Ok(other) => given.others.push((ifname, other)),
            Err(refusal) => {
                given.all().for_each(|address| agent.ledger.unreserve(address));
                return Err(refusal);
            }
        }
    }
    routes::place(own_routes, &place.key.ifname, &order, records.as_deref(), &mut given);
    Ok(given)
}

/// Reserves an address of every family for one NIC: all or none. `only_own` says why only pods that have had an address
/// get one, if so.
fn give(
    agent: &Agent,
    catalogue: &Catalogue,
    place: &Place,
    selection: &Selection,
    standing: &Standing,
    only_own: Option<&CniError>,
) -> Result<Given, Refusal> {
    let refuse = |error: CniError| Refusal { error, may_come_back: false, tried: None, declared: None };
    let chooser = Chooser { agent, place, standing, only_own: only_own.is_some() };
    let mut given = Given { owner: chooser.owner(), ..Given::default() };
    for candidates in &selection.families {
        let own = match &given.owner {
            Some(owner) => chooser.own(candidates, owner),
            None => Ok(None),
        };
        let own = own.map_err(|error| {
            given.all().for_each(|address| agent.ledger.unreserve(address));
            Refusal { may_come_back: true, ..refuse(error) }
        })?;
        let reserved = own.or_else(|| reserve(agent, place, candidates, standing, only_own.is_some()));
        let Some((pool, address)) = reserved else {
            given.all().for_each(|address| agent.ledger.unreserve(address));
            return Err(only_own.cloned().map_or_else(|| exhausted(agent, place, candidates), refuse));
        };
        if let Err(error) = assign(catalogue, selection, &pool, address, &mut given) {
            given.all().for_each(|address| agent.ledger.unreserve(address));
            agent.ledger.unreserve(address);
            return Err(refuse(error));
        }
    }
    Ok(given)
}

fn reserve(
    agent: &Agent,
    place: &Place,
    candidates: &Candidates,
    standing: &Standing,
    only_own: bool,
) -> Option<(String, IpAddr)> {
    let user = cooling::user(&place.pod, place.key.ifname.as_str());
    let may_give = |pool: &str, address| match &agent.cluster {
        None => true,
        Some(cluster) if only_own => cluster.tenants.give_again(pool, address),
        Some(cluster) => cluster.tenants.give(pool, address, standing),
    };
    let reserve = |pool: &String| agent.ledger.reserve(pool, &user, only_own, |address| may_give(pool, address));
    candidates.pools.iter().find_map(|pool| Some((pool.clone(), reserve(pool)?)))
}

fn assign(
    catalogue: &Catalogue,
    selection: &Selection,
    pool_name: &str,
    address: IpAddr,
    given: &mut Given,
) -> Result<(), CniError> {
    let gone = || CniError::new(CniError::TRY_AGAIN, format!("SpiderIPPool {pool_name} has changed meanwhile"));
    let pool = catalogue.pools.get(pool_name).ok_or_else(gone)?;
    let subnet = pool.ranges.subnet;
    let address = IpNetwork::new(address, subnet.prefix()).map_err(|_| gone())?;
    given.routes.extend(pool.ranges.routes.iter().map(|(dst, gw)| RouteIntent { dst: *dst, gateway: Some(*gw) }));
    if let (Some(gateway), false) = (pool.ranges.gateway, selection.clean_gateway) {
        given.routes.push(RouteIntent { dst: default_of(gateway), gateway: Some(gateway) });
    }
    given.addresses.push(AssignedAddress { address, gateway: pool.ranges.gateway, pool: pool_name.to_owned() });
    Ok(())
}

fn default_of(gateway: IpAddr) -> IpNetwork {
    let (any, length) = match gateway {
        IpAddr::V4(_) => (IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
        IpAddr::V6(_) => (IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0),
    };
    IpNetwork::new(any, length).expect("a prefix length of 0 is valid in both families")
}

fn exhausted(agent: &Agent, place: &Place, candidates: &Candidates) -> Refusal {
    let catalogue = agent.catalogue();
    let mut may_come_back = false;
    let numbers: Vec<String> = candidates
        .pools
        .iter()
        .map(|pool| {
            let counts = agent.ledger.counts(pool).unwrap_or_default();
            // One that is free now has come back since the look.
            may_come_back |= counts.releasing > 0 || counts.free > 0;
            let has_lost = catalogue.pools.get(pool).is_some_and(|pool| !pool.lost.is_empty());
            let overlap = if has_lost { ", what older pools hold too is theirs to give" } else { "" };
            if agent.cluster.is_some() {
                return format!("{}{overlap}", in_cluster(agent, pool, counts));
            }
            let text = format!(
                "pool {pool}: {} of {} used, {} on their way back{overlap}",
                counts.used, counts.total, counts.releasing
            );
            let text = match agent.ledger.occupied().iter().filter(|(_, occupant)| occupant.pool == *pool).count() {
                0 => text,
                occupied => format!("{text}, {occupied} kept back since others use them (dragline get leases -o wide)"),
            };
            match counts.total.saturating_sub(counts.used + counts.free) {
                0 => text,
                reserved => format!("{text}, {reserved} reserved"),
            }
        })
        .chain(candidates.rejected.iter().map(|(pool, reason)| format!("pool {pool}: {reason}")))
        .collect();
    let error = CniError::new(
        CniError::TRY_AGAIN,
        format!(
            "all IP addresses used out: failed to allocate any IPv{} IP address to NIC {} from IPPools [{}]: {}",
            candidates.version,
            place.key.ifname,
            candidates.pools.join(" "),
            numbers.join("; ")
        ),
    );
    let tried = agent.cluster.is_some().then(|| Box::new(candidates.clone()));
    Refusal { error, may_come_back, tried, declared: None }
}

/// A pool's numbers in a cluster: those of all nodes as the controller last counted, and this node's own.
fn in_cluster(agent: &Agent, pool: &str, own: PoolCounts) -> String {
    let catalogue = agent.catalogue();
    let status = catalogue.pools.get(pool).and_then(|pool| pool.object.status.as_ref());
    let counts = agent.cluster.as_ref().map(|cluster| cluster.counted.of(pool)).unwrap_or_default();
    let number = |count: Option<i64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    format!(
        "pool {pool}: {} of {} used, {} held by nodes, {} nodes wait; this node uses {} of the {} it holds",
        number(counts.allocated),
        own.total,
        number(counts.leased),
        status.map_or(0, |status| status.waiting.len()),
        own.used,
        agent.ledger.held(pool).len(),
    )
}

/// What was given without what other NICs have got meanwhile, which goes back.
pub(super) fn not_known(agent: &Agent, records: &SandboxRecords, mut given: Given) -> Given {
    let is_known = |(ifname, _): &(IfName, Given)| records.attachments.contains_key(ifname);
    let (known, others) = given.others.into_iter().partition(is_known);
    given.others = others;
    let known: Vec<(IfName, Given)> = known;
    known.iter().flat_map(|(_, given)| given.all()).for_each(|address| agent.ledger.unreserve(address));
    given
}

/// The attachment with these addresses, in the sandbox's next generation; in the records it stands with those that are
/// prepared.
pub(super) fn attachment(records: &mut SandboxRecords, place: &Place, given: &Given) -> Attachment {
    let ordinal = ordinal(records, &place.key.ifname);
    let known = records.attachments.get(&place.key.ifname);
    let attachment = Attachment {
        key: place.key.clone(),
        network: place.network.clone(),
        pod: place.pod.clone(),
        ordinal,
        generation: records.sandbox.generation,
        addresses: given.addresses.clone(),
        routes: given.routes.clone(),
        allocated: true,
        link: known.and_then(|known| known.link.clone()),
        link_wanted: known.is_some_and(|known| known.link_wanted),
        learned: known.map(|known| known.learned.clone()).unwrap_or_default(),
        foreign_link: known.and_then(|known| known.foreign_link),
        coordinate: known.and_then(|known| known.coordinate.clone()),
        uplink: known.and_then(|known| known.uplink.clone()),
        closing: false,
        prepared: false,
    };
    records.attachments.insert(place.key.ifname.clone(), attachment.clone());
    for (ifname, given) in &given.others {
        let prepared = Attachment {
            key: AttachmentKey { ifname: ifname.clone(), ..place.key.clone() },
            network: place.network.clone(),
            pod: place.pod.clone(),
            ordinal: records.free_ordinal(),
            generation: records.sandbox.generation,
            addresses: given.addresses.clone(),
            routes: given.routes.clone(),
            allocated: true,
            link: None,
            link_wanted: false,
            learned: Learned::default(),
            foreign_link: None,
            coordinate: None,
            uplink: None,
            closing: false,
            prepared: true,
        };
        records.attachments.insert(ifname.clone(), prepared);
    }
    attachment
}

/// The place of an attachment whose ADD has come: what it has, or the first that none has whose ADD has come, which a
/// prepared one then leaves to it.
fn ordinal(records: &mut SandboxRecords, ifname: &IfName) -> u32 {
    let free = records.free_ordinal();
    let own = match records.attachments.get(ifname) {
        Some(known) if !known.prepared => return known.ordinal,
        Some(known) => known.ordinal,
        None => free,
    };
    let prepared = records.attachments.values_mut().filter(|other| other.prepared && other.key.ifname != *ifname);
    match prepared.min_by_key(|other| other.ordinal) {
        Some(other) if other.ordinal < own.min(free) => std::mem::replace(&mut other.ordinal, own),
        _ => own.min(free),
    }
}

/// One transaction: attachment, those prepared with it, and allocations together.
pub(super) fn update(records: &SandboxRecords, attachment: Attachment, given: &Given) -> Update {
    let prepared = records.attachments.values().filter(|other| other.prepared && other.key != attachment.key);
    let prepared: Vec<Attachment> = prepared.cloned().collect();
    let mut allocations = allocations(&attachment.key, &given.addresses);
    let mut kept: BTreeMap<IpAddr, KeptFor> = kept(given).collect();
    for (ifname, given) in &given.others {
        let owner = AttachmentKey { ifname: ifname.clone(), ..attachment.key.clone() };
        allocations.extend(self::allocations(&owner, &given.addresses));
        kept.extend(self::kept(given));
    }
    let put = std::iter::once(attachment).chain(prepared).collect();
    Update { sandbox: Some(records.sandbox.clone()), put, allocations, kept, ..Update::default() }
}

/// Which of its addresses are kept for whom.
fn kept(given: &Given) -> impl Iterator<Item = (IpAddr, KeptFor)> + '_ {
    let pooled = given.addresses.iter().filter(|assigned| !assigned.pool.is_empty());
    let owned = pooled.filter_map(|assigned| Some((assigned, given.owner.clone()?)));
    owned.map(|(assigned, owner)| (assigned.address.ip(), KeptFor { pool: assigned.pool.clone(), owner }))
}

fn allocations(owner: &AttachmentKey, addresses: &[AssignedAddress]) -> Vec<Allocation> {
    let ours = addresses.iter().filter(|assigned| !assigned.pool.is_empty());
    ours.map(|assigned| Allocation {
        address: assigned.address.ip(),
        pool: assigned.pool.clone(),
        owner: owner.clone(),
        state: AllocationState::Held,
    })
    .collect()
}

/// The addresses of a prepared attachment that another IPAM has given others instead: no link ever had them.
pub(super) fn unused(agent: &Agent, known: Option<&Attachment>, addresses: &[AssignedAddress]) -> Vec<IpAddr> {
    let known = known.filter(|known| known.prepared).into_iter().flat_map(|known| {
        known.addresses.iter().map(|own| own.address.ip()).filter(|ip| agent.ledger.is_owner(*ip, &known.key))
    });
    known.filter(|ip| !addresses.iter().any(|assigned| assigned.address.ip() == *ip)).collect()
}

/// As an IPAM plugin's result.
pub(super) fn result(given: &Given) -> CniResult {
    CniResult {
        ips: given
            .addresses
            .iter()
            .map(|assigned| ResultIp { address: assigned.address, gateway: assigned.gateway, interface: None })
            .collect(),
        routes: given
            .routes
            .iter()
            .map(|route| ResultRoute {
                dst: route.dst,
                gw: route.gateway,
                mtu: None,
                advmss: None,
                priority: None,
                table: None,
                scope: None,
            })
            .collect(),
        ..CniResult::default()
    }
}
