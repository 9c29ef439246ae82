//! The API of Spiderpool's agent, as its plugins and other programs speak it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::ipam::{Ipam, Sandbox};
use crate::node::{COORDINATOR, Node, POOL, POOL_NAME, eventually, holds, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_original_plugin_s_requests", plugin_requests),
        trial("c00018_c00019_only_a_stateless_pod_s_conflicting_addresses_are_released", conflicting),
        trial("a_pod_s_addresses_over_the_socket", endpoint),
        trial("the_coordinator_s_settings_over_the_socket", coordinator),
        trial("requests_that_cannot_be_meant", bad_requests),
        trial("the_socket_goes_where_the_config_map_says", moves),
        trial("another_program_s_socket_is_left_alone", left_alone),
    ]
}

/// A status and the body.
type Reply = (u16, Value);

fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> Result<Reply, String> {
    let mut stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: spiderpool\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut text = String::new();
    let asked = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    // A server that refuses may have closed already; what it said is there all the same.
    let told = stream.read_to_string(&mut text);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("{asked:?} {told:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    let body =
        if body.is_empty() { Value::Null } else { serde_json::from_str(body).map_err(|error| error.to_string())? };
    Ok((status, body))
}

fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> Reply {
    request(socket, method, path, body.to_string().as_bytes()).unwrap()
}

fn conf(socket: &Path, keeps: bool) -> String {
    let conf = json!({"ipamUnixSocketPath": socket, "enableIPConflictDetection": false, "enableStatefulSet": keeps});
    let conf = conf.to_string();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "spiderpool-conf", "namespace": "kube-system"},
        "data": {"conf.yml": conf}})
    .to_string()
}

struct Bed {
    node: Node,
    socket: PathBuf,
}

/// A node and where it is to have its second socket.
fn node(name: &str, further: &[(&str, &str)]) -> (Node, PathBuf) {
    let node = Node::with(name, &[&[("p.yaml", POOL), ("c.yaml", COORDINATOR)], further].concat());
    let socket = node.scene.manifests().with_file_name("spidernet").join("spiderpool.sock");
    (node, socket)
}

fn declare(node: &Node, socket: &Path) {
    node.scene.apply("conf.json", &conf(socket, true)).unwrap();
}

fn bed(name: &str) -> Bed {
    bed_with(name, &[])
}

/// With these manifests besides pool and coordinator.
fn bed_with(name: &str, further: &[(&str, &str)]) -> Bed {
    let (node, socket) = node(name, further);
    declare(&node, &socket);
    eventually("the agent's second socket", || request(&socket, "GET", "/v1/ipam/healthy", b"").map(drop));
    Bed { node, socket }
}

fn add_args(sandbox: &Sandbox, pod: &str) -> Value {
    json!({"containerID": sandbox.it.container, "defaultIPv4IPPool": [POOL_NAME], "defaultIPv6IPPool": null,
        "ifName": "net1", "netNamespace": sandbox.netns.path(), "podName": pod, "podNamespace": "default", "podUID": ""})
}

fn plugin_requests() {
    let bed = bed("i1");
    let (first, second) = (Sandbox::new(&bed.node, "first"), Sandbox::new(&bed.node, "second"));
    assert_eq!(ask(&bed.socket, "GET", "/v1/ipam/healthy", &Value::Null), (200, Value::Null));
    let wanted = json!({
        "ips": [{"version": 4, "address": "10.6.212.200/16", "ipPool": POOL_NAME, "gateway": "10.6.0.1", "nic": "net1", "vlan": 0,
            "enableGatewayDetection": false, "enableIPConflictDetection": false}],
        "routes": [{"ifName": "net1", "dst": "0.0.0.0/0", "gw": "10.6.0.1"}],
    });
    for _ in 0..3 {
        assert_eq!(ask(&bed.socket, "POST", "/v1/ipam/ip", &add_args(&first, "first")), (200, wanted.clone()));
    }
    let (status, body) = ask(&bed.socket, "POST", "/v1/ipam/ip", &add_args(&second, "second"));
    assert_eq!((status, &body["ips"][0]["address"]), (200, &json!("10.6.212.201/16")));
    // Our own plugin finds the same.
    assert_eq!(Ipam::new(&bed.node, &[POOL_NAME]).add(&first), "10.6.212.200/16");
    assert_eq!(bed.node.counts(POOL_NAME), (2, 41));
    let mut missing = add_args(&first, "first");
    missing["defaultIPv4IPPool"] = json!(["nowhere"]);
    missing["containerID"] = json!("another");
    let (status, body) = ask(&bed.socket, "POST", "/v1/ipam/ip", &missing);
    assert_eq!(status, 500);
    assert!(body.as_str().unwrap().contains("nowhere"), "{body}");
    assert_eq!(ask(&bed.socket, "POST", "/v1/ipam/ips", &Value::Null).0, 200);
    assert_eq!(ask(&bed.socket, "DELETE", "/v1/ipam/ip", &add_args(&first, "first")), (200, Value::Null));
    let all = json!({"containerID": second.it.container, "podNamespace": "default", "podName": "second", "podUID": "",
        "isReleaseConflictIPs": true});
    assert_eq!(ask(&bed.socket, "DELETE", "/v1/ipam/ips", &all), (200, Value::Null));
    // What is gone already is no error.
    assert_eq!(ask(&bed.socket, "DELETE", "/v1/ipam/ips", &all), (200, Value::Null));
    bed.node.forgets_all();
    assert_eq!(bed.node.counts(POOL_NAME), (0, 41));
}

