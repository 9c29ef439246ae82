//! The play itself: set up, show what the seed shows, check, damage, repair, withdraw.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plan::tables::{DEFAULT_NIC, MAIN, NODE_TABLE};
use serde_json::Value;
use tests::agent::AgentProcess;
use tests::binaries::Binaries;
use tests::picture::Picture;
use tests::repair;
use tests::runtime::{Attachment, Conflist, Runtime};
use tests::scene::{CILIUM_HOST, FIRST_POOL_ADDRESS, Pod, Scene, WORKER_ADDRESS, expected};
use tests::show;
use tests::witness::Witness;

use super::Fault;
use super::paths::{self, Seat};
use crate::checks::Checks;

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart");
const NAMESPACE: &str = "default";
const NIC: &str = "net1";
/// The seed's pods, and the one of pod-default-route-eth0.yaml.
const PODS: [(&str, Ipv4Addr); 2] = [
    ("nginx-4653bc4f24-xngkm", Ipv4Addr::new(10, 233, 120, 101)),
    ("nginx-4653bc4f24-ougjk", Ipv4Addr::new(10, 233, 120, 102)),
];
const ETH0_POD: &str = "nginx-4653bc4f24-rswak";
const FLUSHES: usize = 20;
/// DEL answers when it is recorded for good; what it records is done within milliseconds.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(5);

/// A pod with net1.
struct Attached {
    pod: Pod,
    attachment: Attachment,
    result: Value,
    net1: Ipv4Addr,
    /// The pod as the default CNI had left it.
    before: Picture,
}

impl Attached {
    fn seat(&self) -> Seat<'_> {
        Seat { pod: &self.pod, net1: self.net1 }
    }
}

/// The scene with agent and pods. Fields are dropped in this order: the agent before what it serves.
pub(super) struct Play {
    agent: AgentProcess,
    conflist: Conflist,
    pods: Vec<Attached>,
    /// The node before the first pod.
    node_before: Picture,
    scene: Scene,
}

impl Play {
    /// Builds the scene, applies the manifests, starts the agent and attaches the seed's two pods.
    pub(super) fn set_up(binaries: &Binaries, checks: &mut Checks) -> Result<Self, Fault> {
        let scene = Scene::build("")?;
        binaries.install_plugins(&scene.plugins())?;
        checks.chapter("Manifests");
        for (name, text) in manifests()? {
            checks.shown(&format!("kubectl apply -f examples/quickstart/{name}"), &text);
            scene.apply(&name, &text)?;
        }
        let agent = AgentProcess::start(&binaries.dragline, &scene.worker, scene.agent_settings())?;
        checks.chapter("The agent and what it makes of the manifests");
        checks.shown("dragline status", &agent.ask(&["status"])?);
        let path = generated_conflist(&scene.agent_settings().state_dir.join("net.d"))?;
        checks.shown(&format!("cat {}", path.display()), &std::fs::read_to_string(&path)?);
        let conflist = Conflist::read(&path)?;
        let node_before = without_settings(Picture::take(&scene.worker)?);
        let mut play = Self { agent, conflist, pods: Vec::new(), node_before, scene };
        for (index, (name, address)) in PODS.into_iter().enumerate() {
            let attached = play.attach(name, address)?;
            // First free first.
            let wanted = Ipv4Addr::from_bits(FIRST_POOL_ADDRESS.to_bits() + u32::try_from(index)?);
            checks.check(format!("ADD of {name} gives {wanted}"), given(&attached, wanted));
            play.pods.push(attached);
        }
        Ok(play)
    }

    /// The default CNI's work, then the chain's ADD.
    fn attach(&self, name: &str, address: Ipv4Addr) -> Result<Attached, Fault> {
        let pod = self.scene.pod(name, address)?;
        // A container ID as runtimes make them: 64 hexadecimal digits.
        let container: String = format!("{:064x}", u128::from(address.to_bits()) << 64 | 0xc0de);
        let attachment = Attachment::of_pod(NAMESPACE, name, &container, pod.netns.path(), NIC);
        let before = without_settings(Picture::take(&pod.netns)?);
        let result = self.runtime().add(&self.conflist, &attachment)?;
        let text = result["ips"][0]["address"].as_str().unwrap_or_default();
        let net1 = text.split('/').next().unwrap_or_default().parse()?;
        Ok(Attached { pod, attachment, result, net1, before })
    }

