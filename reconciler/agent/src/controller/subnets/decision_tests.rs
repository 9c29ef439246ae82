//! Cases of the original's acceptance tests, by their ids, and of our own.

use serde_json::json;

use super::decision::{Action, Memory};
use super::record::texts;
use super::wants::Fault;
use super::world::World;
use crate::controller::pools::upkeep::FINALIZER;

const S4: (&str, &str) = ("subnet", r#"{"ipv4":["s4"]}"#);
const WEB: &str = "auto4-web-eth0-u1";

fn world() -> World {
    let mut world = World::default();
    world.subnet("s4", "10.0.0.0/16", &["10.0.0.1-10.0.0.20"]);
    world.subnet("s6", "fd00::/64", &["fd00::1-fd00::ffff:ffff:ffff"]);
    world
}

fn ips(world: &World, pool: &str) -> Vec<String> {
    texts(&world.ips(pool))
}

fn faults(world: &mut World) -> Vec<String> {
    let decision = world.settle(&mut Memory::default());
    decision.faults.into_values().flatten().map(|fault: Fault| format!("{}: {fault}", fault.reason())).collect()
}

fn condition(world: &World, subnet: &str, kind: &str) -> String {
    let status = world.view.subnets[subnet].status.clone().unwrap_or_default();
    let found = status.conditions.iter().find(|condition| condition.type_ == kind);
    found.map(|found| format!("{} {} {}", found.status, found.reason, found.message)).unwrap_or_default()
}

#[test]
fn i00003_a_pool_is_made_scaled_and_goes_with_its_workload() {
    let mut world = world();
    world.edit_subnet("s4", json!({"spec": {"gateway": "10.0.0.1", "excludeIPs": ["10.0.0.1"], "routes": [{"dst": "10.9.0.0/16", "gw": "10.0.0.1"}]}}));
    let both = [("subnet", r#"{"ipv4":["s4"],"ipv6":["s6"]}"#), ("ippool-ip-number", "+1")];
    world.workload("Deployment", "web", "x-u1", 2, &both);
    let mut memory = Memory::default();
    world.settle(&mut memory);
    assert_eq!(ips(&world, WEB), ["10.0.0.2-10.0.0.4"]);
    assert_eq!(ips(&world, "auto6-web-eth0-u1"), ["fd00::1-fd00::3"]);
    let pool = serde_json::to_value(&world.view.pools[WEB]).unwrap();
    assert_eq!(
        pool["metadata"]["labels"],
        json!({
            "ipam.spidernet.io/owner-spider-subnet": "s4",
            "ipam.spidernet.io/owner-application-gv": "apps_v1",
            "ipam.spidernet.io/owner-application-kind": "Deployment",
            "ipam.spidernet.io/owner-application-namespace": "d",
            "ipam.spidernet.io/owner-application-name": "web",
            "ipam.spidernet.io/owner-application-uid": "x-u1",
            "ipam.spidernet.io/interface": "eth0",
            "ipam.spidernet.io/ip-version": "IPv4",
            "ipam.spidernet.io/ippool-reclaim": "true",
            "ipam.spidernet.io/ippool-cidr": "10-0-0-0-16",
        })
    );
    assert_eq!(pool["metadata"]["annotations"], json!({"ipam.spidernet.io/ippool-ip-number": "+1"}));
    assert_eq!(
        pool["spec"]["podAffinity"]["matchLabels"],
        json!({
            "ipam.spidernet.io/app-api-group": "apps",
            "ipam.spidernet.io/app-api-version": "v1",
            "ipam.spidernet.io/app-kind": "Deployment",
            "ipam.spidernet.io/app-namespace": "d",
            "ipam.spidernet.io/app-name": "web",
        })
    );
    assert_eq!(
        (&pool["spec"]["gateway"], &pool["spec"]["routes"][0]["dst"]),
        (&json!("10.0.0.1"), &json!("10.9.0.0/16"))
    );
    assert_eq!(pool["metadata"]["ownerReferences"][0]["uid"], "uid-s4");
    let subnet = &world.view.subnets["s4"];
    let status = subnet.status.clone().unwrap();
    assert_eq!(
        status.controlled_ip_pools.as_deref(),
        Some(r#"{"auto4-web-eth0-u1":{"ips":["10.0.0.2-10.0.0.4"],"application":"apps_v1_Deployment_d_web"}}"#)
    );
    assert_eq!((status.total_ip_count, status.allocated_ip_count), (Some(19), Some(3)));
    assert_eq!(subnet.metadata.labels.as_ref().unwrap()["ipam.spidernet.io/subnet-cidr"], "10-0-0-0-16");
    assert_eq!(subnet.metadata.finalizers.as_deref(), Some([FINALIZER.to_owned()].as_slice()));

    world.workload("Deployment", "web", "x-u1", 5, &both);
    world.settle(&mut memory);
    assert_eq!(ips(&world, WEB), ["10.0.0.2-10.0.0.7"]);
    // The lowest that nobody holds go.
    let first = world.claim(WEB, "node").unwrap();
    world.workload("Deployment", "web", "x-u1", 1, &both);
    assert!(world.settle(&mut memory).restored.is_empty());
    assert_eq!(ips(&world, WEB), ["10.0.0.2", "10.0.0.7"]);
    assert_eq!(world.recorded("s4", WEB), 2);
    world.give_back(WEB, first);
    world.delete_workload("Deployment", "web");
    world.settle(&mut memory);
    assert!(world.view.pools.is_empty());
    assert_eq!(world.view.subnets["s4"].status.clone().unwrap().controlled_ip_pools, None);
}

#[test]
fn a_pool_that_is_held_waits_and_shrinks_when_addresses_come_back() {
    let mut world = world();
    world.workload("Deployment", "web", "u1", 3, &[S4]);
    let mut memory = Memory::default();
    world.settle(&mut memory);
    let held: Vec<_> = (0..3).map(|_| world.claim(WEB, "node").unwrap()).collect();
    world.workload("Deployment", "web", "u1", 1, &[S4]);
    let decision = world.settle(&mut memory);
    assert_eq!(decision.waiting.iter().collect::<Vec<_>>(), [WEB]);
    assert_eq!(ips(&world, WEB), ["10.0.0.1-10.0.0.3"]);
    assert_eq!(condition(&world, "s4", "ShrinkPending"), "True AddressesHeld auto4-web-eth0-u1: 2");
    world.give_back(WEB, held[1]);
    world.settle(&mut memory);
    assert_eq!(ips(&world, WEB), ["10.0.0.1", "10.0.0.3"]);
    world.give_back(WEB, held[0]);
    world.settle(&mut memory);
    assert_eq!(ips(&world, WEB), ["10.0.0.3"]);
    assert!(condition(&world, "s4", "ShrinkPending").starts_with("False"));
    // What it grows by may be what it has lost: nodes can take it again.
    world.workload("Deployment", "web", "u1", 3, &[S4]);
    world.settle(&mut memory);
    assert_eq!(ips(&world, WEB), ["10.0.0.1-10.0.0.3"]);
    assert!(world.claim(WEB, "node").is_some() && world.claim(WEB, "node").is_some());
}

#[test]
fn i00004_i00011_excluded_and_reserved_addresses_and_the_gateway_are_not_used() {
    let mut world = world();
    world.edit_subnet("s4", json!({"spec": {"excludeIPs": ["10.0.0.1", "10.0.0.3"], "gateway": "10.0.0.1"}}));
    let reserved =
        plan::allocate::AddressSet::from_ranges([("10.0.0.5".parse().unwrap(), "10.0.0.6".parse().unwrap())]);
    world.view.reserved.insert("r".into(), reserved);
    world.workload("StatefulSet", "web", "u1", 4, &[S4]);
    world.settle(&mut Memory::default());
    assert_eq!(ips(&world, WEB), ["10.0.0.2", "10.0.0.4", "10.0.0.7-10.0.0.8"]);
}

#[test]
fn too_few_addresses_give_none_and_are_told() {
    let mut world = world();
    world.workload("Deployment", "web", "u1", 15, &[S4]);
    world.workload("Deployment", "more", "u2", 9, &[S4]);
    let text = "SpiderSubnet s4: insufficient subnet FreeIPs, required '15' but only left '11'";
    assert_eq!(faults(&mut world), [format!("InsufficientSubnetIPs: {text}")]);
    assert_eq!(condition(&world, "s4", "Exhausted"), format!("True TooFewLeft d/web: {text}"));
    assert_eq!(world.view.pools.keys().collect::<Vec<_>>(), ["auto4-more-eth0-u2"]);
    world.delete_workload("Deployment", "more");
    assert_eq!(faults(&mut world), [""; 0]);
    assert_eq!(ips(&world, WEB), ["10.0.0.1-10.0.0.15"]);
}

#[test]
fn d00008_i00005_a_pool_made_by_hand_belongs_to_its_subnet() {
    let mut world = world();
    world.edit_subnet(
        "s4",
        json!({"spec": {"gateway": "10.0.0.254", "routes": [{"dst": "10.9.0.0/16", "gw": "10.0.0.1"}]}}),
    );
    world.pool("plain", json!({"subnet": "10.0.0.0/16", "ips": ["10.0.0.1-10.0.0.4"]}));
    world.pool(
        "own",
        json!({"subnet": "10.0.0.0/16", "ips": ["10.0.0.19-10.0.0.22"], "gateway": "10.0.0.253", "routes": []}),
    );
    world.pool("empty", json!({"subnet": "10.0.0.0/16"}));
    world.pool("other", json!({"subnet": "10.1.0.0/16", "ips": ["10.1.0.1"]}));
    let mut memory = Memory::default();
    world.settle(&mut memory);
    let of = |world: &World, name: &str| serde_json::to_value(&world.view.pools[name]).unwrap();
    let plain = of(&world, "plain");
    assert_eq!(plain["metadata"]["labels"], json!({"ipam.spidernet.io/owner-spider-subnet": "s4"}));
    assert_eq!(plain["metadata"]["ownerReferences"][0]["name"], "s4");
    assert_eq!(
        (&plain["spec"]["gateway"], &plain["spec"]["routes"][0]["gw"]),
        (&json!("10.0.0.254"), &json!("10.0.0.1"))
    );
    let own = of(&world, "own");
    assert_eq!((&own["spec"]["gateway"], &own["spec"]["routes"]), (&json!("10.0.0.253"), &json!([])));
    assert_eq!(of(&world, "other")["metadata"].get("ownerReferences"), None);
    let status = world.view.subnets["s4"].status.clone().unwrap();
    assert_eq!(
        status.controlled_ip_pools.as_deref(),
        Some(r#"{"own":{"ips":["10.0.0.19-10.0.0.20"]},"plain":{"ips":["10.0.0.1-10.0.0.4"]}}"#)
    );
    assert_eq!(status.allocated_ip_count, Some(6));
    assert!(
        condition(&world, "s4", "PoolConflict")
            .contains("SpiderIPPool own has addresses that are not the subnet's: 10.0.0.21-10.0.0.22")
    );
    // Later changes of the subnet are not inherited.
    world.edit_subnet("s4", json!({"spec": {"gateway": "10.0.0.250"}}));
    world.settle(&mut memory);
    assert_eq!(of(&world, "plain")["spec"]["gateway"], "10.0.0.254");
    // A workload's pool has the others.
    world.workload("Deployment", "web", "u1", 2, &[S4]);
    world.settle(&mut memory);
    assert_eq!(ips(&world, WEB), ["10.0.0.5-10.0.0.6"]);
    world.edit_pool("plain", json!({"spec": {"ips": ["10.0.0.1-10.0.0.5"]}}));
    world.view.pools.get_mut("plain").unwrap().metadata.creation_timestamp = None;
    world.decide(&mut memory).actions.iter().for_each(|action| assert!(!matches!(action, Action::Fence(..))));
}

#[test]
fn i00007_what_is_deleted_is_free_again() {
    let mut world = world();
    let mut memory = Memory::default();
    for _ in 0..3 {
        world.pool("manual", json!({"subnet": "10.0.0.0/16", "ips": ["10.0.0.1-10.0.0.4"]}));
        world.workload("Deployment", "web", "u1", 16, &[S4]);
        world.settle(&mut memory);
        assert_eq!(world.view.subnets["s4"].status.clone().unwrap().allocated_ip_count, Some(20));
        world.view.pools.remove("manual");
        world.delete_workload("Deployment", "web");
        world.settle(&mut memory);
        assert_eq!(world.view.subnets["s4"].status.clone().unwrap().allocated_ip_count, Some(0));
    }
}

#[test]
fn i00008_i00006_repeated_scaling_and_making_settles() {
    let mut world = world();
    let mut memory = Memory::default();
    for round in 0..40 {
        world.workload("Deployment", "web", "u1", [1, 7, 3, 12, 0][round % 5], &[S4]);
        world.settle(&mut memory);
        assert_eq!(world.recorded("s4", WEB), [1, 7, 3, 12, 0][round % 5]);
        if round % 7 == 0 {
            world.delete_workload("Deployment", "web");
            world.settle(&mut memory);
            assert!(world.view.pools.is_empty());
        }
    }
}

#[test]
fn i00009_of_overlapping_subnets_the_oldest_is_used() {
    let mut world = world();
    for number in 0..5 {
        world.subnet(&format!("again{number}"), "10.0.0.0/16", &["10.0.0.1-10.0.0.20"]);
    }
    world.subnet("wider", "10.0.0.0/8", &["10.0.0.1"]);
    world.workload("Deployment", "web", "u1", 1, &[("subnet", r#"{"ipv4":["wider"]}"#)]);
    let text = "overlap with Subnet s4 which 'spec.subnet' is 10.0.0.0/16, and which is older";
    assert_eq!(faults(&mut world), [format!("SubnetUnusable: SpiderSubnet wider: {text}")]);
    assert_eq!(condition(&world, "s4", "Valid"), "True SpecValid the subnet can be used");
    assert_eq!(condition(&world, "again3", "Valid"), format!("False SpecInvalid {text}"));
}

#[test]
fn i00015_i00016_i00019_a_kept_pool_is_for_the_next_of_its_kind_and_name() {
    let kept = [S4, ("ippool-reclaim", "false")];
    let mut world = world();
    let mut memory = Memory::default();
    world.workload("Deployment", "web", "u1", 2, &kept);
    world.settle(&mut memory);
    world.delete_workload("Deployment", "web");
    world.settle(&mut memory);
    assert_eq!(
        (ips(&world, WEB).as_slice(), world.recorded("s4", WEB)),
        (["10.0.0.1-10.0.0.2".to_owned()].as_slice(), 2)
    );
    // Another kind of that name.
    world.workload("StatefulSet", "web", "u2", 1, &kept);
    world.settle(&mut memory);
    assert_eq!(ips(&world, "auto4-web-eth0-u2"), ["10.0.0.3"]);
    // The same kind.
    world.workload("Deployment", "web", "u3", 3, &kept);
    world.settle(&mut memory);
    assert_eq!(ips(&world, WEB), ["10.0.0.1-10.0.0.2", "10.0.0.4"]);
    assert_eq!(
        world.view.pools[WEB].metadata.labels.as_ref().unwrap()["ipam.spidernet.io/owner-application-uid"],
        "u3"
    );
    assert_eq!(world.view.pools.len(), 2);
    // Asked for later, while it is there or when it is gone.
    world.workload("Deployment", "web", "u3", 3, &[S4, ("ippool-reclaim", "true")]);
    world.settle(&mut memory);
    world.delete_workload("Deployment", "web");
    world.settle(&mut memory);
    assert!(!world.view.pools.contains_key(WEB));
    world.delete_workload("StatefulSet", "web");
    world.settle(&mut memory);
    world.edit_pool("auto4-web-eth0-u2", json!({"metadata": {"labels": {"ipam.spidernet.io/ippool-reclaim": "true"}}}));
    world.settle(&mut memory);
    assert!(world.view.pools.is_empty());
}

#[test]
fn another_subnet_is_refused_while_there_is_a_pool() {
    let mut world = world();
    world.subnet("other", "10.1.0.0/16", &["10.1.0.1-10.1.0.9"]);
    world.workload("Deployment", "web", "u1", 2, &[S4]);
    world.settle(&mut Memory::default());
    world.workload("Deployment", "web", "u1", 3, &[("subnet", r#"{"ipv4":["other"]}"#)]);
    let found = faults(&mut world);
    assert!(
        found[0].starts_with("ApplicationSubnetChanged: its pool auto4-web-eth0-u1 is of SpiderSubnet s4"),
        "{found:?}"
    );
    assert_eq!(ips(&world, WEB), ["10.0.0.1-10.0.0.2"]);
}

#[test]
fn i00018_a_workloads_pool_is_put_right_and_that_is_told() {
    let mut world = world();
    world.workload("Deployment", "web", "u1", 2, &[S4]);
    let mut memory = Memory::default();
    assert!(world.settle(&mut memory).restored.is_empty());
    for patch in [
        json!({"spec": {"ips": ["10.0.0.1-10.0.0.9"]}}),
        json!({"spec": {"ips": ["10.0.0.2"]}}),
        json!({"spec": {"excludeIPs": ["10.0.0.2"]}}),
        json!({"spec": {"ips": ["x"]}}),
        json!({"spec": {"podAffinity": {"matchLabels": {"a": "b"}}}}),
        json!({"metadata": {"labels": {"ipam.spidernet.io/owner-application-name": "x"}, "annotations": {"ipam.spidernet.io/ippool-ip-number": null}}}),
    ] {
        let is_of_addresses = patch["spec"].get("podAffinity").is_none() && patch.get("metadata").is_none();
        world.edit_pool(WEB, patch.clone());
        let restored = world.settle(&mut memory).restored;
        assert_eq!(ips(&world, WEB), ["10.0.0.1-10.0.0.2"], "{patch}");
        assert_eq!(world.view.pools[WEB].spec.pod_affinity.as_ref().unwrap().match_labels.as_ref().unwrap().len(), 5);
        assert_eq!(restored.len(), usize::from(is_of_addresses), "{patch}");
    }
}

#[test]
fn i00022_a_dirty_status_is_put_right() {
    let mut world = world();
    world.workload("Deployment", "web", "u1", 2, &[S4]);
    world.pool("manual", json!({"subnet": "10.0.0.0/16", "ips": ["10.0.0.9"]}));
    let mut memory = Memory::default();
    world.settle(&mut memory);
    let right = world.view.subnets["s4"].status.clone();
    for dirty in [
        json!({"controlledIPPools": null, "totalIPCount": 7, "allocatedIPCount": 9}),
        json!({"controlledIPPools": "no JSON"}),
        json!({"controlledIPPools": r#"{"gone":{"ips":["10.0.0.1-10.0.0.20"],"application":"a_b_c_d_e"}}"#, "conditions": null}),
        json!({"controlledIPPools": r#"{"auto4-web-eth0-u1":{"ips":["10.0.0.9","10.9.9.9"],"application":"apps_v1_Deployment_d_web"}}"#}),
    ] {
        world.edit_subnet("s4", json!({"status": dirty}));
        world.settle(&mut memory);
        let mut found = world.view.subnets["s4"].status.clone();
        found.as_mut().unwrap().conditions = right.as_ref().unwrap().conditions.clone();
        assert_eq!(found, right, "{dirty}");
    }
}

#[test]
fn i00024_without_the_feature_there_is_no_pool() {
    for is_on in [(false, true), (true, false)] {
        let mut world = world();
        (world.view.conf.enable_spider_subnet, world.view.conf.enable_auto_pool_for_application) = is_on;
        world.workload("Deployment", "web", "u1", 2, &[S4]);
        world.settle(&mut Memory::default());
        assert!(world.view.pools.is_empty());
    }
    let mut world = world();
    world.view.conf.enable_ipv6 = false;
    world.view.conf.flexible_ip_number = 2;
    world.workload("Deployment", "web", "u1", 1, &[("subnet", r#"{"ipv4":["s4"],"ipv6":["s6"]}"#)]);
    world.settle(&mut Memory::default());
    assert_eq!(world.view.pools.keys().collect::<Vec<_>>(), [WEB]);
    assert_eq!(world.ips(WEB).len(), 3);
}

#[test]
fn a_subnet_that_is_deleted_stays_until_its_pools_are_gone() {
    let mut world = world();
    world.workload("Deployment", "web", "u1", 1, &[S4]);
    world.settle(&mut Memory::default());
    world.edit_subnet("s4", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    world.workload("Deployment", "late", "u2", 1, &[S4]);
    assert_eq!(faults(&mut world), ["SubnetUnusable: SpiderSubnet s4: it is being deleted"]);
    assert_eq!(condition(&world, "s4", "InUse"), format!("True HasPools {WEB}"));
    world.delete_workload("Deployment", "web");
    world.delete_workload("Deployment", "late");
    world.settle(&mut Memory::default());
    assert!(!world.view.subnets.contains_key("s4"));
}

#[test]
fn what_cannot_be_followed_is_a_fault_of_the_workload() {
    let mut world = world();
    world.workload("Deployment", "json", "u1", 1, &[("subnet", "{")]);
    world.workload("Deployment", "none", "u2", 1, &[("subnet", r#"{"ipv4":["x"]}"#)]);
    world.workload("Deployment", "six", "u3", 1, &[("subnet", r#"{"ipv4":["s6"]}"#)]);
    let found = faults(&mut world).join("\n");
    for text in [
        "InvalidSubnetAnnotation: annotation",
        "SubnetUnusable: SpiderSubnet x: there is none",
        "it is of IPv6, and IPv4 is asked for",
    ] {
        assert!(found.contains(text), "{found}");
    }
}

#[test]
fn a_subnet_of_64_bits_costs_what_a_small_one_does() {
    let cost = |name: &'static str| {
        let mut world = world();
        let annotation = if name == "s4" { S4 } else { ("subnet", r#"{"ipv6":["s6"]}"#) };
        for number in 0..19 {
            world.workload("Deployment", &format!("web{number}"), &format!("u{number}"), 1, &[annotation]);
        }
        let started = std::time::Instant::now();
        world.settle(&mut Memory::default());
        assert_eq!(world.view.pools.len(), 19);
        started.elapsed()
    };
    let (small, large) = (cost("s4"), cost("s6"));
    assert!(large < small * 5 + std::time::Duration::from_millis(50), "{small:?} {large:?}");
}
