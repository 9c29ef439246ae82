//! Asking the agent.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use schemas::wire::{self, Answer, Call, Request};

use super::Failure;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn unreachable(socket: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(format!(
        "no agent answers at {}: {error}; start `dragline agent`, or name its socket with --socket",
        socket.display()
    ))
}

/// Asks, and leaves the answers to be read.
///
/// # Errors
/// When no agent listens at the socket.
pub(super) fn connect(socket: &Path, call: Call) -> Result<UnixStream, Failure> {
    let unreachable = |error: &dyn std::fmt::Display| unreachable(socket, error);
    let mut stream = UnixStream::connect(socket).map_err(|error| unreachable(&error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| unreachable(&error))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|error| unreachable(&error))?;
    let deadline_ms = u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX);
    let request = Request { protocol: wire::PROTOCOL, deadline_ms, call };
    wire::write_frame(&mut stream, &request).map_err(|error| unreachable(&error))?;
    Ok(stream)
}

/// Asks once.
///
/// # Errors
/// When no agent answers at the socket, or it answers with an error.
pub(super) fn ask(socket: &Path, call: Call) -> Result<Answer, Failure> {
    let mut stream = connect(socket, call)?;
    match wire::read_frame(&mut stream).map_err(|error| unreachable(socket, &error))? {
        Answer::Error(error) => Err(Failure::Failed(error.to_string())),
        answer => Ok(answer),
    }
}
