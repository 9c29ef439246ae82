//! A converged system costs nothing, and a restarted agent changes nothing.
//!
//! `DRAGLINE_IDLE_SECONDS` makes the idle time longer than its minute.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::{Arguments, Failed, Trial};
use tests::binaries::Binaries;
use tests::picture::Picture;
use tests::stage::{Coordinator, MainPlugin, Member, Stage};
use tests::witness::{Witness, first_changes};

/// How many pods there are.
const PODS: u8 = 4;
/// How long nothing may happen: the agent's resync by time lies within.
const IDLE: Duration = Duration::from_secs(60);
/// CPU time in a minute: a resync of all pods included.
const CPU_PER_MINUTE: Duration = Duration::from_millis(300);
/// What memory may grow by in that time, in kilobytes.
const MEMORY_GROWTH: u64 = 2048;
/// The last of the kernel's own changes (a link's carrier, say) comes this long after the one before at most.
const QUIET: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let mut arguments = Arguments::from_args();
    // Each counts what the machine does.
    arguments.test_threads = Some(1);
    Binaries::build().unwrap();
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        eprintln!("these tests need a network namespace of their own: {error}");
        std::process::exit(1);
    }
    let trials =
        vec![trial("a_converged_system_costs_nothing", idle), trial("a_restarted_agent_changes_nothing", restarted)];
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test by name; a panic is a failure.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || std::panic::catch_unwind(test).map_err(|panic| Failed::from(text_of(&*panic))))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}

fn join(stage: &Stage) -> Vec<Member> {
    (1..=PODS).map(|number| stage.join(number).unwrap()).collect()
}

/// One in every namespace that the agent looks after.
fn witnesses<'a>(stage: &'a Stage, members: &'a [Member]) -> Vec<Witness<'a>> {
    let namespaces = std::iter::once(stage.node()).chain(members.iter().map(|member| &member.pod.netns));
    namespaces.map(|netns| Witness::open(netns).unwrap()).collect()
}

/// Waits until the kernel has done what it does by itself after links came up.
fn until_quiet(witnesses: &mut [Witness<'_>]) {
    let started = Instant::now();
    while !first_changes(witnesses, QUIET).unwrap().is_empty() {
        assert!(started.elapsed() < PATIENCE, "the scene does not come to rest");
    }
}

/// What a process uses.
#[derive(Debug)]
struct Usage {
    descriptors: usize,
    threads: u64,
    memory: u64,
}

impl Usage {
    fn of(process: u32) -> Self {
        let folder = PathBuf::from(format!("/proc/{process}"));
        let status = fs::read_to_string(folder.join("status")).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Self {
            descriptors: fs::read_dir(folder.join("fd")).unwrap().count(),
            threads: field("Threads:"),
            memory: field("VmRSS:"),
        }
    }
}

/// proc(5): utime and stime of the whole process, in ticks of a hundredth of a second; threads that have ended included.
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

/// Size and time of change of every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path, (metadata.len(), metadata.modified().unwrap()));
        }
    }
    found
}

fn idle_time() -> Duration {
    let asked = std::env::var("DRAGLINE_IDLE_SECONDS").ok().map(|text| text.parse().unwrap());
    asked.map_or(IDLE, Duration::from_secs).max(IDLE)
}

fn idle() {
    let stage = Stage::set("idle", MainPlugin::Own).unwrap();
    let members = join(&stage);
    stage.check().unwrap();
    let mut witnesses = witnesses(&stage, &members);
    until_quiet(&mut witnesses);
    let (process, store, time) =
        (stage.agent.pid().unwrap(), stage.agent.settings().state_dir.join("store"), idle_time());
    let (metrics, files_before) = (stage.metrics().unwrap(), files(&store));
    let (usage, ticks_before) = (Usage::of(process), ticks(process));
    let started = Instant::now();
    let changes = first_changes(&mut witnesses, time).unwrap();
    assert!(changes.is_empty(), "after {:?} there were: {}", started.elapsed(), changes.join("\n"));
    let (usage_after, ticks_after) = (Usage::of(process), ticks(process));
    let after = stage.metrics().unwrap();
    for name in ["netlink_changes", "kernel_steps", "repairs", "store_commits", "store_changes", "store_syncs", "calls"]
    {
        assert_eq!(after.of(name).unwrap(), metrics.of(name).unwrap(), "{name} has grown");
    }
    assert_eq!(files(&store), files_before, "the store was written to");
    let cpu = Duration::from_millis((ticks_after - ticks_before) * 10);
    println!(
        "idle for {time:?} with {PODS} pods: {cpu:?} of CPU time, {} kernel events, {} passes; {usage:?} before, \
         {usage_after:?} after",
        after.of("kernel_events").unwrap() - metrics.of("kernel_events").unwrap(),
        after.of("reconcile_passes").unwrap() - metrics.of("reconcile_passes").unwrap(),
    );
    assert!(cpu.as_secs_f64() < CPU_PER_MINUTE.as_secs_f64() * time.as_secs_f64() / 60.0, "{cpu:?} of CPU time");
    // Each pass of a resync, the node's included, may have a thread, which waits for further work a while.
    assert!(usage_after.threads <= usage.threads + u64::from(PODS) + 1, "{usage:?} {usage_after:?}");
    assert!(usage_after.descriptors <= usage.descriptors + 1, "{usage:?} {usage_after:?}");
    assert!(usage_after.memory <= usage.memory + MEMORY_GROWTH, "{usage:?} {usage_after:?}");
    stage.check().unwrap();
}

