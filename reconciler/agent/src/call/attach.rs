//! ADD as main plugin: the link and its addresses in one intent.

use std::sync::Arc;

use schemas::cni::error::CniError;
use schemas::cni::netconf::{DetectKeys, SpiderpoolIpam};
use schemas::cni::result::{CniResult, ResultInterface};
use schemas::intent::{AssignedAddress, Attachment, LinkIntent, LinkKindIntent, NetnsIdentity};
use schemas::name::{IfName, Mac};
use schemas::wire::{Answer, AttachCall, AttachIpam};
use tokio::time::Instant;

use super::allocate::{self, Given};
use super::detect::Detection;
use super::{arrival, place, routes, wait};
use crate::agent::Agent;
use crate::cluster;
use crate::ledger::{SandboxRecords, Update};

/// Answers ADD of `macvlan` and `ipvlan`.
pub(super) async fn attach(agent: &Arc<Agent>, call: AttachCall, deadline: Instant) -> Result<Answer, CniError> {
    let container = call.place.key.container.clone();
    let netns = place::identify(agent, &call.place).await?;
    arrival::supersede(agent, &call.place).await;
    let master = master(agent, &call)?;
    let begun = Instant::now();
    let mut detection = Detection::new(agent, &call.place, &netns, keys(&call), deadline);
    let mut is_late = false;
    loop {
        // Before looking for an address: one that comes back after the look must not be missed.
        let released = agent.ledger.released();
        let turn = agent.ledger.lock(&container).await;
        let mut records = place::records(agent, &container, &netns);
        let known = records.attachments.get(&call.place.key.ifname).cloned();
        cluster::pod_seen(agent, &call.place.pod, deadline).await?;
        let given = match detection.resume(known.as_ref())?.map_or_else(|| given(agent, &call), Ok) {
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
        let given = allocate::not_known(agent, &records, given);
        let mut attachment = allocate::attachment(&mut records, &call.place, &given);
        attachment.allocated = given.addresses.iter().any(|assigned| !assigned.pool.is_empty());
        let wanted = link(&call, &master, known.as_ref()).inspect_err(|_| detection.give_back(&given))?;
        attachment.link = Some(wanted);
        check_company(agent, &attachment).inspect_err(|_| detection.give_back(&given))?;
        attachment.link_wanted = true;
        attachment.foreign_link = None;
        if let Some(published) =
            agent.ledger.sandbox(&container).filter(|found| found.is_repeated_by(&records.sandbox, &attachment))
        {
            // Asked again: nothing new to record, only to wait for.
            drop(turn);
            wait::converged(agent, &container, published.sandbox.generation, deadline).await?;
            detection.approves(&given.addresses).await?;
            return Ok(Answer::Result(result(agent, &call, &netns, &attachment, &given).await?));
        }
        if detection.is_due(known.as_ref(), &given) {
            // The link first, without addresses: nobody is to hear of them before they are known to be free.
            is_late = true;
            let generation = bare(agent, &records, &attachment, known.as_ref())
                .await
                .inspect_err(|_| detection.give_back(&given))?;
            drop(turn);
            let converged = wait::converged(agent, &container, generation, deadline).await;
            converged.inspect_err(|_| detection.give_back(&given))?;
            if detection.accepts(&given).await? {
                detection.promise(given);
            }
            continue;
        }
        let freed = allocate::unused(agent, known.as_ref(), &given.addresses);
        let update = Update { freed, ..allocate::update(&records, attachment.clone(), &given) };
        match agent.ledger.commit(&container, update).await {
            Ok(()) => routes::tell_unplaced(agent, &call.place, &records, &given),
            Err(error) if allocate::is_taken(&error) => continue,
            Err(error) => return Err(wait::not_recorded(&error)),
        }
        drop(turn);
        wait::converged(agent, &container, records.sandbox.generation, deadline).await?;
        // Those that it had before are asked for as well.
        detection.approves(&given.addresses).await?;
        detection.succeeded(&given.addresses, is_late).await;
        return Ok(Answer::Result(result(agent, &call, &netns, &attachment, &given).await?));
    }
}

/// What the network asks to be probed.
fn keys(call: &AttachCall) -> DetectKeys {
    match &call.ipam {
        AttachIpam::Spiderpool(ipam) => ipam.detect(),
        AttachIpam::None | AttachIpam::Given { .. } => SpiderpoolIpam::default().detect(),
    }
}

/// Records the link alone, unless it is; the generation to wait for. Addresses that were prepared stay so.
async fn bare(
    agent: &Agent,
    records: &SandboxRecords,
    attachment: &Attachment,
    known: Option<&Attachment>,
) -> Result<u64, CniError> {
    let container = &attachment.key.container;
    let bare = match known.filter(|known| known.prepared) {
        Some(known) => Attachment {
            addresses: known.addresses.clone(),
            routes: known.routes.clone(),
            allocated: true,
            prepared: true,
            ordinal: known.ordinal,
            ..attachment.clone()
        },
        None => Attachment { addresses: Vec::new(), routes: Vec::new(), allocated: false, ..attachment.clone() },
    };
    let recorded = agent.ledger.sandbox(container);
    if let Some(found) = recorded.filter(|found| found.is_repeated_by(&records.sandbox, &bare)) {
        return Ok(found.sandbox.generation);
    }
    let update = Update { sandbox: Some(records.sandbox.clone()), put: vec![bare], ..Update::default() };
    agent.ledger.commit(container, update).await.map_err(|error| wait::not_recorded(&error))?;
    Ok(records.sandbox.generation)
}

fn given(agent: &Agent, call: &AttachCall) -> Result<Given, allocate::Refusal> {
    match &call.ipam {
        AttachIpam::None => Ok(Given::default()),
        AttachIpam::Spiderpool(ipam) => allocate::choose(agent, &call.place, ipam),
        AttachIpam::Given { addresses, routes } => {
            // Whatever it says of pools, these addresses are not ours.
            let foreign = |assigned: &AssignedAddress| AssignedAddress { pool: String::new(), ..assigned.clone() };
            let addresses = addresses.iter().map(foreign).collect();
            Ok(Given { addresses, routes: routes.clone(), ..Given::default() })
        }
    }
}

/// The uplink: the one that is named, else that of the node's default route, as the reference plugin has it.
fn master(agent: &Agent, call: &AttachCall) -> Result<IfName, CniError> {
    if let Some(master) = &call.master {
        return Ok(master.clone());
    }
    let invalid = |text: &str| CniError::new(CniError::INVALID_CONFIG, text);
    if call.master_in_container {
        return Err(invalid("master is missing: with linkInContainer it must be named"));
    }
    let facts = agent.node.facts();
    let default = facts.routes.iter().filter(|route| route.is_default()).min_by_key(|route| route.metric);
    default
        .and_then(|route| route.dev.as_deref()?.parse().ok())
        .ok_or_else(|| invalid("master is missing and the node has no default route: name the uplink"))
}

fn link(call: &AttachCall, master: &IfName, known: Option<&Attachment>) -> Result<LinkIntent, CniError> {
    // A link made again is the same link: its hardware address is decided once.
    let known = known.and_then(|known| known.link.as_ref());
    let mac = match call.mac.or(known.and_then(|known| known.mac)) {
        Some(mac) if mac.0[0] & 1 == 1 => {
            return Err(CniError::new(
                CniError::INVALID_CONFIG,
                format!("mac {mac} is a group address: the lowest bit of its first byte must be 0"),
            ));
        }
        Some(mac) => Some(mac),
        None if call.kind.shares_mac() => None,
        None => Some(random_mac()?),
    };
    Ok(LinkIntent {
        kind: call.kind.clone(),
        master: master.clone(),
        master_in_container: call.master_in_container,
        mtu: call.mtu.filter(|mtu| *mtu > 0),
        mac,
    })
}

/// An uplink has macvlans or ipvlans, and these of one mode: what the kernel would refuse, or change for all of them.
fn check_company(agent: &Agent, attachment: &Attachment) -> Result<(), CniError> {
    let Some(link) = attachment.link.as_ref().filter(|link| !link.master_in_container) else { return Ok(()) };
    let Some((other, company)) = agent.ledger.company(&link.master, &attachment.key) else { return Ok(()) };
    let clash = match (&link.kind, &company.kind) {
        (LinkKindIntent::Ipvlan(own), LinkKindIntent::Ipvlan(theirs)) if own != theirs => {
            "ipvlans of another mode, and all of one uplink have one mode"
        }
        (LinkKindIntent::Ipvlan(_), LinkKindIntent::Macvlan(_)) => "macvlans, which no uplink has beside ipvlans",
        (LinkKindIntent::Macvlan(_), LinkKindIntent::Ipvlan(_)) => "ipvlans, which no uplink has beside macvlans",
        (LinkKindIntent::Ipvlan(_), LinkKindIntent::Ipvlan(_))
        | (LinkKindIntent::Macvlan(_), LinkKindIntent::Macvlan(_)) => return Ok(()),
    };
    let text = format!("uplink {} has {clash} (of {other}): choose another uplink or mode", link.master);
    Err(CniError::new(CniError::INVALID_CONFIG, text))
}

/// Locally administered, unicast.
pub(super) fn random_mac() -> Result<Mac, CniError> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes)
        .map_err(|error| CniError::new(CniError::FAILED, format!("no random bytes for a hardware address: {error}")))?;
    bytes[0] = (bytes[0] | 0x02) & 0xfe;
    Ok(Mac(bytes))
}

async fn result(
    agent: &Agent,
    call: &AttachCall,
    netns: &NetnsIdentity,
    attachment: &Attachment,
    given: &Given,
) -> Result<CniResult, CniError> {
    let mut result = allocate::result(given);
    for ip in &mut result.ips {
        ip.interface = Some(0);
    }
    let mac = match attachment.link.as_ref().and_then(|link| link.mac) {
        Some(mac) => Some(mac),
        // Its uplink's.
        None => place::observe(agent, netns, Vec::new())
            .await?
            .link(call.place.key.ifname.as_str())
            .and_then(|link| link.mac),
    };
    let mtu = attachment.link.as_ref().and_then(|link| {
        link.mtu.or_else(|| agent.node.observed().link(link.master.as_str()).map(|master| master.mtu))
    });
    result.interfaces = vec![ResultInterface {
        name: call.place.key.ifname.to_string(),
        mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu,
        sandbox: call.place.netns.clone().unwrap_or_default(),
        ..ResultInterface::default()
    }];
    Ok(result)
}
