//! The node agent: everything that its tasks share, and how it starts and stops.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use netlink::Kernel;
use schemas::intent::PodRef;
use schemas::wire;
use store::Store;
use tokio::sync::watch;

use crate::borrowed::Borrowed;
use crate::catalogue::{Catalogue, Marks};
use crate::detection::{Findings, Switches};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::node::NodeState;
use crate::rollout::Rollout;
use crate::selection::{Site, ignored};
use crate::worker::Workers;
use crate::{cluster, estranged, events, http, kept, manifests, occupied, rollout, server, spiderpool, spool};

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where store, spool and conflists are.
    pub state_dir: PathBuf,
    /// Where the plugins ask.
    pub socket: PathBuf,
    /// This node's name.
    pub node_name: String,
    /// Where the declared objects are.
    pub source: Source,
    /// Where the runtime keeps the network namespaces of pods.
    pub netns_dirs: Vec<PathBuf>,
    /// Where metrics and health are served.
    pub http: std::net::SocketAddr,
    /// What is probed.
    pub detection: Switches,
    /// Where the original agent's API is answered; empty for nowhere, None for where the cluster's settings say.
    pub spiderpool_socket: Option<PathBuf>,
    /// What pools are chosen by, besides what is declared.
    pub site: Site,
}

impl Config {
    /// Where withdrawals wait that were written while the agent was away.
    pub fn spool_dir(&self) -> PathBuf {
        self.state_dir.join(wire::SPOOL_DIR)
    }
}

/// Where the declared objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the files of a folder; the node holds all pools whole.
    Manifests(PathBuf),
    /// In a cluster; the node holds what it has leased.
    Cluster(cluster::Config),
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory cannot be made or used.
    #[error("cannot use {path}: {source}; it must be a directory that the agent may write")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Open(#[from] store::OpenError),
    /// The store.
    #[error(transparent)]
    Read(#[from] store::ReadError),
    /// The kernel.
    #[error("netlink is not available: {0}; the agent needs CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    Kernel(String),
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] crate::kubernetes::ClientError),
    /// A socket or port.
    #[error("cannot listen at {0}: {1}")]
    Listen(String, std::io::Error),
}

/// What the agent's tasks share.
pub struct Agent {
    /// Its setting.
    pub config: Config,
    /// Who has what.
    pub ledger: Ledger,
    /// The kernel.
    pub kernel: Kernel,
    /// The node's own state.
    pub node: NodeState,
    /// The node's sysctls that pods need otherwise.
    pub borrowed: Borrowed,
    /// How far what is declared has reached the pods.
    pub rollout: Rollout,
    /// Who reconciles which sandbox.
    pub workers: Workers,
    /// Numbers.
    pub metrics: Metrics,
    /// What probes have found.
    pub findings: Findings,
    /// The cluster, where there is one.
    pub cluster: Option<cluster::State>,
    /// Records that could not be used.
    pub record_faults: Vec<String>,
    catalogue: RwLock<Arc<Catalogue>>,
    has_catalogue: AtomicBool,
    declared: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

impl Agent {
    /// What is declared now.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every input has been read once, so what nobody wants may be deleted.
    pub fn has_synced(&self) -> bool {
        self.has_catalogue.load(Ordering::Acquire) && self.node.has_facts()
    }

    /// Takes over what is declared; sandboxes whose plan changes by it are reconciled.
    pub fn declare(self: &Arc<Self>, catalogue: Catalogue) {
        let before = self.catalogue();
        if !self.has_catalogue.load(Ordering::Acquire) || !catalogue.has_the_addresses_of(&before) {
            self.ledger.declare(&catalogue);
        }
        for fault in catalogue.faults.iter().filter(|fault| !before.faults.contains(fault)) {
            tracing::warn!(%fault, "declared objects are in conflict");
        }
        if let Some(settings) = catalogue.settings() {
            let sandboxes = self.ledger.sandboxes();
            self.rollout.declare(settings, sandboxes.iter().map(|records| records.sandbox.container.clone()));
        }
        self.tell_ignored(&before, &catalogue);
        *self.catalogue.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
        self.tell_declared();
        let is_first = !self.has_catalogue.swap(true, Ordering::AcqRel);
        if is_first {
            self.mark_all()
        } else {
            self.mark_replanned()
        }
        self.rollout.wake();
        if self.cluster.is_none() {
            kept::end_undeclared(self);
        }
    }

    /// Changes when what is declared has changed, or is known better; to be created before looking.
    pub fn declared(&self) -> watch::Receiver<u64> {
        self.declared.subscribe()
    }

    /// Says that what is declared is known better than before.
    pub(crate) fn tell_declared(&self) {
        self.declared.send_modify(|version| *version += 1);
    }

