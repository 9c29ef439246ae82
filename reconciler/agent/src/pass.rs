//! One look at one sandbox: plan, observe, diff, apply, observe again, and what of the records that settles.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use netlink::ObserveError;
use plan::{Desired, Diff, Observed, Plan, PlanInput, Prune, Step, diff, ownership, plan};
use schemas::intent::{Attachment, CoordinatorSettings, Outcome};
use schemas::name::ContainerId;

use crate::agent::Agent;
use crate::learned;
use crate::ledger::{SandboxRecords, Steps, Update};
use crate::worker::Cause;

/// Changing a link makes the kernel change routes by itself: what is left after this many rounds is an error.
const ROUNDS: usize = 3;

/// How a pass ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// For whoever waits.
    pub outcome: Outcome,
    /// The kernel had been changed by somebody else, and was put right.
    pub is_repair: bool,
    /// The kernel took every step, and yet it was undone each time.
    pub is_undone: bool,
    /// What was done.
    pub steps: Vec<String>,
    /// When the last of it had been done.
    pub applied: Option<Instant>,
    /// The sandbox has no records any more.
    pub is_forgotten: bool,
    /// Its namespace is gone: only DEL or GC can change anything.
    pub is_gone: bool,
}

/// What a pass found in the kernel.
enum Found {
    /// The namespace, as it is after the pass.
    Namespace(Box<Observed>),
    /// The namespace, before every input has synced: what is not wanted may still be in it.
    Unpruned,
    /// No such namespace any more.
    Gone,
    /// It cannot be entered, but it lives.
    Unreachable,
}

struct Reconciled {
    /// Steps were left to do at the end.
    has_left: bool,
    found: Found,
    steps: Vec<Step>,
    applied: Option<Instant>,
    error: String,
    is_undone: bool,
}

impl Reconciled {
    fn without_look(found: Found, error: String) -> Self {
        Self { has_left: false, found, steps: Vec::new(), applied: None, error, is_undone: false }
    }
}

/// The plan of a sandbox by what is known now.
pub fn plan_of(agent: &Agent, records: &SandboxRecords) -> Plan {
    plan_with(agent, records, agent.rollout.settings(&records.sandbox.container).as_deref())
}

/// The plan of a sandbox, were these the SpiderCoordinator's settings.
pub fn plan_with(agent: &Agent, records: &SandboxRecords, cluster: Option<&CoordinatorSettings>) -> Plan {
    plan(PlanInput { sandbox: &records.sandbox, attachments: &records.to_plan(), node: &agent.node.facts(), cluster })
}

/// What may be deleted now.
pub fn prune(agent: &Agent) -> Prune {
    if agent.has_synced() { Prune::Yes } else { Prune::No }
}

/// Looks at one sandbox.
pub async fn run(agent: &Arc<Agent>, container: &ContainerId, cause: Option<Cause>, has_sysctls: bool) -> Ended {
    let Some(records) = agent.ledger.sandbox(container) else {
        agent.workers.set_planned(container, None);
        agent.rollout.forget(container);
        agent.node.mark();
        return Ended { is_forgotten: true, ..Ended::default() };
    };
    // Before the plan is made: by what is known later it could be another one.
    let prune = prune(agent);
    let wanted = Arc::new(plan_of(agent, &records));
    let is_new = agent.workers.planned(container).as_deref() != Some(&*wanted);
    // Another plan may want others.
    let has_sysctls = has_sysctls || is_new;
    agent.workers.set_planned(container, Some(Arc::clone(&wanted)));
    agent.ledger.note_planned(container);
    if is_new {
        tell_notes(agent, &records, &wanted.notes);
    }
    let in_pod = async {
        let _turn = agent.workers.turn().await;
        let (agent, records, wanted) = (Arc::clone(agent), Arc::clone(&records), Arc::clone(&wanted));
        tokio::task::spawn_blocking(move || reconcile(&agent, &records, &wanted.pod, prune, has_sysctls)).await
    };
    // Somebody waits for a new intent: pod and node are two namespaces, and neither needs the other's part first.
    let on_node = async {
        if is_new && cause == Some(Cause::Intent) { Some(agent.node.reconciled(&wanted.node).await) } else { None }
    };
    let (joined, on_node) = tokio::join!(in_pod, on_node);
    let pod = joined.unwrap_or_else(|error| Reconciled {
        has_left: true,
        ..Reconciled::without_look(Found::Unreachable, format!("the pass ended badly: {error}"))
    });
    let mut error = pod.error;
    if matches!(pod.found, Found::Gone) {
        agent.workers.forget_number(container);
        // It wants nothing of the node any more.
        agent.workers.set_planned(container, Some(Arc::default()));
        agent.node.mark();
    } else if is_new || !error.is_empty() {
        // The node's part is waited for only where it may have changed; its own events repair it otherwise.
        let on_node = match on_node {
            Some(on_node) if on_node.is_empty() || wanted.node.links.is_empty() => on_node,
            // The node's end of a pair comes with the pod's: the node had to be looked at once more.
            Some(_) | None => agent.node.reconciled(&wanted.node).await,
        };
        if error.is_empty() {
            error = on_node;
        }
    }
    let steps: Vec<String> = pod.steps.iter().map(ToString::to_string).collect();
    let is_repair = !steps.is_empty() && !is_new && cause != Some(Cause::Intent);
    report(agent, &records, &steps, &error, is_repair);
    let outcome = Outcome { generation: records.sandbox.generation, error };
    // Whoever waits for the kernel need not wait for the disk too: the intent is durable, and a restart verifies it again.
    agent.workers.publish(container, &outcome);
    let told = Steps { steps: steps.clone(), is_repair, error: outcome.error.clone() };
    let is_forgotten = settle(agent, &records, &pod.found, &outcome, told).await;
    let is_gone = matches!(pod.found, Found::Gone);
    Ended { outcome, is_repair, is_undone: pod.is_undone, steps, applied: pod.applied, is_forgotten, is_gone }
}

