//! One of the two agents that are compared: on a node of its own, with its store on the bed's disk.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use schemas::intent::PodRef;
use serde_json::json;
use tests::agent::{AgentProcess, Settings, Source};
use tests::fleet::Ground;
use tests::metrics::Metrics;

use super::Failure;
use super::bed::{self, Bed, Programs, conf};
use super::call::{Call, call};
use super::many::together;
use super::sample::Samples;

/// Sockets and logs: below `/run`, since the names of sockets are to be short.
const FOLDER: &str = "/run/dragline-sides";
/// An agent that lists a large cluster takes a while.
const READY_WITHIN: &str = "60s";
/// What is waited for comes in this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often an agent is asked for its numbers: so seldom that the answers cost nothing.
const ASKED_EVERY: Duration = Duration::from_millis(20);

/// Where an agent learns what is declared.
pub(super) enum Mode {
    /// From manifests.
    Embedded,
    /// From the API server.
    Cluster,
}

pub(super) struct Side<'a> {
    bed: &'a Bed,
    netns: Netns,
    pub(super) agent: AgentProcess,
}

/// A pod's sandbox, as the runtime calls it.
pub(super) struct Sandbox<'a> {
    netns: &'a str,
    container: String,
    arguments: String,
}

impl<'a> Sandbox<'a> {
    pub(super) fn of(pod: &PodRef, netns: &'a Netns) -> Self {
        let PodRef { namespace, name, uid } = pod;
        Self {
            netns: netns.path(),
            container: format!("sandbox-{uid}"),
            arguments: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"),
        }
    }
}

impl<'a> Side<'a> {
    /// Starts an agent on a new node of that name, which the API server knows, and waits until it is ready.
    pub(super) fn start(
        programs: &Programs,
        bed: &'a Bed,
        ground: &Ground,
        name: &str,
        mode: Mode,
    ) -> Result<Self, Failure> {
        let folder = Path::new(FOLDER).join(name);
        let (manifests, namespaces) = (folder.join("manifests"), folder.join("netns"));
        fs::create_dir_all(&manifests)?;
        fs::create_dir_all(&namespaces)?;
        let source = match mode {
            Mode::Embedded => {
                fs::write(manifests.join("bench.yaml"), bed::manifests())?;
                Source::Manifests(manifests)
            }
            Mode::Cluster => {
                let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
                ground.objects.create("/api/v1/nodes", &node)?;
                Source::Kubeconfig(ground.agents().to_owned())
            }
        };
        let (netns, _) = ground.wire(name)?;
        let settings = Settings {
            node_name: name.to_owned(),
            state_dir: bed.disk.join(name),
            socket: folder.join("agent.sock"),
            source,
            log: folder.join("agent.log"),
            arguments: vec!["--netns-dir".into(), namespaces.display().to_string()],
        };
        let mut agent = AgentProcess::stopped(&programs.dragline, &netns, settings);
        agent.launch()?;
        agent.ask(&["status", "--wait", READY_WITHIN])?;
        Ok(Self { bed, netns, agent })
    }

    /// The IPAM plugin's verb for all of them, so many at a time: whole processes, as a runtime starts them.
    pub(super) fn all(&self, verb: &str, at_once: usize, sandboxes: &[Sandbox<'_>]) -> Result<Samples, Failure> {
        let samples = Mutex::new(Samples::default());
        let program = self.bed.ours.join("spiderpool");
        let settings = self.agent.settings();
        together(&self.netns, at_once, sandboxes, |Sandbox { netns, container, arguments }| {
            let environment: [(&str, &OsStr); 3] = [
                ("DRAGLINE_SOCKET", settings.socket.as_ref()),
                ("DRAGLINE_STATE_DIR", settings.state_dir.as_ref()),
                ("CNI_ARGS", arguments.as_ref()),
            ];
            let taken = call(&Call { program: &program, verb, container, netns, stdin: conf::ours() }, &environment)?;
            samples.lock().unwrap_or_else(PoisonError::into_inner).push(taken.time);
            Ok(())
        })?;
        Ok(samples.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until it has so many sandboxes, all converged.
    pub(super) fn quiet(&self, sandboxes: usize) -> Result<(), Failure> {
        bed::quiet(&self.agent, sandboxes as u64)
    }

    /// Waits until it holds so many addresses that no pod has.
    pub(super) fn holds_free(&self, addresses: usize) -> Result<(), Failure> {
        self.until(&format!("{addresses} free addresses"), || {
            let leases = self.agent.list("leases")?;
            let number = |field: &str| -> usize {
                let texts = leases.iter().filter_map(|lease| lease[field].as_str());
                texts.filter_map(|text| text.parse::<usize>().ok()).sum()
            };
            Ok(number("held").saturating_sub(number("used") + number("releasing")) >= addresses)
        })
    }

    /// How many SpiderEndpoints it has written or deleted.
    pub(super) fn endpoint_writes(&self) -> Result<u64, Failure> {
        Ok(Metrics::fetch(&self.netns)?.of("endpoint_writes")?)
    }

    /// Waits until it has written or deleted so many.
    pub(super) fn has_written(&self, endpoints: u64) -> Result<(), Failure> {
        self.until(&format!("{endpoints} writes of SpiderEndpoints"), || Ok(self.endpoint_writes()? >= endpoints))
    }

    fn until(&self, what: &str, is_there: impl Fn() -> Result<bool, Failure>) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        while !is_there()? {
            if Instant::now() > until {
                let log = self.agent.log_end();
                return Err(
                    format!("an agent does not come to {what} within {PATIENCE:?}; its log ends:\n{log}").into()
                );
            }
            thread::sleep(ASKED_EVERY);
        }
        Ok(())
    }
}
