//! How the API server is reached: by a kubeconfig, or from inside the cluster.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Under which name the API server notes who has written a field.
pub const FIELD_MANAGER: &str = "dragline";

/// What the name of an agent's Lease begins with; the node's follows. No other Lease of the project begins so, whatever
/// nodes are called.
pub const AGENT_LEASE: &str = "dragline-node-";

/// How long a request may take; a watch is kept alive by the server and has its own limit.
const REQUEST: Duration = Duration::from_secs(30);
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig.
    #[error("kubeconfig {path}: {source}; give one that names a cluster and a user")]
    Kubeconfig {
        /// Which.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// Neither was given nor is there one of a pod.
    #[error("no --kubeconfig is given and this is no pod of a cluster: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    /// The connection's parts do not fit together, such as a certificate without its key.
    #[error("the API server's client cannot be made: {0}")]
    Client(#[from] kube::Error),
}

/// How long a request about leadership may take, together with its connection: less than the time between the last
/// moment for a renewal and the end of the lease.
const ELECTION_CONNECT: Duration = Duration::from_millis(1500);
/// See [`ELECTION_CONNECT`].
const ELECTION_ANSWER: Duration = Duration::from_millis(2500);

/// A client by this kubeconfig, or by the service account of the pod when there is none. Nothing is sent yet.
///
/// # Errors
/// When the kubeconfig or the service account cannot be used.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = config(kubeconfig).await?;
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(REQUEST);
    Ok(Client::try_from(config)?)
}

/// A client for the questions of an election alone: it gives up so early that a leader who cannot renew its lease knows
/// it before anybody else may lead.
///
/// # Errors
/// As [`client`].
pub async fn election_client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = config(kubeconfig).await?;
    config.connect_timeout = Some(ELECTION_CONNECT);
    config.read_timeout = Some(ELECTION_ANSWER);
    config.write_timeout = Some(ELECTION_ANSWER);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, ClientError> {
    Ok(match kubeconfig {
        Some(path) => {
            let failed = |source| ClientError::Kubeconfig { path: path.display().to_string(), source };
            let read = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => Config::incluster()?,
    })
}
