//! What is measured on: a scene, the shipped programs, an agent whose store is on a real disk.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use schemas::wire::{self, Answer, Request};
use serde_json::{Value, json};
use tests::agent::AgentProcess;
use tests::binaries::{cargo, forget_package, target_folder};
use tests::runtime::reference_plugins;
use tests::scene::Scene;

use super::Failure;

/// Between two questions for the agent's silence, and before each sample: nothing of one is to run in the next.
const PAUSE: Duration = Duration::from_millis(1);
/// The agent is done with what was asked in this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The programs as they are shipped.
pub(super) struct Programs {
    pub(super) dragline: PathBuf,
    pub(super) plugins: PathBuf,
    target: PathBuf,
}

impl Programs {
    /// Builds the agent in profile `release` and the plugins in profile `plugin`, each by itself: built together, one
    /// would get the other's features.
    pub(super) fn build() -> Result<Self, Failure> {
        let target = target_folder()?;
        for (package, profile) in [("dragline", "release"), ("cni", "plugin")] {
            let mut build = Command::new(cargo());
            build
                .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
                .args(["build", "--package", package, "--bins", "--profile", profile, "--target-dir"])
                .arg(&target)
                .stdin(Stdio::null());
            forget_package(&mut build);
            if !build.status()?.success() {
                return Err(format!("building {package} failed; what cargo said stands above").into());
            }
        }
        Ok(Self { dragline: target.join("release/dragline"), plugins: target.join("plugin/dragline-cni"), target })
    }
}

pub(super) struct Bed {
    pub(super) scene: Scene,
    pub(super) agent: AgentProcess,
    pub(super) ours: PathBuf,
    pub(super) reference: PathBuf,
    pub(super) disk: PathBuf,
}

impl Bed {
    pub(super) fn make(programs: &Programs) -> Result<Self, Failure> {
        let reference = reference_plugins()
            .ok_or("the reference plugins are not installed: apt install containernetworking-plugins")?;
        let disk = programs.target.join("benchmarks");
        match fs::remove_dir_all(&disk) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&disk)?,
        }
        let scene = Scene::build("bench")?;
        scene.apply("bench.yaml", &manifests())?;
        let ours = scene.plugins();
        let installed = Command::new(&programs.plugins).arg("install").arg(&ours).stdout(Stdio::null()).status()?;
        if !installed.success() {
            return Err("the plugins could not be installed".into());
        }
        let mut settings = scene.agent_settings();
        settings.state_dir = disk.join("state");
        let agent = AgentProcess::start(&programs.dragline, &scene.worker, settings)?;
        Ok(Self { scene, agent, ours, reference, disk })
    }

    /// Waits until the agent has so many sandboxes, all converged, and then a moment for what is on its way.
    pub(super) fn quiet(&self, sandboxes: u64) -> Result<(), Failure> {
        quiet(&self.agent, sandboxes)
    }

    /// The file system that the store is on.
    pub(super) fn file_system(&self) -> String {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let above = fields.filter(|fields| fields.len() > 2 && self.disk.starts_with(fields[1]));
        above.max_by_key(|fields| fields[1].len()).map_or_else(|| "unknown".into(), |fields| fields[2].to_owned())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The agent ends first, then its files.
        let _ = self.agent.kill();
        let _ = fs::remove_dir_all(&self.disk);
    }
}

/// Waits until that agent has so many sandboxes, all converged, and then a moment for what is on its way.
pub(super) fn quiet(agent: &AgentProcess, sandboxes: u64) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut stream = UnixStream::connect(&agent.settings().socket)?;
        let request = Request { protocol: wire::PROTOCOL, deadline_ms: 5000, call: wire::Call::Status };
        wire::write_frame(&mut stream, &request).map_err(io::Error::other)?;
        let answer: Answer = wire::read_frame(&mut stream).map_err(io::Error::other)?;
        thread::sleep(PAUSE);
        match answer {
            Answer::Status(status) if status.sandboxes == sandboxes && status.unconverged == 0 => return Ok(()),
            answer if Instant::now() > until => {
                return Err(format!("the agent does not come to {sandboxes} sandboxes: {answer:?}").into());
            }
            _ => {}
        }
    }
}

/// The plugins' network configurations.
pub(super) mod conf {
    use super::*;

    const NAME: &str = "macvlan-ens192";

    fn spiderpool(pool: &str) -> Value {
        json!({"type": "spiderpool", "default_ipv4_ippool": [pool]})
    }

    fn host_local(disk: &Path) -> Value {
        json!({"type": "host-local", "dataDir": disk.join("host-local"), "ranges": [[{
            "subnet": "10.6.0.0/16", "rangeStart": "10.6.160.1", "rangeEnd": "10.6.191.254", "gateway": "10.6.0.1",
        }]]})
    }

    fn macvlan(ipam: Value) -> String {
        let conf = json!({"cniVersion": "1.0.0", "name": NAME, "type": "macvlan", "master": "ens192", "mode": "bridge",
                          "ipam": ipam});
        conf.to_string()
    }

    pub(in super::super) fn ours() -> String {
        of("bench-v4")
    }

    /// With addresses of that pool.
    pub(in super::super) fn of(pool: &str) -> String {
        macvlan(spiderpool(pool))
    }

    pub(in super::super) fn reference(disk: &Path) -> String {
        macvlan(host_local(disk))
    }

    pub(in super::super) fn coordinator(previous: &Value) -> String {
        json!({"cniVersion": "1.0.0", "name": NAME, "type": "coordinator", "mode": "auto", "prevResult": previous})
            .to_string()
    }
}

/// The pool, and a coordinator as the controller leaves it.
pub(super) fn manifests() -> String {
    let api = "spiderpool.spidernet.io/v2beta1";
    let coordinator = json!({
        "apiVersion": api, "kind": "SpiderCoordinator", "metadata": {"name": "default"},
        "spec": {"mode": "auto", "podCIDRType": "calico", "tunePodRoutes": true, "hostRuleTable": 500,
                 "hijackCIDR": ["169.254.0.0/16"]},
        "status": {"phase": "Synced", "overlayPodCIDR": ["10.233.64.0/18"], "serviceCIDR": ["10.233.0.0/18"]},
    });
    let pool = json!({
        "apiVersion": api, "kind": "SpiderIPPool", "metadata": {"name": "bench-v4"},
        "spec": {"ipVersion": 4, "subnet": "10.6.0.0/16", "gateway": "10.6.0.1", "ips": ["10.6.128.1-10.6.159.254"]},
    });
    format!("{coordinator}\n---\n{pool}\n")
}
