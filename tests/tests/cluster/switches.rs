//! Who keeps addresses is switched in Spiderpool's ConfigMap, also while pods run and while others' addresses wait.

use std::net::IpAddr;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::fleet::{Controller, Fleet, Ground};

use crate::bed::eventually;
use crate::leases::{alone, pool};
use crate::resident::{Form, Resident, definition, make, wait_holder, wait_no_endpoint, wait_unused};

const FLEET: &str = "switches";
const ENDPOINTS: &str = "/apis/spiderpool.spidernet.io/v2beta1/namespaces/switches/spiderendpoints";
const KINDS: [(&str, &str, &str, &str); 3] = [
    ("kubevirt.io", "v1", "VirtualMachine", "virtualmachines"),
    ("kubevirt.io", "v1", "VirtualMachineInstance", "virtualmachineinstances"),
    ("apps.kruise.io", "v1beta1", "StatefulSet", "statefulsets"),
];
/// What a controller is to be allowed beyond its role, where such a kind is listed.
const RIGHTS: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "kruise"},
     "rules": [{"apiGroups": ["apps.kruise.io"], "resources": ["statefulsets"], "verbs": ["get"]}]},
    {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "kruise"},
     "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kruise"},
     "subjects": [{"kind": "ServiceAccount", "name": "dragline-controller", "namespace": "kube-system"}]}]}"#;

pub(crate) fn trials() -> Vec<Trial> {
    vec![alone("switches::pods_keep_their_addresses_while_it_is_switched_on", FLEET, switched)]
}

/// Of one kind: its controller, and the names of pods that follow each other.
#[derive(Clone)]
struct Kind {
    what: &'static str,
    controller: Value,
    identity: &'static str,
    pods: [&'static str; 2],
}

fn switch(fleet: &Fleet<'_>, is_on: bool) {
    let listed: &[&str] = if is_on { &["apps.kruise.io/StatefulSet"] } else { &[] };
    let conf = json!({"enableStatefulSet": is_on, "enableKubevirtStaticIP": is_on, "fixedAddressControllers": listed});
    let metadata = json!({"name": "spiderpool-conf", "namespace": "kube-system"});
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"conf.yml": conf.to_string()}});
    fleet.ground().kubectl().apply(&map.to_string()).unwrap();
}

fn switched(ground: &Ground) {
    let _controller = Controller::start(ground, FLEET).unwrap();
    ground.kubectl().apply(RIGHTS).unwrap();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for (group, version, kind, plural) in KINDS {
        ground.objects.create(path, &definition(group, version, kind, plural)).unwrap();
    }
    let fleet = Fleet::start(ground, FLEET, &pool(87, 16, 2)).unwrap();
    let kinds = kinds(&fleet);
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };

    println!("off");
    switch(&fleet, false);
    let running: Vec<_> = kinds.iter().map(|kind| kind.form(0).start(&fleet, one)).collect();
    running.iter().for_each(|(pod, _)| wait_owned_by_pod(pod, true));
    for ((pod, _), kind) in running.into_iter().zip(&kinds) {
        let name = pod.pod.name.clone();
        pod.end();
        wait_no_endpoint(&fleet, FLEET, &name);
        wait_no_endpoint(&fleet, FLEET, kind.identity);
    }
    wait_unused(&fleet, &[FLEET]);
    let running: Vec<_> = kinds.iter().map(|kind| kind.form(0).start(&fleet, two)).collect();

    println!("on, while they run");
    switch(&fleet, true);
    // A machine's endpoint is called like the machine from now on.
    running.iter().for_each(|(pod, _)| wait_owned_by_pod(pod, false));
    let mut kept: Vec<Vec<IpAddr>> = Vec::new();
    for ((pod, addresses), kind) in running.into_iter().zip(&kinds) {
        pod.end();
        wait_kept(&fleet, kind, &addresses);
        kept.push(addresses);
    }
    let mut running = Vec::new();
    for (kind, before) in kinds.iter().zip(&kept) {
        let (pod, again) = kind.form(1).start(&fleet, one);
        assert_eq!(again, *before, "{}", kind.what);
        running.push(pod);
    }
    // And one whose next pod does not come.
    let waiting = Kind { identity: "db-1", pods: ["db-1", "db-1"], ..kinds[0].clone() };
    let (pod, of_waiting) = waiting.form(0).start(&fleet, two);
    pod.end();
    wait_kept(&fleet, &waiting, &of_waiting);

    println!("off, while they run");
    switch(&fleet, false);
    wait_holder(&fleet, FLEET, of_waiting[0], |holder| !holder.starts_with('='));
    wait_no_endpoint(&fleet, FLEET, "db-1");
    for ((mut pod, before), kind) in running.into_iter().zip(&kept).zip(&kinds) {
        // Who has one keeps it for as long as it lives.
        assert_eq!(pod.add().unwrap(), *before, "{}", kind.what);
        wait_owned_by_pod(&pod, true);
        let name = pod.pod.name.clone();
        pod.end();
        wait_no_endpoint(&fleet, FLEET, &name);
        wait_no_endpoint(&fleet, FLEET, kind.identity);
        wait_holder(&fleet, FLEET, before[0], |holder| !holder.starts_with('='));
    }
    wait_unused(&fleet, &[FLEET]);
    // The next ones wait for nothing.
    for kind in &kinds {
        let (pod, _) = kind.form(0).start(&fleet, two);
        pod.end();
    }
    wait_unused(&fleet, &[FLEET]);
}

