//! What can be done to a cluster, and how it gets over it.

use libtest_mimic::Trial;
use tests::cluster::Cluster;

use crate::bed::{alone, assert_refused, eventually};

pub(crate) fn trials() -> Vec<Trial> {
    vec![alone("faults::objects_outlive_servers", killed), alone("faults::without_etcd_nothing_is_written", paused)]
}

fn killed(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    let get = |name: &str| kubectl.json(&["get", "configmap", name]).unwrap()["metadata"]["uid"].clone();
    kubectl.ask(&["create", "configmap", "kept"], "").unwrap();
    let (uid, pid) = (get("kept"), cluster.api_server_pid());

    cluster.kill().unwrap();
    assert_eq!(cluster.api_server_pid(), None);
    assert_refused(kubectl.ask(&["get", "configmap", "kept"], ""), "refused");
    cluster.restart().unwrap();
    assert_ne!(cluster.api_server_pid(), pid);
    assert_eq!(get("kept"), uid);

    cluster.stop_etcd().unwrap();
    cluster.start_etcd().unwrap();
    eventually("a write", || kubectl.ask(&["create", "configmap", "second"], ""));
    assert_eq!(get("kept"), uid);
}

fn paused(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    let create = |name: &str| kubectl.ask(&["create", "configmap", name, "--request-timeout=2s"], "");
    create("before").unwrap();
    cluster.pause_etcd().unwrap();
    let refused = create("meanwhile").unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("time"), "{refused}");
    cluster.resume_etcd().unwrap();
    let mut number = 0;
    eventually("a write", || {
        number += 1;
        create(&format!("after-{number}"))
    });
    kubectl.ask(&["get", "configmap", "before"], "").unwrap();
}
