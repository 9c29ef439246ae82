//! Which pool a pod gets its addresses of, where the API server has something to say about it: who controls the pod,
//! pools that are made while it waits, annotations that change too late. The objects are made by hand.

use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use netlink::testbed::Netns;
use schemas::cni::netconf::SpiderpoolIpam;
use schemas::intent::PodRef;
use schemas::name::AttachmentKey;
use schemas::wire::{AllocateCall, Answer, Call, Place};
use serde_json::{Value, json};
use tests::fleet::{Book, CallError, Fleet, Ground, Node};

use super::{beside_others, pool, start_all};
use crate::bed::eventually;

const POOLS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools";

pub(super) fn trials() -> Vec<Trial> {
    vec![
        beside_others("leases::i00003_a_deployments_pod_waits_for_the_pool_that_is_made_for_it", own_pool),
        beside_others("leases::an_annotation_that_changes_too_late_is_told_once", too_late),
    ]
}

/// A pod of a ReplicaSet of Deployment `web`, which asks for a SpiderSubnet's pool.
fn pod(ground: &Ground, namespace: &str, node: &str) -> PodRef {
    let owner = |kind: &str, name: &str, uid: &Value| {
        let api = "apps/v1";
        json!([{"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": true}])
    };
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web-5d4f", "ownerReferences": owner("Deployment", "web", &json!("the-deployment"))},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
    });
    let set = ground.objects.create(&format!("/apis/apps/v1/namespaces/{namespace}/replicasets"), &set).unwrap();
    let annotation = json!({"interface": "net1", "ipv4": ["subnet"]}).to_string();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-5d4f-1",
            "labels": {"app": "web"},
            "annotations": {"ipam.spidernet.io/subnet": annotation},
            "ownerReferences": owner("ReplicaSet", "web-5d4f", &set["metadata"]["uid"]),
        },
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "app"}],
        },
    });
    let pod = ground.objects.create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod).unwrap();
    let text = |key: &str| pod["metadata"][key].as_str().unwrap().to_owned();
    PodRef { namespace: namespace.to_owned(), name: text("name"), uid: text("uid") }
}

/// What the controller makes for it.
fn made_for(namespace: &str, owner: &str) -> Value {
    let labels = json!({
        "ipam.spidernet.io/owner-spider-subnet": "subnet",
        "ipam.spidernet.io/owner-application-gv": "apps_v1",
        "ipam.spidernet.io/owner-application-kind": "Deployment",
        "ipam.spidernet.io/owner-application-namespace": namespace,
        "ipam.spidernet.io/owner-application-name": owner,
        "ipam.spidernet.io/interface": "net1",
        "ipam.spidernet.io/ip-version": "IPv4",
    });
    let affinity = json!({"matchLabels": {
        "ipam.spidernet.io/app-api-group": "apps",
        "ipam.spidernet.io/app-api-version": "v1",
        "ipam.spidernet.io/app-kind": "Deployment",
        "ipam.spidernet.io/app-namespace": namespace,
        "ipam.spidernet.io/app-name": owner,
    }});
    json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool",
        "metadata": {"name": format!("auto4-{owner}-net1-{namespace}"), "labels": labels},
        "spec": {"subnet": "10.93.0.0/24", "ips": ["10.93.0.7"], "podAffinity": affinity},
    })
}

fn add(node: &Node, netns: &Netns, pod: &PodRef) -> Result<Answer, CallError> {
    let key = AttachmentKey { container: "chosen-1".parse()?, ifname: "net1".parse()? };
    let place = Place { key, network: "conf".parse()?, netns: Some(netns.path().to_owned()), pod: pod.clone() };
    let ipam = SpiderpoolIpam { plugin: "spiderpool".into(), ..SpiderpoolIpam::default() };
    node.call(Call::Allocate(AllocateCall { place, ipam }))
}

/// What `dragline explain-pools` says of the pod's net1.
fn explained(node: &Node, pod: &PodRef) -> Value {
    let told = node.agent().ask(&["explain-pools", &pod.name, "-n", &pod.namespace, "--ifname", "net1", "-o", "json"]);
    let told: Value = serde_json::from_str(&told.unwrap()).unwrap();
    told[0].clone()
}