    /// Tells of annotations that have changed too late for the pods that have them.
    fn tell_ignored(&self, before: &Catalogue, after: &Catalogue) {
        let Some(cluster) = &self.cluster else { return };
        let is_changed = |(name, marks): &(&(String, String), &Marks)| {
            before.pods.get(*name).is_some_and(|known| known.annotations != marks.annotations)
        };
        let changed = after.pods.iter().filter(is_changed);
        let sandboxes: Vec<_> =
            changed.flat_map(|((namespace, name), _)| self.ledger.of_pod(namespace, name)).collect();
        let attachments = sandboxes.iter().flat_map(|records| records.attachments.values());
        let pods = attachments.filter(|attachment| !attachment.is_withdrawn()).map(|attachment| attachment.pod.clone());
        for (pod, keys) in ignored::changes(before, after, pods.filter(PodRef::is_named)) {
            let note = ignored::note(&keys);
            tracing::warn!(%pod, note, "annotations have no effect");
            cluster.notice(cluster::Notice::Ignored(pod, note));
        }
    }

    /// Completes when the agent is to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.subscribe();
        async move {
            // The sender lives as long as the agent; when it is gone the agent is.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// Whether the agent is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

/// Runs an agent until it is told to stop (SIGTERM or SIGINT).
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config) -> Result<(), StartError> {
    prepare(&config)?;
    // Before anything is looked at or changed: a second agent on this node must not get further than this.
    let listener = server::bind(&config.socket).await?;
    let kernel = Kernel::new().map_err(|error| StartError::Kernel(error.to_string()))?;
    let boot_id = kernel.boot_id().to_owned();
    let store_dir = config.state_dir.join("store");
    let node_name = config.node_name.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&store_dir, &node_name, &boot_id)).await;
    let store = opened.map_err(|error| StartError::Kernel(error.to_string()))??;
    let (ledger, mut record_faults) = Ledger::load(store, matches!(config.source, Source::Cluster(_)))?;
    let borrowed = Borrowed::load(ledger.store()).map_err(|error| StartError::Kernel(error.to_string()))?;
    let rollout =
        Rollout::load(ledger.store(), &mut record_faults).map_err(|error| StartError::Kernel(error.to_string()))?;
    estranged::find(&kernel, &ledger, &config.netns_dirs);
    for fault in &record_faults {
        tracing::error!(%fault, "a record of the store is not used");
    }
    let node = config.node_name.clone();
    let cluster = match &config.source {
        Source::Manifests(_) => None,
        Source::Cluster(config) => Some(cluster::State::new(config.clone(), ledger.store(), &node).await?),
    };
    let (stop, _) = watch::channel(false);
    let agent = Arc::new(Agent {
        ledger,
        kernel,
        node: NodeState::default(),
        borrowed,
        rollout,
        workers: Workers::default(),
        metrics: Metrics::default(),
        findings: Findings::default(),
        cluster,
        record_faults,
        catalogue: RwLock::default(),
        has_catalogue: AtomicBool::new(false),
        declared: watch::Sender::new(0),
        stop,
        config,
    });
    // Listening comes first: events between the first observation and the first event read would be lost.
    let mut tasks = tokio::task::JoinSet::new();
    let mut to_the_end = tokio::task::JoinSet::new();
    events::start(&agent, &mut tasks);
    match &agent.config.source {
        Source::Manifests(directory) => {
            manifests::start(&agent, directory.clone(), &mut tasks).await;
            tasks.spawn(kept::keep(Arc::clone(&agent)));
        }
        Source::Cluster(_) => cluster::start(&agent, &mut tasks),
    }
    // After what is declared: the first look at the node is followed by one at every sandbox.
    crate::node::start(&agent, &mut to_the_end);
    rollout::start(&agent, &mut tasks);
    tasks.spawn(occupied::keep(Arc::clone(&agent)));
    spool::start(&agent, &mut tasks).await?;
    http::start(&agent, &mut tasks).await?;
    server::start(&agent, listener, &mut tasks);
    spiderpool::start(&agent, &mut tasks);
    tracing::info!(
        node = agent.config.node_name,
        sandboxes = agent.ledger.sandboxes().len(),
        allocated = agent.ledger.allocated(),
        "agent started"
    );
    wait_for_signal().await;
    tracing::info!("stopping: answering what has been asked");
    agent.stop.send_replace(true);
    let drained = tokio::time::timeout(Duration::from_secs(10), async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task ended badly");
            }
        }
        agent.workers.drain().await;
    });
    if drained.await.is_err() {
        tracing::warn!("stopped with work left: it is taken up at the next start");
    }
    drop(to_the_end);
    Ok(())
}

fn prepare(config: &Config) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let mut directories = vec![config.state_dir.clone(), config.spool_dir()];
    directories.extend(config.socket.parent().map(PathBuf::from));
    for path in directories {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| StartError::Directory { path, source })?;
    }
    Ok(())
}

/// Completes at SIGTERM or SIGINT.
pub(crate) async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        (terminate, interrupt) => {
            let error = terminate.err().or(interrupt.err()).map(|error| error.to_string()).unwrap_or_default();
            tracing::error!(error, "signals cannot be received: only SIGKILL ends this process");
            std::future::pending::<()>().await;
        }
    }
}
