//! A changed SpiderCoordinator reaches running pods one by one, and goes no further than the first that does not work
//! with it.

use netlink::testbed::Netns;
use serde_json::{Value, json};
use tests::picture::Picture;
use tests::probe::{Protocol, passage};
use tests::runtime::Attachment;
use tests::scene::PORT;
use tests::stage::{MainPlugin, Stage};
use tests::witness::Witness;

use crate::PATIENCE;

const PODS: usize = 5;

/// Underlay pods: their `veth0` has the MTU that the SpiderCoordinator says, and the kernel makes none below 68.
struct Underlay {
    stage: Stage,
    pods: Vec<(Netns, Attachment, Value)>,
}

impl Underlay {
    fn set(name: &str) -> Self {
        let stage = Stage::set(name, MainPlugin::Own).unwrap();
        let mut underlay = Self { stage, pods: Vec::new() };
        underlay.declare(1500);
        for number in 0..PODS {
            underlay.add(number);
        }
        underlay
    }

    fn add(&mut self, number: usize) {
        let name = format!("web-{number}");
        let netns = self.stage.scene.bare_pod(&name).unwrap();
        let attachment = Attachment::of_pod("default", &name, &format!("c{number}{name}"), netns.path(), "eth0");
        let result = self.stage.runtime().add(&self.stage.conflist, &attachment).unwrap();
        self.pods.push((netns, attachment, result));
    }

    fn declare(&self, mtu: u32) {
        let manifest = format!(
            "apiVersion: spiderpool.spidernet.io/v2beta1\nkind: SpiderCoordinator\nmetadata: {{name: default}}\n\
             spec: {{mode: auto, podCIDRType: calico, vethMTU: {mtu}}}\n\
             status: {{phase: Synced, overlayPodCIDR: [10.233.64.0/18], serviceCIDR: [10.233.0.0/18]}}\n"
        );
        self.stage.scene.apply("coordinator.yaml", &manifest).unwrap();
    }

    fn mtus(&self) -> Vec<u32> {
        let of = |netns: &Netns| netns.scene().unwrap().link("veth0").unwrap().mtu;
        self.pods.iter().map(|(netns, ..)| of(netns)).collect()
    }

    /// The condition of the SpiderCoordinator on this node.
    fn condition(&self) -> Value {
        self.stage.agent.list("coordinator").unwrap()[0]["status"]["conditions"][0].clone()
    }

    fn until(&self, reason: &str, mtus: &[u32]) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let (condition, found) = (self.condition(), self.mtus());
            if condition["reason"] == reason && found == mtus {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{condition}, {found:?}; wanted {reason}, {mtus:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// How often each pod was changed since, by its history.
    fn applied(&self, what: &str) -> Vec<(String, u64)> {
        let entries = self.stage.agent.list("journal").unwrap();
        let of = |entry: &Value| {
            let says = entry["detail"].as_str().is_some_and(|detail| detail.contains(what));
            says.then(|| Some((entry["metadata"]["name"].as_str()?.to_owned(), entry["number"].as_u64()?))).flatten()
        };
        entries.iter().filter_map(of).collect()
    }
}

pub(crate) fn reach_all() {
    let underlay = Underlay::set("waves");
    underlay.until("AllPodsReached", &[1500; PODS]);
    underlay.declare(1400);
    underlay.until("AllPodsReached", &[1400; PODS]);
    underlay.stage.check().unwrap();
    let applied = underlay.applied("mtu 1400");
    let mut names: Vec<&str> = applied.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[0], "web-0", "the first wave is one pod: {applied:?}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), PODS, "each is changed: {applied:?}");
}

pub(crate) fn stop_at_the_first_failure() {
    let mut underlay = Underlay::set("waves-stop");
    underlay.declare(60);
    underlay.until("RolloutStopped", &[1500; PODS]);
    let condition = underlay.condition();
    assert_eq!(condition["status"], "False");
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("default/web-0") && message.contains("mtu 60") && message.contains("5 keep"), "{message}");
    let status: Value = serde_json::from_str(&underlay.stage.agent.ask(&["status", "-o", "json"]).unwrap()).unwrap();
    assert!(status["warnings"].to_string().contains("default/web-0"), "{status}");
    // Nobody else was touched, also not by an agent that starts in the middle of it.
    underlay.stage.agent.kill().unwrap();
    underlay.stage.agent.restart().unwrap();
    underlay.until("RolloutStopped", &[1500; PODS]);
    underlay.stage.check().unwrap();
    assert!(underlay.applied("mtu 60").iter().all(|(name, _)| name == "web-0"));
    // Something that works is declared.
    underlay.declare(1300);
    underlay.until("AllPodsReached", &[1300; PODS]);
    underlay.add(PODS);
    underlay.until("AllPodsReached", &[1300; PODS + 1]);
    let conflist = underlay.stage.conflist.clone().with_key("coordinator", "mode", json!("auto"));
    for (_, attachment, result) in &underlay.pods {
        underlay.stage.runtime().del(&conflist, attachment, Some(result)).unwrap();
    }
}

/// The node's rule and routes move to another table, pod by pod, and nothing is left in the one before.
pub(crate) fn another_rule_table() {
    let stage = Stage::set("rule-table", MainPlugin::Own).unwrap();
    let members = [1, 2, 3].map(|number| stage.join(number).unwrap());
    let declare = |table: u32| {
        let manifest = format!(
            "apiVersion: spiderpool.spidernet.io/v2beta1\nkind: SpiderCoordinator\nmetadata: {{name: default}}\n\
             spec: {{mode: auto, podCIDRType: calico, hostRuleTable: {table}, hijackCIDR: [169.254.0.0/16]}}\n\
             status: {{phase: Synced, overlayPodCIDR: [10.233.64.0/18], serviceCIDR: [10.233.0.0/18]}}\n"
        );
        stage.scene.apply("coordinator.yaml", &manifest).unwrap();
    };
    let in_table = |found: &Picture, table: u32| {
        let rule = format!(" lookup {table} other ");
        let route = format!("route table {table} ");
        found
            .lines()
            .filter(|line| line.starts_with(&route) || (line.starts_with("rule ") && line.contains(&rule)))
            .count()
    };
    for table in [600, 700, 500] {
        declare(table);
        let obstacle = |found: &Picture| {
            let left: usize =
                [500, 600, 700].iter().filter(|other| **other != table).map(|other| in_table(found, *other)).sum();
            let there = found.lines().filter(|line| line.starts_with(&format!("route table {table} "))).count();
            if left == 0 && there == members.len() { String::new() } else { found.text() }
        };
        Witness::open(stage.node()).unwrap().until(&format!("table {table}"), PATIENCE, obstacle).unwrap();
        for member in &members {
            let net1: std::net::Ipv4Addr =
                member.result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
            let to = std::net::SocketAddr::from((net1, PORT));
            let seen = passage(stage.node(), &member.pod.netns, &stage.scene.router, Protocol::Tcp, to).unwrap();
            assert_eq!(seen.reply_by, ["eth0"], "table {table}");
        }
    }
    stage.check().unwrap();
}
