//! Tables and properties of what is decided, on objects as the API server gives them.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use proptest::prelude::*;
use schemas::crd::ippool::SpiderIPPoolStatus;
use schemas::crd::{SpiderEndpoint, SpiderIPPool, SpiderIPShard, SpiderReservedIP};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[path = "kept_tests.rs"]
mod kept;

use super::agents::Moment;
use super::cleanup::{self, Chore, Findings};
use super::cluster::Cluster;
use super::read::{Heard, TaintedNode};
use super::reasons::Reason;
use super::status::{self, Verdict};

fn object<K: DeserializeOwned>(kind: &str, metadata: Value, rest: Value) -> K {
    let mut object = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": kind, "metadata": metadata});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

/// A cluster that was read whole, and what the controller remembers of it.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) now: Moment,
    pool: status::Memory,
    cleanup: cleanup::Memory,
}

impl World {
    pub(super) fn new() -> Self {
        let (mut cluster, now) = (Cluster::default(), Moment::now());
        cluster.hear(Heard::Pool(Event::Init), now);
        cluster.hear(Heard::Pool(Event::InitDone), now);
        cluster.hear(Heard::Shard(Event::InitDone), now);
        cluster.hear(Heard::Endpoint(Event::InitDone), now);
        cluster.hear(Heard::Reserved(Event::InitDone), now);
        cluster.hear(Heard::Node(Event::InitDone), now);
        cluster.hear(Heard::Pod(Event::InitDone), now);
        assert!(!cluster.is_complete());
        cluster.hear(Heard::Lease(Event::InitDone), now);
        assert!(cluster.is_complete());
        Self { cluster, now, pool: status::Memory::default(), cleanup: cleanup::Memory::default() }
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        self.cluster.hear(heard, self.now);
    }

    pub(super) fn pool(&mut self, name: &str, created: u8, spec: Value) {
        let metadata = json!({"name": name, "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": format!("2026-01-{created:02}T00:00:00Z")});
        self.hear(Heard::Pool(Event::Apply(object("SpiderIPPool", metadata, json!({ "spec": spec })))));
    }

    pub(super) fn shard(&mut self, pool: &str, number: u32, first: &str, size: u32, slots: &[&str]) {
        let mut slots: Vec<&str> = slots.to_vec();
        slots.resize(64, "");
        let spec = json!({"pool": pool, "poolUID": format!("uid-{pool}"), "first": first, "size": size});
        let shard: SpiderIPShard = object(
            "SpiderIPShard",
            json!({"name": format!("{pool}.{number}")}),
            json!({"spec": spec, "status": {"slots": slots}}),
        );
        self.hear(Heard::Shard(Event::Apply(shard)));
    }

    pub(super) fn endpoint_of(&self, pod: &str, node: &str, pool: &str, address: &str, owner: &str) -> SpiderEndpoint {
        let ips = json!([{"interface": "net1", "ipv4": format!("{address}/16"), "ipv4Pool": pool}]);
        let current = json!({"uid": format!("uid-{pod}"), "node": node, "ips": ips});
        let status = json!({"current": current, "ownerControllerType": owner, "ownerControllerName": "x"});
        let metadata = json!({"namespace": "default", "name": pod, "uid": format!("endpoint-{pod}")});
        object("SpiderEndpoint", metadata, json!({ "status": status }))
    }

    pub(super) fn endpoint(&mut self, pod: &str, node: &str, pool: &str, address: &str) {
        let endpoint = self.endpoint_of(pod, node, pool, address, "Deployment");
        self.hear(Heard::Endpoint(Event::Apply(endpoint)));
    }

    pub(super) fn pod(&mut self, name: &str) {
        self.hear(Heard::Pod(Event::Apply(pod(name))));
    }

    fn pod_gone(&mut self, name: &str) {
        self.hear(Heard::Pod(Event::Delete(pod(name))));
    }

