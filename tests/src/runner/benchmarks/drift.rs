//! A node with 250 pods: how long repairs take and what they cost, what a restart and a resync cost, what the agent weighs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use netlink::Kernel;
use nix::time::{ClockId, clock_gettime};
use plan::object::Rule;
use plan::tables::PROTOCOL;
use schemas::intent::NetnsIdentity;
use tests::binaries::Binaries;
use tests::full_node::{Flush, FullNode, Occupant, Watch};
use tests::metrics::Metrics;

use super::Failure;
use super::bed::{Bed, Programs, quiet};
use super::report::{Aim, Row};
use super::sample::Samples;
use super::weight::Weight;

/// Single rules deleted, one after another in different pods.
const SINGLE: usize = 200;
/// How often all pods are flushed.
const STORMS: usize = 5;
/// How often the agent is started anew.
const RESTARTS: usize = 5;
/// What is timed against a process: so many processes.
const PROCESSES: usize = 100;
/// When nothing changes for so long, all is repaired.
const CALM: Duration = Duration::from_millis(300);
/// The agent looks at everything once a minute.
const RESYNC_WITHIN: Duration = Duration::from_secs(75);
/// CPU time that says that it is at work.
const AWAKE: Duration = Duration::from_millis(5);
/// How often the agent's CPU time is read while it sleeps, which costs the agent nothing.
const GLANCE: Duration = Duration::from_millis(20);

/// All rows.
pub(super) fn rows(programs: &Programs, bed: &Bed) -> Result<Vec<Row>, Failure> {
    let binaries = Binaries { dragline: programs.dragline.clone(), plugins: programs.plugins.clone() };
    let mut node = FullNode::fill("drift", &binaries, |settings| settings.state_dir = bed.disk.join("full"))?;
    let pods = node.occupants.len();
    quiet(&node.agent, pods as u64)?;
    let with = |what: &str| format!("{pods} pods: {what}");
    let weight = Weight::of(&node.agent)?;
    let process = iproute2(&bed.scene.overlay_pod.netns)?;
    let mut rows = Vec::new();

    let before = node.metrics()?;
    let waited = single(&node)?;
    let work = Histogram::of(&before, &node.metrics()?, "repair_work_seconds");
    rows.push(
        Row::mean(&with("a rule deleted, event read to last step applied, waits left out (p50)"), work.median())
            .against("`ip rule add`, the process", process.p50())
            .aim(Aim::Below(1000.0)),
    );
    let whole = Histogram::of(&before, &node.metrics()?, "repair_seconds");
    rows.push(Row::mean(&with("the same with the wait for what belongs together (p50)"), whole.median()));
    rows.push(Row::time(&with("the same seen from outside, from before the deletion"), &waited));

    let storm = storms(&node)?;
    rows.extend([
        Row::time(&with("`ip rule flush` in all at once, each until repaired"), &storm.times),
        Row::mean(&with("CPU of the agent for each of them"), storm.cpu_per_pod)
            .against("`ip rule add`, the process", process.p50()),
        Row::count(&with("steps for each rule that was flushed"), storm.steps_per_rule).aim(Aim::Below(1.001)),
    ]);

    let raw = observe_all(&node)?;
    let resync = resync(&node)?;
    rows.push(
        Row::mean(&with("resync of all, CPU"), resync)
            .against("all of them observed, CPU", raw.cpu)
            .aim(Aim::Below(250e3)),
    );
    let restart = restarts(&mut node)?;
    rows.extend([
        Row::time(&with("agent started anew until all are verified"), &restart.times)
            .up_to_max(&restart.times)
            .against("all of them observed", raw.time)
            .aim(Aim::Below(1e6)),
        Row::count(&with("changes that it sent"), restart.changes).aim(Aim::Below(1.0)),
        Row::size(&with("resident"), weight.resident).aim(Aim::Below(40e6)),
        Row::size(&with("of it its own"), weight.anonymous),
    ]);
    Ok(rows)
}

