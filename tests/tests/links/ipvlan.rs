//! Our ipvlan: every mode, the hardware address that it shares, and what does not go together on one uplink.

use libtest_mimic::Trial;
use netlink::testbed::LinkAttribute;
use netlink::testbed::Scene;
use plan::LinkKind;
use schemas::intent::{IpvlanMode, LinkKindIntent};
use serde_json::{Value, json};
use tests::scene::CONTROLLER_ADDRESS;

use crate::bench::{Bench, Kinds, bare, chain, ipam, link, reach_each_other, reaches};
use crate::node::{POOL_NAME, assert_refused, attachment, eventually, trial};

pub(crate) fn trials() -> Vec<Trial> {
    let is_missing = !Kinds::of_kernel().ipvlan;
    let modes = [("l2", IpvlanMode::L2), ("l3", IpvlanMode::L3), ("l3s", IpvlanMode::L3s)];
    let modes = modes.map(|(name, mode)| trial(format!("kinds::ipvlan::{name}"), move || in_mode(name, mode)));
    let others = [
        trial("kinds::ipvlan::on_a_link_of_the_pod", inside),
        trial("kinds::ipvlan::what_does_not_go_together", company),
    ];
    modes.into_iter().chain(others).map(|trial| trial.with_ignored_flag(is_missing)).collect()
}

fn conf(mode: &str) -> Value {
    json!({"type": "ipvlan", "master": "ens192", "mode": mode, "ipam": ipam(POOL_NAME)})
}

fn in_mode(name: &str, mode: IpvlanMode) {
    let bench = Bench::new(&format!("li{name}"));
    let conflist = chain(vec![conf(name)]).with_key("ipvlan", "mtu", json!(1400));
    let members = vec![bench.join(1, &conflist), bench.join(2, &conflist)];
    let own = link(&members[0]);
    let uplink = bench.worker().link("ens192").unwrap();
    assert_eq!(
        (&own.kind, own.mtu, own.mac, own.lower),
        (&LinkKind::Ipvlan(mode), 1400, uplink.mac, Some(uplink.index))
    );
    let said = &members[0].result["interfaces"][0];
    assert_eq!((&said["name"], &said["mac"]), (&json!("net1"), &json!(uplink.mac.unwrap().to_string())));
    reach_each_other(&members[0], &members[1]);
    if mode == IpvlanMode::L2 {
        eventually("the controller", || reaches(&members[0].pod.netns, "net1", CONTROLLER_ADDRESS));
    }
    let other_mode = if mode == IpvlanMode::L2 { IpvlanMode::L3 } else { IpvlanMode::L2 };
    let set_mode = |scene: &mut Scene| scene.set_mode("net1", &LinkKindIntent::Ipvlan(other_mode)).unwrap();
    let narrow = |scene: &mut Scene| scene.set_link("net1", LinkAttribute::Mtu(1300)).unwrap();
    let unmark = |scene: &mut Scene| scene.set_link("net1", LinkAttribute::IfAlias(String::new())).unwrap();
    bench.keeps(
        &members[0],
        &[("given another mode", &set_mode), ("narrowed", &narrow), ("without its alias", &unmark)],
    );
    // The mode is the uplink's: the other pod had lost its own, too.
    assert_eq!(link(&members[1]).kind, LinkKind::Ipvlan(mode));
    reach_each_other(&members[0], &members[1]);
    bench.ends(members);
}

fn inside() {
    let bench = Bench::new("liin");
    let conf = json!({"type": "ipvlan", "master": "eth0", "linkInContainer": true, "ipam": ipam(POOL_NAME)});
    let member = bench.join(1, &bare(std::slice::from_ref(&conf)));
    let eth0 = member.pod.netns.scene().unwrap().link("eth0").unwrap();
    let own = link(&member);
    assert_eq!((own.lower, own.mac, &own.kind), (Some(eth0.index), eth0.mac, &LinkKind::Ipvlan(IpvlanMode::L2)));
    bench.keeps(&member, &[]);
    bench.ends(vec![member]);
}

fn company() {
    let bench = Bench::new("lico");
    let runtime = bench.runtime();
    let member = bench.join(1, &chain(vec![conf("l2")]));
    let second = bench.node.pod(2);
    let it = attachment(&second, "net1");
    let refused = |plugin: Value, words: &[&str]| {
        let conflist = chain(vec![plugin]);
        assert_refused(runtime.add(&conflist, &it), 7, words);
        runtime.del(&conflist, &it, None).unwrap();
    };
    refused(conf("l3"), &["uplink ens192", "all of one uplink have one mode"]);
    refused(
        json!({"type": "macvlan", "master": "ens192", "ipam": ipam(POOL_NAME)}),
        &["uplink ens192", "no uplink has beside macvlans"],
    );
    refused(conf("l4"), &["mode"]);
    let prefixed = chain(vec![conf("l2")]).with_key("coordinator", "podMACPrefix", json!("0a:1b"));
    let text = "net1 is an ipvlan, which shares its uplink's hardware address";
    assert_refused(runtime.add(&prefixed, &it), 999, &["podMACPrefix 0a:1b", text]);
    runtime.del(&prefixed, &it, None).unwrap();
    bench.ends(vec![member]);
}
