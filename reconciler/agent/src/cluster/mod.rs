//! `--kubeconfig FILE`, or inside a cluster: what is declared comes from the API server, and addresses from leases.
//!
//! Nothing that a pod waits for waits for the API server: what was last seen of the cluster is in the store ([`remembered`]),
//! so that a node works on while the API server is away, also after a restart.

mod counted;
mod demand;
mod endpoints;
mod fixed;
pub(crate) mod incarnation;
mod inputs;
mod kinds;
mod lasting;
pub(crate) mod leases;
mod notices;
mod owners;
mod remembered;
mod sweep;

pub(crate) use remembered::remembered_objects;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use schemas::cni::error::CniError;
use schemas::intent::PodRef;
use schemas::wire::Place;
use store::Store;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use counted::Counted;
pub use demand::Asked;
use demand::Asking;
pub(crate) use demand::ipam;
pub use fixed::{Fixed, Known, Named};
pub use incarnation::Standing;
pub use leases::Tenants;
pub use notices::Notice;
pub use owners::Owners;

use crate::agent::Agent;
use crate::kubernetes::{self, ClientError};
use crate::selection;

/// How the agent is set up in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How the API server is reached; None inside the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the agent's own objects.
    pub namespace: String,
    /// How long a node that is not heard of keeps its free addresses.
    pub lease_ttl: Duration,
}

/// How long an ADD waits for its pod to be seen: the kubelet knows of it from the same API server.
const POD_PATIENCE: Duration = Duration::from_secs(5);

/// What the agent's tasks share of the cluster.
pub struct State {
    /// The API server.
    pub client: Client,
    /// As set up.
    pub config: Config,
    /// Every kind of object has been listed since the start.
    synced: watch::Sender<bool>,
    /// Objects have changed.
    seen: Notify,
    standing: watch::Sender<Standing>,
    asking: Arc<Asking>,
    /// The controller's numbers.
    pub counted: Arc<Counted>,
    /// Who decides which addresses may be given.
    pub tenants: Tenants,
    /// Who controls the controllers of the node's pods.
    pub owners: Owners,
    /// What pods with an identity are to have again.
    pub fixed: Fixed,
    notices: notices::Sender,
    unwritten: Mutex<Option<mpsc::Receiver<Notice>>>,
}

impl State {
    /// Everything shared, before anything is asked.
    ///
    /// # Errors
    /// When there is no way to the API server.
    pub async fn new(config: Config, store: &Store, node: &str) -> Result<Self, ClientError> {
        let client = kubernetes::client(config.kubeconfig.as_deref()).await?;
        let standing = watch::Sender::new(Standing::remembered(store, node));
        let (notices, unwritten) = notices::channel();
        Ok(Self {
            client,
            config,
            synced: watch::Sender::new(false),
            seen: Notify::new(),
            standing,
            asking: Arc::default(),
            counted: Arc::default(),
            tenants: Tenants::default(),
            owners: Owners::remembered(store),
            fixed: Fixed::default(),
            notices,
            unwritten: Mutex::new(Some(unwritten)),
        })
    }

    /// Every kind of object has been listed since the start, so that what is not there is known to be gone.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Completes once [`is_synced`](Self::is_synced) holds.
    pub async fn synced(&self) {
        // The sender is in `self`.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Lets people hear of something, where the pace of Events allows.
    pub fn notice(&self, notice: Notice) {
        // Of a flood the log has all.
        let _ = self.notices.try_send(notice);
    }

    /// Asks for an address of one of these pools until what is returned is dropped.
    pub fn ask(&self, pools: &[String], place: &Place) -> Asked {
        self.asking.ask(pools, place)
    }

    /// Completes with the next change of what is declared; to be created before looking.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.seen.notified()
    }
}

/// Starts all that has to do with the cluster.
pub fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) {
    inputs::start(agent, tasks);
    tasks.spawn(incarnation::keep(Arc::clone(agent)));
    tasks.spawn(endpoints::keep(Arc::clone(agent)));
    tasks.spawn(owners::keep(Arc::clone(agent)));
    tasks.spawn(leases::keep(Arc::clone(agent)));
    tasks.spawn(fixed::keep(Arc::clone(agent)));
    tasks.spawn(sweep::keep(Arc::clone(agent)));
    let Some(cluster) = &agent.cluster else { return };
    let unwritten = cluster.unwritten.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(unwritten) = unwritten {
        tasks.spawn(notices::write(Arc::clone(agent), unwritten));
    }
    for fault in agent.record_faults.iter().take(8) {
        cluster.notice(Notice::Store(fault.clone()));
    }
}

/// Waits until the pod is known whose annotations and labels decide, and, where that matters and within the same time,
/// who controls it in the end.
///
/// # Errors
/// When the pod is not seen in time.
pub async fn pod_seen(agent: &Agent, pod: &PodRef, deadline: Instant) -> Result<(), CniError> {
    let Some(cluster) = &agent.cluster else { return Ok(()) };
    let until = deadline.min(Instant::now() + POD_PATIENCE);
    loop {
        let changed = cluster.changed();
        if !pod.is_named() {
            return Ok(());
        }
        if selection::pod_marks(&agent.catalogue(), pod).is_some() {
            owners::known(agent, pod, until).await;
            return Ok(());
        }
        if tokio::time::timeout_at(until, changed).await.is_err() {
            let away = if cluster.is_synced() { "" } else { ", and the API server has not answered since the start" };
            return Err(CniError::new(
                CniError::TRY_AGAIN,
                format!("pod {pod} ({}) is not seen on node {}{away}", pod.uid, agent.config.node_name),
            ));
        }
    }
}