    pub(super) fn node(&mut self, name: &str, labels: Value, taints: Value) {
        let node: TaintedNode =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}))
                .unwrap();
        self.hear(Heard::Node(Event::Apply(node)));
    }

    fn node_gone(&mut self, name: &str) {
        let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        self.hear(Heard::Node(Event::Delete(node)));
    }

    /// An agent in its `epoch`-th incarnation that has just renewed its Lease; its TTL is 400 s, so that its patience is
    /// 100 s.
    pub(super) fn agent(&mut self, node: &str, epoch: i32) {
        let lease: Lease = serde_json::from_value(json!({
            "metadata": {"name": format!("dragline-node-{node}"), "namespace": "kube-system", "uid": "lease", "resourceVersion": "5",
                "annotations": {"dragline.io/node-uid": "u"}},
            "spec": {"leaseTransitions": epoch - 1, "leaseDurationSeconds": 400, "renewTime": format!("{:.6}", self.now.wall)},
        }))
        .unwrap();
        self.hear(Heard::Lease(Event::Apply(lease)));
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    pub(super) fn decide(&mut self, pool: &str) -> Verdict {
        self.cluster.take_dirty();
        status::decide(&self.cluster, pool, &mut self.pool, self.now)
    }

    /// Decides, and has the API server write it.
    fn settle(&mut self, pool: &str) -> SpiderIPPoolStatus {
        let verdict = self.decide(pool);
        self.write(pool, verdict.patch.as_ref())
    }

    pub(super) fn write(&mut self, pool: &str, patch: Option<&Value>) -> SpiderIPPoolStatus {
        let mut object = self.cluster.pools[pool].object.clone();
        if let Some(patch) = patch {
            let mut json = serde_json::to_value(&object).unwrap();
            merge(&mut json, patch);
            object = serde_json::from_value(json).unwrap();
        }
        self.hear(Heard::Pool(Event::Apply(object.clone())));
        object.status.unwrap_or_default()
    }

    fn look(&mut self) -> Findings {
        cleanup::look(&self.cluster, &mut self.cleanup, self.now)
    }
}

fn pod(name: &str) -> PartialObjectMeta<Pod> {
    let metadata = json!({"namespace": "default", "name": name, "uid": format!("uid-{name}")});
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return target.clone_from(patch) };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn seed() -> World {
    let mut world = World::new();
    world.pool(
        "10-6-v4",
        1,
        json!({"subnet": "10.6.0.0/16", "ips": ["10.6.212.200-10.6.212.240"], "gateway": "10.6.0.1"}),
    );
    for node in ["a", "b"] {
        world.node(node, json!({}), Value::Null);
        world.agent(node, 1);
    }
    world
}

fn condition<'a>(status: &'a SpiderIPPoolStatus, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((&found.status, &found.reason, &found.message))
}

fn counts(status: &SpiderIPPoolStatus) -> [i64; 3] {
    [status.allocated_ip_count, status.leased_ip_count, status.total_ip_count].map(Option::unwrap)
}

#[test]
fn the_seeds_pool_shows_what_is_used_and_held() {
    let mut world = seed();
    let status = world.settle("10-6-v4");
    assert_eq!(counts(&status), [0, 0, 41]);
    assert_eq!(status.allocated_ips, None);
    assert_eq!(status.fair_share, Some(20));
    assert_eq!(condition(&status, "Valid"), Some(("True", "SpecValid", "the pool can be used")));
    assert_eq!(condition(&status, "CountsFresh").unwrap().0, "True");
    assert_eq!(condition(&status, "Exhausted").unwrap().0, "False");
    assert_eq!(status.conditions.len(), 3);

    // Window 10.6.212.192-255: slot 8 is .200. The node holds .200-.203, and .192, which is not in the pool.
    let mut slots = vec![""; 64];
    for slot in [0, 8, 9, 10, 11] {
        slots[slot] = "a";
    }
    slots[12] = "=shop/cart";
    slots[13] = "!99";
    world.shard("10-6-v4", 3395, "10.6.212.192", 64, &slots);
    world.pod("p");
    world.endpoint("p", "a", "10-6-v4", "10.6.212.202");
    // Not of this pool, not in any slot, and already taken out of the pool.
    world.endpoint("q", "b", "other", "10.6.212.203");
    world.endpoint("r", "b", "10-6-v4", "10.6.212.230");
    world.endpoint("s", "b", "10-6-v4", "10.6.9.9");
    let status = world.settle("10-6-v4");
    assert_eq!(counts(&status), [2, 5, 41]);
    let users: Vec<(String, String, String)> =
        status.users().unwrap().into_iter().map(|(ip, user)| (ip, user.pod, user.pod_uid)).collect();
    let user = |ip: &str, pod: &str| (ip.to_owned(), format!("default/{pod}"), format!("uid-{pod}"));
    assert_eq!(users, [user("10.6.212.202", "p"), user("10.6.212.230", "r")]);
    let (state, reason, message) = condition(&status, "InUseOutside").unwrap();
    assert_eq!((state, reason), ("True", "AddressesRemoved"));
    assert!(message.starts_with("1 addresses that pods have are no longer in the pool"), "{message}");
    assert_eq!(world.decide("10-6-v4").patch, None, "said once");
}

