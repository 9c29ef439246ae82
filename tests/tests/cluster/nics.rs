//! Pods with several interfaces: each keeps its own addresses, and gets others where the annotation names other pools.

use std::net::IpAddr;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::fleet::{Controller, Fleet, Ground};

use crate::leases::{alone, pool};
use crate::resident::{
    Form, Resident, definition, endpoints, holder, make, wait_holder, wait_no_endpoint, wait_unused,
};

const FLEET: &str = "nics";
/// All pools; the first interface has addresses of `nics` and `c`, the second ones of `b`, `b6` and `d`, `d6`.
const POOLS: [&str; 6] = [FLEET, "b", "b6", "c", "d", "d6"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![alone("nics::a00009_a00010_a00017_a00018_f00003_of_all_interfaces", FLEET, all)]
}

/// Which pools a pod's interfaces have, with their names or by their places.
#[derive(Debug, Clone, Copy)]
enum Way {
    Named,
    Nameless,
}

impl Way {
    fn interfaces(self) -> &'static [&'static str; 2] {
        match self {
            Self::Named => &["net1", "net2"],
            Self::Nameless => &["eth0", "net1"],
        }
    }

    /// The first interface's pool, and those of the second one, of either family.
    fn annotations(self, [first, second, second6]: [&str; 3]) -> Value {
        let mut items = [json!({"ipv4": [first]}), json!({"ipv4": [second], "ipv6": [second6]})];
        if let Self::Named = self {
            for (item, interface) in items.iter_mut().zip(self.interfaces()) {
                item["interface"] = json!(interface);
            }
        }
        json!({ "ippools": items })
    }
}

const BEFORE: [&str; 3] = [FLEET, "b", "b6"];
const AFTER: [&str; 3] = ["c", "d", "d6"];

fn all(ground: &Ground) {
    let _controller = Controller::start(ground, FLEET).unwrap();
    let fleet = Fleet::start(ground, FLEET, &pool(71, 8, 2)).unwrap();
    for (name, subnet, ips) in [
        ("b", "10.72.0.0/16", "10.72.1.0-10.72.1.7"),
        ("c", "10.73.0.0/16", "10.73.1.0-10.73.1.7"),
        ("d", "10.74.0.0/16", "10.74.1.0-10.74.1.7"),
        ("b6", "fd00:72::/64", "fd00:72::10-fd00:72::17"),
        ("d6", "fd00:74::/64", "fd00:74::10-fd00:74::17"),
    ] {
        fleet.declare_pool(name, subnet, &[ips.to_owned()]).unwrap();
    }
    for way in [Way::Named, Way::Nameless] {
        println!("{way:?}");
        deployment(&fleet, way);
        stateful_set(&fleet, way);
        machine(&fleet, way);
    }
}

/// Each address is of the pool at its place, and of no other.
#[track_caller]
fn assert_of(addresses: &[IpAddr], pools: [&str; 3]) {
    let begin = |pool: &str| match pool {
        FLEET => "10.71.1.",
        "b" => "10.72.1.",
        "c" => "10.73.1.",
        "d" => "10.74.1.",
        "b6" => "fd00:72::1",
        _ => "fd00:74::1",
    };
    let is_right = |(address, pool): (&IpAddr, &str)| address.to_string().starts_with(begin(pool));
    assert!(addresses.len() == 3 && addresses.iter().zip(pools).all(is_right), "{addresses:?} of {pools:?}");
}

/// Who has each of them, as the slots say.
#[track_caller]
fn wait_kept(fleet: &Fleet<'_>, identity: &str, way: Way, pools: [&str; 3], addresses: &[IpAddr]) {
    let [first, second] = way.interfaces();
    for ((address, pool), ifname) in addresses.iter().zip(pools).zip([*first, *second, *second]) {
        let owner = format!("={FLEET}/{identity}/{ifname}");
        wait_holder(fleet, pool, *address, |holder| holder == owner);
    }
}

