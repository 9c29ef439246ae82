//! The command line.

mod adopt;
mod agent;
mod allocator;
mod ask;
mod check;
mod client;
mod completions;
mod controller;
mod crds;
mod dump;
mod explain;
mod explain_pools;
mod get;
mod log;
mod plan;
mod restore;
mod status;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use schemas::wire::{self, Difference};

/// The network agent for pods on the physical network.
#[derive(Debug, Parser)]
#[command(name = "dragline", version, about, disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// Where a running agent is asked.
#[derive(Debug, Clone, clap::Args)]
struct Ask {
    /// The agent's socket.
    #[arg(long, env = "DRAGLINE_SOCKET", default_value = wire::DEFAULT_SOCKET)]
    socket: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node agent
    Agent(agent::Arguments),
    /// Run the controller: what is decided once for a cluster, by the one of several that leads
    Controller(Box<controller::Arguments>),
    /// Show pools, endpoints, attachments, leases, the coordinator or the journal
    Get(get::Arguments),
    /// Show what is wanted for a pod and what would be changed now, as `ip` commands
    Plan(plan::Arguments),
    /// Say where a packet of a pod goes and why: rules, table, route, source, next hop and the way back, each with its reason
    Explain(explain::Arguments),
    /// Say of which pools a pod's interfaces get addresses and why: the rule, and for each pool whether it fits
    ExplainPools(explain_pools::Arguments),
    /// Compare desired and kernel state: exit 0 when none differs, 1 with the differences listed
    Check(check::Arguments),
    /// Write the store as text to standard output, of the running agent or offline
    Dump(dump::Arguments),
    /// Put a dump from standard input in the store's place; the agent must be stopped
    Restore(restore::Arguments),
    /// Take over the pods of a node that runs Spiderpool, without their noticing: addresses only, exit 1 when some are left
    ///
    /// With Spiderpool stopped and dragline's definitions applied, `dragline adopt --cluster` comes first, once: it keeps
    /// every address in use, so that no agent gives it to another pod. Then, on each node, `dragline adopt`, and the agent
    /// is started. Nothing in the kernel is changed: the routing of pods that are there stays as Spiderpool's coordinator
    /// has left it, for as long as they live.
    Adopt(adopt::Arguments),
    /// Show whether the agent is ready, or why not
    Status(status::Arguments),
    /// Print the custom resource definitions as YAML
    Crds,
    /// Print a shell's completion script
    Completions(completions::Arguments),
}

/// How a command failed: 1 the thing asked about does not hold or failed, 2 usage.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It does not hold; what there is to say has been said.
    #[error("")]
    DoesNotHold,
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// It was asked wrongly.
    #[error("{0}")]
    Usage(String),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let is_asked = !error.use_stderr();
            // Printing help or a usage error into a closed pipe is nobody's loss.
            let _ = error.print();
            return ExitCode::from(if is_asked { 0 } else { 2 });
        }
    };
    let result = match line.command {
        Command::Agent(arguments) => agent::run(arguments),
        Command::Controller(arguments) => controller::run(*arguments),
        Command::Get(arguments) => get::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::ExplainPools(arguments) => explain_pools::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Dump(arguments) => dump::run(&arguments),
        Command::Restore(arguments) => restore::run(arguments),
        Command::Adopt(arguments) => adopt::run(arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Crds => crds::run(),
        Command::Completions(arguments) => {
            completions::run(&arguments, &mut <CommandLine as clap::CommandFactory>::command())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::DoesNotHold) => ExitCode::from(1),
        Err(Failure::Failed(text)) => fail(&text, 1),
        Err(Failure::Usage(text)) => fail(&text, 2),
    }
}

/// Where the store is below the state directory.
fn store_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("store")
}

/// The name that was given, NODE_NAME, or the host's.
fn node_name(given: Option<String>) -> Result<String, Failure> {
    match given.or_else(|| std::env::var("NODE_NAME").ok()).filter(|name| !name.is_empty()) {
        Some(name) => Ok(name),
        None => Ok(nix::unistd::gethostname()
            .map_err(|error| Failure::Failed(format!("the host has no name ({error}): give --node-name")))?
            .to_string_lossy()
            .into_owned()),
    }
}

/// What does not hold in a store: contradictions between its records, and records that cannot be read.
pub(crate) fn store_differences(snapshot: &store::Snapshot) -> Vec<Difference> {
    let unreadable = snapshot.unreadable.iter().map(|record| Difference {
        place: "store".to_owned(),
        step: format!("{} in {} cannot be used: {}", record.key, record.tree, record.reason),
    });
    let violations = store::check::check(snapshot).into_iter();
    let violations = violations.map(|violation| Difference { place: "store".to_owned(), step: violation.to_string() });
    unreadable.chain(violations).collect()
}

fn fail(text: &str, code: u8) -> ExitCode {
    let line = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    eprintln!("dragline: {line}");
    ExitCode::from(code)
}