/// One rule of one pod after another is deleted; from before that to the last change.
fn single(node: &FullNode) -> Result<Samples, Failure> {
    let mut times = Samples::default();
    for occupant in node.occupants.iter().cycle().take(SINGLE) {
        let mut scene = occupant.netns().scene()?;
        let rules = scene.observe()?.rules;
        let ours: Vec<&Rule> = rules.iter().filter(|rule| rule.protocol == PROTOCOL).collect();
        let rule = ours.get(ours.len() / 2).ok_or("a pod without a rule of dragline's")?;
        let watch = Watch::open([occupant.netns()])?;
        let (began, seen) = watch.during(|calm| {
            let began = Instant::now();
            let deleted = scene.delete_rule(rule);
            calm.wait(CALM / 10);
            deleted.map(|()| began)
        })?;
        let last = seen.first().and_then(tests::full_node::Seen::last).ok_or("nothing was seen")?;
        times.push(last.duration_since(began?));
    }
    Ok(times)
}

struct Storm {
    times: Samples,
    /// Microseconds.
    cpu_per_pod: f64,
    steps_per_rule: f64,
}

fn storms(node: &FullNode) -> Result<Storm, Failure> {
    let watch = Watch::open(node.occupants.iter().map(Occupant::netns))?;
    let mut storm = Storm { times: Samples::default(), cpu_per_pod: 0.0, steps_per_rule: 0.0 };
    let steps = |metrics: Metrics| metrics.of("kernel_steps");
    let (before, mut flushed, mut cpu) = (steps(node.metrics()?)?, 0, Duration::ZERO);
    for _ in 0..STORMS {
        let mut flushes: Vec<Flush> =
            node.occupants.iter().map(|occupant| Flush::of(occupant.netns())).collect::<Result<_, _>>()?;
        flushed += flushes.iter().map(Flush::len).sum::<usize>();
        let cpu_before = node.cpu()?;
        let (began, seen) = watch.during(|calm| {
            let began = flushes.iter_mut().map(Flush::flush).collect::<Result<Vec<Instant>, _>>();
            calm.wait(CALM);
            began
        })?;
        cpu += node.cpu()?.saturating_sub(cpu_before);
        for (began, seen) in began?.into_iter().zip(seen) {
            storm.times.push(seen.last().ok_or("a pod was not repaired")?.duration_since(began));
        }
    }
    storm.cpu_per_pod = cpu.as_secs_f64() * 1e6 / (STORMS * node.occupants.len()) as f64;
    storm.steps_per_rule = (steps(node.metrics()?)? - before) as f64 / flushed as f64;
    Ok(storm)
}

/// Microseconds.
struct Raw {
    time: f64,
    cpu: f64,
}

/// What nobody who looks at all pods can do without.
fn observe_all(node: &FullNode) -> Result<Raw, Failure> {
    let kernel = node.scene.worker.run(Kernel::new)??;
    let identities: Vec<NetnsIdentity> =
        node.occupants.iter().map(|occupant| kernel.identify(occupant.netns().path())).collect::<Result<_, _>>()?;
    let cpu = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
    let (mut times, mut cpus) = (Samples::default(), Samples::default());
    for _ in 0..RESTARTS {
        let (started, before) = (Instant::now(), cpu()?);
        for identity in &identities {
            std::hint::black_box(kernel.pass(identity)?.observe(&[])?);
        }
        times.push(started.elapsed());
        cpus.push(cpu()?.saturating_sub(before));
    }
    Ok(Raw { time: times.p50(), cpu: cpus.p50() })
}

