//! DELs that never come. Pods are objects made by hand, as there is no kubelet.

use libtest_mimic::Trial;
use serde_json::json;
use tests::fleet::{Book, Fleet, Ground, Node, Pod};

use super::{PATIENCE, alone, beside_others, pool};
use crate::bed::eventually;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        beside_others("leases::g00003_g00004_g00006_g00007_what_no_del_gives_back_comes_back", missed),
        alone("leases::g00006_a_lost_sandbox_is_not_waited_for", "instead", replaced),
    ]
}

fn missed(ground: &Ground) {
    let fleet = Fleet::start(ground, "missed", &pool(18, 8, 1)).unwrap();
    let _controller = ground.controller().unwrap();
    let [node] = &fleet.nodes[..] else { panic!("one node") };
    let book = Book::default();
    let one = |name: &str| fleet.bind_to(node, name, 1).unwrap().remove(0);
    let (deleted, finished, replaced) = (one("deleted"), one("finished"), one("replaced"));
    let (alive, running) = (one("alive"), one("running"));
    let all = [&deleted, &finished, &replaced, &alive, &running];
    for pod in all {
        node.start(pod, &book, PATIENCE).unwrap();
    }
    assert_eq!(holders(node).len(), 5);

    // The namespace is gone, and the pod is not: a kubelet may still be about to send its DEL.
    for pod in [&deleted, &finished, &replaced, &alive] {
        node.lose(pod, &book);
    }
    // The pod is gone, and its namespace is not: something may still run in it.
    running.delete(&ground.objects).unwrap();
    deleted.delete(&ground.objects).unwrap();
    wait_for(node, &[&finished, &replaced, &alive, &running]);

    let kind = format!("/api/v1/namespaces/{}/pods", finished.namespace);
    ground.objects.patch_status(&kind, &finished.name, &json!({"status": {"phase": "Succeeded"}})).unwrap();
    wait_for(node, &[&replaced, &alive, &running]);

    // The same pod in another sandbox: that of before gives back what it had.
    node.start(&replaced, &book, PATIENCE).unwrap();
    eventually("one sandbox of each", || {
        let found = holders(node);
        if found.len() == 3 { Ok(()) } else { Err(format!("{found:?}")) }
    });

    // And after the agent's end it knows the same.
    node.crash().unwrap();
    node.wait_ready().unwrap();
    wait_for(node, &[&replaced, &alive, &running]);
    alive.delete(&ground.objects).unwrap();
    wait_for(node, &[&replaced, &running]);
    node.stop(&running, &book, PATIENCE).unwrap();
    wait_for(node, &[&replaced]);
    node.stop(&replaced, &book, PATIENCE).unwrap();
    wait_for(node, &[]);
}

/// The DEL of the sandbox before is lost, and its pod's next one needs the very address that it had: the only one of the pool,
/// or the one that is kept for the pod's identity.
fn replaced(ground: &Ground) {
    let fleet = Fleet::start(ground, "instead", &pool(21, 1, 1)).unwrap();
    let _controller = ground.controller().unwrap();
    let [node] = &fleet.nodes[..] else { panic!("one node") };
    let book = Book::default();
    let stateless = fleet.bind_to(node, "only", 1).unwrap().remove(0);
    let (first, _) = node.start(&stateless, &book, PATIENCE).unwrap();
    node.lose(&stateless, &book);
    assert_eq!(node.start(&stateless, &book, PATIENCE).unwrap().0, first);
    node.stop(&stateless, &book, PATIENCE).unwrap();
    stateless.delete(&ground.objects).unwrap();

    let set = crate::fixed::set(ground, &fleet.name, "set", 1);
    let fixed = fleet.application("set").bind_owned(&ground.objects, "set-0", &node.name, &set).unwrap();
    let (first, _) = node.start(&fixed, &book, PATIENCE).unwrap();
    node.lose(&fixed, &book);
    assert_eq!(node.start(&fixed, &book, PATIENCE).unwrap().0, first);
    // Another pod of that name is not the same one: nobody has said that the first one's is over.
    node.lose(&fixed, &book);
    fixed.delete(&ground.objects).unwrap();
    let next = fleet.application("set").bind_owned(&ground.objects, "set-0", &node.name, &set).unwrap();
    assert_eq!(node.start(&next, &book, PATIENCE).unwrap().0, first);
    node.stop(&next, &book, PATIENCE).unwrap();
    // One that is being deleted starts no more.
    let kubectl = |arguments: &[&str]| {
        let own = ["--namespace", &next.namespace];
        ground.kubectl().ask(&[arguments, &own[..]].concat(), "").unwrap();
    };
    let held = |names: &str| format!(r#"{{"metadata": {{"finalizers": {names}}}}}"#);
    kubectl(&["patch", "pod", &next.name, "--type=merge", "--patch", &held(r#"["example.com/held"]"#)]);
    kubectl(&["delete", "pod", &next.name, "--wait=false"]);
    let refused = eventually("it is known to be ending", || match node.add(&next, &book) {
        Ok(address) => {
            node.stop(&next, &book, PATIENCE).unwrap();
            Err(address.to_string())
        }
        Err(error) => Ok(error.to_string()),
    });
    assert!(refused.contains("dead Pod"), "{refused}");
    kubectl(&["patch", "pod", &next.name, "--type=merge", "--patch", &held("null")]);
    wait_for(node, &[]);
}

/// The pods whose addresses the agent has as in use, by sandbox.
fn holders(node: &Node) -> Vec<String> {
    let attachments = node.agent().list("attachments").unwrap();
    let pods = attachments.iter().filter(|it| it["state"] != "Withdrawn");
    pods.map(|it| it["attachment"]["pod"]["name"].as_str().unwrap().to_owned()).collect()
}

fn wait_for(node: &Node, wanted: &[&Pod]) {
    let mut wanted: Vec<String> = wanted.iter().map(|pod| pod.name.clone()).collect();
    wanted.sort();
    eventually(&format!("{wanted:?}"), || {
        let mut found = holders(node);
        found.sort();
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}
