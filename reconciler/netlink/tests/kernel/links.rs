use libtest_mimic::Trial;
use netlink::StepError;
use netlink::testbed::Scene;
use plan::desired::{DesiredLink, LinkOrigin};
use plan::object::LinkKind;
use plan::step::{Placement, Step};
use schemas::intent::{LinkIdentity, MacvlanMode};
use schemas::name::Mac;

use crate::fixture::{Pod, address, macvlan, route};
use crate::trial;

const NEW_MAC: Mac = Mac([2, 0, 0, 0, 7, 1]);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("create_makes_a_macvlan_inside_the_pod", created),
        trial("create_on_a_master_inside_the_pod", created_inside),
        trial("create_without_master_names_it", no_master),
        trial("create_never_takes_a_foreign_link", name_taken),
        trial("create_never_makes_a_foreign_link", never_made),
        trial("attributes_are_set_by_name", attributes),
        trial("rename_gives_the_name_back", renamed),
        trial("delete_means_the_index", deleted),
    ]
}

fn created() {
    let pod = Pod::new("create");
    let wanted = DesiredLink { tx_queue_len: Some(777), ..macvlan("net1", &pod.peer, NEW_MAC) };
    // What stands on the new link goes out in the same call.
    let on_it = plan::Route { dev: Some("net1".into()), ..route(101, "10.70.0.0/16", None) };
    let steps = [
        Step::CreateLink(wanted),
        Step::SetLinkUp { dev: "net1".into() },
        Step::AddAddress(address("10.6.212.200/16", "net1")),
        Step::AddRoute(on_it.clone(), Placement::Alone),
    ];
    pod.apply_all(&steps);
    let observed = pod.observe();
    let net1 = observed.link("net1").unwrap();
    let master = Scene::here().unwrap().link(&pod.peer).unwrap();
    assert_eq!(net1.kind, LinkKind::Macvlan(MacvlanMode::Bridge));
    assert_eq!((net1.mac, net1.mtu, net1.up, net1.tx_queue_len), (Some(NEW_MAC), 1400, true, 777));
    assert_eq!((net1.alias.as_deref(), net1.lower), (Some("dragline:test/net1"), Some(master.index)));
    assert!(observed.routes.contains(&on_it));
    assert!(Scene::here().unwrap().link("net1").is_err(), "never on the node");
    pod.apply_all(&steps);
    assert_eq!(pod.observe(), observed);
}

fn created_inside() {
    let pod = Pod::new("inside");
    let mut wanted = macvlan("net1", "eth0", NEW_MAC);
    if let LinkOrigin::Made { intent, .. } = &mut wanted.origin {
        intent.master_in_container = true;
    }
    pod.apply_all(&[Step::CreateLink(wanted)]);
    let observed = pod.observe();
    assert_eq!(observed.link("net1").unwrap().lower, Some(observed.link("eth0").unwrap().index));
}

fn no_master() {
    let pod = Pod::new("nomaster");
    let outcome = pod.apply(&[Step::CreateLink(macvlan("net1", "ens999", NEW_MAC))]);
    let text = outcome[0].as_ref().unwrap_err().to_string();
    assert_eq!(text, "there is no uplink ens999 in the node to make net1 on: set `master` to a link that exists");
    assert!(pod.observe().link("net1").is_none());
}

fn name_taken() {
    let pod = Pod::new("taken");
    pod.scene().bridge("net1").unwrap();
    let before = pod.observe();
    let outcome = pod.apply(&[Step::CreateLink(macvlan("net1", &pod.peer, NEW_MAC))]);
    let text = outcome[0].as_ref().unwrap_err().to_string();
    assert!(text.contains("another link named net1") && text.contains("bridge"), "{text}");
    assert_eq!(pod.observe(), before);
    // A macvlan that another program made, too.
    let master = "eth0".parse().unwrap();
    pod.scene().macvlan("net2", &master, MacvlanMode::Bridge, Mac([2, 0, 0, 0, 7, 9])).unwrap();
    let outcome = pod.apply(&[Step::CreateLink(macvlan("net2", &pod.peer, NEW_MAC))]);
    assert!(matches!(outcome[0], Err(StepError::NameTaken { .. })), "{outcome:?}");
    assert_eq!(pod.observe().link("net2").unwrap().alias, None);
}

