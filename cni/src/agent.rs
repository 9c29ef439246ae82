//! The agent's socket: one question, one answer, within a deadline.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use schemas::cni::error::CniError;
use schemas::wire::{Answer, Call, FrameError, PROTOCOL, Request, encode_frame, read_frame};
use socket2::{Domain, SockAddr, Socket, Type};

/// What the agent may answer too late by: it gives up at the deadline itself, and its answer says more than ours.
const SLACK: Duration = Duration::from_millis(500);

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Where it listens.
    pub socket: PathBuf,
    /// How long it has.
    pub deadline: Duration,
}

/// Why there is no answer to go on with.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody listens.
    #[error("the agent cannot be reached at {}: {source}; see that `dragline agent` runs and listens there", socket.display())]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It listens, and is silent.
    #[error(
        "the agent at {} did not answer within {} ms; try again, and see its log if that does not help",
        socket.display(), deadline.as_millis()
    )]
    Late {
        /// Where.
        socket: PathBuf,
        /// How long it had.
        deadline: Duration,
    },
    /// It went away in the middle.
    #[error("the agent at {} went away before it answered: {source}; try again, and see its log", socket.display())]
    Lost {
        /// Where.
        socket: PathBuf,
        /// How.
        source: FrameError,
    },
    /// What it says is no answer to this.
    #[error("the agent at {} gave no answer to the question: {what}; install plugins and agent of one version", socket.display())]
    Garbled {
        /// Where.
        socket: PathBuf,
        /// What it said.
        what: String,
    },
    /// The question cannot be sent.
    #[error("the question cannot be put to the agent: {0}")]
    Unsayable(FrameError),
    /// It answered with an error.
    #[error("{0}")]
    Refused(CniError),
}

impl AgentError {
    /// As a CNI error: what passes is to be tried again, what the agent says is passed on.
    pub fn into_cni(self) -> CniError {
        match self {
            Self::Refused(error) => error,
            Self::Unreachable { .. } | Self::Late { .. } | Self::Lost { .. } => {
                CniError::new(CniError::TRY_AGAIN, self.to_string())
            }
            Self::Garbled { .. } | Self::Unsayable(_) => CniError::new(CniError::FAILED, self.to_string()),
        }
    }
}

impl Agent {
    /// Asks; an answer [`Answer::Error`] is an error.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub fn ask(&self, call: Call) -> Result<Answer, AgentError> {
        let deadline_ms = u32::try_from(self.deadline.as_millis()).unwrap_or(u32::MAX);
        let request =
            encode_frame(&Request { protocol: PROTOCOL, deadline_ms, call }).map_err(AgentError::Unsayable)?;
        let until = Instant::now() + self.deadline.saturating_add(SLACK);
        let stream = connect(&self.socket, until)
            .map_err(|source| if is_late(&source) { self.late() } else { self.unreachable(source) })?;
        let mut timed = Timed { stream, until };
        timed.write_all(&request).map_err(|error| self.broken(error.into()))?;
        match read_frame(&mut timed).map_err(|error| self.broken(error))? {
            Answer::Error(error) => Err(AgentError::Refused(error)),
            answer => Ok(answer),
        }
    }

    /// The error for an answer of another kind than the question's.
    pub fn answered_otherwise(&self, answer: &Answer) -> AgentError {
        let kind = match answer {
            Answer::Done => "done",
            Answer::Result(_) => "result",
            Answer::Differences(_) => "differences",
            Answer::Objects(_) => "objects",
            Answer::Plans(_) => "plans",
            Answer::Explained(_) => "explanation",
            Answer::Status(_) => "status",
            Answer::Dump(_) => "dump",
            Answer::Error(_) => "error",
        };
        AgentError::Garbled { socket: self.socket.clone(), what: format!("an answer of kind {kind}") }
    }

    fn late(&self) -> AgentError {
        AgentError::Late { socket: self.socket.clone(), deadline: self.deadline }
    }

    fn unreachable(&self, source: io::Error) -> AgentError {
        AgentError::Unreachable { socket: self.socket.clone(), source }
    }

    fn broken(&self, error: FrameError) -> AgentError {
        match error {
            FrameError::Io(error) if is_late(&error) => self.late(),
            source @ FrameError::Io(_) => AgentError::Lost { socket: self.socket.clone(), source },
            FrameError::TooLong(_) | FrameError::Json(_) => {
                AgentError::Garbled { socket: self.socket.clone(), what: error.to_string() }
            }
        }
    }
}

/// Connects. A stopped agent's queue of connections is full after a while: the send timeout bounds `connect` too
/// (unix(7) has it wait like a blocking send), which the standard library cannot set beforehand.
fn connect(socket: &Path, until: Instant) -> io::Result<UnixStream> {
    let connecting = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let left = until.saturating_duration_since(Instant::now());
    // A timeout of nothing would be none at all.
    connecting.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
    connecting.connect(&SockAddr::unix(socket)?)?;
    Ok(UnixStream::from(OwnedFd::from(connecting)))
}

/// A socket's own timeouts count from each read on: drop by drop, an answer could take for ever.
struct Timed {
    stream: UnixStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A socket's timeout is reported as `WouldBlock`.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}
