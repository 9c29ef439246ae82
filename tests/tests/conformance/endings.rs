//! However an attachment ends, DEL succeeds and nothing is left: in the pod, on the node, in the pool, in the store.

use std::fs;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::runtime::{Attachment, Conflist, Runtime};
use tests::scene::Pod;

use crate::chain::{Main, short};
use crate::node::traces::{Traces, store_is_empty};
use crate::node::{Node, attachment, eventually, holds, trial};

/// One way to end.
type Ending = fn(&mut Stage);

const ENDINGS: [(&str, Ending); 8] = [
    ("del_twice", del_twice),
    ("del_without_add", del_without_add),
    ("del_by_another_configuration", del_by_another_configuration),
    ("del_without_result_and_backwards", del_without_result_and_backwards),
    ("del_with_the_namespace_gone", del_with_the_namespace_gone),
    ("del_with_the_agent_dead", del_with_the_agent_dead),
    ("del_with_agent_dead_and_namespace_gone", del_with_agent_dead_and_namespace_gone),
    ("del_while_nothing_may_be_deleted_yet", del_while_nothing_may_be_deleted_yet),
];

pub(crate) fn trials() -> Vec<Trial> {
    let all = Main::BOTH.into_iter().flat_map(|main| ENDINGS.map(|(name, ending)| (main, name, ending)));
    let trials = all.enumerate().map(|(number, (main, name, ending))| {
        // Every version has its turn: 0.3.1 has no result at DEL.
        let version = ["1.0.0", "0.3.1", "0.4.0"][number % 3];
        let name = format!("endings::{}::{name}", main.name());
        trial(name, move || play(main, version, number, ending)).with_ignored_flag(!main.is_installed())
    });
    trials.collect()
}

/// A node with one pod.
struct Stage {
    node: Node,
    main: Main,
    conflist: Conflist,
    pod: Option<Pod>,
    it: Attachment,
}

fn play(main: Main, version: &str, number: usize, ending: Ending) {
    let node = Node::new(&format!("e{number}{}", short(main, version)));
    let conflist = node.conflist().with_version(version);
    let before = Traces::at_rest(&node.scene.worker);
    let pod = node.pod(102);
    let it = attachment(&pod, "net1");
    let in_pod = Traces::at_rest(&pod.netns);
    let mut stage = Stage { node, main, conflist, pod: Some(pod), it };
    ending(&mut stage);
    stage.node.forgets_all();
    if let Some(pod) = stage.pod.take() {
        in_pod.return_to(&pod.netns);
        pod.delete(&stage.node.scene.worker).unwrap();
    }
    let worker = &stage.node.scene.worker;
    before.return_to(worker);
    assert!(stage.node.agent.terminate().unwrap().success());
    store_is_empty(&stage.node.agent.settings().state_dir).unwrap();
    assert_eq!(stage.spooled(), Vec::<String>::new());
}

impl Stage {
    fn runtime(&self) -> Runtime<'_> {
        self.main.runtime(&self.node)
    }

    fn add(&self) -> Value {
        let result = self.runtime().add(&self.conflist, &self.it).unwrap();
        assert_eq!(self.node.agent.list("attachments").unwrap().len(), 1);
        result
    }

    fn del(&self, result: Option<&Value>) {
        self.runtime().del(&self.conflist, &self.it, result).unwrap();
    }

    fn delete_pod(&mut self) {
        self.pod.take().unwrap().delete(&self.node.scene.worker).unwrap();
    }

    fn spooled(&self) -> Vec<String> {
        let files = fs::read_dir(self.node.agent.settings().state_dir.join("spool")).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn del_twice(stage: &mut Stage) {
    let result = stage.add();
    stage.del(Some(&result));
    stage.del(Some(&result));
}

fn del_without_add(stage: &mut Stage) {
    stage.del(None);
}

/// The network was changed between ADD and DEL: another master, another pool, and no coordinator any more.
fn del_by_another_configuration(stage: &mut Stage) {
    stage.add();
    let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": ["another"]});
    let mut other =
        stage.conflist.clone().with_key("macvlan", "master", json!("cilium_host")).with_key("macvlan", "ipam", ipam);
    other.plugins.truncate(1);
    if stage.main == Main::Ours {
        // Ours needs no word of the configuration; the reference one has to be told whom to ask, and wants a master.
        other = other
            .with_key("macvlan", "ipam", json!({"type": "another"}))
            .with_key("macvlan", "mode", json!(5))
            .with_key("macvlan", "master", json!("gone0"));
    }
    stage.runtime().del(&other, &stage.it, None).unwrap();
}

/// In no order that a runtime should have, and without what ADD answered.
fn del_without_result_and_backwards(stage: &mut Stage) {
    stage.add();
    let mut backwards = stage.conflist.clone();
    backwards.plugins.reverse();
    stage.runtime().del(&backwards, &stage.it, None).unwrap();
}

fn del_with_the_namespace_gone(stage: &mut Stage) {
    let result = stage.add();
    stage.delete_pod();
    stage.del(Some(&result));
    // And with the path empty, as runtimes have it that know.
    stage.it.netns = String::new();
    stage.del(Some(&result));
}

fn del_with_the_agent_dead(stage: &mut Stage) {
    let result = stage.add();
    stage.node.agent.kill().unwrap();
    stage.del(Some(&result));
    assert!(!stage.spooled().is_empty());
    stage.node.agent.restart().unwrap();
}

fn del_with_agent_dead_and_namespace_gone(stage: &mut Stage) {
    let result = stage.add();
    stage.node.agent.kill().unwrap();
    stage.delete_pod();
    stage.del(Some(&result));
    stage.node.agent.restart().unwrap();
}

/// The spool is taken before the agent knows what is declared: it must not forget what it may not take away yet, though
/// link and address may be gone already.
fn del_while_nothing_may_be_deleted_yet(stage: &mut Stage) {
    let result = stage.add();
    stage.node.agent.kill().unwrap();
    stage.del(Some(&result));
    let manifests = stage.node.scene.manifests();
    let away = manifests.with_extension("away");
    fs::rename(&manifests, &away).unwrap();
    stage.node.agent.launch().unwrap();
    eventually("a look at the withdrawn attachment", || {
        let output = stage.node.agent.run(&["get", "attachments", "-o", "json"]).unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let Some(found) = list["items"].get(0) else { panic!("it is forgotten: {}", stage.node.log()) };
        let is_looked_at = found["outcome"]["generation"] == found["attachment"]["generation"];
        holds(found["state"] == "Withdrawn" && is_looked_at && stage.spooled().is_empty(), found)
    });
    fs::rename(&away, &manifests).unwrap();
    stage.node.agent.wait_ready().unwrap();
}