fn never_made() {
    let pod = Pod::new("found");
    let found = LinkOrigin::Found(LinkIdentity { index: 9, mac: NEW_MAC });
    let wanted = DesiredLink { name: "net1".into(), origin: found, mac: None, tx_queue_len: None };
    let outcome = pod.apply(&[Step::CreateLink(wanted)]);
    assert!(matches!(outcome[0], Err(StepError::NeverDone(_))), "{outcome:?}");
    assert_eq!(pod.kernel.changes_sent(), 0);
}

fn attributes() {
    let pod = Pod::new("attributes");
    pod.scene().down("eth0").unwrap();
    let dev = || "eth0".to_owned();
    let steps = [
        Step::SetLinkAlias { dev: dev(), alias: "dragline:x/eth0".into() },
        Step::SetLinkMtu { dev: dev(), mtu: 1300 },
        Step::SetLinkMac { dev: dev(), mac: NEW_MAC },
        Step::SetLinkQueue { dev: dev(), length: 555 },
        Step::SetLinkUp { dev: dev() },
    ];
    for _ in 0..2 {
        pod.apply_all(&steps);
        let observed = pod.observe();
        let eth0 = observed.link("eth0").unwrap();
        assert_eq!(eth0.alias.as_deref(), Some("dragline:x/eth0"));
        assert_eq!((eth0.mtu, eth0.tx_queue_len, eth0.up, eth0.mac), (1300, 555, true, Some(NEW_MAC)));
    }
    let outcome = pod.apply(&[Step::SetLinkUp { dev: "nope".into() }]);
    assert!(matches!(&outcome[0], Err(StepError::NoLink { dev, .. }) if dev == "nope"), "{outcome:?}");
}

fn renamed() {
    let pod = Pod::new("rename");
    let index = pod.observe().link("eth0").unwrap().index;
    pod.scene().rename("eth0", "stolen").unwrap();
    let back = Step::RenameLink { index, from: "stolen".into(), to: "eth0".into() };
    // Up, with what follows in the same call.
    let steps = [back.clone(), Step::AddRoute(route(100, "10.71.0.0/16", None), Placement::Alone)];
    for _ in 0..2 {
        pod.apply_all(&steps);
        let observed = pod.observe();
        let eth0 = observed.link("eth0").unwrap();
        assert_eq!((eth0.index, eth0.up), (index, true));
    }
    pod.scene().rename("eth0", "stolen").unwrap();
    pod.scene().bridge("eth0").unwrap();
    let outcome = pod.apply(&[back]);
    assert!(matches!(outcome[0], Err(StepError::NameTaken { .. })), "{outcome:?}");
}

fn deleted() {
    let pod = Pod::new("delete");
    pod.apply_all(&[Step::CreateLink(macvlan("net1", &pod.peer, NEW_MAC))]);
    let index = pod.observe().link("net1").unwrap().index;
    let delete = Step::DeleteLink { dev: "net1".into(), index };
    pod.apply_all(std::slice::from_ref(&delete));
    assert!(pod.observe().link("net1").is_none());
    // Another link of that name is not meant.
    pod.scene().bridge("net1").unwrap();
    pod.apply_all(&[delete]);
    let other = pod.observe().link("net1").unwrap().index;
    // Nor one that was renamed in the meantime.
    pod.scene().rename("net1", "kept").unwrap();
    let outcome = pod.apply(&[Step::DeleteLink { dev: "net1".into(), index: other }]);
    assert!(matches!(&outcome[0], Err(StepError::Renamed { found, .. }) if found == "kept"), "{outcome:?}");
    assert!(pod.observe().link("kept").is_some());
}
