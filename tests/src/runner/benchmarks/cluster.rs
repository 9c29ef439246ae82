//! The same ADDs in embedded mode and in a cluster, right after each other, and what the API server does for a pod.
//!
//! The API server has the machine's processors together with the plugins, and a node of a real cluster does not have it:
//! what it does while ADDs are on their way makes them longer here. etcd does not wait for the disk, on which the agents'
//! stores are too.

use std::iter::repeat_n;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use netlink::testbed::Netns;
use schemas::intent::PodRef;
use tests::fleet::{Application, Fleet, Ground, Options, Pod};

use super::Failure;
use super::bed::{Bed, Programs};
use super::report::Row;
use super::sample::Samples;
use super::side::{Mode, Sandbox, Side};
use super::weight;

/// ADDs on their way at once.
const LEVELS: [usize; 3] = [1, 8, 32];
/// Pods of a turn, and turns of a level.
const PODS: usize = 64;
const TURNS: usize = 4;
/// The pool, as the plugins' configuration names it, and its network and Kubernetes namespace.
const NAME: &str = "bench-v4";
/// A node without an agent.
const NOBODY: &str = "nobody";
/// For how long it is watched what the API server does by itself.
const IDLE: Duration = Duration::from_secs(5);
/// What an agent may keep beyond its need.
const FAIR_SHARE: u32 = 64;
/// What of an agent's writes is about pods.
const WRITTEN: [&str; 4] = ["spideripshards", "spiderippools", "spiderendpoints", "events"];

/// All of it; the large cluster last, since it is large from then on.
pub(super) fn rows(programs: &Programs, bed: &Bed) -> Result<Vec<Row>, Failure> {
    let ground = Ground::prepare("cluster", Path::new("/run/dragline-api"))?;
    let options = Options {
        nodes: 0,
        subnet: "10.6.0.0/16".into(),
        ips: vec!["10.6.128.1-10.6.159.254".into()],
        fair_share: Some(FAIR_SHARE),
        lease_ttl: Duration::from_secs(3600),
    };
    let fleet = Fleet::start(&ground, NAME, &options)?;
    let sandboxes = (0..PODS.max(weight::PODS)).map(|number| Netns::create(&format!("sandbox-{number}")));
    let sandboxes: Vec<Netns> = sandboxes.collect::<Result<_, _>>()?;
    let comparison = Comparison {
        embedded: Side::start(programs, bed, &ground, "embedded", Mode::Embedded)?,
        cluster: Side::start(programs, bed, &ground, "leased", Mode::Cluster)?,
        fleet: &fleet,
        sandboxes: &sandboxes,
    };
    // The pool's first shards are made, and every program has been read from the disk.
    comparison.turn("warm", 8, First::Embedded)?;
    let idle = comparison.idle()?;
    let mut rows = Vec::new();
    for at_once in LEVELS {
        rows.extend(comparison.level(at_once, idle)?);
    }
    rows.extend(weight::rows(programs, bed, &fleet, &sandboxes, &comparison.embedded)?);
    Ok(rows)
}

struct Comparison<'a> {
    embedded: Side<'a>,
    cluster: Side<'a>,
    fleet: &'a Fleet<'a>,
    sandboxes: &'a [Netns],
}

/// Who begins a turn.
#[derive(Debug, Clone, Copy)]
enum First {
    Embedded,
    Cluster,
}

/// What a turn gives.
struct Turn {
    embedded: Samples,
    cluster: Samples,
    /// For the pods of the cluster, from their binding to their end.
    work: Work,
}

/// A stretch of the API server's work.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    processor: Duration,
    time: Duration,
}

impl Work {
    /// In microseconds, without what it does in any such time by itself.
    fn beyond(&self, idle: Self) -> f64 {
        let share = idle.processor.as_secs_f64() / idle.time.as_secs_f64();
        1e6 * (self.processor.as_secs_f64() - share * self.time.as_secs_f64())
    }

    fn add(&mut self, other: Self) {
        self.processor += other.processor;
        self.time += other.time;
    }
}

