//! The quick start's scene (../design/quickstart.md): two nodes, a router, an outside host, a default CNI.
//!
//! ```text
//!  worker01 ens192 .131 ─┐                                     ┌─ pods: eth0 ── lxc… on the node, by the default CNI
//!                        ├─ br0 (switch, 10.6.0.0/16) ─ router ┴─ outside 10.7.212.101
//!  controller ens192 .132┘
//! ```
//!
//! On a real cluster Cilium encapsulates or routes between nodes; here they have plain routes to each other's pods, and
//! the router one back to the pod network, so that sources arrive untranslated.

pub mod dual;
pub mod expected;
mod pod;
pub mod second;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnetwork::{IpNetwork, Ipv4Network};
use netlink::testbed::{End, Netns, TestbedError};

pub use pod::Pod;

use crate::agent::{Settings, Source};
use crate::dnat::{self, DnatError};
use crate::probe::{ProbeError, Responder};

/// The node that the agent serves.
pub const WORKER: &str = "worker01";
/// The plain neighbour.
pub const CONTROLLER: &str = "controller";
/// The nodes' uplink.
pub const UPLINK: &str = "ens192";
/// The worker's address.
pub const WORKER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 6, 212, 131);
/// The controller's address.
pub const CONTROLLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 6, 212, 132);
/// The router's address towards the nodes.
pub const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 1);
/// The outside host.
pub const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 212, 101);
/// Where the default CNI lets pods send everything.
pub const CILIUM_HOST: Ipv4Addr = Ipv4Addr::new(10, 233, 65, 96);
/// A pod without net1, on the worker.
pub const OVERLAY_POD_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 233, 105, 131);
/// What answers as CoreDNS, on the controller.
pub const COREDNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 233, 73, 195);
/// Its service.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 233, 0, 3);
/// At which CoreDNS's stand-in answers.
pub const DNS_PORT: u16 = 53;
/// At which everybody else answers.
pub const PORT: u16 = 80;
/// The first address of pool 10-6-v4.
pub const FIRST_POOL_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 6, 212, 200);

const NODE_PREFIX: u8 = 16;
const ROUTER_OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 7, 212, 1);
const OUTSIDE_PREFIX: u8 = 24;
const POD_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 233, 64, 0), 18);

/// Why a scene could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SceneError {
    /// The kernel.
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    /// The service.
    #[error(transparent)]
    Dnat(#[from] DnatError),
    /// A server.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
}

/// The whole scene. It is torn down when this is dropped, pods excepted: they are their owners'.
pub struct Scene {
    name: String,
    folder: PathBuf,
    /// The node that the agent serves.
    pub worker: Netns,
    /// The other node.
    pub controller: Netns,
    /// The router.
    pub router: Netns,
    /// The host in another subnet.
    pub outside: Netns,
    /// The pod without net1, on the worker.
    pub overlay_pod: Pod,
    /// CoreDNS's stand-in, on the controller.
    pub coredns: Pod,
    switch: Netns,
    _responders: Vec<Responder>,
}

impl Scene {
    /// Builds it. Namespaces are called `worker01` and so on, or `NAME-worker01` where several scenes share a world;
    /// files are below `/run/dragline-NAME`, which the private world alone sees.
    pub fn build(name: &str) -> Result<Self, SceneError> {
        Self::build_with(name, false)
    }

    /// The same with IPv6 beside IPv4 for the nodes, the router and the outside host; for pods see [`dual::give`].
    pub fn build_dual(name: &str) -> Result<Self, SceneError> {
        Self::build_with(name, true)
    }

