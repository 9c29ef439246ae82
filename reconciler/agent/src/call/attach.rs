//! ADD as main plugin: the link and its addresses in one intent.

use std::sync::Arc;

use schemas::cni::error::CniError;
use schemas::cni::result::{CniResult, ResultInterface};
use schemas::intent::{AssignedAddress, Attachment, LinkIntent};
use schemas::name::{IfName, Mac};
use schemas::wire::{Answer, AttachCall, AttachIpam};
use tokio::time::Instant;

use super::allocate::{self, Given};
use super::{place, wait};
use crate::agent::Agent;
use crate::cluster;

/// Answers ADD of `macvlan`.
pub(super) async fn attach(agent: &Arc<Agent>, call: AttachCall, deadline: Instant) -> Result<Answer, CniError> {
    let container = call.place.key.container.clone();
    let netns = place::identify(agent, &call.place).await?;
    let master = master(agent, &call)?;
    let begun = Instant::now();
    loop {
        // Before looking for an address: one that comes back after the look must not be missed.
        let released = agent.ledger.released();
        let turn = agent.ledger.lock(&container).await;
        let mut records = place::records(agent, &container, &netns);
        cluster::pod_seen(agent, &call.place.pod, deadline).await?;
        let given = match given(agent, &call) {
            Ok(given) => given,
            Err(refusal) => {
                drop(turn);
                refusal.wait(agent, &call.place, released, begun, deadline).await?;
                continue;
            }
        };
        let known = records.attachments.get(&call.place.key.ifname).cloned();
        let mut attachment = allocate::attachment(&mut records, &call.place, &given);
        attachment.allocated = given.addresses.iter().any(|assigned| !assigned.pool.is_empty());
        attachment.link = Some(link(&call, &master, known.as_ref())?);
        attachment.link_wanted = true;
        attachment.foreign_link = None;
        if let Some(published) =
            agent.ledger.sandbox(&container).filter(|found| found.is_repeated_by(&records.sandbox, &attachment))
        {
            // Asked again: nothing new to record, only to wait for.
            drop(turn);
            wait::converged(agent, &container, published.sandbox.generation, deadline).await?;
            return Ok(Answer::Result(result(agent, &call, &attachment, &given)));
        }
        let update = allocate::update(&records, attachment.clone(), &given);
        match agent.ledger.commit(&container, update).await {
            Ok(()) => {}
            Err(error) if allocate::is_taken(&error) => continue,
            Err(error) => return Err(wait::not_recorded(&error)),
        }
        drop(turn);
        wait::converged(agent, &container, records.sandbox.generation, deadline).await?;
        return Ok(Answer::Result(result(agent, &call, &attachment, &given)));
    }
}

fn given(agent: &Agent, call: &AttachCall) -> Result<Given, allocate::Refusal> {
    match &call.ipam {
        AttachIpam::None => Ok(Given::default()),
        AttachIpam::Spiderpool(ipam) => allocate::choose(agent, &call.place, ipam),
        AttachIpam::Given { addresses, routes } => {
            // Whatever it says of pools, these addresses are not ours.
            let foreign = |assigned: &AssignedAddress| AssignedAddress { pool: String::new(), ..assigned.clone() };
            Ok(Given { addresses: addresses.iter().map(foreign).collect(), routes: routes.clone() })
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
    let mac = match call.mac.or(known.map(|known| known.mac)) {
        Some(mac) if mac.0[0] & 1 == 1 => {
            return Err(CniError::new(
                CniError::INVALID_CONFIG,
                format!("mac {mac} is a group address: the lowest bit of its first byte must be 0"),
            ));
        }
        Some(mac) => mac,
        None => random_mac()?,
    };
    Ok(LinkIntent {
        kind: call.kind.clone(),
        master: master.clone(),
        master_in_container: call.master_in_container,
        mtu: call.mtu.filter(|mtu| *mtu > 0),
        mac,
    })
}

/// Locally administered, unicast.
pub(super) fn random_mac() -> Result<Mac, CniError> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes)
        .map_err(|error| CniError::new(CniError::FAILED, format!("no random bytes for a hardware address: {error}")))?;
    bytes[0] = (bytes[0] | 0x02) & 0xfe;
    Ok(Mac(bytes))
}

fn result(agent: &Agent, call: &AttachCall, attachment: &Attachment, given: &Given) -> CniResult {
    let mut result = allocate::result(given);
    for ip in &mut result.ips {
        ip.interface = Some(0);
    }
    let mac = attachment.link.as_ref().map(|link| link.mac.to_string()).unwrap_or_default();
    let mtu = attachment.link.as_ref().and_then(|link| {
        link.mtu.or_else(|| agent.node.observed().link(link.master.as_str()).map(|master| master.mtu))
    });
    result.interfaces = vec![ResultInterface {
        name: call.place.key.ifname.to_string(),
        mac,
        mtu,
        sandbox: call.place.netns.clone().unwrap_or_default(),
        ..ResultInterface::default()
    }];
    result
}
