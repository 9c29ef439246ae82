//! Where a packet of a pod goes, and why: `dragline explain`.

use std::sync::Arc;

use plan::explain::{Basis, Context, Explanation, Flow, Question, explain, sysctls};
use plan::{NodeFacts, Observed, Picture, Plan, PlanInput, draw};
use schemas::cni::error::CniError;
use schemas::intent::CoordinatorSettings;
use schemas::wire::{Answer, ExplainCall, Explained, ExplainedFlow};

use super::check::{pod_name, selected};
use crate::agent::Agent;
use crate::catalogue::Catalogue;
use crate::ledger::SandboxRecords;

/// What is known of a pod besides what is in its namespace.
pub(crate) struct Known<'a> {
    pub(crate) records: &'a SandboxRecords,
    pub(crate) node: &'a NodeFacts,
    pub(crate) catalogue: &'a Catalogue,
}

/// Answers `dragline explain`.
pub(super) async fn answer(agent: &Arc<Agent>, call: ExplainCall) -> Result<Answer, CniError> {
    let failed = |text: String| CniError::new(CniError::FAILED, text);
    if let Some(flow) = &call.flow {
        flow_of(flow).check().map_err(|error| failed(error.to_string()))?;
    }
    let records = only(selected(agent, &call.pod), &call).map_err(failed)?;
    let pod = pod_name(&records);
    let Some(netns) = records.sandbox.netns.clone() else {
        return Err(failed(format!("{pod} has no network namespace yet: only addresses were asked for it")));
    };
    let owned = Arc::clone(agent);
    let joined = tokio::task::spawn_blocking(move || -> Result<Explained, String> {
        let mut pass = owned.kernel.pass(&netns).map_err(|error| error.to_string())?;
        // The names of the sysctls follow from the links.
        let bare = pass.observe(&[]).map_err(|error| error.to_string())?;
        let seen = pass.observe(&sysctls(&bare)).map_err(|error| error.to_string())?;
        let known = Known { records: &records, node: &owned.node.facts(), catalogue: &owned.catalogue() };
        let plan = known.plan();
        explained(&known, &plan, &seen, Basis::Kernel, &call)
    })
    .await;
    let answered = joined.map_err(|error| failed(error.to_string()))?;
    answered.map(Answer::Explained).map_err(|error| failed(format!("{pod}: {error}")))
}

/// The only sandbox that a question is about.
///
/// # Errors
/// When there is none, or more than one; with what to do.
pub(crate) fn only(found: Vec<Arc<SandboxRecords>>, call: &ExplainCall) -> Result<Arc<SandboxRecords>, String> {
    let asked = call.pod.pod.as_deref().unwrap_or_default();
    let mut living: Vec<_> = found.into_iter().filter(|records| !records.is_withdrawn()).collect();
    match (living.pop(), living.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(format!("{asked:?} not found: `dragline get endpoints` lists the pods of this node")),
        (Some(last), false) => {
            let all = living.iter().chain([&last]);
            let names: Vec<String> =
                all.map(|records| format!("{} (container {})", pod_name(records), records.sandbox.container)).collect();
            Err(format!("{asked:?} is more than one pod, {}: name a namespace or the container ID", names.join(", ")))
        }
    }
}

/// The packet as the explanation takes it.
pub(crate) fn flow_of(flow: &ExplainedFlow) -> Flow {
    Flow { to: flow.to, from: flow.from, iif: flow.iif.clone() }
}

impl Known<'_> {
    /// The pod's plan.
    pub(crate) fn plan(&self) -> Plan {
        plan::plan(self.input(&self.records.to_plan()))
    }

    fn input<'i>(&'i self, attachments: &'i [schemas::intent::Attachment]) -> PlanInput<'i> {
        let cluster: Option<&CoordinatorSettings> = self.catalogue.settings();
        PlanInput { sandbox: &self.records.sandbox, attachments, node: self.node, cluster }
    }
}

/// Explains and draws.
///
/// # Errors
/// When the packet cannot be one, or has a NIC that the pod lacks.
pub(crate) fn explained(
    known: &Known<'_>,
    plan: &Plan,
    seen: &Observed,
    basis: Basis,
    call: &ExplainCall,
) -> Result<Explained, String> {
    let attachments = known.records.to_plan();
    let coordinator = known.catalogue.coordinator.as_ref().and_then(|found| found.object.metadata.name.as_deref());
    let context = Context { input: known.input(&attachments), plan, coordinator: coordinator.unwrap_or("default") };
    let pod = pod_name(known.records);
    let explanation: Option<Explanation> = match &call.flow {
        Some(flow) => {
            let flow = flow_of(flow);
            let question = Question { pod: &pod, seen, basis, context, flow: &flow };
            Some(explain(question).map_err(|error| error.to_string())?)
        }
        None => None,
    };
    let drawing =
        call.drawing.then(|| draw(&Picture { pod: &pod, seen, basis, context, explanation: explanation.as_ref() }));
    let explanation = explanation.map(serde_json::to_value).transpose().map_err(|error| error.to_string())?;
    Ok(Explained { explanation, drawing })
}
