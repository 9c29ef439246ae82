//! Sysctls that are others': set for as long as a pod asks for it, then what they were.

use serde_json::{Value, json};
use tests::scene::UPLINK;
use tests::stage::{MainPlugin, Stage};

use crate::PATIENCE;

fn eventually(what: &str, is: impl Fn() -> Result<(), String>) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Err(found) = is() {
        assert!(std::time::Instant::now() < deadline, "{what}: {found}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

pub(crate) fn of_the_node() {
    let mut stage = Stage::set("borrowed", MainPlugin::Own).unwrap();
    let uplink = format!("net/ipv4/conf/{UPLINK}/rp_filter");
    stage.node().set_sysctl(&uplink, "1").unwrap();
    let pod = stage.pod(1).unwrap();
    let of_pod = format!("net/ipv4/conf/{}/rp_filter", pod.host_link);
    let pods_before = stage.node().sysctl(&of_pod).unwrap();
    let is = |stage: &Stage, wanted: &str| {
        let found = stage.node().sysctl(&uplink).unwrap();
        if found.as_deref() == Some(wanted) { Ok(()) } else { Err(format!("{found:?}, wanted {wanted}")) }
    };
    let conflist = stage.conflist.clone().with_key("coordinator", "hostRPFilter", json!(2));
    let attachment = Stage::attachment(&pod);
    let result = stage.runtime().add(&conflist, &attachment).unwrap();
    is(&stage, "2").unwrap();
    assert_eq!(stage.node().sysctl(&of_pod).unwrap().as_deref(), Some("2"));
    // Strict is more than loose, and whoever wanted it strict is told.
    let status: Value = serde_json::from_str(&stage.agent.ask(&["status", "-o", "json"]).unwrap()).unwrap();
    assert!(status["warnings"].to_string().contains(&format!("{uplink} is set from 1 to 2")), "{status}");
    // Another pod that asks for the same keeps it.
    let second = stage.pod(2).unwrap();
    let other = Stage::attachment(&second);
    let of_other = stage.runtime().add(&conflist, &other).unwrap();
    stage.runtime().del(&conflist, &attachment, Some(&result)).unwrap();
    eventually("the first pod's link is as it was", || {
        let found = stage.node().sysctl(&of_pod).unwrap();
        if found == pods_before { Ok(()) } else { Err(format!("{found:?}, was {pods_before:?}")) }
    });
    is(&stage, "2").unwrap();
    // What it was is remembered over the agent's death.
    stage.agent.kill().unwrap();
    stage.agent.restart().unwrap();
    is(&stage, "2").unwrap();
    stage.runtime().del(&conflist, &other, Some(&of_other)).unwrap();
    eventually("the uplink is as it was", || is(&stage, "1"));
    // From then on it is nobody's business.
    stage.node().set_sysctl(&uplink, "0").unwrap();
    let third = stage.join(3).unwrap();
    stage.leave(&third).unwrap();
    is(&stage, "0").unwrap();
}

pub(crate) fn of_a_pod() {
    let stage = Stage::set("borrowed-pod", MainPlugin::Own).unwrap();
    let pod = stage.pod(1).unwrap();
    pod.netns.set_sysctl(plan::RP_FILTER, "2").unwrap();
    let conflist = stage.conflist.clone().with_key("coordinator", "podRPFilter", json!(1));
    let attachment = Stage::attachment(&pod);
    let result = stage.runtime().add(&conflist, &attachment).unwrap();
    assert_eq!(pod.netns.sysctl(plan::RP_FILTER).unwrap().as_deref(), Some("1"));
    stage.runtime().del(&conflist, &attachment, Some(&result)).unwrap();
    eventually("the pod's is as it was", || {
        let found = pod.netns.sysctl(plan::RP_FILTER).unwrap();
        if found.as_deref() == Some("2") { Ok(()) } else { Err(format!("{found:?}")) }
    });
}
