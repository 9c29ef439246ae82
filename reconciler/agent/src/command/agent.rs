//! `dragline agent`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemas::wire;

use super::{Failure, log, node_name};
use crate::agent::{self, Config, Source};
use crate::cluster;
use crate::detection::{Switches, When};
use crate::estranged::NAMESPACES;
use crate::selection::Site;

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
    /// Probe whether others use an address before a pod gets it: the next one is taken then; without it, as ConfigMap spiderpool-conf says
    #[arg(long, env = "DRAGLINE_DETECT_IP_CONFLICT", value_name = "WHEN", value_enum)]
    detect_ip_conflict: Option<When>,
    /// Probe whether a pod's gateways answer; without it, as ConfigMap spiderpool-conf says
    #[arg(long, env = "DRAGLINE_DETECT_GATEWAY", value_name = "WHEN", value_enum)]
    detect_gateway: Option<When>,
    /// Where the API of Spiderpool's agent is answered too, empty for nowhere; without it, as ConfigMap spiderpool-conf says
    #[arg(long, env = "DRAGLINE_SPIDERPOOL_SOCKET", value_name = "PATH")]
    spiderpool_socket: Option<PathBuf>,
    /// Where a pod does not choose one, the network of its eth0 as Multus is set up, for pools with multusName;
    /// MULTUS_CLUSTER_NETWORK when absent
    #[arg(long, env = "DRAGLINE_CLUSTER_NETWORK", value_name = "NAMESPACE/NAME")]
    cluster_network: Option<String>,
    #[command(flatten)]
    log: log::Logging,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    super::allocator::settle();
    arguments.log.start()?;
    let cluster_network = arguments.cluster_network.or_else(|| std::env::var("MULTUS_CLUSTER_NETWORK").ok());
    let site = Site {
        namespace: arguments.namespace.clone(),
        cluster_network: cluster_network.filter(|network| !network.is_empty()),
    };
    let source = match arguments.manifests {
        Some(directory) => Source::Manifests(directory),
        // What a pod of a cluster has in its environment.
        None if arguments.kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() => {
            return Err(Failure::Usage(
                "agent: this is no pod of a cluster: give --kubeconfig FILE, or --manifests DIR for a node without one"
                    .into(),
            ));
        }
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
        detection: Switches { conflict: arguments.detect_ip_conflict, gateway: arguments.detect_gateway },
        spiderpool_socket: arguments.spiderpool_socket,
        site,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("threads cannot be started: {error}")))?;
    runtime.block_on(agent::run(config)).map_err(|error| Failure::Failed(error.to_string()))
}
