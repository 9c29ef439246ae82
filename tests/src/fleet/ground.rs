//! Where fleets stand: an API server and a switch.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};
use netlink::testbed::{End, Netns};
use serde_json::json;

use super::{Controller, FleetError, Objects, Requests, SPIDERPOOL};
use crate::cluster::{self, Cluster, Kubectl};

/// The rights of an agent, as users apply them.
const RIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster/agent.yaml");
/// The agents' service account there.
const ACCOUNT: (&str, &str) = ("kube-system", "dragline-agent");
/// The same of a controller.
const CONTROLLER_RIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster/controller.yaml");
const CONTROLLER_ACCOUNT: (&str, &str) = ("kube-system", "dragline-controller");
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const PREFIX: u8 = 16;
const BRIDGE: &str = "br0";

/// An API server in a network namespace of its own, and a switch by which nodes reach it.
pub struct Ground {
    /// Its objects, asked by the administrator.
    pub objects: Objects,
    cluster: Mutex<Cluster>,
    kubectl: Kubectl,
    name: String,
    folder: PathBuf,
    agents: PathBuf,
    wired: AtomicU16,
    switch: Netns,
    // Held until all that is inside has ended.
    server: Netns,
}

impl Ground {
    /// Starts it, with the API server's files in that folder; and declares the project's kinds, the agents' rights and a
    /// coordinator.
    pub fn prepare(name: &str, folder: &Path) -> Result<Self, FleetError> {
        let (server, switch) = (Netns::create(&format!("{name}-api"))?, Netns::create(&format!("{name}-switch"))?);
        let mut scene = switch.scene()?;
        scene.bridge(BRIDGE)?;
        scene.up(BRIDGE)?;
        plug(&switch, "server", &server, SERVER)?;
        let options = cluster::Options { address: SERVER, ..cluster::Options::default() };
        let cluster = server.run(|| Cluster::start(folder, &options))??;
        let objects = Objects::connect(&server, cluster.kubeconfig())?;
        let kubectl = cluster.kubectl().clone();
        kubectl.apply_crds()?;
        let agents = cluster.service_account(ACCOUNT.0, ACCOUNT.1)?;
        kubectl.apply(&read(RIGHTS)?)?;
        let ground = Self {
            objects,
            cluster: Mutex::new(cluster),
            kubectl,
            name: name.to_owned(),
            folder: format!("/run/dragline-{name}").into(),
            agents,
            wired: AtomicU16::new(0),
            switch,
            server,
        };
        ground.declare_coordinator()?;
        Ok(ground)
    }

    /// One as the controller leaves it.
    fn declare_coordinator(&self) -> Result<(), FleetError> {
        let coordinator = json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderCoordinator",
            "metadata": {"name": "default"}, "spec": {"mode": "auto", "podCIDRType": "none"},
        });
        let kind = format!("{SPIDERPOOL}/spidercoordinators");
        self.objects.create(&kind, &coordinator)?;
        let status = json!({"status": {
            "phase": "Synced", "overlayPodCIDR": ["10.233.64.0/18"], "serviceCIDR": ["10.233.0.0/18"],
        }});
        self.objects.patch_status(&kind, "default", &status)
    }

    /// The agents' kubeconfig.
    pub(super) fn agents(&self) -> &Path {
        &self.agents
    }

    /// Where the fleets' files are: below `/run`, since the names of sockets are to be short.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The API server, to be harmed.
    pub fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// kubectl as the administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// A namespace for a node, with an address on the switch.
    pub(super) fn wire(&self, place: &str) -> Result<Netns, FleetError> {
        let netns = Netns::create(&format!("{}-{place}", self.name))?;
        let number = self.wired.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        plug(&self.switch, &format!("node{number}"), &netns, Ipv4Addr::new(10, 99, high + 1, low))?;
        Ok(netns)
    }

    /// Starts a controller beside the API server, with its own rights alone.
    pub fn controller(&self) -> Result<Controller, FleetError> {
        let (namespace, account) = CONTROLLER_ACCOUNT;
        let kubeconfig = self.cluster().service_account(namespace, account)?;
        self.kubectl.apply(&read(CONTROLLER_RIGHTS)?)?;
        Controller::start(&self.server, &kubeconfig, &self.folder)
    }

    /// What the API server has been asked since its start.
    pub fn requests(&self) -> Result<Requests, FleetError> {
        Ok(Requests::count(&self.kubectl)?)
    }

    /// The API server's processor time since its start; None when it does not run here.
    pub fn api_server_time(&self) -> Option<Duration> {
        processor_time(self.cluster().api_server_pid()?)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The world's own /run: it ends with the world at the latest.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn read(path: &str) -> Result<String, FleetError> {
    fs::read_to_string(path).map_err(|error| FleetError::system(format!("reading {path}"), error))
}

/// User and system time of a process, in the kernel's hundredths of a second (proc(5), `stat`).
fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

fn plug(switch: &Netns, port: &str, netns: &Netns, address: Ipv4Addr) -> Result<(), FleetError> {
    let mut scene = switch.scene()?;
    scene.veth(End::here(port), End::inside(netns, "eth0"))?;
    scene.port(port, BRIDGE)?;
    scene.up(port)?;
    let mut inside = netns.scene()?;
    let network = Ipv4Network::new(address, PREFIX).map_err(|error| FleetError::shape("an address", error))?;
    inside.address("eth0", IpNetwork::V4(network))?;
    Ok(inside.up("eth0")?)
}