#[test]
fn of_two_endpoints_with_an_address_the_one_with_a_pod_is_listed() {
    for first in ["p", "q"] {
        let mut world = seed();
        world.pod(first);
        for pod in ["p", "q"] {
            world.endpoint(pod, "a", "10-6-v4", "10.6.212.202");
        }
        let status = world.settle("10-6-v4");
        assert_eq!(counts(&status), [1, 1, 41]);
        assert_eq!(status.users().unwrap()["10.6.212.202"].pod, format!("default/{first}"));
    }
}

#[test]
fn above_a_thousand_allocations_the_list_is_absent() {
    let mut world = World::new();
    world.pool("wide", 1, json!({"subnet": "10.0.0.0/16", "ips": ["10.0.0.1-10.0.255.254"]}));
    for number in 1..=1000 {
        world.endpoint(&format!("p{number}"), "a", "wide", &format!("10.0.{}.{}", number / 250, number % 250 + 1));
    }
    let status = world.settle("wide");
    assert_eq!(status.users().unwrap().len(), 1000);
    world.endpoint("one-more", "a", "wide", "10.0.99.1");
    let verdict = world.decide("wide");
    assert_eq!(verdict.patch.as_ref().unwrap()["status"].get("allocatedIPs"), Some(&Value::Null));
    let status = world.write("wide", verdict.patch.as_ref());
    assert_eq!((counts(&status)[0], status.allocated_ips), (1001, None));
}

