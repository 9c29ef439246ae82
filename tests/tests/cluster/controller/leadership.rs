//! Who leads, with what rights, and what comes of it when servers and controllers end.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::cluster::{Cluster, Kubectl};

use super::{
    CALICO, CILIUM, Controller, Named, SEED, apply_crd, coordinator, macvlan, network, prepare, wait_definition,
    wait_event, wait_status,
};
use crate::bed::eventually;

/// What a controller must be allowed to do.
const ROLE: &str = include_str!("../../../../examples/cluster/controller.yaml");
/// How long a Lease holds.
const LEASE: Duration = Duration::from_secs(15);

pub(super) const TRIALS: &[Named] = &[
    ("controller::one_leads_and_the_other_takes_over", takeover),
    ("controller::two_that_lead_at_once_do_no_harm", two_leaders),
    ("controller::its_role_is_all_it_needs", role),
    ("controller::it_outlives_the_api_server", outage),
];

fn holder(kubectl: &Kubectl) -> Option<String> {
    let lease = kubectl.json(&["get", "lease", "--namespace=kube-system", "dragline-controller"]).unwrap();
    lease["spec"]["holderIdentity"].as_str().map(ToOwned::to_owned)
}

fn takeover(cluster: &mut Cluster) {
    let kubectl = prepare(cluster);
    let mut one = Controller::leading(cluster, &[]);
    let mut two = Controller::start(cluster, "two", &[]);
    two.wait_answer("/readyz", "ok: standing by");
    assert_eq!(holder(&kubectl).as_deref(), Some("one"));
    kubectl.apply(&network("a", json!({}), macvlan())).unwrap();
    wait_definition(&one, &kubectl, "a", |_| true);
    assert_eq!(two.metric("dragline_controller_network_writes_total"), 0);

    // Killed in the middle of its work: the next one goes on once the Lease has expired.
    one.child.kill().unwrap();
    one.child.wait().unwrap();
    let killed = Instant::now();
    kubectl.apply(&network("b", json!({}), macvlan())).unwrap();
    wait_definition(&two, &kubectl, "b", |_| true);
    assert!(killed.elapsed() < LEASE + Duration::from_secs(15), "{:?}", killed.elapsed());
    assert_eq!(holder(&kubectl).as_deref(), Some("two"));

    // One that ends in order gives the Lease back, and the next one need not wait for its end.
    let one = Controller::start(cluster, "one", &[]);
    one.wait_answer("/readyz", "ok: standing by");
    assert!(two.terminate().success());
    let given_back = Instant::now();
    one.wait_answer("/readyz", "ok: leading");
    assert!(given_back.elapsed() < LEASE / 3, "{:?}", given_back.elapsed());
    assert_eq!(holder(&kubectl).as_deref(), Some("one"));

    // Stopped for longer than the Lease holds: it finds that another leads, and does not write beside it.
    one.signal(Signal::SIGSTOP);
    let two = Controller::start(cluster, "two", &[]);
    two.wait_answer("/readyz", "ok: leading");
    one.signal(Signal::SIGCONT);
    one.wait_answer("/metrics", "dragline_controller_leading 0");
    let before = one.metric("dragline_controller_network_writes_total");
    kubectl.apply(&network("c", json!({}), macvlan())).unwrap();
    wait_definition(&two, &kubectl, "c", |_| true);
    assert_eq!(one.metric("dragline_controller_network_writes_total"), before);
    assert_eq!(holder(&kubectl).as_deref(), Some("two"));
}