impl Comparison<'_> {
    fn ground(&self) -> &Ground {
        self.fleet.ground()
    }

    /// One number of ADDs at once.
    fn level(&self, at_once: usize, idle: Work) -> Result<Vec<Row>, Failure> {
        let (mut embedded, mut cluster) = (Samples::default(), Samples::default());
        let (mut ours, mut bare) = (Work::default(), Work::default());
        let before = self.ground().requests()?;
        for number in 0..TURNS {
            let name = format!("turn-{at_once}-{number}");
            let first = if number.is_multiple_of(2) { First::Embedded } else { First::Cluster };
            let turn = self.turn(&name, at_once, first)?;
            embedded.extend(&turn.embedded);
            cluster.extend(&turn.cluster);
            ours.add(turn.work);
            bare.add(self.bare_turn(&name)?);
        }
        let asked = self.ground().requests()?.since(&before);
        let pods = (PODS * TURNS) as f64;
        let writes: u64 = WRITTEN.into_iter().map(|kind| asked.writes(kind)).sum();
        let (ours, bare) = (ours.beyond(idle) / pods, bare.beyond(idle) / pods);
        Ok(vec![
            Row::time(&format!("IPAM ADD, embedded, {at_once} at a time"), &embedded),
            Row::time(&format!("IPAM ADD, in a cluster, {at_once} at a time"), &cluster)
                .against("embedded", embedded.p50()),
            Row::mean(&format!("API server CPU for a pod's addresses, {at_once} at a time"), ours - bare)
                .against("for its Pod object", bare),
            Row::count(&format!("API writes for a pod's addresses, {at_once} at a time"), writes as f64 / pods),
        ])
    }

    /// Pods' whole lives: bound, given addresses, shown, ended; and in the middle the embedded ADDs of as many.
    fn turn(&self, name: &str, at_once: usize, first: First) -> Result<Turn, Failure> {
        let application = self.fleet.application(name);
        let written = self.cluster.endpoint_writes()?;
        let shown = PODS as u64;
        let own: Vec<PodRef> = (0..PODS).map(|number| unknown_pod(name, number)).collect();
        let own = sandboxes(&own, self.sandboxes);
        let embedded_adds = || -> Result<Samples, Failure> {
            let samples = self.embedded.all("ADD", at_once, &own)?;
            self.embedded.quiet(PODS)?;
            Ok(samples)
        };
        let lives = || -> Result<(Samples, Samples), Failure> {
            let pods = self.bind(&application, &self.cluster.agent.settings().node_name)?;
            // The kubelet has its own work to do between binding and ADD.
            self.cluster.holds_free(PODS)?;
            let pods: Vec<PodRef> = pods.iter().map(Pod::reference).collect();
            let sandboxes = sandboxes(&pods, self.sandboxes);
            let cluster_adds = || -> Result<Samples, Failure> {
                let samples = self.cluster.all("ADD", at_once, &sandboxes)?;
                self.cluster.quiet(PODS)?;
                Ok(samples)
            };
            let samples = match first {
                First::Embedded => (embedded_adds()?, cluster_adds()?),
                First::Cluster => {
                    let cluster = cluster_adds()?;
                    self.cluster.has_written(written + shown)?;
                    (embedded_adds()?, cluster)
                }
            };
            self.cluster.has_written(written + shown)?;
            self.cluster.all("DEL", at_once, &sandboxes)?;
            self.cluster.quiet(0)?;
            self.cluster.has_written(written + 2 * shown)?;
            application.delete(&self.ground().objects)?;
            Ok(samples)
        };
        let ((embedded, cluster), work) = self.watched(lives)?;
        self.embedded.all("DEL", at_once, &own)?;
        self.embedded.quiet(0)?;
        Ok(Turn { embedded, cluster, work })
    }

    /// The same pods where no agent hears of them.
    fn bare_turn(&self, name: &str) -> Result<Work, Failure> {
        let name = format!("bare-{name}");
        let application = self.fleet.application(&name);
        let ((), work) = self.watched(|| {
            self.bind(&application, NOBODY)?;
            Ok(application.delete(&self.ground().objects)?)
        })?;
        Ok(work)
    }

    fn bind(&self, application: &Application<'_>, node: &str) -> Result<Vec<Pod>, Failure> {
        Ok(application.bind(&self.ground().objects, repeat_n(node, PODS))?)
    }

    /// What the API server does while nobody wants anything.
    fn idle(&self) -> Result<Work, Failure> {
        let ((), work) = self.watched(|| {
            thread::sleep(IDLE);
            Ok(())
        })?;
        Ok(work)
    }

    fn watched<T>(&self, act: impl FnOnce() -> Result<T, Failure>) -> Result<(T, Work), Failure> {
        let gone = "the API server's process has gone";
        let (started, before) = (Instant::now(), self.ground().api_server_time().ok_or(gone)?);
        let outcome = act()?;
        let processor = self.ground().api_server_time().ok_or(gone)?.saturating_sub(before);
        Ok((outcome, Work { processor, time: started.elapsed() }))
    }
}

/// A pod of which no API server knows.
pub(super) fn unknown_pod(name: &str, number: usize) -> PodRef {
    let name = format!("{name}-{number}");
    PodRef { namespace: NAME.into(), uid: name.clone(), name }
}

/// Their sandboxes, in these namespaces.
pub(super) fn sandboxes<'a>(pods: &[PodRef], namespaces: &'a [Netns]) -> Vec<Sandbox<'a>> {
    pods.iter().zip(namespaces).map(|(pod, netns)| Sandbox::of(pod, netns)).collect()
}
