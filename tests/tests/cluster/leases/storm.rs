//! Everything breaks, again and again, while pods come and go; somebody looks all the time whether an address has two owners.

use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use tests::fleet::{Fleet, Ground, Options};

use super::traffic::dice::Dice;
use super::traffic::{Load, Traffic};
use super::{alone, number, pool};
use crate::bed::eventually;

const NODES: usize = 3;
/// All together fewer pods than there are addresses, so that nobody may starve.
const LOAD: Load = Load { lanes: 3, pods: 3 };
const ADDRESSES: u32 = 41;

pub(super) fn trials() -> Vec<Trial> {
    vec![alone("leases::no_address_has_two_owners_whatever_breaks", "storm", storm)]
}

/// What breaks.
#[derive(Debug)]
enum Fault {
    /// kill -9 of the API server, which is away for a while.
    ApiServer { away: Duration },
    /// etcd stands still: writes end late, or as time-outs after they happened.
    Etcd { away: Duration },
    /// kill -9 of an agent.
    Agent { node: usize },
    /// The same, so long after pods were bound to it, for which it claims addresses.
    AgentClaiming { node: usize, after: Duration },
}

impl Fault {
    fn any(dice: &mut Dice) -> Self {
        let node = dice.below(NODES);
        match dice.below(8) {
            0 => Self::ApiServer { away: dice.up_to_ms(3000) },
            1 | 2 => Self::Etcd { away: dice.up_to_ms(5000) },
            3..=5 => Self::AgentClaiming { node, after: dice.up_to_ms(120) },
            _ => Self::Agent { node },
        }
    }
}

fn storm(ground: &Ground) {
    let seed = Dice::seed();
    let mut dice = Dice::new(seed);
    println!("DRAGLINE_SEED={seed}");
    let options = Options { lease_ttl: Duration::from_secs(8), fair_share: Some(2), ..pool(8, ADDRESSES, NODES) };
    let fleet = Fleet::start(ground, "storm", &options).unwrap();
    let traffic = Traffic::of(&fleet);
    let until = Instant::now() + Duration::from_secs(number("DRAGLINE_FLEET_SECONDS", 30) as u64);
    let mut done = Vec::new();
    traffic.during(&fleet.nodes, LOAD, &mut dice, |dice| {
        while Instant::now() < until {
            let fault = Fault::any(dice);
            strike(&fleet, &fault, done.len());
            done.push(fault);
            thread::sleep(dice.up_to_ms(1500));
        }
    });
    println!("{} faults, {} addresses given, {} looks", done.len(), traffic.book.given_so_far(), traffic.looks());
    traffic.assert_clean(&format!("DRAGLINE_SEED={seed} after {done:#?}"));
    assert!(traffic.book.given_so_far() > NODES * LOAD.lanes, "nothing was given");
    traffic.assert_all_come_back(&fleet.nodes[0], ADDRESSES as usize);
}

fn strike(fleet: &Fleet<'_>, fault: &Fault, number: usize) {
    let ground = fleet.ground();
    match fault {
        Fault::ApiServer { away } => {
            ground.cluster().kill().unwrap();
            thread::sleep(*away);
            ground.cluster().restart().unwrap();
        }
        Fault::Etcd { away } => {
            ground.cluster().pause_etcd().unwrap();
            thread::sleep(*away);
            ground.cluster().resume_etcd().unwrap();
        }
        Fault::Agent { node } => fleet.nodes[*node].crash().unwrap(),
        Fault::AgentClaiming { node, after } => {
            let name = format!("burst{number}");
            let node = &fleet.nodes[*node];
            // They want addresses, and are gone before they get any; who cannot be made wants none.
            let bound = fleet.bind_to(node, &name, 4);
            thread::sleep(*after);
            node.crash().unwrap();
            for pod in bound.into_iter().flatten() {
                eventually("the end of a pod", || pod.delete(&ground.objects));
            }
        }
    }
}