    fn runtime(&self) -> Runtime<'_> {
        let settings = self.agent.settings();
        Runtime::new(&self.scene.worker, vec![self.scene.plugins()])
            .with_env("DRAGLINE_SOCKET", &settings.socket)
            .with_env("DRAGLINE_STATE_DIR", &settings.state_dir)
    }

    /// What the seed shows, the paths, the repair, and the variation. Returns the repair's p50 and worst time in ms.
    pub(super) fn perform(&mut self, checks: &mut Checks) -> Result<(f64, f64), Fault> {
        self.show_as_the_seed(checks)?;
        checks.chapter("Every table against the document");
        self.check_tables(checks)?;
        self.check_node(checks)?;
        checks.chapter("Paths, each on the wire");
        let [first, second] = self.pods.as_slice() else { return Err("two pods were attached".into()) };
        paths::check_default(&self.scene, &first.seat(), &second.seat(), checks);
        checks.chapter("Repair");
        let repair = self.flush_rules(checks)?;
        checks.chapter("Variation: ipam.spidernet.io/default-route-nic: eth0");
        self.replace_first_by_eth0_pod(checks)?;
        Ok(repair)
    }

    fn show_as_the_seed(&self, checks: &mut Checks) -> Result<(), Fault> {
        checks.chapter("As the seed shows it");
        checks.shown("dragline get coordinator", &self.agent.ask(&["get", "coordinator"])?);
        let endpoints = self.agent.ask(&["get", "endpoints"])?;
        checks.shown("dragline get endpoints", &endpoints);
        let pod = &self.pods[0].pod;
        checks.say(&format!("-- in {}", pod.name));
        checks.shown("ip a", &show::addresses(&pod.netns)?);
        checks.shown("ip rule", &show::rules(&pod.netns)?);
        checks.shown("ip route", &show::routes(&pod.netns, MAIN)?);
        checks.shown("ip route show table 100", &show::routes(&pod.netns, DEFAULT_NIC)?);
        let pools = self.agent.ask(&["get", "ippools"])?;
        checks.shown("dragline get ippools", &pools);
        checks.same("dragline get endpoints", &show::comparable(&endpoints), &endpoints_wanted(&self.pods));
        checks.same("dragline get ippools", &show::comparable(&pools), &pools_wanted(self.pods.len()));
        Ok(())
    }

    fn check_tables(&self, checks: &mut Checks) -> Result<(), Fault> {
        let pod = &self.pods[0].pod;
        let text = |shown: String| show::comparable(&shown);
        checks.same("pod: ip rule", &text(show::rules(&pod.netns)?), expected::RULES);
        checks.same("pod: ip route", &text(show::routes(&pod.netns, MAIN)?), expected::MAIN);
        checks.same("pod: ip route show table 100", &text(show::routes(&pod.netns, DEFAULT_NIC)?), expected::TABLE_100);
        let towards_node = [WORKER_ADDRESS, CILIUM_HOST]
            .map(|address| format!("{address} dev eth0 lladdr {} PERMANENT", pod.host_mac));
        checks.same(
            "pod: permanent neighbours",
            &text(show::permanent_neighbours(&pod.netns)?),
            &towards_node.join("\n"),
        );
        Ok(())
    }

    /// The node's part, for the pods there are.
    fn check_node(&self, checks: &mut Checks) -> Result<(), Fault> {
        let (mut routes, mut neighbours) = (Vec::new(), Vec::new());
        for Attached { pod, net1, .. } in self.pods.iter() {
            routes.push(format!("{net1} dev {} scope link", pod.host_link));
            neighbours.push(format!("{net1} dev {} lladdr {} PERMANENT", pod.host_link, pod.mac));
        }
        let rules = if self.pods.is_empty() { expected::NO_RULES } else { expected::NODE_RULES };
        let node = &self.scene.worker;
        let text = |shown: String| show::comparable(&shown);
        checks.same("node: ip rule", &text(show::rules(node)?), rules);
        checks.same("node: ip route show table 500", &text(show::routes(node, NODE_TABLE)?), &routes.join("\n"));
        checks.same("node: permanent neighbours", &text(show::permanent_neighbours(node)?), &neighbours.join("\n"));
        Ok(())
    }

    fn flush_rules(&self, checks: &mut Checks) -> Result<(f64, f64), Fault> {
        let pod = &self.pods[0].pod;
        let times: Result<Vec<Duration>, _> = (0..FLUSHES).map(|_| repair::flush_rules(&pod.netns)).collect();
        let name = format!("ip rule flush in the pod, {FLUSHES} times");
        let (p50, worst) = match times {
            Ok(times) => {
                let (p50, worst) = repair::summary(&times);
                checks.check(name, Ok(format!("all rules back after {p50:.1} ms (median), {worst:.1} ms (worst)")));
                (p50, worst)
            }
            Err(error) => {
                checks.check(name, Err(error.to_string()));
                (0.0, 0.0)
            }
        };
        let rules = show::comparable(&show::rules(&pod.netns)?);
        checks.same("pod: ip rule after the repair", &rules, expected::RULES);
        Ok((p50, worst))
    }

    /// The first pod goes, and comes again under the name of pod-default-route-eth0.yaml, with the addresses that it
    /// had: so the document's text holds for both.
    fn replace_first_by_eth0_pod(&mut self, checks: &mut Checks) -> Result<(), Fault> {
        let first = self.pods.remove(0);
        let address = first.pod.address;
        self.detach(first, checks)?;
        let attached = self.attach(ETH0_POD, address)?;
        checks.check(format!("ADD of {ETH0_POD} gives the address come free"), given(&attached, FIRST_POOL_ADDRESS));
        let netns = &attached.pod.netns;
        let table_101 = DEFAULT_NIC + 1;
        let (rules, main) = (show::rules(netns)?, show::routes(netns, MAIN)?);
        let (hundred, second) = (show::routes(netns, DEFAULT_NIC)?, show::routes(netns, table_101)?);
        checks.shown("ip rule", &rules);
        checks.shown("ip route", &main);
        checks.shown("ip route show table 101", &second);
        checks.same("pod: ip rule", &show::comparable(&rules), expected::ETH0_RULES);
        checks.same("pod: ip route", &show::comparable(&main), expected::ETH0_MAIN);
        checks.same("pod: ip route show table 100", &show::comparable(&hundred), expected::TABLE_100);
        checks.same("pod: ip route show table 101", &show::comparable(&second), expected::ETH0_TABLE_101);
        paths::check_default_route_eth0(&self.scene, &attached.seat(), &self.pods[0].seat(), checks);
        self.pods.insert(0, attached);
        Ok(())
    }

    /// DEL of the chain: the pod is as it was before ADD. Then the default CNI's DEL.
    fn detach(&self, attached: Attached, checks: &mut Checks) -> Result<(), Fault> {
        let Attached { pod, attachment, result, before, .. } = attached;
        let mut witness = Witness::open(&pod.netns)?;
        let deleted = self.runtime().del(&self.conflist, &attachment, Some(&result));
        let deleted = deleted.map(|()| String::new()).map_err(|error| error.to_string());
        checks.check(format!("DEL of {}", pod.name), deleted);
        checks.check("pod after DEL: as before ADD", is_again(&mut witness, &before));
        drop(witness);
        let text = |shown: String| show::comparable(&shown);
        let left = [
            text(show::rules(&pod.netns)?),
            text(show::routes(&pod.netns, MAIN)?),
            text(show::routes(&pod.netns, DEFAULT_NIC)?),
            text(show::routes(&pod.netns, DEFAULT_NIC + 1)?),
            text(show::permanent_neighbours(&pod.netns)?),
        ];
        let wanted = [expected::NO_RULES, expected::DEFAULT_CNI_MAIN, "", "", ""];
        checks.same("pod after DEL: rules, routes, neighbours", &left.join("\n\n"), &wanted.join("\n\n"));
        let is_of_pod = |record: &Value| record["attachment"]["key"]["container"] == attachment.container.as_str();
        let records = self.records_left(is_of_pod)?;
        checks.check("dragline get attachments: none of the pod", records);
        Ok(pod.delete(&self.scene.worker)?)
    }

    /// Asks until no record of that kind is left: the store has no events, and each question waits for its answer.
    fn records_left(&self, is_meant: impl Fn(&Value) -> bool) -> Result<Result<String, String>, Fault> {
        let started = Instant::now();
        loop {
            let mut left = self.agent.list("attachments")?;
            left.retain(&is_meant);
            if left.is_empty() {
                return Ok(Ok("none".into()));
            }
            if started.elapsed() > WITHDRAWN_WITHIN {
                return Ok(Err(Value::Array(left).to_string()));
            }
        }
    }

    /// DEL of all pods: nothing is left anywhere.
    pub(super) fn withdraw(&mut self, checks: &mut Checks) -> Result<(), Fault> {
        checks.chapter("Withdrawal");
        while let Some(attached) = self.pods.pop() {
            self.detach(attached, checks)?;
        }
        let mut witness = Witness::open(&self.scene.worker)?;
        checks.check("node: as before the first pod", is_again(&mut witness, &self.node_before));
        drop(witness);
        self.check_node(checks)?;
        let records = self.records_left(|_| true)?;
        checks.check("dragline get attachments", records);
        let pools = show::comparable(&self.agent.ask(&["get", "ippools"])?);
        checks.same("dragline get ippools", &pools, &pools_wanted(0));
        let stopped = self.agent.terminate()?;
        let ended = if stopped.success() { Ok(stopped.to_string()) } else { Err(stopped.to_string()) };
        checks.check("SIGTERM ends the agent", ended);
        Ok(())
    }

    /// How to look around while it is kept up; on standard error, which `-o json` leaves free.
    pub(super) fn invite(&self) {
        let pid = self.agent.pid().unwrap_or_default();
        let user = if std::env::var_os("DRAGLINE_NO_USERNS").is_some() { "" } else { "--user --preserve-credentials " };
        let pod = &self.pods[0].pod.name;
        let socket = self.agent.settings().socket.display().to_string();
        let program = self.agent.program().display().to_string();
        eprintln!(
            "
The scene stays until Ctrl-C. To enter the node worker01:
  nsenter {user}--mount --net --target {pid}
There, the pod's namespace and dragline itself:
  nsenter --net=/run/netns/{pod} ip rule
  nsenter --net=/run/netns/{pod} ip rule flush    # main and default go too: dragline restores its own
  export DRAGLINE_SOCKET={socket}
  {program} get endpoints
  {program} plan {pod}
Namespaces: {}; log: {}",
            namespaces(),
            self.agent.settings().log.display()
        );
    }
}

