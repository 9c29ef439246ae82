//! `ifacer`: VLAN sub-interfaces and bonds of the node that pods stand on, shared, kept, and gone with the last pod.

use libtest_mimic::Trial;
use netlink::testbed::LinkAttribute;
use netlink::testbed::{End, Netns};
use plan::{Link, LinkKind};
use serde_json::{Value, json};
use tests::probe::Responder;
use tests::runtime::{Conflist, reference_plugins};
use tests::scene::PORT;

use crate::bench::{Bench, Damage, FAR_POOL, Kinds, Member, PEER, chain, ipam, link, reach_each_other, reaches};
use crate::node::{assert_refused, attachment, eventually, holds, trial};

/// The sub-interface of most trials.
const VLAN: &str = "ens192.100";

pub(crate) fn trials() -> Vec<Trial> {
    let Kinds { vlan, bond, .. } = Kinds::of_kernel();
    let of_vlan = [
        trial("kinds::ifacer::vlan_is_shared_kept_and_gone_with_the_last_pod", shared),
        trial("kinds::ifacer::what_was_there_before_stays", before),
        trial("kinds::ifacer::the_agent_was_away", away),
        trial("kinds::ifacer::a_vlan_id_is_on_one_link", one_link),
        trial("kinds::ifacer::a_parent_that_is_down_is_set_up", parent),
        trial("kinds::vlan::reference_plugin", reference_vlan)
            .with_ignored_flag(reference_plugins().is_none() || !vlan),
    ];
    let of_bond = [
        trial("kinds::ifacer::bond_with_a_vlan_on_it", bonded),
        trial("kinds::ifacer::a_bond_that_was_there_is_used_as_it_is", foreign_bond),
    ];
    let plain = [trial("ifacer::nothing_to_make", nothing), trial("ifacer::what_cannot_be", refused)];
    (of_vlan.into_iter().map(|trial| if vlan { trial } else { trial.with_ignored_flag(true) }))
        .chain(of_bond.into_iter().map(|trial| trial.with_ignored_flag(!(vlan && bond))))
        .chain(plain)
        .collect()
}

fn on(master: &str, ifacer: Value) -> Conflist {
    let mut ifacer = ifacer;
    ifacer["type"] = json!("ifacer");
    chain(vec![ifacer, json!({"type": "macvlan", "master": master, "ipam": ipam(FAR_POOL)})])
}

fn vlan_chain() -> Conflist {
    on(VLAN, json!({"interfaces": ["ens192"], "vlanID": 100}))
}

fn on_node(bench: &Bench, name: &str) -> Option<Link> {
    bench.worker().observe().unwrap().link(name).cloned()
}

fn vanishes(bench: &Bench, name: &str) {
    eventually(&format!("{name} gone"), || holds(on_node(bench, name).is_none(), on_node(bench, name)));
}

/// The controller answers in the VLAN.
fn peer_in_vlan(bench: &Bench, parent: &str, id: u16) {
    let mut controller = bench.node.scene.controller.scene().unwrap();
    controller.vlan("tagged", parent, id).unwrap();
    controller.address("tagged", format!("{PEER}/24").parse().unwrap()).unwrap();
    controller.up("tagged").unwrap();
}

