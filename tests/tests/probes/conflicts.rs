//! An address that somebody else has is kept from everybody, and the next one is given.

use std::collections::BTreeSet;
use std::thread;

use libtest_mimic::Trial;
use tests::stage::{MainPlugin, Stage};

use crate::bed::{CONFLICT, Main, addresses_on, leave, occupied, probing, probing_with, squat, with_both};
use crate::node::{
    COORDINATOR, NETWORK, POOL_NAME, address, assert_refused, attachment, eventually, holds, object, trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    let both = [
        with_both("the_next_address_is_given", next),
        with_both("when_all_are_in_use_the_error_says_by_whom", exhausted),
        with_both("an_address_that_is_kept_is_not_exchanged", kept),
        with_both("of_two_families_both_are_probed", dual),
        with_both("many_pods_at_once_get_addresses_of_their_own", many),
    ];
    let alone = trial("neighbours_are_told_of_an_address_that_came_to_a_link_that_was_up", announced);
    both.into_iter().flatten().chain([alone]).collect()
}

fn text(address: &str, mac: &str) -> String {
    format!("ip conflict: pod's interface net1 with an conflicting ip {address}, {address} is located at {mac}")
}

fn next(main: Main) {
    let mut node = probing(&main.name("next"), &[(CONFLICT, "on")]);
    let mac = squat(&node.scene.controller, "10.6.212.200/16");
    let (first, second, third) = (node.pod(101), node.pod(102), node.pod(103));
    let conflist = node.conflist();
    let result = main.runtime(&node).add(&conflist, &attachment(&first, "net1")).unwrap();
    assert_eq!(address(&result), "10.6.212.201/16");
    assert!(addresses_on(&first.netns, "net1").contains(&"10.6.212.201".parse().unwrap()));
    let found = vec![("10.6.212.200".to_owned(), mac.clone())];
    assert_eq!(occupied(&node.agent.list("leases").unwrap()), found);
    let table = node.agent.ask(&["get", "leases", "-o", "wide"]).unwrap();
    assert!(table.contains("QUARANTINED") && table.contains(&mac), "{table}");
    let warned = || node.warnings().iter().any(|warning| warning.contains("10.6.212.200") && warning.contains(&mac));
    assert!(warned(), "{:?}", node.warnings());
    assert_eq!(node.counts(POOL_NAME), (1, 41));
    node.has_no_drift().unwrap();

    // It is not even asked for again, also after a restart, and when its user has gone.
    leave(&node.scene.controller, "10.6.212.200/16");
    let second_result = main.runtime(&node).add(&conflist, &attachment(&second, "net1")).unwrap();
    assert_eq!(address(&second_result), "10.6.212.202/16");
    node.agent.kill().unwrap();
    node.agent.restart().unwrap();
    assert_eq!(occupied(&node.agent.list("leases").unwrap()), found);
    let third_result = main.runtime(&node).add(&conflist, &attachment(&third, "net1")).unwrap();
    assert_eq!(address(&third_result), "10.6.212.203/16");
    for (pod, result) in [(&first, &result), (&second, &second_result), (&third, &third_result)] {
        main.runtime(&node).del(&conflist, &attachment(pod, "net1"), Some(result)).unwrap();
    }
    node.forgets_all();
    assert_eq!(occupied(&node.agent.list("leases").unwrap()), found);
}

fn exhausted(main: Main) {
    let pool = object(
        "SpiderIPPool",
        POOL_NAME,
        &serde_json::json!({"spec": {"ipVersion": 4, "subnet": "10.6.0.0/16", "ips": ["10.6.212.200-10.6.212.201"]}}),
    );
    let manifests = [("pool.yaml", pool.as_str()), ("coordinator.yaml", COORDINATOR), ("network.yaml", NETWORK)];
    let node = probing_with(&main.name("exh"), &[(CONFLICT, "on")], &manifests);
    let mac = squat(&node.scene.controller, "10.6.212.200/16");
    squat(&node.scene.controller, "10.6.212.201/16");
    let (pod, conflist) = (node.pod(101), node.conflist());
    let it = attachment(&pod, "net1");
    let refused = main.runtime(&node).add(&conflist, &it);
    assert_refused(refused, 11, &[&text("10.6.212.200", &mac), &text("10.6.212.201", &mac)]);
    main.runtime(&node).del(&conflist, &it, None).unwrap();
    node.forgets_all();
    assert_eq!(occupied(&node.agent.list("leases").unwrap()).len(), 2);
    // Nothing is left to be probed.
    let words = ["all IP addresses used out", "2 kept back since others use them"];
    assert_refused(main.runtime(&node).add(&conflist, &it), 11, &words);
}

