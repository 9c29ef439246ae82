//! The Events on pools. Their reasons are relied upon by alerts: they do not change.
//!
//! | reason | type | when, once for each change |
//! |---|---|---|
//! | `PoolInvalid` | Warning | the spec breaks a rule, condition `Valid` became false |
//! | `PoolOverlap` | Warning | an older pool gives some of its addresses, condition `Overlapping` became true |
//! | `PoolDefaultConflict` | Warning | an older pool is default for the same pods, condition `DefaultConflict` became true |
//! | `PoolExhausted` | Warning | no address is left, or a node waits for one, condition `Exhausted` became true |
//! | `PoolAddressesInUse` | Warning | addresses were taken out of the pool that pods have, condition `InUseOutside` became true |
//! | `PoolCountsStale` | Warning | a node that holds addresses is not heard of, condition `CountsFresh` became false |
//! | `PoolSlotUnclear` | Warning | a shard says something unclear, condition `SlotsUnclear` became true |
//! | `AddressQuarantined` | Normal | addresses of a node, or of its former incarnation, are kept back before others get them |

use kube::runtime::events::EventType;

/// Why an Event is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The spec breaks a rule.
    PoolInvalid,
    /// An older pool gives some of the addresses.
    PoolOverlap,
    /// An older pool is default for the same pods.
    PoolDefaultConflict,
    /// No address is left.
    PoolExhausted,
    /// Addresses were taken out that pods have.
    PoolAddressesInUse,
    /// A node that holds addresses is not heard of.
    PoolCountsStale,
    /// A shard says something unclear.
    PoolSlotUnclear,
    /// Addresses are kept back before others get them.
    AddressQuarantined,
    /// A subnet breaks a rule.
    SubnetInvalid,
    /// A subnet has too few addresses for a workload.
    SubnetExhausted,
    /// Pools of a subnet have what they should not.
    SubnetPoolConflict,
    /// A subnet that is deleted has pools.
    SubnetInUse,
    /// Pools of a subnet cannot give back addresses that they no longer need.
    SubnetShrinkPending,
}

impl Reason {
    /// As in the Event.
    pub fn text(self) -> &'static str {
        match self {
            Self::PoolInvalid => "PoolInvalid",
            Self::PoolOverlap => "PoolOverlap",
            Self::PoolDefaultConflict => "PoolDefaultConflict",
            Self::PoolExhausted => "PoolExhausted",
            Self::PoolAddressesInUse => "PoolAddressesInUse",
            Self::PoolCountsStale => "PoolCountsStale",
            Self::PoolSlotUnclear => "PoolSlotUnclear",
            Self::AddressQuarantined => "AddressQuarantined",
            Self::SubnetInvalid => "SubnetInvalid",
            Self::SubnetExhausted => "SubnetExhausted",
            Self::SubnetPoolConflict => "SubnetPoolConflict",
            Self::SubnetInUse => "SubnetInUse",
            Self::SubnetShrinkPending => "SubnetShrinkPending",
        }
    }

    /// Whether somebody should look.
    pub fn event_type(self) -> EventType {
        match self {
            Self::AddressQuarantined | Self::SubnetInUse | Self::SubnetShrinkPending => EventType::Normal,
            Self::PoolInvalid
            | Self::PoolOverlap
            | Self::PoolDefaultConflict
            | Self::PoolExhausted
            | Self::PoolAddressesInUse
            | Self::PoolCountsStale
            | Self::PoolSlotUnclear
            | Self::SubnetInvalid
            | Self::SubnetExhausted
            | Self::SubnetPoolConflict => EventType::Warning,
        }
    }

    /// What was going on.
    pub fn action(self) -> &'static str {
        match self {
            Self::AddressQuarantined => "CleanUp",
            Self::PoolInvalid
            | Self::PoolOverlap
            | Self::PoolDefaultConflict
            | Self::PoolExhausted
            | Self::PoolAddressesInUse
            | Self::PoolCountsStale
            | Self::PoolSlotUnclear
            | Self::SubnetInvalid
            | Self::SubnetExhausted
            | Self::SubnetPoolConflict
            | Self::SubnetInUse
            | Self::SubnetShrinkPending => "Check",
        }
    }
}

/// An Event to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The pool.
    pub pool: String,
    /// Why.
    pub reason: Reason,
    /// The node that it is about, when it is about one.
    pub node: Option<String>,
    /// For people.
    pub note: String,
}
