//! `dragline dump` of a running agent: the store as it is at one instant, streamed while commits go on.

use std::io::{self, Write};
use std::os::unix::net::UnixStream as BlockingStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schemas::cni::error::CniError;
use schemas::wire::{self, Answer};
use tokio::net::UnixStream;

use crate::agent::Agent;

/// How many bytes of a dump go out at once: far below the largest message, even when every byte is escaped as JSON.
const STRETCH: usize = 128 << 10;
/// In which a stretch must have been taken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers with a dump.
pub async fn answer(agent: &Arc<Agent>, stream: UnixStream) {
    let agent = Arc::clone(agent);
    // A thread of its own: reading the store and writing to a slow reader both block.
    let answered = tokio::task::spawn_blocking(move || blocking(&agent, stream)).await;
    match answered {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a dump was not taken to its end"),
        Err(error) => tracing::error!(%error, "a dump ended badly"),
    }
}

fn blocking(agent: &Agent, stream: UnixStream) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut stretches = Stretches { stream, text: Vec::new() };
    let dumped = agent.ledger.store().dump(SystemTime::now(), &mut stretches);
    let last = match dumped {
        Ok(_) => Answer::Done,
        Err(error) => Answer::Error(CniError::new(CniError::FAILED, error.to_string())),
    };
    send(&mut stretches.stream, &last)
}

fn send(stream: &mut BlockingStream, answer: &Answer) -> io::Result<()> {
    wire::write_frame(stream, answer).map_err(io::Error::other)
}

/// Text on its way out, in messages.
struct Stretches {
    stream: BlockingStream,
    text: Vec<u8>,
}

impl Write for Stretches {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A dump writes whole lines, so no character is ever cut.
        self.text.extend_from_slice(bytes);
        if self.text.len() >= STRETCH {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let text = String::from_utf8(std::mem::take(&mut self.text)).map_err(io::Error::other)?;
        send(&mut self.stream, &Answer::Dump(text))
    }
}
