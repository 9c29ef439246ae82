//! The statuses of coordinators, and the objects of an installation.

use std::fs;

use serde_json::{Value, json};
use tests::cluster::Cluster;

use super::{
    CALICO, CILIUM, Controller, DEFINITIONS, Named, SEED, SERVICES, apply_crd, coordinator, definition, macvlan,
    network, prepare, wait_definition, wait_status,
};
use crate::bed::eventually;

/// The quick start's definition, to the byte.
const QUICK_START: &str = concat!(
    r#"{"cniVersion":"0.3.1","name":"macvlan-ens192","plugins":[{"type":"macvlan","master":"ens192","mode":"bridge","mtu":0,"#,
    r#""ipam":{"type":"spiderpool","default_ipv4_ippool":["10-6-v4"]}},"#,
    r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"auto","type":"coordinator"}]}"#
);

pub(super) const TRIALS: &[Named] = &[
    ("controller::the_seeds_manifests_as_they_are", seed),
    ("controller::every_source_is_seen_when_it_comes", sources),
    ("controller::default_objects_are_created_once", defaults),
];

fn seed(cluster: &mut Cluster) {
    let kubectl = prepare(cluster);
    fs::create_dir_all(cluster.folder().join("cni")).unwrap();
    fs::write(
        cluster.folder().join("cni/05-cilium.conflist"),
        r#"{"name":"cilium","plugins":[{"type":"cilium-cni"}]}"#,
    )
    .unwrap();
    kubectl.apply(SEED).unwrap();
    let controller = Controller::leading(cluster, &["--init-coordinator=default"]);
    wait_status(&controller, &kubectl, "default", "Synced", "", &["10.244.64.0/18"]);
    let status = kubectl.json(&["get", "spidercoordinator", "default"]).unwrap()["status"].clone();
    assert_eq!(status, json!({"phase": "Synced", "overlayPodCIDR": ["10.244.64.0/18"], "serviceCIDR": [SERVICES]}));
    // A second coordinator has a status too.
    coordinator(&kubectl, "second", "none");
    wait_status(&controller, &kubectl, "second", "Synced", "", &[]);

    let made = wait_definition(&controller, &kubectl, "macvlan-ens192", |_| true);
    let of = kubectl.json(&["get", "spidermultusconfig", "macvlan-ens192"]).unwrap()["metadata"].clone();
    assert_eq!(made["spec"], json!({"config": QUICK_START}));
    let owner = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderMultusConfig",
        "name": "macvlan-ens192", "uid": of["uid"], "controller": true, "blockOwnerDeletion": true});
    assert_eq!(made["metadata"]["ownerReferences"], json!([owner]));
    let applied = "kubectl.kubernetes.io/last-applied-configuration";
    assert!(of["annotations"][applied].is_string());
    assert_eq!(made["metadata"]["annotations"], of["annotations"]);

    // Once per change: another look at everything writes nothing.
    let writes = || {
        (
            controller.metric("dragline_controller_coordinator_writes_total"),
            controller.metric("dragline_controller_network_writes_total"),
        )
    };
    let before = writes();
    assert_eq!(before, (2, 1));
    kubectl.apply(&network("other", json!({}), macvlan())).unwrap();
    wait_definition(&controller, &kubectl, "other", |_| true);
    assert_eq!(writes(), (before.0, before.1 + 1));
    let again = definition(&kubectl, "macvlan-ens192").unwrap();
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

