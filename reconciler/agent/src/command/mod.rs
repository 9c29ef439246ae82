//! The command line.

mod agent;
mod ask;
mod check;
mod client;
mod completions;
mod crds;
mod get;
mod plan;
mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use schemas::wire;

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
    /// Show pools, endpoints, attachments, leases or the coordinator
    Get(get::Arguments),
    /// Show what is wanted for a pod and what would be changed now, as `ip` commands
    Plan(plan::Arguments),
    /// Compare desired and kernel state: exit 0 when none differs, 1 with the differences listed
    Check(check::Arguments),
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
        Command::Get(arguments) => get::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
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

fn fail(text: &str, code: u8) -> ExitCode {
    let line = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    eprintln!("dragline: {line}");
    ExitCode::from(code)
}
