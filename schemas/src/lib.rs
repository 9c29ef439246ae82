//! Every shape that is stored or crosses a process.
//!
//! Nothing here does anything: the custom resources ([`crd`], behind the feature of that name), CNI configuration and
//! results ([`cni`]), what the node is to remember ([`intent`], [`lease`], [`history`]), how that reads as text ([`dump`]) and whose an address is ([`slot`],
//! [`reservation`]),
//! and what the plugins and the command line say to the agent ([`wire`]). Text becomes a validated type at the edge ([`name`]); inside, no name is checked twice.

#[cfg(feature = "crd")]
pub mod agent_api;
pub mod cni;
#[cfg(feature = "crd")]
pub mod crd;
pub mod dump;
pub mod history;
pub mod intent;
pub mod lease;
pub mod name;
pub mod reservation;
pub mod slot;
pub mod uplink;
pub mod wire;
