//! Applications' own pools, which the controller makes out of SpiderSubnets.

use schemas::cni::error::CniError;
use schemas::crd::ip_version::IpVersion;
use serde_json::{Value, json};

use super::{World, owner};
use crate::catalogue::Marks;
use crate::controller::subnets::naming::{App, labels};
use crate::selection::Top;

const SUBNET: &str = "ipam.spidernet.io/subnet";
const SUBNETS: &str = "ipam.spidernet.io/subnets";

/// What the controller makes for an application's interface.
fn auto(subnet: &str, gv: &str, kind: &str, name: &str, nic: &str, version: u8) -> Value {
    let (group, api_version) = gv.split_once('_').unwrap_or(("", gv));
    let ns = "app";
    json!({
        "labels": {
            "ipam.spidernet.io/owner-spider-subnet": subnet,
            "ipam.spidernet.io/owner-application-gv": gv,
            "ipam.spidernet.io/owner-application-kind": kind,
            "ipam.spidernet.io/owner-application-namespace": ns,
            "ipam.spidernet.io/owner-application-name": name,
            "ipam.spidernet.io/interface": nic,
            "ipam.spidernet.io/ip-version": format!("IPv{version}"),
        },
        "podAffinity": {"matchLabels": {
            "ipam.spidernet.io/app-api-group": group,
            "ipam.spidernet.io/app-api-version": api_version,
            "ipam.spidernet.io/app-kind": kind,
            "ipam.spidernet.io/app-namespace": ns,
            "ipam.spidernet.io/app-name": name,
        }},
    })
}

fn deployment(annotations: Value) -> World {
    World::new()
        .pool("auto4-web-net1-1", auto("s4", "apps_v1", "Deployment", "web", "net1", 4))
        .pool("auto4-web-eth0-1", auto("s4", "apps_v1", "Deployment", "web", "eth0", 4))
        .pool("auto-web-net1-6", auto("s6", "apps_v1", "Deployment", "web", "net1", 6))
        .pool("auto4-db-net1-1", auto("s4", "apps_v1", "Deployment", "db", "net1", 4))
        .pool("auto4-web-net1-2", auto("s4", "apps_v1", "StatefulSet", "web", "net1", 4))
        .controlled_by("apps/v1", "Deployment", "web")
        .annotated(annotations)
}

#[test]
fn i00012_each_interface_has_the_pool_made_for_it() {
    let list = json!({SUBNETS: [
        {"interface": "eth0", "ipv4": ["s5"], "ipv6": null},
        {"interface": "net1", "ipv4": ["s4", "unused"], "ipv6": ["s6"]},
    ]});
    assert_eq!(deployment(list.clone()).pools(), ["auto4-web-net1-1", "auto-web-net1-6"]);
    let of_eth0 = auto("s5", "apps_v1", "Deployment", "web", "eth0", 4);
    assert_eq!(deployment(list).pool("auto4-web-eth0-5", of_eth0).nic("eth0").pools(), ["auto4-web-eth0-5"]);
    assert_eq!(deployment(json!({SUBNET: {"ipv4": ["s4"]}})).nic("eth0").pools(), ["auto4-web-eth0-1"]);
}

#[test]
fn i00017_the_pool_of_a_workload_with_a_long_name_is_found_by_the_labels_that_the_controller_gives_it() {
    let (workload, subnet) = ("w".repeat(200), "s".repeat(100));
    let app = App::of("apps/v1", "Deployment", "app", &workload);
    let labels = labels(&app, "uid", &subnet, "net1", IpVersion::V4, true);
    assert!(labels.values().all(|value| value.len() <= 63), "{labels:?}");
    let fields = json!({"labels": labels, "podAffinity": {"matchLabels": app.affinity()}});
    let world = |workload: &str| {
        World::new()
            .pool("auto4-long", fields.clone())
            .annotated(json!({SUBNET: {"interface": "net1", "ipv4": [subnet]}}))
            .controlled_by("apps/v1", "Deployment", workload)
    };
    assert_eq!(world(&workload).pools(), ["auto4-long"]);
    // Another one whose name begins alike has none.
    let error = world(&format!("{workload}x")).select().unwrap_err();
    assert_eq!((error.code(), error.is_awaited()), (CniError::TRY_AGAIN, true));
}

