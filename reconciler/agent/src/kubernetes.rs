//! How the API server is reached: by a kubeconfig, or from inside the cluster.

use std::path::Path;
use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::client::retry::RetryPolicy;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::ServiceBuilder;
use tower::retry::RetryLayer;

/// Under which name the API server notes who has written a field.
pub const FIELD_MANAGER: &str = "dragline";

/// What the name of an agent's Lease begins with; the node's follows. No other Lease of the project begins so, whatever
/// nodes are called.
pub const AGENT_LEASE: &str = "dragline-node-";

/// How long a request may take; a watch is kept alive by the server and has its own limit.
const REQUEST: Duration = Duration::from_secs(30);
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);
/// After so long without a word on a connection, and then so often, the API server's machine is asked whether it is there:
/// one that has lost its power does not say that a watch has ended.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// After so many questions without an answer it is not.
const KEEPALIVE_TRIES: u32 = 3;
/// The same for what is sent.
const ACKNOWLEDGED: Duration = Duration::from_secs(25);

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
    Ok(connected(config)?)
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
    Ok(connected(config)?)
}

/// As the client's own way does it, with connections that notice that nobody is there.
fn connected(config: Config) -> Result<Client, kube::Error> {
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(KEEPALIVE.0));
    tcp.set_keepalive_interval(Some(KEEPALIVE.1));
    tcp.set_keepalive_retries(Some(KEEPALIVE_TRIES));
    tcp.set_tcp_user_timeout(Some(ACKNOWLEDGED));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
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