fn restarted() {
    let mut stage = Stage::set("restarted", MainPlugin::Own).unwrap();
    let members = join(&stage);
    // What is declared now is another thing than what each ADD has seen.
    let hijack = vec!["169.254.0.0/16".into(), "198.18.0.0/15".into()];
    stage.coordinate(&Coordinator { hijack, ..Coordinator::default() }).unwrap();
    for member in &members {
        let lacks = |found: &Picture| {
            let is_there = found.text().contains(" to 198.18.0.0/15 ");
            if is_there { String::new() } else { found.text() }
        };
        Witness::open(&member.pod.netns).unwrap().until("as declared", PATIENCE, lacks).unwrap();
    }
    stage.check().unwrap();
    for by_force in [false, true] {
        let before = pictures(&stage, &members);
        {
            let mut witnesses = witnesses(&stage, &members);
            until_quiet(&mut witnesses);
        }
        if by_force {
            stage.agent.kill().unwrap();
        } else {
            assert!(stage.agent.terminate().unwrap().success());
        }
        // While it is away nothing changes either: they look on from before the start.
        let started = {
            let Stage { agent, scene, .. } = &mut stage;
            let namespaces = std::iter::once(&scene.worker).chain(members.iter().map(|member| &member.pod.netns));
            let mut witnesses: Vec<Witness<'_>> = namespaces.map(|netns| Witness::open(netns).unwrap()).collect();
            let started = Instant::now();
            agent.restart().unwrap();
            let ready = started.elapsed();
            until_adopted(scene);
            let changes = first_changes(&mut witnesses, QUIET).unwrap();
            assert!(changes.is_empty(), "{}", changes.join("\n"));
            ready
        };
        assert_eq!(stage.metric("netlink_changes").unwrap(), 0, "a restarted agent has changed something");
        assert_eq!(stage.metric("store_commits").unwrap(), 0, "a restarted agent has written something");
        assert_eq!(stage.metric("sandboxes").unwrap(), u64::from(PODS));
        assert_eq!(stage.metric("sandboxes_unconverged").unwrap(), 0);
        assert_eq!(pictures(&stage, &members), before);
        stage.check().unwrap();
        let listed = stage.agent.list("attachments").unwrap();
        assert!(listed.iter().all(|it| it["state"] == "Converged"), "{listed:?}");
        println!("restarted {}: ready after {started:?}", if by_force { "after kill -9" } else { "after SIGTERM" });
        still_repaired(&members[0]);
    }
}

/// Waits until every pod has been looked at.
fn until_adopted(scene: &tests::scene::Scene) {
    let started = Instant::now();
    let passes = || tests::metrics::Metrics::fetch(&scene.worker).unwrap().of("reconcile_passes").unwrap();
    while passes() < u64::from(PODS) {
        assert!(started.elapsed() < PATIENCE, "not all pods are looked at");
        // A number of the agent has no event.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pictures(stage: &Stage, members: &[Member]) -> Vec<Picture> {
    let namespaces = std::iter::once(stage.node()).chain(members.iter().map(|member| &member.pod.netns));
    namespaces.map(|netns| Picture::take(netns).unwrap()).collect()
}

/// The new agent hears the pods that it has adopted.
fn still_repaired(member: &Member) {
    let mut witness = Witness::open(&member.pod.netns).unwrap();
    let wanted = witness.picture().unwrap();
    let mut scene = member.pod.netns.scene().unwrap();
    let rules = scene.observe().unwrap().rules;
    scene.delete_rule(rules.iter().find(|rule| rule.protocol == plan::tables::PROTOCOL).unwrap()).unwrap();
    witness.until_like(&wanted, PATIENCE).unwrap();
}
