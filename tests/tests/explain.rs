//! `dragline explain` on a live pod, on a dump, and its drawings.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::process::Output;

use libtest_mimic::{Arguments, Failed, Trial};
use netlink::testbed::Scene;
use serde_json::Value;
use tests::binaries::Binaries;
use tests::stage::{MainPlugin, Member, Stage};

/// The first pod of the stage.
const POD: &str = "explain-nginx-1";

fn main() {
    let arguments = Arguments::from_args();
    Binaries::build().unwrap();
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        eprintln!("these tests need a network namespace of their own: {error}");
        std::process::exit(1);
    }
    libtest_mimic::run(&arguments, vec![trial("a_live_pod_and_its_dump_are_explained", explained)]).exit();
}

/// A test by name; a panic is a failure.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || std::panic::catch_unwind(test).map_err(|panic| Failed::from(text_of(&*panic))))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}

fn explained() {
    let stage = Stage::set_dual("explain", MainPlugin::Own).unwrap();
    let member = stage.join_dual(1).unwrap();
    assert_eq!(member.pod.name, POD);
    reads_well(&stage);
    agrees_with_the_kernel(&stage, &member);
    names_what_is_wrong(&stage);
    draws(&stage);
    explains_a_dump(&stage);
}

fn run(stage: &Stage, arguments: &[&str]) -> Output {
    stage.agent.run(arguments).unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(stage: &Stage, arguments: &[&str]) -> Value {
    let output = run(stage, &[&["explain", POD, "-o", "json"], arguments].concat());
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn reads_well(stage: &Stage) {
    let text = stdout(&run(stage, &["explain", POD, "--to", "10.233.0.3"]));
    println!("{text}");
    let first = text.lines().next().unwrap();
    assert_eq!(
        first,
        format!(
            "default/{POD} → 10.233.0.3 leaves by eth0 with source 10.233.120.101, because of status.serviceCIDR of \
             SpiderCoordinator default"
        )
    );
    for part in ["rules, in the kernel's order", "address of the node's uplink", "request and reply both use eth0"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let arrival = stdout(&run(
        stage,
        &["explain", &format!("default/{POD}"), "--to", "10.6.212.200", "--from", "10.6.7.7", "--iif", "net1"],
    ));
    assert!(arrival.contains("the reply leaves by net1, as the request came"), "{arrival}");
    assert!(arrival.contains("rp_filter is "), "{arrival}");
}

/// Device, gateway, table and source, as the kernel gives them in the pod.
fn agrees_with_the_kernel(stage: &Stage, member: &Member) {
    let mut scene: Scene = member.pod.netns.scene().unwrap();
    let (mut compared, own) = (0, ["10.233.120.101", "10.6.212.200"]);
    for to in
        ["10.233.0.3", "10.233.70.1", "8.8.8.8", "10.6.0.1", "10.6.9.9", "169.254.20.10", "fd85:ee79::3", "2001:db8::1"]
    {
        let froms = own.iter().filter(|_| !to.contains(':')).map(|from| Some(*from)).chain([None]);
        for from in froms {
            let mut arguments = vec!["--to", to];
            arguments.extend(from.iter().flat_map(|from| ["--from", from]));
            let explanation = json(stage, &arguments);
            let found = scene.lookup(to.parse().unwrap(), from.map(|from| from.parse().unwrap()), None).unwrap();
            let route = &explanation["request"]["route"];
            let link = scene.link(route["dev"].as_str().unwrap()).unwrap();
            let gateway: Option<IpAddr> = route["gateway"].as_str().map(|gateway| gateway.parse().unwrap());
            assert_eq!((Some(link.index), gateway), (found.oif, found.gateway), "{to} {from:?}: {explanation}");
            assert_eq!(route["table"], found.table, "{to} {from:?}: {explanation}");
            if from.is_none() {
                let source: Option<IpAddr> =
                    explanation["source"]["address"].as_str().map(|source| source.parse().unwrap());
                assert_eq!(source, found.source, "{to}: {explanation}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 20);
}

fn names_what_is_wrong(stage: &Stage) {
    for (arguments, code, words) in [
        (vec!["explain", "nginx-9", "--to", "8.8.8.8"], 1, "\"nginx-9\" not found: `dragline get endpoints`"),
        (vec!["explain", POD, "--to", "8.8.8"], 2, "invalid value '8.8.8'"),
        (vec!["explain", POD, "--to", "224.0.0.1"], 2, "name one host"),
        (vec!["explain", POD, "--to", "8.8.8.8", "--from", "fd00::1"], 2, "not of one family"),
        (
            vec!["explain", POD, "--to", "8.8.8.8", "--from", "9.9.9.9", "--iif", "net7"],
            1,
            "the pod has no such NIC; it has lo, eth0, net1",
        ),
        (vec!["explain", POD, "--to", "8.8.8.8", "--dump", "/dev/null"], 1, "it is not a dump"),
        (vec!["plan", "-o", "svg"], 2, "name it"),
    ] {
        let output = run(stage, &arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

fn draws(stage: &Stage) {
    let file = stage.scene.folder().join("nginx.svg");
    let path = file.to_str().unwrap();
    stdout(&run(stage, &["explain", POD, "--to", "10.233.0.3", "--svg", path]));
    let drawing = std::fs::read_to_string(&file).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.contains(r#"class="path""#), "{drawing}");
    let whole = stdout(&run(stage, &["plan", POD, "-o", "svg"]));
    assert!(whole.starts_with("<svg") && !whole.contains(r#"class="path""#) && whole.contains("net1"), "{whole}");
    if let Some(kept) = std::env::var_os("DRAWINGS") {
        std::fs::write(std::path::Path::new(&kept).join("live.svg"), drawing).unwrap();
    }
}

/// By the records alone the way is the same.
fn explains_a_dump(stage: &Stage) {
    let file = stage.scene.folder().join("dump.jsonl");
    std::fs::write(&file, stdout(&run(stage, &["dump"]))).unwrap();
    let path = file.to_str().unwrap();
    let node = format!("{}/16", stage.node_address());
    let offline = ["--dump", path, "--node-address", &node];
    for to in ["10.233.0.3", "8.8.8.8", "10.6.9.9"] {
        let by_records = json(stage, &[&["--to", to][..], &offline].concat());
        let live = json(stage, &["--to", to]);
        assert_eq!(by_records["basis"], "wanted");
        for part in ["dev", "gateway", "table"] {
            assert_eq!(by_records["request"]["route"][part], live["request"]["route"][part], "{to} {part}");
        }
        assert_eq!(by_records["source"]["address"], live["source"]["address"], "{to}");
    }
    let bare = run(stage, &["explain", POD, "--to", "8.8.8.8", "--dump", path]);
    assert!(String::from_utf8_lossy(&bare.stderr).contains("--node-address"), "{bare:?}");
}
