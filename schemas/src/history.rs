//! What has happened to a sandbox, for people: intents, steps, outcomes and repairs.
//!
//! A version-1 record of the store, with the same rules as [`intent`](crate::intent).

use serde::{Deserialize, Serialize};

use crate::name::{ContainerId, IfName};

/// One line of a sandbox's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Whose.
    pub container: ContainerId,
    /// Place in the sandbox's history, from 1; old entries are dropped, numbers are not given again.
    pub number: u64,
    /// When, in milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// The generation of the sandbox's intent then.
    pub generation: u64,
    /// The pod, `namespace/name`, empty when the runtime named none: the sandbox's own record may be gone by now.
    pub pod: String,
    /// What.
    pub event: HistoryEvent,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HistoryEvent {
    /// A call recorded an intent.
    Intended {
        /// The interface.
        ifname: IfName,
        /// What is wanted of it now, as a sentence.
        wanted: String,
    },
    /// DEL or GC withdrew it, or the namespace went.
    Withdrawn {
        /// The interface.
        ifname: IfName,
    },
    /// The kernel was brought to a new generation of the intent.
    Applied {
        /// The steps, as `ip` commands; the first ones, where there were many.
        steps: Vec<String>,
    },
    /// The kernel had been changed by somebody else, and was put back.
    Repaired {
        /// The steps, as `ip` commands; the first ones, where there were many.
        steps: Vec<String>,
    },
    /// It could not be brought to what is wanted.
    Failed {
        /// Why.
        error: String,
    },
    /// Nothing of the sandbox is left, and its addresses have come back.
    Ended,
}
