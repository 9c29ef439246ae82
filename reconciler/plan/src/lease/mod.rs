//! Which of a pool's addresses this node holds, in a cluster: claims, releases, how much, and what to do next.
//!
//! A pool's addresses lie in windows ([`Layout`], [`Windows`]), each kept by one object of the API server, a shard, with
//! 64 slots ([`schemas::slot`]). A node reads a shard ([`Shard`]), decides which slots to change ([`claim`], [`release`],
//! [`quarantine`]), and sends a JSON patch that tests the old texts and writes the new ones ([`json_patch`]): of two who
//! change one slot from the same text, one is refused. How many addresses a node should have is decided in [`demand`].
//!
//! There is no clock here and no randomness: times and a seed are given in.

mod claim;
pub mod demand;
mod draw;
mod layout;
mod release;
mod shard;
mod take_up;
pub mod tenant;
mod windows;

pub use claim::claim;
pub use draw::{Draw, hash};
pub use layout::{Layout, LayoutError, SLOTS, name, number_of, size_for};
pub use release::{quarantine, release, reserve};
pub use shard::{Shard, SlotEdit, json_patch};
pub use take_up::take_up;
pub use tenant::Tenant;
pub use windows::Windows;
