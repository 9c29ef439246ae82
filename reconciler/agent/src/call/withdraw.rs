//! DEL: what was wanted is wanted no more. It never fails over what is already gone.

use std::sync::Arc;

use schemas::intent::{Allocation, AllocationState, Attachment};
use schemas::wire::{Part, Withdrawal};
use store::CommitError;

use crate::agent::Agent;
use crate::ledger::{SandboxRecords, Update};
use crate::worker::Cause;

/// Records a withdrawal; returns once it is durable.
///
/// # Errors
/// When it could not be made durable.
pub async fn withdraw(agent: &Arc<Agent>, withdrawal: &Withdrawal) -> Result<(), CommitError> {
    let container = &withdrawal.key.container;
    let _turn = agent.ledger.lock(container).await;
    let Some(records) = agent.ledger.sandbox(container) else { return Ok(()) };
    let Some(attachment) = records.attachments.get(&withdrawal.key.ifname) else { return Ok(()) };
    let Some(update) = update(agent, &records, attachment, withdrawal.part) else {
        agent.mark(container, Cause::Intent);
        return Ok(());
    };
    agent.ledger.commit(container, update).await?;
    agent.mark(container, Cause::Intent);
    Ok(())
}

/// The records without that part; None when it has been withdrawn before.
fn update(agent: &Agent, records: &SandboxRecords, attachment: &Attachment, part: Part) -> Option<Update> {
    let mut wanted = attachment.clone();
    wanted.closing = true;
    match part {
        Part::Uplink => wanted.uplink = None,
        Part::Routes => wanted.coordinate = None,
        // A main plugin or its IPAM that is asked to DEL takes the interface away: routing by it has no meaning left,
        // whether or not the configuration still names the coordinator.
        Part::Addresses | Part::Link => {
            wanted.coordinate = None;
            wanted.allocated = false;
            wanted.link_wanted = false;
        }
    }
    if wanted == *attachment {
        return None;
    }
    let mut sandbox = records.sandbox.clone();
    sandbox.generation += 1;
    wanted.generation = sandbox.generation;
    let mut allocations = if wanted.allocated { Vec::new() } else { releasing(agent, attachment) };
    let mut put = vec![wanted];
    let others = || records.attachments.values().filter(|other| other.key != attachment.key);
    if others().all(|other| other.prepared || other.closing) {
        // No ADD for them comes any more.
        for prepared in others().filter(|other| other.prepared && other.allocated) {
            allocations.extend(releasing(agent, prepared));
            let generation = sandbox.generation;
            put.push(Attachment { closing: true, allocated: false, generation, ..prepared.clone() });
        }
    }
    Some(Update { sandbox: Some(sandbox), put, allocations, ..Update::default() })
}

fn releasing(agent: &Agent, attachment: &Attachment) -> Vec<Allocation> {
    let own =
        attachment.addresses.iter().filter(|assigned| agent.ledger.is_owner(assigned.address.ip(), &attachment.key));
    own.map(|assigned| Allocation {
        address: assigned.address.ip(),
        pool: assigned.pool.clone(),
        owner: attachment.key.clone(),
        state: AllocationState::Releasing,
    })
    .collect()
}
