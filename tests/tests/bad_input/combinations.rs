//! What a coordinator's configuration may not be, alone or in the pod that it is for: refused with the original's code
//! (../spec/coordinator.md 1), in its words where it has some, and nothing is touched.

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::runtime::Conflist;
use tests::scene::Pod;

use crate::node::{Node, assert_refused, attachment, eventually, holds, trial};
use crate::witness::Witness;

/// The original's code for whatever its coordinator refuses.
const CODE: u32 = 999;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("combinations::of_keys", keys),
        trial("combinations::of_modes_and_interfaces", modes),
        trial("combinations::a_nic_that_never_comes_is_no_error", absent_nic),
        trial("combinations::networks_that_are_the_nodes_own", overlapping),
    ]
}

/// A coordinator with these keys, as the last plugin.
fn with(conflist: &Conflist, keys: &Value) -> Conflist {
    let mut changed = conflist.clone();
    for (key, value) in keys.as_object().unwrap() {
        changed = changed.with_key("coordinator", key, value.clone());
    }
    changed
}

fn refuse(witness: &Witness, pod: &Pod, ifname: &str, keys: &Value, words: &[&str]) {
    let conflist = with(&witness.conflist, keys);
    let it = attachment(pod, ifname);
    let runtime = witness.node.runtime();
    assert_refused(runtime.add(&conflist, &it), CODE, words);
    runtime.del(&conflist, &it, None).unwrap();
}

/// What DEL withdrew is gone.
fn alone(witness: &Witness) {
    eventually("one attachment", || {
        let attachments = witness.node.agent.list("attachments").unwrap();
        holds(attachments.len() == 1, attachments)
    });
}

fn keys() {
    let witness = Witness::new("keys");
    let pod = witness.node.pod(102);
    let cases: [(Value, &[&str]); 22] = [
        (json!({"mode": "bridge"}), &["unknown tuneMode: bridge"]),
        (json!({"hijackCIDR": ["1.2.3"]}), &["hijackCIDR", "invalid CIDR address: 1.2.3"]),
        (json!({"overlayPodCIDR": ["10.0.0.0/33"]}), &["overlayPodCIDR", "invalid CIDR address: 10.0.0.0/33"]),
        (json!({"serviceCIDR": ["x"]}), &["serviceCIDR", "invalid CIDR address: x"]),
        (json!({"hostRuleTable": 0}), &["hostRuleTable"]),
        (json!({"hostRuleTable": 254}), &["hostRuleTable", "kernel's own"]),
        (json!({"hostRuleTable": 100}), &["hostRuleTable", "choose another"]),
        (json!({"hostRuleTable": 4_294_967_296_i64}), &["hostRuleTable", "not in"]),
        (json!({"podRPFilter": 3}), &["podRPFilter", "not in"]),
        (json!({"hostRPFilter": 7}), &["hostRPFilter", "not in"]),
        (json!({"txQueueLen": -1}), &["txQueueLen", "not in"]),
        (json!({"vethMTU": 0}), &["vethMTU must be greater than 0"]),
        (json!({"vethMTU": -5}), &["vethMTU must be greater than 0"]),
        (json!({"vethLinkAddress": "169.254.1.1/16"}), &["vethLinkAddress", "invalid IP address"]),
        (json!({"podMACPrefix": "0b:11"}), &["podMACPrefix", "unicast", "mac_prefix format should be match regex"]),
        (json!({"podMACPrefix": "0a"}), &["podMACPrefix", "like '0a:1b'"]),
        (json!({"podMACPrefix": "0a:1b:2c"}), &["podMACPrefix", "like '0a:1b'"]),
        (json!({"policyRoutes": [{"dst": "10.1.0.0", "gw": "nowhere"}]}), &["invalid route gw \"nowhere\""]),
        (json!({"policyRoutes": [{"dst": "nowhere", "gw": "10.6.0.1"}]}), &["invalid route dst \"nowhere\""]),
        (json!({"policyRoutes": [{"dst": "10.1.0.0/16", "gw": "fd00::1"}]}), &["must use the same IP family"]),
        (json!({"podDefaultRouteNic": "a/b"}), &["podDefaultRouteNic"]),
        (json!({"podDefaultCniNic": "sixteen-letters-"}), &["podDefaultCniNic"]),
    ];
    for (keys, words) in &cases {
        refuse(&witness, &pod, "net1", keys, words);
    }
    alone(&witness);
    witness.is_unharmed();
}

