//! Why no pool could be chosen.

use schemas::cni::error::CniError;
use schemas::crd::ip_version::IpVersion;
use schemas::name::IfName;

use super::rule::Rule;

/// Why nothing could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// No rule names a pool.
    #[error(
        "no IPPool available, no pool selection rules of any type are specified: name one in the annotation \
         ipam.spidernet.io/ippool, in default_ipv4_ippool of the network configuration, or mark one as default"
    )]
    NoRule,
    /// The rule that applies names none for the interface.
    #[error("no IPPool available, {0} names none for this interface: add one under ipv4 or ipv6")]
    NoPool(Rule),
    /// Only of families that are switched off.
    #[error(
        "no IPPool available, {rule} names pools of IPv{version} alone, which enableIPv{version} of ConfigMap \
         spiderpool-conf switches off"
    )]
    FamilyOff {
        /// What names them.
        rule: Rule,
        /// Of which family.
        version: IpVersion,
    },
    /// An annotation is not what it should be.
    #[error("wrong input, invalid format of {on} annotation '{key}': {problem}; expected {expected}")]
    Annotation {
        /// `Pod` or `Namespace`.
        on: &'static str,
        /// Its key.
        key: &'static str,
        /// What is wrong.
        problem: String,
        /// What it should look like.
        expected: &'static str,
    },
    /// Pools that are named are not there, or are not valid.
    #[error("{}", lacking_text(ifname, lacking, others))]
    Lacking {
        /// The interface.
        ifname: IfName,
        /// Each such pool, and what is wrong with it.
        lacking: Vec<(String, String)>,
        /// The other candidates, each with whether it fits or why not.
        others: Vec<(String, String)>,
    },
    /// A pool is named twice.
    #[error("wrong input, duplicate IPPool {0} specified for NIC {1}: name it once in {2}")]
    Twice(String, IfName, Rule),
    /// A name with wildcards cannot be read.
    #[error("wrong input, IPPool pattern {pattern:?} in {rule}: {problem}")]
    Pattern {
        /// As written.
        pattern: String,
        /// Where it stands.
        rule: Rule,
        /// What is wrong.
        problem: String,
    },
    /// SpiderSubnets are asked for, and not in use.
    #[error(
        "it's invalid to use 'ipam.spidernet.io/subnets' or 'ipam.spidernet.io/subnet' annotation when Auto-Pool \
         feature is disabled: set enableSpiderSubnet and enableAutoPoolForApplication in ConfigMap spiderpool-conf, or \
         remove it"
    )]
    SubnetsOff,
    /// A SpiderSubnet is asked for by a pod that nothing controls.
    #[error("SpiderSubnet feature doesn't support no-controller pod: name a pool in ipam.spidernet.io/ippool instead")]
    NoController,
    /// Who controls the pod has not been found out yet.
    #[error("who controls {0} is not known yet, so neither is whose pool the pod uses: try again")]
    NoOwnerYet(String),
    /// The pool that the controller makes of a SpiderSubnet is not there yet.
    #[error(
        "no IPPool available, there is no IPv{version} IPPool of SpiderSubnet {subnet} for interface {ifname} of {owner} \
         yet: the controller makes it, or says in its Events why it cannot"
    )]
    NoAutoPool {
        /// The family.
        version: IpVersion,
        /// The SpiderSubnet.
        subnet: String,
        /// The interface.
        ifname: IfName,
        /// The pod's top controller.
        owner: String,
    },
    /// No candidate of a family is left.
    #[error("no IPPool available, {}", all_filtered(ifname, filtered))]
    AllFiltered {
        /// The interface.
        ifname: IfName,
        /// Each family of which none is left.
        filtered: Vec<Filtered>,
        /// A reason is one that passes by itself or by what an administrator is about to do.
        may_pass: bool,
    },
}

/// A family of which no candidate is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filtered {
    /// The family.
    pub version: IpVersion,
    /// Each pool, and why it does not fit.
    pub rejected: Vec<(String, String)>,
}

impl SelectionError {
    /// The CNI error's number: [`CniError::TRY_AGAIN`] where what is in the way passes.
    pub fn code(&self) -> u32 {
        match self {
            Self::NoOwnerYet(_)
            | Self::NoAutoPool { .. }
            | Self::Lacking { .. }
            | Self::AllFiltered { may_pass: true, .. } => CniError::TRY_AGAIN,
            Self::NoRule
            | Self::NoPool(_)
            | Self::FamilyOff { .. }
            | Self::Annotation { .. }
            | Self::Twice(..)
            | Self::Pattern { .. }
            | Self::SubnetsOff
            | Self::NoController
            | Self::AllFiltered { may_pass: false, .. } => CniError::INVALID_CONFIG,
        }
    }

    /// Whether a program of ours is about to make what is missing, so that waiting is worth while.
    pub fn is_awaited(&self) -> bool {
        matches!(self, Self::NoOwnerYet(_) | Self::NoAutoPool { .. })
    }
}

fn lacking_text(ifname: &IfName, lacking: &[(String, String)], others: &[(String, String)]) -> String {
    let lacking = lacking.iter().map(|(name, reason)| format!("failed to get original IPPool {name}: {reason}"));
    let lacking = lacking.collect::<Vec<_>>().join("; ");
    if others.is_empty() {
        return lacking;
    }
    let others: Vec<String> = others.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    format!("{lacking}; of the other IPPools of {ifname} [{}]", others.join(", "))
}

fn all_filtered(ifname: &IfName, filtered: &[Filtered]) -> String {
    let family = |Filtered { version, rejected }: &Filtered| {
        let names: Vec<&str> = rejected.iter().map(|(name, _)| name.as_str()).collect();
        let reasons: Vec<&str> = rejected.iter().map(|(_, reason)| reason.as_str()).collect();
        let (names, reasons) = (names.join(" "), reasons.join(", "));
        format!("all IPv{version} IPPools [{names}] of {ifname} filtered out: [{reasons}]")
    };
    filtered.iter().map(family).collect::<Vec<_>>().join("; ")
}
