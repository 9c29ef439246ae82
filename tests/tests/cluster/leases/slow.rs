//! etcd is slow: everything takes long, and nothing fails for good.

use std::time::Duration;

use libtest_mimic::Trial;
use tests::cluster;
use tests::fleet::{Controller, Fleet, Ground, Options};

use super::pool;
use super::traffic::dice::Dice;
use super::traffic::{Load, Traffic};
use crate::bed::starting;

const NODES: usize = 3;
/// All together fewer pods than there are addresses, so that nobody may starve.
const LOAD: Load = Load { lanes: 3, pods: 3 };
const ADDRESSES: usize = 41;
/// How late what the API server and etcd say to each other arrives, from and to, each way: by round.
const DELAYS: [(u64, u64); 3] = [(100, 200), (100, 500), (300, 500)];
/// So many pods a node in each round.
const SERVED: usize = 4;

pub(super) fn trials() -> Vec<Trial> {
    vec![starting("leases::a_slow_etcd_makes_nobody_two_owners", |folder| {
        let options = cluster::Options { is_etcd_far: true, ..cluster::Options::default() };
        slow(&super::prepare_with("slow", folder, options)?);
        Ok(())
    })]
}

fn slow(ground: &Ground) {
    let mut dice = Dice::new(Dice::seed());
    let _controller = Controller::start(ground, "one").unwrap();
    let options = Options { lease_ttl: Duration::from_secs(24), ..pool(15, u32::try_from(ADDRESSES).unwrap(), NODES) };
    let fleet = Fleet::start(ground, "slow", &options).unwrap();
    let traffic = Traffic::of(&fleet);
    let delay = |(from, to)| {
        let milliseconds = Duration::from_millis;
        ground.cluster().delay_etcd(milliseconds(from)..milliseconds(to)).unwrap();
    };
    traffic.during(&fleet.nodes, LOAD, &mut dice, |dice| {
        for delays in DELAYS {
            delay(delays);
            traffic.wait_served(&fleet.nodes, SERVED);
            // What it has claimed just now it may not know.
            fleet.nodes[dice.below(NODES)].crash().unwrap();
            traffic.wait_served(&fleet.nodes, SERVED);
        }
        delay((0, 0));
    });
    println!("{} addresses given, {} looks", traffic.book.given_so_far(), traffic.looks());
    traffic.assert_clean("");
    traffic.assert_all_come_back(&fleet.nodes[0], ADDRESSES);
}
