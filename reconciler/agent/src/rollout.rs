//! How a changed SpiderCoordinator reaches running pods: in waves, one pod first and then twice as many each time, every
//! one verified before the next wave begins. Where one fails it gets back what it had, and the rest keep what they have
//! until something else is declared.
//!
//! New pods get what is declared at once: they have nothing to lose. What each pod has is in the store, so that a restart
//! in the middle goes on where it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemas::intent::CoordinatorSettings;
use schemas::name::ContainerId;
use serde::{Deserialize, Serialize};
use store::{Change, ReadError, Store};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::call::pod_name;
use crate::cluster::Notice;
use crate::pass;
use crate::worker::Cause;

const KEY_TARGET: &str = "rollout/target";
const KEY_STOPPED: &str = "rollout/stopped";
const KEY_BEHIND: &str = "rollout/behind/";
/// A pod that has not converged by then has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the waves have stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// `namespace/name`, or the container ID.
    pub pod: String,
    /// What went wrong there.
    pub error: String,
    /// How many pods have what is declared, and how many still have what held before.
    pub reached: usize,
    /// See `reached`.
    pub left: usize,
}

impl Stopped {
    /// On one line, with what to do.
    pub fn text(&self) -> String {
        let Self { pod, error, reached, left } = self;
        format!(
            "the changed SpiderCoordinator was taken back from {pod}, which does not work with it: {error}; {reached} pods \
             have it, {left} keep what held before until the SpiderCoordinator is changed again"
        )
    }
}

#[derive(Debug, Default)]
struct State {
    target: Option<Arc<CoordinatorSettings>>,
    /// Those that still have what held before.
    behind: BTreeMap<ContainerId, Arc<CoordinatorSettings>>,
    stopped: Option<Stopped>,
    /// What of this is not in the store yet.
    unwritten: bool,
    /// As the store has them.
    written: Vec<String>,
}

/// What is declared, and how far it has come.
#[derive(Debug, Default)]
pub struct Rollout {
    state: Mutex<State>,
    wake: Notify,
}

