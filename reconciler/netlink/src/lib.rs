//! The only crate that talks to the kernel. It observes namespaces whole and applies steps; it decides nothing.
//!
//! ```text
//! Kernel ──pass(identity)──▶ Pass ──observe──▶ plan::Observed
//!    │                        └────◀─ apply ── [plan::Step]
//!    └─▶ Events: what changes in the node's namespace and in all others
//! ```
//!
//! - A namespace is known by path, cookie and boot ID: what is at a path later is another one.
//! - A [`Pass`] opens its socket inside a namespace and closes it again: nothing here keeps a dead pod's namespace alive.
//! - An observation is whole or an error ([`observe`]); applying is idempotent ([`apply`]).
//! - Calls block (microseconds); events are awaited, and so is what neighbours say ([`Kernel::detect`]).

mod announce;
pub mod apply;
pub mod attributes;
pub mod events;
pub mod exchange;
pub mod namespace;
pub mod observe;
pub mod pass;
mod ports;
pub mod probe;
#[cfg(feature = "testbed")]
pub mod testbed;

mod address;
mod filter;
mod link;
mod neighbour;
mod route;
mod rule;
mod sysctl;
mod uplink;

pub use apply::StepError;
pub use events::{Event, EventKind, EventScope, Events, EventsError};
pub use exchange::ExchangeError;
pub use namespace::NamespaceError;
pub use observe::ObserveError;
pub use pass::{Kernel, KernelError, Pass};
pub use probe::{DetectError, Pace, Paces, ProbeError, Question};
