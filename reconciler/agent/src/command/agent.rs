//! `dragline agent`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemas::wire;

use super::{Failure, node_name};
use crate::agent::{self, Config, Source};
use crate::cluster;
use crate::estranged::NAMESPACES;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where store, spool and conflists are kept
    #[arg(long, env = "DRAGLINE_STATE_DIR", default_value = wire::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// The socket that the plugins ask
    #[arg(long, env = "DRAGLINE_SOCKET", default_value = wire::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// This node's name; NODE_NAME or the host's name when absent
    #[arg(long, env = "DRAGLINE_NODE_NAME")]
    node_name: Option<String>,
    /// Read pools, coordinator and networks from this folder's *.yaml, *.yml and *.json instead of from a cluster
    #[arg(long, env = "DRAGLINE_MANIFESTS", conflicts_with = "kubeconfig")]
    manifests: Option<PathBuf>,
    /// Reach the cluster's API server by this file; without it and without --manifests, as a pod of the cluster
    #[arg(long, env = "DRAGLINE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the agent's own objects in the cluster
    #[arg(long, env = "DRAGLINE_NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// How long, in seconds, a node that is not heard of keeps its free addresses; the same for all nodes of a cluster
    #[arg(long, env = "DRAGLINE_LEASE_TTL", value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(3..=604_800))]
    lease_ttl: u32,
    /// Where the runtime keeps the network namespaces of pods: addresses found there are never given to anybody else
    #[arg(long, env = "DRAGLINE_NETNS_DIR", value_delimiter = ':', default_values = NAMESPACES)]
    netns_dir: Vec<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, env = "DRAGLINE_HTTP", default_value = "127.0.0.1:9810")]
    http: SocketAddr,
    /// How log lines look
    #[arg(long, env = "DRAGLINE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as dragline=debug
    #[arg(long, env = "DRAGLINE_LOG", default_value = "info")]
    log: String,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    start_log(&arguments)?;
    let source = match arguments.manifests {
        Some(directory) => Source::Manifests(directory),
        None => Source::Cluster(cluster::Config {
            kubeconfig: arguments.kubeconfig,
            namespace: arguments.namespace,
            lease_ttl: Duration::from_secs(arguments.lease_ttl.into()),
        }),
    };
    let node_name = node_name(arguments.node_name)?;
    let config = Config {
        state_dir: arguments.state_dir,
        socket: arguments.socket,
        node_name,
        source,
        netns_dirs: arguments.netns_dir,
        http: arguments.http,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("threads cannot be started: {error}")))?;
    runtime.block_on(agent::run(config)).map_err(|error| Failure::Failed(error.to_string()))
}

fn start_log(arguments: &Arguments) -> Result<(), Failure> {
    // sled tells every page that it writes: only who asks for it gets that.
    let filter = tracing_subscriber::EnvFilter::try_new(format!("sled=warn,{}", arguments.log))
        .map_err(|error| Failure::Usage(format!("--log {:?}: {error}", arguments.log)))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
