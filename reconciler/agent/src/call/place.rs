//! Finding the sandbox that a call is about.

use plan::Observed;
use schemas::cni::error::CniError;
use schemas::intent::{NetnsIdentity, Outcome, Sandbox};
use schemas::name::ContainerId;
use schemas::wire::Place;

use crate::agent::Agent;
use crate::ledger::SandboxRecords;

/// The namespace at the path that ADD gave.
///
/// # Errors
/// When there is none, or it is no network namespace.
pub(super) async fn identify(agent: &Agent, place: &Place) -> Result<NetnsIdentity, CniError> {
    let path = place
        .netns
        .clone()
        .ok_or_else(|| CniError::new(CniError::INVALID_ENVIRONMENT, "CNI_NETNS is missing: ADD needs a namespace"))?;
    let kernel = agent.kernel.clone();
    let joined = tokio::task::spawn_blocking(move || kernel.identify(&path)).await;
    let identified = joined.map_err(|error| CniError::new(CniError::FAILED, error.to_string()))?;
    identified.map_err(|error| {
        let code = if error.is_gone() { CniError::UNKNOWN_CONTAINER } else { CniError::INVALID_ENVIRONMENT };
        CniError::new(code, format!("CNI_NETNS: {error}"))
    })
}

/// Whether the namespace is still the one that the call began with: its sandbox may have been taken down while it waited, and
/// what it was given then nobody would give back.
///
/// # Errors
/// When it is not.
pub(super) async fn still(agent: &Agent, place: &Place, netns: &NetnsIdentity) -> Result<(), CniError> {
    if identify(agent, place).await? == *netns {
        return Ok(());
    }
    let text = format!("CNI_NETNS: {} has become another namespace while ADD waited", netns.path);
    Err(CniError::new(CniError::UNKNOWN_CONTAINER, text))
}

/// The namespace, whole, as it is now, with these sysctls.
///
/// # Errors
/// When it is gone or cannot be read.
pub(super) async fn observe(agent: &Agent, netns: &NetnsIdentity, sysctls: Vec<String>) -> Result<Observed, CniError> {
    let found = look(agent, netns, sysctls).await;
    let found = found.and_then(|found| found.ok_or_else(|| format!("{} is not there any more", netns.path)));
    found.map_err(|error| CniError::new(CniError::FAILED, format!("the pod's namespace: {error}")))
}

/// The same; None when it is not at its path any more.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn look(
    agent: &Agent,
    netns: &NetnsIdentity,
    sysctls: Vec<String>,
) -> Result<Option<Observed>, String> {
    let (kernel, netns) = (agent.kernel.clone(), netns.clone());
    let joined = tokio::task::spawn_blocking(move || {
        let mut pass = match kernel.pass(&netns) {
            Err(error) if error.is_gone() => return Ok(None),
            pass => pass.map_err(|error| error.to_string())?,
        };
        pass.observe(&sysctls).map(Some).map_err(|error| error.to_string())
    });
    joined.await.map_err(|error| error.to_string())?
}

/// The sandbox's records as they are to be changed: those there are, or new ones. A container ID that comes back with
/// another namespace is a sandbox made again: what the kernel held has gone with the old one.
pub(super) fn records(agent: &Agent, container: &ContainerId, netns: &NetnsIdentity) -> SandboxRecords {
    let mut records = agent.ledger.sandbox(container).map_or_else(
        || SandboxRecords {
            sandbox: Sandbox {
                container: container.clone(),
                netns: None,
                baseline: None,
                auxiliary: None,
                sysctls_before: Vec::new(),
                generation: 0,
                outcome: Outcome::default(),
            },
            attachments: std::collections::BTreeMap::new(),
        },
        |found| SandboxRecords::clone(&found),
    );
    let is_same = records
        .sandbox
        .netns
        .as_ref()
        .is_some_and(|known| known.cookie == netns.cookie && known.boot_id == netns.boot_id);
    if !is_same {
        records.sandbox.baseline = None;
        records.sandbox.auxiliary = None;
        records.sandbox.sysctls_before.clear();
        agent.workers.forget_number(container);
        for attachment in records.attachments.values_mut() {
            attachment.foreign_link = None;
        }
    }
    records.sandbox.netns = Some(netns.clone());
    records.sandbox.generation += 1;
    records
}
