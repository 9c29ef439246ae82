//! The node's own state: the rule, table and neighbours that lead to the pods, and the facts that plans are made of. One
//! task looks after it; whoever needs it done asks and waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use plan::{Desired, NodeFacts, Observed, Prune, Step, diff, merge_links};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::borrowed;
use crate::fight::Fight;
use crate::worker::Pace;

/// After a pass that failed.
const RETRY: Duration = Duration::from_millis(500);

/// The node's state, as its last pass left it.
pub struct NodeState {
    facts: RwLock<Arc<NodeFacts>>,
    observed: RwLock<Arc<Observed>>,
    has_facts: AtomicBool,
    hears_all: AtomicBool,
    is_settling: AtomicBool,
    pace: Mutex<Pace>,
    asked: AtomicU64,
    done: watch::Sender<u64>,
    wake: Notify,
    /// Somebody waits for the next pass.
    awaited: Notify,
    is_contested: AtomicBool,
    /// Whose turn it is to ask for an uplink.
    uplinks: tokio::sync::Mutex<()>,
    /// Of the last pass, the steps that the kernel refused, and why.
    refused: Mutex<BTreeMap<String, String>>,
}

impl Default for NodeState {
    fn default() -> Self {
        Self {
            facts: RwLock::default(),
            observed: RwLock::default(),
            has_facts: AtomicBool::new(false),
            hears_all: AtomicBool::new(false),
            is_settling: AtomicBool::new(false),
            pace: Mutex::default(),
            asked: AtomicU64::new(0),
            done: watch::Sender::new(0),
            wake: Notify::new(),
            awaited: Notify::new(),
            is_contested: AtomicBool::new(false),
            uplinks: tokio::sync::Mutex::default(),
            refused: Mutex::default(),
        }
    }
}

