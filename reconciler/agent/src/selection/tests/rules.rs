//! Which rule decides, and what it names.

use schemas::cni::error::CniError;
use serde_json::{Value, json};

use schemas::crd::SpiderIPPool;
use schemas::crd::ippool::SpiderIPPoolSpec;

use super::World;
use crate::catalogue::Object;
use crate::selection::{Rule, decide};

const IPPOOL: &str = "ipam.spidernet.io/ippool";
const IPPOOLS: &str = "ipam.spidernet.io/ippools";
const NAMESPACE_V4: &str = "ipam.spidernet.io/default-ipv4-ippool";
const NAMESPACE_V6: &str = "ipam.spidernet.io/default-ipv6-ippool";

/// A world in which every rule names a pool of its own.
fn contested(annotations: Value, namespace: Value, configured: &[&str]) -> World {
    World::with_pools(&["a", "b", "c", "d"])
        .pool("e", json!({"default": true}))
        .annotated(annotations)
        .namespace(json!({}), namespace)
        .configured(configured, &[])
}

#[test]
fn a00004_pod_over_namespace_over_configuration_over_defaults() {
    let (pod, namespace) = (json!({IPPOOL: {"ipv4": ["a"]}}), json!({NAMESPACE_V4: ["b"]}));
    for (world, expected) in [
        (contested(pod, namespace.clone(), &["c"]), "a"),
        (contested(json!({}), namespace, &["c"]), "b"),
        (contested(json!({}), json!({}), &["c"]), "c"),
        (contested(json!({}), json!({}), &[]), "e"),
    ] {
        assert_eq!(world.pools(), [expected]);
    }
}

#[test]
fn a00005_ippools_beats_ippool() {
    let annotations = json!({IPPOOLS: [{"interface": "net1", "ipv4": ["b"]}], IPPOOL: {"ipv4": ["a"]}});
    assert_eq!(contested(annotations, json!({}), &["c"]).pools(), ["b"]);
}

#[test]
fn a00006_the_namespace_beats_the_cluster_default_pool() {
    assert_eq!(contested(json!({}), json!({NAMESPACE_V4: ["d", "b"]}), &[]).pools(), ["d", "b"]);
}

#[test]
fn a00007_wildcards_in_the_namespaces_annotation() {
    let world = World::with_pools(&["red-2", "red-1", "blue-1", "red-6"]);
    let world = world.namespace(json!({}), json!({NAMESPACE_V4: ["red-*"], NAMESPACE_V6: ["*-?"]}));
    assert_eq!(world.pools(), ["red-1", "red-2", "red-6"]);
}

#[test]
fn a00015_wildcards_in_ippools_go_by_the_lists_order() {
    for (names, expected) in [
        (vec!["z*", "a?"], vec!["z1", "a1", "a2"]),
        (vec!["a[2-9]", "a1"], vec!["a2", "a1"]),
        (vec!["a[!1]", "z1"], vec!["a2", "z1"]),
        (vec!["a[^1]", "z1"], vec!["a2", "z1"]),
        (vec!["a2", "a*"], vec!["a2", "a1"]),
        (vec!["**1"], vec!["a1", "z1"]),
        (vec!["none*", "z1"], vec!["z1"]),
    ] {
        let annotation = json!({IPPOOLS: [{"interface": "net1", "ipv4": names}]});
        let world = World::with_pools(&["a1", "z1", "a2", "a6"]).annotated(annotation);
        assert_eq!(world.pools(), expected, "{names:?}");
    }
}

#[test]
fn what_a_pattern_expands_to_begins_with_the_most_specific() {
    let all = json!({"matchLabels": {}});
    let world = World::new()
        .pool("a", json!({"default": true}))
        .pool("b", json!({"default": true, "multusName": ["conf"]}))
        .pool("c", json!({"default": true, "namespaceAffinity": all}))
        .pool("d", json!({"default": true, "namespaceName": ["app"]}))
        .pool("e", json!({"default": true, "nodeAffinity": all}))
        .pool("f", json!({"default": true, "nodeName": ["n1"]}))
        .pool("h", json!({"default": true, "podAffinity": all}))
        .pool("g", json!({"default": true, "podAffinity": all}))
        .pool("i", json!({"default": true, "podAffinity": all, "multusName": ["conf"]}));
    let expected = ["i", "g", "h", "f", "e", "d", "c", "b", "a"];
    assert_eq!(world.pools(), expected, "the default pools");
    assert_eq!(world.configured(&["[a-z]"], &[]).pools(), expected, "a pattern");
}