fn shared() {
    let bench = Bench::new("lfs");
    peer_in_vlan(&bench, "ens192", 100);
    let conflist = vlan_chain();
    let members = [bench.join(1, &conflist), bench.join(2, &conflist)];
    let uplink = on_node(&bench, VLAN).unwrap();
    assert_eq!((&uplink.kind, uplink.up), (&LinkKind::Vlan(100), true));
    assert_eq!(link(&members[0]).lower, Some(uplink.index));
    reach_each_other(&members[0], &members[1]);
    eventually("the peer in the VLAN", || reaches(&members[0].pod.netns, "net1", PEER));
    bench.keeps(&members[0], &[]);
    let damages: [Damage<'_>; 3] = [
        ("down", &|scene| scene.down(VLAN).unwrap()),
        ("renamed", &|scene| {
            scene.down(VLAN).unwrap();
            scene.rename(VLAN, "stolen").unwrap();
        }),
        // With it the kernel deletes the pods' links.
        ("deleted", &|scene| scene.delete_link(VLAN).unwrap()),
    ];
    for (what, damage) in damages {
        damage(&mut bench.worker());
        eventually(&format!("{VLAN} that was {what}"), || {
            let found = on_node(&bench, VLAN);
            holds(found.as_ref().is_some_and(|link| link.up && link.kind == LinkKind::Vlan(100)), &found)?;
            bench.node.has_no_drift()
        });
        reach_each_other(&members[0], &members[1]);
    }
    bench.runtime().check(&conflist, &members[0].attachment, &members[0].result).unwrap();
    let [first, last] = members;
    bench.leave(&first);
    eventually("one attachment", || {
        let left = bench.node.agent.list("attachments").unwrap();
        holds(left.len() == 1, left)
    });
    eventually("the peer in the VLAN", || reaches(&last.pod.netns, "net1", PEER));
    assert!(on_node(&bench, VLAN).is_some(), "the last pod stands on it");
    bench.leave(&last);
    bench.node.forgets_all();
    vanishes(&bench, VLAN);
    assert!(on_node(&bench, "ens192").unwrap().up);
    // A pod that comes back brings it back.
    let again = bench.join(3, &conflist);
    assert!(on_node(&bench, VLAN).is_some());
    bench.leave(&again);
    vanishes(&bench, VLAN);
}

fn before() {
    let bench = Bench::new("lfb");
    bench.worker().vlan(VLAN, "ens192", 100).unwrap();
    let there = on_node(&bench, VLAN).unwrap();
    assert!(!there.up);
    let member = bench.join(1, &vlan_chain());
    let used = on_node(&bench, VLAN).unwrap();
    assert_eq!((used.index, used.up, used.alias), (there.index, true, None));
    bench.leave(&member);
    bench.node.forgets_all();
    bench.settles();
    assert_eq!(on_node(&bench, VLAN).unwrap().index, there.index);
}

/// An agent that starts anew finds its own again; what was withdrawn while it was away goes then.
fn away() {
    let mut bench = Bench::new("lfa");
    let member = bench.join(1, &vlan_chain());
    let there = on_node(&bench, VLAN).unwrap();
    bench.node.agent.kill().unwrap();
    bench.node.agent.restart().unwrap();
    bench.settles();
    assert_eq!(on_node(&bench, VLAN), Some(there));
    bench.node.agent.kill().unwrap();
    bench.worker().delete_link(VLAN).unwrap();
    bench.node.agent.restart().unwrap();
    eventually("the VLAN again", || holds(on_node(&bench, VLAN).is_some_and(|link| link.up), "not there"));
    bench.settles();
    bench.node.agent.kill().unwrap();
    bench.leave(&member);
    assert!(on_node(&bench, VLAN).is_some());
    bench.node.agent.restart().unwrap();
    bench.node.forgets_all();
    vanishes(&bench, VLAN);
}

fn one_link() {
    let bench = Bench::new("lfo");
    bench.worker().vlan("other", "ens192", 100).unwrap();
    let runtime = bench.runtime();
    let pod = bench.node.pod(1);
    let it = attachment(&pod, "net1");
    let text = "cannot have multiple different vlan interfaces with the same vlanId 100 on node at the same time";
    assert_refused(runtime.add(&vlan_chain(), &it), 7, &[text]);
    assert!(on_node(&bench, VLAN).is_none());
    runtime.del(&vlan_chain(), &it, None).unwrap();
    bench.worker().delete_link("other").unwrap();
    let (_peer, _responder) = bench.uplink();
    let member = bench.join(2, &vlan_chain());
    let elsewhere = on("ens224.100", json!({"interfaces": ["ens224"], "vlanID": 100}));
    assert_refused(runtime.add(&elsewhere, &it), 7, &[text]);
    runtime.del(&elsewhere, &it, None).unwrap();
    bench.ends(vec![member]);
}