/// Sysctls stay as they were set: who else has come to rely on them is not known.
fn without_settings(picture: Picture) -> Picture {
    picture.without("sysctl ")
}

fn is_again(witness: &mut Witness<'_>, before: &Picture) -> Result<String, String> {
    let difference = |found: &Picture| {
        let found = without_settings(found.clone());
        if found == *before { String::new() } else { before.difference(&found) }
    };
    witness.until("as it was", WITHDRAWN_WITHIN, difference).map(|()| String::new()).map_err(|error| error.to_string())
}

fn namespaces() -> String {
    let listed = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut names: Vec<String> = listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(", ")
}

/// The example's manifests, by file name.
fn manifests() -> Result<Vec<(String, String)>, Fault> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(MANIFESTS)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push((name, std::fs::read_to_string(&path)?));
        }
    }
    found.sort();
    if found.is_empty() { Err(format!("no manifests in {MANIFESTS}").into()) } else { Ok(found) }
}

fn generated_conflist(folder: &Path) -> Result<PathBuf, Fault> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
    match paths.as_slice() {
        [only] => Ok(only.clone()),
        others => Err(format!("{} has {} conflists, not one", folder.display(), others.len()).into()),
    }
}

fn given(attached: &Attached, wanted: Ipv4Addr) -> Result<String, String> {
    let text = attached.result.to_string();
    if attached.net1 == wanted { Ok(text) } else { Err(text) }
}

fn endpoints_wanted(pods: &[Attached]) -> String {
    let mut rows: Vec<String> = pods
        .iter()
        .map(|attached| format!("{} net1 10-6-v4 {}/16 worker01", attached.pod.name, attached.net1))
        .collect();
    rows.sort();
    rows.insert(0, "NAME INTERFACE IPV4POOL IPV4 IPV6POOL IPV6 NODE".into());
    rows.join("\n")
}

fn pools_wanted(allocated: usize) -> String {
    format!("NAME VERSION SUBNET ALLOCATED-IP-COUNT TOTAL-IP-COUNT DEFAULT\n10-6-v4 4 10.6.0.0/16 {allocated} 41 false")
}
