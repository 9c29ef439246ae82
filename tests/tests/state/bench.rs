//! A node with attached pods, its agent, and the store's commands as a person gives them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tests::agent::{AgentProcess, Settings};
use tests::metrics::Metrics;
use tests::runtime::{Attachment, Conflist};
use tests::scene::{Pod, WORKER};

use crate::dump::Dump;
use crate::node::{self, Node, attachment, eventually, holds, stderr};

/// A pod that the runtime has attached.
pub(crate) struct Member {
    pub(crate) pod: Pod,
    pub(crate) it: Attachment,
    pub(crate) result: Value,
}

impl Member {
    /// Its address without the prefix length.
    pub(crate) fn address(&self) -> String {
        bare(&node::address(&self.result))
    }
}

fn bare(address: &str) -> String {
    address.split('/').next().unwrap().to_owned()
}

/// The node, and who is attached there.
pub(crate) struct Bench {
    pub(crate) node: Node,
    pub(crate) conflist: Conflist,
    pub(crate) members: Vec<Member>,
}

impl Bench {
    /// A node with so many pods; one more has been there and gone.
    pub(crate) fn new(name: &str, pods: u8) -> Self {
        Self::on(Node::new(name), pods)
    }

    /// The same on a node that is there; its agent is started.
    pub(crate) fn on(mut node: Node, pods: u8) -> Self {
        if node.agent.pid().is_none() {
            node.agent.restart().unwrap();
        }
        let conflist = node.conflist().with_version("1.0.0");
        let mut bench = Self { node, conflist, members: Vec::new() };
        (0..pods).for_each(|_| bench.join());
        let gone = bench.attached(100);
        bench.leave(gone);
        bench
    }

    /// Attaches one more pod.
    pub(crate) fn join(&mut self) {
        let number = 101 + u8::try_from(self.members.len()).unwrap();
        let member = self.attached(number);
        self.members.push(member);
    }

    /// A pod of that number, attached and not kept.
    pub(crate) fn attached(&self, number: u8) -> Member {
        let pod = self.node.pod(number);
        let it = attachment(&pod, "net1");
        let result = self.node.runtime().add(&self.conflist, &it).unwrap();
        Member { pod, it, result }
    }

    /// Detaches a pod, and waits until nothing of it is on record.
    pub(crate) fn leave(&self, member: Member) {
        self.node.runtime().del(&self.conflist, &member.it, Some(&member.result)).unwrap();
        self.has_forgotten(&member);
        member.pod.delete(&self.node.scene.worker).unwrap();
    }

    /// Waits until nothing of a pod is on record.
    pub(crate) fn has_forgotten(&self, member: &Member) {
        eventually(&format!("the end of {}", member.pod.name), || {
            let holders = self.holders();
            holds(!holders.contains_key(&member.it.container), holders)
        });
    }

    /// Addresses by container, of everybody who is on record.
    pub(crate) fn holders(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut holders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for found in self.node.agent.list("attachments").unwrap() {
            let attachment = &found["attachment"];
            let addresses = attachment["addresses"].as_array().unwrap().iter();
            let container = attachment["key"]["container"].as_str().unwrap().to_owned();
            let of_container = holders.entry(container).or_default();
            of_container.extend(addresses.map(|address| bare(address["address"].as_str().unwrap())));
        }
        holders
    }

    /// What [`holders`](Self::holders) must say.
    pub(crate) fn expected(&self) -> BTreeMap<String, BTreeSet<String>> {
        let of = |member: &Member| (member.it.container.clone(), BTreeSet::from([member.address()]));
        self.members.iter().map(of).collect()
    }

