//! The CNI plugins of dragline: one small program under several names, which asks the agent and keeps nothing.
//!
//! A call is decided first ([`order::decide`]: bytes and environment in, an order or an error out, no I/O) and then
//! performed ([`perform::perform`]: the agent's socket, another IPAM plugin's process, the spool).

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use schemas::cni::error::CniError;
use schemas::cni::version::CniVersion;
use serde_json::{Value, json};

use crate::delegate::Delegate;
use crate::environment::Environment;
use crate::plugin::Plugin;

mod add;
pub mod agent;
pub mod command_line;
pub mod delegate;
pub mod environment;
pub mod install;
pub mod netconf;
pub mod order;
pub mod panicking;
pub mod perform;
pub mod plugin;
pub mod spool;

/// What a plugin leaves behind for its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// For standard output: a result, an error, or nothing.
    pub stdout: String,
    /// Whether the call succeeded.
    pub success: bool,
}

/// The program: a plugin when called by a plugin's name, otherwise the command line.
pub fn start(called_as: &OsStr, arguments: &[OsString]) -> ExitCode {
    let environment = Environment::of_process();
    if !environment.is_cni_call() && (!arguments.is_empty() || Plugin::named(called_as).is_none()) {
        return command_line::run(arguments);
    }
    let reply = run(Plugin::named(called_as), &environment, standard_input());
    let printed = io::stdout().write_all(reply.stdout.as_bytes()).and_then(|()| io::stdout().flush());
    if reply.success && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One CNI call; `plugin` is None when the program is called by a name that is no plugin's.
pub fn run(plugin: Option<Plugin>, environment: &Environment, input: Box<dyn Read>) -> Reply {
    let stdin = netconf::read(input);
    let outcome = order::decide(plugin, environment, stdin.as_deref().map_err(Clone::clone)).and_then(|order| {
        let delegate = Delegate { path: environment.plugin_path(), stdin: stdin.as_deref().unwrap_or_default() };
        perform::perform(order, &delegate, &environment.spool())
    });
    match outcome {
        Ok(Some(value)) => Reply { stdout: format!("{value}\n"), success: true },
        Ok(None) => Reply { stdout: String::new(), success: true },
        Err(error) => {
            let version = netconf::version_spoken(stdin.as_deref().unwrap_or_default());
            Reply { stdout: format!("{}\n", error_json(&error, version)), success: false }
        }
    }
}

/// An error as the specification wants it printed (1.1.0, section 5, "Error").
pub fn error_json(error: &CniError, version: CniVersion) -> Value {
    let mut object = json!({ "cniVersion": version, "code": error.code, "msg": error.msg });
    if !error.details.is_empty() {
        object["details"] = json!(error.details);
    }
    object
}

/// A terminal never ends by itself; who types a CNI call means no configuration.
fn standard_input() -> Box<dyn Read> {
    if io::stdin().is_terminal() { Box::new(io::empty()) } else { Box::new(io::stdin()) }
}
