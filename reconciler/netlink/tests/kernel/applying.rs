use libtest_mimic::Trial;
use netlink::StepError;
use plan::desired::{Desired, DesiredRoute};
use plan::object::{Neighbour, Route, Rule};
use plan::step::{Placement, Step};
use plan::tables::{MAIN, PROTOCOL};
use schemas::name::Mac;

use crate::fixture::{Pod, address, macvlan, neighbour, route, rule};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("apply_adds_and_twice_changes_nothing", added_twice),
        trial("apply_deletes_and_twice_changes_nothing", deleted_twice),
        trial("apply_500_rules_in_one_call", many_rules),
        trial("apply_leaves_foreign_routes_and_rules", foreign_stays),
        trial("apply_never_replaces_a_foreign_route", foreign_key),
        trial("apply_goes_on_after_a_refusal", independent_goes_on),
        trial("apply_withholds_what_a_failed_step_was_to_replace", withheld),
        trial("apply_makes_an_entry_permanent_again", neighbour_again),
        trial("apply_sets_sysctls_in_the_pod_alone", sysctls),
        trial("apply_refuses_rules_it_cannot_express", other_rules),
        trial("a_second_pass_over_a_converged_pod_sends_nothing", converged),
    ]
}

fn additions() -> Vec<Step> {
    vec![
        Step::AddAddress(address("10.6.212.200/16", "eth0")),
        Step::AddAddress(address("fd00::200/64", "eth0")),
        Step::AddRoute(route(100, "10.233.65.96/32", None), Placement::Alone),
        Step::AddRoute(route(100, "0.0.0.0/0", Some("10.9.0.1")), Placement::Alone),
        Step::AddRoute(route(1000, "10.233.64.0/18", Some("10.9.0.1")), Placement::Alone),
        Step::AddRoute(route(100, "fd02::/64", Some("fd00::1")), Placement::Alone),
        Step::AddRule(rule(32765, None, Some("10.233.0.0/18"), 100)),
        Step::AddRule(rule(32764, Some("10.9.0.2/32"), None, 1000)),
        Step::AddRule(rule(32763, Some("fd00::200/128"), None, 100)),
        Step::SetNeighbour(neighbour("10.9.0.50", 50)),
        Step::SetNeighbour(neighbour("fd00::50", 51)),
    ]
}

/// Whether the object of each step is there.
fn present(pod: &Pod, steps: &[Step]) -> Vec<bool> {
    let observed = pod.observe();
    let is_there = |step: &Step| match step {
        Step::AddAddress(wanted) => observed.addresses.contains(wanted),
        Step::AddRoute(wanted, _) => observed.routes.contains(wanted),
        Step::AddRule(wanted) => observed.rules.contains(wanted),
        Step::SetNeighbour(wanted) => observed.neighbours.contains(wanted),
        _ => false,
    };
    steps.iter().map(is_there).collect()
}

fn added_twice() {
    let pod = Pod::new("add");
    let steps = additions();
    pod.apply_all(&steps);
    assert_eq!(present(&pod, &steps), vec![true; steps.len()], "{:#?}", pod.observe());
    let once = pod.observe();
    pod.apply_all(&steps);
    assert_eq!(pod.observe(), once);
}

fn deleted_twice() {
    let pod = Pod::new("del");
    let before = pod.observe();
    let steps = additions();
    pod.apply_all(&steps);
    let deletions: Vec<Step> = steps
        .into_iter()
        .rev()
        .filter_map(|step| {
            Some(match step {
                Step::AddAddress(old) => Step::DeleteAddress(old),
                Step::AddRoute(old, _) => Step::DeleteRoute(old),
                Step::AddRule(old) => Step::DeleteRule(old),
                Step::SetNeighbour(old) => Step::DeleteNeighbour(old),
                _ => return None,
            })
        })
        .collect();
    pod.apply_all(&deletions);
    assert_eq!(pod.observe(), before);
    pod.apply_all(&deletions);
    assert_eq!(pod.observe(), before);
    // And when even the link is gone.
    pod.scene().delete_link("eth0").unwrap();
    pod.apply_all(&deletions);
}

fn many_rules() {
    let pod = Pod::new("rules");
    let steps: Vec<Step> = (0..500).map(|n| Step::AddRule(rule(1000 + n, None, Some("10.8.0.0/16"), 100))).collect();
    pod.apply_all(&steps);
    assert_eq!(present(&pod, &steps), vec![true; 500]);
    assert_eq!(pod.kernel.changes_sent(), 500);
}

fn foreign_stays() {
    let pod = Pod::new("foreign");
    let mut scene = pod.scene();
    let theirs = Route { protocol: 4, ..route(100, "10.60.0.0/16", None) };
    let their_rule = Rule { protocol: 4, ..rule(700, None, Some("10.60.0.0/16"), 100) };
    scene.add_route(&theirs).unwrap();
    scene.add_rule(&their_rule).unwrap();
    let ours = [
        Step::DeleteRoute(Route { protocol: PROTOCOL, ..theirs.clone() }),
        Step::DeleteRule(Rule { protocol: PROTOCOL, ..their_rule.clone() }),
    ];
    pod.apply_all(&ours);
    let observed = pod.observe();
    assert!(observed.routes.contains(&theirs));
    assert!(observed.rules.contains(&their_rule));
}