/// What could not be done as asked.
fn tell_notes(agent: &Agent, records: &SandboxRecords, notes: &[String]) {
    let pods = records.attachments.values().map(|attachment| &attachment.pod);
    let Some(pod) = pods.into_iter().find(|pod| pod.is_named()) else { return };
    for note in notes {
        tracing::info!(%pod, note, "not all is as asked");
        if let Some(cluster) = &agent.cluster {
            cluster.notice(crate::cluster::Notice::Limited(pod.clone(), note.clone()));
        }
    }
}

fn report(agent: &Agent, records: &SandboxRecords, steps: &[String], error: &str, is_repair: bool) {
    agent.metrics.passes.inc();
    agent.metrics.steps.inc_by(steps.len() as u64);
    let container = &records.sandbox.container;
    let pod = records.attachments.values().next().map(|attachment| attachment.pod.to_string()).unwrap_or_default();
    if is_repair {
        agent.metrics.repairs.inc();
        tracing::info!(%container, pod, ?steps, "repaired");
    } else if !steps.is_empty() {
        tracing::debug!(%container, pod, ?steps, "applied");
    }
    if !error.is_empty() {
        tracing::warn!(%container, pod, error, "not as wanted");
    }
}

/// Makes the namespace as desired. Blocking.
fn reconcile(
    agent: &Agent,
    records: &SandboxRecords,
    desired: &Desired,
    prune: Prune,
    has_sysctls: bool,
) -> Reconciled {
    let unreachable = |error: String| Reconciled::without_look(Found::Unreachable, error);
    let Some(identity) = &records.sandbox.netns else { return Reconciled::without_look(Found::Gone, String::new()) };
    let mut pass = match agent.kernel.pass(identity) {
        Ok(pass) => pass,
        Err(error) if error.is_gone() => {
            // The path may be gone while processes keep the namespace: the kernel says when it really goes.
            let lives = agent.workers.is_numbered(&records.sandbox.container);
            let found = if lives { Found::Unreachable } else { Found::Gone };
            let error = if records.is_withdrawn() { String::new() } else { error.to_string() };
            return Reconciled::without_look(found, error);
        }
        Err(error) => return unreachable(error.to_string()),
    };
    register(agent, records, &pass);
    let watched = Watched::of(records, desired);
    let ended = rounds(&mut pass, &watched, desired, prune, has_sysctls);
    if let Ok(reconciled) = &ended {
        announce(&pass, &reconciled.steps, desired);
    }
    match ended {
        // Of a sandbox that is being taken down, links go that the default CNI's routes would be put back on.
        Ok(reconciled) if records.is_withdrawn() && !reconciled.has_left => {
            Reconciled { error: String::new(), ..reconciled }
        }
        Ok(reconciled) => reconciled,
        Err(error) => unreachable(error.to_string()),
    }
}