    fn build_with(name: &str, is_dual: bool) -> Result<Self, SceneError> {
        let folder = PathBuf::from(format!("/run/dragline-{}", if name.is_empty() { "scene" } else { name }));
        for sub in ["manifests", "state"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).map_err(|source| SceneError::File { path, source })?;
        }
        let netns = |role: &str| {
            let made = Netns::create(&qualified(name, role))?;
            if is_dual {
                dual::allow(&made)?;
            }
            Ok::<Netns, SceneError>(made)
        };
        let (worker, controller) = (netns(WORKER)?, netns(CONTROLLER)?);
        let (router, outside, switch) = (netns("router")?, netns("outside")?, netns("switch")?);
        wire_underlay(&switch, [(&worker, UPLINK), (&controller, UPLINK), (&router, "eth0")])?;
        set_up_node(&worker, WORKER_ADDRESS)?;
        set_up_node(&controller, CONTROLLER_ADDRESS)?;
        set_up_router(&router, &outside)?;
        set_up_cilium_host(&worker)?;
        set_up_cilium_host(&controller)?;
        if is_dual {
            dual::lay(&worker, &controller, &router, &outside)?;
        }
        let overlay_pod = Pod::create(&qualified(name, "overlay"), &worker, OVERLAY_POD_ADDRESS)?;
        let coredns = Pod::create(&qualified(name, "coredns"), &controller, COREDNS_ADDRESS)?;
        let via = |gateway: Ipv4Addr| Some(IpAddr::V4(gateway));
        worker.scene()?.route(host(COREDNS_ADDRESS), via(CONTROLLER_ADDRESS), UPLINK)?;
        controller.scene()?.route(subnet(POD_NETWORK.0, POD_NETWORK.1), via(WORKER_ADDRESS), UPLINK)?;
        dnat::redirect(&worker, DNS_SERVICE, COREDNS_ADDRESS)?;
        let responders = vec![
            Responder::start(&worker, PORT)?,
            Responder::start(&controller, PORT)?,
            Responder::start(&outside, PORT)?,
            Responder::start(&coredns.netns, DNS_PORT)?,
        ];
        Ok(Self {
            name: name.to_owned(),
            folder,
            worker,
            controller,
            router,
            outside,
            overlay_pod,
            coredns,
            switch,
            _responders: responders,
        })
    }

    /// A pod on the worker as the default CNI leaves it: eth0 with that address.
    pub fn pod(&self, name: &str, address: Ipv4Addr) -> Result<Pod, SceneError> {
        let pod = Pod::create(&qualified(&self.name, name), &self.worker, address)?;
        link_into(&self.namespaces(), &pod)?;
        Ok(pod)
    }

    /// A namespace without any link, as an underlay pod has it before its first ADD.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn bare_pod(&self, name: &str) -> Result<Netns, SceneError> {
        let netns = Netns::create(&qualified(&self.name, name))?;
        dual::allow(&netns)?;
        link_netns_into(&self.namespaces(), &qualified(&self.name, name), &netns)?;
        Ok(netns)
    }

    /// A pod on the controller, to which the worker has a route.
    pub fn pod_on_controller(&self, name: &str, address: Ipv4Addr) -> Result<Pod, SceneError> {
        let pod = Pod::create(&qualified(&self.name, name), &self.controller, address)?;
        self.worker.scene()?.route(host(address), Some(IpAddr::V4(CONTROLLER_ADDRESS)), UPLINK)?;
        link_into(&self.controller_folder().join("netns"), &pod)?;
        Ok(pod)
    }

    fn controller_folder(&self) -> PathBuf {
        self.folder.join(CONTROLLER)
    }

    /// The folder in which this scene's agent finds the namespaces of its pods, and of no other scene's.
    pub fn namespaces(&self) -> PathBuf {
        self.folder.join("netns")
    }

    /// Where the scene's files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder for the plugins.
    pub fn plugins(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The folder that the agent reads its manifests from.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// Writes a manifest whole: the agent sees the old one or the new one.
    pub fn apply(&self, file: &str, text: &str) -> Result<(), SceneError> {
        let path = self.manifests().join(file);
        let temporary = self.folder.join(format!(".{file}"));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| SceneError::File { path, source })
    }

    /// How an agent for the worker is started here.
    pub fn agent_settings(&self) -> Settings {
        Settings {
            node_name: WORKER.to_owned(),
            state_dir: self.folder.join("state"),
            socket: self.folder.join("agent.sock"),
            source: Source::Manifests(self.manifests()),
            log: self.folder.join("agent.log"),
            arguments: vec!["--netns-dir".to_owned(), self.namespaces().to_string_lossy().into_owned()],
        }
    }

    /// How one for the controller is, which nobody starts but in a cluster.
    pub fn controller_agent_settings(&self) -> Settings {
        let folder = self.controller_folder();
        Settings {
            node_name: CONTROLLER.to_owned(),
            state_dir: folder.join("state"),
            socket: folder.join("agent.sock"),
            log: folder.join("agent.log"),
            arguments: vec!["--netns-dir".to_owned(), folder.join("netns").to_string_lossy().into_owned()],
            ..self.agent_settings()
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The world's own /run: it ends with the world at the latest.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where a node's agent looks for the namespaces of pods.
fn link_into(folder: &Path, pod: &Pod) -> Result<(), SceneError> {
    link_netns_into(folder, &pod.name, &pod.netns)
}

fn link_netns_into(folder: &Path, name: &str, netns: &Netns) -> Result<(), SceneError> {
    let path = folder.join(name);
    let linked = fs::create_dir_all(folder).and_then(|()| match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::os::unix::fs::symlink(netns.path(), &path),
    });
    linked.map_err(|source| SceneError::File { path, source })
}

fn qualified(scene: &str, role: &str) -> String {
    if scene.is_empty() { role.to_owned() } else { format!("{scene}-{role}") }
}

pub(crate) fn host(address: Ipv4Addr) -> IpNetwork {
    IpNetwork::V4(Ipv4Network::from(address))
}

pub(crate) fn subnet(address: Ipv4Addr, prefix: u8) -> IpNetwork {
    // The prefixes are this file's constants.
    Ipv4Network::new(address, prefix).map_or_else(|_| host(address), IpNetwork::V4)
}

/// The bridge and a cable to each.
fn wire_underlay(switch: &Netns, ends: [(&Netns, &str); 3]) -> Result<(), SceneError> {
    let mut scene = switch.scene()?;
    scene.bridge("br0")?;
    scene.up("br0")?;
    for (number, (netns, link)) in ends.into_iter().enumerate() {
        let port = format!("port{number}");
        scene.veth(End::here(&port), End::inside(netns, link))?;
        scene.port(&port, "br0")?;
        scene.up(&port)?;
    }
    Ok(())
}

fn set_up_node(node: &Netns, address: Ipv4Addr) -> Result<(), SceneError> {
    let mut scene = node.scene()?;
    // Before cilium_host, whose address the kernel would else choose as the source towards pods.
    scene.address(UPLINK, subnet(address, NODE_PREFIX))?;
    scene.up(UPLINK)?;
    scene.route(subnet(Ipv4Addr::UNSPECIFIED, 0), Some(IpAddr::V4(ROUTER_ADDRESS)), UPLINK)?;
    Ok(node.set_sysctl("net/ipv4/ip_forward", "1")?)
}

fn set_up_router(router: &Netns, outside: &Netns) -> Result<(), SceneError> {
    let default = subnet(Ipv4Addr::UNSPECIFIED, 0);
    let mut scene = router.scene()?;
    scene.veth(End::here("eth1"), End::inside(outside, "eth0"))?;
    scene.address("eth0", subnet(ROUTER_ADDRESS, NODE_PREFIX))?;
    scene.address("eth1", subnet(ROUTER_OUTSIDE, OUTSIDE_PREFIX))?;
    scene.up("eth0")?;
    scene.up("eth1")?;
    scene.route(subnet(POD_NETWORK.0, POD_NETWORK.1), Some(IpAddr::V4(WORKER_ADDRESS)), "eth0")?;
    router.set_sysctl("net/ipv4/ip_forward", "1")?;
    let mut far = outside.scene()?;
    far.address("eth0", subnet(OUTSIDE_ADDRESS, OUTSIDE_PREFIX))?;
    far.up("eth0")?;
    Ok(far.route(default, Some(IpAddr::V4(ROUTER_OUTSIDE)), "eth0")?)
}

/// A veth pair, as Cilium makes it.
fn set_up_cilium_host(node: &Netns) -> Result<(), SceneError> {
    let mut scene = node.scene()?;
    scene.veth(End::here("cilium_host"), End::here("cilium_net"))?;
    scene.address("cilium_host", host(CILIUM_HOST))?;
    scene.up("cilium_host")?;
    Ok(scene.up("cilium_net")?)
}
