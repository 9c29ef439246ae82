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
/// The same of the controller.
const CONTROLLERS_RIGHTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/cluster/controller.yaml");
/// Its service account there.
const CONTROLLERS_ACCOUNT: (&str, &str) = ("kube-system", "dragline-controller");
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const PREFIX: u8 = 16;
const BRIDGE: &str = "br0";
/// The switch's port to which the API server is plugged.
const SERVER_PORT: &str = "server";

/// An API server in a network namespace of its own, and a switch by which nodes reach it.
pub struct Ground {
    /// Its objects, asked by the administrator.
    pub objects: Objects,
    cluster: Mutex<Cluster>,
    kubectl: Kubectl,
    name: String,
    folder: PathBuf,
    agents: PathBuf,
    controllers: Mutex<Option<PathBuf>>,
    wired: AtomicU16,
    switch: Netns,
    // Held until all that is inside has ended.
    server: Netns,
}

impl Ground {
    /// Starts it, with the API server's files in that folder; and declares the project's kinds, the agents' rights and a
    /// coordinator.
    pub fn prepare(name: &str, folder: &Path) -> Result<Self, FleetError> {
        Self::prepare_with(name, folder, cluster::Options::default())
    }

    /// The same with an API server that is started in another way; its address is the ground's all the same.
    pub fn prepare_with(name: &str, folder: &Path, options: cluster::Options) -> Result<Self, FleetError> {
        let (server, switch) = (Netns::create(&format!("{name}-api"))?, Netns::create(&format!("{name}-switch"))?);
        let mut scene = switch.scene()?;
        scene.bridge(BRIDGE)?;
        scene.up(BRIDGE)?;
        plug(&switch, SERVER_PORT, &server, SERVER)?;
        let options = cluster::Options { address: SERVER, ..options };
        let cluster = server.run(|| Cluster::start(folder, &options))??;
        let objects = Objects::connect(&server, cluster.kubeconfig())?;
        let kubectl = cluster.kubectl().clone();
        kubectl.apply_crds()?;
        let agents = cluster.service_account(ACCOUNT.0, ACCOUNT.1)?;
        apply(&kubectl, RIGHTS)?;
        let ground = Self {
            objects,
            cluster: Mutex::new(cluster),
            kubectl,
            name: name.to_owned(),
            folder: format!("/run/dragline-{name}").into(),
            agents,
            controllers: Mutex::new(None),
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
    pub fn agents(&self) -> &Path {
        &self.agents
    }

    /// The controllers' kubeconfig.
    pub(super) fn controllers(&self) -> Result<PathBuf, FleetError> {
        let mut known = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let kubeconfig = self.cluster().service_account(CONTROLLERS_ACCOUNT.0, CONTROLLERS_ACCOUNT.1)?;
        apply(&self.kubectl, CONTROLLERS_RIGHTS)?;
        Ok(known.insert(kubeconfig).clone())
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

    /// A namespace for a node or a controller, with an address on the switch.
    pub fn wire(&self, place: &str) -> Result<(Netns, Ipv4Addr), FleetError> {
        let netns = Netns::create(&format!("{}-{place}", self.name))?;
        let number = self.wired.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 99, high + 1, low);
        plug(&self.switch, &format!("node{number}"), &netns, address)?;
        Ok((netns, address))
    }

    /// Cuts everybody off from the API server: what is sent is lost. What ends while this lasts has ended without anybody's
    /// being told, as when a machine loses power: a kernel that lives on would tell it as soon as it can.
    pub fn cut(&self) -> Result<(), FleetError> {
        self.server.set_sysctl("net/ipv4/tcp_orphan_retries", "1")?;
        Ok(self.switch.scene()?.down(SERVER_PORT)?)
    }

    /// Ends [`Self::cut`].
    pub fn mend(&self) -> Result<(), FleetError> {
        Ok(self.switch.scene()?.up(SERVER_PORT)?)
    }

    /// Starts a controller, with its own rights alone.
    pub fn controller(&self) -> Result<Controller, FleetError> {
        Controller::start(self, "one")
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

/// User and system time of a process, in the kernel's hundredths of a second (proc(5), `stat`).
fn processor_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Applies a file as it is.
fn apply(kubectl: &Kubectl, file: &str) -> Result<(), FleetError> {
    let text = fs::read_to_string(file).map_err(|error| FleetError::system(format!("reading {file}"), error))?;
    Ok(kubectl.apply(&text).map(drop)?)
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
