//! GC: attachments of a network that the runtime no longer has.

use std::collections::BTreeSet;
use std::sync::Arc;

use plan::Observed;
use schemas::cni::error::CniError;
use schemas::intent::Attachment;
use schemas::name::AttachmentKey;
use schemas::wire::{Answer, CollectCall, Part, Withdrawal};

use super::{place, wait, withdraw};
use crate::agent::Agent;

/// Answers GC.
///
/// A list may be wrong: some callers give the attachments of one network only. So an attachment that lives, its address
/// on a link of its namespace, is kept and reported; its DEL or the end of its namespace takes it.
pub(super) async fn collect(agent: &Arc<Agent>, call: CollectCall) -> Result<Answer, CniError> {
    let valid: BTreeSet<AttachmentKey> = call
        .valid
        .into_iter()
        .map(|valid| AttachmentKey { container: valid.container, ifname: valid.ifname })
        .collect();
    for records in agent.ledger.sandboxes() {
        let stale: Vec<&Attachment> = records
            .attachments
            .values()
            // A prepared one has no network yet: it goes with those whose ADD has come.
            .filter(|attachment| attachment.network == call.network && !attachment.prepared)
            .filter(|attachment| !valid.contains(&attachment.key))
            .filter(|attachment| has_part(attachment, call.part))
            .collect();
        if stale.is_empty() {
            continue;
        }
        let observed = match &records.sandbox.netns {
            Some(netns) => place::observe(agent, netns, Vec::new()).await.ok(),
            None => None,
        };
        for attachment in stale {
            if observed.as_ref().is_some_and(|observed| lives(attachment, observed)) {
                tracing::warn!(
                    attachment = %attachment.key,
                    network = %call.network,
                    "GC does not list an attachment whose address is in use in a living namespace: it is kept until DEL"
                );
                continue;
            }
            let withdrawal = Withdrawal { key: attachment.key.clone(), part: call.part };
            withdraw::withdraw(agent, &withdrawal).await.map_err(|error| wait::not_recorded(&error))?;
        }
    }
    Ok(Answer::Done)
}

fn has_part(attachment: &Attachment, part: Part) -> bool {
    match part {
        Part::Addresses => attachment.allocated,
        Part::Link => attachment.link_wanted || attachment.allocated,
        Part::Routes => attachment.coordinate.is_some(),
        Part::Uplink => attachment.uplink.is_some(),
    }
}

fn lives(attachment: &Attachment, observed: &Observed) -> bool {
    attachment.addresses.iter().any(|assigned| {
        observed
            .addresses
            .iter()
            .any(|found| found.dev == attachment.key.ifname.as_str() && found.address.ip() == assigned.address.ip())
    })
}
