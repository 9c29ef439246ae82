//! What calls come to, without any process or socket: bad input and its code, what is asked of the agent, and that
//! nothing panics.
#![allow(clippy::unwrap_used, reason = "tests make the calls and read the answers in functions of their own")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cni::environment::Environment;
use cni::order::{Order, Question, Step, decide};
use cni::plugin::Plugin;
use proptest::prelude::*;
use schemas::cni::error::CniError;
use schemas::wire::{AttachIpam, Call};
use serde_json::{Value, json};

type Variables = BTreeMap<&'static str, String>;

fn variables(verb: &str) -> Variables {
    let of = |name, value: &str| (name, value.to_owned());
    BTreeMap::from([
        of("CNI_COMMAND", verb),
        of("CNI_CONTAINERID", "abc"),
        of("CNI_NETNS", "/run/netns/x"),
        of("CNI_IFNAME", "net1"),
        of("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx"),
    ])
}

fn environment(variables: &Variables) -> Environment {
    Environment::from_lookup(|name| variables.get(name).map(Into::into))
}

fn call(plugin: Plugin, variables: &Variables, conf: &str) -> Result<Order, CniError> {
    decide(Some(plugin), &environment(variables), Ok(conf.as_bytes()))
}

fn question(plugin: Plugin, variables: &Variables, conf: &Value) -> Question {
    match call(plugin, variables, &conf.to_string()).unwrap().step {
        Step::Ask(question) => question,
        other => panic!("{other:?}"),
    }
}

fn conf(version: &str, more: Value) -> Value {
    let mut conf = json!({"cniVersion": version, "name": "net", "type": "macvlan"});
    conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    conf
}

#[test]
fn bad_environment_is_error_4() {
    let good = conf("1.0.0", json!({"ipam": {"type": "spiderpool"}})).to_string();
    for (verb, name, value, text) in [
        ("ADD", "CNI_COMMAND", "", "[CNI_COMMAND] missing"),
        ("ADD", "CNI_COMMAND", "add", "unknown CNI_COMMAND: \"add\""),
        ("ADD", "CNI_CONTAINERID", "", "[CNI_CONTAINERID] missing"),
        ("ADD", "CNI_CONTAINERID", "../x", "CNI_CONTAINERID: container ID \"../x\" is invalid"),
        ("ADD", "CNI_IFNAME", "a/b", "CNI_IFNAME: interface name"),
        ("ADD", "CNI_NETNS", "", "[CNI_NETNS] missing"),
        ("ADD", "CNI_NETNS", "run/netns", "not an absolute path"),
        ("CHECK", "CNI_NETNS", "", "[CNI_NETNS] missing"),
        ("ADD", "CNI_ARGS", "x", "CNI_ARGS"),
        ("ADD", "DRAGLINE_DEADLINE_MS", "soon", "DRAGLINE_DEADLINE_MS"),
        ("ADD", "DRAGLINE_DEADLINE_MS", "0", "DRAGLINE_DEADLINE_MS"),
        ("DEL", "CNI_CONTAINERID", "-", "CNI_CONTAINERID"),
        ("DEL", "CNI_IFNAME", "", "[CNI_IFNAME] missing"),
    ] {
        let mut variables = variables(verb);
        variables.insert(name, value.into());
        let error = call(Plugin::Spiderpool, &variables, &good).unwrap_err();
        assert!(error.code == 4 && error.msg.contains(text), "{name}={value}: {error}");
    }
    let nothing = Variables::from([("CNI_COMMAND", "ADD".to_owned())]);
    let error = call(Plugin::Spiderpool, &nothing, &good).unwrap_err();
    assert_eq!(error.msg, "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing");
    assert_eq!(decide(None, &environment(&variables("ADD")), Ok(good.as_bytes())).unwrap_err().code, 4);
}

