//! kubectl, and the kubeconfigs that it and others are given.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::ClusterError;
use super::process::{self, Home};

/// The CustomResourceDefinitions, a file each.
const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/crds");

/// kubectl as one user. It can be copied to another thread, and goes on working while the cluster is damaged.
#[derive(Debug, Clone)]
pub struct Kubectl {
    pub(super) program: PathBuf,
    pub(super) kubeconfig: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) home: Home,
}

impl Kubectl {
    /// Runs `kubectl ARGUMENTS` with that text on standard input, whatever comes of it.
    pub fn run(&self, arguments: &[&str], stdin: &str) -> Result<Output, ClusterError> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            // What was learnt of one cluster is not true of the next one at the same port.
            .arg("--cache-dir")
            .arg(&self.cache)
            .env("KUBERC", "off");
        let ran = self.home.run(|| process::output(&mut command, stdin));
        ran.map_err(|error| ClusterError::system(format!("running {}", self.program.display()), error))
    }

    /// What `kubectl ARGUMENTS` prints; an error when it fails.
    pub fn ask(&self, arguments: &[&str], stdin: &str) -> Result<String, ClusterError> {
        let output = self.run(arguments, stdin)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(ClusterError::Command {
            command: arguments.join(" "),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// What `kubectl ARGUMENTS -o json` prints.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, ClusterError> {
        let text = self.ask(&[arguments, &["-o", "json"]].concat(), "")?;
        serde_json::from_str(&text).map_err(|source| ClusterError::Json { command: arguments.join(" "), source })
    }

    /// Creates or changes objects: `kubectl apply -f -`.
    pub fn apply(&self, manifests: &str) -> Result<String, ClusterError> {
        self.ask(&["apply", "-f", "-"], manifests)
    }

    /// Declares the project's kinds, and waits until the API server serves them.
    pub fn apply_crds(&self) -> Result<(), ClusterError> {
        self.ask(&["apply", "--server-side", "-f", CRDS], "")?;
        self.ask(&["wait", "--for=condition=Established", "--timeout=60s", "-f", CRDS], "").map(drop)
    }

    /// As whom it speaks.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The same as the user of another kubeconfig.
    pub fn with_kubeconfig(&self, kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), ..self.clone() }
    }

    /// The same from the calling thread's network namespace; from elsewhere it runs beside the API server.
    pub fn from_here(&self) -> Result<Self, ClusterError> {
        Ok(Self { home: Home::here()?, ..self.clone() })
    }

    /// The same cluster with other credentials, written to that file.
    pub(super) fn derive(&self, file: &Path, change: impl FnOnce(&mut Value)) -> Result<PathBuf, ClusterError> {
        let mut config = self.json(&["config", "view", "--minify", "--flatten", "--raw"])?;
        change(&mut config["users"][0]["user"]);
        write(file, &config)
    }
}

/// A kubeconfig of one cluster and one user; kubeconfigs are YAML, of which JSON is a part.
pub(super) fn plain(server: &str, authority: &Path, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "tests", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    })
}

pub(super) fn write(file: &Path, config: &Value) -> Result<PathBuf, ClusterError> {
    let written = fs::write(file, config.to_string());
    written.map_err(|error| ClusterError::system(format!("writing {}", file.display()), error))?;
    Ok(file.to_owned())
}
