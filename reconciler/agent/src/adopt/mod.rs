//! `dragline adopt`: takes over what Spiderpool has given, without pods noticing: nothing in the kernel is changed.
//!
//! ```text
//! once for the cluster   every address in use is kept in the shards as `=_adopt/NODE`: no agent can claim it
//! on each node           pods on which SpiderEndpoint, kernel and runtime agree become the node's: shards, then store
//! ```
//!
//! Both can be repeated at any time, and take up what was left. What cannot be verified is told and left alone: its
//! addresses stay kept, and nobody is given them.

mod api;
mod cache;
mod claims;
mod cluster;
mod namespaces;
mod node;
mod pods;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use store::Change;

pub use cache::DEFAULT_DIR;

use crate::kubernetes::ClientError;

/// What is taken over, and from where.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the API server is reached; None inside the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the agents' own objects.
    pub namespace: String,
    /// This node's name.
    pub node_name: String,
    /// The store.
    pub store_dir: PathBuf,
    /// Where the runtime keeps the network namespaces of pods.
    pub netns_dirs: Vec<PathBuf>,
    /// Where the runtime's CNI library keeps what it has made.
    pub cni_cache_dir: PathBuf,
    /// How long a node that is not heard of keeps its free addresses.
    pub lease_ttl: Duration,
    /// Nothing is written.
    pub is_dry: bool,
}

/// Why nothing, or not all, was done.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The API server cannot be asked at all.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It refused, or did not answer.
    #[error("{what}: {reason}")]
    Api {
        /// What was asked.
        what: String,
        /// Its word.
        reason: String,
    },
    /// The store is in use, or is not what it should be.
    #[error("{0}; the agent must be stopped")]
    Store(String),
    /// A record could not be made durable.
    #[error("{pod} is not recorded: {source}; its addresses are this node's by the pools' shards: run it again")]
    Record {
        /// The pod.
        pod: String,
        /// Why.
        source: store::CommitError,
    },
    /// The kernel.
    #[error("the network namespaces cannot be looked at: {0}; CAP_NET_ADMIN and CAP_SYS_ADMIN are needed")]
    Kernel(String),
    /// A folder.
    #[error("{path} cannot be read: {source}")]
    Folder {
        /// Which.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Another agent is the node.
    #[error("{0}")]
    Node(String),
}

/// What has become of an address, or of a pod's interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The node has it now.
    Adopted,
    /// The node had it before.
    Known,
    /// It is kept until its node has adopted it.
    Kept,
    /// It was kept, and nobody uses it any more.
    Freed,
    /// It could not be verified, and nothing was done.
    #[default]
    Left,
}

impl State {
    /// As it stands in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Known => "known",
            Self::Kept => "kept",
            Self::Freed => "freed",
            Self::Left => "left",
        }
    }
}

/// A line of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// What has become of it.
    pub state: State,
    /// The pod as namespace/name, where one is known.
    pub pod: String,
    /// Its interface.
    pub ifname: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Their pools.
    pub pools: Vec<String>,
    /// The runtime's sandbox.
    pub container: String,
    /// Why it was left, or what else is to be said.
    pub note: String,
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// One line for each interface or address.
    pub rows: Vec<Row>,
    /// What could not be read and does not stand in the way.
    pub faults: Vec<String>,
}

impl Report {
    /// Whether something was left alone.
    pub fn has_left(&self) -> bool {
        self.rows.iter().any(|row| row.state == State::Left)
    }
}

/// Keeps every address that Spiderpool has given, all over the cluster.
///
/// # Errors
/// When it could not be finished; it may be run again.
pub async fn keep_in_cluster(config: &Config) -> Result<Report, AdoptError> {
    cluster::run(config).await
}

/// Takes over the pods of this node.
///
/// # Errors
/// When it could not be finished; it may be run again.
pub async fn take_over_node(config: &Config) -> Result<Report, AdoptError> {
    node::run(config).await
}

/// The records of a pod.
fn change(adoption: &pods::Adoption, change: Change) -> Change {
    let change = change.put_sandbox(&adoption.sandbox);
    let change = adoption.attachments.iter().fold(change, |change, attachment| change.put_attachment(attachment));
    adoption.allocations().fold(change, |change, allocation| change.put_allocation(&allocation))
}

/// The destination of a default route by that gateway.
fn any_of(gateway: IpAddr) -> IpNetwork {
    let any = match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNetwork::new(any, 0).expect("a prefix length of 0 is valid in both families")
}
