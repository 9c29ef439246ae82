//! `dragline adopt`.

use std::path::PathBuf;
use std::time::Duration;

use schemas::wire;
use serde_json::json;

use super::table::{self, Column};
use super::{Failure, node_name, store_dir};
use crate::adopt::{self, Config, Row};
use crate::estranged::NAMESPACES;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep all addresses in use for their nodes, once for the cluster: before any agent or controller of dragline starts
    #[arg(long)]
    cluster: bool,
    /// Show what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Reach the cluster's API server by this file; without it, as a pod of the cluster
    #[arg(long, env = "DRAGLINE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the agents' own objects in the cluster
    #[arg(long, env = "DRAGLINE_NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// This node's name; NODE_NAME or the host's name when absent
    #[arg(long, env = "DRAGLINE_NODE_NAME")]
    node_name: Option<String>,
    /// The folder with the store; no agent may have it open
    #[arg(long, env = "DRAGLINE_STATE_DIR", default_value = wire::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Where the runtime keeps the network namespaces of pods
    #[arg(long, env = "DRAGLINE_NETNS_DIR", value_delimiter = ':', default_values = NAMESPACES)]
    netns_dir: Vec<PathBuf>,
    /// Where the runtime's CNI library remembers what it has made: container IDs are found there
    #[arg(long, env = "DRAGLINE_CNI_CACHE_DIR", default_value = adopt::DEFAULT_DIR)]
    cni_cache_dir: PathBuf,
    /// As the agents' --lease-ttl
    #[arg(long, env = "DRAGLINE_LEASE_TTL", value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(3..=604_800))]
    lease_ttl: u32,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = Config {
        kubeconfig: arguments.kubeconfig,
        namespace: arguments.namespace,
        node_name: node_name(arguments.node_name)?,
        store_dir: store_dir(&arguments.state_dir),
        netns_dirs: arguments.netns_dir,
        cni_cache_dir: arguments.cni_cache_dir,
        lease_ttl: Duration::from_secs(arguments.lease_ttl.into()),
        is_dry: arguments.dry_run,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("adopt: the runtime cannot be started: {error}")))?;
    let done = if arguments.cluster {
        runtime.block_on(adopt::keep_in_cluster(&config))
    } else {
        runtime.block_on(adopt::take_over_node(&config))
    };
    let report = done.map_err(|error| Failure::Failed(format!("adopt: {error}")))?;
    report.faults.iter().for_each(|fault| eprintln!("dragline: adopt: {fault}"));
    let rows: Vec<_> = report.rows.iter().map(object).collect();
    let columns = [
        Column::path("STATE", "/state"),
        Column::path("POD", "/pod"),
        Column::path("INTERFACE", "/interface"),
        Column::path("ADDRESSES", "/addresses"),
        Column::path("POOLS", "/pools"),
        Column::path("CONTAINER", "/container"),
        Column::path("NOTE", "/note"),
    ];
    println!("{}", table::text(&columns, &rows));
    if config.is_dry {
        eprintln!("dragline: adopt: --dry-run: nothing was written");
    }
    if report.has_left() { Err(Failure::DoesNotHold) } else { Ok(()) }
}

fn object(row: &Row) -> serde_json::Value {
    json!({
        "state": row.state.as_str(),
        "pod": row.pod,
        "interface": row.ifname,
        "addresses": row.addresses,
        "pools": row.pools,
        "container": row.container.get(..13).unwrap_or(&row.container),
        "note": row.note,
    })
}
