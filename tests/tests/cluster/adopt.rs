//! A node that ran Spiderpool becomes dragline's, and its pods notice nothing.

mod afterwards;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ipnetwork::IpNetwork;
use libtest_mimic::Trial;
use netlink::testbed::{Netns, Scene};
use plan::object::Observed;
use serde_json::{Value, json};
use tests::binaries::Binaries;
use tests::cluster::{Cluster, Kubectl};

use crate::bed::alone;

pub(crate) fn trials() -> Vec<Trial> {
    let own = vec![alone("adopt::a_node_of_spiderpool_becomes_draglines", adopted)];
    [own, afterwards::trials()].into_iter().flatten().collect()
}

const NODE: &str = "adopt-a";

/// What Spiderpool leaves: a pool, endpoints, a pod that lives, one whose namespace is gone, one of another node.
struct Left {
    kubeconfig: PathBuf,
    folder: PathBuf,
    pod: Netns,
}

impl Left {
    fn new(cluster: &Cluster) -> Self {
        let kubectl = cluster.kubectl();
        kubectl.apply_crds().unwrap();
        pool(kubectl);
        for (name, node, address) in [("lives", NODE, 10), ("gone", NODE, 11), ("elsewhere", "adopt-b", 12)] {
            endpoint(kubectl, name, node, address);
        }
        let pod = Netns::create("adopt-lives").unwrap();
        let mut scene = pod.scene().unwrap();
        scene.bridge("eth0").unwrap();
        scene.address("eth0", "10.61.0.10/16".parse::<IpNetwork>().unwrap()).unwrap();
        scene.up("eth0").unwrap();
        let folder = cluster.folder().join("adopt");
        fs::create_dir_all(folder.join("results")).unwrap();
        let cached = json!({
            "kind": "cniCacheV1", "containerId": "c0ffee", "ifName": "eth0", "networkName": "macvlan",
            "netns": format!("/var{}", pod.path()), "cniArgs": [["K8S_POD_UID", "uid-lives"]],
        });
        fs::write(folder.join("results/macvlan-c0ffee-eth0"), cached.to_string()).unwrap();
        Self { kubeconfig: cluster.kubeconfig().to_owned(), folder, pod }
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// `dragline adopt FLAGS`, and whether it left nothing.
    fn adopt(&self, flags: &[&str]) -> (bool, String) {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut command = Command::new(&Binaries::build().unwrap().dragline);
        command.arg("adopt").args(flags).env_clear();
        command.args(["--node-name", NODE, "--netns-dir", "/run/netns"]);
        command.args(["--kubeconfig", &text(&self.kubeconfig), "--state-dir", &text(&self.state_dir())]);
        command.args(["--cni-cache-dir", &text(&self.folder.join("results"))]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(matches!(status.code(), Some(0 | 1)) && !stdout.is_empty(), "{status}: {stderr}");
        (status.success(), String::from_utf8(stdout).unwrap())
    }

    fn observe(&self) -> (Observed, Observed) {
        (Scene::here().unwrap().observe().unwrap(), self.pod.scene().unwrap().observe().unwrap())
    }
}

fn pool(kubectl: &Kubectl) {
    let pool = json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": "adopt"},
        "spec": {"subnet": "10.61.0.0/16", "ips": ["10.61.0.10-10.61.0.50"], "gateway": "10.61.0.1"},
    });
    kubectl.apply(&pool.to_string()).unwrap();
    let user = |name: &str| json!({"pod": format!("default/{name}"), "podUid": format!("uid-{name}")});
    // .13 has lost its endpoint; .12 stands in its endpoint only.
    let users = json!({"10.61.0.10": user("lives"), "10.61.0.11": user("gone"), "10.61.0.13": user("lost")});
    let status = json!({"status": {"allocatedIPs": users.to_string(), "allocatedIPCount": 3, "totalIPCount": 41}});
    let patch = ["patch", "spiderippool", "adopt", "--subresource=status", "--type=merge", "--patch"];
    kubectl.ask(&[&patch[..], &[&status.to_string()]].concat(), "").unwrap();
}

fn endpoint(kubectl: &Kubectl, name: &str, node: &str, last: u8) {
    let nic = json!({
        "interface": "eth0", "ipv4": format!("10.61.0.{last}/16"), "ipv4Pool": "adopt", "ipv4Gateway": "10.61.0.1",
        "vlan": 0, "cleanGateway": false,
    });
    let endpoint = json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint",
        "metadata": {"name": name, "namespace": "default"},
        "status": {
            "current": {"uid": format!("uid-{name}"), "node": node, "ips": [nic]},
            "ownerControllerType": "Pod", "ownerControllerName": name,
        },
    });
    kubectl.apply(&endpoint.to_string()).unwrap();
}

