//! `dragline-cni` called by a person: install, --version, --help.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::install::{Foreign, Installed, install};

const HELP: &str = "\
dragline-cni - the CNI plugins of dragline, one program under the names spiderpool, coordinator,
               macvlan, ipvlan and ifacer

  dragline-cni install DIR [--force]   put the plugins into DIR, never over another program's file without --force
  dragline-cni --version
  dragline-cni --help

Under a plugin's name it is called by a container runtime, by the CNI specification (CNI_COMMAND and so on).
  DRAGLINE_SOCKET       where the agent listens (/run/dragline/agent.sock); `agentSocket` of the configuration beats it
  DRAGLINE_STATE_DIR    the agent's state directory (/var/lib/dragline), for withdrawals while the agent is away
  DRAGLINE_DEADLINE_MS  how long the agent has for an answer (20000; DEL 5000)
";
const USAGE: u8 = 2;

/// Runs the command line; 0 done, 1 failed or not wholly done, 2 usage.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let texts: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap_or_default()).collect();
    match texts.as_slice() {
        ["--help" | "-h" | "help"] => print(HELP),
        ["--version" | "-V"] => print(concat!("dragline-cni ", env!("CARGO_PKG_VERSION"), "\n")),
        ["install", "--force", folder] | ["install", folder, "--force"] if is_folder(folder) => {
            report(Path::new(folder), Foreign::Replace)
        }
        ["install", folder] if is_folder(folder) => report(Path::new(folder), Foreign::Keep),
        ["install", ..] => usage("install takes one directory and, where files of others may be replaced, --force"),
        [] => usage("nothing to do; a container runtime would have set CNI_COMMAND"),
        [first, ..] => usage(&format!("{first:?} is not understood")),
    }
}

/// An argument that is not UTF-8 is empty here, and not a folder to guess at.
fn is_folder(argument: &str) -> bool {
    !argument.is_empty() && !argument.starts_with('-')
}

fn report(folder: &Path, foreign: Foreign) -> ExitCode {
    let outcomes = match install(folder, foreign) {
        Ok(outcomes) => outcomes,
        Err(error) => {
            eprintln!("dragline-cni: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut lines = String::new();
    let mut kept = false;
    for (path, outcome) in outcomes {
        let what = match outcome {
            Installed::New => "installed",
            Installed::Replaced => "upgraded",
            Installed::Forced => "installed over another program's file",
            Installed::Kept => {
                kept = true;
                let path = path.display();
                eprintln!("dragline-cni: {path} is another program's and was left as it is; --force replaces it");
                continue;
            }
        };
        lines.push_str(&format!("{}: {what}\n", path.display()));
    }
    let printed = print(&lines);
    if kept { ExitCode::FAILURE } else { printed }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn usage(text: &str) -> ExitCode {
    eprintln!("dragline-cni: {text}; see `dragline-cni --help`");
    ExitCode::from(USAGE)
}
