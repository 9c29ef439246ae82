//! A node with one attached pod, which must not notice anything.

use serde_json::Value;
use tests::runtime::{Attachment, Conflist};
use tests::scene::Pod;

use crate::node::traces::Traces;
use crate::node::{Node, attachment};

pub(crate) struct Witness {
    pub(crate) node: Node,
    pub(crate) conflist: Conflist,
    pub(crate) pod: Pod,
    pub(crate) it: Attachment,
    pub(crate) result: Value,
    pid: Option<u32>,
    in_pod: Traces,
}

impl Witness {
    pub(crate) fn new(name: &str) -> Self {
        let node = Node::new(name);
        let conflist = node.conflist().with_version("1.0.0");
        let pod = node.pod(101);
        let it = attachment(&pod, "net1");
        let result = node.runtime().add(&conflist, &it).unwrap();
        let (pid, in_pod) = (node.agent.pid(), Traces::at_rest(&pod.netns));
        Self { node, conflist, pod, it, result, pid, in_pod }
    }

    /// The agent is the same process and sound; its one attachment is as it was, and nothing else is on record.
    #[track_caller]
    pub(crate) fn is_unharmed(&self) {
        self.agent_lives();
        let attachments = self.node.agent.list("attachments").unwrap();
        assert_eq!(attachments.len(), 1, "{attachments:?}");
        assert_eq!(attachments[0]["attachment"]["key"]["container"], self.it.container.as_str());
        assert_eq!(Traces::of(&self.pod.netns), self.in_pod);
        self.node.runtime().check(&self.conflist, &self.it, &self.result).unwrap();
        self.node.has_no_drift().unwrap();
    }

    #[track_caller]
    pub(crate) fn agent_lives(&self) {
        assert_eq!(self.node.agent.pid(), self.pid);
        let output = self.node.agent.run(&["status"]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let log = self.node.log();
        assert!(!log.contains("panicked") && !log.contains("ended badly"), "{log}");
    }
}