fn parent() {
    let bench = Bench::new("lfp");
    let (_peer, _responder) = bench.uplink();
    bench.worker().down("ens224").unwrap();
    let member = bench.join(1, &on("ens224.100", json!({"interfaces": ["ens224"], "vlanID": 100})));
    assert!(on_node(&bench, "ens224").unwrap().up && on_node(&bench, "ens224.100").unwrap().up);
    bench.worker().down("ens224").unwrap();
    eventually("the parent up again", || holds(on_node(&bench, "ens224").unwrap().up, "down"));
    bench.ends(vec![member]);
}

/// Two cables to one machine, which has a bond, too.
fn cables(bench: &Bench) -> (Netns, Responder) {
    let peer = bench.node.netns("peer");
    let (mut worker, mut far) = (bench.worker(), peer.scene().unwrap());
    far.bridge("br0").unwrap();
    for number in 1..=2 {
        let (near, end) = (format!("slave{number}"), format!("far{number}"));
        worker.veth(End::here(&near), End::inside(&peer, &end)).unwrap();
        worker.up(&near).unwrap();
        far.port(&end, "br0").unwrap();
        far.up(&end).unwrap();
    }
    far.up("br0").unwrap();
    far.vlan("tagged", "br0", 7).unwrap();
    far.address("tagged", format!("{PEER}/24").parse().unwrap()).unwrap();
    far.up("tagged").unwrap();
    let responder = Responder::start(&peer, PORT).unwrap();
    (peer, responder)
}

fn bond_chain() -> Conflist {
    let bond = json!({"name": "bond0", "mode": 1, "options": "miimon=100;primary=slave2"});
    on("bond0.7", json!({"interfaces": ["slave1", "slave2"], "vlanID": 7, "bond": bond}))
}

fn miimon(bench: &Bench) -> Option<u32> {
    match on_node(bench, "bond0")?.kind {
        LinkKind::Bond(bond) if bond.mode == 1 => bond.numbers.get(&schemas::uplink::BondOption::MiiMon).copied(),
        _ => None,
    }
}

fn bonded() {
    let bench = Bench::new("lbo");
    let (_peer, _responder) = cables(&bench);
    let members = [bench.join(1, &bond_chain()), bench.join(2, &bond_chain())];
    let is_whole = || {
        let bond = on_node(&bench, "bond0").ok_or("no bond0")?;
        let slaves = ["slave1", "slave2"].map(|name| on_node(&bench, name).unwrap());
        let enslaved = slaves.iter().all(|slave| slave.master == Some(bond.index) && slave.up);
        holds(enslaved && bond.up && miimon(&bench) == Some(100), (&bond, &slaves))?;
        bench.node.has_no_drift()
    };
    is_whole().unwrap();
    assert_eq!(on_node(&bench, "bond0.7").unwrap().kind, LinkKind::Vlan(7));
    reach_each_other(&members[0], &members[1]);
    eventually("the peer by the bond", || reaches(&members[0].pod.netns, "net1", PEER));
    let damages: [Damage<'_>; 4] = [
        ("without a slave", &|scene| scene.set_link("slave1", LinkAttribute::Controller(0)).unwrap()),
        ("down", &|scene| scene.down("bond0").unwrap()),
        ("without its VLAN", &|scene| scene.delete_link("bond0.7").unwrap()),
        ("deleted", &|scene| scene.delete_link("bond0").unwrap()),
    ];
    for (what, damage) in damages {
        damage(&mut bench.worker());
        eventually(&format!("the bond that was {what}"), is_whole);
        eventually("the peer by the bond again", || reaches(&members[0].pod.netns, "net1", PEER));
    }
    let [first, last] = members;
    bench.leave(&first);
    eventually("the peer by the bond", || reaches(&last.pod.netns, "net1", PEER));
    bench.leave(&last);
    bench.node.forgets_all();
    vanishes(&bench, "bond0.7");
    vanishes(&bench, "bond0");
    assert!(["slave1", "slave2"].iter().all(|name| on_node(&bench, name).is_some()));
}

