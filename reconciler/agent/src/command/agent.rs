//! `dragline agent`.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemas::wire;

use super::{Failure, node_name};
use crate::agent::{self, Config};
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
    /// Read pools, coordinator and networks from this folder's *.yaml, *.yml and *.json
    #[arg(long, env = "DRAGLINE_MANIFESTS")]
    manifests: Option<PathBuf>,
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
    let manifests = arguments.manifests.ok_or_else(|| {
        Failure::Usage("agent: --manifests DIR is needed: reading from a cluster is not part of this version".into())
    })?;
    let node_name = node_name(arguments.node_name)?;
    let config = Config {
        state_dir: arguments.state_dir,
        socket: arguments.socket,
        node_name,
        manifests,
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
