//! Our IPAM called alone, without any other plugin.

use std::thread;

use netlink::testbed::Netns;
use serde_json::{Value, json};
use tests::runtime::{Attachment, Runtime, RuntimeError};

use crate::node::{Node, address};

/// A sandbox that has a namespace and nothing else.
pub(crate) struct Sandbox {
    pub(crate) netns: Netns,
    pub(crate) it: Attachment,
}

impl Sandbox {
    pub(crate) fn new(node: &Node, name: &str) -> Self {
        Self::of_pod(node, "default", name)
    }

    /// Of that Kubernetes namespace.
    pub(crate) fn of_pod(node: &Node, namespace: &str, name: &str) -> Self {
        let netns = node.netns(name);
        let it = Attachment::of_pod(namespace, name, &format!("c-{name}"), netns.path(), "net1");
        Self { netns, it }
    }

    pub(crate) fn many(node: &Node, count: usize) -> Vec<Self> {
        (0..count).map(|number| Self::new(node, &format!("s{number}"))).collect()
    }
}

/// Calls for one list of pools.
pub(crate) struct Ipam<'a> {
    runtime: Runtime<'a>,
    conf: String,
}

impl<'a> Ipam<'a> {
    /// With these pools in the network configuration; with none, it names none.
    pub(crate) fn new(node: &'a Node, pools: &[&str]) -> Self {
        let mut ipam = json!({"type": "spiderpool"});
        if !pools.is_empty() {
            ipam["default_ipv4_ippool"] = json!(pools);
        }
        let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "ipam": ipam}).to_string();
        Self { runtime: node.runtime(), conf }
    }

    pub(crate) fn try_add(&self, sandbox: &Sandbox) -> Result<Value, RuntimeError> {
        let printed = self.runtime.call("spiderpool", "ADD", Some(&sandbox.it), self.conf.as_bytes())?;
        Ok(printed.unwrap())
    }

    /// The address that ADD gives.
    #[track_caller]
    pub(crate) fn add(&self, sandbox: &Sandbox) -> String {
        address(&self.try_add(sandbox).unwrap())
    }

    #[track_caller]
    pub(crate) fn del(&self, sandbox: &Sandbox) {
        self.del_nic(&sandbox.it);
    }

    /// The address that ADD gives, for any interface.
    #[track_caller]
    pub(crate) fn add_nic(&self, it: &Attachment) -> String {
        address(&self.runtime.call("spiderpool", "ADD", Some(it), self.conf.as_bytes()).unwrap().unwrap())
    }

    #[track_caller]
    pub(crate) fn del_nic(&self, it: &Attachment) {
        let printed = self.runtime.call("spiderpool", "DEL", Some(it), self.conf.as_bytes());
        assert_eq!(printed.unwrap(), None);
    }

    /// GC with these attachments alone alive.
    #[track_caller]
    pub(crate) fn gc(&self, valid: &[&Attachment]) {
        let mut conf: Value = serde_json::from_str(&self.conf).unwrap();
        let valid = valid.iter().map(|it| json!({"containerID": it.container, "ifname": it.ifname}));
        conf["cni.dev/valid-attachments"] = valid.collect();
        conf["cniVersion"] = json!("1.1.0");
        let printed = self.runtime.call("spiderpool", "GC", None, conf.to_string().as_bytes());
        assert_eq!(printed.unwrap(), None);
    }

    /// All at a time.
    pub(crate) fn add_at_once(&self, sandboxes: &[Sandbox]) -> Vec<Result<Value, RuntimeError>> {
        thread::scope(|scope| {
            let started: Vec<_> = sandboxes.iter().map(|sandbox| scope.spawn(move || self.try_add(sandbox))).collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// The same with DEL.
    pub(crate) fn del_at_once(&self, sandboxes: &[Sandbox]) {
        thread::scope(|scope| sandboxes.iter().for_each(|sandbox| drop(scope.spawn(move || self.del(sandbox)))));
    }
}