/// They do not know of each other: their Leases are in different namespaces.
fn two_leaders(cluster: &mut Cluster) {
    const NETWORKS: usize = 20;
    let kubectl = prepare(cluster);
    coordinator(&kubectl, "default", "none");
    let one = Controller::leading(cluster, &[]);
    let two = Controller::start(cluster, "two", &["--namespace=default"]);
    two.wait_answer("/readyz", "ok: leading");
    let networks: Vec<String> =
        (0..NETWORKS).map(|number| network(&format!("net-{number}"), json!({}), macvlan())).collect();
    kubectl.apply(&networks.join("\n---\n")).unwrap();
    let versions = || -> Vec<Value> {
        (0..NETWORKS)
            .map(|number| {
                wait_definition(&one, &kubectl, &format!("net-{number}"), |found| found["spec"]["config"] != "{}")
            })
            .map(|found| found["metadata"]["resourceVersion"].clone())
            .collect()
    };
    let before = versions();
    let patch = r#"{"spec":{"config":"{}"}}"#;
    kubectl.ask(&["patch", "net-attach-def", "net-7", "--type=merge", "-p", patch], "").unwrap();
    let after = versions();
    let differ: Vec<usize> = (0..NETWORKS).filter(|number| before[*number] != after[*number]).collect();
    assert_eq!(differ, [7]);
    wait_status(&one, &kubectl, "default", "Synced", "", &[]);
    // Each was written once, by one of them.
    let writes = |name: &str| one.metric(name) + two.metric(name);
    assert_eq!(writes("dragline_controller_network_writes_total"), NETWORKS as u64 + 1);
    assert_eq!(writes("dragline_controller_request_failures_total"), 0);
    assert_eq!(versions(), after);
}

fn role(cluster: &mut Cluster) {
    let kubectl = prepare(cluster);
    for crd in [CALICO, CILIUM] {
        apply_crd(&kubectl, crd);
    }
    let kubeconfig = cluster.service_account("kube-system", "dragline-controller").unwrap();
    kubectl.apply(ROLE).unwrap();
    kubectl.apply(SEED).unwrap();
    // The server learns of a role as others do, by a watch of its own.
    let account = "--as=system:serviceaccount:kube-system:dragline-controller";
    for right in
        [&["list", "deployments.apps"][..], &["create", "leases.coordination.k8s.io", "--namespace=kube-system"]]
    {
        eventually("the role's rights", || kubectl.ask(&[&["auth", "can-i"], right, &[account]].concat(), ""));
    }
    let controller = Controller::start_as(
        cluster,
        "one",
        &kubeconfig,
        &["--init-coordinator=default", "--init-ipv4-pool=v4", "--init-ipv4-subnet=10.7.0.0/16", "--init-network"],
    );
    controller.wait_answer("/readyz", "ok: leading");
    wait_definition(&controller, &kubectl, "macvlan-ens192", |_| true);
    // Only what it has seen otherwise before has changed for it.
    eventually("a first decision", || {
        let found = kubectl.json(&["get", "spidercoordinator", "default"]).map_err(|error| error.to_string())?;
        if found["status"]["phase"].is_string() { Ok(()) } else { Err(found["status"].to_string()) }
    });
    coordinator(&kubectl, "default", "cilium");
    wait_status(&controller, &kubectl, "default", "Synced", "", &["10.244.64.0/18"]);
    wait_event(&kubectl, "PodCIDRTypeChanged", "default", "to cilium");
    kubectl.ask(&["get", "spiderippool/v4", "--output=name"], "").unwrap();
    kubectl.ask(&["get", "spidermultusconfig/default", "--namespace=kube-system"], "").unwrap();
    // What breaks off otherwise is taken up again.
    let log = std::fs::read_to_string(&controller.log).unwrap();
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("forbidden")).collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    let answer = controller.ask("/readyz").unwrap();
    assert!(!answer.contains("not been read"), "{answer}");
}

fn outage(cluster: &mut Cluster) {
    let kubectl = prepare(cluster);
    let controller = Controller::leading(cluster, &[]);
    let made_after = |name: &str| {
        eventually("a write", || kubectl.apply(&network(name, json!({}), macvlan())));
        wait_definition(&controller, &kubectl, name, |_| true);
    };
    made_after("a");
    cluster.kill().unwrap();
    // Nobody leads who cannot say so.
    controller.wait_answer("/metrics", "dragline_controller_leading 0");
    cluster.restart().unwrap();
    made_after("b");
    // A server that does not answer is no better.
    let paused = Instant::now();
    cluster.pause().unwrap();
    controller.wait_answer("/metrics", "dragline_controller_leading 0");
    let led = paused.elapsed();
    cluster.resume().unwrap();
    assert!(led < LEASE, "led for {led:?} without a Lease");
    made_after("c");
    cluster.restart().unwrap();
    made_after("d");
}
