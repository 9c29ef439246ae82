//! Each kind of drift on a converged pod and its node, with other programs' objects beside ours.

use std::time::Instant;

use tests::stage::{MainPlugin, Stage};
use tests::witness::Witness;

use crate::PATIENCE;
use crate::damage::{self, Place};
use crate::foreign;

pub(crate) fn with_own_macvlan() {
    repaired("drift-own", MainPlugin::Own);
}

pub(crate) fn with_reference_macvlan() {
    repaired("drift-ref", MainPlugin::Reference);
}

fn repaired(name: &str, main: MainPlugin) {
    let stage = Stage::set(name, main).unwrap();
    let members = [stage.join(1).unwrap(), stage.join(2).unwrap()];
    let pod = &members[0].pod.netns;
    let wanted_pod = foreign::settle(pod);
    let wanted_node = foreign::settle(stage.node());
    stage.check().unwrap();
    let before = stage.metrics().unwrap();
    let mut pod_witness = Witness::open(pod).unwrap();
    let mut node_witness = Witness::open(stage.node()).unwrap();
    let mut scenes = (pod.scene().unwrap(), stage.node().scene().unwrap());
    for damage in &damage::ALL {
        let (netns, scene, witness) = match damage.place {
            Place::Pod => (pod, &mut scenes.0, &mut pod_witness),
            Place::Node => (stage.node(), &mut scenes.1, &mut node_witness),
        };
        let wanted = if damage.place == Place::Pod { &wanted_pod } else { &wanted_node };
        witness.changes().unwrap();
        let started = Instant::now();
        (damage.act)(netns, scene);
        witness.until_like(wanted, PATIENCE).unwrap_or_else(|error| panic!("{}: {error}", damage.name));
        println!("{name}: {:<28} repaired after {:>8.3} ms", damage.name, started.elapsed().as_secs_f64() * 1000.0);
    }
    // Neither of the two was repaired at the cost of the other.
    pod_witness.until_like(&wanted_pod, PATIENCE).unwrap();
    node_witness.until_like(&wanted_node, PATIENCE).unwrap();
    let after = stage.metrics().unwrap();
    let grown = |name: &str| after.of(name).unwrap() - before.of(name).unwrap();
    assert_eq!(grown("calls"), 0, "something was asked of the agent");
    assert!(grown("kernel_steps") >= damage::ALL.len() as u64, "{}", grown("kernel_steps"));
    assert_eq!(after.of("contested_repairs").unwrap(), 0, "a single repair was taken for a fight");
    stage.check().unwrap();
    members.iter().for_each(|member| stage.leave(member).unwrap());
}
