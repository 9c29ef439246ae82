//! Which pods of the node want an address of which pool and have none yet: those that have been bound to the node, before
//! their ADD comes, and those whose ADD waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use schemas::cni::netconf::SpiderpoolIpam;
use schemas::crd::SpiderMultusConfig;
use schemas::intent::PodRef;
use schemas::name::IfName;
use schemas::wire::Place;
use tokio::sync::Notify;

use crate::agent::Agent;
use crate::catalogue::{Catalogue, Marks};
use crate::identity::Identity;
use crate::selection::multus::networks_of;
use crate::selection::{self, Facts};

/// Who wants an address: a pod's namespace, its name, and the interface.
pub(super) type Want = (String, String, String);

/// ADDs that wait for an address, by pool.
#[derive(Default)]
pub(super) struct Asking {
    pools: Mutex<BTreeMap<String, BTreeMap<Want, usize>>>,
    changed: Notify,
}

/// One ADD that waits; it asks no more when this is dropped.
pub struct Asked {
    asking: Arc<Asking>,
    pools: Vec<String>,
    want: Want,
}

impl Asking {
    /// Asks for an address of one of these pools.
    pub(super) fn ask(self: &Arc<Self>, pools: &[String], place: &Place) -> Asked {
        let want = (place.pod.namespace.clone(), place.pod.name.clone(), place.key.ifname.to_string());
        let mut all = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        for pool in pools {
            *all.entry(pool.clone()).or_default().entry(want.clone()).or_default() += 1;
        }
        drop(all);
        self.changed.notify_one();
        Asked { asking: Arc::clone(self), pools: pools.to_vec(), want }
    }

    /// Completes when somebody has begun to ask.
    pub(super) async fn asked(&self) {
        self.changed.notified().await;
    }

    fn wants(&self) -> BTreeMap<String, BTreeSet<Want>> {
        let all = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(pool, wants)| (pool.clone(), wants.keys().cloned().collect())).collect()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut all = self.asking.pools.lock().unwrap_or_else(PoisonError::into_inner);
        for pool in &self.pools {
            let Some(wants) = all.get_mut(pool) else { continue };
            if let Some(count) = wants.get_mut(&self.want) {
                *count -= 1;
                if *count == 0 {
                    wants.remove(&self.want);
                }
            }
            if wants.is_empty() {
                all.remove(pool);
            }
        }
    }
}

/// Who wants an address of each pool and has none.
pub(super) fn wants(agent: &Agent, asking: &Asking) -> BTreeMap<String, BTreeSet<Want>> {
    let catalogue = agent.catalogue();
    let mut wants = asking.wants();
    for ((namespace, name), marks) in &catalogue.pods {
        if marks.is_terminating {
            continue;
        }
        let identity = Identity::of_marks(&catalogue.conf, namespace, name, marks);
        let have = agent.ledger.interfaces_of(namespace, name);
        for (pool, ifname) in of_pod(agent, &catalogue, namespace, name, marks) {
            // One that has an address to come back to wants no other.
            let owner = identity.as_ref().map(|identity| identity.reservation(&ifname).to_string());
            if owner.is_some_and(|owner| agent.ledger.kept_for(&owner).iter().any(|(_, kept, _)| *kept == pool)) {
                continue;
            }
            if !have.contains(&ifname) {
                wants.entry(pool).or_default().insert((namespace.clone(), name.clone(), ifname));
            }
        }
    }
    wants
}

/// The pools of which a pod will want an address, as far as its annotations and the SpiderMultusConfigs tell, each with
/// the interface. What they do not tell is asked for when ADD comes.
fn of_pod(agent: &Agent, catalogue: &Catalogue, namespace: &str, name: &str, marks: &Marks) -> Vec<(String, String)> {
    let pod = PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: marks.uid.clone() };
    let mut found = Vec::new();
    // Beyond so many, ADD asks.
    for wanted in networks_of(marks, namespace).into_iter().take(crate::listed::MOST) {
        let (Ok(ifname), Ok(network)) = (wanted.interface.parse::<IfName>(), wanted.name.parse()) else { continue };
        let Some(config) = catalogue.networks.get(&(wanted.namespace, wanted.name)) else { continue };
        let Some(ipam) = ipam(config) else { continue };
        let facts = Facts::of(agent, catalogue, &pod, &ipam);
        let request = facts.request_of(agent, &pod, (&ifname, Some(&network)), &ipam);
        let Ok(selection) = selection::select(catalogue, request) else { continue };
        let pools = selection.families.into_iter().filter_map(|candidates| candidates.pools.into_iter().next());
        found.extend(pools.map(|pool| (pool, wanted.interface.clone())));
    }
    found
}

/// The IPAM part of the network's configuration; None when dragline gives it no addresses.
pub(crate) fn ipam(config: &SpiderMultusConfig) -> Option<SpiderpoolIpam> {
    let text = schemas::crd::multus_config::nad_config(config).ok()?;
    let conflist: serde_json::Value = serde_json::from_str(&text).ok()?;
    let plugins = conflist.get("plugins")?.as_array()?;
    let plugin = plugins.iter().find(|plugin| plugin["ipam"]["type"] == "spiderpool")?;
    let ipam: SpiderpoolIpam = serde_json::from_value(plugin["ipam"].clone()).ok()?;
    Some(ipam.inside(plugin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_heard_until_it_asks_no_more() {
        let asking = Arc::new(Asking::default());
        let place = |name: &str| Place {
            pod: PodRef { namespace: "d".into(), name: name.into(), uid: "u".into() },
            ..anywhere()
        };
        let first = asking.ask(&["p".into(), "q".into()], &place("a"));
        let again = asking.ask(&["p".into()], &place("a"));
        assert_eq!(asking.wants()["p"].len(), 1);
        drop(first);
        assert_eq!(asking.wants().keys().collect::<Vec<_>>(), ["p"]);
        drop(again);
        assert!(asking.wants().is_empty());
    }

    fn anywhere() -> Place {
        let key = schemas::name::AttachmentKey { container: "c".parse().unwrap(), ifname: "net1".parse().unwrap() };
        Place { key, network: "n".parse().unwrap(), netns: None, pod: PodRef::default() }
    }
}
