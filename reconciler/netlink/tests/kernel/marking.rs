//! The pair of underlay mode, the nftables table and the rule for marked packets.

use libtest_mimic::Trial;
use netlink::Kernel;
use netlink::testbed::Scene;
use plan::desired::{DesiredLink, LinkOrigin, PairIntent};
use plan::filter::{Expression, FilterTable};
use plan::object::{LinkKind, Rule};
use plan::step::Step;
use schemas::name::Mac;

use super::fixture::{Pod, rule};
use super::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("marking::a_table_is_read_as_it_was_written", a_table_is_read_as_it_was_written),
        trial("marking::a_changed_table_is_seen_and_replaced", a_changed_table_is_seen_and_replaced),
        trial("marking::a_rule_for_a_mark", a_rule_for_a_mark),
        trial("marking::a_pair_has_an_end_on_the_node", a_pair_has_an_end_on_the_node),
        trial("marking::a_pair_takes_no_name_from_another_link", a_pair_takes_no_name_from_another_link),
    ]
}

fn a_table_is_read_as_it_was_written() {
    let pod = Pod::new("mark-table");
    let mut pass = pod.pass();
    assert_eq!(pass.observe_filter().unwrap(), None);
    let wanted = FilterTable::of_replies("veth0", 1);
    for _ in 0..2 {
        pod.apply_all(&[Step::SetFilter(wanted.clone())]);
        assert_eq!(pass.observe_filter().unwrap().as_ref(), Some(&wanted));
    }
    for _ in 0..2 {
        pod.apply_all(&[Step::DeleteFilter]);
        assert_eq!(pass.observe_filter().unwrap(), None);
    }
}

fn a_changed_table_is_seen_and_replaced() {
    let pod = Pod::new("mark-changed");
    let wanted = FilterTable::of_replies("veth0", 1);
    let mut fewer = wanted.clone();
    fewer.chains[1].rules.pop();
    let mut another = wanted.clone();
    another.chains[0].rules[0].0[1] = Expression::Equal(2_u32.to_ne_bytes().to_vec());
    let mut later = wanted.clone();
    later.chains[1].priority = 5;
    let mut dropping = wanted.clone();
    dropping.chains[0].accepts = false;
    let mut more = wanted.clone();
    more.chains.push(plan::filter::FilterChain {
        name: "z".into(),
        kind: String::new(),
        hook: 0,
        priority: 0,
        accepts: true,
        rules: vec![],
    });
    for changed in [fewer, another, later, dropping, more] {
        pod.apply_all(&[Step::SetFilter(changed.clone())]);
        assert_eq!(pod.pass().observe_filter().unwrap(), Some(changed));
        pod.apply_all(&[Step::SetFilter(wanted.clone())]);
        assert_eq!(pod.pass().observe_filter().unwrap().as_ref(), Some(&wanted));
    }
}

fn a_rule_for_a_mark() {
    let pod = Pod::new("mark-rule");
    for v6 in [false, true] {
        let marked = Rule { mark: Some(1), v6, ..rule(1000, None, None, 100) };
        pod.apply_all(&[Step::AddRule(marked.clone()), Step::AddRule(marked.clone())]);
        assert_eq!(pod.observe().rules.iter().filter(|rule| **rule == marked).count(), 1);
        pod.apply_all(&[Step::DeleteRule(marked.clone())]);
        assert!(!pod.observe().rules.contains(&marked));
    }
}

fn pair(node_end: &str) -> (DesiredLink, PairIntent) {
    let pair = PairIntent {
        mac: Mac([2, 0, 0, 0, 5, 1]),
        peer: node_end.into(),
        peer_mac: Mac([2, 0, 0, 0, 5, 2]),
        mtu: 1400,
    };
    let origin = LinkOrigin::Pair { pair: pair.clone(), alias: "dragline:auxiliary".into() };
    (DesiredLink { name: "veth0".into(), origin, tx_queue_len: None, mac: None }, pair)
}

fn a_pair_has_an_end_on_the_node() {
    let pod = Pod::new("pair");
    let (wanted, pair) = pair("veth-pair");
    for _ in 0..2 {
        pod.apply_all(&[Step::CreateLink(wanted.clone())]);
    }
    let inside = pod.observe();
    let inside = inside.link("veth0").unwrap();
    assert_eq!((&inside.kind, inside.mac, inside.mtu), (&LinkKind::Veth, Some(pair.mac), 1400));
    assert_eq!(inside.alias.as_deref(), Some("dragline:auxiliary"));
    let on_node = || Kernel::new().unwrap().node_pass().unwrap().observe(&[]).unwrap();
    let outside = on_node();
    let outside = outside.link("veth-pair").unwrap();
    assert_eq!((outside.mac, outside.mtu, outside.lower), (Some(pair.peer_mac), 1400, Some(inside.index)));
    let mac = Mac([2, 0, 0, 0, 5, 9]);
    pod.apply_all(&[Step::SetLinkMac { dev: "veth0".into(), mac }]);
    assert_eq!(pod.observe().link("veth0").unwrap().mac, Some(mac));
    pod.apply_all(&[Step::DeleteLink { dev: "veth0".into(), index: inside.index }]);
    assert_eq!(on_node().link("veth-pair"), None);
}

fn a_pair_takes_no_name_from_another_link() {
    let pod = Pod::new("pair-taken");
    let (wanted, _) = pair(&pod.peer);
    let refused = pod.apply(&[Step::CreateLink(wanted)]).pop().unwrap().unwrap_err().to_string();
    assert!(refused.contains(&format!("already has another link named {}", pod.peer)), "{refused}");
    assert!(pod.observe().link("veth0").is_none());
    let (wanted, _) = pair("veth-second");
    pod.scene().veth(netlink::testbed::End::here("veth0"), netlink::testbed::End::here("other")).unwrap();
    let refused = pod.apply(&[Step::CreateLink(wanted)]).pop().unwrap().unwrap_err().to_string();
    assert!(refused.contains("already has another link named veth0"), "{refused}");
    assert!(Scene::here().is_ok());
}
