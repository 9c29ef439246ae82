//! The agent's own numbers, as Prometheus would fetch them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use netlink::testbed::{Netns, TestbedError};

use crate::agent::HTTP;

/// An agent that takes longer to answer does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The node's namespace.
    #[error(transparent)]
    Netns(#[from] TestbedError),
    /// Nobody answers.
    #[error("GET /metrics: {0}")]
    Fetch(#[from] io::Error),
    /// The answer lacks a number.
    #[error("/metrics has no {0}")]
    Missing(String),
}

/// All numbers at one time, by name.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    /// Fetches them from the agent of that node.
    pub fn fetch(node: &Netns) -> Result<Self, MetricsError> {
        Ok(Self::parse(&node.run(get)??))
    }

    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// Each sample by its whole name, labels included.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// One of them: `netlink_changes` is the sample `dragline_netlink_changes` or `dragline_netlink_changes_total`.
    pub fn of(&self, name: &str) -> Result<u64, MetricsError> {
        let found = [format!("dragline_{name}_total"), format!("dragline_{name}")];
        let value = found.iter().find_map(|name| self.0.get(name)).copied();
        value.ok_or_else(|| MetricsError::Missing(name.to_owned()))
    }
}

fn get() -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(HTTP), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_with_and_without_the_counters_suffix() {
        let metrics = Metrics::parse("# TYPE x counter\ndragline_calls_total 7\ndragline_sandboxes 2\n");
        assert_eq!(metrics.of("calls").unwrap(), 7);
        assert_eq!(metrics.of("sandboxes").unwrap(), 2);
        assert!(metrics.of("steps").is_err());
    }
}
