//! A node whose store has the records of 100,000 pods: an agent with them against the same one with a single pod's.
//!
//! The records are those of one real pod, dumped, multiplied and restored. Their network namespaces are gone, as after a
//! machine's restart before the runtime has sent its DELs: every pod counts, and none costs the kernel anything.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::time::ClockId;
use nix::unistd::Pid;
use schemas::dump::{Counts, Header, RecordLine};
use serde_json::json;
use tests::agent::{AgentProcess, Settings};
use tests::repair;
use tests::scene::Pod;

use super::Failure;
use super::bed::{Bed, Programs, conf, quiet};
use super::call::{Call, Taken, call};
use super::report::{Aim, Row};
use super::sample::Samples;
use super::weight::Weight;

const PODS: u32 = 100_000;
const POOL: &str = "populous-v4";
/// The pod that is multiplied, as its container is named.
const TEMPLATE: &str = "template-of-populous";
/// The first address of the multiplied pods.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 1);
const CALLS: usize = 200;
const CHAINS: usize = 60;
/// How long an agent may take until it is ready.
const READY_WITHIN: &str = "120s";
/// An agent that has used no processor for so long is done; reading its clock costs it nothing.
const CALM: Duration = Duration::from_millis(10);

/// All rows. The bed's own agent does not run afterwards.
pub(super) fn rows(programs: &Programs, bed: &mut Bed) -> Result<Vec<Row>, Failure> {
    bed.scene.apply("populous.yaml", &pool())?;
    while !bed.agent.list("ippools")?.iter().any(|pool| pool["metadata"]["name"] == POOL) {
        thread::sleep(CALM);
    }
    let node = bed.scene.worker.open()?;
    let template = {
        let bed = &*bed;
        on_node(&node, || template(bed))?
    };
    bed.agent.kill()?;
    let bed = &*bed;
    let few = on_node(&node, || measure(programs, bed, &template, 1))?;
    let many = on_node(&node, || measure(programs, bed, &template, PODS))?;
    let with = |what: &str| format!("records of {PODS} pods: {what}");
    let row = |what: &str, many: &Samples, few: &Samples| Row::time(&with(what), many).against("of one", few.p50());
    let mean = |what: &str, many: f64, few: f64| Row::mean(&with(what), many).against("of one", few);
    Ok(vec![
        mean("restored from a dump", many.restored, few.restored),
        mean("agent started until all are verified", many.started, few.started),
        row("IPAM ADD, durable", &many.add, &few.add).aim(Aim::Ratio(1.5)),
        row("IPAM DEL, durable", &many.del, &few.del).aim(Aim::Ratio(1.5)),
        mean("CPU of the agent for an IPAM ADD and DEL", many.cpu, few.cpu).aim(Aim::Ratio(1.5)),
        row("chain ADD", &many.chain, &few.chain).aim(Aim::Ratio(1.5)),
        mean("CPU of the agent for a chain ADD and DEL", many.chain_cpu, few.chain_cpu).aim(Aim::Ratio(1.5)),
        row("repair after `ip rule flush`", &many.repair, &few.repair).aim(Aim::Ratio(1.5)),
        Row::size(&with("resident"), many.weight.resident).against("of one", few.weight.resident as f64),
    ])
}

fn on_node<T: Send>(node: &File, act: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let inside = || setns(node, CloneFlags::CLONE_NEWNET).map_err(Failure::from).and_then(|()| act());
    thread::scope(|scope| {
        scope.spawn(inside).join().unwrap_or_else(|_| Err("a measurement panicked; see above".into()))
    })
}

fn pool() -> String {
    let pool = json!({
        "apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": POOL},
        "spec": {"ipVersion": 4, "subnet": "10.64.0.0/10", "ips": ["10.64.0.2-10.127.255.254"]},
    });
    format!("{pool}\n")
}

/// What is dumped of one pod.
struct Template {
    node: String,
    text: String,
    address: String,
    netns: String,
}

/// One pod through the whole chain, dumped while it runs.
fn template(bed: &Bed) -> Result<Template, Failure> {
    let pod = bed.scene.pod("populous", Ipv4Addr::new(10, 233, 92, 1))?;
    let settings = bed.agent.settings();
    let result = attach(bed, settings, &pod, TEMPLATE)?.0.json();
    quiet(&bed.agent, 1)?;
    let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
    Ok(Template {
        node: settings.node_name.clone(),
        text: bed.agent.ask(&["dump"])?,
        address: address.ok_or("the pod has no address")?.to_owned(),
        netns: pod.netns.path().to_owned(),
    })
}

impl Template {
    /// The dump of a node with so many of it.
    fn times(&self, pods: u32) -> Result<String, Failure> {
        let mut lines = self.text.lines();
        let mut header: Header = serde_json::from_str(lines.next().ok_or("an empty dump")?)?;
        let all = u64::from(pods);
        header.counts = Counts { attachments: all, allocations: all, sandboxes: all, ..Counts::default() };
        let mut text = serde_json::to_string(&header)? + "\n";
        let mut written = 1;
        for line in lines {
            // The trailer is none.
            let Ok(record) = serde_json::from_str::<RecordLine>(line) else { continue };
            if !["attachments", "allocations", "sandboxes"].contains(&record.tree.as_str()) {
                continue;
            }
            for number in 0..pods {
                let address = Ipv4Addr::from_bits(FIRST.to_bits() + number);
                let line = line
                    .replace(TEMPLATE, &format!("populous-{number:06}"))
                    .replace(&self.netns, &format!("{}-{number}", self.netns))
                    .replace(&self.address, &address.to_string());
                writeln!(text, "{line}")?;
                written += 1;
            }
        }
        writeln!(text, "{}", json!({"lines": written, "sha256": ""}))?;
        Ok(text)
    }
}

