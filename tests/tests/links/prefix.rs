//! `podMACPrefix`: a NIC's hardware address by its first IP address, told to the neighbours and kept.

use libtest_mimic::Trial;
use netlink::testbed::LinkAttribute;
use netlink::testbed::Scene;
use schemas::name::{Mac, MacPrefix};
use serde_json::json;
use tests::runtime::reference_plugins;
use tests::scene::CONTROLLER_ADDRESS;

use crate::bench::{Bench, MAC, address, chain, ipam, link, reaches};
use crate::node::{POOL_NAME, assert_refused, attachment, eventually, holds, trial};
use crate::wire::Ear;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("prefix::own_macvlan", || kept(false)),
        trial("prefix::foreign_macvlan", || kept(true)).with_ignored_flag(reference_plugins().is_none()),
        trial("prefix::of_the_cluster", of_the_cluster),
        trial("prefix::invalid", invalid),
    ]
}

fn conflist(prefix: &str) -> tests::runtime::Conflist {
    let conf = json!({"type": "macvlan", "master": "ens192", "mode": "bridge", "ipam": ipam(POOL_NAME)});
    chain(vec![conf]).with_key("coordinator", "podMACPrefix", json!(prefix))
}

fn expected(address: std::net::Ipv4Addr) -> Mac {
    MacPrefix([0x0a, 0x1b]).mac(address.into())
}

fn kept(is_foreign: bool) {
    let bench = Bench::new(if is_foreign { "lpf" } else { "lpo" });
    let ear = Ear::open(&bench.node.scene.controller);
    let runtime = if is_foreign { bench.runtime_with_reference() } else { bench.runtime() };
    let member = bench.join_by(&runtime, 1, &conflist("0a:1b"));
    let mac = expected(address(&member));
    assert_eq!(link(&member).mac, Some(mac));
    // What the plugin before has said is handed on as it was.
    assert_ne!(member.result["interfaces"][0]["mac"], json!(mac.to_string()));
    let announced = || {
        let heard = ear.announced(address(&member));
        holds(heard.contains(&mac), heard)
    };
    eventually("an announcement", announced);
    eventually("reaching the controller", || reaches(&member.pod.netns, "net1", CONTROLLER_ADDRESS));
    let endpoint = bench.node.agent.list("endpoints").unwrap();
    assert!(json!(endpoint).to_string().contains(&mac.to_string()), "{endpoint:?}");
    // Changed by somebody, it is put back and told again.
    let set = |scene: &mut Scene| scene.set_link("net1", LinkAttribute::Address(MAC.0.to_vec())).unwrap();
    if is_foreign {
        set(&mut member.pod.netns.scene().unwrap());
        eventually("the hardware address again", || holds(link(&member).mac == Some(mac), link(&member)));
        let mut scene = member.pod.netns.scene().unwrap();
        scene.down("net1").unwrap();
        scene.rename("net1", "stolen").unwrap();
        eventually("net1 again", || {
            let observed = member.pod.netns.scene().unwrap().observe().unwrap();
            holds(observed.link("net1").is_some_and(|link| link.mac == Some(mac)), &observed.links)
        });
        bench.settles();
    } else {
        bench.keeps(&member, &[("given another hardware address", &set)]);
    }
    eventually("another announcement", announced);
    // Asked again, nothing changes.
    if !is_foreign {
        let before = link(&member);
        bench.runtime().add(&member.conflist, &member.attachment).unwrap();
        assert_eq!(link(&member), before);
    }
    runtime.del(&member.conflist, &member.attachment, Some(&member.result)).unwrap();
    bench.node.forgets_all();
}

fn of_the_cluster() {
    let coordinator = crate::node::COORDINATOR.replace("podMACPrefix: \"\"", "podMACPrefix: '0a:1b'");
    let bench = Bench::with_coordinator("lpc", &coordinator);
    let conf = json!({"type": "macvlan", "master": "ens192", "mode": "bridge", "ipam": ipam(POOL_NAME)});
    let member = bench.join(1, &chain(vec![conf]));
    let mac = expected(address(&member));
    assert_eq!(link(&member).mac, Some(mac));
    // A NIC that runs keeps its address whatever the cluster says later.
    bench.node.scene.apply("coordinator.yaml", &coordinator.replace("0a:1b", "0e:1b")).unwrap();
    bench.settles();
    assert_eq!(link(&member).mac, Some(mac));
    bench.ends(vec![member]);
}

fn invalid() {
    let bench = Bench::new("lpi");
    let pod = bench.node.pod(1);
    let text = "mac_prefix format should be match regex: [a-fA-F0-9][a-fA-F,0,2-9][:][a-fA-F0-9]{2}, like '0a:1b'";
    for prefix in ["0b:11", "0a", "0a-1b", "zz:00"] {
        let refused = bench.runtime().add(&conflist(prefix), &attachment(&pod, "net1"));
        assert_refused(refused, 999, &["podMACPrefix", text]);
    }
    bench.runtime().del(&conflist("0a:1b"), &attachment(&pod, "net1"), None).unwrap();
    bench.node.forgets_all();
}
