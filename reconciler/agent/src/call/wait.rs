//! Waiting for the reconciler.

use std::sync::Arc;

use schemas::cni::error::CniError;
use schemas::intent::Outcome;
use schemas::name::ContainerId;
use store::CommitError;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::worker::Cause;

/// The error of a call whose intent could not be recorded: nothing is promised.
pub(super) fn not_recorded(error: &CommitError) -> CniError {
    let code = if error.is_retryable() { CniError::TRY_AGAIN } else { CniError::FAILED };
    CniError::new(code, format!("nothing was recorded: {error}"))
}

/// Waits until the kernel is as the sandbox's intent of `generation` wants it.
///
/// # Errors
/// Why it is not, or that the deadline has passed; either way the intent stands and is worked on.
pub(super) async fn converged(
    agent: &Arc<Agent>,
    container: &ContainerId,
    generation: u64,
    deadline: Instant,
) -> Result<(), CniError> {
    let mut outcome = agent.workers.outcome(container);
    agent.mark(container, Cause::Intent);
    let ended = async {
        let is_reached = |outcome: &Outcome| outcome.generation >= generation;
        // An error of before the question is no answer to it: what was missing may be there by now.
        let is_there = |outcome: &Outcome| is_reached(outcome) && outcome.error.is_empty();
        let mut found = outcome.borrow_and_update().clone();
        while !is_there(&found) {
            outcome.changed().await?;
            found = outcome.borrow_and_update().clone();
            if is_reached(&found) {
                break;
            }
        }
        Ok::<Outcome, tokio::sync::watch::error::RecvError>(found)
    };
    match tokio::time::timeout_at(deadline, ended).await {
        Ok(Ok(outcome)) if outcome.error.is_empty() => Ok(()),
        Ok(Ok(outcome)) => Err(CniError::new(CniError::FAILED, outcome.error)),
        Ok(Err(_)) => Err(CniError::new(CniError::TRY_AGAIN, format!("sandbox {container} was withdrawn meanwhile"))),
        Err(_) => Err(CniError::new(
            CniError::TRY_AGAIN,
            format!("sandbox {container} is recorded but has not converged before the deadline; it is worked on"),
        )),
    }
}