#[track_caller]
fn wait_anybodys(fleet: &Fleet<'_>, pools: [&str; 3], addresses: &[IpAddr]) {
    for (address, pool) in addresses.iter().zip(pools) {
        wait_holder(fleet, pool, *address, |holder| !holder.starts_with('='));
    }
}

/// The endpoint of that name is about that pod, and about nothing but these addresses.
#[track_caller]
fn assert_endpoint(resident: &Resident<'_>, name: &str, node: &str, way: Way, addresses: &[IpAddr]) {
    let endpoint = resident.endpoint().unwrap();
    let current = &endpoint["status"]["current"];
    assert_eq!((&endpoint["metadata"]["name"], &current["node"]), (&json!(name), &json!(node)));
    let mut told: Vec<String> = Vec::new();
    for ifname in way.interfaces() {
        let nics: Vec<&Value> =
            current["ips"].as_array().unwrap().iter().filter(|nic| nic["interface"] == *ifname).collect();
        assert_eq!(nics.len(), 1, "{ifname}: {current}");
        told.extend(["ipv4", "ipv6"].iter().filter_map(|family| nics[0][family].as_str()).map(ToOwned::to_owned));
    }
    let told: Vec<IpAddr> = told.iter().map(|text| text.split('/').next().unwrap().parse().unwrap()).collect();
    assert_eq!(told, addresses, "{current}");
}

