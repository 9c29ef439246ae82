//! Desired against observed: CHECK, `dragline check`, `dragline plan`.

use std::sync::Arc;
use std::time::Duration;

use plan::{Desired, Plan, Prune, diff};
use schemas::cni::error::CniError;
use schemas::crd::coordinator::SpiderCoordinator;
use schemas::intent::CoordinatorSettings;
use schemas::wire::{Answer, Difference, Part, PlanCall, PodPlan, PodQuery, VerifyCall};
use tokio::time::Instant;

use super::wait;
use crate::agent::Agent;
use crate::ledger::SandboxRecords;
use crate::node;
use crate::pass::{self, Watched};

/// The longest that CHECK waits for what is being changed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers CHECK.
pub(super) async fn verify(agent: &Arc<Agent>, call: VerifyCall, deadline: Instant) -> Result<Answer, CniError> {
    let container = &call.place.key.container;
    if let Some(records) = agent.ledger.sandbox(container) {
        // What another attachment is about to lose or to get is no drift. Whatever comes of it is seen below.
        let generation = records.sandbox.generation;
        if agent.workers.outcome(container).borrow().generation < generation {
            let _ = wait::converged(agent, container, generation, deadline.min(Instant::now() + PATIENCE)).await;
        }
    }
    let unknown = || {
        CniError::new(
            CniError::UNKNOWN_CONTAINER,
            format!("attachment {} is not known: it was never added, or has been deleted", call.place.key),
        )
    };
    let records = agent.ledger.sandbox(container).ok_or_else(unknown)?;
    let attachment = records.attachments.get(&call.place.key.ifname).ok_or_else(unknown)?;
    let is_there = match call.part {
        Part::Addresses => attachment.allocated,
        Part::Link => attachment.link_wanted,
        Part::Routes => attachment.coordinate.is_some(),
        Part::Uplink => attachment.uplink.is_some(),
    };
    if !is_there {
        return Err(unknown());
    }
    of_sandbox(agent, records).await.map(Answer::Differences)
}

/// Answers `dragline check`.
pub(super) async fn differences(agent: &Arc<Agent>, query: PodQuery) -> Result<Answer, CniError> {
    let mut found = Vec::new();
    for records in selected(agent, &query).into_iter().filter(|records| !records.is_withdrawn()) {
        let place = pod_name(&records);
        match of_sandbox(agent, records).await {
            Ok(differences) => found.extend(differences),
            // One that cannot be looked at differs, and hides no other.
            Err(error) => found.push(Difference { place, step: error.msg }),
        }
    }
    if query.pod.is_none() && query.namespace.is_none() {
        let owned = Arc::clone(agent);
        let joined = tokio::task::spawn_blocking(move || node::differences(&owned)).await;
        let steps = joined.map_err(|error| error.to_string()).and_then(|steps| steps);
        let steps = steps.map_err(|error| CniError::new(CniError::FAILED, format!("the node: {error}")))?;
        found.extend(steps.into_iter().map(|step| Difference { place: "node".into(), step }));
    }
    found.sort();
    found.dedup();
    Ok(Answer::Differences(found))
}

/// Answers `dragline plan`.
pub(super) async fn plans(agent: &Arc<Agent>, call: PlanCall) -> Result<Answer, CniError> {
    let candidate = call.coordinator.map(|object| candidate(agent, object)).transpose()?;
    let mut plans = Vec::new();
    for records in selected(agent, &call.query) {
        let wanted = match &candidate {
            Some(settings) => pass::plan_with(agent, &records, Some(settings)),
            None => pass::plan_of(agent, &records),
        };
        plans.push(PodPlan {
            pod: pod_name(&records),
            container: records.sandbox.container.clone(),
            netns: records.sandbox.netns.as_ref().map(|netns| netns.path.clone()).unwrap_or_default(),
            wanted: wanted.pod.commands(),
            wanted_on_node: wanted.node.commands(),
            changes: changes(agent, records, wanted).await?,
        });
    }
    Ok(Answer::Plans(plans))
}

/// The sandboxes that a question is about, by container ID.
pub(super) fn selected(agent: &Agent, query: &PodQuery) -> Vec<Arc<SandboxRecords>> {
    agent.ledger.sandboxes().into_iter().filter(|records| is_asked(records, query)).collect()
}

