//! `dragline check`.

use std::path::{Path, PathBuf};

use schemas::wire::{Answer, Call, Difference};

use super::ask::{Output, print, print_json, query, unexpected};
use super::{Ask, Failure, client, store_differences, store_dir};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The pod, its container ID, or namespace/pod; all and the node when absent
    pod: Option<String>,
    /// The pod's namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Check the store instead: its records against each other, of the running agent or, with --state-dir, offline
    #[arg(long, conflicts_with_all = ["pod", "namespace"])]
    store: bool,
    /// With --store: the folder of a store that no agent has open
    #[arg(long, requires = "store")]
    state_dir: Option<PathBuf>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let differences = match &arguments.state_dir {
        Some(state_dir) => offline(state_dir)?,
        None => asked(arguments)?,
    };
    if arguments.output == Output::Json {
        print_json(&differences)?;
    } else {
        for difference in &differences {
            print(&format!("{}: {}", difference.place, difference.step))?;
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(Failure::DoesNotHold) }
}

fn asked(arguments: &Arguments) -> Result<Vec<Difference>, Failure> {
    let query = query(arguments.pod.as_deref(), arguments.namespace.as_deref());
    let call = if arguments.store { Call::CheckStore } else { Call::Check(query) };
    match client::ask(&arguments.ask.socket, call)? {
        Answer::Differences(differences) => Ok(differences),
        other => Err(unexpected(&other)),
    }
}

fn offline(state_dir: &Path) -> Result<Vec<Difference>, Failure> {
    let (snapshot, recovery) =
        store::load_offline(&store_dir(state_dir)).map_err(|error| Failure::Failed(format!("check: {error}")))?;
    recovery.sentences().iter().for_each(|sentence| eprintln!("dragline: check: {sentence}"));
    Ok(store_differences(&snapshot))
}
