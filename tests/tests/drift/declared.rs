//! What is declared or what the node is changes: running pods follow.

use plan::tables::PROTOCOL;
use tests::picture::{Picture, route_line, rule_line};
use tests::scene::{CILIUM_HOST, UPLINK, WORKER_ADDRESS};
use tests::stage::{Coordinator, MainPlugin, Member, Stage};
use tests::witness::Witness;

use crate::PATIENCE;
use crate::foreign::{net, route, rule};

/// A route of ours.
fn our_route(table: u32, dst: &str, gateway: Option<&str>, dev: &str) -> String {
    route_line(&route(table, dst, 0, gateway, dev, PROTOCOL))
}

/// Waits until the pod has all of these lines.
fn until_all(member: &Member, lines: &[String]) {
    let missing = |found: &Picture| -> String {
        let missing: Vec<&str> = lines.iter().filter(|line| !found.has(line)).map(String::as_str).collect();
        if missing.is_empty() { String::new() } else { format!("{}\nin\n{}", missing.join("\n"), found.text()) }
    };
    Witness::open(&member.pod.netns).unwrap().until("as declared", PATIENCE, missing).unwrap();
}

/// Has at any priority a rule of ours to that destination.
fn until_rule_to(member: &Member, destination: &str, table: u32) {
    let lacks = |found: &Picture| {
        let is_there = (1..=plan::tables::FIRST_PRIORITY).rev().take(32).any(|priority| {
            let wanted = plan::Rule { protocol: PROTOCOL, ..rule(priority, None, Some(destination), table) };
            found.has(&rule_line(&wanted))
        });
        if is_there { String::new() } else { found.text() }
    };
    let what = format!("with a rule to {destination}");
    Witness::open(&member.pod.netns).unwrap().until(&what, PATIENCE, lacks).unwrap();
}

pub(crate) fn hijacked_network() {
    let stage = Stage::set("hijack", MainPlugin::Own).unwrap();
    let members = [stage.join(1).unwrap(), stage.join(2).unwrap()];
    let before: Vec<Picture> = members.iter().map(|it| Picture::take(&it.pod.netns).unwrap()).collect();
    let more = Coordinator { hijack: vec!["169.254.0.0/16".into(), "198.18.0.0/15".into()], ..Coordinator::default() };
    stage.coordinate(&more).unwrap();
    for member in &members {
        until_all(member, &[our_route(100, "198.18.0.0/15", Some(&WORKER_ADDRESS.to_string()), "eth0")]);
        until_rule_to(member, "198.18.0.0/15", 100);
    }
    stage.coordinate(&Coordinator::default()).unwrap();
    for (member, before) in members.iter().zip(&before) {
        Witness::open(&member.pod.netns).unwrap().until_like(before, PATIENCE).unwrap();
    }
    stage.check().unwrap();
}

pub(crate) fn default_nic() {
    let stage = Stage::set("default-nic", MainPlugin::Own).unwrap();
    let member = stage.join(1).unwrap();
    let before = Picture::take(&member.pod.netns).unwrap();
    stage.coordinate(&Coordinator { default_nic: "eth0".into(), ..Coordinator::default() }).unwrap();
    until_all(&member, &[our_route(101, "0.0.0.0/0", Some("10.6.0.1"), "net1")]);
    until_rule_to(&member, "10.6.0.0/16", 101);
    let by_eth0 = |found: &Picture| {
        let default = format!("default via {CILIUM_HOST} dev eth0");
        let is_there = found.text().lines().any(|line| line.contains("table 254") && line.contains(&default));
        if is_there { String::new() } else { found.text() }
    };
    Witness::open(&member.pod.netns).unwrap().until("by eth0 in main", PATIENCE, by_eth0).unwrap();
    stage.coordinate(&Coordinator::default()).unwrap();
    Witness::open(&member.pod.netns).unwrap().until_like(&before, PATIENCE).unwrap();
    stage.check().unwrap();
}

pub(crate) fn node_address() {
    let stage = Stage::set("node-address", MainPlugin::Own).unwrap();
    let members = [stage.join(1).unwrap(), stage.join(2).unwrap()];
    let before: Vec<Picture> = members.iter().map(|it| Picture::take(&it.pod.netns).unwrap()).collect();
    let mut node = stage.node().scene().unwrap();
    node.address(UPLINK, net("10.6.212.99/16")).unwrap();
    for member in &members {
        until_all(member, &[our_route(100, "10.6.212.99/32", None, "eth0")]);
        until_rule_to(member, "10.6.212.99/32", 100);
    }
    stage.check().unwrap();
    node.delete_address(UPLINK, net("10.6.212.99/16")).unwrap();
    for (member, before) in members.iter().zip(&before) {
        Witness::open(&member.pod.netns).unwrap().until_like(before, PATIENCE).unwrap();
    }
    stage.check().unwrap();
}
