//! Addresses of pods with an identity.

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::catalogue::Owner;
use crate::controller::pools::kept::{Ended, Missing};

const POOL: &str = "10-6-v4";

fn missing(findings: &Findings) -> Vec<&Missing> {
    let chores = findings.chores.iter();
    chores.filter_map(|chore| if let Chore::Missing(missing) = chore { Some(missing) } else { None }).collect()
}

fn ended(findings: &Findings) -> Vec<&Ended> {
    let chores = findings.chores.iter();
    chores.filter_map(|chore| if let Chore::Ended(ended) = chore { Some(ended) } else { None }).collect()
}

fn conf(world: &mut World, text: &str) {
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "spiderpool-conf"}, "data": {"conf.yml": text}})).unwrap();
    world.hear(Heard::Conf(Event::Apply(map)));
}

/// A pool of which pod db-0, number 0 of StatefulSet `db`, had 10.6.0.1.
fn kept() -> World {
    let mut world = seed();
    world.shard(POOL, 0, "10.6.0.0", 64, &["", "=default/db-0/net1"]);
    let endpoint = world.endpoint_of("db-0", "a", POOL, "10.6.0.1", "StatefulSet");
    world.hear(Heard::Endpoint(Event::Apply(endpoint)));
    world
}

/// E00003, G00010: its StatefulSet is asked for soon, and then ever more seldom.
#[test]
fn g00010_a_controller_is_asked_for_while_its_pod_is_missing() {
    let mut world = kept();
    assert_eq!(world.look().chores, [], "pods are restarted");
    let mut asked = Vec::new();
    for second in 0..4_000 {
        if !missing(&world.look()).is_empty() {
            asked.push(second);
        }
        world.pass(1);
    }
    assert_eq!(asked, [5, 10, 20, 40, 80, 160, 320, 640, 1240, 1840, 2440, 3040, 3640]);
    world.pass(600);
    let findings = world.look();
    let owner =
        Owner { api_version: "apps/v1".into(), kind: "StatefulSet".into(), name: "x".into(), uid: String::new() };
    assert_eq!(missing(&findings)[0].owner, owner);
    assert!(!missing(&findings)[0].is_off);
    world.pod("db-0");
    world.pass(10_000);
    assert_eq!(world.look().chores, [], "it is there");
}

#[test]
fn a_switch_that_is_off_ends_what_is_kept() {
    let mut world = kept();
    conf(&mut world, "enableStatefulSet: [");
    conf(&mut world, "enableStatefulSet: false");
    world.pod("db-0");
    world.pass(100);
    assert_eq!(world.look().chores, [], "who has an address keeps it");
    world.pod_gone("db-0");
    world.look();
    world.pass(5);
    assert!(missing(&world.look())[0].is_off);
}

#[test]
fn kinds_that_are_listed_keep_theirs() {
    let mut world = kept();
    let mut endpoint = world.endpoint_of("db-0", "a", POOL, "10.6.0.1", "StatefulSet");
    let noted = ("dragline.io/owner-api-version".to_owned(), "apps.kruise.io/v1beta1".to_owned());
    endpoint.metadata.annotations = Some([noted].into());
    world.hear(Heard::Endpoint(Event::Apply(endpoint)));
    for (text, is_off) in [("", true), ("fixedAddressControllers: [apps.kruise.io/StatefulSet]", false)] {
        conf(&mut world, text);
        world.pass(1_000);
        assert_eq!(missing(&world.look())[0].is_off, is_off, "{text}");
    }
}

#[test]
fn a_virtual_machines_pod_is_found_by_its_uid() {
    let mut world = seed();
    let mut endpoint = world.endpoint_of("vm1", "a", POOL, "10.6.0.1", "VirtualMachineInstance");
    endpoint.status.as_mut().unwrap().current.uid = "uid-virt-launcher-vm1-abc".into();
    let launcher = |name: &str| -> PartialObjectMeta<Pod> {
        let owner = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm1", "uid": "v", "controller": true});
        let metadata =
            json!({"namespace": "default", "name": name, "uid": format!("uid-{name}"), "ownerReferences": [owner]});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    };
    world.hear(Heard::Endpoint(Event::Apply(endpoint.clone())));
    world.hear(Heard::Pod(Event::Apply(launcher("virt-launcher-vm1-abc"))));
    world.pass(100);
    assert_eq!(world.look().chores, []);
    world.hear(Heard::Pod(Event::Delete(launcher("virt-launcher-vm1-abc"))));
    world.pass(5);
    assert_eq!(missing(&world.look()).len(), 1);
    endpoint.status.as_mut().unwrap().current.uid = "uid-virt-launcher-vm1-xyz".into();
    world.hear(Heard::Pod(Event::Apply(launcher("virt-launcher-vm1-xyz"))));
    world.hear(Heard::Endpoint(Event::Apply(endpoint)));
    world.pass(1_000);
    assert_eq!(world.look().chores, []);
}

#[test]
fn reservations_end_that_no_endpoint_names() {
    let mut world = kept();
    world.pod("db-0");
    world.shard(
        POOL,
        0,
        "10.6.0.0",
        64,
        &[
            "=default/db-0/net2",
            "=default/db-0/net1",
            "=default/db-1/net1",
            "=default/db-2/net1/unsure",
            "=by/hand",
            "a",
        ],
    );
    assert_eq!(world.look().chores, []);
    world.pass(9);
    assert_eq!(world.look().chores, []);
    world.pass(1);
    let until = world.now.unix() + 60;
    let texts = |findings: &Findings| -> Vec<String> {
        let text =
            |ended: &&Ended| ended.edits.iter().map(|(slot, old, new)| format!("{slot}: {old} > {new}")).collect();
        ended(findings).iter().map(text).collect()
    };
    assert_eq!(
        texts(&world.look()),
        ["2: =default/db-1/net1 > ".to_owned(), format!("3: =default/db-2/net1/unsure > !{until}")],
        "net2 may be about to be added, and what somebody wrote by hand is theirs"
    );
    // A00009: the pod has another address by now.
    let endpoint = world.endpoint_of("db-0", "a", POOL, "10.6.0.9", "StatefulSet");
    world.hear(Heard::Endpoint(Event::Apply(endpoint)));
    world.look();
    world.pass(10);
    assert!(texts(&world.look()).contains(&"1: =default/db-0/net1 > ".to_owned()));
}
