//! How the API server is reached: by a kubeconfig, or from inside the cluster.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Under which name the API server notes who has written a field.
pub const FIELD_MANAGER: &str = "dragline";

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

/// A client by this kubeconfig, or by the service account of the pod when there is none. Nothing is sent yet.
///
/// # Errors
/// When the kubeconfig or the service account cannot be used.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |source| ClientError::Kubeconfig { path: path.display().to_string(), source };
            let read = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(REQUEST);
    Ok(Client::try_from(config)?)
}