/// One of each, with a controller that would make the next pod.
fn kinds(fleet: &Fleet<'_>) -> [Kind; 3] {
    let labels = json!({"set": "db"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let set = json!({"metadata": {"name": "db", "namespace": FLEET},
        "spec": {"replicas": 2, "serviceName": "db", "selector": {"matchLabels": labels}, "template": template}});
    let machine = json!({"metadata": {"name": "vm1", "namespace": FLEET}});
    let game = json!({"metadata": {"name": "game", "namespace": FLEET}, "spec": {"replicas": 2}});
    let of = |(group, version, kind, plural): (&str, &str, &str, &str), object: &Value| {
        make(fleet, &format!("{group}/{version}"), kind, plural, object)
    };
    of(KINDS[0], &machine);
    [
        Kind {
            what: "StatefulSet",
            controller: make(fleet, "apps/v1", "StatefulSet", "statefulsets", &set),
            identity: "db-0",
            pods: ["db-0", "db-0"],
        },
        Kind {
            what: "virtual machine",
            controller: of(KINDS[1], &machine),
            identity: "vm1",
            pods: ["virt-launcher-vm1-abcde", "virt-launcher-vm1-fghij"],
        },
        Kind { what: "a listed kind", controller: of(KINDS[2], &game), identity: "game-0", pods: ["game-0", "game-0"] },
    ]
}

impl Kind {
    fn form(&self, number: usize) -> Form<'_> {
        Form {
            namespace: FLEET,
            name: self.pods[number],
            controller: Some(&self.controller),
            interfaces: &["net1"],
            annotations: json!({"ippool": {"ipv4": [FLEET]}}),
        }
    }
}

#[track_caller]
fn wait_kept(fleet: &Fleet<'_>, kind: &Kind, addresses: &[IpAddr]) {
    let owner = format!("={FLEET}/{}/net1", kind.identity);
    wait_holder(fleet, FLEET, addresses[0], |holder| holder == owner);
    let found = fleet.ground().objects.get(ENDPOINTS, kind.identity).unwrap();
    assert_eq!(found["metadata"]["ownerReferences"], Value::Null, "it would go with the pod: {found}");
}

/// Whether the endpoint goes with its pod.
#[track_caller]
fn wait_owned_by_pod(pod: &Resident<'_>, is_owned: bool) {
    eventually("the endpoint goes with its pod, or does not", || {
        let endpoint = pod.endpoint().ok_or("none")?;
        let owner = &endpoint["metadata"]["ownerReferences"][0];
        if (owner["uid"] == json!(pod.pod.uid)) == is_owned { Ok(()) } else { Err(endpoint.to_string()) }
    });
}
