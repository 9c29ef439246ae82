//! Objects are there once they are written, kinds of ours too.

use libtest_mimic::Trial;
use tests::cluster::Cluster;

use crate::bed::{Namespace, assert_refused, sharing};

const KINDS: [&str; 7] = [
    "spidercoordinators",
    "spiderendpoints",
    "spiderippools",
    "spideripshards",
    "spidermultusconfigs",
    "spiderreservedips",
    "spidersubnets",
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        sharing("objects::the_server_says_who_it_is", version),
        sharing("objects::what_is_written_is_read", written),
        sharing("objects::the_crds_are_established", crds),
    ]
}

fn version(cluster: &Cluster) {
    let version = cluster.kubectl().json(&["version"]).unwrap();
    assert_eq!(version["serverVersion"]["major"], "1", "{version}");
    assert!(cluster.metrics().unwrap().contains("apiserver_request_total"));
}

fn written(cluster: &Cluster) {
    let namespace = Namespace::create(cluster, "written");
    let kubectl = cluster.kubectl();
    let at = ["--namespace", &namespace.name];
    let create = ["create", "configmap", "kept", "--from-literal=key=value", at[0], at[1]];
    kubectl.ask(&create, "").unwrap();
    assert_eq!(kubectl.json(&["get", "configmap", "kept", at[0], at[1]]).unwrap()["data"]["key"], "value");
    assert_refused(kubectl.ask(&create, ""), "already exists");
    assert_refused(kubectl.ask(&["get", "configmap", "other", at[0], at[1]], ""), "notfound");
}

fn crds(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply_crds().unwrap();
    let group = "--api-group=spiderpool.spidernet.io";
    let served = kubectl.ask(&["api-resources", group, "--no-headers", "--output=name"], "").unwrap();
    let mut served: Vec<&str> = served.lines().filter_map(|name| name.split('.').next()).collect();
    served.sort_unstable();
    assert_eq!(served, KINDS);
}