/// Whether a question is about that sandbox.
pub fn is_asked(records: &SandboxRecords, query: &PodQuery) -> bool {
    let pods: Vec<_> = records.attachments.values().map(|attachment| &attachment.pod).collect();
    let by_name = query
        .pod
        .as_deref()
        .is_none_or(|name| records.sandbox.container.as_str() == name || pods.iter().any(|pod| pod.name == name));
    let by_namespace =
        query.namespace.as_deref().is_none_or(|namespace| pods.iter().any(|pod| pod.namespace == namespace));
    by_name && by_namespace
}

/// `namespace/name`, or the container ID where the runtime named no pod.
pub fn pod_name(records: &SandboxRecords) -> String {
    let named = records.attachments.values().map(|attachment| &attachment.pod).find(|pod| pod.is_named());
    named.map_or_else(|| records.sandbox.container.to_string(), ToString::to_string)
}

/// The settings of a SpiderCoordinator that is not declared yet.
fn candidate(agent: &Agent, object: serde_json::Value) -> Result<CoordinatorSettings, CniError> {
    let invalid =
        |error: String| CniError::new(CniError::FAILED, format!("the SpiderCoordinator that is asked about: {error}"));
    let mut object: SpiderCoordinator = serde_json::from_value(object).map_err(|error| invalid(error.to_string()))?;
    if object.status.is_none() {
        object.status = agent.catalogue().coordinator.as_ref().and_then(|found| found.object.status.clone());
    }
    object.settings().map_err(|error| invalid(error.to_string()))
}

async fn of_sandbox(agent: &Arc<Agent>, records: Arc<SandboxRecords>) -> Result<Vec<Difference>, CniError> {
    let (place, wanted) = (pod_name(&records), pass::plan_of(agent, &records));
    let steps = changes(agent, records, wanted).await?;
    Ok(steps.into_iter().map(|step| Difference { place: place.clone(), step }).collect())
}

/// What would be changed in the pod and on the node; of the node's part also what the pod's present plan has there and this
/// one has not.
async fn changes(agent: &Arc<Agent>, records: Arc<SandboxRecords>, wanted: Plan) -> Result<Vec<String>, CniError> {
    let place = pod_name(&records);
    let Some(netns) = records.sandbox.netns.clone() else { return Ok(Vec::new()) };
    let present = pass::plan_of(agent, &records);
    let owned = Arc::clone(agent);
    let joined = tokio::task::spawn_blocking(move || -> Result<Vec<String>, String> {
        let mut pass = owned.kernel.pass(&netns).map_err(|error| error.to_string())?;
        let pod = Watched::of(&records, &wanted.pod).observe(&mut pass).map_err(|error| error.to_string())?;
        let node = node::observe(&owned, &wanted.node)?;
        let mut texts = texts(&wanted.pod, &pod, Prune::Yes);
        texts.extend(self::texts(&wanted.node, &node, Prune::No));
        if present.node != wanted.node {
            texts.extend(left_behind(&present.node, &wanted.node, &node));
        }
        Ok(texts)
    })
    .await;
    joined
        .map_err(|error| CniError::new(CniError::FAILED, error.to_string()))?
        .map_err(|error| CniError::new(CniError::FAILED, format!("{place}: {error}")))
}

/// What of a pod's present part on the node would go.
fn left_behind(present: &Desired, wanted: &Desired, node: &plan::Observed) -> Vec<String> {
    let is_new = |route: &plan::Route| wanted.routes.iter().any(|it| it.route == *route);
    let mine = |route: &&plan::Route| present.routes.iter().any(|it| it.route == **route) && !is_new(route);
    let only = plan::Observed {
        links: node.links.clone(),
        routes: node.routes.iter().filter(mine).cloned().collect(),
        ..plan::Observed::default()
    };
    texts(&Desired::default(), &only, Prune::Yes).into_iter().filter(|step| step.contains(" route ")).collect()
}

fn texts(wanted: &Desired, observed: &plan::Observed, prune: Prune) -> Vec<String> {
    let found = diff(wanted, observed, prune);
    found.steps.iter().map(ToString::to_string).chain(found.blocked).collect()
}

/// What does not hold between the records of the store, and what of it cannot be read.
pub(super) async fn store(agent: &Arc<Agent>) -> Result<Answer, CniError> {
    let agent = Arc::clone(agent);
    let failed = |error: &dyn std::fmt::Display| CniError::new(CniError::FAILED, format!("the store: {error}"));
    let loaded = tokio::task::spawn_blocking(move || agent.ledger.store().load()).await;
    let snapshot = loaded.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(Answer::Differences(crate::command::store_differences(&snapshot)))
}