#[test]
fn exhaustion_names_numbers_and_keeps_what_agents_wrote() {
    let mut world = World::new();
    world.pool("small", 1, json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.1-10.0.0.4"]}));
    let reserved: SpiderReservedIP =
        object("SpiderReservedIP", json!({"name": "r"}), json!({"spec": {"ips": ["10.0.0.4"]}}));
    world.hear(Heard::Reserved(Event::Apply(reserved)));
    let written = json!({"status": {"shardSize": 64, "waiting": {"b": "2026-11-23T01:00:00Z"}}});
    world.write("small", Some(&written));
    for last in 1..=3 {
        world.endpoint(&format!("p{last}"), "a", "small", &format!("10.0.0.{last}"));
    }
    let verdict = world.decide("small");
    assert_eq!(verdict.told.iter().map(|told| told.reason).collect::<Vec<_>>(), [Reason::PoolExhausted]);
    assert_eq!(verdict.told[0].note, "3 of 3 addresses are in use, 1 nodes wait for one");
    let status = world.write("small", verdict.patch.as_ref());
    assert_eq!(condition(&status, "Exhausted").unwrap().1, "NodesWait");
    assert_eq!(counts(&status), [3, 3, 4], "the total counts reserved ones as well");
    assert_eq!((status.shard_size, status.waiting.len(), status.fair_share), (Some(64), 1, Some(0)));
    world.write("small", Some(&json!({"status": {"waiting": null}})));
    let status = world.settle("small");
    assert_eq!(condition(&status, "Exhausted").unwrap().1, "AllInUse");
}

#[test]
fn what_is_wrong_with_pools_is_shown_on_the_younger() {
    let mut world = World::new();
    world.pool("old", 1, json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.1-10.0.0.9"], "default": true}));
    world.pool("new", 2, json!({"subnet": "10.0.0.0/24", "ips": ["10.0.0.5-10.0.0.6"], "default": true}));
    world.pool("six", 2, json!({"subnet": "fd00::/64", "ips": ["fd00::1"], "default": true}));
    world.pool("wrong", 3, json!({"subnet": "10.0.0.0/24", "ips": ["10.0.9.9"]}));
    assert_eq!(world.settle("old").conditions.len(), 3);
    assert_eq!(world.settle("six").conditions.len(), 3);
    let verdict = world.decide("new");
    let told: Vec<Reason> = verdict.told.iter().map(|told| told.reason).collect();
    assert_eq!(told, [Reason::PoolExhausted, Reason::PoolOverlap, Reason::PoolDefaultConflict]);
    let status = world.write("new", verdict.patch.as_ref());
    assert_eq!(condition(&status, "Exhausted").unwrap().1, "NoAddresses");
    assert!(condition(&status, "Overlapping").unwrap().2.contains("10.0.0.5-10.0.0.6 is given by SpiderIPPool old"));
    assert!(condition(&status, "DefaultConflict").unwrap().2.contains("SpiderIPPool old is default"));
    let status = world.settle("wrong");
    let (state, reason, message) = condition(&status, "Valid").unwrap();
    assert_eq!((state, reason), ("False", "SpecInvalid"));
    assert!(message.starts_with("spec.ips[0]: 10.0.9.9 not pertains to"), "{message}");
    assert_eq!(status.total_ip_count, None);
    // The older one goes.
    let old: SpiderIPPool = world.cluster.pools["old"].object.clone();
    world.hear(Heard::Pool(Event::Delete(old)));
    let status = world.settle("new");
    assert_eq!(condition(&status, "Overlapping").unwrap().0, "False");
    assert_eq!(condition(&status, "DefaultConflict").unwrap().0, "False");
}

#[test]
fn a_silent_nodes_leases_count_as_in_use() {
    let mut world = seed();
    world.shard("10-6-v4", 3395, "10.6.212.192", 64, &[[""; 8].as_slice(), &["a", "a", "b", "c"]].concat());
    let status = world.settle("10-6-v4");
    assert_eq!(counts(&status), [1, 4, 41], "c has no agent at all");
    let message = condition(&status, "CountsFresh").unwrap().2;
    assert_eq!(message, "not heard of: c, which has no Lease; the 1 addresses that they hold count as in use");
    world.pass(60);
    world.agent("b", 1);
    let verdict = world.decide("10-6-v4");
    assert_eq!(verdict.patch, None);
    let again = verdict.again.unwrap();
    assert!(again > Duration::from_secs(39) && again < Duration::from_secs(41), "a falls silent in {again:?}");
    world.pass(41);
    let verdict = world.decide("10-6-v4");
    let status = world.write("10-6-v4", verdict.patch.as_ref());
    assert_eq!(counts(&status), [3, 4, 41]);
    let message = condition(&status, "CountsFresh").unwrap().2;
    assert!(message.contains("a since 20") && message.contains("the 3 addresses"), "{message}");
    world.agent("a", 1);
    assert_eq!(counts(&world.settle("10-6-v4")), [1, 4, 41]);
}

#[test]
fn only_nodes_that_may_use_a_pool_share_it() {
    for (spec, share) in [
        (json!({}), 12),
        (json!({"nodeName": ["a"]}), 40),
        (json!({"nodeName": ["a", "no-agent"]}), 40),
        (json!({"nodeAffinity": {"matchLabels": {"zone": "z"}}}), 20),
        (json!({"nodeAffinity": {"matchExpressions": [{"key": "zone", "operator": "What"}]}}), 40),
        (json!({"disable": true}), 0),
    ] {
        let mut world = World::new();
        let mut whole = json!({"subnet": "10.6.0.0/16", "ips": ["10.6.212.200-10.6.212.240"]});
        merge(&mut whole, &spec);
        world.pool("p", 1, whole);
        for (node, labels) in [("a", json!({"zone": "z"})), ("b", json!({"zone": "z"})), ("c", json!({}))] {
            world.node(node, labels, Value::Null);
            world.agent(node, 1);
        }
        world.node("no-agent", json!({}), Value::Null);
        assert_eq!(world.settle("p").fair_share, Some(share), "{spec}");
    }
}

#[test]
fn an_unclear_slot_is_reported_and_left_alone() {
    let mut world = seed();
    world.shard("10-6-v4", 3395, "10.6.212.192", 64, &[[""; 8].as_slice(), &["What?", "a"]].concat());
    let status = world.settle("10-6-v4");
    assert_eq!(counts(&status), [1, 2, 41]);
    assert!(condition(&status, "SlotsUnclear").unwrap().2.contains("10-6-v4.3395/8"));
}

/// The edits of slots, a line each.
fn slots(findings: &Findings) -> Vec<String> {
    let mut lines = Vec::new();
    for chore in &findings.chores {
        let Chore::Slots(edits) = chore else { continue };
        let whose = if edits.is_node_gone { "a gone node's" } else { "a former one's" };
        for (index, old, new) in &edits.edits {
            lines.push(format!("{} {whose} {index}: {old} > {new}", edits.shard));
        }
    }
    lines
}

#[test]
fn a_deleted_nodes_addresses_go_into_quarantine_when_every_sign_agrees() {
    let mut world = seed();
    let start = world.now;
    world.shard("10-6-v4", 0, "10.6.0.0", 128, &["a", "a:1,b:2", "b", "a~2", "", "=x/y:1,a:2"]);
    world.pod("p");
    world.endpoint("p", "a", "10-6-v4", "10.6.0.1");
    assert_eq!(world.look().chores, []);
    world.node_gone("a");
    let findings = world.look();
    assert_eq!(findings.chores, [], "its agent is still heard of");
    assert!(findings.again.unwrap() <= Duration::from_millis(100_001));
    world.pass(101);
    assert_eq!(world.look().chores, [], "it has just been found silent");
    world.pass(99);
    assert_eq!(world.look().again, Some(Duration::from_secs(1)));
    world.pass(1);
    let findings = world.look();
    let until = start.unix() + 400;
    assert_eq!(
        slots(&findings),
        [
            format!("10-6-v4.0 a gone node's 0: a > !{until}:1,a:2"),
            format!("10-6-v4.0 a gone node's 1: a:1,b:2 > !{until}:1,b:2"),
            format!("10-6-v4.0 a gone node's 5: =x/y:1,a:2 > =x/y:1,!{until}:2"),
            format!("10-6-v4.0 a gone node's 3: a~2 > !{until}"),
        ]
    );
    assert_eq!(findings.chores.len(), 2, "the endpoint's pod is there: {findings:?}");

    // Long after the agent must have stopped, there is a cool-down all the same.
    world.pass(10_000);
    world.agent("b", 1);
    let findings = world.look();
    let Chore::Slots(edits) = &findings.chores[0] else { panic!("{findings:?}") };
    assert_eq!(edits.until, world.now.unix() + 60);

    // The pod goes, then its endpoint, then its address, then the Lease.
    world.pod_gone("p");
    let chores = world.look().chores;
    assert!(matches!(&chores[0], Chore::Endpoint { name, .. } if name.name == "p"), "{chores:?}");
    let endpoint = world.endpoint_of("p", "a", "10-6-v4", "10.6.0.1", "Deployment");
    world.hear(Heard::Endpoint(Event::Delete(endpoint)));
    let until = world.now.unix() + 60;
    assert_eq!(slots(&world.look())[0], format!("10-6-v4.0 a gone node's 0: a > !{until}"));
    world.shard("10-6-v4", 0, "10.6.0.0", 128, &["!9", "!9:1,b:2"]);
    let lease = Chore::Lease { node: "a".into(), uid: "lease".into(), version: "5".into() };
    assert_eq!(world.look().chores, std::slice::from_ref(&lease));
    world.shard("10-6-v4", 0, "10.6.0.0", 128, &["!9", "a:zz"]);
    assert_eq!(world.look().chores, [], "who knows what that slot means");
}

#[test]
fn signs_that_do_not_agree_free_nothing() {
    // The node is there; it is there and silent; it is off and its agent speaks; it was gone and came back.
    let far = 100_000;
    let mut world = seed();
    world.shard("10-6-v4", 0, "10.6.0.0", 64, &["a"]);
    world.pass(far);
    assert_eq!(world.look().chores, []);

    let mut world = seed();
    world.shard("10-6-v4", 0, "10.6.0.0", 64, &["a"]);
    world.node("a", json!({}), json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]));
    for _ in 0..10 {
        world.pass(90);
        world.agent("a", 1);
        assert_eq!(world.look().chores, []);
    }
    world.pass(101);
    world.look();
    world.pass(100);
    assert_eq!(slots(&world.look()).len(), 1, "now it is silent, too");
    world.node("a", json!({}), Value::Null);
    assert_eq!(world.look().chores, []);
    world.node_gone("a");
    assert_eq!(world.look().chores, [], "the time counts anew");
}

