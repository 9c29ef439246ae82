//! `dragline controller`: what is decided once for a cluster, by the one that leads.
//!
//! ```text
//! election ───── leads while it holds the Lease; all below runs only then, and is dropped when it is lost
//! crds ───────── which custom resources there are
//! watched ────── follows one kind of object, also one that is not served yet
//! coordinator ── the status of every SpiderCoordinator
//! networks ───── SpiderMultusConfig to NetworkAttachmentDefinition
//! subnets ────── pools of their own for workloads, from SpiderSubnets
//! defaults ───── the objects that an installation starts with
//! health ─────── what is answered at /readyz and /metrics
//! ```
//!
//! Two leaders at once do no harm: what is written follows from what is read alone, and a write that rests on an
//! object's former state names that state.

mod cni_dir;
mod coordinator;
mod crds;
pub mod defaults;
mod election;
mod health;
mod kept;
mod networks;
pub mod pools;
pub mod subnets;
mod watched;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::{StartError, wait_for_signal};
use crate::http;
use crate::kubernetes::{self, ClientError};
use defaults::Defaults;
use health::Health;

/// How long an answer of the API server is waited for; it gives up by itself after a minute at most.
const ANSWERED_WITHIN: Duration = Duration::from_secs(70);

/// How a controller is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// How the API server is reached; None inside a cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Where metrics and health are served.
    pub http: std::net::SocketAddr,
    /// The namespace of the controller's own objects.
    pub namespace: String,
    /// Who this one is among several; no other has it.
    pub identity: String,
    /// Where the node's CNI configurations are.
    pub cni_conf_dir: PathBuf,
    /// Namespace and name of Cilium's ConfigMap.
    pub cilium_config: (String, String),
    /// What is created where it is missing.
    pub defaults: Defaults,
}

/// What the parts of the controller share.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// As set up.
    pub config: Config,
    /// What is served, and what is waited for.
    health: Arc<Health>,
    /// The names of all custom resource definitions; None until they have been read.
    crds: watch::Receiver<Option<Arc<BTreeSet<String>>>>,
    recorder: Recorder,
}

impl Context {
    /// A request's answer, if it comes in time: a server that hangs is one that fails.
    async fn within<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
        let answered = tokio::time::timeout(ANSWERED_WITHIN, request).await;
        answered.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
    }

    /// Tells whoever asks about the object. That it could not be told changes nothing.
    async fn publish(&self, kind: EventType, reason: &str, note: String, regarding: &ObjectReference) {
        // The API server takes 1024 bytes.
        let note = note.chars().take(250).collect();
        let event =
            Event { type_: kind, reason: reason.into(), note: Some(note), action: "Reconcile".into(), secondary: None };
        if let Err(error) = self.within(self.recorder.publish(&event, regarding)).await {
            tracing::debug!(%error, reason, "an Event could not be written");
        }
    }
}

/// Why a controller ends.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server cannot be asked at all.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The address of `/metrics` cannot be used.
    #[error(transparent)]
    Listen(#[from] StartError),
}

/// Runs a controller until it is told to stop (SIGTERM or SIGINT).
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config) -> Result<(), ControllerError> {
    let client = kubernetes::client(config.kubeconfig.as_deref()).await?;
    let election_client = kubernetes::election_client(config.kubeconfig.as_deref()).await?;
    let health = Arc::new(Health::default());
    let mut served = JoinSet::new();
    let answering = Arc::clone(&health);
    // Until the process ends.
    http::serve(config.http, std::future::pending(), &mut served, move |path| answering.answer(path)).await?;
    tracing::info!(identity = config.identity, namespace = config.namespace, http = %config.http, "controller started");
    let candidate = election::Candidate {
        client: election_client,
        watching: client.clone(),
        namespace: &config.namespace,
        identity: &config.identity,
    };
    let work = || lead(client.clone(), config.clone(), Arc::clone(&health));
    candidate.run(&health, wait_for_signal(), work).await;
    tracing::info!("controller stopped");
    Ok(())
}

/// What is done while leading. It ends when one of its parts has failed; dropping it ends all of them.
async fn lead(client: Client, config: Config, health: Arc<Health>) {
    let (crds, crds_seen) = watch::channel(None);
    let reporter = Reporter { controller: election::LEASE.into(), instance: Some(config.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Context { client, config, health, crds: crds_seen, recorder };
    let mut parts = JoinSet::new();
    parts.spawn(crds::run(context.clone(), crds));
    parts.spawn(coordinator::run(context.clone()));
    parts.spawn(networks::run(context.clone()));
    parts.spawn(defaults::run(context.clone()));
    let of_pools = context.clone();
    parts.spawn(async move { drop(pools::run(of_pools).await) });
    parts.spawn(subnets::run(context.clone()));
    while let Some(ended) = parts.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a part of the controller has failed: all are started again");
            return;
        }
    }
}
