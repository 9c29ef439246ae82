//! What is declared, and is wrong: file, line and field are told, and what was good stays in force.

use libtest_mimic::Trial;
use serde_json::json;
use tests::runtime::Attachment;

use crate::node::{
    COORDINATOR, NETWORK, Node, POOL, POOL_NAME, address, assert_refused, eventually, holds, object, pool, trial,
};
use crate::witness::Witness;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("manifests::the_last_good_version_stays", last_good_version),
        trial("manifests::one_bad_document_among_good_ones", one_among_good),
        trial("manifests::files_that_are_no_manifests", no_manifests),
        trial("manifests::a_pool_without_addresses", without_addresses),
        trial("manifests::bad_from_the_start", bad_from_the_start),
    ]
}

/// Waits for a warning with these words, in `dragline status` and in the log.
#[track_caller]
fn is_told(node: &Node, words: &[&str]) {
    eventually(&format!("a warning of {words:?}"), || {
        let warnings = node.warnings();
        let found = warnings.iter().any(|warning| words.iter().all(|word| warning.contains(word)));
        holds(found, &warnings)?;
        let is_logged =
            node.log().lines().any(|line| line.contains("WARN") && words.iter().all(|word| line.contains(word)));
        holds(is_logged, "it is not in the log")
    });
}

fn last_good_version() {
    let witness = Witness::new("m1");
    let node = &witness.node;
    let cases = [
        (POOL.replace("10.6.212.200-10.6.212.240", "10.6.212.240-10.6.212.200"), "pool.yaml:10", "spec.ips[0]"),
        (POOL.replace("10.6.212.200-10.6.212.240", "10.9.212.200"), "pool.yaml:10", "spec.ips[0]"),
        (POOL.replace("subnet: 10.6.0.0/16", "subnet: 10.6.0.0/99"), "pool.yaml:11", "spec.subnet"),
        (POOL.replace("gateway: 10.6.0.1", "gateway: 10.7.0.1"), "pool.yaml:7", "spec.gateway"),
        (POOL.replace("ipVersion: 4", "ipVersion: five"), "pool.yaml:8", "ipVersion"),
        (POOL.replace("disable: false", "disable: [perhaps"), "pool.yaml:", ""),
        (POOL.replace("v2beta1", "v1"), "pool.yaml:1", "apiVersion"),
        (POOL.replace("kind: SpiderIPPool", "kind: SpiderIPPol"), "pool.yaml:2", "SpiderIPPol"),
    ];
    for (text, place, field) in cases {
        node.scene.apply("pool.yaml", &text).unwrap();
        is_told(node, &[place, field, "the last good version stays in force"]);
        assert_eq!(node.counts(POOL_NAME), (1, 41), "{text}");
        node.scene.apply("pool.yaml", POOL).unwrap();
        eventually("no warning", || holds(node.warnings().is_empty(), node.warnings()));
    }
    // It is not only shown: it gives addresses.
    node.scene.apply("pool.yaml", &POOL.replace("10.6.212.200-", "nonsense-")).unwrap();
    is_told(node, &["pool.yaml:10", "spec.ips[0]"]);
    let netns = node.netns("next");
    let it = Attachment::of_pod("default", "next", "c-next", netns.path(), "net1");
    let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": [POOL_NAME]});
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "ipam": ipam}).to_string();
    let result = node.runtime().call("spiderpool", "ADD", Some(&it), conf.as_bytes()).unwrap().unwrap();
    assert_eq!(address(&result), "10.6.212.201/16");
    node.runtime().call("spiderpool", "DEL", Some(&it), conf.as_bytes()).unwrap();
    eventually("the other's end", || holds(node.counts(POOL_NAME).0 == 1, node.counts(POOL_NAME)));
    node.scene.apply("coordinator.yaml", &COORDINATOR.replace("hostRuleTable: 500", "hostRuleTable: 254")).unwrap();
    is_told(node, &["coordinator.yaml:", "spec.hostRuleTable"]);
    witness.is_unharmed();
}

