//! A gateway that does not answer ends an ADD, which names it.

use libtest_mimic::Trial;
use serde_json::json;
use tests::scene::UPLINK;

use crate::bed::{GATEWAY, Main, probing, with_both};
use crate::node::{POOL_NAME, address, assert_refused, attachment};

pub(crate) fn trials() -> Vec<Trial> {
    let all = [
        with_both("a_gateway_that_is_away_is_named", away),
        with_both("a_network_may_ask_for_its_gateway", by_coordinator),
    ];
    all.into_iter().flatten().collect()
}

fn away(main: Main) {
    let node = probing(&main.name("gw"), &[(GATEWAY, "on")]);
    let (first, second, conflist) = (node.pod(101), node.pod(102), node.conflist());
    let runtime = main.runtime(&node);
    let result = runtime.add(&conflist, &attachment(&first, "net1")).unwrap();
    assert_eq!(address(&result), "10.6.212.200/16");
    node.scene.router.scene().unwrap().down("eth0").unwrap();
    let it = attachment(&second, "net1");
    let refused = runtime.add(&conflist, &it);
    let words = ["gateway 10.6.0.1 is unreachable", "10.6.212.201", "interface net1", "500ms"];
    assert_refused(refused, 999, &words);
    // The address is nobody's at once, and is given when the gateway is back.
    assert_eq!(node.counts(POOL_NAME), (1, 41));
    runtime.del(&conflist, &it, None).unwrap();
    node.scene.router.scene().unwrap().up("eth0").unwrap();
    assert_eq!(address(&runtime.add(&conflist, &it).unwrap()), "10.6.212.201/16");
    node.has_no_drift().unwrap();
}

/// The seed's key, in the coordinator's configuration: by then the address is given.
fn by_coordinator(main: Main) {
    let node = probing(&main.name("gwc"), &[]);
    let (pod, plain) = (node.pod(101), node.conflist());
    let (it, runtime) = (attachment(&pod, "net1"), main.runtime(&node));
    node.scene.router.scene().unwrap().down("eth0").unwrap();
    let conflist = plain.clone().with_key("coordinator", "detectGateway", json!(true));
    assert_refused(runtime.add(&conflist, &it), 999, &["gateway 10.6.0.1 is unreachable", "net1"]);
    runtime.del(&conflist, &it, None).unwrap();
    node.forgets_all();
    // One that says no asks nobody.
    let conflist = plain.with_key("coordinator", "detectGateway", json!(false));
    let result = runtime.add(&conflist, &it).unwrap();
    runtime.del(&conflist, &it, Some(&result)).unwrap();
    node.forgets_all();

    // Also an address in conflict is found by then: the next ADD gets another.
    let conflist = conflist.with_key("coordinator", "detectIPConflict", json!(true));
    let mut controller = node.scene.controller.scene().unwrap();
    controller.address(UPLINK, "10.6.212.200/16".parse().unwrap()).unwrap();
    let mac = controller.link(UPLINK).unwrap().mac.unwrap().to_string();
    assert_refused(runtime.add(&conflist, &it), 11, &["ip conflict", "10.6.212.200 is located at", &mac]);
    runtime.del(&conflist, &it, None).unwrap();
    assert_eq!(address(&runtime.add(&conflist, &it).unwrap()), "10.6.212.201/16");
}