impl Rollout {
    /// What the store has of it.
    ///
    /// # Errors
    /// When the store cannot be read. A text that is none is told, and that pod gets what is declared.
    pub fn load(store: &Store, faults: &mut Vec<String>) -> Result<Self, ReadError> {
        let mut state = State::default();
        for (key, text) in store.catalogue("rollout/")?.texts {
            state.written.push(key.clone());
            let mut unreadable = |error: serde_json::Error| faults.push(format!("remembered {key}: {error}"));
            if key == KEY_STOPPED {
                state.stopped = serde_json::from_str(&text).map_err(&mut unreadable).ok();
                continue;
            }
            let Ok(settings) = serde_json::from_str(&text).map(Arc::new).map_err(&mut unreadable) else { continue };
            match key.strip_prefix(KEY_BEHIND).map(str::parse) {
                Some(Ok(container)) => drop(state.behind.insert(container, settings)),
                Some(Err(_)) => faults.push(format!("remembered {key}: it names no container")),
                None => state.target = Some(settings),
            }
        }
        Ok(Self { state: Mutex::new(state), wake: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds for a sandbox; None before anything was declared.
    pub fn settings(&self, container: &ContainerId) -> Option<Arc<CoordinatorSettings>> {
        let state = self.state();
        state.behind.get(container).or(state.target.as_ref()).cloned()
    }

    /// What holds in the end.
    pub fn target(&self) -> Option<Arc<CoordinatorSettings>> {
        self.state().target.clone()
    }

    /// Why it has come to a stop, if it has.
    pub fn stopped(&self) -> Option<Stopped> {
        self.state().stopped.clone()
    }

    /// How many sandboxes it has not reached.
    pub fn behind(&self) -> usize {
        self.state().behind.len()
    }

    /// Takes over what is declared. These sandboxes have what they have until a wave reaches them.
    pub fn declare(&self, settings: &CoordinatorSettings, sandboxes: impl Iterator<Item = ContainerId>) {
        let mut state = self.state();
        if state.target.as_deref() == Some(settings) {
            return;
        }
        if let Some(before) = state.target.replace(Arc::new(settings.clone())) {
            for container in sandboxes {
                state.behind.entry(container).or_insert_with(|| Arc::clone(&before));
            }
        }
        state.stopped = None;
        state.unwritten = true;
    }

    /// The waves may begin, or go on with what is declared now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// A sandbox that has just been attached by what is declared, or is no more.
    pub fn forget(&self, container: &ContainerId) {
        let mut state = self.state();
        state.unwritten |= state.behind.remove(container).is_some();
    }

    /// What the store is to have; None when it has.
    fn change(&self) -> Option<Change> {
        let mut state = self.state();
        if !std::mem::take(&mut state.unwritten) {
            return None;
        }
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        // Values of these types are always JSON.
        let text = |settings: &CoordinatorSettings| serde_json::to_string(settings).unwrap_or_default();
        texts.extend(state.target.as_deref().map(|target| (KEY_TARGET.to_owned(), text(target))));
        for (container, settings) in &state.behind {
            texts.insert(format!("{KEY_BEHIND}{container}"), text(settings));
        }
        if let Some(stopped) = &state.stopped {
            texts.insert(KEY_STOPPED.to_owned(), serde_json::to_string(stopped).unwrap_or_default());
        }
        let gone = state.written.iter().filter(|key| !texts.contains_key(*key));
        let change = gone.fold(Change::new(), |change, key| change.delete_catalogue(key));
        let change = texts.iter().fold(change, |change, (key, text)| change.put_catalogue(key, text));
        state.written = texts.into_keys().collect();
        Some(change)
    }

    fn put_back(&self, container: &ContainerId, settings: Arc<CoordinatorSettings>) {
        let mut state = self.state();
        state.behind.insert(container.clone(), settings);
        state.unwritten = true;
    }

    fn stop(&self, pod: String, error: String, reached: usize) -> Stopped {
        let mut state = self.state();
        let stopped = Stopped { pod, error, reached, left: state.behind.len() };
        state.stopped = Some(stopped.clone());
        state.unwritten = true;
        stopped
    }

    /// Moves up to `size` sandboxes on whose plan changes by it, and any number of those whose plan does not.
    fn wave(&self, agent: &Agent, size: usize) -> Vec<(ContainerId, Arc<CoordinatorSettings>)> {
        let behind: Vec<_> = {
            let state = self.state();
            if state.stopped.is_some() {
                return Vec::new();
            }
            state.behind.iter().map(|(container, settings)| (container.clone(), Arc::clone(settings))).collect()
        };
        let target = self.target();
        let mut wave = Vec::new();
        for (container, settings) in behind {
            let changes = agent.ledger.sandbox(&container).is_some_and(|records| {
                let with =
                    |settings: &Option<Arc<CoordinatorSettings>>| pass::plan_with(agent, &records, settings.as_deref());
                with(&Some(Arc::clone(&settings))) != with(&target)
            });
            if changes && wave.len() == size {
                continue;
            }
            self.forget(&container);
            if changes {
                wave.push((container, settings));
            }
        }
        wave
    }
}

/// Starts the task that makes the waves.
pub fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) {
    let agent = Arc::clone(agent);
    tasks.spawn(async move {
        let stopping = agent.stopping();
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = agent.rollout.wake.notified() => {}
                () = &mut stopping => return,
            }
            tokio::select! {
                () = roll(&agent) => {}
                () = &mut stopping => return,
            }
        }
    });
}

async fn write(agent: &Agent) {
    if let Some(change) = agent.rollout.change()
        && let Err(error) = agent.ledger.record(change).await
    {
        agent.rollout.state().unwritten = true;
        tracing::error!(%error, "how far the SpiderCoordinator has reached the pods could not be written down");
    }
}

async fn roll(agent: &Arc<Agent>) {
    let mut size = 1;
    let mut reached = 0;
    loop {
        // Before the first pod is touched it is known what the others have.
        write(agent).await;
        // No plan is made before the node is known.
        agent.node.passed().await;
        if !agent.has_synced() {
            return;
        }
        let wave = agent.rollout.wave(agent, size);
        if wave.is_empty() {
            write(agent).await;
            if reached > 0 && agent.rollout.stopped().is_none() {
                tracing::info!(pods = reached, "the changed SpiderCoordinator has reached all pods");
            }
            return;
        }
        write(agent).await;
        tracing::debug!(pods = wave.len(), "a wave of the changed SpiderCoordinator");
        let mut moved = JoinSet::new();
        for (container, before) in wave {
            let agent = Arc::clone(agent);
            moved.spawn(async move {
                let ended = moved_on(&agent, &container).await;
                (container, before, ended)
            });
        }
        let mut failed = None;
        while let Some(joined) = moved.join_next().await {
            match joined {
                Ok((_, _, Ok(()))) => reached += 1,
                Ok((container, before, Err(error))) => {
                    agent.rollout.put_back(&container, before);
                    agent.mark(&container, Cause::Intent);
                    failed.get_or_insert((container, error));
                }
                Err(error) => tracing::error!(%error, "a pod's part of a wave ended badly"),
            }
        }
        if let Some((container, error)) = failed {
            tell(agent, &container, error, reached);
            write(agent).await;
            return;
        }
        size *= 2;
    }
}