fn own_pool(ground: &Ground) {
    let fleet = Fleet::start(ground, "chosen", &pool(92, 8, 1)).unwrap();
    let [node] = &fleet.nodes[..] else { unreachable!("one node was asked for") };
    let pod = pod(ground, &fleet.name, &node.name);
    // Known from the API server alone: who controls the ReplicaSet too.
    eventually("an explanation of a pod that has never been added", || {
        let told = node.agent().ask(&["explain-pools", &pod.name, "-n", &pod.namespace, "--ifname", "net1"]);
        let told = told.map_err(|error| error.to_string())?;
        let words = ["annotation ipam.spidernet.io/subnet", "of Deployment chosen/web yet"];
        if words.iter().all(|words| told.contains(words)) { Ok(()) } else { Err(told) }
    });

    let netns = Netns::create("chosen-1").unwrap();
    let waited = thread::scope(|scope| {
        let begun = Instant::now();
        let answer = scope.spawn(|| add(node, &netns, &pod));
        // It has to be seen waiting: not by an answer, which it is not to give yet.
        thread::sleep(Duration::from_secs(3));
        assert!(!answer.is_finished(), "{:?}", answer.join().unwrap());
        // Another application's pool is no reason to go on.
        ground.objects.create(POOLS, &made_for(&fleet.name, "db")).unwrap();
        ground.objects.delete(POOLS, &format!("auto4-db-net1-{}", fleet.name)).unwrap();
        ground.objects.create(POOLS, &made_for(&fleet.name, "web")).unwrap();
        let made = begun.elapsed();
        match answer.join().unwrap().unwrap() {
            Answer::Result(result) => assert_eq!(result.ips[0].address.to_string(), "10.93.0.7/24"),
            other => panic!("{other:?}"),
        }
        begun.elapsed() - made
    });
    println!("the answer came {waited:?} after the pool");
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    let told = explained(node, &pod);
    assert_eq!(told["error"], Value::Null, "{told}");
    assert_eq!(told["addresses"][0], format!("10.93.0.7/24 of auto4-web-net1-{}", fleet.name), "{told}");
    assert_eq!(told["families"][0]["pools"][0]["isNext"], true, "{told}");

    node.agent().restart().unwrap();
    node.wait_ready().unwrap();
    assert_eq!(explained(node, &pod)["error"], Value::Null);
}

fn too_late(ground: &Ground) {
    let fleet = Fleet::start(ground, "toolate", &pool(94, 8, 1)).unwrap();
    let [node] = &fleet.nodes[..] else { unreachable!("one node was asked for") };
    let book = Book::default();
    let pods = fleet.bind_to(node, "web", 2).unwrap();
    start_all(&fleet, &book, &pods[..1]);
    let told = || -> Vec<Value> {
        let events = ground.objects.list(&format!("/apis/events.k8s.io/v1/namespaces/{}/events", fleet.name)).unwrap();
        events.into_iter().filter(|event| event["reason"] == "AnnotationIgnored").collect()
    };
    // One has its address, the other has not asked yet.
    for pod in &pods {
        let change = r#"ipam.spidernet.io/ippool={"ipv4":["elsewhere"]}"#;
        let ask = ["annotate", "pod", &pod.name, "--namespace", &fleet.name, "--overwrite", change];
        ground.kubectl().ask(&ask, "").unwrap();
    }
    eventually("an Event", || if told().len() == 1 { Ok(()) } else { Err(format!("{:?}", told())) });
    let event = &told()[0];
    assert_eq!(event["regarding"]["name"], pods[0].name.as_str(), "{event}");
    assert_eq!(event["type"], "Warning", "{event}");
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("ipam.spidernet.io/ippool") && note.contains("made anew"), "{note}");

    // A label that changes is no news, and neither is anything that a new agent sees.
    ground.kubectl().ask(&["label", "pod", &pods[0].name, "--namespace", &fleet.name, "a=b"], "").unwrap();
    node.agent().restart().unwrap();
    node.wait_ready().unwrap();
    // Its pace is one a second: another one would be there by then.
    thread::sleep(Duration::from_secs(3));
    let after = told();
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(after[0]["series"], Value::Null, "{after:?}");
}
