//! What people should hear of: Kubernetes Events on pods, pools and the node, with fixed reasons, at a bounded rate.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use schemas::intent::PodRef;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::selection;

/// So many may come at once; what comes beyond that, faster than one a second, is in the log alone.
const BURST: usize = 32;
const PACE: Duration = Duration::from_secs(1);
/// A note may have 1 KiB.
const NOTE: usize = 900;

/// One of them. The reasons are part of what others rely on: scripts match on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A pod gets no address: `IPAllocationFailed`.
    NoAddress(PodRef, String),
    /// Another program keeps changing a pod's routes back: `RoutesContested`.
    Contested(PodRef, String),
    /// A pod's routes are not all as asked, and what they are instead: `RoutesLimited`.
    Limited(PodRef, String),
    /// A pod has an address that somebody unknown uses too: `IPConflict`.
    Conflict(PodRef, String),
    /// A pod's gateway does not answer: `GatewayUnreachable`.
    Unreachable(PodRef, String),
    /// Annotations of a pod have changed too late for it: `AnnotationIgnored`.
    Ignored(PodRef, String),
    /// Addresses of a pool that the node held were taken from it: `AddressesLost`.
    Lost(String, String),
    /// Somebody unknown uses a pool's address: `AddressOccupied`.
    Occupied(String, String),
    /// Another agent has become this node: `NodeTaken`.
    Fenced(String),
    /// A changed SpiderCoordinator goes no further on this node: `RolloutStopped`.
    RolloutStopped(String, String),
    /// Something was wrong with the node's store when it was opened: `StoreMended`.
    Store(String),
}

impl Notice {
    fn reason(&self) -> &'static str {
        match self {
            Self::NoAddress(..) => "IPAllocationFailed",
            Self::Contested(..) => "RoutesContested",
            Self::Limited(..) => "RoutesLimited",
            Self::Conflict(..) => "IPConflict",
            Self::Unreachable(..) => "GatewayUnreachable",
            Self::Ignored(..) => "AnnotationIgnored",
            Self::Lost(..) => "AddressesLost",
            Self::Occupied(..) => "AddressOccupied",
            Self::RolloutStopped(..) => "RolloutStopped",
            Self::Fenced(..) => "NodeTaken",
            Self::Store(..) => "StoreMended",
        }
    }

    fn note(&self) -> String {
        let (Self::NoAddress(_, note)
        | Self::Contested(_, note)
        | Self::Limited(_, note)
        | Self::Conflict(_, note)
        | Self::Unreachable(_, note)
        | Self::Ignored(_, note)
        | Self::Lost(_, note)
        | Self::Occupied(_, note)
        | Self::RolloutStopped(_, note)
        | Self::Fenced(note)
        | Self::Store(note)) = self;
        let end = (0..=NOTE.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note[..end].to_owned()
    }

    /// The object that it is about.
    fn regarding(&self, agent: &Agent) -> ObjectReference {
        let catalogue = agent.catalogue();
        match self {
            Self::NoAddress(pod, _)
            | Self::Contested(pod, _)
            | Self::Limited(pod, _)
            | Self::Conflict(pod, _)
            | Self::Unreachable(pod, _)
            | Self::Ignored(pod, _) => {
                let known = selection::pod_marks(&catalogue, pod).map(|marks| marks.uid.clone());
                ObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    namespace: Some(pod.namespace.clone()),
                    name: Some(pod.name.clone()),
                    uid: known.or_else(|| Some(pod.uid.clone()).filter(|uid| !uid.is_empty())),
                    ..ObjectReference::default()
                }
            }
            Self::Lost(pool, _) | Self::Occupied(pool, _) => ObjectReference {
                api_version: Some("spiderpool.spidernet.io/v2beta1".into()),
                kind: Some("SpiderIPPool".into()),
                name: Some(pool.clone()),
                uid: catalogue.pools.get(pool).and_then(|pool| pool.object.metadata.uid.clone()),
                ..ObjectReference::default()
            },
            Self::RolloutStopped(name, _) => ObjectReference {
                api_version: Some("spiderpool.spidernet.io/v2beta1".into()),
                kind: Some("SpiderCoordinator".into()),
                name: Some(name.clone()),
                uid: catalogue.coordinator.as_ref().and_then(|found| found.object.metadata.uid.clone()),
                ..ObjectReference::default()
            },
            Self::Fenced(_) | Self::Store(_) => {
                let node = &agent.config.node_name;
                ObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Node".into()),
                    name: Some(node.clone()),
                    // As the kubelet has it: `kubectl describe node` looks for the name in place of the UID.
                    uid: Some(node.clone()),
                    ..ObjectReference::default()
                }
            }
        }
    }
}

/// Where notices go.
pub(super) type Sender = mpsc::Sender<Notice>;

/// The way of notices to their task.
pub(super) fn channel() -> (Sender, mpsc::Receiver<Notice>) {
    mpsc::channel(BURST)
}

/// Writes them for as long as the agent runs.
pub(super) async fn write(agent: Arc<Agent>, mut notices: mpsc::Receiver<Notice>) {
    let Some(cluster) = &agent.cluster else { return };
    let reporter = Reporter { controller: "dragline-agent".into(), instance: Some(agent.config.node_name.clone()) };
    let recorder = Recorder::new(cluster.client.clone(), reporter);
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        let notice = tokio::select! {
            notice = notices.recv() => notice,
            () = &mut stopping => return,
        };
        let Some(notice) = notice else { return };
        let event = Event {
            type_: EventType::Warning,
            reason: notice.reason().into(),
            note: Some(notice.note()),
            action: "Reconcile".into(),
            secondary: None,
        };
        // An Event that is not written is in the log all the same.
        match tokio::time::timeout(Duration::from_secs(5), recorder.publish(&event, &notice.regarding(&agent))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, ?notice, "an Event cannot be written"),
            Err(_) => tracing::warn!(?notice, "an Event cannot be written: the API server does not answer"),
        }
        tokio::time::sleep(PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_at_a_character() {
        let notice = Notice::Fenced("ä".repeat(600));
        assert_eq!(notice.note().len(), NOTE);
        assert_eq!(notice.reason(), "NodeTaken");
    }
}
