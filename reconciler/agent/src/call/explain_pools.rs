//! Which pools a pod's interfaces get addresses of, and why: `dragline explain-pools`. It works for pods that have
//! failed to start too, of which no more is known than what is declared.

use std::collections::BTreeSet;

use schemas::cni::error::CniError;
use schemas::cni::netconf::SpiderpoolIpam;
use schemas::crd::SpiderMultusConfig;
use schemas::intent::{Attachment, PodRef};
use schemas::name::IfName;
use schemas::wire::{Answer, ExplainPoolsCall, PodQuery};

use super::check::selected;
use crate::agent::Agent;
use crate::catalogue::Catalogue;
use crate::cluster;
use crate::selection::{CLUSTER_NIC, Decision, Facts, decide, multus, pod_marks};

/// An interface that is asked about.
struct Nic {
    ifname: IfName,
    /// Namespace and name of the SpiderMultusConfig, as far as the annotations tell.
    network: Option<(String, String)>,
    attachment: Option<Attachment>,
}

/// Answers `dragline explain-pools`.
pub(super) fn answer(agent: &Agent, call: &ExplainPoolsCall) -> Result<Answer, CniError> {
    let failed = |text: String| CniError::new(CniError::FAILED, text);
    if !agent.has_synced() {
        return Err(CniError::new(CniError::TRY_AGAIN, "the agent has not read its pools yet: try again"));
    }
    let catalogue = agent.catalogue();
    let pod = only(agent, &catalogue, &call.pod).map_err(failed)?;
    let named = call.network.as_deref().map(|name| find(agent, &catalogue, &pod, name)).transpose().map_err(failed)?;
    let mut objects = Vec::new();
    for nic in nics(agent, &catalogue, &pod, call.ifname.as_ref()) {
        let decision = decision(agent, &catalogue, &pod, &nic, named.as_ref());
        objects.push(serde_json::to_value(decision).map_err(|error| failed(error.to_string()))?);
    }
    Ok(Answer::Objects(objects))
}

/// The only pod that is meant.
fn only(agent: &Agent, catalogue: &Catalogue, query: &PodQuery) -> Result<PodRef, String> {
    let asked = query.pod.as_deref().unwrap_or_default();
    let mut found: BTreeSet<PodRef> = BTreeSet::new();
    for records in selected(agent, query).into_iter().filter(|records| !records.is_withdrawn()) {
        let pods = records.attachments.values().map(|attachment| attachment.pod.clone());
        found.extend(pods.filter(PodRef::is_named));
    }
    for ((namespace, name), marks) in &catalogue.pods {
        let is_of = query.namespace.as_ref().is_none_or(|wanted| wanted == namespace);
        if is_of && name == asked {
            let is_same = |pod: &PodRef| pod.namespace == *namespace && pod.name == *name;
            // An attachment of a pod of that name that is gone is not what is asked about.
            found.retain(|pod| !is_same(pod));
            found.insert(PodRef { namespace: namespace.clone(), name: name.clone(), uid: marks.uid.clone() });
        }
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(pod), None) => Ok(pod),
        (None, _) => Err(format!(
            "{asked:?} is no pod of node {} as far as the agent knows: `kubectl get pod -o wide` tells its node",
            agent.config.node_name
        )),
        (Some(first), Some(second)) => {
            Err(format!("{asked:?} is more than one pod, {first} and {second}: name a namespace with -n"))
        }
    }
}