impl NodeState {
    /// What plans are made of.
    pub fn facts(&self) -> Arc<NodeFacts> {
        Arc::clone(&self.facts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The node has been observed.
    pub fn has_facts(&self) -> bool {
        self.has_facts.load(Ordering::Acquire)
    }

    /// The node as last observed.
    pub fn observed(&self) -> Arc<Observed> {
        Arc::clone(&self.observed.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Events of the pods' namespaces are heard; otherwise time has to do.
    pub fn hears_all_namespaces(&self) -> bool {
        self.hears_all.load(Ordering::Acquire)
    }

    /// Says so.
    pub fn set_hears_all_namespaces(&self) {
        self.hears_all.store(true, Ordering::Release);
    }

    /// Another program keeps changing the node's part back.
    pub fn is_contested(&self) -> bool {
        self.is_contested.load(Ordering::Acquire)
    }

    /// Whose turn it is to ask for an uplink.
    pub fn uplinks(&self) -> &tokio::sync::Mutex<()> {
        &self.uplinks
    }

    /// The node needs a look.
    pub fn mark(&self) -> u64 {
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake.notify_one();
        ticket
    }

    /// Waits for a pass that begins after now.
    pub async fn passed(&self) {
        let ticket = self.mark();
        self.awaited.notify_one();
        let mut done = self.done.subscribe();
        // The sender is in `self`.
        let _ = done.wait_for(|done| *done >= ticket).await;
    }

    /// Waits for a pass that begins after now: what of `part` it could not make, empty when all is there.
    pub async fn reconciled(&self, part: &Desired) -> String {
        if part == &Desired::default() {
            self.mark();
            return String::new();
        }
        self.passed().await;
        let left = diff(part, &self.observed(), Prune::No);
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let steps = left.steps.iter().map(ToString::to_string).map(|step| match refused.get(&step) {
            Some(error) => format!("on the node: {step}: {error}"),
            None => format!("on the node: still to do: {step}"),
        });
        left.blocked.iter().map(|text| format!("on the node: {text}")).chain(steps).collect::<Vec<_>>().join("; ")
    }

    fn take(&self, observed: Observed) -> bool {
        let facts = NodeFacts::of(&observed);
        *self.observed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(observed);
        let is_changed = *self.facts() != facts;
        if is_changed {
            *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
        }
        !self.has_facts.swap(true, Ordering::AcqRel) || is_changed
    }
}

/// What of earlier passes the next one has to know.
#[derive(Default)]
struct Memory {
    wanted: Desired,
    fight: Fight,
}

/// Starts the task. It ends with its set: calls that are answered while the agent stops still need it.
pub fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) {
    let agent = Arc::clone(agent);
    tasks.spawn(async move {
        let mut memory = Memory::default();
        agent.node.mark();
        loop {
            agent.node.wake.notified().await;
            if let Some(pause) = look(&agent, &mut memory).await {
                // What the other program does meanwhile is looked at afterwards; whoever waits is not made to.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = agent.node.awaited.notified() => {}
                }
            }
        }
    });
}

/// One pass over the node, for all who have asked before it begins; the wait before the next one, when another program
/// keeps changing things back.
async fn look(agent: &Arc<Agent>, memory: &mut Memory) -> Option<Duration> {
    let ticket = agent.node.asked.load(Ordering::Acquire);
    // Before what is wanted is gathered: a plan that comes in between is in there then.
    let prune = prune(agent);
    let mut wanted = wanted(agent);
    let needed = Desired { sysctls: wanted.sysctls.clone(), ..Desired::default() };
    if !borrowed::note(agent, &wanted).await {
        wanted.sysctls.clear();
    }
    if prune == Prune::Yes {
        agent.borrowed.give_back(&mut wanted);
    }
    let is_new = std::mem::replace(&mut memory.wanted, wanted.clone()) != wanted;
    let joined = {
        let agent = Arc::clone(agent);
        tokio::task::spawn_blocking(move || reconcile(&agent, &wanted, prune)).await
    };
    let mut pause = None;
    match joined.map_err(|error| error.to_string()).and_then(|result| result) {
        Ok((observed, steps)) => {
            let refused = agent.node.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let done: Vec<String> =
                steps.iter().map(ToString::to_string).filter(|step| !refused.contains_key(step)).collect();
            pause = report(agent, &mut memory.fight, &done, is_new);
            if prune == Prune::Yes {
                borrowed::settle(agent, &needed, &observed.sysctls).await;
            }
            let has_new_facts = agent.node.take(observed);
            let mut pace = agent.node.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.looked(has_new_facts || !steps.is_empty(), Instant::now());
            drop(pace);
            let is_made = |step: &Step| matches!(step, Step::CreateLink(_)) && !refused.contains_key(&step.to_string());
            if steps.iter().any(is_made) {
                // Links of pods that could not be made without it.
                agent.mark_all_sandboxes();
            }
            if has_new_facts {
                agent.rollout.wake();
                match prune {
                    Prune::Yes => agent.mark_replanned(),
                    // They may be the last input that was missing: now what nobody wants may go, plans changed or not.
                    Prune::No => agent.mark_all(),
                }
            }
        }
        Err(error) => {
            tracing::warn!(error, "the node's state could not be looked at");
            let agent = Arc::clone(agent);
            tokio::spawn(async move {
                tokio::time::sleep(RETRY).await;
                agent.node.mark();
            });
        }
    }
    agent.node.is_contested.store(memory.fight.is_on(Instant::now()), Ordering::Release);
    agent.node.done.send_replace(ticket);
    pause
}

/// Counts and tells what was done; the wait before the next pass, in a fight.
fn report(agent: &Agent, fight: &mut Fight, steps: &[String], is_new: bool) -> Option<Duration> {
    if steps.is_empty() {
        return None;
    }
    agent.metrics.steps.inc_by(steps.len() as u64);
    if is_new {
        tracing::debug!(?steps, "applied on the node");
        return None;
    }
    agent.metrics.repairs.inc();
    tracing::info!(?steps, "repaired on the node");
    let pause = fight.repaired(Instant::now());
    if let Some(next_in) = pause {
        agent.metrics.fights.inc();
        tracing::warn!(
            ?next_in,
            ?steps,
            "another program keeps changing this back on the node: find it, or change what is declared"
        );
    }
    pause
}

/// What all sandboxes together want of the node.
pub fn wanted(agent: &Agent) -> Desired {
    let mut all = Desired::default();
    for plan in agent.workers.planned_on_node() {
        all.links.extend(plan.node.links.iter().cloned());
        all.routes.extend(plan.node.routes.iter().cloned());
        all.rules.extend(plan.node.rules.iter().cloned());
        all.neighbours.extend(plan.node.neighbours.iter().cloned());
        all.sysctls.extend(plan.node.sysctls.clone());
    }
    merge_links(&mut all.links);
    all.routes.sort();
    all.routes.dedup();
    all.rules.sort();
    all.rules.dedup();
    all.neighbours.sort();
    all.neighbours.dedup();
    all
}

/// What may be deleted now: nothing while some sandbox has not been planned yet, since what it wants would look unwanted.
fn prune(agent: &Agent) -> Prune {
    if agent.has_synced() && !agent.ledger.has_unplanned() { Prune::Yes } else { Prune::No }
}

/// The node after the pass, and what was done. Blocking.
fn reconcile(agent: &Agent, wanted: &Desired, prune: Prune) -> Result<(Observed, Vec<Step>), String> {
    let (tables, sysctls) = scope(wanted);
    let mut pass = agent.kernel.node_pass().map_err(|error| error.to_string())?;
    let observed = pass.observe_node(&tables, &sysctls).map_err(|error| error.to_string())?;
    let steps = diff(wanted, &observed, prune).steps;
    if steps.is_empty() {
        agent.node.refused.lock().unwrap_or_else(PoisonError::into_inner).clear();
        return Ok((observed, steps));
    }
    let mut refused = BTreeMap::new();
    for (result, step) in pass.apply(&steps).into_iter().zip(&steps) {
        if let Err(error) = result {
            tracing::debug!(%step, %error, "refused on the node");
            refused.insert(step.to_string(), error.to_string());
        }
    }
    *agent.node.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    let observed = pass.observe_node(&tables, &sysctls).map_err(|error| error.to_string())?;
    Ok((observed, steps))
}

/// The node needs a look once what belongs to the same change has settled; one look serves all events until then.
pub fn mark_soon(agent: &Arc<Agent>) {
    if agent.node.is_settling.swap(true, Ordering::AcqRel) {
        return;
    }
    let agent = Arc::clone(agent);
    tokio::spawn(async move {
        let settle = agent.node.pace.lock().unwrap_or_else(PoisonError::into_inner).settle();
        tokio::time::sleep(settle).await;
        agent.node.is_settling.store(false, Ordering::Release);
        agent.node.mark();
    });
}

/// The node, as far as what is wanted of it goes. Blocking.
///
/// # Errors
/// When it cannot be read whole.
pub fn observe(agent: &Agent, wanted: &Desired) -> Result<Observed, String> {
    let (tables, sysctls) = scope(wanted);
    let mut pass = agent.kernel.node_pass().map_err(|error| error.to_string())?;
    pass.observe_node(&tables, &sysctls).map_err(|error| error.to_string())
}

/// Which tables and sysctls are looked at.
fn scope(wanted: &Desired) -> (BTreeSet<u32>, Vec<String>) {
    let tables = wanted.routes.iter().map(|wanted| wanted.route.table).collect();
    (tables, wanted.sysctls.keys().cloned().collect())
}

/// Sandboxes by pod, as the node's part of `dragline check` shows it.
pub fn differences(agent: &Agent) -> Result<Vec<String>, String> {
    let wanted = wanted(agent);
    let observed = observe(agent, &wanted)?;
    let found = diff(&wanted, &observed, Prune::Yes);
    Ok(found.steps.iter().map(ToString::to_string).chain(found.blocked).collect())
}