#[test]
fn e00009_e00010_a_subnet_of_one_family_gives_that_family() {
    let only = |names: Value| deployment(json!({SUBNET: names}));
    assert_eq!(only(json!({"interface": "net1", "ipv4": ["s4"]})).pools(), ["auto4-web-net1-1"]);
    assert_eq!(only(json!({"interface": "net1", "ipv6": ["s6"]})).pools(), ["auto-web-net1-6"]);
    let both = json!({"interface": "net1", "ipv4": ["s4"], "ipv6": ["s6"]});
    assert_eq!(only(both.clone()).conf("enableIPv4: false").pools(), ["auto-web-net1-6"]);
    let text = only(json!({"interface": "net1", "ipv4": ["s4"]})).conf("enableIPv4: false").refusal();
    assert!(text.contains("names pools of IPv4 alone"), "{text}");
}

#[test]
fn subnets_beat_subnet_and_both_beat_ippools() {
    let annotations = json!({
        SUBNETS: [{"interface": "net1", "ipv6": ["s6"]}],
        SUBNET: {"interface": "net1", "ipv4": ["s4"]},
        "ipam.spidernet.io/ippools": [{"interface": "net1", "ipv4": ["auto4-db-net1-1"]}],
    });
    assert_eq!(deployment(annotations.clone()).pools(), ["auto-web-net1-6"]);
    assert_eq!(deployment(annotations).all(), Ok(None));
}

#[test]
fn a_pool_that_is_not_made_yet_is_waited_for() {
    let world = deployment(json!({SUBNET: {"interface": "net1", "ipv4": ["later"]}}));
    let error = world.select().unwrap_err();
    assert_eq!((error.code(), error.is_awaited()), (CniError::TRY_AGAIN, true));
    let text = error.to_string();
    assert!(
        text.contains("no IPv4 IPPool of SpiderSubnet later for interface net1 of Deployment app/web yet"),
        "{text}"
    );
    let world = world.pool("auto4-late", auto("later", "apps_v1", "Deployment", "web", "net1", 4));
    assert_eq!(world.pools(), ["auto4-late"]);
}

#[test]
fn i00023_a_pod_without_a_controller_is_refused() {
    let mut world = deployment(json!({SUBNET: {"interface": "net1", "ipv4": ["s4"]}}));
    world.top = Top::None;
    let error = world.select().unwrap_err();
    assert!(error.to_string().starts_with("SpiderSubnet feature doesn't support no-controller pod"), "{error}");
    assert_eq!((error.code(), error.is_awaited()), (CniError::INVALID_CONFIG, false));
    world.top = Top::Unknown(owner("apps/v1", "ReplicaSet", "web-5d"));
    let error = world.select().unwrap_err();
    assert!(error.to_string().contains("who controls ReplicaSet web-5d is not known yet"), "{error}");
    assert_eq!((error.code(), error.is_awaited()), (CniError::TRY_AGAIN, true));
}

#[test]
fn i00024_without_the_feature_the_annotation_is_invalid() {
    for conf in ["enableAutoPoolForApplication: false", "enableSpiderSubnet: false"] {
        for annotations in
            [json!({SUBNET: {"ipv4": ["s4"]}}), json!({SUBNETS: [{"interface": "net1", "ipv4": ["s4"]}]})]
        {
            let text = deployment(annotations).nic("eth0").conf(conf).refusal();
            let words = "it's invalid to use 'ipam.spidernet.io/subnets' or 'ipam.spidernet.io/subnet' annotation when \
                         Auto-Pool feature is disabled";
            assert!(text.starts_with(words) || text.contains("must be specified"), "{text}");
        }
    }
    let text = deployment(json!({SUBNET: {"ipv4": ["s4"]}})).nic("eth0").conf("enableSpiderSubnet: false").refusal();
    assert!(text.starts_with("it's invalid to use"), "{text}");
}

