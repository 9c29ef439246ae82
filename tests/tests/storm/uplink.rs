//! The node's uplink goes down and comes back, as a switch that is started anew lets it.

use plan::object::{Address, Observed, Route};
use plan::tables::PROTOCOL;
use tests::full_node::Watch;
use tests::scene::UPLINK;

use crate::ground::{CALM, Ground};

pub(crate) fn flaps() {
    let ground = Ground::lay("storm-uplink");
    let worker = &ground.node.scene.worker;
    let mut scene = worker.scene().unwrap();
    let before = scene.observe().unwrap();
    let start = ground.start();
    let all = Watch::open(ground.pods().map(|(occupant, _)| occupant.netns()).chain([worker])).unwrap();
    let act = |calm: &tests::full_node::Calm| {
        scene.down(UPLINK).unwrap();
        calm.wait(CALM);
        scene.up(UPLINK).unwrap();
        // The kernel drops a link's IPv6 addresses and all of its routes: their owners put them back.
        put_back(&mut scene, &before);
        calm.wait(CALM);
    };
    let ((), seen) = all.during(act).unwrap();
    let cost = start.cost(&ground);
    let changed = seen.iter().filter(|seen| seen.count > 0).count();
    println!(
        "the uplink down and up: changes in {changed} of {} namespaces; the agent took {:.0} ms of CPU, {} passes, {} steps \
         in {:.1} s",
        seen.len(),
        cost.cpu.as_secs_f64() * 1000.0,
        cost.passes,
        cost.steps,
        cost.time.as_secs_f64(),
    );
    ground.is_as_before("none");
    assert_eq!(cost.contested, 0);
}

/// What of the uplink's is not dragline's, as the node's network configuration does it.
fn put_back(scene: &mut netlink::testbed::Scene, before: &Observed) {
    let left = scene.observe().unwrap();
    let is_lost = |address: &&Address| address.dev == UPLINK && !left.addresses.contains(address);
    let is_own =
        |address: &&Address| !matches!(address.address.ip(), std::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
    for address in before.addresses.iter().filter(is_lost).filter(is_own) {
        scene.address(UPLINK, address.address).unwrap();
    }
    let left = scene.observe().unwrap();
    // Of the kernel's own protocol, they come with the addresses.
    let is_lost = |route: &&Route| {
        route.dev.as_deref() == Some(UPLINK) && ![2, PROTOCOL].contains(&route.protocol) && !left.routes.contains(route)
    };
    before.routes.iter().filter(is_lost).for_each(|route| scene.add_route(route).unwrap());
}
