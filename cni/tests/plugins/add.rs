//! ADD of each plugin and version.

use std::time::{Duration, Instant};

use schemas::cni::error::CniError;
use schemas::cni::result::{CniResult, ResultDns, ResultInterface, ResultIp};
use schemas::wire::{Answer, AttachIpam, Call, PROTOCOL, Part};
use serde_json::{Value, json};

use crate::scene::{Behaviour, Scene, run};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn result() -> CniResult {
    CniResult {
        interfaces: vec![ResultInterface {
            name: "net1".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: Some(1500),
            sandbox: "/run/netns/x".into(),
            ..Default::default()
        }],
        ips: vec![ResultIp {
            address: "10.6.0.5/16".parse().unwrap(),
            gateway: Some("10.6.0.1".parse().unwrap()),
            interface: Some(0),
        }],
        routes: Vec::new(),
        dns: ResultDns::default(),
    }
}

fn agent() -> Scene {
    Scene::with_agent(Behaviour::Answers(vec![Answer::Result(result())]))
}

fn ipam_conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "type": "macvlan", "ipam": {"type": "spiderpool", "default_ipv4_ippool": ["p"]}})
}

#[test]
fn spiderpool_prints_addresses_alone_in_every_version() {
    for version in VERSIONS {
        let scene = agent();
        let ran = scene.call("spiderpool", "ADD", &ipam_conf(version));
        let mut ip = json!({"address": "10.6.0.5/16", "gateway": "10.6.0.1"});
        if version.starts_with("0.") {
            ip["version"] = json!("4");
        }
        assert_eq!(ran.json(), json!({"cniVersion": version, "ips": [ip], "dns": {}}));
        assert!(ran.success);
        let request = scene.question();
        assert_eq!((request.protocol, request.deadline_ms), (PROTOCOL, 20_000));
        let Call::Allocate(call) = request.call else { panic!("{request:?}") };
        assert_eq!(call.ipam.default_ipv4_ippool, ["p"]);
        assert_eq!(call.place.pod.to_string(), "default/nginx");
    }
}

#[test]
fn macvlan_prints_link_and_addresses_in_every_version() {
    for version in VERSIONS {
        let scene = agent();
        let mut conf = ipam_conf(version);
        conf["dns"] = json!({"nameservers": ["10.0.0.53"]});
        let printed = scene.call("macvlan", "ADD", &conf).json();
        assert_eq!(printed["cniVersion"], version);
        assert_eq!(printed["interfaces"][0].get("mtu").is_some(), version == "1.1.0");
        assert_eq!(printed["ips"][0]["interface"], 0);
        assert_eq!(printed["dns"], conf["dns"]);
        let Call::Attach(call) = scene.question().call else { panic!() };
        assert!(matches!(call.ipam, AttachIpam::Spiderpool(_)), "{call:?}");
        assert!(scene.was_not_asked());
    }
}

#[test]
fn coordinator_hands_on_what_it_was_given() {
    for version in VERSIONS {
        let scene = Scene::with_agent(Behaviour::Answers(vec![Answer::Done]));
        let prev = result().to_json(schemas::cni::version::CniVersion::parse(version).unwrap());
        let conf = json!({"cniVersion": version, "name": "net", "type": "coordinator", "prevResult": prev});
        assert_eq!(scene.call("coordinator", "ADD", &conf).json(), prev);
        let Call::Coordinate(call) = scene.question().call else { panic!() };
        assert_eq!(call.prev_result.ips, result().ips);
    }
}

#[test]
fn a_coordinator_that_is_switched_off_needs_no_agent() {
    for mode in ["disabled", "disable"] {
        let scene = Scene::without_agent();
        let prev = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/8"}], "dns": {}});
        let conf =
            json!({"cniVersion": "1.0.0", "name": "net", "type": "coordinator", "mode": mode, "prevResult": prev});
        let ran = scene.call("coordinator", "ADD", &conf);
        assert!(ran.success);
        assert_eq!(ran.json(), prev);
        assert!(scene.call("coordinator", "CHECK", &conf).success);
    }
}

#[test]
fn the_agents_error_is_the_plugins() {
    let error = CniError::new(11, "no address left").with_details("41 of 41");
    let scene = Scene::with_agent(Behaviour::Answers(vec![Answer::Error(error)]));
    let ran = scene.call("spiderpool", "ADD", &ipam_conf("0.4.0"));
    assert_eq!(ran.json(), json!({"cniVersion": "0.4.0", "code": 11, "msg": "no address left", "details": "41 of 41"}));
    assert!(!ran.success);
}

#[test]
fn an_agent_that_is_away_or_silent_is_error_11() {
    let scene = Scene::without_agent();
    let ran = scene.call("spiderpool", "ADD", &ipam_conf("1.0.0"));
    assert_eq!(ran.code(), 11);
    assert!(ran.stdout.contains("agent.sock") && ran.stdout.contains("dragline agent"), "{}", ran.stdout);
    for (behaviour, text) in [
        (Behaviour::Silence, "did not answer within 100 ms"),
        (Behaviour::Drops, "did not answer within 100 ms"),
        (Behaviour::Close, "went away before it answered"),
        (Behaviour::Bytes(vec![0, 0]), "went away before it answered"),
    ] {
        let scene = Scene::with_agent(behaviour);
        let begun = Instant::now();
        let ran = run(
            scene.command("spiderpool", "ADD").env("DRAGLINE_DEADLINE_MS", "100"),
            ipam_conf("1.0.0").to_string().as_bytes(),
        );
        assert!(ran.code() == 11 && ran.stdout.contains(text), "{text}: {}", ran.stdout);
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(scene.question().deadline_ms, 100);
        assert_eq!(scene.spooled(), []);
    }
}

