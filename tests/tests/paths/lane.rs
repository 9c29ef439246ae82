//! Where cases are played, one after another: a scene with both families and two underlay networks, and an agent.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tests::agent::AgentProcess;
use tests::binaries::Binaries;
use tests::dnat;
use tests::runtime::{self, Conflist, Runtime};
use tests::scene::{OVERLAY_POD_ADDRESS, Scene, second};

use crate::case::{By, Case, Network, Nic};

/// A service whose backend is the overlay pod on the same node.
pub(crate) const SERVICE: &str = "10.233.0.4";

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
metadata: {name: first4}
spec: {gateway: 10.6.0.1, ips: [10.6.212.200-10.6.212.240], subnet: 10.6.0.0/16}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: first4-plain}
spec: {ips: [10.6.213.1-10.6.213.40], subnet: 10.6.0.0/16}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: first6}
spec: {ipVersion: 6, gateway: 'fd00:6::1', ips: ['fd00:6::200-fd00:6::240'], subnet: 'fd00:6::/64'}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: first6-plain}
spec: {ipVersion: 6, ips: ['fd00:6::300-fd00:6::340'], subnet: 'fd00:6::/64'}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: second4}
spec: {gateway: 10.8.212.1, ips: [10.8.212.200-10.8.212.240], subnet: 10.8.212.0/24}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: second4-plain}
spec: {ips: [10.8.212.100-10.8.212.120], subnet: 10.8.212.0/24}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: second6}
spec: {ipVersion: 6, gateway: 'fd00:8::1', ips: ['fd00:8::200-fd00:8::240'], subnet: 'fd00:8::/64'}
---
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata: {name: second6-plain}
spec: {ipVersion: 6, ips: ['fd00:8::300-fd00:8::340'], subnet: 'fd00:8::/64'}
";

/// Scene and agent.
pub(crate) struct Lane {
    /// Before the scene, since it is to end before that.
    pub(crate) agent: AgentProcess,
    pub(crate) scene: Scene,
    number: usize,
}

impl Lane {
    fn lay(number: usize, pods: &str) -> Self {
        let binaries = Binaries::build().unwrap();
        let scene = Scene::build_dual(&format!("paths{number}")).unwrap();
        second::lay(&scene).unwrap();
        dnat::redirect(&scene.worker, SERVICE.parse::<std::net::Ipv4Addr>().unwrap(), OVERLAY_POD_ADDRESS).unwrap();
        binaries.install_plugins(&scene.plugins()).unwrap();
        let reference =
            runtime::reference_plugins().expect("the reference plugins: package containernetworking-plugins");
        runtime::link_reference_macvlan(&scene.folder().join("reference"), &reference).unwrap();
        scene.apply("all.yaml", MANIFESTS).unwrap();
        scene.apply("pods.yaml", pods).unwrap();
        let agent = AgentProcess::start(&binaries.dragline, &scene.worker, scene.agent_settings()).unwrap();
        Self { agent, scene, number }
    }

    /// The names of a lane's namespaces begin so.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The runtime, with the main plugins of that origin.
    pub(crate) fn runtime(&self, by: By) -> Runtime<'_> {
        let settings = self.agent.settings();
        let mut plugins = vec![self.scene.plugins()];
        if by == By::Reference {
            plugins.insert(0, self.scene.folder().join("reference"));
        }
        Runtime::new(&self.scene.worker, plugins)
            .with_env("DRAGLINE_SOCKET", settings.socket.as_os_str())
            .with_env("DRAGLINE_STATE_DIR", settings.state_dir.as_os_str())
    }
}

/// The network of a NIC, as a NetworkAttachmentDefinition would have it.
pub(crate) fn conflist(nic: &Nic) -> Conflist {
    let (master, pool) = match nic.network {
        Network::First => ("ens192", "first"),
        Network::Second => ("ens224", "second"),
    };
    let kind = if nic.has_gateway { "" } else { "-plain" };
    let pools = |version: u8| -> Vec<String> {
        let is_wanted = nic.families.each().contains(&(version == 6));
        is_wanted.then(|| format!("{pool}{version}{kind}")).into_iter().collect()
    };
    let mut coordinator = nic.keys.clone();
    coordinator.insert("type".into(), json!("coordinator"));
    let main = json!({
        "type": "macvlan", "master": master, "mode": "bridge",
        "ipam": {"type": "spiderpool", "default_ipv4_ippool": pools(4), "default_ipv6_ippool": pools(6)},
    });
    let whole =
        json!({"cniVersion": "1.0.0", "name": format!("{pool}{kind}"), "plugins": [main, Value::Object(coordinator)]});
    Conflist::parse(&whole.to_string()).unwrap()
}

/// Lanes that nobody is in; as many are laid as there are cases at once.
pub(crate) struct Lanes {
    pods: String,
    free: Mutex<(Vec<Lane>, usize)>,
}

impl Lanes {
    /// For these cases: their pods' annotations are known to every agent before it starts.
    pub(crate) fn of(cases: &[Case]) -> Self {
        let pod = |case: &Case| {
            let nic = case.annotated?;
            let metadata = json!({
                "name": case.name, "namespace": "default", "annotations": {"ipam.spidernet.io/default-route-nic": nic},
            });
            Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}).to_string())
        };
        let pods: Vec<String> = cases.iter().filter_map(pod).collect();
        Self { pods: pods.join("\n---\n"), free: Mutex::default() }
    }

    /// A lane that a case has failed in is not used again: what that left is not the next one's fault.
    pub(crate) fn with(&self, play: impl FnOnce(&Lane)) {
        let lane = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.0.pop().ok_or_else(|| {
                free.1 += 1;
                free.1
            })
        };
        let lane = lane.unwrap_or_else(|number| Lane::lay(number, &self.pods));
        play(&lane);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).0.push(lane);
    }
}