/// Neighbours still have the address of before where one was changed. Links that were made anew are announced by the
/// kernel when they go up.
fn announce(pass: &netlink::Pass, steps: &[Step], desired: &Desired) {
    for step in steps {
        let Step::SetLinkMac { dev, .. } = step else { continue };
        let addresses = desired.addresses.iter().filter(|address| address.dev == *dev);
        let addresses: Vec<IpAddr> = addresses.map(|address| address.address.ip()).collect();
        if !addresses.is_empty() {
            pass.announce(dev, addresses);
        }
    }
}

/// Asks the kernel for the number by which events name this namespace, once.
fn register(agent: &Agent, records: &SandboxRecords, pass: &netlink::Pass) {
    let container = &records.sandbox.container;
    let Some(identity) = &records.sandbox.netns else { return };
    if agent.workers.is_numbered(container) || !agent.node.hears_all_namespaces() {
        return;
    }
    match pass.nsid() {
        Ok(nsid) => agent.workers.set_number(container, nsid, identity.cookie),
        Err(error) => {
            tracing::warn!(%container, %error, "changes in this namespace are seen only at the next resync");
        }
    }
}

/// What is looked at in a sandbox's namespace, besides what is always.
pub struct Watched {
    sysctls: Vec<String>,
    has_filter: bool,
}

impl Watched {
    /// What its plan is about. Only in underlay mode there is, or may be left, an nftables table.
    pub fn of(records: &SandboxRecords, desired: &Desired) -> Self {
        let has_filter = desired.filter.is_some() || records.sandbox.auxiliary.is_some();
        Self { sysctls: desired.sysctls.keys().cloned().collect(), has_filter }
    }

    /// The namespace, whole.
    ///
    /// # Errors
    /// When it is not.
    pub fn observe(&self, pass: &mut netlink::Pass) -> Result<Observed, ObserveError> {
        let observed = pass.observe(&self.sysctls)?;
        let filter = if self.has_filter { pass.observe_filter()? } else { None };
        Ok(Observed { filter, ..observed })
    }

    /// The same with these sysctls taken for what they are to be.
    fn observe_routing(&self, pass: &mut netlink::Pass, desired: &Desired) -> Result<Observed, ObserveError> {
        let observed = pass.observe(&[])?;
        let filter = if self.has_filter { pass.observe_filter()? } else { None };
        Ok(Observed { filter, sysctls: desired.sysctls.clone(), ..observed })
    }
}

/// Observe, diff, apply until nothing differs, or what is still not as desired.
fn rounds(
    pass: &mut netlink::Pass,
    watched: &Watched,
    desired: &Desired,
    prune: Prune,
    mut has_sysctls: bool,
) -> Result<Reconciled, ObserveError> {
    let (mut done, mut applied) = (Vec::new(), None);
    let look = |pass: &mut netlink::Pass, has_sysctls: bool| match has_sysctls {
        true => watched.observe(pass),
        false => watched.observe_routing(pass, desired),
    };
    let mut observed = look(pass, has_sysctls)?;
    let mut refused = Vec::new();
    let found = |observed| match prune {
        Prune::Yes => Found::Namespace(Box::new(observed)),
        Prune::No => Found::Unpruned,
    };
    for _ in 0..ROUNDS {
        let Diff { steps, blocked } = diff(desired, &observed, prune);
        if steps.is_empty() {
            let error = blocked.join("; ");
            let found = found(observed);
            return Ok(Reconciled { has_left: false, found, steps: done, applied, error, is_undone: false });
        }
        refused = pass
            .apply(&steps)
            .into_iter()
            .zip(&steps)
            .filter_map(|(result, step)| result.err().map(|error| format!("{step}: {error}")))
            .collect();
        applied = Some(Instant::now());
        // Links have sysctls of their own.
        has_sysctls |= steps.iter().any(|step| {
            matches!(
                step,
                Step::SetSysctl { .. } | Step::CreateLink(_) | Step::RenameLink { .. } | Step::DeleteLink { .. }
            )
        });
        done.extend(steps);
        observed = look(pass, has_sysctls)?;
    }
    let Diff { steps, blocked } = diff(desired, &observed, prune);
    let is_undone = !steps.is_empty() && refused.is_empty();
    let left = steps.iter().map(|step| format!("still to do: {step}"));
    // What was refused and is no longer left to do has come about otherwise.
    let refused = refused.into_iter().filter(|_| !steps.is_empty());
    let texts: Vec<String> = refused.chain(blocked).chain(left).collect();
    let error = texts.join("; ");
    Ok(Reconciled { has_left: !steps.is_empty(), found: found(observed), steps: done, applied, error, is_undone })
}