#[test]
fn a_full_queue_of_connections_does_not_hold_the_plugin() {
    let scene = Scene::without_agent();
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(scene.path("agent.sock")).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        if client.connect(&address).is_err() {
            break;
        }
        waiting.push(client);
    }
    let ran = run(
        scene.command("spiderpool", "ADD").env("DRAGLINE_DEADLINE_MS", "50"),
        ipam_conf("1.0.0").to_string().as_bytes(),
    );
    assert!(ran.code() == 11 && ran.stdout.contains("did not answer within 50 ms"), "{}", ran.stdout);
    drop(waiting);
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for behaviour in [
        Behaviour::Bytes(b"\0\0\0\x05hello".to_vec()),
        Behaviour::Bytes(b"HTTP/1.1 400".to_vec()),
        Behaviour::Answers(vec![Answer::Done]),
    ] {
        let ran = Scene::with_agent(behaviour).call("spiderpool", "ADD", &ipam_conf("1.0.0"));
        assert!(ran.code() == 999 && ran.stdout.contains("gave no answer to the question"), "{}", ran.stdout);
    }
}

fn foreign_conf() -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "ipam": {"type": "other-ipam"}})
}

const FOREIGN_RESULT: &str = r#"[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.5/24","gateway":"10.9.0.1"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"10.1.0.0/16","gw":"10.9.0.2"}]}' || true"#;

#[test]
fn another_ipam_plugins_addresses_go_to_the_agent() {
    let scene = agent();
    scene.foreign_plugin("other-ipam", FOREIGN_RESULT);
    assert!(scene.call("macvlan", "ADD", &foreign_conf()).success);
    let Call::Attach(call) = scene.question().call else { panic!() };
    let AttachIpam::Given { addresses, routes } = call.ipam else { panic!("{:?}", call.ipam) };
    assert_eq!(addresses[0].address.to_string(), "10.9.0.5/24");
    let routes: Vec<_> = routes.iter().map(|r| format!("{} {}", r.dst, r.gateway.unwrap())).collect();
    assert_eq!(routes, ["0.0.0.0/0 10.9.0.1", "10.1.0.0/16 10.9.0.2"]);
    let log = std::fs::read_to_string(scene.path("log")).unwrap();
    assert_eq!(log.trim_end(), format!("ADD net1 {}", foreign_conf()));
}

#[test]
fn another_ipam_plugins_addresses_go_back_when_the_agent_fails() {
    let refused = Answer::Error(CniError::new(999, "no such uplink"));
    let scene = Scene::with_agent(Behaviour::Answers(vec![refused, Answer::Done]));
    scene.foreign_plugin("other-ipam", FOREIGN_RESULT);
    let ran = scene.call("macvlan", "ADD", &foreign_conf());
    assert!(ran.code() == 999 && ran.stdout.contains("no such uplink"), "{}", ran.stdout);
    assert_eq!(scene.foreign_verbs(), ["ADD", "DEL"]);
    assert!(matches!(scene.question().call, Call::Attach(_)));
    assert!(matches!(scene.question().call, Call::Withdraw(withdrawal) if withdrawal.part == Part::Link));
    let away = Scene::without_agent();
    away.foreign_plugin("other-ipam", FOREIGN_RESULT);
    assert_eq!(away.call("macvlan", "ADD", &foreign_conf()).code(), 11);
    assert_eq!(away.foreign_verbs(), ["ADD", "DEL"]);
    assert_eq!(away.spooled(), []);
}

#[test]
fn another_ipam_plugins_failure_is_told_with_its_name() {
    for (text, code, what) in [
        (r#"echo '{"code":11,"msg":"full","details":"d"}'; exit 1"#, 11, "IPAM plugin other-ipam: full"),
        ("echo nonsense; exit 3", 999, "exit status: 3"),
        ("echo nonsense", 999, "its result is not JSON"),
        (r#"echo '{"ips":[]}'"#, 999, "its result has no address"),
        (r#"echo '{"ips":7}'"#, 999, "its result is not a CNI result"),
    ] {
        let scene = agent();
        scene.foreign_plugin("other-ipam", text);
        let ran = scene.call("macvlan", "ADD", &foreign_conf());
        assert!(ran.code() == code && ran.stdout.contains(what), "{text}: {}", ran.stdout);
        assert_eq!(scene.foreign_verbs(), ["ADD", "DEL"]);
        assert!(scene.was_not_asked());
    }
    let ran = agent().call("macvlan", "ADD", &foreign_conf());
    assert!(ran.code() == 7 && ran.stdout.contains("other-ipam"), "{}", ran.stdout);
}
