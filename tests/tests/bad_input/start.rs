//! Agents that cannot start: exit code 1 and one line that says what, where and what to do; the others are not touched.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;
use nix::mount::{MsFlags, mount};
use tests::agent::{HTTP, Settings};
use tests::binaries::Binaries;

use crate::node::{Node, stderr, trial};
use crate::witness::Witness;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("start::the_store_of_another_node", another_node),
        trial("start::a_state_directory_that_cannot_be", no_state_directory),
        trial("start::a_socket_that_is_taken", taken_socket),
        trial("start::a_store_that_is_taken", taken_store),
        trial("start::a_port_that_is_taken", taken_port),
        trial("start::a_socket_without_listener_is_a_leftover", leftover_socket),
        trial("start::arguments", arguments),
    ]
}

/// Another agent beside the node's own.
fn beside(node: &Node) -> Settings {
    let folder = node.scene.folder();
    Settings { state_dir: folder.join("beside"), socket: folder.join("beside.sock"), ..node.scene.agent_settings() }
}

/// Runs an agent that is to end by itself.
fn start(node: &Node, settings: &Settings, http: &str) -> Output {
    let mut command = Command::new(&Binaries::build().unwrap().dragline);
    command
        .args(["agent", "--node-name", &settings.node_name, "--http", http])
        .arg("--state-dir")
        .arg(&settings.state_dir)
        .arg("--socket")
        .arg(&settings.socket)
        .arg("--manifests")
        .arg(settings.source.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    node.scene.worker.spawn(&mut command).unwrap().wait_with_output().unwrap()
}

const FREE_PORT: &str = "127.0.0.1:9811";

#[track_caller]
fn assert_ends(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{}", stderr(output));
    let text = stderr(output);
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("dragline: ") && words.iter().all(|word| last.contains(word)), "{text}");
}

fn another_node() {
    let mut witness = Witness::new("t1");
    witness.node.agent.kill().unwrap();
    let settings = Settings { node_name: "worker02".into(), ..witness.node.scene.agent_settings() };
    let output = start(&witness.node, &settings, FREE_PORT);
    assert_ends(&output, &["belongs to node \"worker01\", and this is node \"worker02\"", "state directory"]);
    // It has not become worker02's.
    witness.node.agent.restart().unwrap();
    assert_eq!(witness.node.agent.list("attachments").unwrap().len(), 1);
    witness.node.has_no_drift().unwrap();
}

fn no_state_directory() {
    let node = Node::asleep("t2", &[]);
    let folder = node.scene.folder();
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    let below = |path: &Path| Settings { state_dir: path.to_owned(), ..beside(&node) };
    assert_ends(
        &start(&node, &below(&file), FREE_PORT),
        &["cannot use", "must be a directory that the agent may write"],
    );
    assert_ends(&start(&node, &below(&file.join("x")), FREE_PORT), &["cannot use", "file/x", "directory"]);
    let fixed = folder.join("fixed");
    fs::create_dir(&fixed).unwrap();
    mount(Some("tmpfs"), &fixed, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>).unwrap();
    assert_ends(&start(&node, &below(&fixed.join("x")), FREE_PORT), &["cannot use", "Read-only file system"]);
    assert_ends(&start(&node, &below(&fixed), FREE_PORT), &["Read-only file system"]);
    nix::mount::umount(&fixed).unwrap();
}

fn taken_socket() {
    let witness = Witness::new("t3");
    let settings = Settings { socket: witness.node.scene.agent_settings().socket, ..beside(&witness.node) };
    let output = start(&witness.node, &settings, FREE_PORT);
    assert_ends(&output, &["cannot listen at", "agent.sock", "another agent answers there"]);
    // What is no socket is not taken away.
    let file = witness.node.scene.folder().join("precious");
    fs::create_dir(&file).unwrap();
    let settings = Settings { socket: file.clone(), ..beside(&witness.node) };
    assert_ends(&start(&witness.node, &settings, FREE_PORT), &["cannot listen at", "precious"]);
    assert!(file.is_dir());
    witness.is_unharmed();
}

fn taken_store() {
    let witness = Witness::new("t4");
    let settings = Settings { state_dir: witness.node.scene.agent_settings().state_dir, ..beside(&witness.node) };
    let output = start(&witness.node, &settings, FREE_PORT);
    assert_ends(&output, &["is in use by", "stop that, or choose another state directory"]);
    witness.is_unharmed();
}

fn taken_port() {
    let witness = Witness::new("t5");
    let taken = format!("{}:{}", HTTP.0, HTTP.1);
    assert_ends(&start(&witness.node, &beside(&witness.node), &taken), &["cannot listen at", &taken]);
    witness.is_unharmed();
}

fn leftover_socket() {
    let mut witness = Witness::new("t6");
    witness.node.agent.kill().unwrap();
    assert!(witness.node.agent.settings().socket.exists());
    witness.node.agent.restart().unwrap();
    assert_eq!(witness.node.agent.list("attachments").unwrap().len(), 1);
}

fn arguments() {
    let node = Node::asleep("t7", &[]);
    for (arguments, words) in [
        (&["agent"][..], "--manifests DIR for a node without"),
        (&["agent", "--http", "nowhere"], "--http"),
        (&["agent", "--manifests", "/x", "--log", "a=b=c"], "--log"),
        (&["get", "horses"], "horses"),
        (&["fly"], "fly"),
    ] {
        let output = node.agent.run(arguments).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    for arguments in [&["status"][..], &["check"], &["get", "ippools"], &["plan", "x"]] {
        let output = node.agent.run(arguments).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains("no agent answers at"), "{arguments:?}: {}", stderr(&output));
    }
}