#[test]
fn bad_configuration_has_its_code_and_place() {
    use Plugin::{Coordinator, Macvlan, Spiderpool};
    let ours = json!({"ipam": {"type": "spiderpool"}});
    for (plugin, verb, conf, code, text) in [
        (Spiderpool, "ADD", "".into(), 6, "line 1 column 0"),
        (Spiderpool, "ADD", "{\"name\":}".into(), 6, "line 1 column 9"),
        (Spiderpool, "ADD", "[]".into(), 6, "not a JSON object"),
        (Spiderpool, "ADD", json!({"cniVersion": 1}).to_string(), 6, "cniVersion"),
        (
            Spiderpool,
            "ADD",
            conf("0.2.0", ours.clone()).to_string(),
            1,
            "incompatible CNI versions: config is \"0.2.0\", plugin supports [\"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]",
        ),
        (Spiderpool, "ADD", json!({"name": "x", "type": "y"}).to_string(), 1, "config is \"0.1.0\""),
        (Spiderpool, "ADD", json!({"cniVersion": "1.0.0", "type": "y"}).to_string(), 7, "missing network name"),
        (Spiderpool, "ADD", conf("1.0.0", json!({"name": 5})).to_string(), 6, "name: invalid type"),
        (
            Spiderpool,
            "ADD",
            conf("1.0.0", json!({"name": "a b"})).to_string(),
            7,
            "name: network name \"a b\" is invalid",
        ),
        (Spiderpool, "ADD", conf("1.0.0", json!({})).to_string(), 7, "ipam.type: it is missing"),
        (
            Spiderpool,
            "ADD",
            conf("1.0.0", json!({"ipam": {"type": "host-local"}})).to_string(),
            7,
            "ipam.type: it is \"host-local\"",
        ),
        (Spiderpool, "ADD", conf("1.0.0", json!({"ipam": {"type": 5}})).to_string(), 6, "ipam.type"),
        (
            Spiderpool,
            "ADD",
            conf("1.0.0", json!({"ipam": {"type": "spiderpool", "default_ipv4_ippool": [1]}})).to_string(),
            6,
            "ipam.default_ipv4_ippool[0]: invalid type",
        ),
        (Macvlan, "ADD", conf("1.0.0", json!({"ipam": []})).to_string(), 6, "ipam: it is not a JSON object"),
        (
            Macvlan,
            "ADD",
            conf("1.0.0", json!({"ipam": {"type": "macvlan"}})).to_string(),
            7,
            "is not the name of an IPAM plugin",
        ),
        (
            Macvlan,
            "ADD",
            conf("1.0.0", json!({"ipam": {"type": "../x"}})).to_string(),
            7,
            "is not the name of an IPAM plugin",
        ),
        (Macvlan, "ADD", conf("1.0.0", json!({"mode": "what"})).to_string(), 7, "mode: unknown variant `what`"),
        (Macvlan, "ADD", conf("1.0.0", json!({"dns": 5})).to_string(), 6, "dns"),
        (Coordinator, "ADD", conf("1.0.0", json!({})).to_string(), 7, "prevResult is missing"),
        (Coordinator, "ADD", conf("1.0.0", json!({"prevResult": null})).to_string(), 7, "prevResult is missing"),
        (
            Coordinator,
            "ADD",
            conf("1.0.0", json!({"prevResult": {"ips": 1}})).to_string(),
            6,
            "prevResult is not a CNI result",
        ),
        (
            Coordinator,
            "ADD",
            conf("1.0.0", json!({"prevResult": {}, "mode": "x"})).to_string(),
            999,
            "unknown tuneMode: x",
        ),
        (
            Coordinator,
            "ADD",
            conf("1.0.0", json!({"prevResult": {}, "hostRuleTable": "x"})).to_string(),
            6,
            "hostRuleTable: invalid type",
        ),
        (Coordinator, "CHECK", conf("1.0.0", json!({})).to_string(), 7, "prevResult is missing"),
        (
            Coordinator,
            "CHECK",
            conf("0.3.1", json!({"prevResult": {}})).to_string(),
            1,
            "config version does not allow CHECK",
        ),
        (
            Macvlan,
            "GC",
            conf("1.0.0", json!({"cni.dev/valid-attachments": []})).to_string(),
            1,
            "config version does not allow GC",
        ),
        (Macvlan, "STATUS", conf("1.0.0", json!({})).to_string(), 1, "config version does not allow STATUS"),
        (Macvlan, "GC", conf("1.1.0", json!({})).to_string(), 7, "cni.dev/valid-attachments is missing"),
        (
            Macvlan,
            "GC",
            conf("1.1.0", json!({"cni.dev/valid-attachments": [{"containerID": "/", "ifname": "a"}]})).to_string(),
            7,
            "cni.dev/valid-attachments[0].containerID: container ID",
        ),
    ] {
        let error = call(plugin, &variables(verb), &conf).unwrap_err();
        assert!(error.code == code && error.to_string().contains(text), "{conf}: {} {error}", error.code);
    }
}

