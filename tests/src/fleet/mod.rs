//! Many nodes, an agent on each, and one API server that they reach over links of their own.
//!
//! ```text
//! Ground ──── the API server in a namespace of its own, a switch, the project's kinds, the agents' rights
//! Objects ─── many objects at once, faster than kubectl
//! crowd ───── what others have in a large cluster
//! Fleet ───── nodes: a namespace, a Node object and an agent each; pools and networks
//! Controller  a controller in a namespace of its own
//! Clock ───── what an agent or a controller takes for the time of day
//! Pod ─────── a pod as the API server has it, and its sandboxes as a kubelet makes them
//! Book ────── whose each address is, by what ADD has answered; it finds an address with two owners
//! Census ──── whose each address is, by what the shards say
//! Requests ── what the API server has been asked, by its own count
//! ```
//!
//! There is no kubelet: [`Node::start`] and [`Node::stop`] ask the agent's socket what the plugins would ask, since a
//! process for each of a thousand pods would measure the processes.

mod book;
mod census;
mod clock;
mod controller;
mod crowd;
mod ground;
mod node;
mod objects;
mod pod;
mod requests;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use netlink::testbed::TestbedError;
use serde_json::json;

pub use book::{Book, Tenure};
pub use census::Census;
pub use clock::Clock;
pub use controller::Controller;
pub use crowd::crowd;
pub use ground::Ground;
pub use node::{CallError, Node};
pub use objects::Objects;
pub use pod::{Application, Pod};
pub use requests::Requests;

use crate::agent::AgentError;
use crate::binaries::BuildError;
use crate::cluster::ClusterError;

/// The custom resources' API.
const SPIDERPOOL: &str = "/apis/spiderpool.spidernet.io/v2beta1";

/// Why there is no fleet, or why it does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The programs.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The kernel.
    #[error(transparent)]
    Testbed(#[from] TestbedError),
    /// The API server, or kubectl.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// An agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The API server refuses, or does not answer.
    #[error("{what}: {source}")]
    Api {
        /// What was asked.
        what: String,
        /// What it says.
        source: Box<kube::Error>,
    },
    /// A file or a thread.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// An object is not what it should be.
    #[error("{what} is not understood: {found}")]
    Shape {
        /// Which.
        what: String,
        /// What it is.
        found: String,
    },
}

impl FleetError {
    fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    fn shape(what: impl Into<String>, found: impl ToString) -> Self {
        Self::Shape { what: what.into(), found: found.to_string() }
    }
}

/// Which addresses a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As the manifests have it.
    fn key(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// How a fleet is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// The pool's subnet, as a CIDR that no other pool of the cluster meets.
    pub subnet: String,
    /// The pool's addresses, entries as in `spec.ips`.
    pub ips: Vec<String>,
    /// The pool's `fairShare` as the controller would publish it; None publishes none.
    pub fair_share: Option<u32>,
    /// `--lease-ttl`.
    pub lease_ttl: Duration,
}

/// Nodes with agents, and one pool. All of it is ended when this is dropped; the objects stay in the cluster.
pub struct Fleet<'a> {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The name of pool, network and Kubernetes namespace.
    pub name: String,
    ground: &'a Ground,
    folder: PathBuf,
    options: Options,
}

impl<'a> Fleet<'a> {
    /// Declares namespace, pool and network of that name, makes the nodes `NAME-0`, `NAME-1` and so on, and starts their
    /// agents.
    pub fn start(ground: &'a Ground, name: &str, options: &Options) -> Result<Self, FleetError> {
        let folder = ground.folder().join(name);
        fs::create_dir_all(&folder)
            .map_err(|error| FleetError::system(format!("making {}", folder.display()), error))?;
        let mut fleet = Self { nodes: Vec::new(), name: name.to_owned(), ground, folder, options: options.clone() };
        fleet.declare()?;
        for number in 0..options.nodes {
            fleet.nodes.push(fleet.node(&format!("{name}-{number}"), &format!("{name}-{number}"))?);
        }
        fleet.nodes.iter().try_for_each(Node::launch)?;
        fleet.nodes.iter().try_for_each(Node::wait_ready)?;
        Ok(fleet)
    }