fn one_among_good() {
    let witness = Witness::new("m2");
    let node = &witness.node;
    let bad = POOL.replace("name: 10-6-v4", "name: bad").replace("10.6.212.200-10.6.212.240", "x");
    let text = format!("{}\n---\n{bad}---\n{}\n", pool("before", &["10.6.1.1"]), pool("after", &["10.6.2.1-10.6.2.2"]));
    node.scene.apply("more.yaml", &text).unwrap();
    is_told(node, &["more.yaml:12", "spec.ips[0]", "it is left out"]);
    let names: Vec<_> =
        node.agent.list("ippools").unwrap().iter().map(|pool| pool["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["10-6-v4", "after", "before"]);
    // The same object in two files.
    node.scene.apply("zz.yaml", POOL).unwrap();
    is_told(node, &["zz.yaml", "10-6-v4", "is declared in", "pool.yaml already"]);
    witness.is_unharmed();
}

fn no_manifests() {
    let witness = Witness::new("m3");
    let folder = witness.node.scene.manifests();
    std::fs::write(folder.join("binary.yaml"), [0xff, 0xfe, 0x00, 0x80]).unwrap();
    is_told(&witness.node, &["binary.yaml"]);
    std::fs::write(folder.join("deep.json"), "[".repeat(50_000)).unwrap();
    is_told(&witness.node, &["deep.json:1"]);
    std::fs::write(folder.join("text.yaml"), "just: [a, text").unwrap();
    is_told(&witness.node, &["text.yaml:1"]);
    std::fs::create_dir(folder.join("folder.yaml")).unwrap();
    std::os::unix::fs::symlink("/nowhere", folder.join("nowhere.yaml")).unwrap();
    is_told(&witness.node, &["nowhere.yaml"]);
    std::os::unix::fs::symlink(&folder, folder.join("loop")).unwrap();
    // Others' kinds and other files are nobody's business.
    std::fs::write(folder.join("other.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n").unwrap();
    std::fs::write(folder.join("README.md"), "{").unwrap();
    witness.node.scene.apply("last.yaml", &pool("last", &["10.6.9.9"])).unwrap();
    eventually("the last file", || {
        let pools = witness.node.agent.list("ippools").unwrap();
        holds(pools.len() == 2, pools)
    });
    let warnings = witness.node.warnings();
    assert!(!warnings.iter().any(|text| text.contains("other.yaml") || text.contains("README")), "{warnings:?}");
    witness.is_unharmed();
}

fn without_addresses() {
    let none = object("SpiderIPPool", "none", &json!({"spec": {"ipVersion": 4, "subnet": "10.6.0.0/16", "ips": []}}));
    let excluded = object(
        "SpiderIPPool",
        "excluded",
        &json!({"spec": {"ipVersion": 4, "subnet": "10.6.0.0/16",
        "ips": ["10.6.212.200-10.6.212.201"], "excludeIPs": ["10.6.212.200-10.6.212.201"]}}),
    );
    let node = Node::with("m4", &[("none.json", &none), ("excluded.json", &excluded), ("c.yaml", COORDINATOR)]);
    let netns = node.netns("pod");
    let it = Attachment::of_pod("default", "x", "c-x", netns.path(), "net1");
    for name in ["none", "excluded"] {
        let told = format!("SpiderIPPool {name}: it has no addresses");
        assert!(node.warnings().contains(&told), "{:?}", node.warnings());
        let ipam = json!({"type": "spiderpool", "default_ipv4_ippool": [name]});
        let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "ipam": ipam}).to_string();
        let asked = node.runtime().call("spiderpool", "ADD", Some(&it), conf.as_bytes());
        assert_refused(asked, 11, &["all IP addresses used out", &format!("pool {name}: 0 of 0 used")]);
    }
    node.forgets_all();
}

/// An agent that starts on nothing but nonsense lives, is not ready, and becomes so.
fn bad_from_the_start() {
    let mut node = Node::asleep("m5", &[("pool.yaml", "kind: [")]);
    node.agent.launch().unwrap();
    let report = eventually("an answer", || {
        let output = node.agent.run(&["status", "-o", "json"]).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        // It reads the node meanwhile.
        holds(report["reasons"].to_string().contains("no SpiderIPPool is declared"), &report)?;
        Ok(report)
    });
    assert_eq!(report["ready"], false);
    is_told(&node, &["pool.yaml:1", "it is left out"]);
    for (file, text) in [("pool.yaml", POOL), ("coordinator.yaml", COORDINATOR), ("network.yaml", NETWORK)] {
        node.scene.apply(file, text).unwrap();
    }
    node.agent.wait_ready().unwrap();
    assert_eq!(node.warnings(), Vec::<String>::new());
}