/// A runtime that asks again for what it has been given is told, and given another only after DEL.
fn kept(main: Main) {
    let node = probing(&main.name("kept"), &[(CONFLICT, "on")]);
    let (pod, conflist) = (node.pod(101), node.conflist());
    let it = attachment(&pod, "net1");
    let runtime = main.runtime(&node);
    // The reference plugin cannot make its link twice: its IPAM is what is asked again.
    let again = |run: &tests::runtime::Runtime<'_>| match main {
        Main::Own => run.add(&conflist, &it),
        Main::Reference => {
            let ipam = serde_json::json!({"cniVersion": "1.0.0", "name": conflist.name, "type": "macvlan",
                "ipam": {"type": "spiderpool", "default_ipv4_ippool": [POOL_NAME]}});
            run.call("spiderpool", "ADD", Some(&it), ipam.to_string().as_bytes()).map(Option::unwrap)
        }
    };
    let result = runtime.add(&conflist, &it).unwrap();
    assert_eq!(address(&result), "10.6.212.200/16");
    assert_eq!(address(&again(&runtime).unwrap()), "10.6.212.200/16");
    let mac = squat(&node.scene.controller, "10.6.212.200/16");
    assert_refused(again(&runtime), 11, &[&text("10.6.212.200", &mac)]);
    let attachments = node.agent.list("attachments").unwrap();
    assert_eq!(attachments[0]["attachment"]["addresses"][0]["address"], "10.6.212.200/16", "nothing is torn away");
    runtime.del(&conflist, &it, Some(&result)).unwrap();
    assert_eq!(address(&runtime.add(&conflist, &it).unwrap()), "10.6.212.201/16");
}

fn dual(main: Main) {
    let plugin = if main == Main::Own { MainPlugin::Own } else { MainPlugin::Reference };
    let mut stage = Stage::set_dual(&main.name("cdual"), plugin).unwrap();
    stage.agent.set_variable(CONFLICT, "on");
    stage.agent.set_variable(crate::bed::GATEWAY, "on");
    stage.agent.restart().unwrap();
    let mac = squat(&stage.scene.controller, "fd00:6::200/64");
    let member = stage.join_dual(1).unwrap();
    let given: Vec<&str> =
        member.result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap()).collect();
    assert_eq!(given, ["10.6.212.200/16", "fd00:6::201/64"]);
    assert_eq!(occupied(&stage.agent.list("leases").unwrap()), [("fd00:6::200".to_owned(), mac)]);
    stage.check().unwrap();
    // Both gateways have answered; without one of them the error names it.
    stage.scene.router.scene().unwrap().delete_address("eth0", "fd00:6::1/64".parse().unwrap()).unwrap();
    let Err(refused) = stage.join_dual(2) else { panic!("its IPv6 gateway is away") };
    let refused = refused.to_string();
    assert!(refused.contains("gateway fd00:6::1 is unreachable") && !refused.contains("10.6.0.1"), "{refused}");
}

fn many(main: Main) {
    let node = probing(&main.name("many"), &[(CONFLICT, "on")]);
    for last in [201, 203, 207] {
        squat(&node.scene.controller, &format!("10.6.212.{last}/16"));
    }
    let conflist = node.conflist();
    let pods: Vec<_> = (1..=12).map(|number| node.pod(100 + number)).collect();
    let runtime = main.runtime(&node);
    let given: BTreeSet<String> = thread::scope(|scope| {
        let add = |pod| {
            let (runtime, conflist) = (&runtime, &conflist);
            scope.spawn(move || address(&runtime.add(conflist, &attachment(pod, "net1")).unwrap()))
        };
        let asked: Vec<_> = pods.iter().map(add).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(given.len(), 12);
    for last in [201, 203, 207] {
        assert!(!given.contains(&format!("10.6.212.{last}/16")), "{given:?}");
    }
    assert_eq!(node.counts(POOL_NAME), (12, 41));
    node.has_no_drift().unwrap();
}

/// The kernel announces addresses when a link goes up; those that were probed first come later.
fn announced() {
    let node = probing("announ", &[(CONFLICT, "on")]);
    let (pod, conflist) = (node.pod(101), node.conflist());
    let (router, controller) = (&node.scene.router, &node.scene.controller);
    let squatter = squat(controller, "10.6.212.200/16");
    let kernel = router.run(netlink::Kernel::new).unwrap().unwrap();
    let found = kernel.look_for("10.6.212.200".parse().unwrap()).unwrap();
    assert_eq!(found.map(|mac| mac.to_string()), Some(squatter.clone()));
    leave(controller, "10.6.212.200/16");
    let known = || {
        let table = router.run(|| std::fs::read_to_string("/proc/thread-self/net/arp")).unwrap().unwrap();
        table.lines().find(|line| line.starts_with("10.6.212.200 ")).unwrap_or_default().to_owned()
    };
    assert!(known().contains(&squatter), "{}", known());
    let result = node.runtime().add(&conflist, &attachment(&pod, "net1")).unwrap();
    assert_eq!(address(&result), "10.6.212.200/16");
    let mac = result["interfaces"][0]["mac"].as_str().unwrap();
    eventually("the router's knowledge of the pod", || holds(known().contains(mac), known()));
}
