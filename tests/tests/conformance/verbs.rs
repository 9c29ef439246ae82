//! CHECK, GC, STATUS and VERSION.

use std::fs;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::runtime::Attachment;

use crate::chain::VERSIONS;
use crate::node::{
    COORDINATOR, Node, POOL, POOL_NAME, address, assert_refused, attachment, eventually, holds, refusal, trial,
};

const OURS: [&str; 3] = ["spiderpool", "macvlan", "coordinator"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("verbs::check_of_what_is_not_known_is_error_3", check_of_what_is_not_known),
        trial("verbs::check_knows_the_parts_of_an_attachment", check_knows_parts),
        trial("verbs::gc_takes_what_has_vanished_and_keeps_what_lives", gc),
        trial("verbs::gc_of_another_network_takes_nothing", gc_of_another_network),
        trial("verbs::gc_without_a_list_takes_nothing", gc_without_list),
        trial("verbs::status_tells_what_is_missing", status),
        trial("verbs::version_needs_no_agent", version),
        trial("verbs::verbs_that_a_version_lacks_are_error_1", verbs_that_a_version_lacks),
    ]
}

fn check_of_what_is_not_known() {
    let node = Node::new("v1");
    let (runtime, conflist, pod) = (node.runtime(), node.conflist().with_version("1.0.0"), node.pod(105));
    let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.6.212.200/16"}], "dns": {}});
    for plugin in OURS {
        let conf = json!({"cniVersion": "1.0.0", "name": conflist.name, "type": plugin, "prevResult": result,
            "ipam": {"type": "spiderpool"}});
        let checked = runtime.call(plugin, "CHECK", Some(&attachment(&pod, "net1")), conf.to_string().as_bytes());
        assert_refused(checked, 3, &["attachment c-v1-pod105", "is not known"]);
    }
}

