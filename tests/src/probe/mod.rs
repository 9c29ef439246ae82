//! Who answers, by which interface, and as whom: asked from a socket inside one namespace of a socket inside another,
//! and seen on the wire in between.
//!
//! Every question carries a token that no other packet has. A [`Tap`] in a namespace sees on which of its interfaces
//! packets with that token leave and arrive, and with which addresses; the [`Responder`] says whom it takes the asker
//! for. Nothing here trusts a route lookup.

mod question;
mod responder;
mod tap;

use std::net::{IpAddr, SocketAddr};

use netlink::testbed::{Netns, TestbedError};

pub use question::{Protocol, ask};
pub use responder::Responder;
pub use tap::{Direction, Frame, Tap};

/// Why there is no answer to a question.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] TestbedError),
    /// A socket.
    #[error("{what}: {source}")]
    Socket {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Something else answered.
    #[error("{0}")]
    Answer(String),
}

impl ProbeError {
    fn socket(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Socket { what: what.into(), source: source.into() }
    }
}

/// What was seen of one question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The interfaces by which the question left the asker.
    pub left_by: Vec<String>,
    /// The interfaces by which the answer left the one asked.
    pub reply_by: Vec<String>,
    /// The source with which the question arrived, on the wire.
    pub source: IpAddr,
    /// Whether the router forwarded it.
    pub via_router: bool,
}

/// Asks, and sees how the question goes and how the answer comes.
///
/// # Errors
/// When there is no answer, or the wire and the one asked disagree about who asked.
pub fn passage(
    asker: &Netns,
    asked: &Netns,
    router: &Netns,
    protocol: Protocol,
    to: impl Into<SocketAddr>,
) -> Result<Passage, ProbeError> {
    passage_from(asker, None, asked, router, protocol, to.into())
}

/// The same from an address of the asker's own.
///
/// # Errors
/// As [`passage`].
pub fn passage_from(
    asker: &Netns,
    own: Option<IpAddr>,
    asked: &Netns,
    router: &Netns,
    protocol: Protocol,
    to: SocketAddr,
) -> Result<Passage, ProbeError> {
    let token = token();
    let (near, far, between) = (Tap::open(asker)?, Tap::open(asked)?, Tap::open(router)?);
    let told = question::ask_from(asker, own, protocol, to, &token)?;
    let (near, far, between) = (near.frames(&token)?, far.frames(&token)?, between.frames(&token)?);
    let arrived = far.iter().find(|frame| frame.direction == Direction::In);
    let arrived = arrived.ok_or_else(|| ProbeError::Answer(format!("{to} answered, but nothing arrived there")))?;
    if told.is_some_and(|told| told != arrived.source) {
        return Err(ProbeError::Answer(format!("{to} was asked by {told:?}, the wire says {}", arrived.source)));
    }
    let left = |frames: &[Frame], target: IpAddr| -> Vec<String> {
        let mut links: Vec<String> = frames
            .iter()
            .filter(|frame| frame.direction == Direction::Out && frame.destination == target)
            .map(|frame| frame.interface.clone())
            .collect();
        links.sort();
        links.dedup();
        links
    };
    Ok(Passage {
        left_by: left(&near, to.ip()),
        reply_by: left(&far, arrived.source),
        source: arrived.source,
        via_router: between.iter().any(|frame| frame.direction == Direction::Out),
    })
}

/// A text that no other packet of this world has.
fn token() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("dragline-probe-{}-{:08}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
