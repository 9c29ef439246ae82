//! What tests, examples and the quick start build their scenes with: network namespaces and the links, addresses and
//! routes in them, without any external program and without root.
//!
//! [`enter_private_world`] first, then [`Netns`]s and a [`Scene`] in each.

mod lookup;
mod scene;
mod world;

use std::io;

pub use lookup::KernelRoute;
pub use netlink_packet_route::link::LinkAttribute;
pub use scene::{End, Scene};
pub use world::{Netns, enter_private_world};

use crate::exchange::ExchangeError;

/// Why a scene could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TestbedError {
    /// The kernel refused a change.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: String,
        /// Why not.
        source: ExchangeError,
    },
    /// Another call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

impl TestbedError {
    fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }
}
