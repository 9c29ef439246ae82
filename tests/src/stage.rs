//! A scene with an agent in it, and pods attached as a container runtime does it.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitStatus;

use netlink::testbed::Netns;
use serde_json::Value;

use crate::agent::{AgentError, AgentProcess};
use crate::binaries::{Binaries, BuildError};
use crate::metrics::{Metrics, MetricsError};
use crate::runtime::{self, Attachment, Conflist, Runtime, RuntimeError};
use crate::scene::{Pod, Scene, SceneError, WORKER_ADDRESS, dual};

/// The file of the SpiderCoordinator among the manifests.
const COORDINATOR: &str = "coordinator.yaml";
/// Where the network is declared.
const NAMESPACE: &str = "default";
/// The name of the network, of its conflist and of its SpiderMultusConfig.
const NETWORK: &str = "macvlan-ens192";

/// The pool, and where that is all the network of it.
const POOL: &str = "
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: 10-6-v4}
spec: {gateway: 10.6.0.1, ips: [10.6.212.200-10.6.212.240], subnet: 10.6.0.0/16}
";
const POOL_NETWORK: &str = "
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: macvlan-ens192}
spec: {cniType: macvlan, macvlan: {master: [ens192], ippools: {ipv4: [10-6-v4]}}}
";
/// The pool of IPv6 beside it, and the network of both.
const DUAL_NETWORK: &str = "
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: fd00-6-v6}
spec: {ipVersion: 6, gateway: 'fd00:6::1', ips: ['fd00:6::200-fd00:6::240'], subnet: 'fd00:6::/64'}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata: {name: macvlan-ens192}
spec: {cniType: macvlan, macvlan: {master: [ens192], ippools: {ipv4: [10-6-v4], ipv6: [fd00-6-v6]}}}
";

/// Why the stage could not be set, or what went wrong on it.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The programs.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The scene.
    #[error(transparent)]
    Scene(#[from] SceneError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The runtime's part.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The agent's numbers.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The reference plugins.
    #[error("the reference macvlan plugin (package containernetworking-plugins) cannot be used: {0}")]
    Reference(std::io::Error),
    /// The kernel differs from what is wanted.
    #[error("dragline check ({status}): {found}")]
    Drift {
        /// How it ended.
        status: ExitStatus,
        /// What it listed.
        found: String,
    },
}

/// Whose macvlan plugin makes net1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainPlugin {
    /// dragline's.
    Own,
    /// That of containernetworking-plugins, which calls dragline as its IPAM.
    Reference,
}

/// What the SpiderCoordinator says beyond the defaults.
#[derive(Debug, Clone)]
pub struct Coordinator {
    /// `hijackCIDR`.
    pub hijack: Vec<String>,
    /// `podDefaultRouteNIC`.
    pub default_nic: String,
    /// The cluster has IPv6 as well.
    pub dual: bool,
}

impl Default for Coordinator {
    fn default() -> Self {
        Self { hijack: vec!["169.254.0.0/16".into()], default_nic: String::new(), dual: false }
    }
}

impl Coordinator {
    fn manifest(&self) -> String {
        let mut text = String::from(
            "apiVersion: spiderpool.spidernet.io/v2beta1\nkind: SpiderCoordinator\nmetadata: {name: default}\n",
        );
        let Self { hijack, default_nic, dual } = self;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "spec: {{mode: auto, podCIDRType: calico, tunePodRoutes: true, hostRuleTable: 500, hijackCIDR: [{}], \
             podDefaultRouteNIC: {default_nic:?}}}",
            hijack.join(", ")
        );
        let (pods, services) = if *dual { (", 'fd85:ee78::/64'", ", 'fd85:ee79::/108'") } else { ("", "") };
        let _ = writeln!(
            text,
            "status: {{phase: Synced, overlayPodCIDR: [10.233.64.0/18{pods}], serviceCIDR: [10.233.0.0/18{services}]}}"
        );
        text
    }
}

/// A pod that the runtime has attached.
pub struct Member {
    /// The pod.
    pub pod: Pod,
    /// How it was attached.
    pub attachment: Attachment,
    /// What ADD said.
    pub result: Value,
}

/// Scene, agent and runtime together.
pub struct Stage {
    /// The agent; before the scene, since it is to end before that.
    pub agent: AgentProcess,
    /// The network's configuration, as the agent wrote it.
    pub conflist: Conflist,
    /// Where the pods are.
    pub scene: Scene,
    plugins: Vec<PathBuf>,
}

impl Stage {
    /// Builds the scene of that name and starts the agent. The agent's metrics have one port a node, so that stages of
    /// different names do not meet.
    pub fn set(name: &str, main: MainPlugin) -> Result<Self, StageError> {
        Self::set_on(Scene::build(name)?, main, &Coordinator::default(), POOL_NETWORK)
    }

