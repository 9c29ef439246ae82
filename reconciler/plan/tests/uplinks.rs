//! Links by kind: what of the node pods stand on, ipvlans, hardware addresses.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use plan::{Bond, Desired, DesiredLink, Link, LinkKind, LinkOrigin, Observed, Prune, diff, merge_links};
use schemas::cni::ifacer::IfacerConf;
use schemas::intent::{IpvlanMode, LinkIdentity, LinkIntent, LinkKindIntent, MacvlanMode};
use schemas::name::Mac;
use schemas::uplink::BondOption;

fn link(name: &str, index: u32, kind: LinkKind) -> Link {
    Link {
        name: name.into(),
        index,
        kind,
        mac: Some(mac(1)),
        mtu: 1500,
        up: true,
        alias: None,
        lower: None,
        master: None,
        tx_queue_len: 1000,
    }
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn hardware(name: &str, index: u32) -> Link {
    link(name, index, LinkKind::Other(String::new()))
}

fn ours(wanted: Link) -> Link {
    Link { alias: Some(format!("dragline:uplink/{}", wanted.name)), ..wanted }
}

fn node(asked: &[&str]) -> Desired {
    let uplink = |text: &&str| serde_json::from_str::<IfacerConf>(text).unwrap().intent().unwrap();
    let mut links: Vec<DesiredLink> = asked.iter().map(uplink).flat_map(|it| DesiredLink::of_uplink(&it)).collect();
    merge_links(&mut links);
    Desired { links, ..Desired::default() }
}

/// Steps, then what is blocked.
fn todo(desired: &Desired, links: &[Link]) -> Vec<String> {
    let observed = Observed { links: links.to_vec(), ..Observed::default() };
    let found = diff(desired, &observed, Prune::Yes);
    found.steps.iter().map(ToString::to_string).chain(found.blocked).collect()
}

const VLAN: &str = r#"{"interfaces":["ens1"],"vlanID":100}"#;
const BOND: &str =
    r#"{"interfaces":["ens1","ens2"],"vlanID":7,"bond":{"name":"bond0","mode":1,"options":"miimon=100"}}"#;

#[test]
fn a_vlan_is_made_set_up_and_removed_when_it_is_ours() {
    let wanted = node(&[VLAN, VLAN]);
    let parent = hardware("ens1", 2);
    let made = ["ip link add ens1.100 link ens1 type vlan id 100", "ip link set ens1.100 up"];
    assert_eq!(todo(&wanted, std::slice::from_ref(&parent)), made);
    let there = ours(link("ens1.100", 9, LinkKind::Vlan(100)));
    assert!(todo(&wanted, &[parent.clone(), there.clone()]).is_empty());
    let down = [Link { up: false, ..parent.clone() }, Link { up: false, ..there.clone() }];
    assert_eq!(todo(&wanted, &down), ["ip link set ens1 up", "ip link set ens1.100 up"]);
    let renamed = Link { name: "x".into(), ..there.clone() };
    assert_eq!(todo(&wanted, &[parent.clone(), renamed]), ["ip link set x name ens1.100"]);
    assert_eq!(todo(&Desired::default(), &[parent.clone(), there]), ["ip link delete ens1.100"]);
    // Left behind by an agent that was killed in the middle.
    assert_eq!(
        todo(&Desired::default(), &[link("dragline-uplink", 9, LinkKind::Vlan(100))]),
        ["ip link delete dragline-uplink"]
    );
    let parentless =
        ["link ens1 is not there and not dragline's to make", "link ens1.100: its parent ens1 is not there"];
    assert_eq!(todo(&wanted, &[]), parentless);
}

#[test]
fn what_was_there_before_is_used_and_kept() {
    let vlan = link("ens1.100", 9, LinkKind::Vlan(100));
    let before = [hardware("ens1", 2), Link { up: false, ..vlan }];
    assert_eq!(todo(&node(&[VLAN]), &before), ["ip link set ens1.100 up"]);
    assert!(todo(&Desired::default(), &before).is_empty());
    let other = [hardware("ens1", 2), link("ens1.100", 9, LinkKind::Veth)];
    let text = "link ens1.100: another link (index 9) has that name; rename or delete it";
    assert_eq!(todo(&node(&[VLAN]), &other), [text]);
}

#[test]
fn a_bond_of_ours_has_its_slaves_and_options() {
    let wanted = node(&[BOND]);
    let slaves = [hardware("ens1", 2), hardware("ens2", 3)];
    let made = [
        "ip link add bond0 type bond mode 1 miimon 100",
        "ip link add bond0.7 link bond0 type vlan id 7",
        "ip link set ens1 down master bond0",
        "ip link set ens2 down master bond0",
        "ip link set bond0 up",
        "ip link set bond0.7 up",
    ];
    assert_eq!(todo(&wanted, &slaves), made);
    let bond = |mode, miimon| Bond { mode, numbers: [(BondOption::MiiMon, miimon)].into() };
    let there = |bond: Bond, alias: bool| {
        let bond = link("bond0", 9, LinkKind::Bond(bond));
        let enslaved = slaves.clone().map(|slave| Link { master: Some(9), ..slave });
        let vlan = ours(link("bond0.7", 10, LinkKind::Vlan(7)));
        [&enslaved[..], &[if alias { ours(bond) } else { bond }, vlan]].concat()
    };
    assert!(todo(&wanted, &there(bond(1, 100), true)).is_empty());
    assert_eq!(todo(&wanted, &there(bond(1, 0), true)), ["ip link set bond0 type bond miimon 100"]);
    let mut freed = there(bond(1, 100), true);
    freed[1].master = None;
    assert_eq!(todo(&wanted, &freed), ["ip link set ens2 down master bond0"]);
    // The kernel takes no other mode of a bond that has slaves.
    assert_eq!(todo(&wanted, &there(bond(0, 100), true))[..2], ["ip link delete bond0", made[0]]);
    // One that was there before is used as it is.
    assert!(todo(&wanted, &there(bond(0, 0), false)).is_empty());
    assert!(!todo(&Desired::default(), &there(bond(0, 0), false)).contains(&"ip link delete bond0".to_owned()));
}

#[test]
fn a_bond_is_there_for_those_who_only_stand_on_it() {
    let wanted = node(&[BOND, r#"{"interfaces":["bond0"],"vlanID":8}"#]);
    let names: Vec<&str> = wanted.links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["bond0", "bond0.7", "bond0.8", "ens1", "ens2"]);
    assert!(todo(&wanted, &[hardware("ens1", 2), hardware("ens2", 3)]).iter().all(|text| text.starts_with("ip link")));
}

fn in_pod(kind: LinkKindIntent, mac: Option<Mac>) -> Desired {
    let intent = LinkIntent { kind, master: "ens1".parse().unwrap(), master_in_container: false, mtu: Some(1400), mac };
    let origin = LinkOrigin::Made { intent, alias: "dragline:c/net1".into() };
    let links = vec![DesiredLink { name: "net1".into(), origin, mac: None, tx_queue_len: None }];
    Desired { links, ..Desired::default() }
}

#[test]
fn an_ipvlan_is_known_by_alias_kind_and_name() {
    let wanted = in_pod(LinkKindIntent::Ipvlan(IpvlanMode::L2), None);
    assert_eq!(todo(&wanted, &[]), ["ip link add net1 link ens1 mtu 1400 type ipvlan mode l2", "ip link set net1 up"]);
    let alias = Some("dragline:c/net1".to_owned());
    let there = Link { alias, mtu: 1400, ..link("net1", 9, LinkKind::Ipvlan(IpvlanMode::L2)) };
    assert!(todo(&wanted, std::slice::from_ref(&there)).is_empty());
    let renamed = Link { name: "x".into(), ..there.clone() };
    assert_eq!(todo(&wanted, &[renamed]), ["ip link set x name net1"]);
    let unmarked = Link { alias: None, ..there.clone() };
    assert_eq!(todo(&wanted, &[unmarked]), ["ip link set net1 alias dragline:c/net1"]);
    let narrow = Link { mtu: 1300, up: false, ..there.clone() };
    assert_eq!(todo(&wanted, &[narrow]), ["ip link set net1 mtu 1400", "ip link set net1 up"]);
    let other_mode = Link { kind: LinkKind::Ipvlan(IpvlanMode::L3), ..there.clone() };
    assert_eq!(
        todo(&wanted, &[other_mode]),
        ["ip link delete net1", "ip link add net1 link ens1 mtu 1400 type ipvlan mode l2", "ip link set net1 up"]
    );
    // Another program's, beside it.
    let foreign = link("net2", 10, LinkKind::Ipvlan(IpvlanMode::L2));
    assert!(todo(&wanted, &[there.clone(), foreign.clone()]).is_empty());
    let withdrawn = Desired { withdrawn_links: wanted.links.clone(), ..Desired::default() };
    assert_eq!(todo(&withdrawn, &[Link { alias: None, ..there }, foreign]), ["ip link delete net1"]);
}

#[test]
fn a_hardware_address_is_set_not_the_link_made_again() {
    let kind = LinkKindIntent::Macvlan(MacvlanMode::Bridge);
    let wanted = in_pod(kind, Some(mac(9)));
    let alias = Some("dragline:c/net1".to_owned());
    let there = Link { alias, mtu: 1400, ..link("net1", 9, LinkKind::Macvlan(MacvlanMode::Bridge)) };
    assert_eq!(todo(&wanted, std::slice::from_ref(&there)), ["ip link set net1 address 02:00:00:00:00:09"]);
    // Without alias and with another address it is another program's.
    let text = "link net1: another link (index 9) has that name; rename or delete it";
    assert_eq!(todo(&wanted, &[Link { alias: None, ..there }]), [text]);
    let through = in_pod(LinkKindIntent::Macvlan(MacvlanMode::Passthru), Some(mac(9)));
    assert_eq!(
        todo(&through, &[]),
        [
            "ip link add net1 link ens1 address 02:00:00:00:00:09 mtu 1400 type macvlan mode passthru",
            "ip link set net1 address 02:00:00:00:00:09",
            "ip link set net1 up"
        ]
    );
}

#[test]
fn a_link_of_another_plugin_is_given_a_hardware_address_and_still_known() {
    let identity = LinkIdentity { index: 9, mac: mac(1) };
    let origin = LinkOrigin::Found(identity);
    let links = vec![DesiredLink { name: "net1".into(), origin, mac: Some(mac(9)), tx_queue_len: None }];
    let wanted = Desired { links, ..Desired::default() };
    let there = link("net1", 9, LinkKind::Veth);
    assert_eq!(todo(&wanted, std::slice::from_ref(&there)), ["ip link set net1 address 02:00:00:00:00:09"]);
    let given = Link { mac: Some(mac(9)), ..there };
    assert!(todo(&wanted, std::slice::from_ref(&given)).is_empty());
    assert_eq!(todo(&wanted, &[Link { name: "x".into(), ..given }]), ["ip link set x name net1"]);
}
