//! What the agent says and the kernel holds, against the runtime's book.

use std::collections::{BTreeMap, BTreeSet};

use plan::ownership;
use plan::tables::DEFAULT_NIC;
use serde_json::Value;
use tests::scene::Pod;

use crate::book::Claim;

/// What was acknowledged must be in the agent's list at once, and nobody shares an address.
pub(crate) fn lost_or_shared(claims: &BTreeMap<String, Claim>, attachments: &[Value]) -> Vec<String> {
    let listed: BTreeMap<&str, &Value> = attachments.iter().map(|found| (name(found), found)).collect();
    let mut complaints = Vec::new();
    for (key, claim) in claims {
        let Claim::Held { address, by_chain } = claim else { continue };
        let Some(found) = listed.get(key.as_str()) else {
            complaints.push(format!("{key} with {address} was acknowledged and is lost"));
            continue;
        };
        if found["state"] == "Withdrawn" || !addresses(found).contains(&address.as_str()) {
            complaints.push(format!("{key} was acknowledged with {address} and is now {found}"));
        }
        if *by_chain && found["attachment"]["coordinate"].is_null() {
            complaints.push(format!("the routes of {key} were acknowledged and are lost: {found}"));
        }
    }
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, found) in &listed {
        if !claims.contains_key(*key) {
            complaints.push(format!("{key} was never asked for: {found}"));
        }
        for address in addresses(found) {
            if let Some(other) = owners.insert(address, key) {
                complaints.push(format!("{other} and {key} both have {address}"));
            }
        }
    }
    complaints
}

/// What must come to pass when nobody asks for anything any more: withdrawals done, the rest converged, counts equal.
pub(crate) fn unsettled(claims: &BTreeMap<String, Claim>, attachments: &[Value], pools: &[Value]) -> Vec<String> {
    let mut complaints = Vec::new();
    for found in attachments {
        let key = name(found);
        if claims.get(key) == Some(&Claim::Withdrawn) {
            complaints.push(format!("DEL of {key} was acknowledged and it is still there: {found}"));
        } else if found["state"] == "Pending" {
            complaints.push(format!("{key} does not converge: {found}"));
        }
    }
    let in_use: BTreeSet<&str> = attachments.iter().flat_map(addresses).collect();
    let counted: i64 = pools.iter().map(|pool| pool["status"]["allocatedIPCount"].as_i64().unwrap_or(-1)).sum();
    if usize::try_from(counted) != Ok(in_use.len()) {
        complaints.push(format!("the pools count {counted} addresses in use, the attachments have {in_use:?}"));
    }
    complaints
}

/// The kernel's word on a pod: all there after ADD, nothing left after DEL.
pub(crate) fn in_kernel(key: &str, claim: Option<&Claim>, pod: &Pod) -> Vec<String> {
    let observed = pod.netns.scene().unwrap().observe().unwrap();
    let net1: Vec<String> =
        observed.addresses.iter().filter(|a| a.dev == "net1").map(|a| a.address.ip().to_string()).collect();
    let to_table =
        observed.rules.iter().filter(|rule| rule.table == DEFAULT_NIC && ownership::is_our_rule(rule)).count();
    let has_route = observed.routes.iter().any(|route| route.table == DEFAULT_NIC && route.dst.prefix() == 0);
    match claim {
        Some(Claim::Held { address, .. }) if !net1.contains(address) => {
            vec![format!("{key} has {address}, and the kernel {net1:?} on net1")]
        }
        // quickstart.md: six rules to table 100, and its default route.
        Some(Claim::Held { .. }) if to_table != 6 || !has_route => {
            vec![format!("{key} has {to_table} rules to table {DEFAULT_NIC}, default route there: {has_route}")]
        }
        Some(Claim::Withdrawn) | None if !net1.is_empty() || to_table > 0 => {
            vec![format!("{key} was withdrawn, and the kernel still has {net1:?} and {to_table} rules")]
        }
        _ => Vec::new(),
    }
}

fn name(attachment: &Value) -> &str {
    attachment["metadata"]["name"].as_str().unwrap_or_default()
}

fn addresses(attachment: &Value) -> Vec<&str> {
    let assigned = attachment["attachment"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    assigned.iter().filter_map(|assigned| assigned["address"].as_str()?.split('/').next()).collect()
}
