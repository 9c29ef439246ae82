//! What is asked over the socket. A call records what is wanted; the reconciler does it.

mod allocate;
mod arrival;
mod attach;
mod check;
mod collect;
mod coordinate;
mod detect;
pub mod dump;
pub(crate) mod explain;
mod explain_pools;
mod kept;
mod mode;
mod place;
mod routes;
mod uplink;
mod wait;
pub mod withdraw;

pub(crate) use arrival::end;
pub use check::{is_asked, pod_name};

use std::sync::Arc;

use schemas::cni::error::CniError;
use schemas::intent::PodRef;
use schemas::wire::{AllocateCall, Answer, AttachCall, Call, ReadyCall};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::cluster::Notice;
use crate::{readiness, report};

/// Answers a call. What it has begun to record is recorded whether or not the asker still waits.
pub async fn answer(agent: &Arc<Agent>, call: Call, deadline: Instant) -> Answer {
    agent.metrics.calls.inc();
    let owned = Arc::clone(agent);
    let pod = match &call {
        Call::Allocate(AllocateCall { place, .. }) | Call::Attach(AttachCall { place, .. }) => Some(place.pod.clone()),
        _ => None,
    };
    // In a task of its own: an asker that goes away does not stop a change half-way.
    let answered = tokio::spawn(async move { dispatch(&owned, call, deadline).await }).await;
    let answer = answered.unwrap_or_else(|error| {
        tracing::error!(%error, "a call ended badly");
        Err(CniError::new(CniError::FAILED, format!("the agent failed inside: {error}; see its log")))
    });
    answer.unwrap_or_else(|error| {
        agent.metrics.call_errors.inc();
        tracing::warn!(code = error.code, %error, "a call is refused");
        if let (Some(cluster), Some(pod)) = (&agent.cluster, pod.filter(PodRef::is_named)) {
            cluster.notice(Notice::NoAddress(pod, error.to_string()));
        }
        Answer::Error(error)
    })
}

async fn dispatch(agent: &Arc<Agent>, call: Call, deadline: Instant) -> Result<Answer, CniError> {
    match arrival::identified(agent, call, deadline).await {
        Call::Allocate(call) => allocate::allocate(agent, call, deadline).await,
        Call::Attach(call) => attach::attach(agent, call, deadline).await,
        Call::Coordinate(call) => coordinate::coordinate(agent, call, deadline).await,
        Call::Uplink(call) => uplink::uplink(agent, call, deadline).await,
        Call::Withdraw(withdrawal) => {
            withdraw::withdraw(agent, &withdrawal).await.map_err(|error| wait::not_recorded(&error))?;
            Ok(Answer::Done)
        }
        Call::Verify(call) => check::verify(agent, call, deadline).await,
        Call::Collect(call) => collect::collect(agent, call).await,
        Call::Ready(call) => ready(agent, &call),
        Call::Get(call) => {
            report::objects(agent, &call).map(Answer::Objects).map_err(|error| CniError::new(CniError::FAILED, error))
        }
        Call::Plan(call) => check::plans(agent, call).await,
        Call::Explain(call) => explain::answer(agent, call).await,
        Call::ExplainPools(call) => explain_pools::answer(agent, &call),
        Call::Check(query) => check::differences(agent, query).await,
        Call::Status => Ok(Answer::Status(report::status(agent))),
        Call::CheckStore => check::store(agent).await,
        // Answered where the connection is, as it has more than one answer.
        Call::Dump => Err(CniError::new(CniError::FAILED, "a dump is asked for on a connection of its own")),
    }
}

fn ready(agent: &Agent, call: &ReadyCall) -> Result<Answer, CniError> {
    let reasons = readiness::missing(agent, Some(&call.pools));
    if reasons.is_empty() {
        Ok(Answer::Done)
    } else {
        Err(CniError::new(CniError::NOT_AVAILABLE, format!("not ready: {}", reasons.join("; "))))
    }
}
