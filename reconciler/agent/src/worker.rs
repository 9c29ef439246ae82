//! Who reconciles which sandbox, when: one worker a sandbox, a bounded number at once, back-off for what fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use netlink::EventKind;
use schemas::intent::{Outcome, PodRef};
use schemas::name::ContainerId;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use crate::agent::Agent;
use crate::cluster::Notice;
use crate::fight::Fight;
use crate::ledger::SandboxRecords;
use crate::pass;

mod numbers;

use numbers::Numbers;

/// How many sandboxes are looked at once: looks are short and end in netlink, which serialises writers.
const AT_ONCE: usize = 8;
/// How many passes are under way: besides those that look, those that have looked and write down what they found, which
/// the disk takes its time for and does for many at once.
const UNDER_WAY: usize = 64;
/// After an event, what belongs to the same change is waited for: so long at first, and up to so long in a namespace
/// where other programs keep changing what is not ours.
const SETTLE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// After so long without an event that led to nothing, the first wait holds again.
const QUIET: Duration = Duration::from_secs(1);
/// Of failing passes, the first and the longest wait before the next.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// Why a sandbox is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its intent changed.
    Intent,
    /// The kernel said that something changed.
    Event,
    /// Time, or a change of what is declared.
    Resync,
}

struct Slot {
    is_running: bool,
    pending: Option<Cause>,
    /// The next look is at sysctls too.
    has_sysctls: bool,
    /// When the first event was read that no look has followed yet.
    heard: Option<Instant>,
    wake: Arc<Notify>,
    intent: Arc<Notify>,
    outcome: watch::Sender<Outcome>,
    fight: Fight,
    pace: Pace,
    failures: u32,
    desired: Option<Arc<plan::Plan>>,
    /// The last pass found its namespace gone.
    is_gone: bool,
}

impl Slot {
    fn new() -> Self {
        Self {
            is_running: false,
            pending: None,
            has_sysctls: true,
            heard: None,
            wake: Arc::new(Notify::new()),
            intent: Arc::new(Notify::new()),
            outcome: watch::Sender::new(Outcome::default()),
            fight: Fight::default(),
            pace: Pace::default(),
            failures: 0,
            desired: None,
            is_gone: false,
        }
    }
}

/// How long events settle before a look: longer while looks find nothing to do.
#[derive(Debug)]
pub(crate) struct Pace {
    settle: Duration,
    last: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { settle: SETTLE.0, last: None }
    }
}

impl Pace {
    /// How long to wait after an event.
    pub(crate) fn settle(&self) -> Duration {
        self.settle
    }

    /// Notes whether a look after an event found something to do.
    pub(crate) fn looked(&mut self, has_found: bool, now: Instant) {
        let is_quiet = self.last.is_none_or(|last| now.duration_since(last) > QUIET);
        self.settle = if has_found || is_quiet { SETTLE.0 } else { (self.settle * 2).min(SETTLE.1) };
        self.last = Some(now);
    }
}

/// All workers.
pub struct Workers {
    slots: Mutex<HashMap<ContainerId, Slot>>,
    numbers: Mutex<Numbers>,
    on_node: Mutex<BTreeMap<ContainerId, Arc<plan::Plan>>>,
    permits: Semaphore,
    turns: Semaphore,
    /// Counts the namespaces that were found gone.
    vanished: watch::Sender<u64>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
            numbers: Mutex::default(),
            on_node: Mutex::default(),
            permits: Semaphore::new(UNDER_WAY),
            turns: Semaphore::new(AT_ONCE),
            vanished: watch::Sender::new(0),
        }
    }
}

