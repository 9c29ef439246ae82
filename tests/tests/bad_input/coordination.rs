//! A coordinator object that cannot be used: ADD is refused in its words, DEL is not.

use libtest_mimic::Trial;
use tests::runtime::Conflist;

use crate::node::{COORDINATOR, NETWORK, Node, POOL, assert_refused, attachment, eventually, trial};
use crate::witness::Witness;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("coordination::without_a_coordinator", without),
        trial("coordination::not_ready_blocks_add_and_not_del", not_ready),
    ]
}

fn without() {
    let mut node = Node::asleep("c1", &[("pool.yaml", POOL), ("network.yaml", NETWORK)]);
    node.agent.launch().unwrap();
    let (conflist, pod) = (node.conflist().with_version("1.0.0"), node.pod(101));
    let it = attachment(&pod, "net1");
    eventually("an agent that listens", || {
        node.agent.run(&["get", "ippools", "-o", "json"]).unwrap().status.success().then_some(()).ok_or("silent".into())
    });
    let status = node.status();
    assert!(status["reasons"].to_string().contains("coordinator config not found"), "{status}");
    assert_refused(node.runtime().add(&conflist, &it), 11, &["coordinator config not found", "SpiderCoordinator"]);
    node.runtime().del(&conflist, &it, None).unwrap();
    node.forgets_all();
    node.scene.apply("coordinator.yaml", COORDINATOR).unwrap();
    node.agent.wait_ready().unwrap();
    let result = node.runtime().add(&conflist, &it).unwrap();
    node.runtime().del(&conflist, &it, Some(&result)).unwrap();
    node.forgets_all();
}

fn not_ready() {
    let witness = Witness::new("c2");
    let node = &witness.node;
    let text = COORDINATOR.replace("phase: Synced", "phase: NotReady\n  reason: the pod CIDR is not known");
    node.scene.apply("coordinator.yaml", &text).unwrap();
    eventually("not ready", || {
        let status = node.status();
        if status["ready"] == false { Ok(()) } else { Err(status.to_string()) }
    });
    let pod = node.pod(102);
    let it = attachment(&pod, "net1");
    let words = ["spidercoordinator: default no ready", "NotReady", "the pod CIDR is not known"];
    assert_refused(node.runtime().add(&witness.conflist, &it), 11, &words);
    node.runtime().del(&witness.conflist, &it, None).unwrap();
    // Who is there already keeps what he has; and can go.
    let alone = Conflist { plugins: witness.conflist.plugins[..1].to_vec(), ..witness.conflist.clone() };
    node.runtime().check(&alone, &witness.it, &witness.result).unwrap();
    node.runtime().del(&witness.conflist, &witness.it, Some(&witness.result)).unwrap();
    node.forgets_all();
}
