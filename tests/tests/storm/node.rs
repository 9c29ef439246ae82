//! What systemd-networkd does to a node when it is started anew with its defaults (`ManageForeignRoutingPolicyRules=yes`,
//! `ManageForeignRoutes=yes`): rules and routes that are not its own go, those of all pods at once.

use std::time::Instant;

use plan::object::{Route, Rule};
use plan::tables::PROTOCOL;
use tests::full_node::Watch;

use crate::ground::{CALM, Ground, times};

pub(crate) fn cleared() {
    let ground = Ground::lay("storm-node");
    let worker = &ground.node.scene.worker;
    let mut scene = worker.scene().unwrap();
    let before = scene.observe().unwrap();
    let rules: Vec<&Rule> = before.rules.iter().filter(|rule| rule.protocol == PROTOCOL).collect();
    let routes: Vec<&Route> = before.routes.iter().filter(|route| route.protocol == PROTOCOL).collect();
    println!("on the node: {} rules and {} routes are dragline's", rules.len(), routes.len());
    assert!(rules.len() == 2 && routes.len() >= ground.node.occupants.len());
    let watch = Watch::open([worker]).unwrap();
    for round in 1..=3 {
        let start = ground.start();
        let act = |calm: &tests::full_node::Calm| {
            let began = Instant::now();
            rules.iter().for_each(|rule| scene.delete_rule(rule).unwrap());
            routes.iter().for_each(|route| scene.delete_route(route).unwrap());
            let lasted = began.elapsed();
            calm.wait(CALM);
            (began, lasted)
        };
        let ((began, lasted), seen) = watch.during(act).unwrap();
        let cost = start.cost(&ground);
        cost.tell(&format!("node cleared {round}, within {lasted:.0?}"), &times(&[Some(began)], &seen));
        ground.is_as_before("none");
        assert_eq!(cost.contested, 0);
        assert_eq!(cost.steps, (rules.len() + routes.len()) as u64, "each is put back once, and nothing else is done");
    }
}
