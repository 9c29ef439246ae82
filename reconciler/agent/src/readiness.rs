//! What is missing for ADD to work.

use crate::agent::Agent;
use crate::selection;

/// What is missing, a line each; `pools` narrows the question to those, None asks about the node as a whole.
pub fn missing(agent: &Agent, pools: Option<&[String]>) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(reason) = agent.ledger.store().poisoned() {
        reasons.push(format!("the store takes no changes: {reason}"));
    }
    if !agent.has_synced() {
        reasons.push("the declared objects and the node have not been read yet".to_owned());
        return reasons;
    }
    if let Some(cluster) = &agent.cluster
        && let Err(reason) = cluster.standing().may_give(agent.kernel.boot_id(), cluster.config.lease_ttl)
    {
        reasons.push(format!("no new addresses are given: {reason}"));
    }
    let catalogue = agent.catalogue();
    match pools {
        None | Some([]) if catalogue.pools.is_empty() => reasons.push("no SpiderIPPool is declared".to_owned()),
        None | Some([]) => {}
        Some(pools) => {
            let mut named = Vec::new();
            for pool in pools {
                let matching = selection::matching(&catalogue, pool);
                match catalogue.invalid.get(pool) {
                    Some(fault) => reasons.push(format!("SpiderIPPool {pool} is not valid: {fault}")),
                    None if matching.is_empty() => reasons.push(format!("SpiderIPPool {pool} is not declared")),
                    None => {}
                }
                named.extend(matching);
            }
            let has_none =
                |pool: &String| agent.ledger.counts(pool).map(|counts| counts.free == 0 && !others_have(agent, pool));
            let exhausted: Vec<bool> = named.iter().filter_map(has_none).collect();
            if !exhausted.is_empty() && exhausted.iter().all(|is_exhausted| *is_exhausted) {
                reasons.push(format!("no address is left in {}", pools.join(", ")));
            }
        }
    }
    if let Err(reason) = coordinator(agent) {
        reasons.push(reason);
    }
    reasons
}

/// In a cluster the node asks for more when it needs them, as long as the pool has any.
fn others_have(agent: &Agent, pool: &str) -> bool {
    let Some(cluster) = &agent.cluster else { return false };
    let counts = cluster.counted.of(pool);
    match (counts.allocated, counts.total) {
        (Some(used), Some(total)) => used < total,
        // Nobody has counted yet.
        _ => true,
    }
}

/// The coordinator's settings can be used.
///
/// # Errors
/// Why not, in the original's words.
pub fn coordinator(agent: &Agent) -> Result<schemas::intent::CoordinatorSettings, String> {
    let catalogue = agent.catalogue();
    let found = catalogue
        .coordinator
        .as_ref()
        .ok_or("coordinator config not found: apply a SpiderCoordinator named default")?;
    let name = found.object.metadata.name.as_deref().unwrap_or("default");
    found.synced.clone().map_err(|reason| format!("spidercoordinator: {name} no ready: {reason}"))?;
    found.settings.clone().map_err(|error| format!("spidercoordinator: {name} is invalid: {error}"))
}