fn tell(agent: &Agent, container: &ContainerId, error: String, reached: usize) {
    let pod = agent.ledger.sandbox(container).map_or_else(|| container.to_string(), |records| pod_name(&records));
    let stopped = agent.rollout.stop(pod, error, reached);
    tracing::error!(reason = stopped.text(), "the changed SpiderCoordinator goes no further");
    if let Some(cluster) = &agent.cluster {
        let name = agent.catalogue().coordinator.as_ref().and_then(|found| found.object.metadata.name.clone());
        cluster.notice(Notice::RolloutStopped(name.unwrap_or_default(), stopped.text()));
    }
}

/// Waits until a sandbox is as its plan has it by now. One that was not as wanted before has nothing to be broken.
async fn moved_on(agent: &Arc<Agent>, container: &ContainerId) -> Result<(), String> {
    let mut outcome = agent.workers.outcome(container);
    let was_broken = !outcome.borrow_and_update().error.is_empty();
    agent.mark(container, Cause::Intent);
    let verified = async {
        loop {
            if outcome.changed().await.is_err() {
                // It is no more.
                return Ok(());
            }
            let error = outcome.borrow_and_update().error.clone();
            let Some(records) = agent.ledger.sandbox(container) else { return Ok(()) };
            // A pass that was under way followed the plan of before.
            if agent.workers.planned(container).as_deref() == Some(&pass::plan_of(agent, &records)) {
                return if error.is_empty() { Ok(()) } else { Err(error) };
            }
        }
    };
    let ended = match tokio::time::timeout(PATIENCE, verified).await {
        Ok(ended) => ended,
        Err(_) => Err(format!("it has not converged within {} s", PATIENCE.as_secs())),
    };
    if was_broken { Ok(()) } else { ended }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(hijack: &str) -> CoordinatorSettings {
        let spec = format!("{{\"hijackCIDR\": [\"{hijack}\"]}}");
        let spec: schemas::crd::coordinator::SpiderCoordinatorSpec = serde_json::from_str(&spec).unwrap();
        schemas::crd::coordinator::SpiderCoordinator::new("default", spec).settings().unwrap()
    }

    #[test]
    fn running_pods_keep_what_they_have_and_new_ones_get_what_is_declared() {
        let rollout = Rollout::default();
        let [old, older, new]: [ContainerId; 3] = ["old", "older", "new"].map(|name| name.parse().unwrap());
        let [first, second, third] = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"].map(settings);
        assert_eq!(rollout.settings(&old), None);
        rollout.declare(&first, [old.clone()].into_iter());
        assert_eq!(rollout.settings(&old).as_deref(), Some(&first));
        rollout.declare(&second, [old.clone(), older.clone()].into_iter());
        rollout.forget(&old);
        rollout.declare(&third, [old.clone(), older.clone()].into_iter());
        let has = |container| rollout.settings(container).unwrap();
        assert_eq!((&*has(&old), &*has(&older), &*has(&new)), (&second, &first, &third));
    }

    #[test]
    fn it_comes_back_from_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), "node", "boot").unwrap();
        let rollout = Rollout::default();
        let pod: ContainerId = "pod".parse().unwrap();
        let [first, second] = ["10.1.0.0/16", "10.2.0.0/16"].map(settings);
        rollout.declare(&first, std::iter::empty());
        rollout.declare(&second, [pod.clone()].into_iter());
        let stopped = rollout.stop("default/web".into(), "no route".into(), 3);
        store.commit(rollout.change().unwrap()).unwrap();
        assert!(rollout.change().is_none());
        let mut faults = Vec::new();
        let again = Rollout::load(&store, &mut faults).unwrap();
        assert_eq!((again.settings(&pod).as_deref(), again.target().as_deref()), (Some(&first), Some(&second)));
        assert_eq!((again.stopped(), faults), (Some(stopped), Vec::<String>::new()));
        again.forget(&pod);
        store.commit(again.change().unwrap()).unwrap();
        let last = Rollout::load(&store, &mut Vec::new()).unwrap();
        assert_eq!(last.settings(&pod).as_deref(), Some(&second));
        store
            .commit(Change::new().put_catalogue("rollout/behind/x", "{").put_catalogue("rollout/behind/ ", "{}"))
            .unwrap();
        let mut faults = Vec::new();
        Rollout::load(&store, &mut faults).unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
        store.close();
    }
}