fn conflicting() {
    let pods = [("web-1", "ReplicaSet", "web"), ("db-0", "StatefulSet", "db")].map(|(name, kind, controller)| {
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": controller, "uid": "o", "controller": true}]);
        let metadata = json!({"name": name, "namespace": "default", "ownerReferences": owner});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}).to_string()
    });
    let bed = bed_with("i7", &[("web.json", &pods[0]), ("db.json", &pods[1])]);
    let (web, db) = (Sandbox::new(&bed.node, "web-1"), Sandbox::new(&bed.node, "db-0"));
    let all = |sandbox: &Sandbox, pod: &str, is_conflict: bool| {
        let body = json!({"containerID": sandbox.it.container, "podNamespace": "default", "podName": pod, "podUID": "",
            "isReleaseConflictIPs": is_conflict});
        ask(&bed.socket, "DELETE", "/v1/ipam/ips", &body)
    };
    let add = |sandbox: &Sandbox, pod: &str| {
        let (status, body) = ask(&bed.socket, "POST", "/v1/ipam/ip", &add_args(sandbox, pod));
        assert_eq!(status, 200, "{body}");
        body["ips"][0]["address"].as_str().unwrap().to_owned()
    };
    let (of_web, of_db) = (add(&web, "web-1"), add(&db, "db-0"));
    assert_eq!(all(&web, "web-1", true), (200, Value::Null));
    eventually("one has been released", || holds(bed.node.counts(POOL_NAME).0 == 1, bed.node.counts(POOL_NAME)));
    let forbidden = (522, json!("forbid releasing IPs for stateful workload"));
    assert_eq!(all(&db, "db-0", true), forbidden);
    assert_eq!(add(&db, "db-0"), of_db, "it has it still");
    // The plugin's own clearing up is no such question; the address is the pod's all the same.
    assert_eq!(all(&db, "db-0", false), (200, Value::Null));
    eventually("both have been released", || holds(bed.node.counts(POOL_NAME).0 == 0, bed.node.counts(POOL_NAME)));
    assert_eq!(add(&db, "db-0"), of_db);
    assert_ne!(add(&web, "web-1"), of_db);
    assert_ne!(of_web, of_db);
    // Where it keeps nothing, it is as any other.
    bed.node.scene.apply("conf.json", &conf(&bed.socket, false)).unwrap();
    eventually("the switch", || {
        let answer = all(&db, "db-0", true);
        holds(answer == (200, Value::Null), answer)
    });
}

fn endpoint() {
    let bed = bed("i2");
    let it = Sandbox::new(&bed.node, "it");
    Ipam::new(&bed.node, &[POOL_NAME]).add(&it);
    let path = "/v1/workloadendpoint?podNamespace=default&podName=it";
    let (status, body) = ask(&bed.socket, "GET", path, &Value::Null);
    let interfaces = json!([{"interface": "net1", "ipv4": "10.6.212.200/16", "ipv4Pool": POOL_NAME,
        "ipv4Gateway": "10.6.0.1", "routes": []}]);
    assert_eq!((status, &body["podName"], &body["interfaces"]), (200, &json!("it"), &interfaces), "{body}");
    let (status, body) = ask(&bed.socket, "GET", "/v1/workloadendpoint?podNamespace=default&podName=no", &Value::Null);
    assert_eq!((status, body), (404, json!("SpiderEndpoint not found for pod default/no")));
    assert_eq!(ask(&bed.socket, "GET", "/v1/workloadendpoint?podName=it", &Value::Null).0, 400);
}