#[test]
fn what_keeps_its_address_stays() {
    let mut world = seed();
    world.shard("10-6-v4", 0, "10.6.0.0", 64, &["a", "a"]);
    let endpoint = world.endpoint_of("db-0", "a", "10-6-v4", "10.6.0.1", "StatefulSet");
    world.hear(Heard::Endpoint(Event::Apply(endpoint)));
    world.node_gone("a");
    world.pass(101);
    world.look();
    world.pass(100_000);
    let findings = world.look();
    let until = world.now.unix() + 60;
    assert_eq!(
        slots(&findings),
        [
            format!("10-6-v4.0 a gone node's 0: a > !{until}"),
            "10-6-v4.0 a gone node's 1: a > =default/db-0/net1/unsure".to_owned(),
        ],
        "its own is its own still, and looked for"
    );
    assert!(!findings.chores.iter().any(|chore| matches!(chore, Chore::Endpoint { .. })));
}

#[test]
fn a_former_incarnation_loses_its_addresses_a_whole_time_after_the_next_is_there() {
    let mut world = seed();
    world.shard("10-6-v4", 0, "10.6.0.0", 64, &["a", "a~2", "a"]);
    world.pod("p");
    world.endpoint("p", "a", "10-6-v4", "10.6.0.2");
    for _ in 0..10 {
        world.pass(90);
        world.agent("a", 1);
        assert_eq!(world.look().chores, [], "a~2 is to come, or comes from elsewhere");
    }
    world.agent("a", 2);
    let start = world.now;
    for _ in 0..4 {
        assert_eq!(world.look().chores, []);
        world.pass(99);
        world.agent("a", 2);
    }
    world.now = start.after(Duration::from_secs(400));
    world.agent("a", 2);
    let until = world.now.unix() + 60;
    assert_eq!(slots(&world.look()), [format!("10-6-v4.0 a former one's 0: a > !{until}")]);
}

