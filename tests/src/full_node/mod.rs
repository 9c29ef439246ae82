//! A node full of pods of every kind, and what is measured on it: storms, and the benchmarks of drift.
//!
//! | number modulo 5 | pod |
//! |---|---|
//! | 0, 1, 2 | eth0 by the default CNI, net1 by dragline, IPv4 |
//! | 3 | the same with both families |
//! | 4 | eth0 by dragline alone (underlay), every other one with both families |

mod flush;
mod watch;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use netlink::testbed::{Netns, TestbedError};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::{Value, json};

pub use flush::Flush;
pub use watch::{Calm, Seen, Watch};

use crate::agent::{AgentError, AgentProcess, Settings};
use crate::binaries::{Binaries, BuildError};
use crate::metrics::{Metrics, MetricsError};
use crate::runtime::{Attachment, Conflist, Runtime, RuntimeError};
use crate::scene::{Pod, Scene, SceneError, dual};

/// How many pods there are; each has a last byte of eth0's address of its own.
pub const PODS: u8 = 250;
/// ADDs at once.
const AT_ONCE: usize = 8;

const MANIFESTS: &str = "
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderCoordinator
metadata: {name: default}
spec: {mode: auto, podCIDRType: calico, hijackCIDR: [169.254.0.0/16]}
status:
  phase: Synced
  overlayPodCIDR: [10.233.64.0/18, 'fd85:ee78::/64']
  serviceCIDR: [10.233.0.0/18, 'fd85:ee79::/108']
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: full4}
spec: {gateway: 10.6.0.1, ips: [10.6.128.1-10.6.129.254], subnet: 10.6.0.0/16}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: full6}
spec: {ipVersion: 6, gateway: 'fd00:6::1', ips: ['fd00:6::1000-fd00:6::11ff'], subnet: 'fd00:6::/64'}
";

/// Why there is no full node, or what went wrong on it.
#[derive(Debug, thiserror::Error)]
pub enum FullNodeError {
    /// The programs.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The scene.
    #[error(transparent)]
    Scene(#[from] SceneError),
    /// The kernel.
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The runtime's part.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The agent's numbers.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The agent's process.
    #[error("the agent's process: {0}")]
    Process(#[from] nix::Error),
    /// Watching.
    #[error("kernel events: {0}")]
    Events(#[from] std::io::Error),
}

/// What kind of pod it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// eth0 by the default CNI, with both families or IPv4 alone.
    Overlay {
        /// With IPv6.
        dual: bool,
    },
    /// eth0 by dragline.
    Underlay {
        /// With IPv6.
        dual: bool,
    },
}

impl Kind {
    fn of(number: u8) -> Self {
        match number % 5 {
            3 => Self::Overlay { dual: true },
            4 => Self::Underlay { dual: number.is_multiple_of(2) },
            _ => Self::Overlay { dual: false },
        }
    }

    fn is_dual(self) -> bool {
        let (Self::Overlay { dual } | Self::Underlay { dual }) = self;
        dual
    }
}

enum Body {
    Overlay(Pod),
    Underlay(Netns),
}

/// A pod of the node.
pub struct Occupant {
    /// What kind of pod it is.
    pub kind: Kind,
    /// How the runtime attached it.
    pub attachment: Attachment,
    body: Body,
}

impl Occupant {
    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        match &self.body {
            Body::Overlay(pod) => &pod.netns,
            Body::Underlay(netns) => netns,
        }
    }

    /// The NIC that dragline has made.
    pub fn nic(&self) -> &str {
        &self.attachment.ifname
    }
}

/// Scene, agent and pods.
pub struct FullNode {
    /// The agent; before the scene, since it is to end before that.
    pub agent: AgentProcess,
    /// The pods, by number from 1 on.
    pub occupants: Vec<Occupant>,
    /// Where they are.
    pub scene: Scene,
}

impl FullNode {
    /// Builds the scene of that name, starts the agent of those programs as `adjust` leaves its settings, and attaches all
    /// pods, [`PODS`] of them, eight at a time.
    ///
    /// # Errors
    /// When anything of it fails.
    pub fn fill(name: &str, binaries: &Binaries, adjust: impl FnOnce(&mut Settings)) -> Result<Self, FullNodeError> {
        let scene = Scene::build_dual(name)?;
        binaries.install_plugins(&scene.plugins())?;
        scene.apply("all.yaml", MANIFESTS)?;
        let mut settings = scene.agent_settings();
        adjust(&mut settings);
        let agent = AgentProcess::start(&binaries.dragline, &scene.worker, settings)?;
        let mut node = Self { agent, occupants: Vec::new(), scene };
        for number in 1..=PODS {
            let occupant = node.place(number)?;
            node.occupants.push(occupant);
        }
        node.attach()?;
        Ok(node)
    }

