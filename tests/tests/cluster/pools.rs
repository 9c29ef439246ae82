//! `dragline controller` and pools, on a real API server: what their status says, and what gone nodes leave behind.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use tests::binaries::Binaries;
use tests::cluster::{Cluster, Kubectl};

use crate::bed::{alone, eventually};

const POOL: &str = "10-6-v4";
/// The slots of the pool's window, 10.6.212.192 on, an address each.
const FIRST: usize = 192;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        alone("pools::the_status_shows_what_is_used_and_held", status),
        alone("pools::what_a_gone_node_leaves_goes_into_quarantine", gone_node),
        alone("pools::a_pool_goes_when_nobody_holds_anything_of_it", deletion),
        alone("pools::a_burst_is_a_few_writes_and_ends_right", burst),
    ]
}

/// The controller. It is killed when this is dropped.
struct Controller {
    child: Child,
    log: PathBuf,
}

impl Controller {
    fn start(cluster: &Cluster) -> Self {
        let log = cluster.folder().join("controller.log");
        let cni = cluster.folder().join("cni");
        fs::create_dir_all(&cni).unwrap();
        let child = Command::new(&Binaries::build().unwrap().dragline)
            .args(["controller", "--http", "127.0.0.1:0", "--identity", "one", "--kubeconfig"])
            .arg(cluster.kubeconfig())
            .arg("--cni-conf-dir")
            .arg(cni)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until something that kubectl gives as JSON is as it should be, and gives it.
    #[track_caller]
    fn wait(&self, kubectl: &Kubectl, what: &str, get: &[&str], is_right: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || {
            let found = kubectl.json(get).map_err(|error| error.to_string())?;
            if is_right(&found) { Ok(found) } else { Err(format!("{found:#}\n{}", self.log())) }
        })
    }

    fn wait_pool(&self, kubectl: &Kubectl, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        self.wait(kubectl, what, &["get", "spiderippool", POOL], is_right)
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pool(name: &str, ips: &str) -> String {
    json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": name},
        "spec": {"subnet": "10.6.0.0/16", "ips": [ips], "gateway": "10.6.0.1"}})
    .to_string()
}

/// A node and its agent's Lease, which the agent renews every 12th of these seconds and others take over after a quarter.
fn node(kubectl: &Kubectl, name: &str, ttl: u32) {
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string()).unwrap();
    let now = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.000000Z"]).output().unwrap().stdout;
    let renewed = String::from_utf8(now).unwrap();
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": format!("dragline-node-{name}"), "namespace": "kube-system", "annotations": {"dragline.io/node-uid": "u"}},
        "spec": {"holderIdentity": "i", "leaseDurationSeconds": ttl, "leaseTransitions": 0, "renewTime": renewed.trim()}});
    kubectl.apply(&lease.to_string()).unwrap();
}

/// The window of the pool, where nodes hold these addresses by their last number.
fn shard(kubectl: &Kubectl, held: &[(usize, &str)]) {
    let uid = kubectl.json(&["get", "spiderippool", POOL]).unwrap()["metadata"]["uid"].clone();
    let name = format!("{POOL}.3395");
    let shard = json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPShard", "metadata": {"name": name},
        "spec": {"pool": POOL, "poolUID": uid, "first": format!("10.6.212.{FIRST}"), "size": 64}});
    kubectl.apply(&shard.to_string()).unwrap();
    let mut slots = vec![""; 64];
    for (last, text) in held {
        slots[last - FIRST] = text;
    }
    let patch = json!({"status": {"slots": slots}}).to_string();
    let target = ["patch", "spideripshard", &name, "--subresource=status", "--type=merge", "--patch", &patch];
    kubectl.ask(&target, "").unwrap();
}

fn slot(shard: &Value, last: usize) -> &str {
    shard["status"]["slots"][last - FIRST].as_str().unwrap()
}

fn pod(kubectl: &Kubectl, name: &str, node: &str) -> Value {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    kubectl.apply(&pod.to_string()).unwrap();
    kubectl.json(&["get", "pod", name]).unwrap()["metadata"]["uid"].clone()
}

fn endpoint(name: &str, uid: &Value, node: &str, address: &str) -> Value {
    json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderEndpoint",
        "metadata": {"name": name, "namespace": "default", "finalizers": ["spiderpool.spidernet.io"]},
        "status": {"ownerControllerType": "Deployment", "ownerControllerName": "x", "current": {"uid": uid, "node": node,
            "ips": [{"interface": "net1", "ipv4": format!("{address}/16"), "ipv4Pool": POOL}]}}})
}

/// In use, held, in all.
fn counts(pool: &Value) -> [i64; 3] {
    ["allocatedIPCount", "leasedIPCount", "totalIPCount"].map(|key| pool["status"][key].as_i64().unwrap_or(-1))
}

