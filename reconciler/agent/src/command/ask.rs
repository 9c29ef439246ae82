//! What the asking commands have in common: output forms and pod names.

use schemas::wire::{Answer, PodQuery};
use serde::Serialize;

use super::Failure;

/// Text for people, JSON for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Prints as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
    print(&text)
}

/// Prints a text; a reader that has gone is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Failed(error.to_string())),
        _ => Ok(()),
    }
}

/// The pod that is asked about; `namespace/name` is understood too.
pub(super) fn query(pod: Option<&str>, namespace: Option<&str>) -> PodQuery {
    match pod.and_then(|pod| pod.split_once('/')) {
        Some((namespace, pod)) => PodQuery { namespace: Some(namespace.into()), pod: Some(pod.into()) },
        None => PodQuery { namespace: namespace.map(Into::into), pod: pod.map(Into::into) },
    }
}

/// An answer of another kind than was asked for.
pub(super) fn unexpected(answer: &Answer) -> Failure {
    let kind = format!("{answer:?}");
    let kind = kind.split(['(', ' ']).next().unwrap_or_default().to_owned();
    Failure::Failed(format!(
        "the agent answered {kind}, which was not asked: install agent and command line from one release"
    ))
}
