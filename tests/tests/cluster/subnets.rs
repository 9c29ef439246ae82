//! `dragline controller` and SpiderSubnets, on a real API server. Workloads are objects made by hand: there is no
//! kube-controller-manager, so no pods come of them, and nodes are slots that the tests write. The cases that need no API
//! server are `controller/subnets/decision_tests.rs`.

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::cluster::{Cluster, Kubectl};

use crate::bed::{alone, eventually};
use crate::controller::{Controller, apply_crd, prepare};

/// What a controller must be allowed to do.
const ROLE: &str = include_str!("../../../examples/cluster/controller.yaml");
/// A kind of a program that nobody here knows.
const GAMES: &str = r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "clonesets.apps.kruise.io"}, "spec": {"group": "apps.kruise.io", "scope": "Namespaced",
    "names": {"plural": "clonesets", "singular": "cloneset", "kind": "CloneSet"}, "versions": [{"name": "v1alpha1",
    "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
    "x-kubernetes-preserve-unknown-fields": true}}}]}}"#;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        alone("subnets::i00003_i00008_i00018_pools_of_workloads", workloads),
        alone("subnets::i00009_t00002_t00004_d00008_others", others),
    ]
}

/// A controller with the rights that users give it.
fn controller(cluster: &Cluster) -> (Kubectl, Controller) {
    let kubectl = prepare(cluster);
    let kubeconfig = cluster.service_account("kube-system", "dragline-controller").unwrap();
    kubectl.apply(ROLE).unwrap();
    let controller = Controller::start_as(cluster, "one", &kubeconfig, &[]);
    controller.wait_answer("/readyz", "ok: leading");
    (kubectl, controller)
}

fn subnet(kubectl: &Kubectl, name: &str, spec: Value) {
    let object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderSubnet", "metadata": {"name": name}, "spec": spec});
    kubectl.apply(&object.to_string()).unwrap();
}