fn modes() {
    let witness = Witness::new("modes");
    let pod = witness.node.pod(103);
    let overlay = ["in overlay mode", "first interface named net1", "please modify in the CNI configuration"];
    refuse(&witness, &pod, "net1", &json!({"mode": "overlay", "podDefaultCniNic": "net1"}), &overlay);
    let underlay = ["in underlay mode", "auxiliary interface eth0 was not created", "please enable coordinator plugin"];
    refuse(&witness, &pod, "net1", &json!({"mode": "underlay"}), &underlay);
    refuse(&witness, &pod, "net1", &json!({"podDefaultCniNic": "eth9"}), &["eth9", "must be there first"]);
    // Another program's veth0 is not dragline's to use.
    let mut inside = pod.netns.scene().unwrap();
    inside.veth(netlink::testbed::End::here("veth0"), netlink::testbed::End::here("other")).unwrap();
    refuse(&witness, &pod, "net1", &json!({"mode": "overlay"}), &["auxiliary interface veth0", "overlay mode"]);
    refuse(&witness, &pod, "net1", &json!({"mode": "auto"}), &["veth0 is another program's"]);
    inside.delete_link("veth0").unwrap();
    // One pod has one mode.
    let it = attachment(&pod, "net1");
    let runtime = witness.node.runtime();
    let result = runtime.add(&witness.conflist, &it).unwrap();
    let both = json!({"mode": "underlay", "podDefaultCniNic": "net2"});
    refuse(&witness, &pod, "net2", &both, &["in underlay mode", "in overlay mode", "one mode for all"]);
    runtime.check(&witness.conflist, &it, &result).unwrap();
    runtime.del(&witness.conflist, &it, Some(&result)).unwrap();
    witness.node.has_no_drift().unwrap();
    alone(&witness);
    witness.is_unharmed();
}

/// The original fails net1 for a net2 that is still to come (../design/deviations.md): here it is waited for, and told.
fn absent_nic() {
    let node = Node::new("absent-nic");
    let conflist = with(&node.conflist().with_version("1.0.0"), &json!({"podDefaultRouteNic": "net7"}));
    let pod = node.pod(101);
    let it = attachment(&pod, "net1");
    let result = node.runtime().add(&conflist, &it).unwrap();
    let warnings = node.warnings().join("\n");
    assert!(warnings.contains("podDefaultRouteNIC: net7 don't exist in pod"), "{warnings}");
    node.runtime().del(&conflist, &it, Some(&result)).unwrap();
    node.forgets_all();
}

/// A network that the node itself is in would take the node's own neighbours, its gateway among them, by way of the node.
fn overlapping() {
    let witness = Witness::new("overlap");
    let pod = witness.node.pod(104);
    for (keys, words) in [
        (json!({"hijackCIDR": ["10.6.0.0/16"]}), ["hijackCIDR 10.6.0.0/16", "10.6.212.131"]),
        (json!({"hijackCIDR": ["10.0.0.0/8"]}), ["hijackCIDR 10.0.0.0/8", "10.6.212.131"]),
        (json!({"serviceCIDR": ["10.6.212.0/24"]}), ["serviceCIDR 10.6.212.0/24", "10.6.212.131"]),
        (json!({"overlayPodCIDR": ["0.0.0.0/0"]}), ["overlayPodCIDR 0.0.0.0/0", "10.6.212.131"]),
    ] {
        refuse(&witness, &pod, "net1", &keys, &words);
    }
    alone(&witness);
    witness.is_unharmed();
}
