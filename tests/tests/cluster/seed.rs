//! The quick start in a cluster: its manifests by kubectl, a controller, and an agent on each of the two nodes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use ipnetwork::{IpNetwork, Ipv4Network};
use libtest_mimic::Trial;
use netlink::testbed::{End, Netns};
use plan::tables::{DEFAULT_NIC, MAIN, NODE_TABLE};
use serde_json::{Value, json};
use tests::agent::{AgentProcess, Settings, Source};
use tests::binaries::Binaries;
use tests::cluster::{Cluster, ClusterError, Kubectl, Options};
use tests::probe::{Protocol, passage};
use tests::runtime::{Attachment, Conflist, Runtime};
use tests::scene::{
    CONTROLLER, CONTROLLER_ADDRESS, OUTSIDE_ADDRESS, PORT, Pod, Scene, WORKER, WORKER_ADDRESS, expected,
};
use tests::{repair, show};

use crate::bed::{eventually, starting};
use crate::controller::{CALICO, Controller, SERVICES, apply_crd, prepare, wait_definition, wait_status};

const MANIFESTS: [&str; 4] = [
    include_str!("../../../examples/quickstart/coordinator.yaml"),
    include_str!("../../../examples/quickstart/ippool.yaml"),
    include_str!("../../../examples/quickstart/multusconfig.yaml"),
    include_str!("../../../examples/quickstart/nginx.yaml"),
];
const RIGHTS: [&str; 2] =
    [include_str!("../../../examples/cluster/agent.yaml"), include_str!("../../../examples/cluster/controller.yaml")];
const SYSTEM: &str = "kube-system";
/// Where the API server is, behind the scene's router.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const PREFIX: u8 = 24;
const OVERLAY: &str = "10.233.64.0/18";

pub(crate) fn trials() -> Vec<Trial> {
    vec![starting("seed::the_quick_start_in_a_cluster", |folder| {
        let server = Netns::create("seed-api").unwrap();
        server.run(|| play(folder, &server)).unwrap()
    })]
}

/// A node of the scene, with its agent and its one pod.
struct Place {
    agent: AgentProcess,
    pod: Pod,
    attachment: Attachment,
    result: Value,
    net1: String,
}

impl Place {
    /// The text of the quick start's first pod, as it is for this one.
    fn of_first(&self, text: &str, node: Ipv4Addr) -> String {
        text.replace("10.233.120.101", &self.pod.address.to_string())
            .replace("10.6.212.200", &self.net1)
            .replace(&WORKER_ADDRESS.to_string(), &node.to_string())
    }

    fn check(&self, node: &Netns, address: Ipv4Addr) {
        let comparable = |text: String| show::comparable(&text);
        let netns = &self.pod.netns;
        assert_eq!(comparable(show::rules(netns).unwrap()), self.of_first(expected::RULES, address));
        assert_eq!(comparable(show::routes(netns, MAIN).unwrap()), self.of_first(expected::MAIN, address));
        let table = comparable(show::routes(netns, DEFAULT_NIC).unwrap());
        // Routes are shown in the order of their destinations; only the node's differs, and it stays where it was.
        assert_eq!(table, self.of_first(expected::TABLE_100, address));
        assert_eq!(comparable(show::rules(node).unwrap()), expected::NODE_RULES);
        let to_pod = format!("{} dev {} scope link", self.net1, self.pod.host_link);
        assert_eq!(comparable(show::routes(node, NODE_TABLE).unwrap()), to_pod);
    }
}

