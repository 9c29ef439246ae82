//! A node with its agent, and what the tests about single calls ask of it.

// Each of the three programs that stand on this uses a part of it.
#![allow(dead_code)]

pub(crate) mod traces;

use std::fs;
use std::net::Ipv4Addr;
use std::panic::{UnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Output, exit};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use netlink::testbed::Netns;
use serde_json::{Value, json};
use tests::agent::AgentProcess;
use tests::binaries::Binaries;
use tests::runtime::{Attachment, Conflist, Runtime, RuntimeError, link_reference_macvlan, reference_plugins};
use tests::scene::{Pod, Scene};

/// What must come to pass does so in this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// The quick start's pool, coordinator and network.
pub(crate) const POOL: &str = include_str!("../../../examples/quickstart/ippool.yaml");
pub(crate) const COORDINATOR: &str = include_str!("../../../examples/quickstart/coordinator.yaml");
pub(crate) const NETWORK: &str = include_str!("../../../examples/quickstart/multusconfig.yaml");
/// The quick start's pool.
pub(crate) const POOL_NAME: &str = "10-6-v4";

/// A program of tests: builds what is tested, goes into a world of its own, runs.
pub(crate) fn run(trials: impl FnOnce() -> Vec<Trial>) {
    let arguments = Arguments::from_args();
    let failed = |what: &dyn std::fmt::Display| {
        eprintln!("there is nothing to test in: {what}");
        exit(1)
    };
    if let Err(error) = Binaries::build() {
        failed(&error);
    }
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        failed(&error);
    }
    libtest_mimic::run(&arguments, trials()).exit();
}

/// A test by name; a panic is a failure.
pub(crate) fn trial(name: impl Into<String>, test: impl FnOnce() + Send + UnwindSafe + 'static) -> Trial {
    Trial::test(name, move || catch_unwind(test).map_err(|panic| Failed::from(text_of(&*panic))))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}

/// Asks again until it holds. There is no event to wait for from outside: the asked thing is another process's.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(found) => return found,
            Err(found) => assert!(Instant::now() < until, "{what} did not come to pass in {PATIENCE:?}: {found}"),
        }
    }
}

/// `Ok` when it holds, else what there is instead.
pub(crate) fn holds(condition: bool, found: impl std::fmt::Debug) -> Result<(), String> {
    if condition { Ok(()) } else { Err(format!("{found:?}")) }
}

/// A pool of 10.6.0.0/16 without gateway.
pub(crate) fn pool(name: &str, ips: &[&str]) -> String {
    let spec = json!({"ipVersion": 4, "subnet": "10.6.0.0/16", "ips": ips});
    object("SpiderIPPool", name, &json!({ "spec": spec }))
}

/// An object of our group as a manifest.
pub(crate) fn object(kind: &str, name: &str, rest: &Value) -> String {
    let mut object = rest.clone();
    object["apiVersion"] = json!("spiderpool.spidernet.io/v2beta1");
    object["kind"] = json!(kind);
    object["metadata"]["name"] = json!(name);
    object.to_string()
}

/// A node whose agent is ready.
pub(crate) struct Node {
    pub(crate) scene: Scene,
    pub(crate) agent: AgentProcess,
    name: String,
}

