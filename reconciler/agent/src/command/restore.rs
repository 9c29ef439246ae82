//! `dragline restore`.

use std::io::{BufReader, IsTerminal};
use std::path::PathBuf;

use schemas::wire;
use store::restore::{RestoreOptions, restore};

use super::{Failure, node_name, store_dir};
use crate::merge;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The folder whose store is replaced; no agent may have it open
    #[arg(long, env = "DRAGLINE_STATE_DIR", default_value = wire::DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// This node's name; NODE_NAME or the host's name when absent
    #[arg(long, env = "DRAGLINE_NODE_NAME")]
    node_name: Option<String>,
    /// Take another node's dump, a damaged store's, or one that contradicts itself
    #[arg(long)]
    force: bool,
    /// The dump was edited on purpose: do not compare its checksum
    #[arg(long)]
    recompute_checksum: bool,
    /// Keep what the store has and add what of the dump still lives: namespaces, leases and records of the store count more
    #[arg(long)]
    merge: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::Usage("restore: give the dump on standard input: dragline restore < FILE".into()));
    }
    let options = RestoreOptions {
        node: node_name(arguments.node_name)?,
        force: arguments.force,
        recompute_checksum: arguments.recompute_checksum,
    };
    let dir = store_dir(&arguments.state_dir);
    let input = BufReader::with_capacity(1 << 20, std::io::stdin().lock());
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("restore: {error}"));
    if arguments.merge {
        let merged = merge::restore(&dir, input, &options).map_err(|error| failed(&error))?;
        merged.sentences.iter().for_each(|sentence| eprintln!("dragline: restore: {sentence}"));
        eprintln!("dragline: restore: {} sandboxes added to {}", merged.added, dir.display());
        return Ok(());
    }
    let progress = |lines| eprintln!("dragline: restore: {lines} lines read");
    let restored = restore(&dir, input, &options, progress).map_err(|error| failed(&error))?;
    for violation in &restored.violations {
        eprintln!("dragline: restore: taken by force: {violation}");
    }
    let (header, counts) = (restored.header, restored.counts);
    eprintln!(
        "dragline: restore: {} is the dump of node {} of {}: {} sandboxes, {} attachments, {} allocations",
        dir.display(),
        header.node,
        header.time,
        counts.sandboxes,
        counts.attachments,
        counts.allocations
    );
    Ok(())
}