/// The parts of all slots of the pool's only shard.
fn parts(kubectl: &Kubectl) -> BTreeSet<String> {
    let shards = kubectl.json(&["get", "spideripshards"]).unwrap();
    let slots = shards["items"][0]["status"]["slots"].as_array().cloned().unwrap_or_default();
    let texts = slots.iter().filter_map(Value::as_str).flat_map(|text| text.split(',').map(str::to_owned));
    texts.filter(|part| !part.is_empty()).collect()
}

/// State and note by pod, of a table.
fn states(table: &str) -> BTreeSet<(String, String)> {
    let cells = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    table.lines().skip(1).map(cells).map(|cells| (cells[1].clone(), cells[0].clone())).collect()
}

fn expected(all: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    all.iter().map(|(pod, state)| (format!("default/{pod}"), (*state).to_owned())).collect()
}

fn adopted(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl();
    let left = Left::new(cluster);
    let before = left.observe();

    let kept = expected(&[("lives", "kept"), ("gone", "kept"), ("elsewhere", "kept"), ("lost", "left")]);
    let (_, table) = left.adopt(&["--cluster", "--dry-run"]);
    assert_eq!(states(&table), kept, "{table}");
    assert_eq!(parts(kubectl), BTreeSet::new());
    let (is_whole, table) = left.adopt(&["--cluster"]);
    assert_eq!((states(&table), is_whole), (kept, false), "{table}");
    // 41 addresses: one to a slot.
    let part = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<String>>();
    let reserved = part(&["=_adopt/adopt-a", "=_adopt/adopt-b", "=_adopt/_"]);
    assert_eq!(parts(kubectl), reserved);

    let taken = expected(&[("lives", "adopted"), ("gone", "left")]);
    let (_, table) = left.adopt(&["--dry-run"]);
    assert_eq!(states(&table), taken, "{table}");
    assert!(!left.state_dir().exists());
    assert_eq!(parts(kubectl), reserved);
    let (is_whole, table) = left.adopt(&[]);
    assert_eq!((states(&table), is_whole), (taken, false), "{table}");
    assert!(table.contains("no network namespace has 10.61.0.11"), "{table}");
    assert_eq!(parts(kubectl), part(&["adopt-a", "=_adopt/adopt-a", "=_adopt/adopt-b", "=_adopt/_"]));
    let lease = kubectl.json(&["get", "lease", "dragline-node-adopt-a", "--namespace", "kube-system"]).unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 0, "{lease}");

    let (snapshot, _) = store::load_offline(&left.state_dir().join("store")).unwrap();
    assert_eq!(store::check::check(&snapshot), []);
    let attachment = &snapshot.attachments[0];
    assert_eq!((attachment.key.to_string(), attachment.pod.uid.as_str()), ("c0ffee/eth0".into(), "uid-lives"));
    let found = before.1.links.iter().find(|link| link.name == "eth0").unwrap();
    assert_eq!(attachment.foreign_link.map(|link| (link.index, Some(link.mac))), Some((found.index, found.mac)));
    assert!(snapshot.leases.iter().all(|lease| lease.first == lease.last && lease.epoch == 1), "{:?}", snapshot.leases);
    assert_eq!((snapshot.sandboxes.len(), snapshot.leases.len()), (1, 1));

    // Once more, in whichever order, nothing changes.
    let (_, table) = left.adopt(&[]);
    assert_eq!(states(&table), expected(&[("lives", "known"), ("gone", "left")]), "{table}");
    left.adopt(&["--cluster"]);
    assert_eq!(parts(kubectl), part(&["adopt-a", "=_adopt/adopt-a", "=_adopt/adopt-b", "=_adopt/_"]));
    assert_eq!(left.observe(), before, "the kernel is not touched");

    // What nobody uses any more comes back.
    kubectl.ask(&["delete", "spiderendpoint", "gone"], "").unwrap();
    let none = r#"{"status":{"allocatedIPs":null}}"#;
    kubectl
        .ask(&["patch", "spiderippool", "adopt", "--subresource=status", "--type=merge", "--patch", none], "")
        .unwrap();
    let (is_whole, table) = left.adopt(&["--cluster"]);
    assert!(is_whole, "{table}");
    assert_eq!(parts(kubectl), part(&["adopt-a", "=_adopt/adopt-b"]));
}