impl Workers {
    fn slots(&self) -> MutexGuard<'_, HashMap<ContainerId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, container: &ContainerId, act: impl FnOnce(&mut Slot) -> T) -> T {
        act(self.slots().entry(container.clone()).or_insert_with(Slot::new))
    }

    /// How the passes of a sandbox end from now on.
    pub fn outcome(&self, container: &ContainerId) -> watch::Receiver<Outcome> {
        self.with(container, |slot| slot.outcome.subscribe())
    }

    /// Tells those who wait how a pass has ended.
    pub fn publish(&self, container: &ContainerId, outcome: &Outcome) {
        self.with(container, |slot| slot.outcome.send_replace(outcome.clone()));
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which sandbox the events of a namespace belong to.
    pub fn container_of(&self, nsid: i32) -> Option<ContainerId> {
        self.numbers().container_of(nsid)
    }

    /// A namespace that had this number is no more: whose it was, all of whom forget it.
    pub fn gone(&self, nsid: i32) -> Vec<ContainerId> {
        self.numbers().gone(nsid)
    }

    /// Whether a sandbox's namespace has a number, by which the kernel will say that it is gone.
    pub fn is_numbered(&self, container: &ContainerId) -> bool {
        self.numbers().has(container)
    }

    /// Remembers the number of a sandbox's namespace, while that is known to be there, and its cookie.
    pub fn set_number(&self, container: &ContainerId, nsid: i32, cookie: u64) {
        self.numbers().set(container, nsid, cookie);
    }

    /// Forgets the number of a sandbox's namespace.
    pub fn forget_number(&self, container: &ContainerId) {
        self.numbers().forget(container);
    }

    /// Forgets all of them: they are asked for again.
    pub fn forget_numbers(&self) {
        self.numbers().forget_all();
    }

    /// The plan that the last pass of a sandbox followed.
    pub fn planned(&self, container: &ContainerId) -> Option<Arc<plan::Plan>> {
        self.slots().get(container)?.desired.clone()
    }

    /// The plans that passes have followed and that want something of the node.
    pub fn planned_on_node(&self) -> Vec<Arc<plan::Plan>> {
        self.on_node.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Remembers the plan that a pass follows.
    pub fn set_planned(&self, container: &ContainerId, plan: Option<Arc<plan::Plan>>) {
        self.with(container, |slot| {
            let mut on_node = self.on_node.lock().unwrap_or_else(PoisonError::into_inner);
            match &plan {
                Some(plan) if plan.node != plan::Desired::default() => {
                    on_node.insert(container.clone(), Arc::clone(plan));
                }
                _ => drop(on_node.remove(container)),
            }
            slot.desired = plan;
        });
    }

    /// Forgets a sandbox whose records are gone; false when it has been asked for again meanwhile.
    fn forget(&self, container: &ContainerId) -> bool {
        let mut slots = self.slots();
        let is_asked = |slot: &Slot| slot.pending.is_some() || slot.outcome.receiver_count() > 0;
        if slots.get(container).is_some_and(is_asked) {
            return false;
        }
        slots.remove(container);
        self.on_node.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
        self.numbers().forget(container);
        true
    }

    /// Sandboxes that another program fights over.
    pub fn contested(&self) -> Vec<ContainerId> {
        let now = Instant::now();
        let mut contested: Vec<ContainerId> =
            self.slots().iter().filter(|(_, slot)| slot.fight.is_on(now)).map(|(id, _)| id.clone()).collect();
        contested.sort();
        contested
    }

    /// How many sandboxes have an outcome that is an error.
    pub fn unconverged(&self) -> usize {
        self.slots().values().filter(|slot| !slot.outcome.borrow().error.is_empty()).count()
    }

    /// Whether the last pass of a sandbox found its namespace gone.
    pub fn is_without_namespace(&self, container: &ContainerId) -> bool {
        self.slots().get(container).is_some_and(|slot| slot.is_gone)
    }

    /// Sandboxes whose namespace is gone.
    pub fn without_namespace(&self) -> BTreeSet<ContainerId> {
        self.slots().iter().filter(|(_, slot)| slot.is_gone).map(|(container, _)| container.clone()).collect()
    }

    /// Tells when there is another of them.
    pub fn vanished(&self) -> watch::Receiver<u64> {
        self.vanished.subscribe()
    }

    /// Completes when no pass is running.
    pub async fn drain(&self) {
        // Passes hold a permit each: all permits together mean no pass.
        let all = u32::try_from(UNDER_WAY).unwrap_or(u32::MAX);
        drop(self.permits.acquire_many(all).await);
    }

    /// Whose turn it is to look, in the order in which they ask; until it is dropped.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed: then it would hold nobody up.
        self.turns.acquire().await.ok()
    }
}

impl Agent {
    /// Says that a sandbox needs a look.
    pub fn mark(self: &Arc<Self>, container: &ContainerId, cause: Cause) {
        self.mark_for(container, cause, true);
    }

