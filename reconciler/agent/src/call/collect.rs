//! GC: attachments of a network that the runtime no longer has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plan::Observed;
use schemas::cni::error::CniError;
use schemas::intent::Attachment;
use schemas::name::{AttachmentKey, ContainerId};
use schemas::wire::{Answer, CollectCall, Part, Withdrawal};

use super::{place, wait, withdraw};
use crate::agent::Agent;
use crate::ledger::SandboxRecords;

/// How long the kernel may take to say that a namespace without a path is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is found of a sandbox's namespace.
enum Found {
    /// There is none any more.
    Gone,
    /// All that is in it.
    Whole(Box<Observed>),
    /// It may live, and why nothing is known.
    Unknown(String),
}

/// Answers GC.
///
/// A list may be wrong: some callers give the attachments of one network only. So an attachment goes only where its
/// namespace is known to be gone, or was read whole and has no link of that name. One that lives is kept and reported; its
/// DEL or the end of its namespace takes it.
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
        let found = look(agent, &records).await;
        for attachment in stale {
            let reason = match &found {
                Found::Gone => None,
                Found::Whole(observed) => lives(attachment, observed, call.part)
                    .then(|| "GC does not list an attachment whose address is in use in a living namespace".to_owned()),
                Found::Unknown(why) => {
                    Some(format!("GC does not list an attachment whose namespace cannot be looked at ({why})"))
                }
            };
            if let Some(reason) = reason {
                tracing::warn!(
                    attachment = %attachment.key,
                    network = %call.network,
                    "{reason}: it is kept until DEL"
                );
                continue;
            }
            let withdrawal = Withdrawal { key: attachment.key.clone(), part: call.part };
            withdraw::withdraw(agent, &withdrawal).await.map_err(|error| wait::not_recorded(&error))?;
        }
    }
    Ok(Answer::Done)
}

async fn look(agent: &Agent, records: &SandboxRecords) -> Found {
    let Some(netns) = &records.sandbox.netns else { return Found::Gone };
    match place::look(agent, netns, Vec::new()).await {
        Ok(Some(observed)) => Found::Whole(Box::new(observed)),
        Ok(None) if is_gone(agent, &records.sandbox.container).await => Found::Gone,
        Ok(None) => Found::Unknown("its path is gone, and something keeps it".to_owned()),
        Err(error) => Found::Unknown(error),
    }
}

/// Whether a namespace without a path is gone: processes may keep it, and the kernel says when they no longer do.
async fn is_gone(agent: &Agent, container: &ContainerId) -> bool {
    let mut vanished = agent.workers.vanished();
    let verified = async {
        while agent.workers.is_numbered(container) {
            if vanished.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, verified).await.is_ok()
}

fn has_part(attachment: &Attachment, part: Part) -> bool {
    match part {
        Part::Addresses => attachment.allocated,
        Part::Link => attachment.link_wanted || attachment.allocated,
        Part::Routes => attachment.coordinate.is_some(),
        Part::Uplink => attachment.uplink.is_some(),
    }
}

/// Whether something of an attachment is in its living namespace. An uplink is the node's, and the pod's as long as that
/// lives.
fn lives(attachment: &Attachment, observed: &Observed, part: Part) -> bool {
    part == Part::Uplink || observed.links.iter().any(|link| link.name == attachment.key.ifname.as_str())
}