    /// The same with IPv6 beside IPv4; pods have theirs by [`dual::give`].
    pub fn set_dual(name: &str, main: MainPlugin) -> Result<Self, StageError> {
        Self::set_on(
            Scene::build_dual(name)?,
            main,
            &Coordinator { dual: true, ..Coordinator::default() },
            DUAL_NETWORK,
        )
    }

    fn set_on(scene: Scene, main: MainPlugin, coordinator: &Coordinator, network: &str) -> Result<Self, StageError> {
        let binaries = Binaries::build()?;
        binaries.install_plugins(&scene.plugins())?;
        let mut plugins = vec![scene.plugins()];
        if main == MainPlugin::Reference {
            let reference = runtime::reference_plugins()
                .ok_or_else(|| StageError::Reference(std::io::ErrorKind::NotFound.into()))?;
            let folder = scene.folder().join("reference");
            runtime::link_reference_macvlan(&folder, &reference).map_err(StageError::Reference)?;
            plugins.insert(0, folder);
        }
        scene.apply(COORDINATOR, &coordinator.manifest())?;
        scene.apply("pool.yaml", POOL)?;
        scene.apply("network.yaml", network)?;
        let agent = AgentProcess::start(&binaries.dragline, &scene.worker, scene.agent_settings())?;
        let file = scene.agent_settings().state_dir.join("net.d").join(format!("{NAMESPACE}_{NETWORK}.conflist"));
        let conflist = Conflist::read(&file)?;
        Ok(Self { agent, conflist, scene, plugins })
    }

    /// Declares another SpiderCoordinator.
    pub fn coordinate(&self, coordinator: &Coordinator) -> Result<(), StageError> {
        Ok(self.scene.apply(COORDINATOR, &coordinator.manifest())?)
    }

    /// The runtime's part on the worker.
    pub fn runtime(&self) -> Runtime<'_> {
        let settings = self.agent.settings();
        Runtime::new(&self.scene.worker, self.plugins.clone())
            .with_env("DRAGLINE_SOCKET", settings.socket.as_os_str())
            .with_env("DRAGLINE_STATE_DIR", settings.state_dir.as_os_str())
    }

    /// A pod with eth0, not attached yet: number 1 is 10.233.120.101.
    pub fn pod(&self, number: u8) -> Result<Pod, StageError> {
        let address = Ipv4Addr::new(10, 233, 120, 100 + number);
        Ok(self.scene.pod(&format!("nginx-{number}"), address)?)
    }

    /// How the runtime attaches that pod.
    pub fn attachment(pod: &Pod) -> Attachment {
        Attachment::of_pod("default", &pod.name, &format!("sandbox-{}", pod.name), pod.netns.path(), "net1")
    }

    /// Makes a pod and attaches it.
    pub fn join(&self, number: u8) -> Result<Member, StageError> {
        self.attach(self.pod(number)?)
    }

    /// Makes a pod with IPv6 and attaches it.
    pub fn join_dual(&self, number: u8) -> Result<Member, StageError> {
        let pod = self.pod(number)?;
        dual::give(&pod, &self.scene.worker)?;
        self.attach(pod)
    }

    fn attach(&self, pod: Pod) -> Result<Member, StageError> {
        let attachment = Self::attachment(&pod);
        let result = self.runtime().add(&self.conflist, &attachment)?;
        Ok(Member { pod, attachment, result })
    }

    /// Detaches a pod.
    pub fn leave(&self, member: &Member) -> Result<(), StageError> {
        Ok(self.runtime().del(&self.conflist, &member.attachment, Some(&member.result))?)
    }

    /// The worker.
    pub fn node(&self) -> &Netns {
        &self.scene.worker
    }

    /// The worker's address towards the underlay.
    pub fn node_address(&self) -> Ipv4Addr {
        WORKER_ADDRESS
    }

    /// The agent's numbers.
    pub fn metrics(&self) -> Result<Metrics, StageError> {
        Ok(Metrics::fetch(&self.scene.worker)?)
    }

    /// One of them.
    pub fn metric(&self, name: &str) -> Result<u64, StageError> {
        Ok(self.metrics()?.of(name)?)
    }

    /// `dragline check` finds nothing.
    pub fn check(&self) -> Result<(), StageError> {
        check(&self.agent)
    }
}

/// `dragline check` finds nothing.
pub fn check(agent: &AgentProcess) -> Result<(), StageError> {
    let output = agent.run(&["check"])?;
    if output.status.success() {
        return Ok(());
    }
    let found = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Err(StageError::Drift { status: output.status, found })
}