#[test]
fn endpoints_without_pod_are_the_agents_for_a_whole_time() {
    let mut world = seed();
    world.pod("p");
    world.endpoint("p", "a", "10-6-v4", "10.6.0.1");
    world.pass(100_000);
    world.agent("a", 1);
    assert_eq!(world.look().chores, []);
    world.pod_gone("p");
    assert_eq!(world.look().again, Some(Duration::from_secs(400)));
    world.pass(399);
    world.agent("a", 1);
    // A word of the agent about it does not begin the time anew.
    world.endpoint("p", "a", "10-6-v4", "10.6.0.1");
    assert_eq!(world.look().chores, []);
    world.pass(1);
    assert_eq!(world.look().chores.len(), 1);
    world.pod("p");
    assert_eq!(world.look().chores, [], "its pod is there after all");
    // A later pod of the name does not make the endpoint its own.
    let mut later = pod("p");
    later.metadata.uid = Some("another".into());
    world.hear(Heard::Pod(Event::Apply(later)));
    world.pass(400);
    assert_eq!(world.look().chores.len(), 1);
}

#[test]
fn waiters_are_forgotten_when_they_are_gone_or_silent_for_long() {
    let mut world = seed();
    let time = |world: &World| format!("{:.0}", world.now.wall);
    let entry = |world: &mut World, node: &str, text: &str| {
        world.write("10-6-v4", Some(&json!({"status": {"waiting": null}})));
        world.write("10-6-v4", Some(&json!({"status": {"waiting": {node: text}}})));
    };
    let now = time(&world);
    let forgets = |world: &mut World| match world.look().chores.as_slice() {
        [] => false,
        [Chore::Waiter { pool, .. }] => pool == "10-6-v4",
        other => panic!("{other:?}"),
    };
    entry(&mut world, "nobody", &now);
    assert!(forgets(&mut world));
    entry(&mut world, "a", &format!("{now} 2"));
    assert!(!forgets(&mut world));
    world.pass(599);
    assert!(!forgets(&mut world), "silent, and not for long");
    world.pass(2);
    assert!(forgets(&mut world));
    world.agent("a", 1);
    assert!(!forgets(&mut world), "it waits as long as it likes while it is heard of");
    entry(&mut world, "a", "soon");
    assert!(!forgets(&mut world));
    world.pass(101);
    assert!(forgets(&mut world), "what is no time is old");
}