    fn place(&self, number: u8) -> Result<Occupant, FullNodeError> {
        let (kind, name) = (Kind::of(number), format!("pod-{number}"));
        let body = match kind {
            Kind::Overlay { dual } => {
                let mut pod = self.scene.pod(&name, Ipv4Addr::new(10, 233, 121, number))?;
                pod.stop_answering();
                if dual {
                    dual::give(&pod, &self.scene.worker)?;
                }
                Body::Overlay(pod)
            }
            Kind::Underlay { .. } => Body::Underlay(self.scene.bare_pod(&name)?),
        };
        let (netns, nic) = match &body {
            Body::Overlay(pod) => (&pod.netns, "net1"),
            Body::Underlay(netns) => (netns, "eth0"),
        };
        // The node's ends of pairs are named by how this begins.
        let container = format!("{number:03}-of-full-node");
        let attachment = Attachment::of_pod("default", &name, &container, netns.path(), nic);
        Ok(Occupant { kind, attachment, body })
    }

    fn attach(&self) -> Result<(), FullNodeError> {
        let left: Mutex<VecDeque<&Occupant>> = Mutex::new(self.occupants.iter().collect());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            let lane = || -> Result<(), FullNodeError> {
                let runtime = self.runtime();
                while let Some(occupant) = next() {
                    runtime.add(&conflist(occupant.kind)?, &occupant.attachment)?;
                }
                Ok(())
            };
            let lanes: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(lane)).collect();
            let ended = lanes.into_iter().map(|lane| match lane.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ended.collect()
        })
    }

    fn runtime(&self) -> Runtime<'_> {
        let settings = self.agent.settings();
        Runtime::new(&self.scene.worker, vec![self.scene.plugins()])
            .with_env("DRAGLINE_SOCKET", settings.socket.as_os_str())
            .with_env("DRAGLINE_STATE_DIR", settings.state_dir.as_os_str())
    }

    /// The agent's numbers.
    ///
    /// # Errors
    /// When it does not give them.
    pub fn metrics(&self) -> Result<Metrics, FullNodeError> {
        Ok(Metrics::fetch(&self.scene.worker)?)
    }

    /// CPU time of the agent's process since it started, to the nanosecond.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu(&self) -> Result<Duration, FullNodeError> {
        let pid = self.agent.pid().and_then(|pid| i32::try_from(pid).ok()).ok_or(nix::Error::ESRCH)?;
        Ok(ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?.now()?.into())
    }
}

/// The network of a pod, as a NetworkAttachmentDefinition would have it.
fn conflist(kind: Kind) -> Result<Conflist, RuntimeError> {
    let six: &[&str] = if kind.is_dual() { &["full6"] } else { &[] };
    let main = json!({
        "type": "macvlan", "master": "ens192", "mode": "bridge",
        "ipam": {"type": "spiderpool", "default_ipv4_ippool": ["full4"], "default_ipv6_ippool": six},
    });
    let plugins: [Value; 2] = [main, json!({"type": "coordinator"})];
    Conflist::parse(&json!({"cniVersion": "1.0.0", "name": "full", "plugins": plugins}).to_string())
}

/// What so large a part of the times does not exceed: 0.5 is the median, 1 the longest. Zero of none.
pub fn quantile(times: &[Duration], part: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}
