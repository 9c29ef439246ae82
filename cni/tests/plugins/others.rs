//! VERSION, CHECK, GC, STATUS, and defects.

use std::process::{Command, Stdio};

use schemas::cni::error::CniError;
use schemas::wire::{Answer, Call, Difference, Part};
use serde_json::{Value, json};

use crate::scene::{Behaviour, PROGRAM, Scene, run};

fn conf(version: &str, more: Value) -> Value {
    let mut conf = json!({"cniVersion": version, "name": "net", "type": "x"});
    conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    conf
}

#[test]
fn version_is_told_with_and_without_configuration() {
    let scene = Scene::without_agent();
    for (plugin, stdin, version) in [
        ("spiderpool", "", "1.1.0"),
        ("macvlan", "{\"cniVersion\":\"0.4.0\"}", "0.4.0"),
        ("coordinator", "{\"cniVersion\":\"9.9\"}", "1.1.0"),
    ] {
        let ran = run(&mut scene.command(plugin, "VERSION"), stdin.as_bytes());
        let all = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        assert_eq!(ran.json(), json!({"cniVersion": version, "supportedVersions": all}));
        assert!(ran.success);
    }
    let closed = scene.command("macvlan", "VERSION").env_remove("CNI_NETNS").stdin(Stdio::null()).output().unwrap();
    assert!(closed.status.success());
}

#[test]
fn errors_are_printed_in_the_version_asked() {
    let scene = Scene::without_agent();
    let ran = scene.call("coordinator", "ADD", &conf("0.3.1", json!({})));
    assert_eq!((ran.json()["cniVersion"].clone(), ran.code()), (json!("0.3.1"), 7));
    let ran = run(&mut scene.command("coordinator", "ADD"), b"{");
    assert_eq!((ran.json()["cniVersion"].clone(), ran.code()), (json!("1.1.0"), 6));
    let ran = run(&mut scene.command("coordinator", "ADD"), &vec![b' '; (1 << 20) + 1]);
    assert!(ran.code() == 5 && ran.stdout.contains("1048576"), "{}", ran.stdout);
    let ran = run(scene.command("coordinator", "ADD").env_remove("CNI_COMMAND"), b"");
    assert_eq!(ran.code(), 4);
}

#[test]
fn check_lists_every_difference() {
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let step = |step: &str| Difference { place: "default/nginx".into(), step: step.into() };
        let differences = vec![step("ip rule add pref 32765 from 10.6.0.5 lookup 101"), step("ip link set net1 up")];
        let scene =
            Scene::with_agent(Behaviour::Answers(vec![Answer::Differences(differences), Answer::Differences(vec![])]));
        let conf = conf(version, json!({"prevResult": {}}));
        let ran = scene.call("coordinator", "CHECK", &conf);
        assert_eq!(ran.code(), 999);
        assert!(ran.json()["msg"].as_str().unwrap().contains("ip rule add pref 32765"), "{}", ran.stdout);
        assert_eq!(ran.json()["details"].as_str().unwrap().lines().count(), 2);
        assert!(
            matches!(scene.question().call, Call::Verify(call) if call.part == Part::Routes && call.place.netns.is_some())
        );
        let ran = scene.call("coordinator", "CHECK", &conf);
        assert!(ran.success && ran.stdout.is_empty());
    }
}

#[test]
fn gc_names_what_the_runtime_still_has() {
    let scene = Scene::with_agent(Behaviour::Answers(vec![Answer::Done]));
    scene.foreign_plugin("other-ipam", "");
    let more = json!({"ipam": {"type": "other-ipam"}, "cni.dev/valid-attachments": [{"containerID": "abc", "ifname": "net1"}]});
    let mut command = scene.command("macvlan", "GC");
    let command = command.env_remove("CNI_CONTAINERID").env_remove("CNI_NETNS").env_remove("CNI_IFNAME");
    let ran = run(command, conf("1.1.0", more).to_string().as_bytes());
    assert!(ran.success && ran.stdout.is_empty(), "{}", ran.stdout);
    let Call::Collect(call) = scene.question().call else { panic!() };
    assert_eq!((call.network.as_str(), call.part, call.valid[0].container.as_str()), ("net", Part::Link, "abc"));
    assert_eq!(scene.foreign_verbs(), ["GC"]);
}

#[test]
fn status_is_the_agents() {
    let more = json!({"ipam": {"type": "spiderpool", "default_ipv4_ippool": ["a"], "default_ipv6_ippool": ["b"]}});
    let refused = Answer::Error(CniError::new(51, "not Synced"));
    let scene = Scene::with_agent(Behaviour::Answers(vec![Answer::Done, refused]));
    assert!(scene.call("macvlan", "STATUS", &conf("1.1.0", more.clone())).success);
    assert!(matches!(scene.question().call, Call::Ready(call) if call.pools == ["a", "b"]));
    assert_eq!(scene.call("macvlan", "STATUS", &conf("1.1.0", more.clone())).code(), 51);
    assert_eq!(Scene::without_agent().call("macvlan", "STATUS", &conf("1.1.0", more.clone())).code(), 50);
    assert_eq!(Scene::with_agent(Behaviour::Close).call("macvlan", "STATUS", &conf("1.1.0", more)).code(), 50);
}

#[test]
fn a_program_of_no_plugins_name_says_so() {
    let ran = run(Command::new(PROGRAM).env_clear().env("CNI_COMMAND", "ADD"), b"{}");
    assert!(ran.code() == 4 && ran.stdout.contains("spiderpool, coordinator, macvlan"), "{}", ran.stdout);
}

/// The same test is run again as a child, where it panics under the program's hook.
#[test]
fn a_panic_is_a_cni_error() {
    const INSIDE: &str = "DRAGLINE_TEST_PANIC";
    if std::env::var_os(INSIDE).is_some() {
        cni::panicking::answer_panics();
        panic!("a defect");
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", "others::a_panic_is_a_cni_error"]).env(INSIDE, "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stdout = String::from_utf8(output.stdout).unwrap();
    // The test runner leaves its own line unfinished before it.
    let error: Value = serde_json::from_str(&stdout[stdout.find('{').unwrap()..]).unwrap();
    assert_eq!(error["code"], 999);
    assert!(error["details"].as_str().unwrap().contains("a defect"), "{error}");
}
