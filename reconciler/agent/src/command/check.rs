//! `dragline check`.

use schemas::wire::{Answer, Call};

use super::ask::{Output, print, print_json, query, unexpected};
use super::{Ask, Failure, client};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The pod, its container ID, or namespace/pod; all and the node when absent
    pod: Option<String>,
    /// The pod's namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let query = query(arguments.pod.as_deref(), arguments.namespace.as_deref());
    let differences = match client::ask(&arguments.ask.socket, Call::Check(query))? {
        Answer::Differences(differences) => differences,
        other => return Err(unexpected(&other)),
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
