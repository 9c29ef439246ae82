//! Our macvlan: every mode, MTU, hardware address, queue, and the uplink inside the pod.

use libtest_mimic::Trial;
use netlink::testbed::LinkAttribute;
use netlink::testbed::Scene;
use plan::LinkKind;
use schemas::intent::{LinkKindIntent, MacvlanMode};
use serde_json::{Value, json};
use tests::scene::CONTROLLER_ADDRESS;

use crate::bench::{
    Bench, FAR_POOL, MAC, MACVLAN_MODES, PEER, UPLINK, address, bare, chain, ipam, link, reach_each_other, reaches,
};
use crate::node::{POOL_NAME, assert_refused, attachment, eventually, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("macvlan::bridge", bridge),
        trial("macvlan::private", || apart("private")),
        trial("macvlan::vepa", || apart("vepa")),
        trial("macvlan::passthru", passthru),
        trial("macvlan::properties", properties),
        trial("macvlan::on_a_link_of_the_pod", inside),
    ]
}

fn conf(mode: &str) -> Value {
    json!({"type": "macvlan", "master": "ens192", "mode": mode, "ipam": ipam(POOL_NAME)})
}

fn mode_of(name: &str) -> MacvlanMode {
    MACVLAN_MODES.iter().find(|(known, _)| *known == name).unwrap().1
}

fn bridge() {
    let bench = Bench::new("lm1");
    let conflist = chain(vec![conf("bridge")]);
    let members = vec![bench.join(1, &conflist), bench.join(2, &conflist)];
    assert_eq!(link(&members[0]).kind, LinkKind::Macvlan(MacvlanMode::Bridge));
    reach_each_other(&members[0], &members[1]);
    let set_private =
        |scene: &mut Scene| scene.set_mode("net1", &LinkKindIntent::Macvlan(MacvlanMode::Private)).unwrap();
    let set_mac = |scene: &mut Scene| scene.set_link("net1", LinkAttribute::Address(MAC.0.to_vec())).unwrap();
    bench.keeps(&members[0], &[("private", &set_private), ("given a hardware address", &set_mac)]);
    reach_each_other(&members[0], &members[1]);
    bench.ends(members);
}

/// Pods of one uplink do not reach each other but by a switch that sends back where it received.
fn apart(mode: &str) {
    let bench = Bench::new(&format!("lm{}", &mode[..2]));
    let conflist = chain(vec![conf(mode)]);
    let members = vec![bench.join(1, &conflist), bench.join(2, &conflist)];
    assert_eq!(link(&members[0]).kind, LinkKind::Macvlan(mode_of(mode)));
    let to_other = || reaches(&members[0].pod.netns, "net1", address(&members[1]));
    let to_controller = || reaches(&members[0].pod.netns, "net1", CONTROLLER_ADDRESS);
    eventually("reaching the controller", to_controller);
    assert!(to_other().is_err(), "{mode}");
    bench.keeps(&members[0], &[]);
    eventually("reaching the controller again", to_controller);
    bench.ends(members);
}

/// One pod takes the uplink with its hardware address.
fn passthru() {
    let bench = Bench::new("lmpa");
    let (_peer, _responder) = bench.uplink();
    let uplink = || bench.worker().link(UPLINK).unwrap().mac;
    let own = uplink();
    let conf = json!({"type": "macvlan", "master": UPLINK, "mode": "passthru", "ipam": ipam(FAR_POOL)});
    let conflist = chain(vec![conf]);
    let member = bench.join(1, &conflist);
    assert_eq!(
        (link(&member).mac, member.result["interfaces"][0]["mac"].as_str()),
        (own, own.map(|mac| mac.to_string()).as_deref())
    );
    eventually("reaching the peer", || reaches(&member.pod.netns, "net1", PEER));
    bench.keeps(&member, &[]);
    // The kernel takes a second one on no account; nothing of it stays.
    let second = bench.node.pod(2);
    let refused = bench.runtime().add(&conflist, &attachment(&second, "net1"));
    assert_refused(refused, 999, &["net1"]);
    bench.runtime().del(&conflist, &attachment(&second, "net1"), None).unwrap();
    // With one of its own, the uplink takes it over as long as it lasts.
    let again = conflist.clone().with_key("macvlan", "mac", json!(MAC.to_string()));
    bench.leave(&member);
    bench.node.forgets_all();
    let result = bench.runtime().add(&again, &member.attachment).unwrap();
    assert_eq!(result["interfaces"][0]["mac"], json!(MAC.to_string()));
    assert_eq!((link(&member).mac, uplink()), (Some(MAC), Some(MAC)));
    eventually("reaching the peer again", || reaches(&member.pod.netns, "net1", PEER));
    bench.ends(vec![member]);
    assert_eq!(uplink(), own);
}

/// MTU and queue change in place when they are asked for anew; a hardware address that is asked for is had.
fn properties() {
    let bench = Bench::new("lmpr");
    let conflist = chain(vec![conf("bridge")])
        .with_key("macvlan", "mtu", json!(1400))
        .with_key("macvlan", "mac", json!(MAC.to_string()))
        .with_key("coordinator", "txQueueLen", json!(777));
    let member = bench.join(1, &conflist);
    let first = link(&member);
    assert_eq!((first.mtu, first.mac, first.tx_queue_len), (1400, Some(MAC), 777));
    assert_eq!(member.result["interfaces"][0]["mac"], json!(MAC.to_string()));
    let narrow = |scene: &mut Scene| scene.set_link("net1", LinkAttribute::Mtu(1300)).unwrap();
    let short = |scene: &mut Scene| scene.set_link("net1", LinkAttribute::TxQueueLen(5)).unwrap();
    bench.keeps(&member, &[("narrowed", &narrow), ("given a short queue", &short)]);
    let kept = link(&member);
    let wider =
        conflist.clone().with_key("macvlan", "mtu", json!(1450)).with_key("coordinator", "txQueueLen", json!(888));
    bench.runtime().add(&wider, &member.attachment).unwrap();
    let changed = link(&member);
    assert_eq!((changed.mtu, changed.tx_queue_len, changed.index), (1450, 888, kept.index));
    let group = conflist.with_key("macvlan", "mac", json!("03:00:00:00:00:01"));
    assert_refused(bench.runtime().add(&group, &member.attachment), 7, &["group address"]);
    bench.ends(vec![member]);
}

/// `linkInContainer`: the uplink is eth0 of the pod.
fn inside() {
    let bench = Bench::new("lmin");
    let conf = json!({"type": "macvlan", "master": "eth0", "linkInContainer": true, "ipam": ipam(FAR_POOL)});
    let conflist = bare(std::slice::from_ref(&conf));
    let member = bench.join(1, &conflist);
    let eth0 = member.pod.netns.scene().unwrap().link("eth0").unwrap().index;
    assert_eq!(link(&member).lower, Some(eth0));
    bench.keeps(&member, &[]);
    let unnamed = bare(&[json!({"type": "macvlan", "linkInContainer": true, "ipam": ipam(FAR_POOL)})]);
    let second = bench.node.pod(2);
    assert_refused(bench.runtime().add(&unnamed, &attachment(&second, "net1")), 7, &["linkInContainer"]);
    bench.ends(vec![member]);
}