fn sources(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    let controller = Controller::start(cluster, "one", &[]);
    controller.wait_answer("/readyz", "apply the CRD spidercoordinators.spiderpool.spidernet.io");
    assert!(controller.ask("/readyz").unwrap().starts_with("HTTP/1.1 503"));
    kubectl.apply_crds().unwrap();
    // Without Multus it is ready all the same, and says what it lacks.
    controller.wait_answer("/readyz", "ok: leading");
    assert!(controller.ask("/readyz").unwrap().contains("waiting for the CRD network-attachment-definitions"));
    kubectl.apply(&network("net", json!({}), macvlan())).unwrap();

    for kind in ["auto", "cluster", "calico", "cilium", "none"] {
        coordinator(&kubectl, kind, kind);
    }
    let status = |name: &str, phase: &str, reason: &str, overlay: &[&str]| {
        wait_status(&controller, &kubectl, name, phase, reason, overlay);
    };
    for name in ["auto", "none"] {
        status(name, "Synced", "", &[]);
    }
    status("cluster", "NotReady", "No kube-controller-manager pod found, unable to get clusterCIDR", &[]);
    status("calico", "NotReady", "is Calico installed?", &[]);
    status("cilium", "NotReady", "is Cilium installed?", &[]);

    // Calico comes: its CRD, its pools, its configuration.
    controller.cni_conf("10-calico.conf", "k8s-pod-network", "calico");
    status("auto", "NotReady", "is Calico installed?", &[]);
    apply_crd(&kubectl, CALICO);
    status("calico", "Synced", "", &[]);
    let pool = |name: &str, spec: Value| {
        let object = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": name}, "spec": spec});
        kubectl.apply(&object.to_string()).unwrap();
    };
    pool("one", json!({"cidr": "10.1.0.0/16"}));
    pool("off", json!({"cidr": "10.9.0.0/16", "disabled": true}));
    for name in ["auto", "calico"] {
        status(name, "Synced", "", &["10.1.0.0/16"]);
    }
    // It goes, and kubeadm's cluster comes.
    kubectl.ask(&["delete", "crd", "ippools.crd.projectcalico.org"], "").unwrap();
    status("calico", "NotReady", "is Calico installed?", &[]);
    fs::remove_file(controller.cni.join("10-calico.conf")).unwrap();
    status("auto", "Synced", "", &[]);
    let config_map = |name: &str, data: Value| {
        let metadata = json!({"name": name, "namespace": "kube-system"});
        kubectl
            .apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}).to_string())
            .unwrap();
    };
    config_map("kubeadm-config", json!({"ClusterConfiguration": "networking:\n  podSubnet: 10.2.0.0/16,fd00::/48\n"}));
    status("cluster", "Synced", "", &["10.2.0.0/16", "fd00::/48"]);
    kubectl.ask(&["delete", "configmap", "--namespace=kube-system", "kubeadm-config"], "").unwrap();
    status("cluster", "NotReady", "No kube-controller-manager pod found", &[]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "manager", "namespace": "kube-system",
        "labels": {"component": "kube-controller-manager"}}, "spec": {"automountServiceAccountToken": false,
        "containers": [{"name": "m", "image": "m", "command": ["kube-controller-manager", "--cluster-cidr=10.3.0.0/16"]}]}});
    eventually("a pod", || kubectl.apply(&pod.to_string()));
    status("cluster", "Synced", "", &["10.3.0.0/16"]);

    // Cilium, its lists, and its pools with a CRD that comes later.
    config_map("cilium-config", json!({"ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.4.0.0/16 10.5.0.0/16"}));
    status("cilium", "Synced", "", &["10.4.0.0/16", "10.5.0.0/16"]);
    config_map("cilium-config", json!({"ipam": "kubernetes"}));
    status("cilium", "Synced", "", &["10.3.0.0/16"]);
    config_map("cilium-config", json!({"ipam": "multi-pool"}));
    status("cilium", "NotReady", "the cilium multi-pool feature is unavailable", &[]);
    apply_crd(&kubectl, CILIUM);
    let pool = json!({"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumPodIPPool", "metadata": {"name": "a"},
        "spec": {"ipv4": {"cidrs": ["10.6.0.0/16"]}, "ipv6": {"cidrs": ["fd01::/48"]}}});
    kubectl.apply(&pool.to_string()).unwrap();
    status("cilium", "Synced", "", &["10.6.0.0/16", "fd01::/48"]);
    controller.cni_conf("05-cilium.conf", "cilium", "cilium-cni");
    status("auto", "Synced", "", &["10.6.0.0/16", "fd01::/48"]);

    // More services.
    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.234.0.0/24"]}});
    kubectl.apply(&more.to_string()).unwrap();
    eventually("more services", || {
        let found = kubectl.json(&["get", "spidercoordinator", "none"]).unwrap()["status"]["serviceCIDR"].clone();
        if found == json!([SERVICES, "10.234.0.0/24"]) { Ok(()) } else { Err(found) }
    });

    // And Multus at last.
    apply_crd(&kubectl, DEFINITIONS);
    wait_definition(&controller, &kubectl, "net", |_| true);
    eventually("nothing lacking", || {
        let answer = controller.ask("/readyz").map_err(|error| error.to_string())?;
        if answer.contains("waiting") { Err(answer) } else { Ok(()) }
    });
}

fn defaults(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    let cni = cluster.folder().join("cni");
    fs::create_dir_all(&cni).unwrap();
    fs::write(cni.join("10-calico.conflist"), r#"{"name":"k8s-pod-network","plugins":[{"type":"calico"}]}"#).unwrap();
    let asked = [
        "--init-coordinator=default",
        "--init-coordinator-hijack-cidr=169.254.0.0/16",
        "--init-ipv4-pool=default-v4-ippool",
        "--init-ipv4-subnet=10.6.0.0/16",
        "--init-ipv4-ranges=10.6.0.2-10.6.0.9",
        "--init-network",
        "--namespace=default",
    ];
    let mut controller = Controller::start(cluster, "one", &asked);
    controller.wait_answer("/readyz", "apply the CRD spidermultusconfigs.spiderpool.spidernet.io");
    let kubectl_crds = prepare(cluster);
    let made = wait_definition(&controller, &kubectl_crds, "k8s-pod-network", |_| true);
    assert_eq!(made["spec"], json!({}));
    assert_eq!(made["metadata"]["namespace"], "default");
    let spec = |kind: &str, name: &str| kubectl.json(&["get", kind, name]).unwrap()["spec"].clone();
    assert_eq!(spec("spidercoordinator", "default")["hijackCIDR"], json!(["169.254.0.0/16"]));
    let pool = spec("spiderippool", "default-v4-ippool");
    assert_eq!((&pool["default"], &pool["ips"]), (&json!(true), &json!(["10.6.0.2-10.6.0.9"])));
    assert_eq!(spec("spidermultusconfig", "calico")["cniType"], "custom");

    // Never changed afterwards.
    let patch = r#"{"spec":{"hijackCIDR":["10.0.0.0/8"]}}"#;
    kubectl.ask(&["patch", "spidercoordinator", "default", "--type=merge", "-p", patch], "").unwrap();
    assert!(controller.terminate().success());
    let controller = Controller::leading(cluster, &asked);
    controller.wait_answer("/readyz", "ok: leading");
    kubectl.apply(&network("last", json!({}), macvlan())).unwrap();
    wait_definition(&controller, &kubectl, "last", |_| true);
    assert_eq!(spec("spidercoordinator", "default")["hijackCIDR"], json!(["10.0.0.0/8"]));
}