fn foreign_key() {
    let pod = Pod::new("key");
    let theirs = Route { protocol: 4, ..route(100, "10.61.0.0/16", Some("10.9.0.3")) };
    pod.scene().add_route(&theirs).unwrap();
    // The kernel tells these two apart by nothing: ours is refused as already there, and verifying sees that it is not.
    pod.apply_all(&[Step::AddRoute(route(100, "10.61.0.0/16", Some("10.9.0.1")), Placement::Alone)]);
    let in_table: Vec<Route> = pod.observe().routes.into_iter().filter(|route| route.table == 100).collect();
    assert_eq!(in_table, [theirs]);
}

fn independent_goes_on() {
    let pod = Pod::new("goon");
    let steps = [
        Step::AddRoute(route(100, "10.62.0.0/16", Some("192.0.2.1")), Placement::Alone),
        Step::AddRoute(Route { dev: Some("nope".into()), ..route(100, "10.63.0.0/16", None) }, Placement::Alone),
        Step::AddRoute(route(100, "10.64.0.0/16", None), Placement::Alone),
        Step::SetNeighbour(neighbour("10.9.0.51", 51)),
    ];
    let outcomes = pod.apply(&steps);
    let refusal = outcomes[0].as_ref().unwrap_err().to_string();
    assert!(refusal.starts_with("Network is unreachable"), "{refusal}");
    let missing = outcomes[1].as_ref().unwrap_err().to_string();
    assert_eq!(missing, format!("there is no link nope in {}", pod.netns.path()));
    assert!(outcomes[2].is_ok() && outcomes[3].is_ok(), "{outcomes:?}");
    assert_eq!(present(&pod, &steps), [false, false, true, true]);
}

fn withheld() {
    let pod = Pod::new("withheld");
    let old = Route { protocol: 4, ..route(MAIN, "0.0.0.0/0", Some("10.9.0.1")) };
    let unrelated = Route { protocol: 4, ..route(MAIN, "10.65.0.0/16", Some("10.9.0.1")) };
    for route in [&old, &unrelated] {
        pod.scene().add_route(route).unwrap();
    }
    let outcomes = pod.apply(&[
        Step::AddRoute(route(100, "0.0.0.0/0", Some("192.0.2.1")), Placement::Alone),
        Step::DeleteRoute(old.clone()),
        Step::DeleteRoute(unrelated.clone()),
    ]);
    assert!(outcomes[0].is_err());
    assert!(matches!(outcomes[1], Err(StepError::Withheld)), "{outcomes:?}");
    assert!(outcomes[2].is_ok());
    let routes = pod.observe().routes;
    assert!(routes.contains(&old) && !routes.contains(&unrelated));
}

fn neighbour_again() {
    let pod = Pod::new("neigh");
    let ours = neighbour("10.9.0.52", 52);
    pod.scene().set_neighbour(&Neighbour { mac: Some(Mac([2, 0, 0, 0, 3, 3])), protocol: 4, ..ours.clone() }).unwrap();
    pod.apply_all(&[Step::SetNeighbour(ours.clone())]);
    assert_eq!(pod.observe().neighbours, [ours]);
}

fn sysctls() {
    let pod = Pod::new("sysctl");
    let path = "net/ipv4/conf/all/rp_filter";
    let node_before = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap();
    for value in ["2", "0"] {
        pod.apply_all(&[Step::SetSysctl { path: path.into(), value: value.into() }]);
        assert_eq!(pod.netns.sysctl(path).unwrap().as_deref(), Some(value));
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap(), node_before);
    }
    for path in ["kernel/hostname", "net/../kernel/hostname", "net/ipv4/conf/nothere/rp_filter"] {
        let outcome = pod.apply(&[Step::SetSysctl { path: path.into(), value: "0".into() }]);
        assert!(matches!(&outcome[0], Err(StepError::Sysctl { .. })), "{outcome:?}");
    }
}

fn other_rules() {
    let pod = Pod::new("otherrules");
    let before = pod.observe();
    let odd = Rule { other: Some("iif eth0".into()), ..rule(600, None, Some("10.66.0.0/16"), 100) };
    for step in [Step::AddRule(odd.clone()), Step::DeleteRule(odd)] {
        let outcome = pod.apply(&[step]);
        assert!(matches!(outcome[0], Err(StepError::NeverDone(_))), "{outcome:?}");
    }
    assert_eq!(pod.observe(), before);
}

fn converged() {
    let pod = Pod::new("converged");
    let mut desired = Desired::default();
    for step in additions() {
        match step {
            Step::AddAddress(wanted) => desired.addresses.push(wanted),
            Step::AddRoute(route, _) => desired.routes.push(DesiredRoute { route, exclusive: true }),
            Step::AddRule(wanted) => desired.rules.push(wanted),
            Step::SetNeighbour(wanted) => desired.neighbours.push(wanted),
            other => panic!("{other:?} is not desired"),
        }
    }
    desired.sysctls.insert("net/ipv4/conf/eth0/rp_filter".into(), "2".into());
    desired.links.push(macvlan("net1", &pod.peer, Mac([2, 0, 0, 0, 8, 8])));
    let sysctls: Vec<String> = desired.sysctls.keys().cloned().collect();
    let reconcile = || {
        let mut pass = pod.pass();
        let steps = plan::diff(&desired, &pass.observe(&sysctls).unwrap(), plan::Prune::Yes).steps;
        for (step, outcome) in steps.iter().zip(pass.apply(&steps)) {
            assert!(outcome.is_ok(), "{step:?}: {outcome:?}");
        }
        steps
    };
    assert!(reconcile().len() >= additions().len());
    let after_first = pod.kernel.changes_sent();
    assert_eq!(reconcile(), []);
    assert_eq!(pod.kernel.changes_sent(), after_first);
}