/// A workload of the apps group whose pods ask for a pool of s4.
fn workload(kubectl: &Kubectl, kind: &str, name: &str, replicas: u64, more: Value) -> Value {
    let mut annotations = json!({"ipam.spidernet.io/subnet": r#"{"ipv4":["s4"],"ipv6":["s6"]}"#});
    annotations.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "serviceName": name, "selector": {"matchLabels": {"app": name}}, "template": {"metadata":
            {"labels": {"app": name}, "annotations": annotations}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    if kind != "StatefulSet" {
        object["spec"].as_object_mut().unwrap().remove("serviceName");
    }
    if kind == "DaemonSet" {
        object["spec"].as_object_mut().unwrap().remove("replicas");
    }
    kubectl.apply(&object.to_string()).unwrap();
    kubectl.json(&["get", kind, name]).unwrap()
}

fn pool_of(workload: &Value, family: u8) -> String {
    let uid = workload["metadata"]["uid"].as_str().unwrap();
    let block: String = uid.rsplit('-').next().unwrap().chars().take(5).collect();
    format!("auto{family}-{}-eth0-{block}", workload["metadata"]["name"].as_str().unwrap())
}

#[track_caller]
fn wait(kubectl: &Kubectl, what: &str, get: &[&str], is_right: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let found = kubectl.json(get).map_err(|error| error.to_string())?;
        if is_right(&found) { Ok(found) } else { Err(format!("{found:#}")) }
    })
}

#[track_caller]
fn wait_ips(kubectl: &Kubectl, pool: &str, ips: &[&str]) -> Value {
    wait(kubectl, pool, &["get", "spiderippool", pool], |found| found["spec"]["ips"] == json!(ips))
}

#[track_caller]
fn wait_gone(kubectl: &Kubectl, kind: &str, name: &str) {
    eventually(&format!("no {name}"), || {
        let left = kubectl
            .ask(&["get", kind, name, "--ignore-not-found", "--output=name"], "")
            .map_err(|error| error.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[track_caller]
fn wait_event(kubectl: &Kubectl, reason: &str, name: &str) {
    wait(kubectl, reason, &["get", "events.v1.events.k8s.io", "--all-namespaces"], |found| {
        found["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|event| event["reason"] == reason && event["regarding"]["name"] == name)
    });
}

fn records(subnet: &Value) -> Value {
    subnet["status"]["controlledIPPools"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// A node takes these addresses of a pool, the first of which is the first of its shard.
fn hold(kubectl: &Kubectl, pool: &Value, texts: &[&str]) {
    let name = pool["metadata"]["name"].as_str().unwrap();
    let shard = format!("{name}.0");
    let size = json!({"status": {"shardSize": 64}}).to_string();
    kubectl.ask(&["patch", "spiderippool", name, "--subresource=status", "--type=merge", "-p", &size], "").unwrap();
    let object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPShard", "metadata": {"name": shard},
        "spec": {"pool": name, "poolUID": pool["metadata"]["uid"], "first": "10.6.0.0", "size": 64}});
    kubectl.apply(&object.to_string()).unwrap();
    let patch: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(slot, text)| json!({"op": "replace", "path": format!("/status/slots/{slot}"), "value": text}))
        .collect();
    kubectl
        .ask(
            &["patch", "spideripshard", &shard, "--subresource=status", "--type=json", "-p", &json!(patch).to_string()],
            "",
        )
        .unwrap();
}

fn workloads(cluster: &mut Cluster) {
    let (kubectl, controller) = controller(cluster);
    subnet(&kubectl, "s4", json!({"subnet": "10.6.0.0/16", "ips": ["10.6.0.1-10.6.0.20"], "gateway": "10.6.0.254"}));
    subnet(&kubectl, "s6", json!({"subnet": "fd00:6::/64", "ips": ["fd00:6::1-fd00:6::ffff:ffff"]}));
    let web = workload(&kubectl, "Deployment", "web", 2, json!({"ipam.spidernet.io/ippool-ip-number": "+1"}));
    let (four, six) = (pool_of(&web, 4), pool_of(&web, 6));
    let pool = wait_ips(&kubectl, &four, &["10.6.0.1-10.6.0.3"]);
    wait_ips(&kubectl, &six, &["fd00:6::1-fd00:6::3"]);
    assert_eq!(pool["spec"]["gateway"], "10.6.0.254");
    assert_eq!(pool["metadata"]["ownerReferences"][0]["kind"], "SpiderSubnet");
    let found =
        wait(&kubectl, "the record", &["get", "spidersubnet", "s4"], |found| found["status"]["allocatedIPCount"] == 3);
    assert_eq!(
        records(&found)[&four],
        json!({"ips": ["10.6.0.1-10.6.0.3"], "application": "apps_v1_Deployment_default_web"})
    );
    assert_eq!(found["metadata"]["labels"]["ipam.spidernet.io/subnet-cidr"], "10-6-0-0-16");

    // Other kinds; a DaemonSet has as many pods as its status says.
    let set = workload(&kubectl, "StatefulSet", "set", 1, json!({}));
    wait_ips(&kubectl, &pool_of(&set, 4), &["10.6.0.4"]);
    let daemons = workload(&kubectl, "DaemonSet", "daemons", 0, json!({}));
    let status = json!({"status": {"desiredNumberScheduled": 2, "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}}).to_string();
    kubectl.ask(&["patch", "daemonset", "daemons", "--subresource=status", "--type=merge", "-p", &status], "").unwrap();
    wait_ips(&kubectl, &pool_of(&daemons, 4), &["10.6.0.5-10.6.0.6"]);

    // Smaller: what a node has stays; the slots of the others are kept from everybody.
    hold(&kubectl, &pool, &["", "node-a", "node-a"]);
    kubectl.ask(&["scale", "deployment", "web", "--replicas=0"], "").unwrap();
    let small = wait_ips(&kubectl, &four, &["10.6.0.1-10.6.0.2"]);
    assert_eq!(small["metadata"]["labels"]["ipam.dragline.io/withdrawn"], "pending");
    let shard = kubectl.json(&["get", "spideripshard", &format!("{four}.0")]).unwrap();
    assert_eq!(shard["status"]["slots"][3], "=_subnet/withdrawn");
    hold(&kubectl, &pool, &["", "", "node-a"]);
    // That is seen by the pool's counts.
    wait_ips(&kubectl, &four, &["10.6.0.2"]);
    // And larger again: nodes can take what it gets.
    kubectl.ask(&["scale", "deployment", "web", "--replicas=2"], "").unwrap();
    wait_ips(&kubectl, &four, &["10.6.0.1-10.6.0.3"]);
    wait(&kubectl, "no slot kept", &["get", "spideripshard", &format!("{four}.0")], |shard| {
        !shard["status"]["slots"].to_string().contains("_subnet")
    });

    // What people change is put right, and told.
    let patch = r#"{"spec":{"ips":["10.6.0.1-10.6.0.9"]}}"#;
    kubectl.ask(&["patch", "spiderippool", &four, "--type=merge", "-p", patch], "").unwrap();
    wait_event(&kubectl, "AutoPoolRestored", &four);
    wait_ips(&kubectl, &four, &["10.6.0.1-10.6.0.3"]);
    let dirty = r#"{"status":{"controlledIPPools":null,"totalIPCount":3}}"#;
    kubectl.ask(&["patch", "spidersubnet", "s4", "--subresource=status", "--type=merge", "-p", dirty], "").unwrap();
    wait(&kubectl, "the record again", &["get", "spidersubnet", "s4"], |found| {
        records(found)[&four]["ips"] == json!(["10.6.0.1-10.6.0.3"]) && found["status"]["totalIPCount"] == 20
    });

    // Too much, and nonsense.
    workload(&kubectl, "Deployment", "large", 50, json!({}));
    wait_event(&kubectl, "InsufficientSubnetIPs", "large");
    workload(&kubectl, "Deployment", "odd", 1, json!({"ipam.spidernet.io/ippool-ip-number": "many"}));
    wait_event(&kubectl, "InvalidSubnetAnnotation", "odd");

    // It goes with its workload, when nobody has anything of it.
    kubectl.ask(&["delete", "deployment", "web"], "").unwrap();
    wait_gone(&kubectl, "spiderippool", &six);
    wait(&kubectl, "a pool that goes", &["get", "spiderippool", &four], |pool| {
        !pool["metadata"]["deletionTimestamp"].is_null()
    });
    hold(&kubectl, &pool, &["", "", ""]);
    wait_gone(&kubectl, "spiderippool", &four);
    wait(&kubectl, "free again", &["get", "spidersubnet", "s4"], |found| found["status"]["allocatedIPCount"] == 3);
    controller.wait_answer("/metrics", "dragline_controller_watch_failures_total 0");
    controller.wait_answer("/metrics", "dragline_controller_request_failures_total 0");
}

fn others(cluster: &mut Cluster) {
    let (kubectl, _controller) = controller(cluster);
    apply_crd(&kubectl, GAMES);
    subnet(
        &kubectl,
        "s4",
        json!({"subnet": "10.6.0.0/16", "ips": ["10.6.0.1-10.6.0.9"], "gateway": "10.6.0.254",
        "routes": [{"dst": "10.9.0.0/16", "gw": "10.6.0.253"}]}),
    );
    wait(&kubectl, "a subnet", &["get", "spidersubnet", "s4"], |found| found["status"]["totalIPCount"] == 9);
    std::thread::sleep(std::time::Duration::from_secs(1));
    subnet(&kubectl, "again", json!({"subnet": "10.6.0.0/16", "ips": ["10.6.0.1-10.6.0.9"]}));
    wait(&kubectl, "only one", &["get", "spidersubnet", "again"], |found| {
        found["status"]["conditions"][0]["status"] == "False"
            && found["status"]["conditions"][0]["observedGeneration"] == 1
    });

    // A pool made by hand.
    let pool = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": "manual"},
        "spec": {"subnet": "10.6.0.0/16", "ips": ["10.6.0.2"]}});
    kubectl.apply(&pool.to_string()).unwrap();
    let pool = wait(&kubectl, "its gateway", &["get", "spiderippool", "manual"], |pool| {
        pool["spec"]["gateway"] == "10.6.0.254"
    });
    assert_eq!(pool["metadata"]["labels"]["ipam.spidernet.io/owner-spider-subnet"], "s4");
    assert_eq!(pool["spec"]["routes"][0]["dst"], "10.9.0.0/16");

    // A kind that nobody knows: by its pods, with a fixed number.
    let game = json!({"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "metadata": {"name": "game", "namespace": "default"}});
    kubectl.apply(&game.to_string()).unwrap();
    let game = kubectl.json(&["get", "clonesets.apps.kruise.io", "game"]).unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "game-0", "namespace": "default", "annotations": {
            "ipam.spidernet.io/subnet": r#"{"ipv4":["s4"]}"#, "ipam.spidernet.io/ippool-ip-number": "2"},
            "ownerReferences": [{"apiVersion": "apps.kruise.io/v1alpha1", "kind": "CloneSet", "name": "game",
                "uid": game["metadata"]["uid"], "controller": true}]},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}});
    eventually("a pod", || kubectl.apply(&pod.to_string()));
    let name = pool_of(&game, 4);
    wait_ips(&kubectl, &name, &["10.6.0.1", "10.6.0.3"]);
    kubectl.ask(&["delete", "clonesets.apps.kruise.io", "game"], "").unwrap();
    wait_gone(&kubectl, "spiderippool", &name);

    // The settings.
    let conf = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "spiderpool-conf", "namespace": "kube-system"},
        "data": {"conf.yml": "enableAutoPoolForApplication: false\nclusterSubnetAutoPoolDefaultRedundantIPNumber: 2\n"}});
    kubectl.apply(&conf.to_string()).unwrap();
    let off = workload(&kubectl, "Deployment", "off", 1, json!({"ipam.spidernet.io/subnet": r#"{"ipv4":["s4"]}"#}));
    let conf = conf.to_string().replace("false", "true");
    // By now it would be there.
    kubectl
        .ask(
            &["patch", "spiderippool", "manual", "--type=merge", "-p", r#"{"spec":{"ips":["10.6.0.2-10.6.0.3"]}}"#],
            "",
        )
        .unwrap();
    wait(&kubectl, "a larger pool", &["get", "spidersubnet", "s4"], |found| found["status"]["allocatedIPCount"] == 2);
    kubectl.ask(&["get", "spiderippool", &pool_of(&off, 4)], "").unwrap_err();
    kubectl.apply(&conf).unwrap();
    wait_ips(&kubectl, &pool_of(&off, 4), &["10.6.0.1", "10.6.0.4-10.6.0.5"]);

    // A subnet that is in use.
    kubectl.ask(&["delete", "spidersubnet", "s4", "--wait=false"], "").unwrap();
    wait(&kubectl, "that it is in use", &["get", "spidersubnet", "s4"], |found| {
        found["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|condition| condition["type"] == "InUse" && condition["status"] == "True")
    });
    kubectl.ask(&["delete", "deployment", "off"], "").unwrap();
    kubectl.ask(&["delete", "spiderippool", "manual"], "").unwrap();
    wait_gone(&kubectl, "spidersubnet", "s4");
    // The next one can be used now.
    wait(&kubectl, "the other one", &["get", "spidersubnet", "again"], |found| {
        found["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|condition| condition["type"] == "Valid" && condition["status"] == "True")
    });
}
