//! Annotations that change too late.

use schemas::intent::PodRef;
use serde_json::{Value, json};

use super::World;
use crate::selection::ignored::{changes, note};

const IPPOOL: &str = "ipam.spidernet.io/ippool";
const ROUTES: &str = "ipam.spidernet.io/routes";

fn told(before: &World, after: &World, pods: &[PodRef]) -> Vec<(String, Vec<&'static str>)> {
    let found = changes(&before.catalogue(), &after.catalogue(), pods.to_vec());
    found.into_iter().map(|(pod, keys)| (pod.name, keys)).collect()
}

#[test]
fn changes_of_a_pod_with_interfaces_are_told_once() {
    let pod = |annotations: Value| World::new().annotated(annotations);
    let before = pod(json!({IPPOOL: {"ipv4": ["a"]}, "ipam.spidernet.io/default-route-nic": "eth0"}));
    let own = [before.pod.clone(), before.pod.clone()];
    for (after, expected) in [
        (json!({IPPOOL: {"ipv4": ["a"]}, "ipam.spidernet.io/default-route-nic": "eth0"}), vec![]),
        (json!({IPPOOL: {"ipv4": ["b"]}, "ipam.spidernet.io/default-route-nic": "eth0"}), vec![IPPOOL]),
        (json!({IPPOOL: {"ipv4": ["a"]}}), vec!["ipam.spidernet.io/default-route-nic"]),
        (
            json!({IPPOOL: {"ipv4": ["a"]}, ROUTES: [], "ipam.spidernet.io/default-route-nic": "net1", "other": "x"}),
            vec![ROUTES, "ipam.spidernet.io/default-route-nic"],
        ),
    ] {
        let told = told(&before, &pod(after), &own);
        let keys: Vec<&str> = told.into_iter().flat_map(|(_, keys)| keys).collect();
        assert_eq!(keys, expected);
    }
    assert_eq!(told(&before, &pod(json!({})), &[]), [], "it has no interface yet");
}

#[test]
fn what_is_seen_first_or_made_anew_has_not_changed() {
    let with = |annotations: Value| World::new().annotated(annotations);
    let (before, after) = (with(json!({IPPOOL: {"ipv4": ["a"]}})), with(json!({IPPOOL: {"ipv4": ["b"]}})));
    let pods = [before.pod.clone()];
    assert_eq!(told(&World::new(), &after, &pods), [], "nothing was known before");
    assert_eq!(told(&before, &World::new(), &pods), [], "it is gone");
    let mut successor = World::new();
    successor.pod.uid = "v".into();
    let nameless = [PodRef { uid: String::new(), ..before.pod.clone() }];
    let successor = successor.annotated(json!({IPPOOL: {"ipv4": ["b"]}}));
    assert_eq!(told(&before, &successor, &nameless), [], "it is another pod");
    assert_eq!(told(&before, &after, &nameless).len(), 1);
}

#[test]
fn the_note_names_the_annotation_and_when_it_counts() {
    let text = note(&[IPPOOL]);
    assert!(text.contains(IPPOOL) && text.contains("takes effect when the pod is made anew"), "{text}");
    assert!(note(&[IPPOOL, ROUTES]).contains("annotations ipam.spidernet.io/ippool, ipam.spidernet.io/routes changed"));
}