#[test]
fn an_interface_that_is_not_listed_is_told_so() {
    for (annotations, words) in [
        (
            json!({SUBNETS: [{"interface": "eth0", "ipv4": ["s4"]}]}),
            "interface net1 must be specified, it names eth0 alone",
        ),
        (json!({SUBNET: {"ipv4": ["s4"]}}), "interface net1 must be specified, it names eth0 alone"),
        (json!({SUBNETS: []}), "at least one item"),
        (json!({SUBNETS: [{"ipv4": ["s4"]}]}), "interface is missing"),
        (json!({SUBNETS: [{"interface": "net1"}, {"interface": "net1"}]}), "duplicate interface net1"),
        (json!({SUBNETS: [{"interface": "net1"}]}), "interface net1 names no SpiderSubnet"),
        (
            json!({SUBNETS: [{"interface": "net1", "ipv4": ["s4"]}, {"interface": "x", "ipv4": ["s4"]}]}),
            "is there twice",
        ),
        (json!({SUBNET: "s4"}), "expected value"),
    ] {
        let text = deployment(annotations).refusal();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn i00020_an_applications_pool_is_nobody_elses() {
    let named = |world: World| world.configured(&["auto4-web-net1-1"], &[]);
    let own = named(deployment(json!({})));
    assert_eq!(own.pools(), ["auto4-web-net1-1"]);
    for (top, why) in [
        (Top::Known(owner("apps/v1", "Deployment", "db")), "it is another's than Deployment db's"),
        (Top::Known(owner("apps/v1", "StatefulSet", "web")), "it is another's than StatefulSet web's"),
        (Top::Known(owner("apps/v2", "Deployment", "web")), "it is another's than Deployment web's"),
        (Top::Known(owner("other.io/v1", "Deployment", "web")), "it is another's than Deployment web's"),
        (Top::None, "nothing controls the pod"),
        (Top::Unknown(owner("apps/v1", "ReplicaSet", "r")), "who controls ReplicaSet r is not known yet"),
    ] {
        let mut world = named(deployment(json!({})));
        let code = if matches!(top, Top::Unknown(_)) { CniError::TRY_AGAIN } else { CniError::INVALID_CONFIG };
        world.top = top;
        let error = world.select().unwrap_err();
        let words = format!("unmatched Pod affinity of IPPool auto4-web-net1-1: {why}");
        assert!(error.to_string().contains(&words), "{error}");
        assert_eq!(error.code(), code);
    }
    let mut elsewhere = named(deployment(json!({})));
    elsewhere.pod.namespace = "second".into();
    assert!(elsewhere.refusal().contains("it is another's"));
}

#[test]
fn an_own_pool_is_accepted_without_a_look_at_network_and_uplink() {
    let mut fields = auto("s4", "apps_v1", "Deployment", "web", "net1", 4);
    fields["multusName"] = json!(["elsewhere"]);
    let mut world = World::new().pool("own", fields.clone()).configured(&["own"], &[]);
    world = world.controlled_by("apps/v1", "Deployment", "web");
    world.uplink = crate::selection::Uplink::Unknown("no PF".into());
    assert_eq!(world.pools(), ["own"]);
    // But not without one at the node.
    fields["nodeName"] = json!(["n2"]);
    let world =
        World::new().pool("own", fields).configured(&["own"], &[]).controlled_by("apps/v1", "Deployment", "web");
    assert!(world.refusal().contains("unmatched Node name of IPPool own"));
}

#[test]
fn third_party_controllers_are_taken_as_they_are() {
    let world = World::new()
        .pool("own", auto("s4", "apps.kruise.io_v1alpha1", "CloneSet", "web", "net1", 4))
        .annotated(json!({SUBNET: {"interface": "net1", "ipv4": ["s4"]}}))
        .controlled_by("apps.kruise.io/v1alpha1", "CloneSet", "web");
    assert_eq!(world.pools(), ["own"]);
}

#[test]
fn without_a_cluster_the_deployment_has_its_replica_sets_name_without_the_hash() {
    let by_name = |api: &str, kind: &str, name: &str, hash: Option<&str>| {
        let labels = hash.map(|hash| ("pod-template-hash".to_owned(), hash.to_owned())).into_iter().collect();
        let marks = Marks { owner: Some(owner(api, kind, name)), labels, ..Marks::default() };
        match Top::by_name(&marks) {
            Top::Known(top) => format!("{} {top}", top.api_version),
            other => panic!("{other:?}"),
        }
    };
    for (api, kind, name, hash, expected) in [
        ("apps/v1", "ReplicaSet", "web-5d4f", Some("5d4f"), "apps/v1 Deployment web"),
        ("apps/v1", "ReplicaSet", "web-5d4f", None, "apps/v1 ReplicaSet web-5d4f"),
        ("apps/v1", "ReplicaSet", "web-5d4f", Some("else"), "apps/v1 ReplicaSet web-5d4f"),
        ("apps/v1", "ReplicaSet", "-5d4f", Some("5d4f"), "apps/v1 ReplicaSet -5d4f"),
        ("x.io/v1", "ReplicaSet", "web-5d4f", Some("5d4f"), "x.io/v1 ReplicaSet web-5d4f"),
        ("batch/v1", "Job", "web-5d4f", Some("5d4f"), "batch/v1 Job web-5d4f"),
    ] {
        assert_eq!(by_name(api, kind, name, hash), expected);
    }
    assert_eq!(Top::by_name(&Marks::default()), Top::None);
}
