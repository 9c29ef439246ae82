//! Two further NICs on one pod, coming and going in any order.

use libtest_mimic::Trial;
use netlink::testbed::End;
use serde_json::Value;
use tests::runtime::Conflist;

use crate::node::traces::Traces;
use crate::node::{COORDINATOR, NETWORK, Node, POOL, address, attachment, eventually, holds, trial};

const SECOND_UPLINK: &str = "ens224";
const SECOND: &str = "10-7-v4";

pub(crate) fn trials() -> Vec<Trial> {
    let orders = [
        ("first_comes_first_goes", [0, 1, 0, 1]),
        ("last_comes_first_goes", [0, 1, 1, 0]),
        ("net2_before_net1", [1, 0, 0, 1]),
        ("net2_before_net1_and_goes_first", [1, 0, 1, 0]),
    ];
    let orders = orders
        .into_iter()
        .enumerate()
        .map(|(number, (name, [a, b, x, y]))| trial(format!("nics::{name}"), move || in_order(number, [a, b], [x, y])));
    orders
        .chain([
            trial("nics::a_nic_is_unplugged_and_plugged_again", unplugged),
            trial("nics::a_retry_sees_the_uplink_that_has_come_since", late_uplink),
        ])
        .collect()
}

fn second(text: &str) -> String {
    text.replace("10-6-v4", SECOND).replace("ens192", SECOND_UPLINK).replace("10.6.", "10.7.")
}

fn node(name: &str) -> Node {
    let (pool, network) = (second(POOL), second(NETWORK));
    let node = Node::asleep(
        name,
        &[
            ("pool.yaml", POOL),
            ("coordinator.yaml", COORDINATOR),
            ("network.yaml", NETWORK),
            ("pool2.yaml", &pool),
            ("network2.yaml", &network),
        ],
    );
    let mut worker = node.scene.worker.scene().unwrap();
    worker.veth(End::here(SECOND_UPLINK), End::here("far224")).unwrap();
    worker.address(SECOND_UPLINK, "10.7.212.131/16".parse().unwrap()).unwrap();
    worker.up(SECOND_UPLINK).unwrap();
    worker.up("far224").unwrap();
    let mut node = node;
    node.agent.restart().unwrap();
    node
}

fn conflists(node: &Node) -> [Conflist; 2] {
    let first = node.conflist();
    let file = node.agent.settings().state_dir.join("net.d/default_macvlan-ens224.conflist");
    [first, Conflist::read(&file).unwrap()].map(|conflist| conflist.with_version("1.0.0"))
}

fn in_order(number: usize, coming: [usize; 2], going: [usize; 2]) {
    let node = node(&format!("n{number}"));
    let (runtime, conflists, pod) = (node.runtime(), conflists(&node), node.pod(103));
    let names = ["net1", "net2"];
    let (in_pod, on_node) = (Traces::at_rest(&pod.netns), Traces::at_rest(&node.scene.worker));
    let mut results = [Value::Null, Value::Null];
    for nic in coming {
        results[nic] = runtime.add(&conflists[nic], &attachment(&pod, names[nic])).unwrap();
    }
    assert_eq!((address(&results[0]).as_str(), address(&results[1]).as_str()), ("10.6.212.200/16", "10.7.212.200/16"));
    let check = |nic: usize| runtime.check(&conflists[nic], &attachment(&pod, names[nic]), &results[nic]);
    check(0).unwrap();
    check(1).unwrap();
    node.has_no_drift().unwrap();
    let [first, last] = going;
    runtime.del(&conflists[first], &attachment(&pod, names[first]), Some(&results[first])).unwrap();
    eventually("the other NIC alone", || {
        let left = node.agent.list("attachments").unwrap();
        holds(left.len() == 1 && left[0]["state"] == "Converged", left)
    });
    check(last).unwrap();
    node.has_no_drift().unwrap();
    runtime.del(&conflists[last], &attachment(&pod, names[last]), Some(&results[last])).unwrap();
    node.forgets_all();
    in_pod.return_to(&pod.netns);
    on_node.return_to(&node.scene.worker);
}

/// Each state is reached again exactly, whatever was there between.
fn unplugged() {
    let node = node("n9");
    let (runtime, [first, second], pod) = (node.runtime(), conflists(&node), node.pod(104));
    let traces = || Traces::at_rest(&pod.netns);
    let none = traces();
    let (net1, net2) = (attachment(&pod, "net1"), attachment(&pod, "net2"));
    let result = runtime.add(&first, &net1).unwrap();
    let one = traces();
    runtime.add(&second, &net2).unwrap();
    let mut two = traces();
    runtime.del(&second, &net2, None).unwrap();
    one.return_to(&pod.netns);
    runtime.add(&second, &net2).unwrap();
    // Made again, net2 is another link: it has another hardware address.
    two.forget_links();
    let mut found = traces();
    found.forget_links();
    assert_eq!(found, two);
    runtime.del(&second, &net2, None).unwrap();
    runtime.del(&first, &net1, Some(&result)).unwrap();
    none.return_to(&pod.netns);
    node.forgets_all();
}

/// What failed for want of an uplink is answered by how things are when it is asked again, not by how they were.
fn late_uplink() {
    let node = Node::new("late");
    let runtime = node.runtime();
    let conflist = node.conflist().with_key("macvlan", "master", Value::from("late0"));
    let pod = node.pod(101);
    let it = attachment(&pod, "net1");
    for _ in 0..3 {
        let error = runtime.add(&conflist, &it).unwrap_err();
        let error = error.cni().unwrap();
        assert!(error.msg.contains("late0"), "{error}");
    }
    let mut worker = node.scene.worker.scene().unwrap();
    worker.veth(End::here("late0"), End::here("late1")).unwrap();
    worker.up("late0").unwrap();
    worker.up("late1").unwrap();
    assert_eq!(address(&runtime.add(&conflist, &it).unwrap()), "10.6.212.200/16");
    runtime.del(&conflist, &it, None).unwrap();
}