#[test]
fn del_needs_container_and_interface_only() {
    let variables = Variables::from([
        ("CNI_COMMAND", "DEL".to_owned()),
        ("CNI_CONTAINERID", "abc".to_owned()),
        ("CNI_IFNAME", "net1".to_owned()),
        ("CNI_ARGS", "nonsense".to_owned()),
        ("DRAGLINE_DEADLINE_MS", "nonsense".to_owned()),
    ]);
    let unreadable = Err(CniError::new(CniError::IO, "unreadable"));
    let stdins = [Ok(&b""[..]), Ok(&b"{\"cniVersion\":\"9.9.9\",\"ipam\":5}"[..]), Ok(&b"\xff"[..]), unreadable];
    for (plugin, stdin) in Plugin::ALL.into_iter().flat_map(|plugin| stdins.clone().map(|stdin| (plugin, stdin))) {
        let order = decide(Some(plugin), &environment(&variables), stdin).unwrap();
        let Step::Ask(Question { call: Call::Withdraw(withdrawal), agent, .. }) = order.step else {
            panic!("{order:?}")
        };
        assert_eq!((withdrawal.key.to_string().as_str(), withdrawal.part), ("abc/net1", plugin.part()));
        assert_eq!(agent.deadline, Duration::from_secs(5));
    }
}

#[test]
fn the_socket_is_the_configurations_then_the_environments() {
    let mut variables = variables("ADD");
    let socket =
        |variables: &Variables, more: Value| question(Plugin::Macvlan, variables, &conf("1.0.0", more)).agent.socket;
    assert_eq!(socket(&variables, json!({})), Path::new("/run/dragline/agent.sock"));
    variables.insert("DRAGLINE_SOCKET", "/env".into());
    assert_eq!(socket(&variables, json!({"agentSocket": ""})), Path::new("/env"));
    let ipam = json!({"type": "spiderpool", "agentSocket": "/ipam"});
    assert_eq!(socket(&variables, json!({"ipam": ipam})), Path::new("/ipam"));
    assert_eq!(socket(&variables, json!({"ipam": ipam, "agentSocket": "/top"})), Path::new("/top"));
}

#[test]
fn the_hardware_address_is_the_reference_plugins() {
    let mac = |args: &str, more: Value| {
        let mut variables = variables("ADD");
        variables.insert("CNI_ARGS", args.into());
        match question(Plugin::Macvlan, &variables, &conf("1.0.0", more)).call {
            Call::Attach(call) => call.mac.map(|mac| mac.0[5]),
            other => panic!("{other:?}"),
        }
    };
    let at = |last: u8| format!("02:00:00:00:00:{last:02x}");
    assert_eq!(mac("", json!({})), None);
    assert_eq!(mac("", json!({"mac": at(1)})), Some(1));
    assert_eq!(mac(&format!("MAC={}", at(2)), json!({"mac": at(1)})), Some(2));
    assert_eq!(mac(&format!("MAC={}", at(2)), json!({"mac": at(1), "args": {"cni": {"mac": at(3)}}})), Some(3));
    let all = json!({"mac": at(1), "args": {"cni": {"mac": at(3)}}, "runtimeConfig": {"mac": at(4)}});
    assert_eq!(mac(&format!("MAC={}", at(2)), all), Some(4));
}

#[test]
fn a_macvlan_is_asked_for_as_configured() {
    let more = json!({"master": "eth1", "mode": "vepa", "mtu": 1400, "linkInContainer": true, "ipam": {}});
    let Call::Attach(call) = question(Plugin::Macvlan, &variables("ADD"), &conf("1.0.0", more)).call else { panic!() };
    assert_eq!(call.master.unwrap().as_str(), "eth1");
    assert_eq!((call.mtu, call.master_in_container, call.ipam), (Some(1400), true, AttachIpam::None));
    assert_eq!(call.kind, schemas::intent::LinkKindIntent::Macvlan(schemas::intent::MacvlanMode::Vepa));
    assert_eq!(
        (call.place.pod.to_string().as_str(), call.place.netns.as_deref()),
        ("default/nginx", Some("/run/netns/x"))
    );
    let Call::Attach(call) = question(Plugin::Macvlan, &variables("ADD"), &conf("1.0.0", json!({"mtu": 0}))).call
    else {
        panic!()
    };
    assert_eq!((call.mtu, call.master), (None, None));
}

#[test]
fn a_question_carries_prev_result_once() {
    let more = json!({"prevResult": {"ips": [{"address": "10.0.0.1/8"}]}, "hijackCIDR": ["10.0.0.0/8"]});
    let Call::Coordinate(call) = question(Plugin::Coordinator, &variables("ADD"), &conf("1.0.0", more)).call else {
        panic!()
    };
    assert_eq!(call.prev_result.ips.len(), 1);
    assert!(!call.conf.others.contains_key("prevResult"), "{:?}", call.conf.others);
}

