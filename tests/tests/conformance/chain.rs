//! The quick start's chain in every version, with our macvlan and with the reference one.

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::runtime::{Conflist, Runtime, reference_plugins};
use tests::scene::Pod;

use crate::node::traces::Traces;
use crate::node::{Node, POOL_NAME, address, assert_refused, attachment, trial};
use crate::shape::{Printer, check};

pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Which `macvlan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Main {
    Ours,
    Reference,
}

impl Main {
    pub(crate) const BOTH: [Self; 2] = [Self::Ours, Self::Reference];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "our-macvlan",
            Self::Reference => "reference-macvlan",
        }
    }

    pub(crate) fn runtime(self, node: &Node) -> Runtime<'_> {
        match self {
            Self::Ours => node.runtime(),
            Self::Reference => node.runtime_with_reference(),
        }
    }

    /// Whether it can be tested here: the reference plugin has to be installed (containernetworking-plugins).
    pub(crate) fn is_installed(self) -> bool {
        self == Self::Ours || reference_plugins().is_some()
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let all = Main::BOTH.into_iter().flat_map(|main| VERSIONS.map(|version| (main, version)));
    let chain = all.map(|(main, version)| {
        let name = format!("chain::{}::{version}", main.name());
        trial(name, move || chain(main, version)).with_ignored_flag(!main.is_installed())
    });
    let ipam = VERSIONS.map(|version| trial(format!("chain::ipam::{version}"), move || ipam_alone(version)));
    chain.chain(ipam).collect()
}

/// The name of a scene: namespaces and folders are called by it.
pub(crate) fn short(main: Main, version: &str) -> String {
    format!("{}{}", if main == Main::Ours { "o" } else { "r" }, version.replace('.', ""))
}

fn chain(main: Main, version: &str) {
    let node = Node::new(&short(main, version));
    let runtime = main.runtime(&node);
    let conflist = node.conflist().with_version(version);
    let pod = node.pod(101);
    let (in_pod, on_node) = (Traces::at_rest(&pod.netns), Traces::at_rest(&node.scene.worker));
    if !speaks(&runtime, version) {
        refused_by_the_main_plugin(&node, &runtime, &conflist, &pod);
        return;
    }
    let it = attachment(&pod, "net1");
    let result = runtime.add(&conflist, &it).unwrap();
    check(&result, version, Printer::Main { ifname: "net1", sandbox: pod.netns.path() }).unwrap();
    assert_eq!(address(&result), "10.6.212.200/16");
    let converged = Traces::at_rest(&pod.netns);
    assert_ne!(converged, in_pod);

    again(&runtime, &conflist, &pod, &result, main);
    assert_eq!(Traces::of(&pod.netns), converged, "a second ADD changes nothing");
    assert_eq!(node.counts(POOL_NAME), (1, 41));

    let checked = runtime.check(&conflist, &it, &result);
    if version == "0.3.1" {
        assert_refused(checked, 1, &["config version does not allow CHECK"]);
    } else {
        checked.unwrap();
    }
    runtime.del(&conflist, &it, Some(&result)).unwrap();
    runtime.del(&conflist, &it, Some(&result)).unwrap();
    node.forgets_all();
    // The host's part goes after the pod's.
    in_pod.return_to(&pod.netns);
    on_node.return_to(&node.scene.worker);
}

/// Whether all plugins of the chain speak a version.
fn speaks(runtime: &Runtime<'_>, version: &str) -> bool {
    let answer = runtime.version("macvlan", "1.0.0").unwrap();
    answer["supportedVersions"].as_array().unwrap().iter().any(|spoken| spoken == version)
}

/// A reference plugin that is older than the version: nobody is asked anything, and DEL does no harm.
fn refused_by_the_main_plugin(node: &Node, runtime: &Runtime<'_>, conflist: &Conflist, pod: &Pod) {
    let it = attachment(pod, "net1");
    assert_refused(runtime.add(conflist, &it), 1, &[]);
    let alone = Conflist { plugins: conflist.plugins[1..].to_vec(), ..conflist.clone() };
    runtime.del(&alone, &it, None).unwrap();
    node.forgets_all();
}

/// ADD of our plugins a second time. The reference macvlan refuses an interface that is there.
fn again(runtime: &Runtime<'_>, conflist: &Conflist, pod: &Pod, result: &Value, main: Main) {
    let it = attachment(pod, "net1");
    if main == Main::Ours {
        assert_eq!(runtime.add(conflist, &it).unwrap(), *result);
        return;
    }
    let conf = |index: usize| {
        let mut conf = Value::Object(conflist.plugins[index].clone());
        conf["name"] = json!(conflist.name);
        conf["cniVersion"] = json!(conflist.version);
        conf
    };
    let allocated = runtime.call("spiderpool", "ADD", Some(&it), conf(0).to_string().as_bytes()).unwrap().unwrap();
    check(&allocated, &conflist.version, Printer::Ipam).unwrap();
    assert_eq!(allocated["ips"][0]["address"], result["ips"][0]["address"]);
    let mut coordinator = conf(1);
    coordinator["prevResult"] = result.clone();
    let coordinated = runtime.call("coordinator", "ADD", Some(&it), coordinator.to_string().as_bytes());
    assert_eq!(coordinated.unwrap().unwrap(), *result);
}

/// Our IPAM without anything around it.
fn ipam_alone(version: &str) {
    let node = Node::new(&format!("i{}", version.replace('.', "")));
    let (runtime, netns) = (node.runtime(), node.netns("pod"));
    let it = tests::runtime::Attachment::of_pod("default", "alone", "c-alone", netns.path(), "net1");
    let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": [POOL_NAME]});
    let conf = json!({"cniVersion": version, "name": "net", "type": "macvlan", "ipam": ipam}).to_string();
    let add = || runtime.call("spiderpool", "ADD", Some(&it), conf.as_bytes()).unwrap().unwrap();
    let result = add();
    check(&result, version, Printer::Ipam).unwrap();
    assert_eq!(address(&result), "10.6.212.200/16");
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.6.0.1"}]));
    assert_eq!(add(), result);
    for _ in 0..2 {
        assert_eq!(runtime.call("spiderpool", "DEL", Some(&it), conf.as_bytes()).unwrap(), None);
    }
    node.forgets_all();
}