fn foreign_bond() {
    let bench = Bench::new("lbf");
    let (_peer, _responder) = cables(&bench);
    bench.worker().bond("bond0", 0).unwrap();
    let there = on_node(&bench, "bond0").unwrap();
    let member = bench.join(1, &bond_chain());
    let used = on_node(&bench, "bond0").unwrap();
    assert_eq!((used.index, used.up, &used.kind), (there.index, true, &there.kind));
    assert_eq!(on_node(&bench, "slave1").unwrap().master, None, "its slaves are its owner's affair");
    bench.leave(&member);
    bench.node.forgets_all();
    vanishes(&bench, "bond0.7");
    assert!(on_node(&bench, "bond0").is_some());
}

/// The reference vlan plugin as main plugin, with our addresses and coordinator.
fn reference_vlan() {
    let bench = Bench::new("lrv");
    peer_in_vlan(&bench, "ens192", 100);
    let conflist = chain(vec![json!({"type": "vlan", "master": "ens192", "vlanId": 100, "ipam": ipam(FAR_POOL)})]);
    let member: Member = bench.join(1, &conflist);
    assert_eq!(link(&member).kind, LinkKind::Vlan(100));
    eventually("the peer in the VLAN", || reaches(&member.pod.netns, "net1", PEER));
    tests::repair::flush_rules(&member.pod.netns).unwrap();
    member.pod.netns.scene().unwrap().down("net1").unwrap();
    bench.settles();
    eventually("the peer in the VLAN again", || reaches(&member.pod.netns, "net1", PEER));
    bench.ends(vec![member]);
}

/// One interface without VLAN, and several without bond: the original makes nothing either.
fn nothing() {
    let bench = Bench::new("lfn");
    for ifacer in [json!({"interfaces": ["ens192"]}), json!({"interfaces": ["ens192", "x"], "vlanID": 0})] {
        let member = bench.join(1, &on("ens192", ifacer));
        bench.runtime().check(&member.conflist, &member.attachment, &member.result).unwrap();
        bench.leave(&member);
        bench.node.forgets_all();
        member.pod.delete(&bench.node.scene.worker).unwrap();
    }
}

fn refused() {
    let bench = Bench::new("lfr");
    let pod = bench.node.pod(1);
    let it = attachment(&pod, "net1");
    bench.worker().bridge("taken").unwrap();
    for (ifacer, text) in [
        (json!({}), "interfaces have at least one interface"),
        (json!({"interfaces": ["ens192"], "vlanID": 4095}), "vlanID must be in range [0,4094]"),
        (json!({"interfaces": ["ens9"], "vlanID": 5}), "the node has no interface ens9"),
        (json!({"interfaces": ["a", "b"], "bond": {"mode": 9}}), "unknown bond mode: 9, available mode: [0,6]"),
        (
            json!({"interfaces": ["a", "b"], "bond": {"name": "taken", "mode": 1}}),
            "createBondDevice failure: a non-bond type interface named taken already exists on the host",
        ),
        (
            json!({"interfaces": ["a", "b"], "bond": {"options": "miimon=x"}}),
            "failed to convert options to BondOptions",
        ),
    ] {
        let conflist = on("ens192", ifacer);
        assert_refused(bench.runtime().add(&conflist, &it), 7, &[text]);
        bench.runtime().del(&conflist, &it, None).unwrap();
    }
    bench.node.forgets_all();
}