fn play(folder: &Path, server: &Netns) -> Result<(), ClusterError> {
    let scene = Scene::build("seed").unwrap();
    wire(server, &scene.router);
    let api_server = vec![format!("--service-cluster-ip-range={SERVICES}")];
    let mut cluster = Cluster::start(folder, &Options { address: SERVER, api_server, ..Options::default() })?;
    cluster.start_controller_manager(&["deployment", "replicaset", "garbagecollector"])?;
    let kubectl = prepare(&cluster);
    apply_crd(&kubectl, CALICO);
    let overlay = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "default"},
        "spec": {"cidr": OVERLAY}});
    kubectl.apply(&overlay.to_string())?;
    let account = |name| cluster.service_account(SYSTEM, name);
    let (for_controller, for_agents) = (account("dragline-controller")?, account("dragline-agent")?);
    for manifest in RIGHTS.into_iter().chain(MANIFESTS) {
        kubectl.apply(manifest)?;
    }
    for name in [WORKER, CONTROLLER] {
        kubectl.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string())?;
    }

    let controller = Controller::start_as(&cluster, "one", &for_controller, &[]);
    controller.wait_answer("/readyz", "ok: leading");
    wait_status(&controller, &kubectl, "default", "Synced", "", &[OVERLAY]);
    let definition = wait_definition(&controller, &kubectl, "macvlan-ens192", |_| true);
    let conflist = Conflist::parse(definition["spec"]["config"].as_str().unwrap()).unwrap();

    Binaries::build().unwrap().install_plugins(&scene.plugins()).unwrap();
    let names = pods(&kubectl);
    bind(&kubectl, &names[0], WORKER)?;
    bind(&kubectl, &names[1], CONTROLLER)?;
    let place = |node: &Netns, settings: Settings, pod: Pod, name: &str| {
        let settings = Settings { source: Source::Kubeconfig(for_agents.clone()), ..settings };
        let agent = AgentProcess::start(&Binaries::build().unwrap().dragline, node, settings).unwrap();
        let attachment = Attachment::of_pod("default", name, &format!("sandbox-{name}"), pod.netns.path(), "net1");
        let result = runtime(&scene, node, &agent).add(&conflist, &attachment).unwrap();
        let net1 = result["ips"][0]["address"].as_str().unwrap().trim_end_matches("/16").to_owned();
        Place { agent, pod, attachment, result, net1 }
    };
    let pod = scene.pod(&names[0], Ipv4Addr::new(10, 233, 120, 101)).unwrap();
    let first = place(&scene.worker, scene.agent_settings(), pod, &names[0]);
    let pod = scene.pod_on_controller(&names[1], Ipv4Addr::new(10, 233, 120, 102)).unwrap();
    let second = place(&scene.controller, scene.controller_agent_settings(), pod, &names[1]);

    first.check(&scene.worker, WORKER_ADDRESS);
    second.check(&scene.controller, CONTROLLER_ADDRESS);
    let seen = |to: &Netns, address: &str| {
        let to_port = SocketAddrV4::new(address.parse().unwrap(), PORT);
        passage(&first.pod.netns, to, &scene.router, Protocol::Tcp, to_port).unwrap()
    };
    let source: Ipv4Addr = first.net1.parse().unwrap();
    let other = seen(&second.pod.netns, &second.net1);
    assert_eq!(
        (other.left_by.as_slice(), other.source, other.via_router),
        (&["net1".to_owned()][..], source.into(), false)
    );
    let outside = seen(&scene.outside, &OUTSIDE_ADDRESS.to_string());
    assert_eq!(
        (outside.left_by.as_slice(), outside.source, outside.via_router),
        (&["net1".to_owned()][..], source.into(), true)
    );
    let overlay = seen(&second.pod.netns, &second.pod.address.to_string());
    assert_eq!((overlay.left_by.as_slice(), overlay.source), (&["eth0".to_owned()][..], first.pod.address.into()));

    // What kubectl shows.
    let row = |name: &str, place: &Place, node| format!("{name} net1 10-6-v4 {}/16 {node}", place.net1);
    let mut rows = vec![row(&names[0], &first, WORKER), row(&names[1], &second, CONTROLLER)];
    rows.sort();
    rows.insert(0, "NAME INTERFACE IPV4POOL IPV4 IPV6POOL IPV6 NODE".into());
    shows(&kubectl, "se", &rows.join("\n"));
    let pool = |used: usize| {
        format!("NAME VERSION SUBNET ALLOCATED-IP-COUNT TOTAL-IP-COUNT DEFAULT\n10-6-v4 4 10.6.0.0/16 {used} 41 false")
    };
    shows(&kubectl, "sp", &pool(2));
    // What the node shows is the same.
    let own = show::comparable(&first.agent.ask(&["get", "endpoints"]).unwrap());
    assert_eq!(own, [rows[0].clone(), row(&names[0], &first, WORKER)].join("\n"));

    // Kept in order while the API server is away.
    cluster.kill()?;
    repair::flush_rules(&first.pod.netns).unwrap();
    first.check(&scene.worker, WORKER_ADDRESS);
    cluster.restart()?;

    // All of it goes.
    kubectl.ask(&["delete", "deployment", "nginx"], "")?;
    for (name, node, place) in [(&names[0], &scene.worker, first), (&names[1], &scene.controller, second)] {
        runtime(&scene, node, &place.agent).del(&conflist, &place.attachment, Some(&place.result)).unwrap();
        // The kubelet's word that it is gone.
        kubectl.ask(&["delete", "pod", name, "--force", "--grace-period=0", "--ignore-not-found"], "")?;
        eventually("nothing of it on the node", || {
            let left = (show::rules(node), show::routes(node, NODE_TABLE));
            let (rules, routes) = (show::comparable(&left.0.unwrap()), show::comparable(&left.1.unwrap()));
            if rules == expected::NO_RULES && routes.is_empty() { Ok(()) } else { Err(format!("{rules}\n{routes}")) }
        });
        eventually("the endpoint is gone", || {
            let left =
                kubectl.ask(&["get", "se", name, "--ignore-not-found"], "").map_err(|error| error.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        place.pod.delete(node).unwrap();
    }
    shows(&kubectl, "sp", &pool(0));
    Ok(())
}

/// The API server's wire to the router, behind which the nodes find it without an address more.
fn wire(server: &Netns, router: &Netns) {
    let network = |address| IpNetwork::V4(Ipv4Network::new(address, PREFIX).unwrap());
    let mut scene = router.scene().unwrap();
    scene.veth(End::here("api"), End::inside(server, "eth0")).unwrap();
    scene.address("api", network(ROUTER)).unwrap();
    scene.up("api").unwrap();
    let mut inside = server.scene().unwrap();
    inside.address("eth0", network(SERVER)).unwrap();
    inside.up("eth0").unwrap();
    let all = IpNetwork::V4(Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0).unwrap());
    inside.route(all, Some(ROUTER.into()), "eth0").unwrap();
}

fn runtime<'a>(scene: &Scene, node: &'a Netns, agent: &AgentProcess) -> Runtime<'a> {
    let settings = agent.settings();
    Runtime::new(node, vec![scene.plugins()])
        .with_env("DRAGLINE_SOCKET", &settings.socket)
        .with_env("DRAGLINE_STATE_DIR", &settings.state_dir)
}

/// The Deployment's two pods.
fn pods(kubectl: &Kubectl) -> Vec<String> {
    eventually("two pods of the Deployment", || {
        let listed = kubectl.ask(&["get", "pods", "-l", "app=nginx", "-o", "name"], "").map_err(|e| e.to_string())?;
        let names: Vec<String> = listed.lines().filter_map(|line| line.strip_prefix("pod/")).map(Into::into).collect();
        if names.len() == 2 { Ok(names) } else { Err(listed) }
    })
}

/// The scheduler's word.
fn bind(kubectl: &Kubectl, pod: &str, node: &str) -> Result<(), ClusterError> {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    let path = format!("/api/v1/namespaces/default/pods/{pod}/binding");
    kubectl.ask(&["create", "--raw", &path, "-f", "-"], &binding.to_string()).map(drop)
}

/// Waits until `kubectl get` shows that table; columns apart by any number of blanks.
fn shows(kubectl: &Kubectl, kind: &str, table: &str) {
    eventually(table, || {
        let found = kubectl.ask(&["get", kind], "").map_err(|error| error.to_string())?;
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let found = found.lines().map(words).collect::<Vec<_>>().join("\n");
        if found == table { Ok(()) } else { Err(found) }
    });
}
