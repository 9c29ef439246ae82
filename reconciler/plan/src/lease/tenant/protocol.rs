//! What a tenant and its caller say to each other.

use std::net::IpAddr;

use schemas::slot::Holder;

use crate::lease::shard::SlotEdit;

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// A clock that never jumps, in milliseconds since any time.
    pub ms: u64,
    /// Seconds since 1970 (UTC): for the ends of quarantines alone.
    pub unix: u64,
}

/// One who waits for an address of the pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiter {
    /// Since when, in any unit that orders them.
    pub since: u64,
    /// Who.
    pub holder: Holder,
}

/// A shard as an answer or an event of a watch shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub number: u128,
    /// `metadata.resourceVersion`: a greater one is newer.
    pub version: u64,
    /// The texts of its slots.
    pub slots: Vec<String>,
}

/// What the store knows of an address when the agent starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Recorded, and no pod has it.
    Spare,
    /// Recorded as suspect, and not cleared yet.
    Suspect,
    /// A pod has it.
    Used,
    /// Forgotten, and not yet erased.
    Forgotten,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read all shards of the pool, no older than now: [`Reply::Listed`].
    List,
    /// Read one shard: [`Reply::Seen`], [`Reply::Absent`] or [`Reply::Void`].
    Get {
        /// Which.
        number: u128,
        /// Whether it has to be no older than now; else what the API server has at hand will do (`resourceVersion=0`).
        is_fresh: bool,
    },
    /// Make a shard: [`Reply::Seen`] when made, else [`Reply::Exists`].
    Create {
        /// Which.
        number: u128,
    },
    /// Change slots, see [`json_patch`](crate::lease::json_patch): [`Reply::Seen`] when done, [`Reply::Refused`] when one has
    /// another text by now, [`Reply::Absent`].
    Patch {
        /// Which shard.
        number: u128,
        /// All of them or none.
        edits: Vec<SlotEdit>,
    },
    /// Enter the node among those who wait: [`Reply::Done`].
    Register,
    /// Take the node out of those who wait: [`Reply::Done`].
    Unregister,
    /// Begin or end to watch the pool's shards; every event is a [`Reply::Watched`]. Not answered otherwise. It begins
    /// with the shards as they are.
    Watch(bool),
    /// Make durable that these addresses are the node's, in place of what was recorded of them: [`Reply::Recorded`].
    Record {
        /// All of them.
        addresses: Vec<IpAddr>,
        /// Those of them that have to be looked for on the wire, see [`Tenant::cleared`](super::Tenant::cleared).
        suspect: Vec<IpAddr>,
    },
    /// Make durable that these addresses are on their way back and not to be given, also of those that nothing is recorded
    /// of: [`Reply::Forgotten`].
    Forget {
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// Drop what is recorded of these addresses, with or after any other write. Not answered; if it is lost, it comes
    /// again after the next start.
    Erase {
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// These addresses are kept for owners that have no pod here, and are not the node's: nothing is to be known of them
    /// any more. Not answered; what is still known of them is said again.
    Unkeep {
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// These addresses are not the node's any more though it has not given them back: report those that pods use. Not
    /// answered; what the store has of the others is to be dropped.
    Lost {
        /// Those that nobody uses.
        spare: Vec<IpAddr>,
        /// Those that pods use.
        used: Vec<IpAddr>,
    },
    /// Ask again at this time ([`Now::ms`]) if nothing happens before. Always the last.
    Sleep {
        /// When.
        until_ms: u64,
    },
}

/// What has come of an action, or what a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// All shards of the pool.
    Listed(Vec<Seen>),
    /// The shard, as it is after what was asked for.
    Seen(Seen),
    /// A watch saw it.
    Watched(Seen),
    /// There is no such shard.
    Absent,
    /// The shard to be made was there already.
    Exists,
    /// The shard is of another pool of that name, and of no use until it is gone.
    Void,
    /// A slot had another text: nothing was changed.
    Refused,
    /// Time-out, connection lost, the server's own error: it may have happened, or happen later, or not.
    Unknown,
    /// Registered or taken out.
    Done,
    /// Durable.
    Recorded,
    /// Durable.
    Forgotten,
}