/// Means in microseconds.
struct Measured {
    restored: f64,
    started: f64,
    add: Samples,
    del: Samples,
    cpu: f64,
    chain: Samples,
    chain_cpu: f64,
    repair: Samples,
    weight: Weight,
}

fn measure(programs: &Programs, bed: &Bed, template: &Template, pods: u32) -> Result<Measured, Failure> {
    let state = bed.disk.join(format!("populous-{pods}"));
    let restored = restore(programs, template, &state, pods)?;
    let settings = Settings { state_dir: state, ..bed.agent.settings().clone() };
    let mut agent = AgentProcess::stopped(&programs.dragline, &bed.scene.worker, settings);
    let began = Instant::now();
    agent.launch()?;
    agent.ask(&["status", "--wait", READY_WITHIN])?;
    // Each has been looked for; that it is gone is no convergence.
    calm(&agent)?;
    let mut measured = Measured {
        restored,
        started: microseconds(began.elapsed()),
        add: Samples::default(),
        del: Samples::default(),
        cpu: 0.0,
        chain: Samples::default(),
        chain_cpu: 0.0,
        repair: Samples::default(),
        weight: Weight::of(&agent)?,
    };
    measured.cpu = calls(bed, &agent, &mut measured)? / CALLS as f64;
    measured.chain_cpu = chains(bed, &agent, &mut measured)? / CHAINS as f64;
    Ok(measured)
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Restores that many pods' records; microseconds.
fn restore(programs: &Programs, template: &Template, state: &Path, pods: u32) -> Result<f64, Failure> {
    let dump = state.with_extension("jsonl");
    fs::write(&dump, template.times(pods)?)?;
    let began = Instant::now();
    let restored = Command::new(&programs.dragline)
        .args(["restore", "--recompute-checksum", "--node-name", &template.node, "--state-dir"])
        .arg(state)
        .stdin(File::open(&dump)?)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let took = microseconds(began.elapsed());
    fs::remove_file(&dump)?;
    if restored.status.success() {
        return Ok(took);
    }
    Err(format!("the dump of {pods} pods is not restored: {}", String::from_utf8_lossy(&restored.stderr)).into())
}

/// IPAM alone; the agent's CPU time in microseconds.
fn calls(bed: &Bed, agent: &AgentProcess, measured: &mut Measured) -> Result<f64, Failure> {
    let pod = bed.scene.pod("populous-ipam", Ipv4Addr::new(10, 233, 92, 2))?;
    let mut cpu = Duration::ZERO;
    for round in 0..CALLS {
        let container = format!("ipam-{round}");
        let one = |verb| plugin(bed, agent.settings(), "spiderpool", verb, &container, &pod, conf::of(POOL));
        let began = calm(agent)?;
        measured.add.push(one("ADD")?.time);
        calm(agent)?;
        measured.del.push(one("DEL")?.time);
        cpu += calm(agent)?.saturating_sub(began);
    }
    Ok(microseconds(cpu))
}

/// The whole chain, and a repair each time; the agent's CPU time without the repairs in microseconds.
fn chains(bed: &Bed, agent: &AgentProcess, measured: &mut Measured) -> Result<f64, Failure> {
    let pod = bed.scene.pod("populous-chain", Ipv4Addr::new(10, 233, 92, 3))?;
    let mut cpu = Duration::ZERO;
    for round in 0..CHAINS {
        let container = format!("chain-{round}");
        let began = calm(agent)?;
        let (link, coordinator) = attach(bed, agent.settings(), &pod, &container)?;
        measured.chain.push(link.time + coordinator.time);
        cpu += calm(agent)?.saturating_sub(began);
        measured.repair.push(repair::flush_rules(&pod.netns)?);
        let began = calm(agent)?;
        for (name, stdin) in [("coordinator", conf::coordinator(&link.json())), ("macvlan", conf::of(POOL))] {
            plugin(bed, agent.settings(), name, "DEL", &container, &pod, stdin)?;
        }
        cpu += calm(agent)?.saturating_sub(began);
    }
    Ok(microseconds(cpu))
}

fn attach(bed: &Bed, settings: &Settings, pod: &Pod, container: &str) -> Result<(Taken, Taken), Failure> {
    let link = plugin(bed, settings, "macvlan", "ADD", container, pod, conf::of(POOL))?;
    let stdin = conf::coordinator(&link.json());
    let coordinator = plugin(bed, settings, "coordinator", "ADD", container, pod, stdin)?;
    Ok((link, coordinator))
}

fn plugin(
    bed: &Bed,
    settings: &Settings,
    name: &str,
    verb: &str,
    container: &str,
    pod: &Pod,
    stdin: String,
) -> Result<Taken, Failure> {
    let environment: [(&str, &Path); 3] = [
        ("DRAGLINE_SOCKET", &settings.socket),
        ("DRAGLINE_STATE_DIR", &settings.state_dir),
        ("CNI_PATH", &bed.reference),
    ];
    let program = bed.ours.join(name);
    Ok(call(&Call { program: &program, verb, container, netns: pod.netns.path(), stdin }, &environment)?)
}

/// The agent's CPU time, once it has nothing to do.
fn calm(agent: &AgentProcess) -> Result<Duration, Failure> {
    let pid = agent.pid().and_then(|pid| i32::try_from(pid).ok()).ok_or("the agent has gone")?;
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?;
    let mut before = Duration::from(clock.now()?);
    loop {
        thread::sleep(CALM);
        let now = Duration::from(clock.now()?);
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}
