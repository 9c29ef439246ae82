//! Why a cluster is not there, or does not do as it is told.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why the cluster does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no program to start.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A process, a file or a socket.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A server ended by itself.
    #[error("{program} ended ({status}); its log ends:\n{log}")]
    Ended {
        /// Which.
        program: String,
        /// How.
        status: ExitStatus,
        /// The log's last lines.
        log: String,
    },
    /// A server does not come up.
    #[error("{program} was not ready within {within:?} ({found}); its log ends:\n{log}")]
    NotReady {
        /// Which.
        program: String,
        /// How long it was waited for.
        within: Duration,
        /// What it said last.
        found: String,
        /// The log's last lines.
        log: String,
    },
    /// kubectl failed.
    #[error("kubectl {command} failed ({status}): {stderr}")]
    Command {
        /// Its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// kubectl printed something else than JSON.
    #[error("kubectl {command} printed no JSON: {source}")]
    Json {
        /// Its arguments.
        command: String,
        /// Where it is none.
        source: serde_json::Error,
    },
    /// The cluster is the one of `KUBECONFIG`, whose processes are not ours.
    #[error("{what} needs a server of its own, and KUBECONFIG names a cluster that others run")]
    NotOurs {
        /// What was to be done.
        what: &'static str,
    },
}

impl ClusterError {
    pub(super) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }
}

/// Why there is no API server to start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Missing {
    /// The folder that was named lacks a program.
    #[error("KUBEBUILDER_ASSETS={folder} has no {program}: it is to hold etcd, kube-apiserver and kubectl")]
    Asset {
        /// The folder.
        folder: PathBuf,
        /// What is not in it.
        program: &'static str,
    },
    /// Nothing was built.
    #[error("there is no API server: run cargo verify (it builds kube-apiserver), or set KUBEBUILDER_ASSETS")]
    NotBuilt,
    /// What was built is of an earlier version of `tests/kubernetes`.
    #[error("the API server was built of other sources: run cargo verify (it builds kube-apiserver)")]
    Outdated,
    /// The sources or the target folder cannot be told.
    #[error("whether there is an API server cannot be told: {0}")]
    Unknown(String),
}