#[test]
fn the_users_order_is_kept_whatever_the_pools_say() {
    let world = World::new().pool("a", json!({"nodeName": ["n1"]})).pool("b", json!({})).pool("c", json!({}));
    assert_eq!(world.configured(&["c", "b", "a"], &[]).pools(), ["c", "b", "a"]);
}

#[test]
fn a00003_what_is_malformed_gives_no_address_and_says_what_is_expected() {
    for (key, value, words) in [
        (IPPOOL, json!("{"), "EOF while parsing"),
        (IPPOOL, json!("null"), "invalid type: null"),
        (IPPOOL, json!({"ipv4": "a"}), "invalid type: string \"a\", expected a sequence"),
        (IPPOOLS, json!(""), "EOF while parsing"),
        (IPPOOLS, json!({"ipv4": ["a"]}), "invalid type: map, expected a sequence"),
        (IPPOOLS, json!([]), "value requires at least one item"),
        (IPPOOLS, json!([{"ipv4": [1]}]), "invalid type: integer `1`, expected a string"),
    ] {
        let world = World::with_pools(&["a"]).annotated(json!({key: value}));
        let text = world.refusal();
        let begin = format!("wrong input, invalid format of Pod annotation '{key}': ");
        assert!(text.starts_with(&begin) && text.contains(words) && text.contains("; expected"), "{text}");
        assert_eq!(world.select().unwrap_err().code(), CniError::INVALID_CONFIG);
    }
    let world = World::with_pools(&["a"]).namespace(json!({}), json!({NAMESPACE_V6: "a"}));
    let text = world.refusal();
    assert!(
        text.starts_with(&format!("wrong input, invalid format of Namespace annotation '{NAMESPACE_V6}': ")),
        "{text}"
    );
    assert!(text.ends_with(r#"expected ["POOL", ...]"#), "{text}");
}

#[test]
fn a00003_unknown_pools_are_named_with_where_they_stand() {
    let world = World::with_pools(&["a", "a6"])
        .pool("off", json!({"disable": true}))
        .annotated(json!({IPPOOL: {"ipv4": ["a", "b", "off", "x*"], "ipv6": ["c", "a6", "a"]}}));
    let error = world.select().unwrap_err();
    let expected = "failed to get original IPPool b: not found; create it or correct its name in the pod's annotation \
                    ipam.spidernet.io/ippool; failed to get original IPPool c: not found; create it or correct its name in \
                    the pod's annotation ipam.spidernet.io/ippool; of the other IPPools of net1 [a: it fits, off: disabled \
                    IPPool off, x*: no IPv4 IPPool matches x*, a6: it fits, a: expect an IPv6 IPPool, but the version of the \
                    IPPool a is IPv4]";
    assert_eq!(error.to_string(), expected);
    assert_eq!((error.code(), error.is_awaited()), (CniError::TRY_AGAIN, false));
    let only = World::with_pools(&["a"]).configured(&["b"], &[]).refusal();
    assert!(
        only.ends_with("correct its name in default_ipv4_ippool and default_ipv6_ippool of the network configuration")
    );
    let text = World::with_pools(&["a"]).configured(&["a["], &[]).refusal();
    assert!(text.contains("IPPool pattern \"a[\" in default_ipv4_ippool"), "{text}");
}

#[test]
fn a_pool_that_is_not_valid_is_told_from_one_that_is_not_there() {
    let mut world = World::with_pools(&["a1", "z"]).configured(&["z", "bad"], &[]);
    let bad = SpiderIPPoolSpec { subnet: "10.0.0.1/24".into(), ..SpiderIPPoolSpec::default() };
    world.objects.push(Object::IpPool(SpiderIPPool::new("bad", bad)));
    let error = world.select().unwrap_err();
    let expected = "failed to get original IPPool bad: it is there and not valid: spec.subnet: unformatted subnet 10.0.0.1/24, \
                    please change it to 10.0.0.0/24; correct it; of the other IPPools of net1 [z: it fits]";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.code(), CniError::TRY_AGAIN);
    let decision = decide(&world.catalogue(), world.request(), |_| None);
    let told = &decision.families[0].pools[1];
    assert!(told.name == "bad" && told.unfit.as_ref().unwrap().contains("spec.subnet"), "{told:?}");
    // A pattern passes it over, and says so where nothing else matches.
    let world = world.configured(&["?1", "b*"], &[]);
    assert_eq!(world.pools(), ["a1"]);
    let error = world.configured(&["b*"], &[]).select().unwrap_err();
    assert!(error.to_string().contains("invalid IPPool bad: spec.subnet: unformatted"), "{error}");
    assert_eq!(error.code(), CniError::TRY_AGAIN);
}

#[test]
fn an_annotation_names_no_more_than_can_be_looked_at() {
    let many: Vec<String> = (0..50_000).map(|n| format!("*{n}")).collect();
    let items: Vec<Value> = (0..65).map(|n| json!({"interface": format!("net{n}"), "ipv4": ["a"]})).collect();
    for (key, value, words) in [
        (IPPOOL, json!({"ipv4": many}), "ipv4 has 50000 names, and 64 are the most"),
        (IPPOOLS, json!([{"interface": "net1", "ipv6": many}]), "ipv6 has 50000 names, and 64 are the most"),
        (IPPOOLS, json!(items), "it has 65 items, and 64 are the most"),
        (IPPOOL, json!({"ipv4": ["a".repeat(254)]}), "ipv4 has a name of 254 characters, and 253 are the most"),
        ("ipam.spidernet.io/subnets", json!(items), "it has 65 items, and 64 are the most"),
        ("ipam.spidernet.io/subnet", json!({"ipv4": many}), "ipv4 has 50000 names, and 64 are the most"),
    ] {
        let error = World::with_pools(&["a"]).annotated(json!({key: value})).select().unwrap_err();
        let begin = format!("wrong input, invalid format of Pod annotation '{key}': {words}; expected");
        assert!(error.to_string().starts_with(&begin), "{error}");
        assert_eq!(error.code(), CniError::INVALID_CONFIG);
    }
    let world = World::with_pools(&["a"]).namespace(json!({}), json!({NAMESPACE_V4: many}));
    assert!(world.refusal().contains("it has 50000 names, and 64 are the most"), "{}", world.refusal());
    let most: Vec<String> = (0..63).map(|n| format!("a{n}*")).chain(["a".into()]).collect();
    assert_eq!(World::with_pools(&["a"]).annotated(json!({IPPOOL: {"ipv4": most}})).pools(), ["a"]);
}

#[test]
fn a_pool_is_named_once_for_an_interface() {
    let world = World::with_pools(&["a"]).configured(&["a", "a"], &[]);
    assert!(
        world.refusal().starts_with("wrong input, duplicate IPPool a specified for NIC net1"),
        "{}",
        world.refusal()
    );
    let world = World::with_pools(&["a1", "a2"]).configured(&["a*", "a1"], &[]);
    assert_eq!(world.pools(), ["a1", "a2"], "a pattern says no pool twice");
}

#[test]
fn a_pattern_that_matches_nothing_is_named_by_the_error() {
    let world = World::with_pools(&["a6"]).pool("off", json!({"disable": true})).configured(&["x*", "off"], &[]);
    assert_eq!(
        world.refusal(),
        "no IPPool available, all IPv4 IPPools [off x*] of net1 filtered out: [disabled IPPool off, no IPv4 IPPool matches \
         x*]"
    );
    let world = World::with_pools(&["a", "a6"]).configured(&["a"], &["x?"]);
    assert!(world.refusal().contains("all IPv6 IPPools [x?] of net1"), "{}", world.refusal());
}

#[test]
fn without_any_rule_it_is_said_what_to_do() {
    let text = World::with_pools(&["a"]).refusal();
    assert!(text.starts_with("no IPPool available, no pool selection rules of any type are specified"), "{text}");
    let text = World::with_pools(&["a"]).annotated(json!({IPPOOL: {}})).refusal();
    assert!(text.contains("the pod's annotation ipam.spidernet.io/ippool names none"), "{text}");
}

#[test]
fn e00009_e00010_a_rule_that_names_one_family_gives_that_family_alone() {
    for (names, expected) in [(json!({"ipv4": ["a"]}), "a"), (json!({"ipv6": ["a6"]}), "a6")] {
        let mut item = names.clone();
        item["interface"] = json!("net1");
        for annotations in [json!({IPPOOLS: [item]}), json!({IPPOOL: names})] {
            let world = World::with_pools(&["a", "a6"]).annotated(annotations);
            assert_eq!(world.configured(&["a"], &["a6"]).pools(), [expected]);
        }
    }
}

#[test]
fn a_family_that_is_switched_off_is_dropped() {
    let world = |conf: &str| World::with_pools(&["a", "a6"]).configured(&["a"], &["a6"]).conf(conf);
    assert_eq!(world("enableIPv6: false").pools(), ["a"]);
    assert_eq!(world("enableIPv4: false").pools(), ["a6"]);
    let text = world("{enableIPv4: false, enableIPv6: false}").refusal();
    assert!(text.contains("enableIPv4 of ConfigMap spiderpool-conf switches off"), "{text}");
    let text = World::with_pools(&["a6"]).configured(&[], &["a6"]).conf("enableIPv6: false").refusal();
    assert!(text.contains("names pools of IPv6 alone"), "{text}");
}

#[test]
fn clean_gateway_is_the_configurations_but_of_ippools_the_items() {
    for (annotations, configured, expected) in [
        (json!({}), true, true),
        (json!({IPPOOL: {"ipv4": ["a"]}}), true, true),
        (json!({IPPOOLS: [{"ipv4": ["a"]}, {"ipv4": ["a"]}]}), true, false),
        (json!({IPPOOLS: [{"ipv4": ["a"]}, {"ipv4": ["a"], "cleangateway": true}]}), false, true),
    ] {
        let mut world = World::with_pools(&["a"]).configured(&["a"], &[]).annotated(annotations.clone());
        world.ipam.clean_gateway = configured;
        assert_eq!(world.select().unwrap().clean_gateway, expected, "{annotations}");
    }
}

#[test]
fn an_explanation_tells_what_decides_what_it_beats_and_each_pool() {
    let mut world =
        contested(json!({IPPOOL: {"ipv4": ["full", "a", "off", "x*"]}}), json!({NAMESPACE_V4: ["b"]}), &["c"])
            .pool("off", json!({"disable": true}))
            .pool("full", json!({}));
    let counts = |pool: &str| {
        let free = if pool == "full" { 0 } else { 3 };
        Some(crate::ledger::PoolCounts { total: u128::MAX, used: 2, releasing: 0, free })
    };
    let decision = decide(&world.catalogue(), world.request(), counts);
    assert_eq!(decision.rule, Some(Rule::Pool.to_string()));
    assert_eq!(decision.beats, [Rule::Namespace, Rule::Network, Rule::Default].map(|rule| rule.to_string()));
    assert_eq!((decision.error.as_deref(), decision.network.as_deref()), (None, Some("conf")));
    let told: Vec<_> = decision.families[0]
        .pools
        .iter()
        .map(|pool| (pool.name.as_str(), pool.unfit.as_deref(), pool.is_next))
        .collect();
    let expected = [
        ("full", None, false),
        ("a", None, true),
        ("off", Some("disabled IPPool off"), false),
        ("x*", Some("no IPv4 IPPool matches it"), false),
    ];
    assert_eq!(told, expected);
    assert_eq!(decision.families[0].pools[1].total, u64::MAX);
    serde_json::to_value(&decision).unwrap();

    world.ipam.default_ipv4_ippool = vec!["nowhere".into()];
    world.objects.retain(|object| !matches!(object, crate::catalogue::Object::Pod(_)));
    world.objects.retain(|object| !matches!(object, crate::catalogue::Object::Namespace(_)));
    let decision = decide(&world.catalogue(), world.request(), counts);
    assert!(decision.error.unwrap().contains("nowhere: not found"));
    assert_eq!(decision.rule, Some(Rule::Network.to_string()));
}
