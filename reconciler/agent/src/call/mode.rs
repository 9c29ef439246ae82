//! Which mode a coordinator call comes to, and what underlay mode decides for a sandbox once and for all.

use plan::{AUXILIARY_LINK, Observed};
use schemas::cni::error::CniError;
use schemas::intent::{AuxiliaryLink, CoordinatorMode};
use schemas::name::{ContainerId, IfName, Mac};

use super::attach::random_mac;
use crate::agent::Agent;
use crate::ledger::SandboxRecords;

/// What a call comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolved {
    /// The default CNI's NIC leads to the cluster.
    Overlay,
    /// `veth0` does.
    Underlay,
}

/// By the mode that is asked for, the interface, and what the sandbox has (../spec/coordinator.md 3).
///
/// # Errors
/// The original's texts where the three do not fit.
pub(super) fn resolve(
    mode: CoordinatorMode,
    ifname: &IfName,
    default_nic: &str,
    records: &SandboxRecords,
    pod: &Observed,
) -> Result<Resolved, CniError> {
    let refuse = |text: String| Err(CniError::new(CniError::FAILED, text));
    let is_first = ifname.as_str() == default_nic;
    let has_pair = records.sandbox.auxiliary.is_some();
    let has_link = pod.link(AUXILIARY_LINK).is_some();
    let is_underlay = match mode {
        CoordinatorMode::Overlay if is_first => {
            return refuse(format!(
                "when creating interface {ifname} in overlay mode, it detects that the current interface is first \
                 interface named {default_nic}, this plugin should not work for it. please modify in the CNI configuration"
            ));
        }
        CoordinatorMode::Overlay if has_pair || has_link => {
            return refuse(format!(
                "when creating interface {ifname} in overlay mode, it detects the auxiliary interface {AUXILIARY_LINK} of \
                 underlay mode in the pod. please modify in the CNI configuration"
            ));
        }
        CoordinatorMode::Overlay | CoordinatorMode::Disabled => false,
        CoordinatorMode::Underlay => true,
        CoordinatorMode::Auto => is_first || has_pair || has_link,
    };
    if !is_underlay {
        return Ok(Resolved::Overlay);
    }
    if has_pair {
        return Ok(Resolved::Underlay);
    }
    if has_link {
        return refuse(format!(
            "the pod's {AUXILIARY_LINK} is another program's, not made by dragline: remove what made it, or make the pod anew"
        ));
    }
    if !is_first {
        return refuse(format!(
            "when creating interface {ifname} in underlay mode, it detects that the auxiliary interface {default_nic} was \
             not created by previous interface. please enable coordinator plugin in previous interface"
        ));
    }
    if let Some(baseline) = &records.sandbox.baseline {
        return refuse(format!(
            "when creating interface {ifname} in underlay mode, it detects that another interface of the pod is in overlay \
             mode beside {}. please use one mode for all interfaces of a pod",
            baseline.nic
        ));
    }
    Ok(Resolved::Underlay)
}

/// The pair of a sandbox that has none yet.
pub(super) fn auxiliary(agent: &Agent, container: &ContainerId) -> Result<AuxiliaryLink, CniError> {
    Ok(AuxiliaryLink { host_name: host_name(agent, container)?, pod_mac: random_mac()?, host_mac: random_mac()? })
}

/// The original's name; where another sandbox's ID begins alike, a random one.
fn host_name(agent: &Agent, container: &ContainerId) -> Result<IfName, CniError> {
    let begin: String = container.as_str().chars().take(11).collect();
    let Mac([a, b, c, d, e, _]) = random_mac()?;
    let parsed = [format!("veth{begin}"), format!("veth{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}")];
    let mut names = parsed.iter().filter_map(|name| name.parse::<IfName>().ok());
    names.find(|name| !agent.ledger.is_host_end_of_another(name, container)).ok_or_else(|| {
        let text = format!("no free name for the node's end of {AUXILIARY_LINK} of {container}: try again");
        CniError::new(CniError::TRY_AGAIN, text)
    })
}