fn condition(pool: &Value, kind: &str) -> String {
    let conditions = pool["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.filter(|condition| condition["type"] == kind);
    found
        .map(|condition| format!("{} {}", condition["status"], condition["reason"]))
        .collect::<String>()
        .replace('"', "")
}

/// The reasons of the Events on an object, each once.
fn events(found: &Value, object: &str) -> Vec<String> {
    let items = found["items"].as_array().unwrap().iter();
    let mut reasons: Vec<String> = items
        .filter(|event| event["regarding"]["name"] == object)
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

const EVENTS: [&str; 2] = ["get", "events.v1.events.k8s.io"];

fn status(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    kubectl.apply_crds().unwrap();
    let controller = Controller::start(cluster);
    kubectl.apply(&pool(POOL, "10.6.212.200-10.6.212.240")).unwrap();
    node(&kubectl, "a", 3600);
    node(&kubectl, "b", 3600);
    let found = controller.wait_pool(&kubectl, "an empty pool", |pool| {
        counts(pool) == [0, 0, 41] && pool["status"]["fairShare"] == 20 && pool["spec"]["ipVersion"] == 4
    });
    assert_eq!(found["metadata"]["finalizers"], json!(["spiderpool.spidernet.io"]));
    assert_eq!(found["metadata"]["labels"]["ipam.spidernet.io/ippool-cidr"], "10-6-0-0-16");

    // What agents write stays, and counts.
    let written = json!({"status": {"shardSize": 64, "waiting": {"b": "2026-11-23T01:00:00Z"}}}).to_string();
    kubectl.ask(&["patch", "spiderippool", POOL, "--subresource=status", "--type=merge", "-p", &written], "").unwrap();
    shard(&kubectl, &[(200, "a"), (201, "a"), (202, "b"), (199, "a"), (203, "=shop/cart"), (204, "!9")]);
    let uid = pod(&kubectl, "p", "a");
    kubectl.apply(&endpoint("p", &uid, "a", "10.6.212.200").to_string()).unwrap();
    let found = controller.wait_pool(&kubectl, "one of three in use", |pool| counts(pool) == [1, 3, 41]);
    let users: Value = serde_json::from_str(found["status"]["allocatedIPs"].as_str().unwrap()).unwrap();
    assert_eq!(users, json!({"10.6.212.200": {"pod": "default/p", "podUid": uid}}));
    assert_eq!(found["status"]["shardSize"], 64);
    let found = controller.wait_pool(&kubectl, "no share while one waits", |pool| pool["status"]["fairShare"] == 0);
    assert_eq!(found["status"]["waiting"]["b"], "2026-11-23T01:00:00Z");
    assert_eq!(condition(&found, "Exhausted"), "True NodesWait");
    assert_eq!(condition(&found, "CountsFresh"), "True AllHeard");
    assert_eq!(condition(&found, "Valid"), "True SpecValid");

    // A younger pool loses what both hold. Pools are as old as the second in which they came.
    thread::sleep(Duration::from_secs(1));
    kubectl.apply(&pool("younger", "10.6.212.240-10.6.212.250")).unwrap();
    let get = ["get", "spiderippool", "younger"];
    controller.wait(&kubectl, "an overlap", &get, |pool| condition(pool, "Overlapping") == "True OlderPool");
    controller.wait(&kubectl, "its Event", &EVENTS, |found| events(found, "younger") == ["PoolOverlap"]);
    controller.wait(&kubectl, "the Event", &EVENTS, |found| events(found, POOL) == ["PoolExhausted"]);

    // An address in use is taken out of the pool: it is not lost, and can be put back.
    kubectl.apply(&pool(POOL, "10.6.212.201-10.6.212.240")).unwrap();
    let found = controller.wait_pool(&kubectl, "one outside", |pool| counts(pool) == [0, 2, 40]);
    assert_eq!(condition(&found, "InUseOutside"), "True AddressesRemoved");
    kubectl.apply(&pool(POOL, "10.6.212.200-10.6.212.240")).unwrap();
    let found = controller.wait_pool(&kubectl, "all inside", |pool| counts(pool) == [1, 3, 41]);
    assert_eq!(condition(&found, "InUseOutside"), "False AllInside");

    // Said once, and still followed after an outage.
    cluster.restart().unwrap();
    kubectl.ask(&["delete", "spiderendpoint", "p", "--wait=false"], "").unwrap();
    kubectl
        .ask(&["patch", "spiderendpoint", "p", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#], "")
        .unwrap();
    let settled = controller.wait_pool(&kubectl, "none in use", |pool| counts(pool) == [0, 3, 41]);
    thread::sleep(Duration::from_secs(7));
    node(&kubectl, "a", 3600);
    thread::sleep(Duration::from_secs(7));
    let later = kubectl.json(&["get", "spiderippool", POOL]).unwrap();
    assert_eq!(later["metadata"]["resourceVersion"], settled["metadata"]["resourceVersion"], "{later:#}");
}

fn gone_node(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    kubectl.apply_crds().unwrap();
    kubectl.apply(&pool(POOL, "10.6.212.200-10.6.212.240")).unwrap();
    node(&kubectl, "a", 20);
    node(&kubectl, "b", 3600);
    shard(&kubectl, &[(200, "a"), (201, "a"), (202, "a~2"), (203, "b"), (204, "?")]);
    let uid = pod(&kubectl, "p", "a");
    kubectl.apply(&endpoint("p", &uid, "a", "10.6.212.201").to_string()).unwrap();
    let waiting = json!({"status": {"waiting": {"nobody": "2026-11-23T01:00:00Z"}}}).to_string();
    kubectl.ask(&["patch", "spiderippool", POOL, "--subresource=status", "--type=merge", "-p", &waiting], "").unwrap();
    let controller = Controller::start(cluster);
    let found =
        controller.wait_pool(&kubectl, "a falls silent", |pool| condition(pool, "CountsFresh") == "False NodesSilent");
    assert_eq!(counts(&found), [4, 5, 41], "a's three, and what nobody can read");
    assert_eq!(condition(&found, "SlotsUnclear"), "True TextUnclear");
    controller.wait_pool(&kubectl, "nobody waits", |pool| {
        pool["status"]["waiting"].as_object().is_none_or(serde_json::Map::is_empty)
    });

    // Silent, and deleted, but a pod is bound to it.
    kubectl.ask(&["delete", "node", "a"], "").unwrap();
    thread::sleep(Duration::from_secs(15));
    let get = ["get", "spideripshard", "10-6-v4.3395"];
    let found = kubectl.json(&get).unwrap();
    assert_eq!([200, 201, 202, 203].map(|last| slot(&found, last)), ["a", "a", "a~2", "b"]);
    kubectl.ask(&["delete", "pod", "p", "--grace-period=0", "--force"], "").unwrap();
    let found = controller.wait(&kubectl, "quarantine", &get, |shard| {
        [200, 201, 202].iter().all(|last| slot(shard, *last).starts_with('!'))
    });
    assert_eq!([203, 204].map(|last| slot(&found, last)), ["b", "?"]);
    let remaining = kubectl.json(&["get", "spiderendpoints"]).unwrap();
    assert_eq!(remaining["items"], json!([]));
    kubectl
        .ask(&["wait", "lease/dragline-node-a", "--namespace=kube-system", "--for=delete", "--timeout=60s"], "")
        .unwrap();
    kubectl.ask(&["get", "lease", "dragline-node-b", "dragline-controller", "--namespace=kube-system"], "").unwrap();
    controller
        .wait(&kubectl, "the Event", &EVENTS, |found| events(found, POOL).contains(&"AddressQuarantined".to_owned()));
}

fn deletion(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    kubectl.apply_crds().unwrap();
    let controller = Controller::start(cluster);
    kubectl.apply(&pool(POOL, "10.6.212.200-10.6.212.240")).unwrap();
    node(&kubectl, "a", 3600);
    controller.wait_pool(&kubectl, "a finalizer", |pool| !pool["metadata"]["finalizers"].is_null());
    let uid = pod(&kubectl, "p", "a");
    kubectl.apply(&endpoint("p", &uid, "a", "10.6.212.200").to_string()).unwrap();
    shard(&kubectl, &[(200, "a")]);
    kubectl.ask(&["delete", "spiderippool", POOL, "--wait=false"], "").unwrap();
    let found = controller.wait_pool(&kubectl, "it is counted", |pool| counts(pool) == [1, 1, 41]);
    assert_eq!(found["status"]["fairShare"], 0, "what ends gives nothing");
    shard(&kubectl, &[(200, "")]);
    controller.wait_pool(&kubectl, "an endpoint keeps it", |pool| {
        counts(pool) == [1, 1, 41] && !pool["metadata"]["finalizers"].is_null()
    });
    kubectl
        .ask(&["patch", "spiderendpoint", "p", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#], "")
        .unwrap();
    kubectl.ask(&["delete", "spiderendpoint", "p"], "").unwrap();
    kubectl.ask(&["wait", &format!("spiderippool/{POOL}"), "--for=delete", "--timeout=60s"], "").unwrap();
}

fn burst(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl().clone();
    kubectl.apply_crds().unwrap();
    let controller = Controller::start(cluster);
    kubectl.apply(&pool(POOL, "10.6.0.2-10.6.9.250")).unwrap();
    node(&kubectl, "a", 3600);
    controller.wait_pool(&kubectl, "an empty pool", |pool| counts(pool)[0] == 0 && pool["status"]["fairShare"] != 0);
    let writes = |cluster: &Cluster| -> u64 {
        let metrics = cluster.metrics().unwrap();
        let is_status = |line: &&str| {
            ["apiserver_request_total{", r#"resource="spiderippools""#, r#"subresource="status""#, r#"verb="PATCH""#]
                .iter()
                .all(|part| line.contains(part))
        };
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        metrics.lines().filter(is_status).map(value).sum()
    };
    let before = writes(cluster);
    let endpoints: Vec<Value> =
        (1..=250).map(|last| endpoint(&format!("p{last}"), &json!("u"), "a", &format!("10.6.5.{last}"))).collect();
    for part in endpoints.chunks(25) {
        kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": part}).to_string()).unwrap();
        thread::sleep(Duration::from_millis(500));
    }
    controller.wait_pool(&kubectl, "the last one counts", |pool| counts(pool)[0] == 250);
    let written = writes(cluster) - before;
    assert!((1..=8).contains(&written), "{written} writes of the status for 250 endpoints in a few seconds");
}