/// CPU time, in microseconds, of the one look at everything that comes by time.
fn resync(node: &FullNode) -> Result<f64, Failure> {
    let passes = || -> Result<u64, Failure> { Ok(node.metrics()?.of("reconcile_passes")?) };
    let started = Instant::now();
    let pods = node.occupants.len() as u64;
    while started.elapsed() < RESYNC_WITHIN {
        // Its own answer is no part of it.
        let before = passes()?;
        thread::sleep(CALM);
        let asleep = node.cpu()?;
        // A look at all pods takes far more; a wake-up far less.
        while node.cpu()?.saturating_sub(asleep) < AWAKE && started.elapsed() < RESYNC_WITHIN {
            thread::sleep(GLANCE);
        }
        thread::sleep(4 * CALM);
        let taken = node.cpu()?.saturating_sub(asleep);
        match passes()? - before {
            // The store's upkeep, say.
            0 => {}
            looked if looked == pods => return Ok(taken.as_secs_f64() * 1e6),
            looked => return Err(format!("{looked} passes in a resync of {pods} pods").into()),
        }
    }
    Err(format!("no resync within {RESYNC_WITHIN:?}").into())
}

struct Restart {
    times: Samples,
    changes: f64,
}

fn restarts(node: &mut FullNode) -> Result<Restart, Failure> {
    let (mut times, mut changes) = (Samples::default(), 0);
    for _ in 0..RESTARTS {
        node.agent.kill()?;
        let started = Instant::now();
        node.agent.launch()?;
        let pods = node.occupants.len() as u64;
        let after = loop {
            // Before it listens there is nobody to ask.
            let verified =
                node.metrics().ok().filter(|metrics| metrics.of("reconcile_passes").is_ok_and(|n| n >= pods));
            if let Some(metrics) = verified {
                break metrics;
            }
            if started.elapsed() > RESYNC_WITHIN {
                return Err("the agent does not verify its pods".into());
            }
            thread::sleep(Duration::from_millis(2));
        };
        times.push(started.elapsed());
        quiet(&node.agent, pods)?;
        changes += after.of("netlink_changes")? + after.of("sandboxes_unconverged")?;
    }
    Ok(Restart { times, changes: changes as f64 })
}

/// What it takes to have one rule put back by a process.
fn iproute2(netns: &netlink::testbed::Netns) -> Result<Samples, Failure> {
    let ip = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].iter().map(Path::new).find(|path| path.exists());
    let ip = ip.ok_or("iproute2 is not installed: apt install iproute2")?;
    let mut times = Samples::default();
    for number in 0..PROCESSES {
        let priority = (20_000 + number).to_string();
        let run = |verb: &str| -> Result<Duration, Failure> {
            let arguments = ["rule", verb, "priority", &priority, "to", "192.0.2.0/24", "lookup", "4242"];
            let mut command = Command::new(ip);
            netns.run(|| {
                let started = Instant::now();
                let status = command.args(arguments).status()?;
                if status.success() { Ok(started.elapsed()) } else { Err(format!("ip rule {verb}: {status}").into()) }
            })?
        };
        times.push(run("add")?);
        run("del")?;
    }
    Ok(times)
}

/// The growth of a histogram of seconds, by upper bound.
struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    fn of(before: &Metrics, after: &Metrics, name: &str) -> Self {
        let earlier: BTreeMap<u64, u64> = nanoseconds(before, name).collect();
        Self(
            nanoseconds(after, name).map(|(bound, count)| (bound, count - earlier.get(&bound).unwrap_or(&0))).collect(),
        )
    }

    /// Microseconds; between two bounds as if spread evenly.
    fn median(&self) -> f64 {
        let half = self.0.values().last().copied().unwrap_or_default() as f64 / 2.0;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            let (bound, count) = (*bound as f64 / 1e3, *count as f64);
            if count >= half && count > below {
                return lower + (bound - lower) * (half - below) / (count - below);
            }
            (lower, below) = (bound, count);
        }
        lower
    }
}

/// The cumulative counts by upper bound.
fn nanoseconds<'a>(metrics: &'a Metrics, name: &str) -> impl Iterator<Item = (u64, u64)> + 'a {
    let bucket = format!("dragline_{name}_bucket{{le=\"");
    metrics.all().filter_map(move |(sample, count)| {
        let bound = sample.strip_prefix(&bucket)?.strip_suffix("\"}")?;
        let seconds: f64 = if bound == "+Inf" { 1e6 } else { bound.parse().ok()? };
        Some(((seconds * 1e9) as u64, count))
    })
}