#[test]
fn a_listing_that_names_less_takes_away_the_rest() {
    let mut world = seed();
    world.pod("p");
    world.endpoint("p", "a", "10-6-v4", "10.6.212.202");
    world.endpoint("q", "a", "10-6-v4", "10.6.212.203");
    assert_eq!(world.cluster.orphans.len(), 1);
    world.hear(Heard::Endpoint(Event::Init));
    let kept = world.endpoint_of("p", "a", "10-6-v4", "10.6.212.202", "Deployment");
    world.hear(Heard::Endpoint(Event::InitApply(kept)));
    world.hear(Heard::Endpoint(Event::InitDone));
    world.hear(Heard::Pod(Event::Init));
    world.hear(Heard::Pod(Event::InitDone));
    assert_eq!(world.cluster.endpoints.len(), 1);
    assert_eq!(world.cluster.orphans.len(), 1);
    assert_eq!(counts(&world.settle("10-6-v4")), [1, 1, 41]);
    world.hear(Heard::Lease(Event::Init));
    world.hear(Heard::Lease(Event::InitDone));
    assert!(world.cluster.agents.is_empty());
}

/// What a slot may say.
fn slot_text() -> impl Strategy<Value = String> {
    let subject = prop_oneof![Just("a"), Just("b"), Just("b~2"), Just("gone"), Just("=n/o"), Just("!5")];
    prop_oneof![
        4 => prop::collection::vec(subject, 0..4).prop_map(|subjects| {
            subjects.iter().enumerate().map(|(index, subject)| format!("{subject}:{:x}", 1 << index)).collect::<Vec<_>>().join(",")
        }),
        1 => "[a-c:,~!=0-9]{0,8}",
    ]
}

proptest! {
    #[test]
    fn used_is_never_more_than_leased_nor_leased_than_the_total_and_nothing_is_said_twice(
        ips in prop::collection::vec((0u8..120, 0u8..30), 0..4),
        excluded in prop::collection::vec((0u8..120, 0u8..9), 0..3),
        slots in prop::collection::vec(slot_text(), 0..64),
        endpoints in prop::collection::vec((0u8..20, 0u8..255, any::<bool>()), 0..30),
        is_narrow: bool,
        pass in 0u64..300,
    ) {
        let mut world = seed();
        let texts = |pairs: &[(u8, u8)]| pairs.iter().map(|(first, more)| format!("10.7.0.{first}-10.7.0.{}", first + more)).collect::<Vec<_>>();
        world.pool("p", 2, json!({"subnet": "10.7.0.0/16", "ips": texts(&ips), "excludeIPs": texts(&excluded)}));
        world.pool("older", 1, json!({"subnet": "10.7.0.0/16", "ips": ["10.7.0.40-10.7.0.60"]}));
        let slots: Vec<&str> = slots.iter().map(String::as_str).collect();
        world.shard("p", 0, "10.7.0.0", if is_narrow { 64 } else { 256 }, &slots);
        for (pod, last, is_there) in endpoints {
            world.endpoint(&format!("p{pod}"), "a", "p", &format!("10.7.0.{last}"));
            if is_there { world.pod(&format!("p{pod}")); }
        }
        world.pass(pass);
        let status = world.settle("p");
        let [used, leased, total] = counts(&status);
        prop_assert!(0 <= used && used <= leased && leased <= total, "{used} {leased} {total}");
        if pass <= 100 {
            let listed = i64::try_from(status.users().unwrap().len()).unwrap();
            prop_assert!(listed <= used);
        }
        let again = world.decide("p");
        prop_assert_eq!((again.patch, again.told.len()), (None, 0));
    }
}
