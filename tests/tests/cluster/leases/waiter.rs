//! A node dies while it waits for an address.

use libtest_mimic::Trial;
use tests::fleet::{Book, Fleet, Ground};

use super::{PATIENCE, alone, assert_right, pool, start_all};
use crate::bed::eventually;

const ADDRESSES: usize = 16;
const POOLS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools";

pub(super) fn trials() -> Vec<Trial> {
    vec![alone("leases::a_node_that_dies_while_it_waits_does_not_get_everything", "waiter", dies)]
}

fn dies(ground: &Ground) {
    let fleet = Fleet::start(ground, "waiter", &pool(16, u32::try_from(ADDRESSES).unwrap(), 3)).unwrap();
    let [full, wanting, dying] = &fleet.nodes[..] else { unreachable!("three nodes were asked for") };
    let book = Book::default();
    let pods = fleet.bind_to(full, "full", ADDRESSES).unwrap();
    start_all(&fleet, &book, &pods);
    fleet.bind_to(dying, "never", 4).unwrap();
    eventually("a node that waits", || {
        let pool = ground.objects.get(POOLS, &fleet.name).map_err(|error| error.to_string())?;
        if pool["status"]["waiting"].get(&dying.name).is_some() { Ok(()) } else { Err(pool["status"].to_string()) }
    });
    dying.agent().kill().unwrap();

    // One by one they go elsewhere: but for one address of each who gives, what is given back does not go to the dead.
    let moved = fleet.bind_to(wanting, "moved", ADDRESSES - 2).unwrap();
    for pod in &pods {
        full.stop(pod, &book, PATIENCE).unwrap();
        pod.delete(&ground.objects).unwrap();
    }
    start_all(&fleet, &book, &moved);
    assert_right(&fleet, &book);
    let counts = fleet.census().unwrap().counts();
    println!("{counts:?}");
    assert!(counts.get(&dying.name).is_none_or(|count| *count <= 2), "{counts:?}");
}
