//! Pods that come and go on every node, and somebody who looks all the time whether an address has two owners.

#[path = "../../kill/dice.rs"]
pub(super) mod dice;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dice::Dice;
use tests::fleet::{Book, Fleet, Node, Pod};

use super::{PATIENCE, assert_right, assert_shown, start_all, stop_all};
use crate::bed::eventually;

const POOLS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools";
/// How often somebody looks.
const LOOK: Duration = Duration::from_millis(500);

/// How much there is of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Of a node; each does one thing at a time.
    pub(super) lanes: usize,
    /// Of a lane at once.
    pub(super) pods: usize,
}

/// What has come and gone, and what was wrong with it.
pub(super) struct Traffic<'a> {
    pub(super) fleet: &'a Fleet<'a>,
    pub(super) book: Book,
    is_over: AtomicBool,
    served: BTreeMap<String, AtomicUsize>,
    starved: Mutex<Vec<String>>,
    faults: Mutex<Vec<String>>,
    looks: AtomicUsize,
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'a> Traffic<'a> {
    pub(super) fn of(fleet: &'a Fleet<'a>) -> Self {
        Self {
            fleet,
            book: Book::default(),
            is_over: AtomicBool::new(false),
            served: fleet.nodes.iter().map(|node| (node.name.clone(), AtomicUsize::new(0))).collect(),
            starved: Mutex::default(),
            faults: Mutex::default(),
            looks: AtomicUsize::new(0),
        }
    }

    /// Goes on on these nodes while that is done; afterwards all its pods are gone.
    pub(super) fn during(&self, nodes: &[Node], load: Load, dice: &mut Dice, act: impl FnOnce(&mut Dice)) {
        self.is_over.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            for node in nodes {
                for lane in 0..load.lanes {
                    let dice = dice.split();
                    scope.spawn(move || self.lane(node, lane, load.pods, dice));
                }
            }
            scope.spawn(|| self.look());
            // Threads are not to wait for ever when this one fails.
            let _over = Over(&self.is_over);
            act(dice);
        });
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// A kubelet's work on one node: pods come and go.
    fn lane(&self, node: &Node, lane: usize, at_once: usize, mut dice: Dice) {
        let objects = &self.fleet.ground().objects;
        let mut pods: VecDeque<Pod> = VecDeque::new();
        loop {
            let is_full = pods.len() == at_once || self.is_over();
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
            let number = self.served[&node.name].load(Ordering::Relaxed);
            let name = format!("{}-lane{lane}-{number}-{:x}", node.name, dice.below(1 << 32));
            // The API server may have made it without saying so: it is deleted in the end.
            let Ok(bound) = self.fleet.bind_to(node, &name, 1) else { continue };
            for pod in bound {
                self.wait(node.start(&pod, &self.book, PATIENCE), "ADD of", &pod);
                self.served[&node.name].fetch_add(1, Ordering::Relaxed);
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
            println!("{text}");
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

    /// Waits until each of these nodes has served so many pods more.
    #[track_caller]
    pub(super) fn wait_served(&self, nodes: &[Node], more: usize) {
        let served = |node: &Node| self.served[&node.name].load(Ordering::Relaxed);
        let before: Vec<usize> = nodes.iter().map(served).collect();
        eventually("all nodes serve", || {
            let now: Vec<usize> = nodes.iter().zip(&before).map(|(node, before)| served(node) - before).collect();
            if now.iter().all(|now| *now >= more) { Ok(()) } else { Err(self.picture(&now, more)) }
        });
    }

    /// Who has what, and who waits.
    fn picture(&self, served: &[usize], wanted: usize) -> String {
        let fleet = self.fleet;
        let status = fleet.ground().objects.get(POOLS, &fleet.name).map(|pool| pool["status"].clone());
        let counts = fleet.census().map(|census| census.counts());
        format!(
            "{served:?} of {wanted} each, {} in use, held {counts:?}, the pool says {status:?}",
            self.book.held().len()
        )
    }

    /// How often somebody has looked.
    pub(super) fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// Nobody had to go without, and no address had two owners; `context` is said otherwise.
    #[track_caller]
    pub(super) fn assert_clean(&self, context: &str) {
        let wrong = [self.faults.lock().unwrap().clone(), self.starved.lock().unwrap().clone()].concat();
        assert!(wrong.is_empty(), "{}\n{context}", wrong.join("\n"));
        assert!(self.looks() > 0, "nobody has looked");
    }

    /// Nothing is lost: once all pods are gone, one node gets all of so many addresses, and gives them back.
    #[track_caller]
    pub(super) fn assert_all_come_back(&self, node: &Node, addresses: usize) {
        // Pods that the API server made without saying so want addresses as well.
        let objects = &self.fleet.ground().objects;
        objects.delete_labelled(&format!("/api/v1/namespaces/{}/pods", self.fleet.name), "app").unwrap();
        assert!(self.book.held().is_empty(), "{:?}", self.book.held());
        assert_right(self.fleet, &self.book);
        let all = self.fleet.bind_to(node, "all", addresses).unwrap();
        start_all(self.fleet, &self.book, &all);
        assert_eq!(self.book.held().len(), addresses);
        assert_right(self.fleet, &self.book);
        assert_shown(self.fleet, &self.book);
        stop_all(self.fleet, &self.book, &all);
    }
}
