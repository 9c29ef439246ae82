//! What an agent weighs in a large cluster.

use std::fs;
use std::iter::repeat_n;

use netlink::testbed::Netns;
use schemas::intent::PodRef;
use tests::agent::AgentProcess;
use tests::fleet::{Fleet, Pod, crowd};

use super::Failure;
use super::bed::{Bed, Programs};
use super::cluster::{sandboxes, unknown_pod};
use super::report::{Aim, Row};
use super::side::{Mode, Side};

/// As many as a kubelet takes by itself.
pub(super) const PODS: usize = 110;
/// Nodes whose objects there are.
const NODES: usize = 5000;
/// ADDs at once.
const AT_ONCE: usize = 8;
/// How often so many pods come and go.
const GENERATIONS: usize = 60;
const LIMIT: f64 = 60e6;

/// A process' memory in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    /// What is in memory of it, the program's own pages included: at least what `kubectl top pod` shows.
    pub(super) resident: u64,
    /// Of it what is in no file.
    pub(super) anonymous: u64,
    /// The most that has been resident since the start.
    highest: u64,
}

impl Weight {
    pub(super) fn of(agent: &AgentProcess) -> Result<Self, Failure> {
        let pid = agent.pid().ok_or("the agent has gone")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| -> Result<u64, Failure> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()).ok_or("the agent has ended")?;
            Ok(number.parse::<u64>()? * 1024)
        };
        Ok(Self { resident: bytes("VmRSS")?, anonymous: bytes("RssAnon")?, highest: bytes("VmHWM")? })
    }
}

/// An agent that is started in such a cluster, without pods and with as many as a node has.
pub(super) fn rows(
    programs: &Programs,
    bed: &Bed,
    fleet: &Fleet<'_>,
    namespaces: &[Netns],
    embedded: &Side<'_>,
) -> Result<Vec<Row>, Failure> {
    let ground = fleet.ground();
    crowd(&ground.objects, NODES)?;
    let side = Side::start(programs, bed, ground, "large", Mode::Cluster)?;
    let empty = Weight::of(&side.agent)?;

    let node = side.agent.settings().node_name.clone();
    let pods = fleet.application("weight").bind(&ground.objects, repeat_n(node.as_str(), PODS))?;
    let pods: Vec<PodRef> = pods.iter().map(Pod::reference).collect();
    side.holds_free(PODS)?;
    side.all("ADD", AT_ONCE, &sandboxes(&pods, namespaces))?;
    side.quiet(PODS)?;
    side.has_written(PODS as u64)?;
    let full = Weight::of(&side.agent)?;

    let pods: Vec<PodRef> = (0..PODS).map(|number| unknown_pod("weight", number)).collect();
    embedded.all("ADD", AT_ONCE, &sandboxes(&pods, namespaces))?;
    embedded.quiet(PODS)?;
    let alone = Weight::of(&embedded.agent)?;
    embedded.all("DEL", AT_ONCE, &sandboxes(&pods, namespaces))?;
    embedded.quiet(0)?;
    come_and_go(embedded, namespaces)?;
    let later = Weight::of(&embedded.agent)?;

    let with = format!("agent among {NODES} nodes' objects, {PODS} pods");
    let row = |what: &str, weight: u64| Row::size(&format!("{with}: {what}"), weight);
    Ok(vec![
        Row::size(&format!("agent among {NODES} nodes' objects, no pods: resident"), empty.resident)
            .aim(Aim::Below(LIMIT)),
        row("resident", full.resident).against("embedded", alone.resident as f64).aim(Aim::Below(LIMIT)),
        row("anonymous", full.anonymous).against("embedded", alone.anonymous as f64),
        row("highest so far", full.highest).against("embedded", alone.highest as f64).aim(Aim::Below(LIMIT)),
        Row::size(&format!("embedded agent, {} pods later: resident", PODS * GENERATIONS), later.resident)
            .against("before them", alone.resident as f64)
            .aim(Aim::Below(LIMIT)),
    ])
}

/// What is kept of pods that are gone is bounded.
fn come_and_go(side: &Side<'_>, namespaces: &[Netns]) -> Result<(), Failure> {
    for generation in 0..GENERATIONS {
        let pods: Vec<PodRef> =
            (0..PODS).map(|number| unknown_pod(&format!("generation-{generation}"), number)).collect();
        let sandboxes = sandboxes(&pods, namespaces);
        side.all("ADD", 2 * AT_ONCE, &sandboxes)?;
        side.quiet(PODS)?;
        side.all("DEL", 2 * AT_ONCE, &sandboxes)?;
        side.quiet(0)?;
    }
    Ok(())
}
