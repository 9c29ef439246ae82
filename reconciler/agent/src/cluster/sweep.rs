//! DELs that never came: the node was reset, the runtime lost a sandbox, or the plugin was not there.
//!
//! Nothing goes back on one sign. The first is that a sandbox's namespace is gone, which the kernel says, or that the
//! machine has been started anew. The second is one of
//!
//! - the API server has no pod of that UID any more,
//! - the pod has ended for good (`Succeeded`, `Failed`, evicted ones too),
//! - the same pod has another sandbox on this node, which has addresses.
//!
//! Then the sandbox is withdrawn as by a DEL.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use schemas::intent::PodRef;
use schemas::name::ContainerId;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::call::end;
use crate::ledger::SandboxRecords;
use crate::selection;

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a pod was found alive without a namespace, the first and the longest wait: nothing tells when its phase changes.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// After a question that nobody answered.
const UNANSWERED: Duration = Duration::from_secs(5);

/// What the API server says of a sandbox's pod.
enum Told {
    /// It is over, and why.
    Over(String),
    /// It may come back to its sandbox.
    Lives,
    /// Nobody says.
    Nothing,
}

/// What is known of a sandbox without a namespace.
struct Suspect {
    next: Instant,
    wait: Duration,
    /// Its pod was declared when it was last asked for.
    was_declared: bool,
}

/// Withdraws what nobody will, until the agent stops.
pub(super) async fn keep(agent: Arc<Agent>) {
    let Some(cluster) = &agent.cluster else { return };
    let mut suspects: BTreeMap<ContainerId, Suspect> = BTreeMap::new();
    let mut declared = agent.declared();
    let mut vanished = agent.workers.vanished();
    let stopping = agent.stopping();
    tokio::pin!(stopping);
    loop {
        declared.mark_unchanged();
        vanished.mark_unchanged();
        let gone = agent.workers.without_namespace();
        suspects.retain(|container, _| gone.contains(container));
        for container in gone {
            let Some(records) = agent.ledger.sandbox(&container) else { continue };
            if records.attachments.values().all(|attachment| attachment.closing) {
                suspects.remove(&container);
                continue;
            }
            let now = Instant::now();
            let is_declared = pod_of(&records).is_some_and(|pod| is_declared(&agent, pod));
            let suspect = suspects.entry(container).or_insert(Suspect { next: now, wait: AGAIN.0, was_declared: true });
            let is_due = now >= suspect.next || (suspect.was_declared && !is_declared);
            let told = match successor(&agent, &records) {
                Some(other) => Told::Over(format!("its pod has sandbox {other} now")),
                None if is_due => tokio::select! {
                    told = ask(&cluster.client, &records) => told,
                    () = &mut stopping => return,
                },
                None => continue,
            };
            match told {
                Told::Over(why) => {
                    // Should it not have been written down, it is tried again.
                    suspect.next = Instant::now() + UNANSWERED;
                    end(&agent, &records, &why).await;
                }
                Told::Lives => {
                    suspect.was_declared = is_declared;
                    suspect.next = Instant::now() + suspect.wait;
                    suspect.wait = (suspect.wait * 2).min(AGAIN.1);
                }
                Told::Nothing => {
                    // The others would be told as little.
                    let next = Instant::now() + UNANSWERED;
                    suspects.values_mut().for_each(|suspect| suspect.next = suspect.next.max(next));
                    suspects.values_mut().for_each(|suspect| suspect.was_declared = false);
                    break;
                }
            }
        }
        let next = suspects.values().map(|suspect| suspect.next).min();
        let later = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = declared.changed() => {}
            _ = vanished.changed() => {}
            () = later => {}
            () = &mut stopping => return,
        }
    }
}

/// The pod of a sandbox; with its UID, where the runtime has given it.
fn pod_of(records: &SandboxRecords) -> Option<&PodRef> {
    let mut pods = records.attachments.values().map(|attachment| &attachment.pod);
    pods.find(|pod| pod.is_named())
}

fn is_declared(agent: &Agent, pod: &PodRef) -> bool {
    selection::pod_marks(&agent.catalogue(), pod).is_some_and(|marks| marks.uid == pod.uid)
}

/// Another sandbox of the same pod that has addresses, and a namespace.
fn successor(agent: &Agent, records: &SandboxRecords) -> Option<ContainerId> {
    let pod = pod_of(records).filter(|pod| !pod.uid.is_empty())?;
    let others = agent.ledger.of_pod(&pod.namespace, &pod.name);
    let has_taken_over = |other: &&Arc<SandboxRecords>| {
        let container = &other.sandbox.container;
        let holds = |attachment: &schemas::intent::Attachment| {
            attachment.pod == *pod && attachment.allocated && !attachment.closing && !attachment.prepared
        };
        *container != records.sandbox.container
            // What has no namespace has no number.
            && agent.workers.is_numbered(container)
            && other.attachments.values().any(holds)
    };
    others.iter().find(has_taken_over).map(|other| other.sandbox.container.clone())
}

/// Whether its pod is over, by the API server's own word.
async fn ask(client: &kube::Client, records: &SandboxRecords) -> Told {
    let Some(pod) = pod_of(records) else { return Told::Lives };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let found = match tokio::time::timeout(PATIENCE, pods.get_opt(&pod.name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(%pod, %error, "whether it lives cannot be asked");
            return Told::Nothing;
        }
        Err(_) => return Told::Nothing,
    };
    let Some(found) = found else { return Told::Over("its pod is gone".to_owned()) };
    if pod.uid.is_empty() {
        // It cannot be told from another of its name.
        return Told::Lives;
    }
    if found.metadata.uid.as_ref() != Some(&pod.uid) {
        return Told::Over("its pod is gone, and another has its name".to_owned());
    }
    match found.status.and_then(|status| status.phase).as_deref() {
        Some(phase @ ("Succeeded" | "Failed")) => Told::Over(format!("its pod has ended ({phase})")),
        _ => Told::Lives,
    }
}
