//! Links of the node that pods stand on: what plugin `ifacer` is asked to make (../spec/controller.md 4).
//!
//! These structs are parts of the store's version-1 records, like those of [`crate::intent`].

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::name::{IfName, Mac};

/// The uplink of one attachment. Attachments share one: it is there as long as one of them wants it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UplinkIntent {
    /// The links of the node below it: with a bond its slaves, otherwise the one parent.
    pub interfaces: Vec<IfName>,
    /// The bond of the interfaces.
    pub bond: Option<BondIntent>,
    /// The VLAN sub-interface on top, 1 to 4094.
    pub vlan: Option<u16>,
}

/// A bond of several links.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BondIntent {
    /// Its name.
    pub name: IfName,
    /// The kernel's number of its mode, 0 (balance-rr) to 6 (balance-alb).
    pub mode: u8,
    /// Its options, each once.
    pub options: Vec<BondSetting>,
}

/// One option of a bond.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BondSetting {
    /// Which.
    pub option: BondOption,
    /// To what.
    pub value: BondValue,
}

/// What an option is set to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BondValue {
    /// The kernel's number.
    Number(u32),
    /// A link, by name.
    Link(IfName),
    /// A hardware address.
    Mac(Mac),
    /// IPv4 addresses.
    Addresses(Vec<Ipv4Addr>),
}

/// An option of a bond, called as the kernel's documentation calls it.
#[allow(missing_docs, reason = "each is described in the kernel's Documentation/networking/bonding.rst")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BondOption {
    AdActorSysPrio,
    AdActorSystem,
    AdSelect,
    AdUserPortKey,
    AllSlavesActive,
    ArpAllTargets,
    ArpInterval,
    ArpIpTarget,
    ArpValidate,
    DownDelay,
    FailOverMac,
    LacpRate,
    LpInterval,
    MiiMon,
    MinLinks,
    PacketsPerSlave,
    PeerNotifDelay,
    Primary,
    PrimaryReselect,
    ResendIgmp,
    TlbDynamicLb,
    UpDelay,
    UseCarrier,
    XmitHashPolicy,
}

impl BondOption {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::AdActorSysPrio,
        Self::AdActorSystem,
        Self::AdSelect,
        Self::AdUserPortKey,
        Self::AllSlavesActive,
        Self::ArpAllTargets,
        Self::ArpInterval,
        Self::ArpIpTarget,
        Self::ArpValidate,
        Self::DownDelay,
        Self::FailOverMac,
        Self::LacpRate,
        Self::LpInterval,
        Self::MiiMon,
        Self::MinLinks,
        Self::PacketsPerSlave,
        Self::PeerNotifDelay,
        Self::Primary,
        Self::PrimaryReselect,
        Self::ResendIgmp,
        Self::TlbDynamicLb,
        Self::UpDelay,
        Self::UseCarrier,
        Self::XmitHashPolicy,
    ];

    /// Its name, as `ip link` and the kernel's documentation have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdActorSysPrio => "ad_actor_sys_prio",
            Self::AdActorSystem => "ad_actor_system",
            Self::AdSelect => "ad_select",
            Self::AdUserPortKey => "ad_user_port_key",
            Self::AllSlavesActive => "all_slaves_active",
            Self::ArpAllTargets => "arp_all_targets",
            Self::ArpInterval => "arp_interval",
            Self::ArpIpTarget => "arp_ip_target",
            Self::ArpValidate => "arp_validate",
            Self::DownDelay => "downdelay",
            Self::FailOverMac => "fail_over_mac",
            Self::LacpRate => "lacp_rate",
            Self::LpInterval => "lp_interval",
            Self::MiiMon => "miimon",
            Self::MinLinks => "min_links",
            Self::PacketsPerSlave => "packets_per_slave",
            Self::PeerNotifDelay => "peer_notif_delay",
            Self::Primary => "primary",
            Self::PrimaryReselect => "primary_reselect",
            Self::ResendIgmp => "resend_igmp",
            Self::TlbDynamicLb => "tlb_dynamic_lb",
            Self::UpDelay => "updelay",
            Self::UseCarrier => "use_carrier",
            Self::XmitHashPolicy => "xmit_hash_policy",
        }
    }

    /// The option of that name; `up_delay` is how the original writes `updelay`.
    pub fn named(name: &str) -> Option<Self> {
        if name == "up_delay" {
            return Some(Self::UpDelay);
        }
        Self::ALL.into_iter().find(|option| option.name() == name)
    }
}

impl UplinkIntent {
    /// The link that the VLAN sub-interface is on, or that pods are on where there is none.
    pub fn base(&self) -> Option<&IfName> {
        self.bond.as_ref().map(|bond| &bond.name).or(self.interfaces.first())
    }

    /// The name of the VLAN sub-interface, `<base>.<id>`; None without one.
    pub fn vlan_name(&self) -> Option<String> {
        Some(format!("{}.{}", self.base()?, self.vlan?))
    }

    /// Nothing is to be made: one interface without VLAN, or several without bond.
    pub fn is_nothing(&self) -> bool {
        self.bond.is_none() && self.vlan.is_none()
    }
}