    /// The kernel said that something changed in a sandbox's namespace. Rules, routes, neighbours and nftables change no
    /// sysctl, and reading those is what takes longest.
    pub fn mark_changed(self: &Arc<Self>, container: &ContainerId, what: EventKind) {
        let has_sysctls = match what {
            EventKind::Link | EventKind::Address | EventKind::Netconf => true,
            EventKind::Route | EventKind::Rule | EventKind::Neighbour | EventKind::Filter => false,
        };
        self.mark_for(container, Cause::Event, has_sysctls);
    }

    fn mark_for(self: &Arc<Self>, container: &ContainerId, cause: Cause, has_sysctls: bool) {
        // A stopping agent still answers what it has been asked.
        if self.is_stopping() && cause != Cause::Intent {
            return;
        }
        // A plan without the node's addresses would be another one: all are looked at once these are known.
        if !self.node.has_facts() {
            return;
        }
        let start = self.workers.with(container, |slot| {
            // An intent is looked at without delay even when an event came first.
            if slot.pending != Some(Cause::Intent) {
                slot.pending = Some(cause);
            }
            slot.has_sysctls |= has_sysctls;
            if cause == Cause::Event {
                slot.heard.get_or_insert_with(Instant::now);
            }
            // A failing pass is tried again when something moves; a fight is not.
            if cause == Cause::Intent || !slot.fight.is_on(Instant::now()) {
                slot.wake.notify_one();
            }
            if cause == Cause::Intent {
                slot.intent.notify_one();
            }
            !std::mem::replace(&mut slot.is_running, true)
        });
        if start {
            let (agent, container) = (Arc::clone(self), container.clone());
            tokio::spawn(async move { agent.work(&container).await });
        }
    }

    /// All sandboxes and the node need a look.
    pub fn mark_all(self: &Arc<Self>) {
        self.mark_all_sandboxes();
        self.node.mark();
    }

    /// All sandboxes need a look.
    pub fn mark_all_sandboxes(self: &Arc<Self>) {
        for records in self.ledger.sandboxes() {
            self.mark(&records.sandbox.container, Cause::Resync);
        }
    }

    /// It is time to look at all sandboxes. Of those whose namespaces were gone, only at those at whose paths something is,
    /// and at those that nothing is wanted of: what they had is to be given back.
    pub async fn mark_in_turn(self: &Arc<Self>) {
        let gone = self.workers.without_namespace();
        let is_gone =
            |records: &Arc<SandboxRecords>| gone.contains(&records.sandbox.container) && !records.is_withdrawn();
        let (gone, living): (Vec<_>, Vec<_>) = self.ledger.sandboxes().into_iter().partition(is_gone);
        for records in living {
            self.mark(&records.sandbox.container, Cause::Resync);
        }
        self.node.mark();
        let is_there = |records: &Arc<SandboxRecords>| {
            records.sandbox.netns.as_ref().is_some_and(|netns| Path::new(&netns.path).exists())
        };
        let back = tokio::task::spawn_blocking(move || gone.into_iter().filter(is_there).collect::<Vec<_>>()).await;
        for records in back.unwrap_or_default() {
            self.mark(&records.sandbox.container, Cause::Resync);
        }
    }

    /// Those sandboxes need a look whose plan is no longer the one that their last pass followed.
    pub fn mark_replanned(self: &Arc<Self>) {
        // One whose namespace is gone follows no plan.
        let gone = self.workers.without_namespace();
        let all = self.ledger.sandboxes();
        for records in all.iter().filter(|records| !gone.contains(&records.sandbox.container)) {
            let container = &records.sandbox.container;
            if self.workers.planned(container).as_deref() != Some(&pass::plan_of(self, records)) {
                self.mark(container, Cause::Resync);
            }
        }
        self.node.mark();
    }

    /// Passes over one sandbox until nothing is pending.
    async fn work(self: Arc<Self>, container: &ContainerId) {
        loop {
            let cause = self.workers.with(container, |slot| slot.pending.take());
            let begun = Instant::now();
            let cause = if cause == Some(Cause::Event) { self.settled(container).await } else { cause };
            let settled = begun.elapsed();
            let (heard, has_sysctls) = self
                .workers
                .with(container, |slot| (slot.heard.take(), std::mem::replace(&mut slot.has_sysctls, false)));
            let Ok(permit) = self.workers.permits.acquire().await else { return };
            // By itself: all who wait for a permit would have room for it.
            let ended = Box::pin(pass::run(&self, container, cause, has_sysctls)).await;
            drop(permit);
            if cause == Some(Cause::Event) {
                self.workers.with(container, |slot| slot.pace.looked(!ended.steps.is_empty(), Instant::now()));
            }
            if let (true, Some(heard), Some(applied)) = (ended.is_repair, heard, ended.applied) {
                let taken = applied.saturating_duration_since(heard);
                self.metrics.repair_seconds.observe(taken.as_secs_f64());
                self.metrics.repair_work_seconds.observe(taken.saturating_sub(settled).as_secs_f64());
            }
            if self.end_of_pass(container, ended).await {
                return;
            }
        }
    }

