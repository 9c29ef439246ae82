//! DELs that never come. Pods are objects made by hand, as there is no kubelet.

use libtest_mimic::Trial;
use serde_json::json;
use tests::fleet::{Book, Fleet, Ground, Node, Pod};

use super::{PATIENCE, beside_others, pool};
use crate::bed::eventually;

pub(super) fn trials() -> Vec<Trial> {
    vec![beside_others("leases::g00003_g00004_g00006_g00007_what_no_del_gives_back_comes_back", missed)]
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
    let given: Vec<_> = all.iter().map(|pod| node.start(pod, &book, PATIENCE).unwrap().0).collect();
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
    let (again, _) = node.start(&replaced, &book, PATIENCE).unwrap();
    assert_ne!(again, given[2], "a namespace may come back as long as nothing else says that it is over");
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