/// Writes down what the pass settled: attachments whose withdrawal is verified go, their addresses come back, and the
/// outcome stands with the generation that it belongs to. True when the sandbox has no records any more.
async fn settle(agent: &Arc<Agent>, seen: &SandboxRecords, found: &Found, outcome: &Outcome, told: Steps) -> bool {
    let container = &seen.sandbox.container;
    // What was done is told also where nothing of the records changes: a repair, or a plan that something else changed.
    let has_done = !told.steps.is_empty();
    if settled(seen, found, outcome, agent).is_none() && !has_done {
        return false;
    }
    let _turn = agent.ledger.lock(container).await;
    let Some(records) = agent.ledger.sandbox(container) else { return true };
    if *records != *seen {
        // Something was asked meanwhile: the pass that follows it settles.
        return false;
    }
    let mut update = match settled(&records, found, outcome, agent) {
        Some(update) => update,
        None if has_done => Update { sandbox: Some(records.sandbox.clone()), ..Update::default() },
        None => return false,
    };
    update.told = Some(told);
    let is_last = update.sandbox.is_none();
    let has_learned = !update.put.is_empty();
    let freed = update.freed.clone();
    match agent.ledger.commit(container, update).await {
        Ok(()) => {
            for address in freed {
                tracing::info!(%container, %address, "address is free again");
            }
            if has_learned {
                agent.mark(container, Cause::Resync);
            }
            if is_last {
                agent.workers.set_planned(container, None);
                agent.node.mark();
            }
            is_last
        }
        Err(error) => {
            tracing::error!(%container, %error, "what was verified could not be written down");
            false
        }
    }
}

/// The update that a pass leads to; None when the records stand as they are.
fn settled(records: &SandboxRecords, found: &Found, outcome: &Outcome, agent: &Agent) -> Option<Update> {
    let is_over = |attachment: &&Attachment| match found {
        Found::Gone => attachment.is_withdrawn() || attachment.closing,
        Found::Namespace(observed) => attachment.is_withdrawn() && is_clean(attachment, observed),
        Found::Unpruned | Found::Unreachable => false,
    };
    let over: Vec<&Attachment> = records.attachments.values().filter(is_over).collect();
    let mut update = Update::default();
    for attachment in &over {
        update.deleted.push(attachment.key.clone());
        let addresses: BTreeSet<IpAddr> = attachment.addresses.iter().map(|a| a.address.ip()).collect();
        update.freed.extend(addresses.into_iter().filter(|address| agent.ledger.is_owner(*address, &attachment.key)));
    }
    let is_verified = match found {
        Found::Gone => true,
        Found::Namespace(_) => outcome.error.is_empty(),
        Found::Unpruned | Found::Unreachable => false,
    };
    let is_last = is_verified && over.len() == records.attachments.len();
    if is_last {
        return Some(update);
    }
    let is_changed = records.sandbox.outcome != *outcome;
    if let Found::Namespace(observed) = found {
        update.put = learned(records, observed);
    }
    if over.is_empty() && !is_changed && update.put.is_empty() {
        return None;
    }
    let mut sandbox = records.sandbox.clone();
    sandbox.outcome = outcome.clone();
    if !over.is_empty() || !update.put.is_empty() {
        // Without its attachments, or with other addresses, the plan may be another: the next pass is of a new generation.
        sandbox.generation += 1;
    }
    update.sandbox = Some(sandbox);
    Some(update)
}

/// Attachments whose network has told their links something else since.
fn learned(records: &SandboxRecords, observed: &Observed) -> Vec<Attachment> {
    let coordinated = records.attachments.values().filter(|attachment| attachment.coordinate.is_some());
    let changed = coordinated.filter_map(|attachment| {
        let learned = learned::of(attachment, observed);
        (learned != attachment.learned).then(|| Attachment { learned, ..attachment.clone() })
    });
    changed.collect()
}

/// None of the attachment's addresses and links is left in the namespace.
fn is_clean(attachment: &Attachment, observed: &Observed) -> bool {
    let has_address = attachment
        .addresses
        .iter()
        .any(|assigned| observed.addresses.iter().any(|found| found.address.ip() == assigned.address.ip()));
    let has_link = attachment.link.as_ref().is_some_and(|intent| {
        observed
            .links
            .iter()
            .any(|link| link.name == attachment.key.ifname.as_str() && ownership::is_as_made(link, intent))
    });
    !has_address && !has_link
}
