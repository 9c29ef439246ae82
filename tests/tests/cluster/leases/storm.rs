//! Everything breaks, again and again, while pods come and go; somebody looks all the time whether an address has two owners.

#[path = "../../kill/dice.rs"]
mod dice;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dice::Dice;
use libtest_mimic::Trial;
use tests::fleet::{Book, Fleet, Ground, Node, Options, Pod};

use super::{PATIENCE, alone, assert_right, assert_shown, number, pool, start_all, stop_all};
use crate::bed::eventually;

const NODES: usize = 3;
const LANES: usize = 3;
/// Of a lane at once: all together fewer than there are addresses, so that nobody may starve.
const PODS: usize = 3;
const ADDRESSES: u32 = 41;
/// How often somebody looks.
const LOOK: Duration = Duration::from_millis(500);

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

struct Storm<'a> {
    fleet: &'a Fleet<'a>,
    book: Book,
    is_over: AtomicBool,
    starved: Mutex<Vec<String>>,
    faults: Mutex<Vec<String>>,
    looks: AtomicUsize,
}

fn storm(ground: &Ground) {
    let seed = Dice::seed();
    let mut dice = Dice::new(seed);
    println!("DRAGLINE_SEED={seed}");
    let options = Options { lease_ttl: Duration::from_secs(8), fair_share: Some(2), ..pool(8, ADDRESSES, NODES) };
    let fleet = Fleet::start(ground, "storm", &options).unwrap();
    let storm = Storm {
        fleet: &fleet,
        book: Book::default(),
        is_over: AtomicBool::new(false),
        starved: Mutex::default(),
        faults: Mutex::default(),
        looks: AtomicUsize::new(0),
    };
    let until = Instant::now() + Duration::from_secs(number("DRAGLINE_FLEET_SECONDS", 30) as u64);
    let mut done = Vec::new();
    thread::scope(|scope| {
        for node in &fleet.nodes {
            for lane in 0..LANES {
                let (storm, dice) = (&storm, dice.split());
                scope.spawn(move || storm.lane(node, lane, dice));
            }
        }
        scope.spawn(|| storm.look());
        // Threads are not to wait for ever when this one fails.
        let _over = Over(&storm.is_over);
        while Instant::now() < until {
            let fault = Fault::any(&mut dice);
            storm.strike(&fault, done.len());
            done.push(fault);
            thread::sleep(dice.up_to_ms(1500));
        }
    });
    println!(
        "{} faults, {} addresses given, {} looks",
        done.len(),
        storm.book.given_so_far(),
        storm.looks.into_inner()
    );
    let wrong = [storm.faults.into_inner().unwrap(), storm.starved.into_inner().unwrap()].concat();
    assert!(wrong.is_empty(), "DRAGLINE_SEED={seed}:\n{}\nafter {done:#?}", wrong.join("\n"));
    assert!(storm.book.given_so_far() > NODES * LANES, "nothing was given");

    // Pods that the API server made without saying so want addresses as well.
    ground.objects.delete_labelled(&format!("/api/v1/namespaces/{}/pods", fleet.name), "app").unwrap();
    // Nothing is lost: one node gets all addresses there are.
    let book = storm.book;
    assert!(book.held().is_empty(), "{:?}", book.held());
    assert_right(&fleet, &book);
    let all = fleet.bind_to(&fleet.nodes[0], "all", ADDRESSES as usize).unwrap();
    start_all(&fleet, &book, &all);
    assert_eq!(book.held().len(), ADDRESSES as usize);
    assert_right(&fleet, &book);
    assert_shown(&fleet, &book);
    stop_all(&fleet, &book, &all);
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Storm<'_> {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// A kubelet's work on one node: pods come and go.
    fn lane(&self, node: &Node, lane: usize, mut dice: Dice) {
        let objects = &self.fleet.ground().objects;
        let mut pods: VecDeque<Pod> = VecDeque::new();
        let mut made = 0;
        loop {
            let is_full = pods.len() == PODS || self.is_over();
            if is_full || dice.one_in(4) {
                if let Some(pod) = pods.pop_front() {
                    self.wait(node.stop(&pod, &self.book, PATIENCE), "DEL of", &pod);
                    eventually("the end of a pod", || pod.delete(objects));
                    continue;
                }
                if self.is_over() {
                    return;
                }
            }
            made += 1;
            let name = format!("{}-lane{lane}-{made}", node.name);
            // The API server may have made it without saying so: it is deleted in the end.
            let Ok(bound) = self.fleet.bind_to(node, &name, 1) else { continue };
            for pod in bound {
                self.wait(node.start(&pod, &self.book, PATIENCE), "ADD of", &pod);
                if dice.one_in(3) {
                    // Asked again, the answer is the same: the book knows. The agent may be away.
                    let _ = node.add(&pod, &self.book);
                }
                pods.push_back(pod);
            }
        }
    }

    fn wait<T, E: std::fmt::Display>(&self, outcome: Result<T, E>, what: &str, pod: &Pod) {
        if let Err(error) = outcome {
            let text = format!("{what} {} on {}: {error}", pod.name, pod.node);
            self.starved.lock().unwrap().push(text);
        }
    }

    /// Looks until it is over.
    fn look(&self) {
        while !self.is_over() {
            // The API server may be away.
            if let Ok(found) = self.fleet.faults(&self.book) {
                self.looks.fetch_add(1, Ordering::Relaxed);
                let mut faults = self.faults.lock().unwrap();
                let new: Vec<String> = found.into_iter().filter(|fault| !faults.contains(fault)).collect();
                new.iter().for_each(|fault| println!("{fault}"));
                faults.extend(new);
            }
            thread::sleep(LOOK);
        }
        self.faults.lock().unwrap().extend(self.book.faults());
    }

    fn strike(&self, fault: &Fault, number: usize) {
        let ground = self.fleet.ground();
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
            Fault::Agent { node } => self.fleet.nodes[*node].crash().unwrap(),
            Fault::AgentClaiming { node, after } => {
                let name = format!("burst{number}");
                let node = &self.fleet.nodes[*node];
                // They want addresses, and are gone before they get any; who cannot be made wants none.
                let bound = self.fleet.bind_to(node, &name, 4);
                thread::sleep(*after);
                node.crash().unwrap();
                for pod in bound.into_iter().flatten() {
                    eventually("the end of a pod", || pod.delete(&ground.objects));
                }
            }
        }
    }
}
