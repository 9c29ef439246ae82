//! The full node as it was before a storm, and what the storm has cost.

use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use tests::binaries::Binaries;
use tests::full_node::{Flush, FullNode, Occupant, Seen, Watch, quantile};
use tests::metrics::Metrics;
use tests::picture::Picture;
use tests::stage;
use tests::witness::Witness;

/// What takes longer does not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// When nothing changes for so long, a storm is over: the longest wait of a pass that failed a few times lies below.
pub(crate) const CALM: Duration = Duration::from_millis(700);

/// A full node, all of it known.
pub(crate) struct Ground {
    pub(crate) node: FullNode,
    pods: Vec<Picture>,
    worker: Picture,
}

impl Ground {
    pub(crate) fn lay(name: &str) -> Self {
        let started = Instant::now();
        let node = FullNode::fill(name, Binaries::build().unwrap(), |_| {}).unwrap();
        let filled = started.elapsed();
        // Links come up in the kernel's own time.
        let all = Watch::open(node.occupants.iter().map(Occupant::netns).chain([&node.scene.worker])).unwrap();
        all.during(|calm| calm.wait(CALM)).unwrap();
        stage::check(&node.agent).unwrap();
        let pods = node.occupants.iter().map(|occupant| picture(occupant.netns())).collect();
        let worker = picture(&node.scene.worker);
        println!("{name}: {} pods attached within {:.1} s", node.occupants.len(), filled.as_secs_f64());
        Self { node, pods, worker }
    }

    /// How each pod was.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&Occupant, &Picture)> {
        self.node.occupants.iter().zip(&self.pods)
    }

    /// What is flushed in each pod.
    pub(crate) fn flushes(&self) -> Vec<Flush> {
        self.node.occupants.iter().map(|occupant| Flush::of(occupant.netns()).unwrap()).collect()
    }

    /// Events of all pods.
    pub(crate) fn watch(&self) -> Watch {
        Watch::open(self.node.occupants.iter().map(Occupant::netns)).unwrap()
    }

    /// All pods and the node are as they were, with these lines left out of the comparison, and the agent agrees.
    pub(crate) fn is_as_before(&self, without: &str) {
        for (occupant, wanted) in self.pods() {
            until_like(occupant.netns(), wanted, without);
        }
        until_like(&self.node.scene.worker, &self.worker, without);
        stage::check(&self.node.agent).unwrap();
    }

    pub(crate) fn start(&self) -> Start {
        Start { metrics: self.node.metrics().unwrap(), cpu: self.node.cpu().unwrap(), at: Instant::now() }
    }
}

fn picture(netns: &Netns) -> Picture {
    Picture::take(netns).unwrap()
}

fn until_like(netns: &Netns, wanted: &Picture, without: &str) {
    let wanted = wanted.clone().without(without);
    let unlike = |found: &Picture| {
        let found = found.clone().without(without);
        if found == wanted { String::new() } else { wanted.difference(&found) }
    };
    Witness::open(netns).unwrap().until("as it was", PATIENCE, unlike).unwrap();
}

/// Numbers of the agent before a storm.
pub(crate) struct Start {
    metrics: Metrics,
    cpu: Duration,
    at: Instant,
}

/// What of the agent's numbers has grown.
pub(crate) struct Cost {
    pub(crate) steps: u64,
    pub(crate) repairs: u64,
    pub(crate) passes: u64,
    pub(crate) contested: u64,
    pub(crate) cpu: Duration,
    pub(crate) time: Duration,
}

impl Start {
    pub(crate) fn cost(&self, ground: &Ground) -> Cost {
        let cpu = ground.node.cpu().unwrap() - self.cpu;
        let after = ground.node.metrics().unwrap();
        let grown = |name: &str| after.of(name).unwrap() - self.metrics.of(name).unwrap();
        Cost {
            steps: grown("kernel_steps"),
            repairs: grown("repairs"),
            passes: grown("reconcile_passes"),
            contested: grown("contested_repairs"),
            cpu,
            time: self.at.elapsed(),
        }
    }
}

impl Cost {
    /// Prints it with how long each pod took.
    pub(crate) fn tell(&self, what: &str, times: &[Duration]) {
        let at = |part| quantile(times, part).as_secs_f64() * 1000.0;
        println!(
            "{what}: {} pods repaired after p50 {:.1}, p99 {:.1}, at most {:.1} ms; the agent took {:.0} ms of CPU, {} \
             passes, {} repairs, {} steps",
            times.len(),
            at(0.5),
            at(0.99),
            at(1.0),
            self.cpu.as_secs_f64() * 1000.0,
            self.passes,
            self.repairs,
            self.steps,
        );
    }
}

/// From the damage to the last change seen, of those pods that were damaged.
pub(crate) fn times(began: &[Option<Instant>], seen: &[Seen]) -> Vec<Duration> {
    let both = began.iter().zip(seen).filter_map(|(began, seen)| Some(((*began)?, seen.last()?)));
    both.map(|(began, last)| last.duration_since(began)).collect()
}