/// A00009, A00010: the next pod has another name and other pools, and what the first one had is anybody's.
fn deployment(fleet: &Fleet<'_>, way: Way) {
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let labels = json!({"app": "web"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let set = json!({"metadata": {"name": "web-5d4f", "namespace": FLEET},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}});
    let set = make(fleet, "apps/v1", "ReplicaSet", "replicasets", &set);
    let form = |name, pools| Form {
        namespace: FLEET,
        name,
        controller: Some(&set),
        interfaces: way.interfaces(),
        annotations: way.annotations(pools),
    };
    let (pod, before) = form("web-5d4f-1", BEFORE).start(fleet, one);
    assert_of(&before, BEFORE);
    assert_endpoint(&pod, "web-5d4f-1", &one.name, way, &before);
    pod.end();
    wait_no_endpoint(fleet, FLEET, "web-5d4f-1");
    wait_unused(fleet, &BEFORE);
    let (pod, after) = form("web-5d4f-2", AFTER).start(fleet, two);
    assert_of(&after, AFTER);
    assert_endpoint(&pod, "web-5d4f-2", &two.name, way, &after);
    for (address, pool) in before.iter().zip(BEFORE) {
        let holder = holder(fleet, pool, *address).unwrap();
        assert!(!holder.starts_with('='), "a Deployment's pod keeps {address}: {holder}");
    }
    pod.end();
    wait_unused(fleet, &POOLS);
    fleet.ground().objects.delete(&format!("/apis/apps/v1/namespaces/{FLEET}/replicasets"), "web-5d4f").unwrap();
}

/// A00009, A00010, A00017, A00018: all of them move along; those of other pools are exchanged, and no others.
fn stateful_set(fleet: &Fleet<'_>, way: Way) {
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    let labels = json!({"set": "db"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let set = json!({"metadata": {"name": "db", "namespace": FLEET},
        "spec": {"replicas": 2, "serviceName": "db", "selector": {"matchLabels": labels}, "template": template}});
    let set = make(fleet, "apps/v1", "StatefulSet", "statefulsets", &set);
    let form = |name, pools| Form {
        namespace: FLEET,
        name,
        controller: Some(&set),
        interfaces: way.interfaces(),
        annotations: way.annotations(pools),
    };
    let (pod, first) = form("db-0", BEFORE).start(fleet, one);
    let (other, second) = form("db-1", BEFORE).start(fleet, one);
    assert_of(&first, BEFORE);
    assert_of(&second, BEFORE);
    assert!(first.iter().all(|address| !second.contains(address)), "{first:?} {second:?}");
    pod.end();
    wait_kept(fleet, "db-0", way, BEFORE, &first);

    // Elsewhere, then where it is.
    let (mut pod, again) = form("db-0", BEFORE).start(fleet, two);
    assert_eq!(again, first);
    assert_endpoint(&pod, "db-0", &two.name, way, &first);
    // One interface after the other, each for longer than an agent takes to write what is left.
    pod.stop_with(|_| std::thread::sleep(Duration::from_secs(1)));
    assert_endpoint(&pod, "db-0", &two.name, way, &first);
    pod.end();
    let (pod, again) = form("db-0", BEFORE).start(fleet, two);
    assert_eq!(again, first);
    pod.end();
    wait_kept(fleet, "db-0", way, BEFORE, &first);

    let (pod, moved) = form("db-0", AFTER).start(fleet, one);
    assert_of(&moved, AFTER);
    assert_endpoint(&pod, "db-0", &one.name, way, &moved);
    wait_anybodys(fleet, BEFORE, &first);
    pod.end();
    wait_kept(fleet, "db-0", way, AFTER, &moved);
    // One interface's pools alone.
    let (pod, half) = form("db-0", [AFTER[0], BEFORE[1], BEFORE[2]]).start(fleet, two);
    assert_of(&half, [AFTER[0], BEFORE[1], BEFORE[2]]);
    assert_eq!(half[0], moved[0], "the other interface's stays");
    assert_endpoint(&pod, "db-0", &two.name, way, &half);
    wait_anybodys(fleet, ["c", "d", "d6"], &[half[0], moved[1], moved[2]]);
    pod.end();

    // The other one never was affected.
    other.end();
    wait_kept(fleet, "db-1", way, BEFORE, &second);
    fleet.ground().objects.delete(&format!("/apis/apps/v1/namespaces/{FLEET}/statefulsets"), "db").unwrap();
    wait_anybodys(fleet, BEFORE, &second);
    wait_unused(fleet, &POOLS);
    assert!(endpoints(fleet, FLEET).is_empty(), "{:?}", endpoints(fleet, FLEET));
}

/// F00003: a machine that starts again has another pod, on another node.
fn machine(fleet: &Fleet<'_>, way: Way) {
    let [one, two] = &fleet.nodes[..] else { unreachable!("two nodes were asked for") };
    const API: &str = "kubevirt.io/v1";
    let kinds = [("VirtualMachine", "virtualmachines"), ("VirtualMachineInstance", "virtualmachineinstances")];
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for (kind, plural) in kinds {
        // The second time it is there already.
        let _ = fleet.ground().objects.create(path, &definition("kubevirt.io", "v1", kind, plural));
    }
    let object = json!({"metadata": {"name": "vm1", "namespace": FLEET}});
    let [_, instance] = kinds.map(|(kind, plural)| make(fleet, API, kind, plural, &object));
    let form = |name| Form {
        namespace: FLEET,
        name,
        controller: Some(&instance),
        interfaces: way.interfaces(),
        annotations: way.annotations(BEFORE),
    };
    let (pod, addresses) = form("virt-launcher-vm1-abcde").start(fleet, one);
    assert_of(&addresses, BEFORE);
    assert_endpoint(&pod, "vm1", &one.name, way, &addresses);
    pod.end();
    wait_kept(fleet, "vm1", way, BEFORE, &addresses);
    let (pod, again) = form("virt-launcher-vm1-fghij").start(fleet, two);
    assert_eq!(again, addresses);
    assert_endpoint(&pod, "vm1", &two.name, way, &addresses);
    pod.end();
    wait_kept(fleet, "vm1", way, BEFORE, &addresses);
    for (_, plural) in kinds {
        fleet.ground().objects.delete(&format!("/apis/{API}/namespaces/{FLEET}/{plural}"), "vm1").unwrap();
    }
    wait_anybodys(fleet, BEFORE, &addresses);
    wait_no_endpoint(fleet, FLEET, "vm1");
    wait_unused(fleet, &POOLS);
}
