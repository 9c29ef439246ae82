//! Reference main plugins with our addresses and coordinator: bridge, ptp, host-device. (vlan stands with the kinds that
//! need a module.)

use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use netlink::testbed::End;
use netlink::testbed::LinkAttribute;
use serde_json::{Value, json};
use tests::probe::Responder;
use tests::repair;
use tests::runtime::reference_plugins;
use tests::scene::PORT;

use crate::bench::{Bench, Damage, FAR_POOL, MAC, Member, PEER, address, chain, ipam, link, reach_each_other, reaches};
use crate::node::traces::Traces;
use crate::node::{eventually, holds, trial};

pub(crate) fn trials() -> Vec<Trial> {
    let trials =
        [trial("foreign::bridge", bridge), trial("foreign::ptp", ptp), trial("foreign::host_device", host_device)];
    // Shown as ignored where containernetworking-plugins is not installed; `cargo verify` sees to it.
    trials.into_iter().map(|trial| trial.with_ignored_flag(reference_plugins().is_none())).collect()
}

/// What others do to it comes back; only its own plugin could make the link again.
fn keeps(bench: &Bench, member: &Member) {
    let before = link(member);
    repair::flush_rules(&member.pod.netns).unwrap();
    let damages: [Damage<'_>; 4] = [
        ("table flushed", &|scene| scene.flush_routes(plan::tables::DEFAULT_NIC).unwrap()),
        ("down", &|scene| scene.down("net1").unwrap()),
        ("renamed", &|scene| {
            scene.down("net1").unwrap();
            scene.rename("net1", "stolen").unwrap();
        }),
        ("given another hardware address", &|scene| {
            scene.set_link("net1", LinkAttribute::Address(MAC.0.to_vec())).unwrap();
        }),
    ];
    for (what, damage) in damages {
        damage(&mut member.pod.netns.scene().unwrap());
        eventually(&format!("repair after {what}"), || {
            bench.node.has_no_drift()?;
            let found = member.pod.netns.scene().unwrap().observe().unwrap().link("net1").cloned();
            holds(found.as_ref() == Some(&before), (&found, &before))
        });
    }
}

fn conf(mut plugin: Value) -> tests::runtime::Conflist {
    plugin["ipam"] = ipam(FAR_POOL);
    chain(vec![plugin]).with_key("coordinator", "podMACPrefix", json!("0a:1b"))
}

fn bridge() {
    let bench = Bench::new("lrb");
    let conflist = conf(json!({"type": "bridge", "bridge": "cni9"}));
    let pod = bench.node.pod(9);
    let clean = Traces::at_rest(&pod.netns);
    let members = vec![bench.join(1, &conflist), bench.join(2, &conflist)];
    assert!(link(&members[0]).mac.unwrap().0.starts_with(&[0x0a, 0x1b]));
    reach_each_other(&members[0], &members[1]);
    keeps(&bench, &members[0]);
    reach_each_other(&members[0], &members[1]);
    bench.ends(members);
    // A pod that has had one is like one that never had.
    let late = crate::node::attachment(&pod, "net1");
    let result = bench.runtime().add(&conflist, &late).unwrap();
    bench.runtime().del(&conflist, &late, Some(&result)).unwrap();
    bench.node.forgets_all();
    clean.return_to(&pod.netns);
}

fn ptp() {
    let gateway = Ipv4Addr::new(172, 31, 0, 1);
    let bench = Bench::new("lrp");
    let spec =
        json!({"ipVersion": 4, "subnet": "172.31.0.0/24", "ips": ["172.31.0.20-172.31.0.40"], "gateway": gateway});
    let pool = crate::node::object("SpiderIPPool", "172-31-v4", &json!({ "spec": spec }));
    bench.node.scene.apply("gateway.yaml", &pool).unwrap();
    eventually("the pool", || {
        let pools = bench.node.agent.list("ippools").unwrap();
        holds(pools.iter().any(|pool| pool["metadata"]["name"] == "172-31-v4"), pools)
    });
    let conflist = chain(vec![json!({"type": "ptp", "ipam": ipam("172-31-v4")})]).with_key(
        "coordinator",
        "podMACPrefix",
        json!("0a:1b"),
    );
    let member = bench.join(1, &conflist);
    assert_eq!(address(&member), Ipv4Addr::new(172, 31, 0, 20));
    // The node's end is the node: reached by the default CNI, as every address of it.
    eventually("the node's end", || reaches(&member.pod.netns, "eth0", gateway));
    keeps(&bench, &member);
    eventually("the node's end again", || reaches(&member.pod.netns, "eth0", gateway));
    bench.ends(vec![member]);
}

fn host_device() {
    let bench = Bench::new("lrh");
    let peer = bench.node.netns("peer");
    let mut worker = bench.worker();
    worker.veth(End::here("hd0"), End::inside(&peer, "eth0")).unwrap();
    let mut far = peer.scene().unwrap();
    far.address("eth0", format!("{PEER}/24").parse().unwrap()).unwrap();
    far.up("eth0").unwrap();
    let _responder = Responder::start(&peer, PORT).unwrap();
    let member = bench.join(1, &conf(json!({"type": "host-device", "device": "hd0"})));
    assert!(link(&member).mac.unwrap().0.starts_with(&[0x0a, 0x1b]));
    eventually("the peer", || reaches(&member.pod.netns, "net1", PEER));
    keeps(&bench, &member);
    eventually("the peer again", || reaches(&member.pod.netns, "net1", PEER));
    bench.ends(vec![member]);
    eventually("the device back on the node", || holds(bench.worker().link("hd0").is_ok(), "not there"));
}
