//! Whether a pool fits.

use schemas::cni::error::CniError;
use serde_json::{Value, json};

use super::World;
use crate::selection::Uplink;

/// Pod `app/web`, labelled, in a labelled namespace on a labelled node; pool `a` with these fields is the only candidate.
fn world(fields: Value) -> World {
    World::new()
        .pool("a", fields)
        .marked(json!({"app": "web", "tier": "front"}), json!({}))
        .namespace(json!({"team": "red"}), json!({}))
        .node(json!({"zone": "east"}))
        .configured(&["a"], &[])
}

#[track_caller]
fn fits(fields: Value) {
    assert_eq!(world(fields).pools(), ["a"]);
}

/// The reason as the error has it.
#[track_caller]
fn does_not_fit(fields: Value, reason: &str) {
    let expected = format!("no IPPool available, all IPv4 IPPools [a] of net1 filtered out: [{reason}]");
    assert_eq!(world(fields).refusal(), expected);
}

fn labels(key: &str, value: &str) -> Value {
    json!({"matchLabels": {key: value}})
}

#[test]
fn d00005_a_disabled_pool_gives_nothing_and_may_again() {
    does_not_fit(json!({"disable": true}), "disabled IPPool a");
    assert_eq!(world(json!({"disable": true})).select().unwrap_err().code(), CniError::TRY_AGAIN);
    does_not_fit(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), "terminating IPPool a");
    let lasting = world(json!({"nodeName": ["n2"]})).select().unwrap_err();
    assert_eq!((lasting.code(), lasting.is_awaited()), (CniError::INVALID_CONFIG, false));
}

#[test]
fn a_pool_of_the_other_family_does_not_fit() {
    let world = World::with_pools(&["a6"]).configured(&["a6"], &[]);
    let reason = "expect an IPv4 IPPool, but the version of the IPPool a6 is IPv6";
    assert!(world.refusal().contains(reason), "{}", world.refusal());
}

#[test]
fn d00009_multus_name_matches() {
    for name in ["conf", "any/conf"] {
        fits(json!({"multusName": ["other", name]}));
    }
}

#[test]
fn d00010_multus_name_does_not_match() {
    does_not_fit(
        json!({"multusName": ["other", "ns/third"]}),
        "the spec.multusName [other ns/third] in the IPPool a used by the Pod interface net1 is not matched with the \
         multusCR conf specified by the Pod",
    );
}

#[test]
fn d00011_node_name_matches() {
    fits(json!({"nodeName": ["n0", "n1"]}));
}

#[test]
fn d00012_node_name_does_not_match() {
    does_not_fit(json!({"nodeName": ["n2"]}), "unmatched Node name of IPPool a");
}

#[test]
fn d00013_node_name_beats_node_affinity() {
    fits(json!({"nodeName": ["n1"], "nodeAffinity": labels("zone", "west")}));
    does_not_fit(
        json!({"nodeName": ["n2"], "nodeAffinity": labels("zone", "east")}),
        "unmatched Node name of IPPool a",
    );
}

#[test]
fn d00014_namespace_name_matches() {
    fits(json!({"namespaceName": ["default", "app"]}));
}

#[test]
fn d00015_namespace_name_does_not_match() {
    does_not_fit(json!({"namespaceName": ["default"]}), "unmatched Namespace name of IPPool a");
}

#[test]
fn d00016_namespace_name_beats_namespace_affinity() {
    fits(json!({"namespaceName": ["app"], "namespaceAffinity": labels("team", "blue")}));
    let fields = json!({"namespaceName": ["b"], "namespaceAffinity": labels("team", "red")});
    does_not_fit(fields, "unmatched Namespace name of IPPool a");
}

#[test]
fn l00001_node_affinity_matches() {
    fits(json!({"nodeAffinity": labels("zone", "east")}));
}

#[test]
fn l00002_node_affinity_does_not_match() {
    does_not_fit(json!({"nodeAffinity": labels("zone", "west")}), "unmatched Node affinity of IPPool a");
}

#[test]
fn l00003_namespace_affinity_matches() {
    fits(json!({"namespaceAffinity": labels("team", "red")}));
}

