//! Standard input and environment of the plugins.

use libtest_mimic::Trial;
use schemas::wire::MAX_MESSAGE;
use serde_json::{Value, json};
use tests::runtime::Attachment;

use crate::node::{Node, assert_refused, trial};
use crate::witness::Witness;

const OURS: [&str; 3] = ["spiderpool", "macvlan", "coordinator"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("plugin::what_is_no_configuration", no_configuration),
        trial("plugin::wrong_types_and_values", wrong_types),
        trial("plugin::chains_that_do_not_fit", chains),
        trial("plugin::environment", environment),
        trial("plugin::paths_that_are_no_namespace", no_namespace),
        trial("plugin::del_of_anything_succeeds", del),
    ]
}

fn conf(plugin: &str) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": plugin, "master": "ens192",
        "ipam": {"type": "spiderpool", "default_ipv4_ippool": ["10-6-v4"]},
        "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "net1", "sandbox": "/x"}],
            "ips": [{"address": "10.6.212.239/16", "interface": 0}], "dns": {}}})
}

/// A pod of the scene that nobody has attached.
fn free(node: &Node) -> Attachment {
    Attachment::of_pod("default", "free", "c-free", node.scene.overlay_pod.netns.path(), "net1")
}

fn no_configuration() {
    let witness = Witness::new("p1");
    let (runtime, it) = (witness.node.runtime(), free(&witness.node));
    let oversize = format!(r#"{{"cniVersion":"1.0.0","name":"net","type":"{}"}}"#, "x".repeat(MAX_MESSAGE));
    let deep = "[".repeat(100_000);
    let cases: [(&[u8], u32, &str); 13] = [
        (b"", 6, "network configuration is not JSON"),
        (b"{", 6, "network configuration is not JSON"),
        (b"{\"cniVersion\":\"1.0.0\",}", 6, "network configuration is not JSON"),
        (b"\xff\xfe\x00", 6, "network configuration is not JSON"),
        (deep.as_bytes(), 6, "network configuration is not JSON"),
        (b"[]", 6, "network configuration is not a JSON object"),
        (b"null", 6, "network configuration is not a JSON object"),
        (oversize.as_bytes(), 5, "longer than the 1048576 bytes allowed"),
        (b"{}", 1, "config is \"0.1.0\""),
        (br#"{"cniVersion":"9.9.9","name":"net"}"#, 1, "config is \"9.9.9\""),
        (br#"{"cniVersion":1,"name":"net"}"#, 6, "cniVersion: it is not a string"),
        (br#"{"cniVersion":"1.0.0"}"#, 7, "missing network name"),
        (br#"{"cniVersion":"1.0.0","name":"no/name"}"#, 7, "no/name"),
    ];
    for plugin in OURS {
        for (stdin, code, words) in &cases {
            assert_refused(runtime.call(plugin, "ADD", Some(&it), stdin), *code, &[words]);
        }
    }
    witness.is_unharmed();
}

fn wrong_types() {
    let witness = Witness::new("p2");
    let (runtime, it) = (witness.node.runtime(), free(&witness.node));
    let cases: [(&str, &str, Value, u32, &str); 14] = [
        ("macvlan", "/ipam", json!("spiderpool"), 6, "ipam: it is not a JSON object"),
        ("spiderpool", "/ipam", json!([]), 6, "ipam: it is not a JSON object"),
        ("spiderpool", "/ipam/type", json!(1), 6, "ipam.type: it is not a string"),
        ("spiderpool", "/ipam/default_ipv4_ippool", json!(7), 6, "ipam.default_ipv4_ippool"),
        ("spiderpool", "/ipam/default_ipv4_ippool/0", json!({}), 6, "ipam.default_ipv4_ippool"),
        ("spiderpool", "/ipam", Value::Null, 7, "ipam.type: it is missing"),
        ("spiderpool", "/ipam/type", json!("host-local"), 7, "the plugin called is \"spiderpool\""),
        ("macvlan", "/ipam/type", json!("../evil"), 7, "is not the name of an IPAM plugin"),
        ("macvlan", "/ipam/type", json!("absent"), 7, "IPAM plugin \"absent\" is not in"),
        ("macvlan", "/master", json!(5), 6, "master"),
        ("macvlan", "/master", json!("a/b"), 7, "master"),
        ("macvlan", "/master", json!("gone0"), 999, "gone0"),
        ("coordinator", "/prevResult", json!("x"), 6, "prevResult is not a CNI result"),
        ("coordinator", "/prevResult/ips/0/interface", json!(9), 6, "interface 9 of 1"),
    ];
    for (plugin, key, value, code, words) in cases {
        let mut wrong = conf(plugin);
        *wrong.pointer_mut(key).unwrap() = value;
        let asked = runtime.call(plugin, "ADD", Some(&it), wrong.to_string().as_bytes());
        assert_refused(asked, code, &[words]);
        // What a runtime does after an ADD that failed.
        runtime.call(plugin, "DEL", Some(&it), wrong.to_string().as_bytes()).unwrap();
    }
    crate::node::eventually("the failed ones' end", || {
        let left = witness.node.agent.list("attachments").unwrap();
        crate::node::holds(left.len() == 1, left)
    });
    witness.is_unharmed();
}

fn chains() {
    let witness = Witness::new("p3");
    let (runtime, it) = (witness.node.runtime(), free(&witness.node));
    let ask = |conf: &Value| runtime.call("coordinator", "ADD", Some(&it), conf.to_string().as_bytes());
    let with = |key: &str, value: Value| {
        let mut changed = conf("coordinator");
        changed[key] = value;
        changed
    };
    assert_refused(ask(&with("prevResult", Value::Null)), 7, &["prevResult is missing", "behind a main plugin"]);
    assert_refused(ask(&with("prevResult", json!({"ips": []}))), 999, &["no usable IP addresses on \"net1\""]);
    assert_refused(ask(&conf("coordinator")), 999, &["net1: the main plugin must come first"]);
    assert_refused(ask(&with("podDefaultCniNic", json!("nic7"))), 999, &["the pod has no nic7"]);
    assert_refused(
        ask(&with("mode", json!("sideways"))),
        999,
        &["unknown tuneMode: sideways", "auto, underlay, overlay, disabled"],
    );
    assert_refused(
        ask(&with("mode", json!("underlay"))),
        999,
        &["in underlay mode", "auxiliary interface eth0 was not created"],
    );
    for hijack in [json!(["not-a-network"]), json!(["10.0.0.0/99"])] {
        assert_refused(ask(&with("hijackCIDR", hijack)), 999, &["hijackCIDR"]);
    }
    let first = Attachment { ifname: "eth0".into(), ..it.clone() };
    let asked = runtime.call("coordinator", "ADD", Some(&first), with("mode", json!("overlay")).to_string().as_bytes());
    assert_refused(asked, 999, &["eth0", "overlay"]);
    let pool = json!({"type": "spiderpool", "default_ipv4_ippool": ["nowhere"]});
    let mut unknown = conf("spiderpool");
    unknown["ipam"] = pool;
    let asked = runtime.call("spiderpool", "ADD", Some(&it), unknown.to_string().as_bytes());
    assert_refused(asked, 11, &["IPPool nowhere: not found"]);
    witness.is_unharmed();
}

fn environment() {
    let witness = Witness::new("p4");
    let (runtime, good) = (witness.node.runtime(), free(&witness.node));
    let with = |change: fn(&mut Attachment)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    let cases: [(Attachment, &str); 9] = [
        (with(|it| it.container.clear()), "[CNI_CONTAINERID] missing"),
        (with(|it| it.container = "../x".into()), "CNI_CONTAINERID"),
        (with(|it| it.ifname.clear()), "[CNI_IFNAME] missing"),
        (with(|it| it.ifname = "far-too-long-a-name".into()), "CNI_IFNAME"),
        (with(|it| it.ifname = "a/b".into()), "CNI_IFNAME"),
        (with(|it| it.netns.clear()), "[CNI_NETNS] missing"),
        (with(|it| it.netns = "relative/path".into()), "CNI_NETNS"),
        (with(|it| it.args = "K8S_POD_NAME".into()), "is not KEY=VALUE"),
        (with(|it| it.args = "MAC=zz".into()), "MAC address"),
    ];
    for plugin in OURS {
        let stdin = conf(plugin).to_string();
        for (it, words) in &cases {
            assert_refused(runtime.call(plugin, "ADD", Some(it), stdin.as_bytes()), 4, &[words]);
        }
        assert_refused(runtime.call(plugin, "JUMP", Some(&good), stdin.as_bytes()), 4, &["unknown CNI_COMMAND"]);
        assert_refused(
            runtime.call(plugin, "ADD", None, stdin.as_bytes()),
            4,
            &["[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing"],
        );
    }
    witness.is_unharmed();
}

fn no_namespace() {
    let witness = Witness::new("p5");
    let runtime = witness.node.runtime();
    let file = witness.node.scene.folder().join("a-file");
    std::fs::write(&file, "").unwrap();
    let cases = [
        ("/run/netns/never-made", 3, "network namespace /run/netns/never-made is gone"),
        (file.to_str().unwrap(), 4, "is not a network namespace"),
        ("/run/netns", 4, "is not a network namespace"),
        ("/proc/self/ns/mnt", 4, "is not a network namespace"),
        ("/proc/self/ns/user", 4, "is not a network namespace"),
        ("/dev/null", 4, "is not a network namespace"),
    ];
    for plugin in OURS {
        for (path, code, words) in cases {
            let it = Attachment { netns: path.into(), ..free(&witness.node) };
            let asked = runtime.call(plugin, "ADD", Some(&it), conf(plugin).to_string().as_bytes());
            assert_refused(asked, code, &["CNI_NETNS", words]);
            runtime.call(plugin, "DEL", Some(&it), conf(plugin).to_string().as_bytes()).unwrap();
        }
    }
    witness.is_unharmed();
}

/// A DEL that fails is repeated for as long as the pod exists.
fn del() {
    let witness = Witness::new("p6");
    let runtime = witness.node.runtime();
    let oversize = vec![b'x'; MAX_MESSAGE + 1];
    let stdins: [&[u8]; 6] =
        [b"", b"{", b"[]", br#"{"cniVersion":"9.9.9"}"#, br#"{"cniVersion":"1.0.0","ipam":7}"#, &oversize];
    let mut it = free(&witness.node);
    it.netns = "/dev/null".into();
    it.args = "garbage".into();
    for plugin in OURS {
        for stdin in stdins {
            assert_eq!(runtime.call(plugin, "DEL", Some(&it), stdin).unwrap(), None);
        }
    }
    witness.is_unharmed();
}
