//! Many callers at a time.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tests::scene::Pod;

use super::Failure;
use super::bed::{Bed, conf};
use super::call::{Call, call};
use super::report::{Aim, Row};

const AT_ONCE: usize = 32;
/// Calls of a turn, and turns.
const CALLS: usize = 160;
const TURNS: usize = 4;

pub(super) fn at_once(bed: &Bed) -> Result<Vec<Row>, Failure> {
    let pod = bed.scene.pod("bench-many", Ipv4Addr::new(10, 233, 90, 6))?;
    let (ours, theirs) = (bed.ours.join("spiderpool"), bed.reference.join("host-local"));
    let (mut own_time, mut peer_time) = (Duration::ZERO, Duration::ZERO);
    let netns = pod.netns.path();
    for turn in 0..TURNS {
        let containers: Vec<String> = (0..CALLS).map(|n| format!("many-{turn}-{n}")).collect();
        let each = |program: &Path, verb: &str, stdin: &str| {
            together(&bed.scene.worker, AT_ONCE, &containers, |container| {
                one(bed, program, verb, container, netns, stdin.to_owned())
            })
        };
        own_time += each(&ours, "ADD", &conf::ours())?;
        each(&ours, "DEL", &conf::ours())?;
        bed.quiet(0)?;
        peer_time += each(&theirs, "ADD", &conf::reference(&bed.disk))?;
        each(&theirs, "DEL", &conf::reference(&bed.disk))?;
        bed.quiet(0)?;
    }
    let rate = |time: Duration, calls: usize| calls as f64 / time.as_secs_f64();
    let (own, peer) = (rate(own_time, CALLS * TURNS), rate(peer_time, CALLS * TURNS));
    let chains = chains(bed)?;
    Ok(vec![
        Row::rate("IPAM ADDs, 32 at a time", own).against("host-local", peer).aim(Aim::Over(300.0)),
        Row::rate("chain ADDs, 32 pods at a time", rate(chains.0, AT_ONCE))
            .against("macvlan + host-local", rate(chains.1, AT_ONCE)),
    ])
}

/// The whole chain for 32 pods, ours and the reference's without coordinator.
fn chains(bed: &Bed) -> Result<(Duration, Duration), Failure> {
    let pod = |n: usize| bed.scene.pod(&format!("bench-many-{n}"), Ipv4Addr::new(10, 233, 91, n as u8));
    let pods: Vec<Pod> = (0..AT_ONCE).map(pod).collect::<Result<_, _>>()?;
    let names: Vec<String> = (0..AT_ONCE).map(|n| n.to_string()).collect();
    let netns = |name: &str| name.parse::<usize>().ok().and_then(|n| pods.get(n)).map_or("", |pod| pod.netns.path());
    let ours = |name: &str| bed.ours.join(name);
    let all = |act: &(dyn Fn(&str) -> Result<Value, Failure> + Sync)| {
        together(&bed.scene.worker, AT_ONCE, &names, |name| act(name))
    };
    let own = all(&|name| {
        let (container, netns) = (format!("c{name}"), netns(name));
        let call = |plugin: &str, stdin| one(bed, &ours(plugin), "ADD", &container, netns, stdin);
        let result = call("macvlan", conf::ours())?;
        call("coordinator", conf::coordinator(&result))
    })?;
    all(&|name| one(bed, &ours("macvlan"), "DEL", &format!("c{name}"), netns(name), conf::ours()))?;
    bed.quiet(0)?;
    let macvlan = bed.reference.join("macvlan");
    let reference = |verb: &'static str| {
        let macvlan = &macvlan;
        move |name: &str| one(bed, macvlan, verb, name, netns(name), conf::reference(&bed.disk))
    };
    let peer = all(&reference("ADD"))?;
    all(&reference("DEL"))?;
    bed.quiet(0)?;
    Ok((own, peer))
}

fn one(bed: &Bed, program: &Path, verb: &str, container: &str, netns: &str, stdin: String) -> Result<Value, Failure> {
    let settings = bed.agent.settings();
    let environment: [(&str, &Path); 3] = [
        ("DRAGLINE_SOCKET", &settings.socket),
        ("DRAGLINE_STATE_DIR", &settings.state_dir),
        ("CNI_PATH", &bed.reference),
    ];
    Ok(call(&Call { program, verb, container, netns, stdin }, &environment)?.json())
}

/// Works on all of them inside that node, so many at a time; how long all took.
pub(super) fn together<W: Sync, T>(
    node: &Netns,
    at_once: usize,
    work: &[W],
    act: impl Fn(&W) -> Result<T, Failure> + Sync,
) -> Result<Duration, Failure> {
    let left: Mutex<VecDeque<&W>> = Mutex::new(work.iter().collect());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let node = node.open()?;
    let started = Instant::now();
    thread::scope(|scope| {
        let worker = || -> Result<(), Failure> {
            setns(&node, CloneFlags::CLONE_NEWNET)?;
            while let Some(one) = next() {
                act(one)?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err("a caller panicked".into())));
        ended.collect::<Result<Vec<()>, Failure>>()
    })?;
    Ok(started.elapsed())
}