#[test]
fn gos_null_list_of_attachments_is_an_empty_one() {
    let more = json!({"cni.dev/valid-attachments": null});
    let Call::Collect(call) = question(Plugin::Macvlan, &variables("GC"), &conf("1.1.0", more)).call else { panic!() };
    assert_eq!(call.valid, []);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_conf() -> impl Strategy<Value = Value> {
    let keys = [
        "name",
        "ipam",
        "prevResult",
        "mode",
        "mtu",
        "mac",
        "dns",
        "args",
        "runtimeConfig",
        "hijackCIDR",
        "agentSocket",
        "cni.dev/valid-attachments",
        "hostRuleTable",
        "master",
    ];
    prop::collection::btree_map(prop::sample::select(keys.to_vec()), any_json(), 0..6)
        .prop_map(|more| conf("1.1.0", json!(more)))
}

proptest! {
    #[test]
    fn no_bytes_panic(
        stdin in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            any_json().prop_map(|json| json.to_string().into_bytes()),
            any_conf().prop_map(|json| json.to_string().into_bytes()),
        ],
        verb in prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "x"]),
        changed in prop::collection::btree_map(
            prop::sample::select(vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "DRAGLINE_DEADLINE_MS"]), ".{0,20}", 0..2),
        plugin in prop::sample::select(Plugin::ALL.to_vec()),
    ) {
        let mut variables = variables(verb);
        variables.extend(changed);
        let decided = decide(Some(plugin), &environment(&variables), Ok(&stdin));
        if verb == "DEL" && environment(&variables).key().is_ok() {
            prop_assert!(decided.is_ok(), "{:?}", decided);
        }
        if let Err(error) = decided {
            prop_assert!([1, 4, 6, 7].contains(&error.code), "{}", error);
        }
    }
}

#[test]
fn an_ipvlan_has_the_reference_plugins_keys() {
    let more = json!({"master": "ens192", "mode": "l3s", "mtu": 1400, "linkInContainer": true});
    let Call::Attach(asked) = question(Plugin::Ipvlan, &variables("ADD"), &conf("1.0.0", more)).call else { panic!() };
    let kind = schemas::intent::LinkKindIntent::Ipvlan(schemas::intent::IpvlanMode::L3s);
    assert_eq!((asked.kind, asked.mtu, asked.master_in_container, asked.mac), (kind, Some(1400), true, None));
    let Call::Attach(asked) = question(Plugin::Ipvlan, &variables("ADD"), &conf("1.0.0", json!({}))).call else {
        panic!()
    };
    assert_eq!(
        (asked.kind, asked.master),
        (schemas::intent::LinkKindIntent::Ipvlan(schemas::intent::IpvlanMode::L2), None)
    );
    // Chained, its uplink is the one link that was made before.
    let chained = |interfaces: Value| {
        let previous = json!({"cniVersion": "1.0.0", "interfaces": interfaces});
        let conf = conf("1.0.0", json!({"prevResult": previous, "linkInContainer": true}));
        call(Plugin::Ipvlan, &variables("ADD"), &conf.to_string())
    };
    let Step::Ask(question) = chained(json!([{"name": "eth0", "sandbox": "/x"}])).unwrap().step else { panic!() };
    assert!(
        matches!(question.call, Call::Attach(call) if call.master.as_ref().is_some_and(|name| name.as_str() == "eth0"))
    );
    assert!(chained(json!([])).unwrap_err().msg.contains("PrevResult lacks a single named interface"));
}

#[test]
fn an_ifacer_with_nothing_to_make_asks_nobody() {
    let asked = |more: Value| call(Plugin::Ifacer, &variables("ADD"), &conf("1.0.0", more).to_string());
    let step = asked(json!({"interfaces": ["ens192"]})).unwrap().step;
    assert_eq!(step, Step::StandAside(Some(schemas::cni::result::CniResult::default())));
    let Step::Ask(question) = asked(json!({"interfaces": ["ens192"], "vlanID": 100})).unwrap().step else { panic!() };
    assert!(matches!(question.call, Call::Uplink(call) if call.uplink.vlan_name().as_deref() == Some("ens192.100")));
    assert!(asked(json!({})).unwrap_err().msg.contains("interfaces have at least one interface"));
}
