//! Why an interface gets addresses of the pools that it gets them of, for people: `dragline explain-pools`.

use schemas::crd::ip_version::IpVersion;
use serde::{Deserialize, Serialize};

use super::name::expanded;
use super::rule::Rule;
use super::{Request, SelectionError, fit, multus, select, select_all};
use crate::catalogue::Catalogue;
use crate::ledger::PoolCounts;

/// The decision for one interface; also an object of `-o json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// The pod as namespace/name.
    pub pod: String,
    /// The interface.
    pub interface: String,
    /// Of which network it is, as far as that is known.
    pub network: Option<String>,
    /// What decides; None when nothing does.
    pub rule: Option<String>,
    /// What would decide without it, the strongest first.
    pub beats: Vec<String>,
    /// No default route from the pool's gateway.
    pub clean_gateway: bool,
    /// The pools, by family.
    pub families: Vec<Family>,
    /// Why ADD would fail.
    pub error: Option<String>,
    /// What the interface has.
    pub addresses: Vec<String>,
    /// What is to be known of the answer.
    pub remarks: Vec<String>,
}

/// The pools of one family, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Family {
    /// 4 or 6.
    pub version: u8,
    /// The pools, and patterns that no pool matches.
    pub pools: Vec<Judged>,
}

/// A pool that is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// Its name, or the pattern.
    pub name: String,
    /// Why it does not fit; None when it does.
    pub unfit: Option<String>,
    /// How many of its addresses this node may give now.
    pub free: u64,
    /// How many of them pods of this node have.
    pub used: u64,
    /// How many it has in all.
    pub total: u64,
    /// An allocation would take an address of this one.
    pub is_next: bool,
}

/// Decides as [`select`] does, and tells all. `counts` are a pool's numbers on this node.
pub fn decide(catalogue: &Catalogue, request: Request<'_>, counts: impl Fn(&str) -> Option<PoolCounts>) -> Decision {
    let mut present = Rule::present(catalogue, request).into_iter();
    let rule = present.next();
    // ADD chooses for all interfaces where one annotation is about all.
    let error = select(catalogue, request).err().or_else(|| select_all(catalogue, request).err());
    let mut decision = Decision {
        pod: request.pod.to_string(),
        interface: request.ifname.to_string(),
        network: multus::identity(catalogue, request).map(|network| network.to_string()),
        rule: rule.map(|rule| rule.to_string()),
        beats: present.map(|rule| rule.to_string()).collect(),
        clean_gateway: false,
        families: Vec::new(),
        error: error.map(|error| error.to_string()),
        addresses: Vec::new(),
        remarks: Vec::new(),
    };
    if let Some(rule) = rule
        && let Err(error) = judge(catalogue, request, rule, &counts, &mut decision)
    {
        decision.error.get_or_insert_with(|| error.to_string());
    }
    decision
}

fn judge(
    catalogue: &Catalogue,
    request: Request<'_>,
    rule: Rule,
    counts: &impl Fn(&str) -> Option<PoolCounts>,
    decision: &mut Decision,
) -> Result<(), SelectionError> {
    let named = rule.named(catalogue, request)?;
    decision.clean_gateway = named.clean_gateway;
    let families = [
        (IpVersion::V4, 4, &named.v4, catalogue.conf.enable_ipv4),
        (IpVersion::V6, 6, &named.v6, catalogue.conf.enable_ipv6),
    ];
    for (version, number, names, is_on) in families {
        if names.is_empty() {
            continue;
        }
        if !is_on {
            decision.remarks.push(format!(
                "IPv{number} is left out: enableIPv{number} of ConfigMap spiderpool-conf switches it off"
            ));
            continue;
        }
        let found = expanded(catalogue, version, names, request.ifname, rule)?;
        let mut pools: Vec<Judged> = Vec::new();
        for name in found.pools {
            let Some(pool) = catalogue.pools.get(&name) else { continue };
            let unfit = fit::unfit(catalogue, request, version, &name, pool).map(|misfit| misfit.text);
            let counts = counts(&name).unwrap_or_default();
            let [free, used, total] =
                [counts.free, counts.used, counts.total].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
            pools.push(Judged { name, unfit, free, used, total, is_next: false });
        }
        let with_free = pools.iter().position(|pool| pool.unfit.is_none() && pool.free > 0);
        let next = with_free.or_else(|| pools.iter().position(|pool| pool.unfit.is_none()));
        if let Some(next) = next {
            pools[next].is_next = true;
            if with_free.is_none() {
                decision
                    .remarks
                    .push(format!("no IPv{number} pool that fits has an address free on this node: ADD waits for one"));
            }
        }
        pools.extend(found.unmatched.into_iter().map(|name| {
            let unfit = Some(format!("no IPv{version} IPPool matches it"));
            Judged { name, unfit, free: 0, used: 0, total: 0, is_next: false }
        }));
        pools.extend(found.lacking.into_iter().chain(found.invalid).map(|(name, reason)| Judged {
            name,
            unfit: Some(reason),
            free: 0,
            used: 0,
            total: 0,
            is_next: false,
        }));
        decision.families.push(Family { version: number, pools });
    }
    Ok(())
}
