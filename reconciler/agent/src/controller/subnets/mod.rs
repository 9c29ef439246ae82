//! SpiderSubnet: pools of their own for workloads, and what pools have from their subnet.
//!
//! ```text
//! read ──▶ view ──▶ wants, sizing, shape, status ──▶ decision ──▶ perform, fences
//! ```
//!
//! [`read`] and [`foreign`] watch, [`view`] is what was read, [`decision`] says what is to be done next from that alone,
//! [`perform`] does it; then it is decided anew from what has come of it, until there is nothing to do. Nothing that
//! matters is remembered, so ending at any point harms nothing. An address is given by writing it into the status of its
//! subnet, which names the version that the decision rests on: two controllers cannot give it to two pools.

pub mod annotations;
pub mod decision;
pub mod fences;
mod foreign;
pub mod naming;
mod perform;
pub mod read;
pub mod record;
pub mod shape;
pub mod sizing;
pub mod status;
pub mod view;
pub mod wants;
pub mod workload;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod decision_tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::runtime::events::EventType;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use tokio::sync::mpsc;

use self::decision::{Memory, decide};
use self::foreign::Foreign;
use self::perform::Done;
use self::read::{Heard, Reading, everything};
use self::wants::{Fault, Faulty};
use super::Context;
use super::health::Wait;

/// How its part is named in what is said about it.
const PART: &str = "SpiderSubnets and workloads";
/// What must be served before anything is read.
const NEEDED: [&str; 3] = [
    "spidersubnets.spiderpool.spidernet.io",
    "spiderippools.spiderpool.spidernet.io",
    "spiderreservedips.spiderpool.spidernet.io",
];
/// How much is read before anything is decided, when there is much.
const BATCH: usize = 10_000;
/// News of foreign kinds that have been seen and not looked at yet.
const BACKLOG: usize = 64;
/// How often it is decided without looking at what has changed meanwhile.
const ROUNDS: usize = 30;
/// Until what could not be written is tried again, at most.
const AT_MOST: Duration = Duration::from_secs(30);
/// Between two looks at slots that have to become free: what makes them free is mostly seen, but not always.
const LOOKS: Duration = Duration::from_secs(30);

/// Keeps subnets in order, for as long as it is polled.
pub(super) async fn run(mut context: Context) {
    context.health.waits_for(PART, Some(Wait::Lacking(format!("{PART} have not been read yet"))));
    let is_served = |names: &Option<std::sync::Arc<BTreeSet<String>>>| {
        names.as_ref().is_some_and(|names| NEEDED.iter().all(|name| names.contains(*name)))
    };
    if context.crds.wait_for(is_served).await.is_err() {
        return;
    }
    let mut heard = everything(&context.client, &context.config.namespace);
    let (tell, mut told) = mpsc::channel(BACKLOG);
    let mut subnets = Subnets {
        foreign: Foreign::new(context.clone(), tell),
        context,
        reading: Reading::default(),
        memory: Memory::default(),
        faults: BTreeMap::new(),
    };
    let mut backoff = DefaultBackoff::default();
    let mut pause = None;
    loop {
        let again = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let mut is_new = tokio::select! {
            said = heard.next() => match said {
                Some(said) => subnets.hear(said),
                None => return,
            },
            Some(heard) = told.recv() => subnets.hear(Ok(heard)),
            () = again => {
                pause = None;
                subnets.reading.view.usage.clear();
                true
            }
        };
        for _ in 0..BATCH {
            let Some(said) = heard.next().now_or_never().flatten() else { break };
            is_new |= subnets.hear(said);
        }
        while let Ok(heard) = told.try_recv() {
            is_new |= subnets.hear(Ok(heard));
        }
        if !is_new || !subnets.reading.is_complete() {
            continue;
        }
        subnets.context.health.waits_for(PART, None);
        pause = match subnets.settle().await {
            Settled::Done => {
                backoff.reset();
                None
            }
            Settled::Waiting => {
                backoff.reset();
                Some(LOOKS)
            }
            Settled::Failed => Some(backoff.next().unwrap_or(AT_MOST)),
        };
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// There is nothing to do.
    Done,
    /// Somebody has to give back addresses.
    Waiting,
    /// Something could not be done.
    Failed,
}

struct Subnets {
    context: Context,
    reading: Reading,
    memory: Memory,
    foreign: Foreign,
    /// What was told.
    faults: BTreeMap<Faulty, BTreeSet<Fault>>,
}

impl Subnets {
    fn hear(&mut self, said: kube::runtime::watcher::Result<Heard>) -> bool {
        match said {
            Ok(heard) => {
                let was_complete = self.reading.is_complete();
                self.reading.hear(heard) || self.reading.is_complete() != was_complete
            }
            Err(error) => {
                self.context.health.watch_failures.inc();
                tracing::warn!(%error, "{PART}: a watch was interrupted; it is taken up again");
                false
            }
        }
    }

    /// Decides and does what was decided, until there is nothing to do.
    async fn settle(&mut self) -> Settled {
        let kinds = self.reading.view.foreign_kinds();
        self.reading.keep_foreign(&kinds);
        self.foreign.follow(&kinds);
        for _ in 0..ROUNDS {
            let decision = decide(&self.reading.view, &mut self.memory, Timestamp::now());
            self.tell(decision.faults).await;
            for pool in decision.restored {
                self.tell_restored(&pool).await;
            }
            if decision.actions.is_empty() {
                return if decision.waiting.is_empty() { Settled::Done } else { Settled::Waiting };
            }
            let mut is_done = true;
            for action in decision.actions {
                is_done &= perform::perform(&self.context, &mut self.reading, action).await == Done::Yes;
            }
            if !is_done {
                return Settled::Failed;
            }
        }
        // As if it had failed: whatever goes round here does so slowly.
        Settled::Failed
    }

    /// Says once of each workload why it does not have what it asks for.
    async fn tell(&mut self, faults: BTreeMap<Faulty, BTreeSet<Fault>>) {
        for ((app, uid), faults) in &faults {
            let told = self.faults.get(&(app.clone(), uid.clone()));
            for fault in faults.iter().filter(|fault| !told.is_some_and(|told| told.contains(fault))) {
                let (kind, namespace, name) = (&app.kind, &app.namespace, &app.name);
                tracing::warn!(kind, namespace, name, reason = fault.reason(), "{fault}");
                let regarding = ObjectReference {
                    api_version: Some(app.api_version()),
                    kind: Some(kind.clone()),
                    namespace: Some(namespace.clone()),
                    name: Some(name.clone()),
                    uid: Some(uid.clone()),
                    ..ObjectReference::default()
                };
                self.context.publish(EventType::Warning, fault.reason(), fault.to_string(), &regarding).await;
            }
        }
        self.faults = faults;
    }

    async fn tell_restored(&self, name: &str) {
        let Some(pool) = self.reading.view.pools.get(name) else { return };
        let note = "the addresses of this pool are the SpiderSubnet controller's; what was changed is put right: change \
                    the number of addresses by annotation ipam.spidernet.io/ippool-ip-number of the workload";
        tracing::info!(pool = name, "{note}");
        self.context.publish(EventType::Warning, "AutoPoolRestored", note.into(), &pool.object_ref(&())).await;
    }
}
