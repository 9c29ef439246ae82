//! The custom resources of `spiderpool.spidernet.io/v2beta1`, one file for each kind, named like it, and the checked forms
//! of what they say.
//!
//! Reading is as lenient as the API server: unknown keys are ignored, because objects of a real cluster carry keys of
//! other releases. What a document means is checked by [`ippool::SpiderIPPoolSpec::ranges`],
//! [`reserved_ip::SpiderReservedIPSpec::ranges`], [`coordinator::SpiderCoordinator::settings`] and
//! [`multus_config::nad_config`], whose errors name the field.

pub mod address;
pub mod coordinator;
mod definition;
pub mod endpoint;
pub mod field;
pub mod ip_shard;
pub mod ip_version;
pub mod ippool;
pub mod multus_config;
mod nad;
mod nad_hardware;
mod nad_plugin;
pub mod pool_ranges;
pub mod ranges;
pub mod reserved_ip;
pub mod route;
mod rules;
pub mod subnet;

pub use coordinator::SpiderCoordinator;
pub use definition::{all, to_yaml};
pub use endpoint::SpiderEndpoint;
pub use ip_shard::SpiderIPShard;
pub use ippool::SpiderIPPool;
pub use multus_config::SpiderMultusConfig;
pub use pool_ranges::{PoolError, PoolRanges};
pub use reserved_ip::SpiderReservedIP;
pub use subnet::SpiderSubnet;

#[cfg(test)]
mod refused_tests;
#[cfg(test)]
mod seed_tests;