#[test]
fn l00004_namespace_affinity_does_not_match() {
    does_not_fit(json!({"namespaceAffinity": labels("team", "blue")}), "unmatched Namespace affinity of IPPool a");
}

#[test]
fn l00005_pod_affinity_matches() {
    fits(json!({"podAffinity": labels("app", "web")}));
    fits(json!({"podAffinity": {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]}}));
}

#[test]
fn l00006_pod_affinity_does_not_match() {
    does_not_fit(json!({"podAffinity": labels("app", "db")}), "unmatched Pod affinity of IPPool a");
    let wrong = json!({"podAffinity": {"matchExpressions": [{"key": "tier", "operator": "Near"}]}});
    assert!(world(wrong).refusal().contains("invalid Pod affinity of IPPool a: operator \"Near\""));
}

#[test]
fn l00007_each_zone_has_its_own_pool() {
    let zones = |zone: &str| {
        World::new()
            .pool("east", json!({"nodeAffinity": labels("zone", "east")}))
            .pool("west", json!({"nodeAffinity": labels("zone", "west")}))
            .node(json!({"zone": zone}))
            .configured(&["east", "west"], &[])
            .select()
            .unwrap()
    };
    for (zone, other) in [("east", "west"), ("west", "east")] {
        let selection = zones(zone);
        assert_eq!(selection.families[0].pools, [zone]);
        assert_eq!(
            selection.families[0].rejected,
            [(other.to_owned(), format!("unmatched Node affinity of IPPool {other}"))]
        );
    }
}

#[test]
fn l00008_a_statefulsets_pod_is_chosen_by_its_labels_every_time() {
    let again = || world(json!({"podAffinity": labels("app", "web")})).controlled_by("apps/v1", "StatefulSet", "web");
    assert_eq!(again().select(), again().select());
    assert_eq!(again().pools(), ["a"]);
}

#[test]
fn l00009_several_pools_of_a_namespace_and_several_namespaces_of_a_pool() {
    let mut world = World::new()
        .pool("one", json!({"namespaceName": ["app"]}))
        .pool("two", json!({"namespaceName": ["app", "second"]}))
        .pool("three", json!({"namespaceName": ["second"]}))
        .configured(&["one", "two", "three"], &[]);
    assert_eq!(world.pools(), ["one", "two"]);
    world.pod.namespace = "second".into();
    assert_eq!(world.pools(), ["two", "three"]);
}

#[test]
fn both_families_reasons_are_shown() {
    let world = World::new()
        .pool("a", json!({"nodeName": ["n2"]}))
        .pool("b", json!({"disable": true}))
        .pool("a6", json!({"namespaceName": ["x"]}))
        .configured(&["a", "b"], &["a6"]);
    assert_eq!(
        world.refusal(),
        "no IPPool available, all IPv4 IPPools [a b] of net1 filtered out: [unmatched Node name of IPPool a, disabled IPPool \
         b]; all IPv6 IPPools [a6] of net1 filtered out: [unmatched Namespace name of IPPool a6]"
    );
}

#[test]
fn the_uplinks_subnet_decides_where_that_is_asked_for() {
    let known = |addresses: &[&str]| Uplink::Known {
        name: "ens1".into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    // Pool `a` is 10.0.0.0/16.
    for (uplink, fields, reason) in [
        (Uplink::Unasked, json!({}), None),
        (known(&["fd00::1", "10.0.3.1"]), json!({}), None),
        (known(&["10.1.0.1"]), json!({}), Some("uplink ens1 has none, but [10.1.0.1]")),
        (known(&[]), json!({}), Some("uplink ens1 has no address")),
        (Uplink::Unknown("no PF".into()), json!({}), Some("no PF")),
        (known(&["10.1.0.1"]), json!({"multusName": ["conf"]}), None),
    ] {
        let mut world = world(fields);
        world.uplink = uplink;
        match reason {
            None => assert_eq!(world.pools(), ["a"]),
            Some(reason) => {
                let text = world.refusal();
                let begin = "[filterPoolCandidatesByPfSubnet: match_master_subnet asks for an address of the uplink in subnet \
                             10.0.0.0/16 of IPPool a: ";
                assert!(text.contains(&format!("{begin}{reason}]")), "{text}");
            }
        }
    }
}
