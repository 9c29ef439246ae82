//! `dragline dump`.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use schemas::wire::{self, Answer, Call};
use store::DumpError;
use store::dump::dump_offline;

use super::ask::unexpected;
use super::{Failure, client, store_dir};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Read the store below this folder, which no agent may have open; DRAGLINE_STATE_DIR when absent
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Ask the running agent at this socket; DRAGLINE_SOCKET when absent
    #[arg(long)]
    socket: Option<PathBuf>,
}

/// Where the dump comes from.
enum Source {
    Agent(PathBuf),
    Disk(PathBuf),
}

/// The one that is named on the command line, whatever the environment says; with both or neither, the agent if one
/// listens.
fn source(arguments: &Arguments) -> Source {
    let place = |named: &Option<PathBuf>, variable: &str, default: &str| {
        let named = named.clone().or_else(|| std::env::var_os(variable).map(PathBuf::from));
        named.unwrap_or_else(|| PathBuf::from(default))
    };
    let socket = place(&arguments.socket, "DRAGLINE_SOCKET", wire::DEFAULT_SOCKET);
    let state_dir = place(&arguments.state_dir, "DRAGLINE_STATE_DIR", wire::DEFAULT_STATE_DIR);
    match (&arguments.state_dir, &arguments.socket) {
        (Some(_), None) => Source::Disk(state_dir),
        (None, Some(_)) => Source::Agent(socket),
        _ if UnixStream::connect(&socket).is_ok() => Source::Agent(socket),
        _ => Source::Disk(state_dir),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let out = BufWriter::new(io::stdout().lock());
    match source(arguments) {
        Source::Agent(socket) => from_agent(&socket, out),
        Source::Disk(state_dir) => from_disk(&store_dir(&state_dir), out),
    }
}

fn from_disk(dir: &Path, out: impl Write) -> Result<(), Failure> {
    let dumped = dump_offline(dir, SystemTime::now(), out).map_err(|error| match error {
        DumpError::Write(error) if error.kind() == ErrorKind::BrokenPipe => Failure::DoesNotHold,
        error => Failure::Failed(format!("dump: {error}")),
    })?;
    for damage in &dumped.damaged {
        eprintln!("dragline: dump: not whole: {damage}");
    }
    if dumped.damaged.is_empty() { Ok(()) } else { Err(Failure::DoesNotHold) }
}

fn from_agent(socket: &Path, mut out: impl Write) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("dump: the dump is not whole: {error}"));
    let mut stream = client::connect(socket, Call::Dump)?;
    loop {
        match wire::read_frame(&mut stream).map_err(|error| failed(&error))? {
            Answer::Dump(text) => match out.write_all(text.as_bytes()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(Failure::DoesNotHold),
                written => written.map_err(|error| failed(&error))?,
            },
            Answer::Done => return out.flush().map_err(|error| failed(&error)),
            Answer::Error(error) => return Err(failed(&error)),
            other => return Err(unexpected(&other)),
        }
    }
}