    /// The agent has every pod on record with its address, wants what the kernel has, and has sent it nothing.
    #[track_caller]
    pub(crate) fn knows_its_pods_and_touches_nothing(&self) {
        assert_eq!(self.holders(), self.expected());
        eventually("a look at every sandbox", || {
            let passes = self.metric("reconcile_passes");
            holds(passes >= self.members.len() as u64, passes)
        });
        eventually("no drift", || self.node.has_no_drift());
        assert_eq!(self.metric("netlink_changes"), 0, "{}", self.node.log());
        let runtime = self.node.runtime();
        for member in &self.members {
            runtime.check(&self.conflist, &member.it, &member.result).unwrap();
        }
    }

    /// One of the agent's numbers.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        Metrics::fetch(&self.node.scene.worker).unwrap().of(name).unwrap()
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.node.agent.settings().state_dir.clone()
    }

    /// A folder beside the state directory.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.node.scene.folder().join(name)
    }

    /// Lets the agent go on with another state directory; the one it has is stopped.
    pub(crate) fn move_to(&mut self, state_dir: &Path) {
        self.node.agent.terminate().unwrap();
        let settings = Settings { state_dir: state_dir.to_owned(), ..self.node.agent.settings().clone() };
        self.node.agent = AgentProcess::stopped(self.node.agent.program(), &self.node.scene.worker, settings);
    }

    /// An agent that is to end by itself, where the node's own one would be.
    pub(crate) fn agent_that_ends(&self) -> Output {
        let settings = self.node.agent.settings();
        let paths =
            [&settings.state_dir, &settings.socket, settings.source.path()].map(|path: &Path| path.to_str().unwrap());
        let [state_dir, socket, manifests] = paths;
        let places = ["--state-dir", state_dir, "--socket", socket, "--manifests", manifests];
        let further = ["--node-name", &settings.node_name, "--log", "off", "--http", "127.0.0.1:9811"];
        let mut command = self.command(&[&["agent"], &places[..], &further].concat());
        self.node.scene.worker.spawn(&mut command).unwrap().wait_with_output().unwrap()
    }

    /// A command line of `dragline` that has nothing from the environment but the agent's socket.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.node.agent.program());
        command
            .args(arguments)
            .env_clear()
            .env("DRAGLINE_SOCKET", &self.node.agent.settings().socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `dragline ARGUMENTS`.
    pub(crate) fn dragline(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same with something on standard input.
    pub(crate) fn dragline_with(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        match child.stdin.take().unwrap().write_all(stdin) {
            // It may have answered without reading.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
            _ => {}
        }
        child.wait_with_output().unwrap()
    }

    /// `dragline dump` of the running agent.
    pub(crate) fn dump(&self) -> Dump {
        dumped(self.dragline(&["dump"]))
    }

    /// `dragline dump --state-dir` of one that no agent has open.
    pub(crate) fn dump_of(&self, state_dir: &Path) -> Dump {
        dumped(self.dragline(&["dump", "--state-dir", state_dir.to_str().unwrap()]))
    }

    /// `dragline restore --state-dir FOLDER --node-name NODE FLAGS`, whatever comes of it.
    pub(crate) fn try_restore(&self, state_dir: &Path, dump: &str, flags: &[&str]) -> Output {
        let mut arguments = vec!["restore", "--state-dir", state_dir.to_str().unwrap()];
        if !flags.contains(&"--node-name") {
            arguments.extend(["--node-name", WORKER]);
        }
        arguments.extend(flags);
        self.dragline_with(&arguments, dump.as_bytes())
    }

    /// The same, and it has to succeed; what it said.
    #[track_caller]
    pub(crate) fn restore(&self, state_dir: &Path, dump: &Dump, flags: &[&str]) -> String {
        let output = self.try_restore(state_dir, dump.text(), flags);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
        stderr(&output)
    }
}

#[track_caller]
pub(crate) fn dumped(output: Output) -> Dump {
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    Dump::new(String::from_utf8(output.stdout).unwrap())
}

/// One line that says what is wrong, in these words, and an exit code.
#[track_caller]
pub(crate) fn assert_ends(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("dragline: ") && words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
}