/// Its interfaces: those that the agent has, and those that its annotations ask for; of a pod that has none yet, eth0
/// first.
fn nics(agent: &Agent, catalogue: &Catalogue, pod: &PodRef, only: Option<&IfName>) -> Vec<Nic> {
    let marks = pod_marks(catalogue, pod);
    let mut wanted = marks.map(|marks| multus::networks_of(marks, &pod.namespace)).unwrap_or_default();
    if let Some(default) = multus::default_network(marks, &agent.config.site) {
        wanted.push(multus::Network { interface: CLUSTER_NIC.to_owned(), ..default });
    }
    let mut attachments = Vec::new();
    for records in agent.ledger.of_pod(&pod.namespace, &pod.name) {
        let own = records.by_ordinal().into_iter().filter(|attachment| !attachment.is_withdrawn());
        attachments.extend(own.filter(|own| {
            (&own.pod.namespace, &own.pod.name) == (&pod.namespace, &pod.name)
                && (own.pod.uid == pod.uid || own.pod.uid.is_empty() || pod.uid.is_empty())
        }));
    }
    let mut names: Vec<IfName> = attachments.iter().map(|attachment| attachment.key.ifname.clone()).collect();
    if names.is_empty() {
        names.extend(CLUSTER_NIC.parse::<IfName>());
    }
    names.extend(wanted.iter().filter_map(|network| network.interface.parse().ok()));
    if let Some(only) = only {
        names = vec![only.clone()];
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let nic = |ifname: IfName| {
        let network = wanted.iter().find(|network| network.interface == ifname.as_str());
        let attachment = attachments.iter().find(|attachment| attachment.key.ifname == ifname);
        Nic {
            network: network.map(|network| (network.namespace.clone(), network.name.clone())),
            attachment: attachment.cloned(),
            ifname,
        }
    };
    names.into_iter().map(nic).collect()
}

type Config<'c> = ((&'c str, &'c str), &'c SpiderMultusConfig);

/// The SpiderMultusConfig of that name: `namespace/name`, or a name in the pod's namespace, the agent's, or any.
fn find<'c>(agent: &Agent, catalogue: &'c Catalogue, pod: &PodRef, text: &str) -> Result<Config<'c>, String> {
    let of = |namespace: &str, name: &str| {
        let found = catalogue.networks.get_key_value(&(namespace.to_owned(), name.to_owned()));
        found.map(|((namespace, name), config)| ((namespace.as_str(), name.as_str()), config))
    };
    let found = match text.split_once('/') {
        Some((namespace, name)) => of(namespace, name),
        None => of(&pod.namespace, text).or_else(|| of(&agent.config.site.namespace, text)).or_else(|| {
            let mut all = catalogue.networks.iter().filter(|((_, name), _)| name == text);
            let first = all.next().filter(|_| all.next().is_none());
            first.map(|((namespace, name), config)| ((namespace.as_str(), name.as_str()), config))
        }),
    };
    found.ok_or_else(|| format!("there is no SpiderMultusConfig {text:?}, or more than one: name it as namespace/name"))
}

fn decision(agent: &Agent, catalogue: &Catalogue, pod: &PodRef, nic: &Nic, named: Option<&Config<'_>>) -> Decision {
    let of_nic = || {
        let path = match (&nic.network, &nic.attachment) {
            (Some((namespace, name)), _) => format!("{namespace}/{name}"),
            (None, Some(attachment)) => attachment.network.to_string(),
            (None, None) => return None,
        };
        find(agent, catalogue, pod, &path).ok()
    };
    let config = named.copied().or_else(of_nic);
    let mut remarks = Vec::new();
    let ipam = match config {
        Some(((namespace, name), config)) => cluster::ipam(config).unwrap_or_else(|| {
            remarks.push(format!("network {namespace}/{name} takes no addresses of SpiderIPPools"));
            SpiderpoolIpam::default()
        }),
        None => {
            remarks.push(format!(
                "the network configuration of {} is not known, and what it names is left out: say which it is with \
                 --network",
                nic.ifname
            ));
            SpiderpoolIpam::default()
        }
    };
    let of_attachment = nic.attachment.as_ref().map(|attachment| attachment.network.clone());
    let network = of_attachment.or_else(|| config.and_then(|((_, name), _)| name.parse().ok()));
    let facts = Facts::of(agent, catalogue, pod, &ipam);
    let request = facts.request_of(agent, pod, (&nic.ifname, network.as_ref()), &ipam);
    let mut decision = decide(catalogue, request, |pool| agent.ledger.counts(pool));
    let assigned = nic.attachment.iter().flat_map(|attachment| &attachment.addresses);
    decision.addresses = assigned
        .map(|assigned| match assigned.pool.as_str() {
            "" => assigned.address.to_string(),
            pool => format!("{} of {pool}", assigned.address),
        })
        .collect();
    decision.remarks.extend(remarks);
    decision
}