fn coordinator() {
    let bed = bed("i3");
    let pod = json!({"podName": "it", "podNamespace": "default"});
    let (status, body) = ask(&bed.socket, "GET", "/v1/coordinator/config", &pod);
    assert_eq!(status, 200, "{body}");
    for key in ["overlayPodCIDR", "serviceCIDR", "hijackCIDR"] {
        assert!(body[key].is_array(), "{key}: {body}");
    }
    assert_eq!(
        (&body["mode"], &body["tunePodRoutes"], &body["hostRuleTable"]),
        (&json!("auto"), &json!(true), &json!(500))
    );
    assert_eq!(ask(&bed.socket, "GET", "/v1/coordinator/config", &json!({})).0, 422);
}

fn bad_requests() {
    let bed = bed("i4");
    let it = Sandbox::new(&bed.node, "it");
    let with = |key: &str, value: Value| {
        let mut body = add_args(&it, "it");
        body[key] = value;
        body.to_string().into_bytes()
    };
    let long = vec![b' '; (1 << 20) + 1];
    let bodies: Vec<(Vec<u8>, u16)> = vec![
        (Vec::new(), 422),
        (b"{".to_vec(), 422),
        (b"\xff\xfe".to_vec(), 422),
        (b"[]".to_vec(), 422),
        (b"{}".to_vec(), 422),
        (with("containerID", json!("../../etc")), 422),
        (with("containerID", json!("")), 422),
        (with("ifName", json!("a-name-that-is-too-long")), 422),
        (with("ifName", json!(7)), 422),
        (with("podName", Value::Null), 422),
        (with("defaultIPv4IPPool", json!("p")), 422),
        (with("netNamespace", json!("/nowhere")), 500),
        (long, 400),
    ];
    for (body, wanted) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        let (status, text) = request(&bed.socket, "POST", "/v1/ipam/ip", &body).unwrap();
        assert_eq!(status, wanted, "{shown}: {text}");
        assert!(text.is_string(), "{shown}: {text}");
    }
    for (method, path) in
        [("GET", "/"), ("PUT", "/v1/ipam/ip"), ("GET", "/v1/ipam/ip/../x"), ("DELETE", "/v1/workloadendpoint")]
    {
        assert_eq!(ask(&bed.socket, method, path, &Value::Null).0, 404, "{method} {path}");
    }
    // No HTTP at all, and an asker that goes away.
    UnixStream::connect(&bed.socket).unwrap().write_all(b"\0\0\0\x04{}{}").unwrap();
    assert_eq!(ask(&bed.socket, "GET", "/v1/ipam/healthy", &Value::Null).0, 200);
    assert_eq!(bed.node.counts(POOL_NAME), (0, 41));
    assert_eq!(Ipam::new(&bed.node, &[POOL_NAME]).add(&it), "10.6.212.200/16");
}

fn moves() {
    let bed = bed("i5");
    let other = bed.socket.with_file_name("other.sock");
    declare(&bed.node, &other);
    eventually("the socket at its new place", || request(&other, "GET", "/v1/ipam/healthy", b"").map(drop));
    assert!(!bed.socket.exists());
    std::fs::remove_file(bed.node.scene.manifests().join("conf.json")).unwrap();
    eventually("no socket", || if other.exists() { Err("it is there".to_owned()) } else { Ok(()) });
}

fn left_alone() {
    let (node, socket) = node("i6", &[]);
    std::fs::create_dir(socket.parent().unwrap()).unwrap();
    let original = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    declare(&node, &socket);
    eventually("a word about it", || {
        let log = node.log();
        if log.contains("another agent answers there") { Ok(()) } else { Err(log) }
    });
    let mut kept = UnixStream::connect(&socket).unwrap();
    let (mut accepted, _) = loop {
        // The agent has looked whether anybody is there.
        let (mut stream, address) = original.accept().unwrap();
        let mut byte = [0];
        if stream.set_nonblocking(true).is_ok() && stream.read(&mut byte).is_err() {
            break (stream, address);
        }
    };
    accepted.set_nonblocking(false).unwrap();
    accepted.write_all(b"mine").unwrap();
    let mut word = [0; 4];
    kept.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"mine");
    assert!(Ipam::new(&node, &[POOL_NAME]).add(&Sandbox::new(&node, "it")).starts_with("10.6.212."));
}
