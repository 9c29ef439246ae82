//! What the arrival of a pod's sandbox says besides what it asks for.

use std::sync::Arc;

use schemas::intent::PodRef;
use schemas::wire::{Call, Part, Place, Withdrawal};
use tokio::time::Instant;

use super::withdraw::withdraw;
use crate::agent::Agent;
use crate::ledger::SandboxRecords;
use crate::{cluster, selection};

/// A call with its pod's UID. Runtimes that do not give it are many; without it a pod cannot be told from the next one of its
/// name, so it is the declared pod's, where there is one.
pub(super) async fn identified(agent: &Agent, mut call: Call, deadline: Instant) -> Call {
    let place = match &mut call {
        Call::Allocate(call) => &mut call.place,
        Call::Attach(call) => &mut call.place,
        Call::Coordinate(call) => &mut call.place,
        Call::Uplink(call) => &mut call.place,
        _ => return call,
    };
    let pod = &mut place.pod;
    if pod.uid.is_empty() && pod.is_named() && agent.cluster.is_some() {
        // Whoever needs it to be known says so when it is not.
        let _ = cluster::pod_seen(agent, pod, deadline).await;
        let catalogue = agent.catalogue();
        let marks = selection::pod_marks(&catalogue, pod).filter(|marks| !marks.is_terminating);
        pod.uid = marks.map(|marks| marks.uid.clone()).unwrap_or_default();
    }
    call
}

/// Withdraws the sandboxes that the pod had before: the same pod (namespace, name and UID) has another one now, and their
/// namespaces are gone. Their DELs need not come, and nobody who waits for their addresses is made to wait for these.
pub(super) async fn supersede(agent: &Arc<Agent>, place: &Place) {
    let PodRef { namespace, name, uid } = &place.pod;
    if uid.is_empty() {
        return;
    }
    for records in agent.ledger.of_pod(namespace, name) {
        let container = &records.sandbox.container;
        let is_same = |found: &PodRef| *found == place.pod;
        if *container != place.key.container
            && agent.workers.is_without_namespace(container)
            && records.attachments.values().all(|attachment| is_same(&attachment.pod))
            && !records.is_withdrawn()
        {
            end(agent, &records, &format!("its pod has sandbox {} now", place.key.container)).await;
        }
    }
}

/// Withdraws a sandbox whose namespace is gone, as by a DEL.
pub(crate) async fn end(agent: &Arc<Agent>, records: &SandboxRecords, why: &str) {
    let container = &records.sandbox.container;
    tracing::info!(%container, why, "withdrawn without a DEL: its namespace is gone");
    for attachment in records.attachments.values() {
        for part in [Part::Link, Part::Uplink] {
            let withdrawal = Withdrawal { key: attachment.key.clone(), part };
            if let Err(error) = withdraw(agent, &withdrawal).await {
                tracing::error!(%container, %error, "what is withdrawn cannot be written down");
                return;
            }
        }
    }
}