    /// Where it stands.
    pub fn ground(&self) -> &'a Ground {
        self.ground
    }

    /// A further node that is not one of `nodes`, whose agent is not started: for one that is called like another give
    /// that one's name as `node_name`.
    pub fn node(&self, place: &str, node_name: &str) -> Result<Node, FleetError> {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node_name}});
        if place == node_name {
            self.ground.objects.create("/api/v1/nodes", &node)?;
        }
        let (netns, _) = self.ground.wire(place)?;
        let folder = self.folder.join(place);
        fs::create_dir_all(&folder)
            .map_err(|error| FleetError::system(format!("making {}", folder.display()), error))?;
        Node::new(netns, node_name, folder, self.ground.agents().to_owned(), self.options.lease_ttl)
    }

    fn declare(&self) -> Result<(), FleetError> {
        let Self { name, options, .. } = self;
        let objects = &self.ground.objects;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        objects.create("/api/v1/namespaces", &namespace)?;
        self.declare_pool(name, &options.subnet, &options.ips)?;
        if let Some(fair_share) = options.fair_share {
            let status = json!({"status": {"fairShare": fair_share}});
            objects.patch_status(&format!("{SPIDERPOOL}/spiderippools"), name, &status)?;
        }
        let network = json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderMultusConfig",
            "metadata": {"name": name, "namespace": name},
            "spec": {"cniType": "macvlan", "macvlan": {"master": ["eth0"], "ippools": {self.family().key(): [name]}}},
        });
        objects.create(&format!("{SPIDERPOOL}/namespaces/{name}/spidermultusconfigs"), &network).map(drop)
    }

    /// That of its pool.
    fn family(&self) -> Family {
        if self.options.subnet.contains(':') { Family::V6 } else { Family::V4 }
    }

    /// A further pool.
    pub fn declare_pool(&self, name: &str, subnet: &str, ips: &[String]) -> Result<(), FleetError> {
        let pool = json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool",
            "metadata": {"name": name}, "spec": {"subnet": subnet, "ips": ips},
        });
        self.ground.objects.create(&format!("{SPIDERPOOL}/spiderippools"), &pool).map(drop)
    }

    /// Makes so many pods of that application, bound to these nodes in turn. From then on the agents want an address for
    /// each.
    pub fn bind(&self, application: &str, count: usize, nodes: &[Node]) -> Result<Vec<Pod>, FleetError> {
        let names = nodes.iter().map(|node| node.name.as_str()).cycle().take(count);
        self.application(application).bind(&self.ground.objects, names)
    }

    /// The same, all bound to one node.
    pub fn bind_to(&self, node: &Node, application: &str, count: usize) -> Result<Vec<Pod>, FleetError> {
        self.application(application).bind(&self.ground.objects, vec![node.name.as_str(); count])
    }

    /// What pods of that name are of.
    pub fn application<'n>(&'n self, name: &'n str) -> Application<'n> {
        let family = self.family();
        Application { namespace: &self.name, name, network: &self.name, pool: &self.name, family }
    }

    /// The node of a pod.
    ///
    /// # Panics
    /// It is bound to none of the fleet.
    pub fn node_of(&self, pod: &Pod) -> &Node {
        let found = self.nodes.iter().find(|node| node.name == pod.node);
        found.unwrap_or_else(|| panic!("{} is bound to {}, which is none of this fleet", pod.name, pod.node))
    }

    /// Does something for each pod, so many of each node at a time, and gives the outcomes in the order of the pods.
    pub fn each<T: Send>(&self, pods: &[Pod], at_once: usize, act: impl Fn(&Node, &Pod) -> T + Sync) -> Vec<T> {
        let act = &act;
        let mut outcomes: Vec<Option<T>> = pods.iter().map(|_| None).collect();
        thread::scope(|scope| {
            let mut lanes = Vec::new();
            for node in &self.nodes {
                let own: Vec<(usize, &Pod)> =
                    pods.iter().enumerate().filter(|(_, pod)| pod.node == node.name).collect();
                for lane in 0..at_once {
                    let own: Vec<_> = own.iter().copied().skip(lane).step_by(at_once).collect();
                    lanes.push(scope.spawn(move || {
                        own.into_iter().map(|(place, pod)| (place, act(node, pod))).collect::<Vec<_>>()
                    }));
                }
            }
            for lane in lanes {
                for (place, outcome) in lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                    outcomes[place] = Some(outcome);
                }
            }
        });
        outcomes.into_iter().flatten().collect()
    }

    /// What the shards of its pool say.
    pub fn census(&self) -> Result<Census, FleetError> {
        self.census_of(&self.name)
    }

    /// What the shards of another pool say.
    pub fn census_of(&self, pool: &str) -> Result<Census, FleetError> {
        Census::take(&self.ground.objects, pool)
    }

    /// What is wrong with the book, and between the book and the shards: a line each.
    ///
    /// Only what the book says before and after the shards are read is compared with them.
    pub fn faults(&self, book: &Book) -> Result<Vec<String>, FleetError> {
        let before = book.held();
        let census = self.census()?;
        let mut faults = book.faults();
        let lasting = book.held().into_iter().filter(|(address, tenure)| before.get(address) == Some(tenure)).collect();
        faults.extend(census.faults(&lasting));
        Ok(faults)
    }

    /// The addresses of the SpiderEndpoints, each with the pod's name.
    pub fn endpoints(&self) -> Result<Vec<(String, String)>, FleetError> {
        let found = self.ground.objects.list(&format!("{SPIDERPOOL}/namespaces/{}/spiderendpoints", self.name))?;
        let mut endpoints = Vec::new();
        for endpoint in found {
            for ip in endpoint["status"]["current"]["ips"].as_array().into_iter().flatten() {
                let address = ip[self.family().key()].as_str().unwrap_or_default();
                let address = address.split('/').next().unwrap_or_default().to_owned();
                endpoints.push((endpoint["metadata"]["name"].as_str().unwrap_or_default().to_owned(), address));
            }
        }
        endpoints.sort();
        Ok(endpoints)
    }
}
