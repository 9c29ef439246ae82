//! Agents that share pools: no address is anybody's twice, none is lost, and whoever wants one gets one that is free.
//!
//! `DRAGLINE_FLEET` says how many pods the greatest trial has (200; 10 nodes from 1,000 on), `DRAGLINE_FLEET_SECONDS` how
//! long faults go on (30), `DRAGLINE_SEED` repeats their choices, and `DRAGLINE_FLEET_OBJECTS` how many nodes' worth of
//! foreign objects an agent is weighed with (0 leaves it out).

mod apart;
mod asleep;
mod audit;
mod chosen;
mod churn;
mod clock;
mod controllers;
mod first;
mod memory;
mod million;
mod missed;
mod moved;
mod slow;
mod stale;
mod storm;
mod suspects;
mod traffic;
mod twins;
mod waiter;
mod writes;

use std::env;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use libtest_mimic::Trial;
use tests::cluster::{self, ClusterError};
use tests::fleet::{Book, CallError, Fleet, FleetError, Ground, Node, Options, Pod};

use crate::bed::{eventually, starting};

/// Whoever has no address then has starved. An address whose release was not answered rests for 75 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// ADDs of a node on their way at once.
const AT_ONCE: usize = 4;

pub(crate) fn trials() -> Vec<Trial> {
    let trials = [
        first::trials(),
        chosen::trials(),
        missed::trials(),
        moved::trials(),
        churn::trials(),
        writes::trials(),
        storm::trials(),
        suspects::trials(),
        stale::trials(),
        controllers::trials(),
        million::trials(),
        slow::trials(),
        clock::trials(),
        waiter::trials(),
        twins::trials(),
        apart::trials(),
        asleep::trials(),
        memory::trials(),
    ];
    trials.into_iter().flatten().collect()
}

/// The ground that trials share while one of them uses it.
static SHARED: Mutex<Weak<Ground>> = Mutex::new(Weak::new());

struct Shared(Option<Arc<Ground>>);

impl Drop for Shared {
    fn drop(&mut self) {
        // What has its names is to be gone before another one is prepared.
        let _shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        self.0 = None;
    }
}

/// A trial on a ground that others use at the same time: under names and with subnets of its own.
fn beside_others(name: &'static str, test: fn(&Ground)) -> Trial {
    starting(name, move |folder| {
        let ground = {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            match shared.upgrade() {
                Some(ground) => ground,
                None => {
                    let ground = Arc::new(prepare("shared", folder)?);
                    *shared = Arc::downgrade(&ground);
                    ground
                }
            }
        };
        let ground = Shared(Some(ground));
        ground.0.as_deref().into_iter().for_each(test);
        Ok(())
    })
}

/// A trial that has its ground alone.
pub(crate) fn alone(name: &'static str, short: &'static str, test: fn(&Ground)) -> Trial {
    starting(name, move |folder| {
        test(&prepare(short, folder)?);
        Ok(())
    })
}

fn prepare(name: &str, folder: &Path) -> Result<Ground, ClusterError> {
    prepare_with(name, folder, cluster::Options::default())
}

fn prepare_with(name: &str, folder: &Path, options: cluster::Options) -> Result<Ground, ClusterError> {
    Ground::prepare_with(name, folder, options).map_err(|error| match error {
        FleetError::Cluster(error) => error,
        error => panic!("{error}"),
    })
}

/// A pool of so many addresses, from `10.NET.1.0` on.
pub(crate) fn pool(net: u8, addresses: u32, nodes: usize) -> Options {
    let last = addresses - 1 + 256;
    let last = format!("10.{net}.{}.{}", last / 256, last % 256);
    Options {
        nodes,
        subnet: format!("10.{net}.0.0/16"),
        ips: vec![format!("10.{net}.1.0-{last}")],
        fair_share: None,
        lease_ttl: Duration::from_secs(600),
    }
}

/// A number of the environment's.
fn number(name: &str, otherwise: usize) -> usize {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// All get an address.
#[track_caller]
fn start_all(fleet: &Fleet<'_>, book: &Book, pods: &[Pod]) -> Vec<(IpAddr, Duration)> {
    let is_starving = AtomicBool::new(false);
    let outcomes = fleet.each(pods, AT_ONCE, |node, pod| {
        // Where one starves, the others need not starve as long.
        let patience = if is_starving.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        let outcome = node.start(pod, book, patience);
        is_starving.fetch_or(outcome.is_err(), Ordering::Relaxed);
        outcome
    });
    let starved: Vec<String> = pods
        .iter()
        .zip(&outcomes)
        .filter_map(|(pod, outcome)| Some(format!("{} on {}: {}", pod.name, pod.node, outcome.as_ref().err()?)))
        .collect();
    let holders = || fleet.census().map(|census| census.counts()).unwrap_or_default();
    let tell = |node: &Node| {
        let asked = |kind: &str| node.agent().ask(&["get", kind]).unwrap_or_else(|error| error.to_string());
        format!("\n{}:\n{}\n{}\n{}", node.name, asked("attachments"), asked("leases"), node.agent().log_end())
    };
    assert!(
        starved.is_empty(),
        "{} of {} pods starve while addresses are held by {:?}:\n{}{}",
        starved.len(),
        pods.len(),
        holders(),
        starved.join("\n"),
        fleet.nodes.iter().map(tell).collect::<String>(),
    );
    outcomes.into_iter().flatten().collect()
}

/// All give theirs back.
#[track_caller]
fn stop_all(fleet: &Fleet<'_>, book: &Book, pods: &[Pod]) {
    let outcomes = fleet.each(pods, AT_ONCE, |node, pod| node.stop(pod, book, PATIENCE));
    let failed: Vec<String> = outcomes.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The book is right, and the shards agree with it.
#[track_caller]
pub(crate) fn assert_right(fleet: &Fleet<'_>, book: &Book) {
    let faults = fleet.faults(book).unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// In the end the SpiderEndpoints say what the book says.
pub(crate) fn assert_shown(fleet: &Fleet<'_>, book: &Book) {
    let held = book.held();
    let mut wanted: Vec<(String, String)> = held
        .iter()
        .map(|(address, tenure)| {
            (tenure.pod.split('/').next_back().unwrap_or_default().to_owned(), address.to_string())
        })
        .collect();
    wanted.sort();
    eventually("the SpiderEndpoints", || {
        let shown = fleet.endpoints().map_err(|error| error.to_string())?;
        if shown == wanted { Ok(()) } else { Err(format!("{} are shown of {}", shown.len(), wanted.len())) }
    });
}

/// The agent's own words.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> String {
    match outcome.unwrap_err() {
        CallError::Refused(error) => error.to_string(),
        error => panic!("{error}"),
    }
}
