//! The step for the whole cluster: every address in use is kept for its node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::claims::reservation;
use super::pods::{ip, texts};
use super::{AdoptError, Config, Report, Row, State, api};
use crate::kubernetes;

/// Who uses an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Use {
    pod: String,
    ifname: String,
    /// None when it is not known, or not clear.
    node: Option<String>,
    note: String,
}

pub(super) async fn run(config: &Config) -> Result<Report, AdoptError> {
    let client = kubernetes::client(config.kubeconfig.as_deref()).await?;
    let catalogue = api::catalogue(&client).await?;
    let mut report = Report { faults: catalogue.faults.clone(), ..Report::default() };
    let mut used: BTreeMap<String, BTreeMap<IpAddr, Use>> = BTreeMap::new();
    for (node, endpoint) in api::endpoints(&client, None).await? {
        for nic in &endpoint.nics {
            for (text, pool, _) in texts(nic) {
                let pod = endpoint.pod.to_string();
                let found = Use { pod, ifname: nic.interface.clone(), node: Some(node.clone()), note: String::new() };
                match ip(text).filter(|_| catalogue.pools.contains_key(pool)) {
                    Some(address) => note(used.entry(pool.to_owned()).or_default(), address, found),
                    None => report.rows.push(Row {
                        pod: found.pod,
                        ifname: found.ifname,
                        addresses: vec![text.to_owned()],
                        pools: vec![pool.to_owned()],
                        note: "it is no address, or there is no such pool".to_owned(),
                        ..Row::default()
                    }),
                }
            }
        }
    }
    for (name, pool) in &catalogue.pools {
        for (address, user) in api::users(pool, &mut report.faults)? {
            let note = "no SpiderEndpoint has it: it is kept for no node".to_owned();
            let found = Use { pod: user.pod, note, ..Use::default() };
            used.entry(name.clone()).or_default().entry(address).or_insert(found);
        }
    }
    // In pools of which nothing is in use, what was kept before goes.
    for pool in catalogue.pools.keys() {
        let used = used.remove(pool).unwrap_or_default();
        let view = api::view(&client, &catalogue, pool, config.is_dry || used.is_empty()).await?;
        let wishes = used.iter().map(|(address, found)| (*address, reservation(found.node.as_deref()))).collect();
        let settled = if config.is_dry {
            view.judge(&wishes, true)
        } else {
            let failed = |reason| AdoptError::Api { what: format!("SpiderIPPool {pool}"), reason };
            view.apply(&wishes, true).await.map_err(failed)?
        };
        for (address, found) in used {
            let refused = settled.refused.get(&address).cloned();
            let state = if refused.is_some() || found.node.is_none() { State::Left } else { State::Kept };
            let note = refused.unwrap_or(found.note);
            report.rows.push(row(state, pool, address, found.pod, found.ifname, note));
        }
        let freed = settled.freed.iter();
        report.rows.extend(
            freed.map(|address| row(State::Freed, pool, *address, String::new(), String::new(), String::new())),
        );
    }
    Ok(report)
}

fn note(used: &mut BTreeMap<IpAddr, Use>, address: IpAddr, found: Use) {
    match used.get_mut(&address) {
        None => drop(used.insert(address, found)),
        Some(known) => {
            let note = format!("{} has it too by its SpiderEndpoint: it is kept for no node", found.pod);
            (known.node, known.note) = (None, note);
        }
    }
}

fn row(state: State, pool: &str, address: IpAddr, pod: String, ifname: String, note: String) -> Row {
    Row {
        state,
        pod,
        ifname,
        addresses: vec![address.to_string()],
        pools: vec![pool.to_owned()],
        container: String::new(),
        note,
    }
}
