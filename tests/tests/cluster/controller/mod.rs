//! `dragline controller` against a real API server: coordinators, networks, leadership.

mod coordinators;
mod leadership;
mod networks;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::binaries::Binaries;
use tests::cluster::{Cluster, ClusterError, Kubectl, Options};

use crate::bed::{eventually, starting};

const SEED: &str = include_str!("../data/seed.yaml");
const DEFINITIONS: &str = include_str!("../data/definitions.yaml");
pub(crate) const CALICO: &str = include_str!("../data/calico.yaml");
const CILIUM: &str = include_str!("../data/cilium.yaml");
/// The services of the quick start's cluster.
pub(crate) const SERVICES: &str = "10.233.0.0/18";

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |name, test: fn(&mut Cluster)| {
        starting(name, move |folder| {
            let api_server = vec![format!("--service-cluster-ip-range={SERVICES}")];
            test(&mut Cluster::start(folder, &Options { api_server, ..Options::default() })?);
            Ok(())
        })
    };
    let trials = [coordinators::TRIALS, networks::TRIALS, leadership::TRIALS];
    trials.into_iter().flatten().map(|(name, test)| trial(name, *test)).collect()
}

/// A name and what is tried, on a cluster with the quick start's services.
type Named = (&'static str, fn(&mut Cluster));

/// A controller. It is killed when this is dropped.
pub(crate) struct Controller {
    child: Child,
    http: SocketAddr,
    log: PathBuf,
    cni: PathBuf,
}

impl Controller {
    fn start(cluster: &Cluster, name: &str, arguments: &[&str]) -> Self {
        Self::start_as(cluster, name, cluster.kubeconfig(), arguments)
    }

    pub(crate) fn start_as(cluster: &Cluster, name: &str, kubeconfig: &Path, arguments: &[&str]) -> Self {
        let log = cluster.folder().join(format!("{name}.log"));
        let cni = cluster.folder().join("cni");
        fs::create_dir_all(&cni).unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(&Binaries::build().unwrap().dragline)
            .arg("controller")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--cni-conf-dir")
            .arg(&cni)
            .args(["--http", &http.to_string(), "--identity", name])
            .args(arguments)
            .env_remove("POD_NAMESPACE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OpenOptions::new().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, http, log, cni }
    }

    /// One that leads and has read everything.
    fn leading(cluster: &Cluster, arguments: &[&str]) -> Self {
        let controller = Self::start(cluster, "one", arguments);
        controller.wait_answer("/readyz", "ok: leading");
        controller
    }

    fn ask(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.http)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    pub(crate) fn wait_answer(&self, path: &str, text: &str) {
        eventually(&format!("{text} at {path}"), || match self.ask(path) {
            Ok(answer) if answer.contains(text) => Ok(()),
            Ok(answer) => Err(format!("{answer}\n{}", self.log())),
            Err(error) => Err(format!("{error}\n{}", self.log())),
        });
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.ask("/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.trim().parse().unwrap()
    }

    fn cni_conf(&self, name: &str, network: &str, plugin: &str) {
        fs::write(self.cni.join(name), json!({"name": network, "type": plugin}).to_string()).unwrap();
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster with our kinds and Multus'.
pub(crate) fn prepare(cluster: &Cluster) -> Kubectl {
    let kubectl = cluster.kubectl().clone();
    kubectl.apply_crds().unwrap();
    apply_crd(&kubectl, DEFINITIONS);
    kubectl
}

pub(crate) fn apply_crd(kubectl: &Kubectl, crd: &str) {
    kubectl.apply(crd).unwrap();
    kubectl.ask(&["wait", "--for=condition=Established", "--timeout=60s", "-f", "-"], crd).unwrap();
}

fn coordinator(kubectl: &Kubectl, name: &str, kind: &str) {
    let object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderCoordinator",
        "metadata": {"name": name}, "spec": {"podCIDRType": kind}});
    kubectl.apply(&object.to_string()).unwrap();
}

/// Waits for a coordinator's status to be that one.
#[track_caller]
pub(crate) fn wait_status(
    controller: &Controller,
    kubectl: &Kubectl,
    name: &str,
    phase: &str,
    reason: &str,
    overlay: &[&str],
) {
    eventually(&format!("{name} {phase} {overlay:?}"), || {
        let status =
            kubectl.json(&["get", "spidercoordinator", name]).map_err(|error| error.to_string())?["status"].clone();
        let is_reason = status["reason"].as_str().unwrap_or_default().contains(reason)
            && (reason.is_empty() == status["reason"].is_null());
        let is_all = status["phase"] == phase && status["overlayPodCIDR"] == json!(overlay) && is_reason;
        if is_all { Ok(()) } else { Err(format!("{status}\n{}", controller.log())) }
    });
}

fn network(name: &str, annotations: Value, spec: Value) -> String {
    json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderMultusConfig",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations}, "spec": spec})
    .to_string()
}

fn macvlan() -> Value {
    json!({"cniType": "macvlan", "macvlan": {"master": ["ens192"]}})
}

fn definition(kubectl: &Kubectl, name: &str) -> Result<Value, ClusterError> {
    kubectl.json(&["get", "net-attach-def", name])
}

/// Waits for a definition that is right, and gives it.
#[track_caller]
pub(crate) fn wait_definition(
    controller: &Controller,
    kubectl: &Kubectl,
    name: &str,
    is_right: impl Fn(&Value) -> bool,
) -> Value {
    eventually(&format!("the definition {name}"), || {
        let found = definition(kubectl, name).map_err(|error| format!("{error}\n{}", controller.log()))?;
        if is_right(&found) { Ok(found) } else { Err(format!("{found:#}\n{}", controller.log())) }
    })
}

#[track_caller]
fn wait_event(kubectl: &Kubectl, reason: &str, object: &str, text: &str) {
    eventually(&format!("the Event {reason} of {object}"), || {
        let selector = format!("reason={reason},regarding.name={object}");
        let get = ["get", "events.v1.events.k8s.io", "--namespace", "default", "--field-selector", &selector];
        let events = kubectl.json(&get).map_err(|error| error.to_string())?;
        let notes: Vec<&str> =
            events["items"].as_array().unwrap().iter().filter_map(|event| event["note"].as_str()).collect();
        if notes.iter().any(|note| note.contains(text)) { Ok(()) } else { Err(format!("{notes:?}")) }
    });
}