    /// Waits until what belongs to one change has settled, or an intent comes, which is not made to wait; which of the
    /// two.
    async fn settled(&self, container: &ContainerId) -> Option<Cause> {
        let (settle, intent) = self.workers.with(container, |slot| (slot.pace.settle(), Arc::clone(&slot.intent)));
        tokio::select! {
            () = tokio::time::sleep(settle) => {}
            () = intent.notified() => {}
        }
        let pending = self.workers.with(container, |slot| slot.pending.take());
        if pending == Some(Cause::Intent) { pending } else { Some(Cause::Event) }
    }

    fn tell_contested(&self, container: &ContainerId, steps: &[String]) {
        let (Some(cluster), Some(records)) = (&self.cluster, self.ledger.sandbox(container)) else { return };
        let pods = records.attachments.values().map(|attachment| attachment.pod.clone());
        for pod in pods.filter(PodRef::is_named).take(1) {
            let note =
                format!("another program keeps changing this back, repairs are slowed down: {}", steps.join("; "));
            cluster.notice(Notice::Contested(pod, note));
        }
    }

    /// Publishes how a pass ended and waits before the next where it must; true when there is no next.
    async fn end_of_pass(self: &Arc<Self>, container: &ContainerId, ended: pass::Ended) -> bool {
        if ended.is_forgotten && self.ledger.sandbox(container).is_none() && self.workers.forget(container) {
            return true;
        }
        let was_gone = self.workers.with(container, |slot| std::mem::replace(&mut slot.is_gone, ended.is_gone));
        if ended.is_gone && !was_gone {
            self.workers.vanished.send_modify(|count| *count += 1);
        }
        let (backoff, pace, wake) = self.workers.with(container, |slot| {
            slot.failures =
                if ended.outcome.error.is_empty() || ended.is_gone { 0 } else { slot.failures.saturating_add(1) };
            let backoff = (slot.failures > 0).then(|| {
                let factor = 1_u32 << (slot.failures - 1).min(16);
                (BACKOFF.0 * factor).min(BACKOFF.1)
            });
            let pace = match (ended.is_repair, ended.is_undone) {
                (true, true) => Some(slot.fight.lost(Instant::now())),
                (true, false) => slot.fight.repaired(Instant::now()),
                (false, _) => None,
            };
            if backoff.is_some() {
                slot.has_sysctls = true;
            }
            if backoff.is_some() && slot.pending.is_none() {
                slot.pending = Some(Cause::Resync);
            }
            if pace.is_some() && slot.pending.is_none() {
                // What the other program does meanwhile is looked at when the pace allows.
                slot.pending = Some(Cause::Event);
            }
            (backoff, pace, Arc::clone(&slot.wake))
        });
        if let Some(wait) = backoff.max(pace) {
            if pace.is_some() {
                self.metrics.fights.inc();
                tracing::warn!(
                    %container,
                    next_in = ?wait,
                    steps = ?ended.steps,
                    "another program keeps changing this back: find it, or change what is declared"
                );
                self.tell_contested(container, &ended.steps);
            }
            let stopping = self.stopping();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = wake.notified() => {}
                () = stopping => {}
            }
        }
        self.workers.with(container, |slot| {
            let is_done = slot.pending.is_none() || (self.is_stopping() && slot.pending != Some(Cause::Intent));
            if is_done {
                slot.is_running = false;
            }
            is_done
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_lead_to_nothing_are_waited_for_longer_until_it_is_quiet() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        for event in 0..20 {
            pace.looked(false, at(event * 100));
        }
        assert_eq!(pace.settle(), SETTLE.1);
        pace.looked(true, at(2_000));
        assert_eq!(pace.settle(), SETTLE.0);
        pace.looked(false, at(2_100));
        assert_eq!(pace.settle(), SETTLE.0 * 2);
        pace.looked(false, at(4_000));
        assert_eq!(pace.settle(), SETTLE.0);
    }
}