/// The link alone was added: of the coordinator nothing is known.
fn check_knows_parts() {
    let node = Node::new("v2");
    let (runtime, whole, pod) = (node.runtime(), node.conflist().with_version("1.0.0"), node.pod(106));
    let mut alone = whole.clone();
    alone.plugins.truncate(1);
    let it = attachment(&pod, "net1");
    let result = runtime.add(&alone, &it).unwrap();
    runtime.check(&alone, &it, &result).unwrap();
    assert_refused(runtime.check(&whole, &it, &result), 3, &["is not known"]);
    runtime.del(&alone, &it, Some(&result)).unwrap();
    eventually("the link's end", || match runtime.check(&alone, &it, &result) {
        Err(error) if error.cni().is_some_and(|error| error.code == 3) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    node.forgets_all();
}

fn gc() {
    let node = Node::new("v3");
    let (runtime, conflist) = (node.runtime(), node.conflist().with_version("1.1.0"));
    let (vanished, living, listed) = (node.pod(107), node.pod(108), node.pod(109));
    let all = [&vanished, &living, &listed].map(|pod| attachment(pod, "net1"));
    let results = all.each_ref().map(|it| runtime.add(&conflist, it).unwrap());
    vanished.delete(&node.scene.worker).unwrap();
    runtime.gc(&conflist, &[&all[2]]).unwrap();
    let left = eventually("the vanished one's end", || {
        let left = node.agent.list("attachments").unwrap();
        if left.len() == 2 { Ok(left) } else { Err(format!("{left:?}")) }
    });
    assert!(left.iter().all(|found| found["state"] == "Converged"), "{left:?}");
    assert_eq!(node.counts(POOL_NAME), (2, 41));
    assert!(node.log().contains("GC does not list an attachment whose address is in use"), "{}", node.log());
    // Its path is gone, and processes keep the namespace.
    let kept = node.pod(117);
    let it = attachment(&kept, "net1");
    runtime.add(&conflist, &it).unwrap();
    let path = kept.netns.path().to_owned();
    nix::mount::umount2(path.as_str(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    std::fs::remove_file(&path).unwrap();
    runtime.gc(&conflist, &[&all[1], &all[2]]).unwrap();
    assert_eq!(node.counts(POOL_NAME), (3, 41));
    assert!(node.log().contains("whose namespace cannot be looked at"), "{}", node.log());
    // They end.
    drop(kept);
    eventually("what nobody keeps", || {
        runtime.gc(&conflist, &[&all[1], &all[2]]).map_err(|error| error.to_string())?;
        let counts = node.counts(POOL_NAME);
        if counts == (2, 41) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    for (it, result) in all.iter().zip(&results).skip(1) {
        runtime.check(&conflist, it, result).unwrap();
        runtime.del(&conflist, it, Some(result)).unwrap();
    }
    node.forgets_all();
}

fn gc_of_another_network() {
    let node = Node::new("v4");
    let (runtime, mut conflist, pod) = (node.runtime(), node.conflist().with_version("1.1.0"), node.pod(110));
    let it = attachment(&pod, "net1");
    let result = runtime.add(&conflist, &it).unwrap();
    pod.delete(&node.scene.worker).unwrap();
    let name = std::mem::replace(&mut conflist.name, "another".into());
    runtime.gc(&conflist, &[]).unwrap();
    let left = node.agent.list("attachments").unwrap();
    assert_eq!(left.iter().map(address_of).collect::<Vec<_>>(), [address(&result)]);
    conflist.name = name;
    runtime.gc(&conflist, &[]).unwrap();
    node.forgets_all();
}

fn address_of(attachment: &Value) -> String {
    attachment["attachment"]["addresses"][0]["address"].as_str().unwrap().to_owned()
}

fn gc_without_list() {
    let node = Node::new("v5");
    let runtime = node.runtime();
    for plugin in OURS {
        let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": plugin, "ipam": {"type": "spiderpool"}});
        let asked = runtime.call(plugin, "GC", None, conf.to_string().as_bytes());
        assert_refused(asked, 7, &["cni.dev/valid-attachments is missing"]);
    }
}

fn status() {
    let mut node = Node::new("v6");
    let conflist = node.conflist().with_version("1.1.0");
    node.runtime().status(&conflist).unwrap();
    let refused = |node: &Node, words: &str| {
        eventually(words, || match node.runtime().status(&conflist) {
            Err(error) => {
                let (code, text) = refusal::<()>(Err(error));
                holds(code == 50 && text.contains(words), (code, text))
            }
            Ok(()) => Err("ready".into()),
        });
    };
    let allowed = |node: &Node| {
        eventually("ready again", || node.runtime().status(&conflist).map_err(|error| error.to_string()));
    };
    fs::remove_file(node.scene.manifests().join("pool.yaml")).unwrap();
    refused(&node, "SpiderIPPool 10-6-v4 is not declared");
    node.scene.apply("pool.yaml", POOL).unwrap();
    allowed(&node);
    node.scene.apply("coordinator.yaml", &COORDINATOR.replace("phase: Synced", "phase: NotReady")).unwrap();
    refused(&node, "no ready");
    node.scene.apply("coordinator.yaml", COORDINATOR).unwrap();
    allowed(&node);
    node.agent.kill().unwrap();
    refused(&node, "cannot be reached");
}

fn version() {
    let node = Node::asleep("v7", &[]);
    for plugin in OURS {
        for version in VERSIONS {
            let answer = node.runtime().version(plugin, version).unwrap();
            assert_eq!(
                answer,
                json!({"cniVersion": version,
                "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
            );
        }
    }
}

fn verbs_that_a_version_lacks() {
    let node = Node::new("v8");
    let runtime = node.runtime();
    let it = Attachment::of_pod("default", "x", "x", node.scene.overlay_pod.netns.path(), "net1");
    for plugin in OURS {
        for (verb, versions) in [("CHECK", &VERSIONS[..1]), ("GC", &VERSIONS[..3]), ("STATUS", &VERSIONS[..3])] {
            for version in versions {
                let conf = json!({"cniVersion": version, "name": "net", "type": plugin});
                let asked = runtime.call(plugin, verb, Some(&it), conf.to_string().as_bytes());
                assert_refused(asked, 1, &[&format!("config version does not allow {verb}"), version]);
            }
        }
    }
}
