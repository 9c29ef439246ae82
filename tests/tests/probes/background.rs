//! Probes for which ADD does not wait: told, and nothing torn away.

use libtest_mimic::Trial;

use crate::bed::{CONFLICT, GATEWAY, Main, addresses_on, occupied, probing, squat, with_both};
use crate::node::{address, attachment, eventually, holds};

pub(crate) fn trials() -> Vec<Trial> {
    let all = [
        with_both("a_conflict_is_told_after_add", conflict),
        with_both("a_gateway_that_is_away_is_told_after_add", gateway),
    ];
    all.into_iter().flatten().collect()
}

fn conflict(main: Main) {
    let node = probing(&main.name("bgc"), &[(CONFLICT, "background")]);
    let mac = squat(&node.scene.controller, "10.6.212.200/16");
    let (first, second, conflist) = (node.pod(101), node.pod(102), node.conflist());
    let runtime = main.runtime(&node);
    let it = attachment(&first, "net1");
    let result = runtime.add(&conflist, &it).unwrap();
    assert_eq!(address(&result), "10.6.212.200/16");
    let found = eventually("the conflict", || {
        let found = occupied(&node.agent.list("leases").unwrap());
        holds(!found.is_empty(), &found)?;
        Ok(found)
    });
    assert_eq!(found, [("10.6.212.200".to_owned(), mac.clone())]);
    assert!(node.warnings().iter().any(|warning| warning.contains(&mac)), "{:?}", node.warnings());
    assert!(addresses_on(&first.netns, "net1").contains(&"10.6.212.200".parse().unwrap()));
    node.has_no_drift().unwrap();
    // Nobody gets it after this pod.
    runtime.del(&conflist, &it, Some(&result)).unwrap();
    node.forgets_all();
    assert_eq!(address(&runtime.add(&conflist, &attachment(&second, "net1")).unwrap()), "10.6.212.201/16");
}

fn gateway(main: Main) {
    let node = probing(&main.name("bgg"), &[(GATEWAY, "background")]);
    node.scene.router.scene().unwrap().down("eth0").unwrap();
    let (pod, conflist) = (node.pod(101), node.conflist());
    let (it, runtime) = (attachment(&pod, "net1"), main.runtime(&node));
    let result = runtime.add(&conflist, &it).unwrap();
    let told = || node.warnings().into_iter().find(|warning| warning.contains("gateway 10.6.0.1 is unreachable"));
    let warning = eventually("the warning", || told().ok_or_else(|| format!("{:?}", node.warnings())));
    assert!(warning.contains(&pod.name) && warning.contains("net1"), "{warning}");
    node.has_no_drift().unwrap();
    runtime.del(&conflist, &it, Some(&result)).unwrap();
    node.forgets_all();
    assert_eq!(told(), None, "it goes with the pod");
}