impl Node {
    /// One that has the quick start's objects.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, &[("pool.yaml", POOL), ("coordinator.yaml", COORDINATOR), ("network.yaml", NETWORK)])
    }

    /// One that has these manifests.
    pub(crate) fn with(name: &str, manifests: &[(&str, &str)]) -> Self {
        let mut node = Self::asleep(name, manifests);
        node.agent.restart().unwrap();
        node
    }

    /// One whose agent is not started.
    pub(crate) fn asleep(name: &str, manifests: &[(&str, &str)]) -> Self {
        let scene = Scene::build(name).unwrap();
        for (file, text) in manifests {
            scene.apply(file, text).unwrap();
        }
        let binaries = Binaries::build().unwrap();
        binaries.install_plugins(&scene.plugins()).unwrap();
        let agent = AgentProcess::stopped(&binaries.dragline, &scene.worker, scene.agent_settings());
        Self { scene, agent, name: name.to_owned() }
    }

    /// Calls our plugins.
    pub(crate) fn runtime(&self) -> Runtime<'_> {
        self.searching(vec![self.scene.plugins()])
    }

    /// The same with the reference plugin as `macvlan`.
    pub(crate) fn runtime_with_reference(&self) -> Runtime<'_> {
        let folder = self.scene.folder().join("reference");
        link_reference_macvlan(&folder, &reference_plugins().unwrap()).unwrap();
        self.searching(vec![folder, self.scene.plugins()])
    }

    fn searching(&self, path: Vec<PathBuf>) -> Runtime<'_> {
        let settings = self.scene.agent_settings();
        Runtime::new(&self.scene.worker, path)
            .with_env("DRAGLINE_SOCKET", settings.socket)
            .with_env("DRAGLINE_STATE_DIR", settings.state_dir)
    }

    /// The conflist that the agent made of the quick start's network.
    pub(crate) fn conflist(&self) -> Conflist {
        let file = self.agent.settings().state_dir.join("net.d/default_macvlan-ens192.conflist");
        eventually("the conflist", || Conflist::read(&file).map_err(|error| error.to_string()))
    }

    /// A pod with eth0.
    pub(crate) fn pod(&self, number: u8) -> Pod {
        self.scene.pod(&format!("pod{number}"), Ipv4Addr::new(10, 233, 120, number)).unwrap()
    }

    /// A namespace without anything.
    pub(crate) fn netns(&self, role: &str) -> Netns {
        Netns::create(&format!("{}-{role}", self.name)).unwrap()
    }

    /// Addresses in use and in all, as `dragline get ippools` has them.
    pub(crate) fn counts(&self, pool: &str) -> (i64, i64) {
        let pools = self.agent.list("ippools").unwrap();
        let found = pools.iter().find(|found| found["metadata"]["name"] == pool).unwrap();
        let count = |key: &str| found["status"][key].as_i64().unwrap();
        (count("allocatedIPCount"), count("totalIPCount"))
    }

    /// Waits until no attachment is left and no address in use.
    pub(crate) fn forgets_all(&self) {
        eventually("forgetting everything", || {
            let attachments = self.agent.list("attachments").unwrap();
            holds(attachments.is_empty(), attachments)?;
            let pools = self.agent.list("ippools").unwrap();
            let is_unused = |pool: &Value| pool["status"]["allocatedIPCount"].as_i64().unwrap_or_default() == 0;
            holds(pools.iter().all(is_unused), pools)?;
            self.has_no_drift()
        });
    }

    /// Desired and kernel state agree.
    pub(crate) fn has_no_drift(&self) -> Result<(), String> {
        let check = self.agent.run(&["check"]).unwrap();
        holds(check.status.success(), String::from_utf8_lossy(&check.stdout))
    }

    /// The warnings of `dragline status`.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let report = self.status();
        report["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    /// What `dragline status` says.
    pub(crate) fn status(&self) -> Value {
        let output = self.agent.run(&["status", "-o", "json"]).unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The agent's log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.agent.settings().log).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Before its files go.
        let _ = self.agent.kill();
    }
}

/// The attachment of a pod.
pub(crate) fn attachment(pod: &Pod, ifname: &str) -> Attachment {
    Attachment::of_pod("default", &pod.name, &format!("c-{}", pod.name), pod.netns.path(), ifname)
}

/// The address of a result.
pub(crate) fn address(result: &Value) -> String {
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(1), "{result}");
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

/// The CNI error of a refusal: code and text.
pub(crate) fn refusal<T: std::fmt::Debug>(outcome: Result<T, RuntimeError>) -> (u32, String) {
    let error = outcome.unwrap_err();
    let refused = error.cni().unwrap_or_else(|| panic!("no CNI error: {error}"));
    (refused.code, refused.to_string())
}

/// Refused with this code and these words.
#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, RuntimeError>, code: u32, words: &[&str]) {
    let (found, text) = refusal(outcome);
    assert!(
        found == code && words.iter().all(|word| text.contains(word)),
        "code {found}, not {code} {words:?}: {text}"
    );
}

/// What a program said on standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
