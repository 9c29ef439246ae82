//! The node agent of dragline and its command line.
//!
//! A CNI call records an intent ([`call`]) in the store by way of the [`ledger`]; a worker per sandbox ([`worker`])
//! makes the kernel follow ([`pass`]), for as long as the pod lives, prompted by kernel [`events`]. What is declared
//! comes from [`manifests`], or from the API server ([`cluster`]), as a [`catalogue`]. The [`controller`] is a process of its own.

pub mod adopt;
pub mod agent;
pub mod auto_pool;
pub mod borrowed;
pub mod call;
pub mod catalogue;
pub mod cluster;
pub mod command;
pub mod conflists;
pub mod controller;
pub mod cooling;
pub mod detection;
pub mod document;
pub mod endpoint;
pub mod estranged;
pub mod events;
pub mod fight;
pub mod history;
pub mod http;
pub mod identity;
pub mod kept;
pub mod kubernetes;
pub mod learned;
pub mod leased;
pub mod ledger;
pub(crate) mod listed;
pub mod manifests;
pub mod merge;
pub mod metrics;
pub mod node;
pub mod occupied;
pub mod overlap;
pub mod pass;
pub mod readiness;
pub mod recorded;
pub mod report;
pub mod rollout;
pub mod selection;
pub mod selector;
pub mod server;
pub mod spiderpool;
pub mod spool;
pub mod worker;
