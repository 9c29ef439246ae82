//! What a watch does not tell: it is too old when it is taken up again, or it has died without anybody's hearing of it.

use std::fs;
use std::time::Instant;

use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use tests::fleet::{Controller, Fleet, Ground, Node};

use super::traffic::dice::Dice;
use super::traffic::{Load, Traffic};
use super::{alone, pool, start_all, stop_all};
use crate::bed::eventually;

const NODES: usize = 2;
const LOAD: Load = Load { lanes: 2, pods: 2 };
/// Pods that come while nobody hears of them.
const PODS: usize = 8;
/// So many that the new pods get theirs only from the node that hears that the old ones are gone.
const ADDRESSES: usize = NODES * LOAD.lanes * LOAD.pods + PODS;
const POOLS: &str = "/apis/spiderpool.spidernet.io/v2beta1/spiderippools";
/// What the API server says of a version that it does not know any more.
const EXPIRED: [&str; 2] = ["too old resource version", "Expired"];

pub(super) fn trials() -> Vec<Trial> {
    vec![
        alone("leases::who_watches_from_too_far_back_lists_anew", "stale", too_old),
        alone("leases::a_watch_that_has_died_in_silence_is_noticed", "silent", silent),
    ]
}

/// Agents and controller stand still while what they would hear is forgotten.
fn too_old(ground: &Ground) {
    let bed = Bed::start(ground, "stale", 12);
    let (fleet, controller) = (&bed.fleet, &bed.controller);
    for round in 1..=3 {
        let before = (expired(&agents_logs(fleet)), expired(&controller.log()));
        let deaf = || {
            fleet.nodes.iter().for_each(|node| node.agent().signal(Signal::SIGSTOP).unwrap());
            controller.pause().unwrap();
        };
        let hearing = || {
            fleet.nodes.iter().for_each(|node| node.agent().signal(Signal::SIGCONT).unwrap());
            controller.resume().unwrap();
        };
        bed.round(round, deaf, hearing);
        let (agents, controllers) = (expired(&agents_logs(fleet)) - before.0, expired(&controller.log()) - before.1);
        println!("round {round}: watches that were too old: {agents} of agents, {controllers} of the controller");
        assert!(agents >= NODES, "hardly any watch of an agent's was too old:\n{}", agents_logs(fleet));
        assert!(controllers > 0, "no watch of the controller's was too old:\n{}", controller.log());
    }
    bed.end();
}

/// How often somebody has been told that he watches from too far back.
fn expired(log: &str) -> usize {
    log.lines().filter(|line| EXPIRED.iter().any(|text| line.contains(text))).count()
}

fn agents_logs(fleet: &Fleet<'_>) -> String {
    fleet.nodes.iter().map(|node| fs::read_to_string(node.folder().join("agent.log")).unwrap()).collect()
}

/// The API server goes while nobody reaches it, so that nobody is told: connections stay open that nobody serves.
fn silent(ground: &Ground) {
    let bed = Bed::start(ground, "silent", 13);
    bed.round(1, || ground.cut().unwrap(), || ground.mend().unwrap());
    bed.end();
}

struct Bed<'a> {
    fleet: Fleet<'a>,
    controller: Controller,
}

impl<'a> Bed<'a> {
    fn start(ground: &'a Ground, name: &str, net: u8) -> Self {
        let controller = Controller::start(ground, "one").unwrap();
        let options = pool(net, u32::try_from(ADDRESSES).unwrap(), NODES);
        let fleet = Fleet::start(ground, name, &options).unwrap();
        eventually("a controller that leads", || if controller.leads() { Ok(()) } else { Err(controller.log()) });
        let bed = Self { fleet, controller };
        bed.declare(0);
        bed.wait_pools(0);
        bed
    }

    fn further(&self, round: usize) -> String {
        format!("{}-{round}", self.fleet.name)
    }

    /// A further pool.
    fn declare(&self, round: usize) {
        let net = 100 + round;
        let ips = [format!("10.{net}.0.10-10.{net}.0.19")];
        self.fleet.declare_pool(&self.further(round), &format!("10.{net}.0.0/24"), &ips).unwrap();
    }

    /// Everything that can be made or deleted is, while agents and controller are deaf.
    fn round(&self, round: usize, deaf: impl Fn(), hearing: impl Fn()) {
        let Self { fleet, .. } = self;
        let (ground, objects) = (fleet.ground(), &fleet.ground().objects);
        let (one, other) = (&fleet.nodes[round % NODES], &fleet.nodes[(round + 1) % NODES]);
        let traffic = Traffic::of(fleet);
        traffic.during(&fleet.nodes, LOAD, &mut Dice::new(Dice::seed()), |_| {
            traffic.wait_served(&fleet.nodes, 2);
            // For them their node keeps addresses as long as it believes that they are there.
            let old = fleet.bind_to(one, &format!("old{round}"), PODS).unwrap();
            eventually("addresses for pods that are not started", || holds(fleet, one, PODS));

            deaf();
            old.iter().for_each(|pod| pod.delete(objects).unwrap());
            objects.delete(POOLS, &self.further(round - 1)).unwrap();
            let new = fleet.bind_to(other, &format!("new{round}"), PODS).unwrap();
            self.declare(round);
            {
                let mut cluster = ground.cluster();
                cluster.kill().unwrap();
                cluster.compact_etcd().unwrap();
                cluster.restart().unwrap();
            }
            hearing();

            let since = Instant::now();
            start_all(fleet, &traffic.book, &new);
            println!("round {round}: who came meanwhile has an address after {:?}", since.elapsed());
            self.wait_pools(round);
            println!("round {round}: all is known after {:?}", since.elapsed());
            traffic.wait_served(&fleet.nodes, 2);
            stop_all(fleet, &traffic.book, &new);
            new.iter().for_each(|pod| pod.delete(objects).unwrap());
        });
        traffic.assert_clean(&format!("round {round}"));
    }

    /// Of the further pools the one of this round is known and looked after, and the one before is gone.
    fn wait_pools(&self, round: usize) {
        let objects = &self.fleet.ground().objects;
        let mut wanted = vec![self.fleet.name.clone(), self.further(round)];
        wanted.sort();
        for node in &self.fleet.nodes {
            eventually("the pools that an agent knows", || {
                let listed = node.agent().list("ippools").map_err(|error| error.to_string())?;
                let mut found: Vec<&str> = listed.iter().filter_map(|pool| pool["metadata"]["name"].as_str()).collect();
                found.sort_unstable();
                if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
            });
        }
        eventually("the pools that the controller looks after", || {
            let listed = objects.list(POOLS).map_err(|error| error.to_string())?;
            let counted = listed.iter().filter(|pool| pool["status"]["totalIPCount"].is_u64());
            let mut found: Vec<&str> = counted.filter_map(|pool| pool["metadata"]["name"].as_str()).collect();
            found.sort_unstable();
            let is_right = found == wanted && listed.len() == wanted.len();
            if is_right {
                Ok(())
            } else {
                Err(format!("of {} pools {found:?}\n{}", listed.len(), self.controller.log()))
            }
        });
    }

    fn end(&self) {
        Traffic::of(&self.fleet).assert_all_come_back(&self.fleet.nodes[0], ADDRESSES);
    }
}

/// So many addresses or more are the node's.
fn holds(fleet: &Fleet<'_>, node: &Node, wanted: usize) -> Result<(), String> {
    let counts = fleet.census().map_err(|error| error.to_string())?.counts();
    if counts.get(&node.name).is_some_and(|count| *count >= wanted) { Ok(()) } else { Err(format!("{counts:?}")) }
}
