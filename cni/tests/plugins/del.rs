//! DEL: at the agent, else in the spool, and never lost.

use schemas::cni::error::CniError;
use schemas::wire::{Answer, Call, Part};
use serde_json::{Value, json};

use crate::scene::{Behaviour, Scene, run};

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "type": "macvlan", "ipam": {"type": "spiderpool"}})
}

#[test]
fn the_agent_takes_it_in_every_version() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0", "7.0.0"] {
        for (plugin, part) in [("spiderpool", Part::Addresses), ("macvlan", Part::Link), ("coordinator", Part::Routes)]
        {
            let scene = Scene::with_agent(Behaviour::Answers(vec![Answer::Done]));
            let ran = scene.call(plugin, "DEL", &conf(version));
            assert!(ran.success && ran.stdout.is_empty(), "{}", ran.stdout);
            let request = scene.question();
            assert_eq!(request.deadline_ms, 5_000);
            assert!(matches!(request.call, Call::Withdraw(w) if w.part == part && w.key.to_string() == "abc/net1"));
            assert_eq!(scene.spooled(), []);
        }
    }
}

#[test]
fn whatever_is_wrong_with_the_agent_it_is_spooled() {
    for behaviour in [
        Behaviour::Silence,
        Behaviour::Drops,
        Behaviour::Close,
        Behaviour::Bytes(b"\0\0\0\x05hello".to_vec()),
        Behaviour::Bytes(b"\xff\xff\xff\xff".to_vec()),
        Behaviour::Answers(vec![Answer::Error(CniError::new(999, "store is full"))]),
        Behaviour::Answers(vec![Answer::Differences(Vec::new())]),
    ] {
        let scene = Scene::with_agent(behaviour);
        let ran = run(
            scene.command("coordinator", "DEL").env("DRAGLINE_DEADLINE_MS", "100"),
            conf("1.0.0").to_string().as_bytes(),
        );
        assert!(ran.success && ran.stdout.is_empty(), "{}", ran.stdout);
        let Call::Withdraw(asked) = scene.question().call else { panic!() };
        assert_eq!(scene.spooled(), [("abc:net1:routes.json".to_owned(), asked)]);
    }
}

#[test]
fn without_agent_or_configuration_it_is_spooled_once() {
    let scene = Scene::without_agent();
    for stdin in ["", "{", "\"x\"", "{}"] {
        let mut command = scene.command("macvlan", "DEL");
        command.env_remove("CNI_NETNS").env("CNI_ARGS", "nonsense");
        let ran = run(&mut command, stdin.as_bytes());
        assert!(ran.success && ran.stdout.is_empty(), "{stdin}: {}", ran.stdout);
    }
    let huge = vec![b' '; (1 << 20) + 1];
    assert!(run(&mut scene.command("macvlan", "DEL"), &huge).success);
    assert_eq!(scene.spooled().len(), 1);
    assert!(scene.call("spiderpool", "DEL", &conf("1.0.0")).success);
    assert_eq!(scene.spooled().len(), 2);
}

#[test]
fn without_agent_and_spool_it_says_both_reasons() {
    let scene = Scene::without_agent();
    std::fs::write(scene.path("state"), "a file").unwrap();
    let ran = scene.call("macvlan", "DEL", &conf("1.0.0"));
    assert_eq!(ran.code(), 11);
    assert!(ran.stdout.contains("agent.sock") && ran.stdout.contains("state/spool"), "{}", ran.stdout);
}

#[test]
fn an_invalid_attachment_is_error_4_and_nothing_is_written() {
    let scene = Scene::without_agent();
    let ran = run(scene.command("macvlan", "DEL").env("CNI_CONTAINERID", "../../etc/x"), b"");
    assert_eq!(ran.code(), 4);
    assert!(!scene.path("state").exists());
}

#[test]
fn another_ipam_plugin_is_told_too() {
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "ipam": {"type": "other-ipam"}});
    let scene = Scene::without_agent();
    scene.foreign_plugin("other-ipam", "");
    assert!(scene.call("macvlan", "DEL", &conf).success);
    assert_eq!(scene.foreign_verbs(), ["DEL"]);
    assert_eq!(scene.spooled().len(), 1);

    let failing = Scene::without_agent();
    failing.foreign_plugin("other-ipam", r#"echo '{"code":5,"msg":"disk"}'; exit 1"#);
    assert_eq!(failing.call("macvlan", "DEL", &conf).code(), 5);
    assert_eq!(failing.spooled().len(), 1);

    let gone = Scene::without_agent();
    let ran = gone.call("macvlan", "DEL", &conf);
    assert!(ran.success && ran.stderr.contains("other-ipam"), "{}", ran.stderr);
}
