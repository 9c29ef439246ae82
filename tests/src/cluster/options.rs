//! How the servers are started.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the API server listens, in the network namespace of the thread that starts it. etcd is on 127.0.0.1.
    pub address: Ipv4Addr,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Further arguments of kube-apiserver; the last of equal ones counts.
    pub api_server: Vec<String>,
    /// The API server reaches etcd by a way on which it can be delayed.
    pub is_etcd_far: bool,
}

/// When etcd acknowledges a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Once it is written: it outlives processes.
    Process,
    /// Once the disk has it, as in real clusters.
    Disk,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST,
            durability: Durability::Process,
            api_server: Vec::new(),
            is_etcd_far: false,
        }
    }
}

/// The folder of the API server's certificate and key.
pub(super) fn certificates(folder: &Path) -> PathBuf {
    folder.join("certificates")
}

pub(super) fn etcd_arguments(folder: &Path, address: SocketAddr, durability: Durability) -> Vec<String> {
    let mut arguments = vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls=http://{address}"),
        format!("--advertise-client-urls=http://{address}"),
        "--listen-peer-urls=http://127.0.0.1:0".into(),
        "--log-level=warn".into(),
    ];
    if durability == Durability::Process {
        arguments.push("--unsafe-no-fsync".into());
    }
    arguments
}

pub(super) fn api_server_arguments(
    folder: &Path,
    address: SocketAddr,
    etcd: SocketAddr,
    options: &Options,
) -> Vec<String> {
    let certificates = certificates(folder);
    // Made by the API server with its certificate, before it needs a key for the tokens of service accounts.
    let key = certificates.join("apiserver.key");
    let mut arguments = vec![
        format!("--etcd-servers=http://{etcd}"),
        format!("--cert-dir={}", certificates.display()),
        format!("--bind-address={}", address.ip()),
        format!("--advertise-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--token-auth-file={}", folder.join("tokens.csv").display()),
        "--authorization-mode=Node,RBAC".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", key.display()),
        format!("--service-account-signing-key-file={}", key.display()),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        // It would note its address, which may not be a loopback one.
        "--endpoint-reconciler-type=none".into(),
        // Nobody makes the service accounts that it asks for pods.
        "--disable-admission-plugins=ServiceAccount".into(),
    ];
    arguments.extend_from_slice(&options.api_server);
    arguments
}
