//! Which network an interface is of, as Multus has it.

use std::fmt;

use schemas::intent::PodRef;
use serde::Deserialize;

use super::{CLUSTER_NIC, Request, pod_marks};
use crate::catalogue::{Catalogue, Marks};

/// The networks of a pod besides the cluster's own.
pub(super) const ANNOTATION_NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// The network of eth0 in place of the cluster's.
const ANNOTATION_DEFAULT: &str = "v1.multus-cni.io/default-network";

/// A network that a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Network {
    /// The name of its definition.
    pub(crate) name: String,
    /// The definition's namespace.
    #[serde(default)]
    pub(crate) namespace: String,
    /// The interface that is asked for, else `net<place from 1>`.
    #[serde(default)]
    pub(crate) interface: String,
}

/// A network's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// None where all that is known is the name of the network configuration.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl Identity {
    /// Whether an entry of a pool's `multusName` means it. An entry without a namespace means, with the original, a
    /// definition in the agent's namespace; we take one in the pod's own namespace for meant too, since that is where
    /// an annotation without a namespace looks.
    pub(super) fn is_meant_by(&self, entry: &str, agent: &str, pod: &str) -> bool {
        let (namespace, name) = match entry.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, entry),
        };
        let is_there = |own: &str| namespace.map_or(own == agent || own == pod, |named| own == named);
        self.name == name && self.namespace.as_deref().is_none_or(is_there)
    }
}

/// The further networks that a pod's annotation asks for, in its order; none when it cannot be read.
pub(crate) fn networks_of(marks: &Marks, namespace: &str) -> Vec<Network> {
    marks.annotations.get(ANNOTATION_NETWORKS).map(|text| networks(text, namespace)).unwrap_or_default()
}

/// The further interfaces of a pod, in the order of its networks.
pub(crate) fn interfaces(catalogue: &Catalogue, pod: &PodRef) -> Vec<String> {
    let marks = pod_marks(catalogue, pod);
    let networks = marks.map(|marks| networks_of(marks, &pod.namespace)).unwrap_or_default();
    networks.into_iter().map(|network| network.interface).collect()
}

/// The network of eth0 that is not the cluster's: the pod's annotation, else the agent's setting.
pub(crate) fn default_network(marks: Option<&Marks>, site: &super::Site) -> Option<Network> {
    let annotated = marks.and_then(|marks| marks.annotations.get(ANNOTATION_DEFAULT));
    let text = annotated.or(site.cluster_network.as_ref())?;
    networks(text, &site.namespace).into_iter().next()
}

/// Of which network an interface is: by the pod's annotations, for eth0 also by the agent's setting; where these say
/// nothing, the network configuration's name has to do.
pub(super) fn identity(catalogue: &Catalogue, request: Request<'_>) -> Option<Identity> {
    let marks = pod_marks(catalogue, request.pod);
    let found = if request.ifname.as_str() == CLUSTER_NIC {
        default_network(marks, request.site)
    } else {
        let networks = marks.map(|marks| networks_of(marks, &request.pod.namespace)).unwrap_or_default();
        networks.into_iter().find(|network| network.interface == request.ifname.as_str())
    };
    match found {
        Some(network) => Some(Identity { namespace: Some(network.namespace), name: network.name }),
        None => request.network.map(|name| Identity { namespace: None, name: name.to_string() }),
    }
}

/// The networks of an annotation's value, in JSON or as `ns/name@ifname, ...`.
fn networks(text: &str, namespace: &str) -> Vec<Network> {
    let read: Vec<Network> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).unwrap_or_default()
    } else {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(named).collect()
    };
    let complete = |(place, network): (usize, Network)| Network {
        namespace: if network.namespace.is_empty() { namespace.to_owned() } else { network.namespace },
        interface: if network.interface.is_empty() { format!("net{}", place + 1) } else { network.interface },
        name: network.name,
    };
    read.into_iter().enumerate().map(complete).collect()
}

fn named(text: &str) -> Network {
    let (path, interface) = text.split_once('@').unwrap_or((text, ""));
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    let text = |text: &str| text.trim().to_owned();
    Network { name: text(name), namespace: text(namespace), interface: text(interface) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_of_a_pod_are_read_in_both_forms() {
        let read = |text: &str| -> Vec<String> {
            let all = networks(text, "own").into_iter();
            all.map(|network| format!("{}/{}@{}", network.namespace, network.name, network.interface)).collect()
        };
        assert_eq!(read("a, kube-system/b@net7 ,c"), ["own/a@net1", "kube-system/b@net7", "own/c@net3"]);
        assert_eq!(read(r#"[{"name":"a"},{"name":"b","namespace":"x","interface":"i"}]"#), ["own/a@net1", "x/b@i"]);
        assert_eq!(read("\n[\n  {\n    \"name\": \"a\"\n  }\n]\n"), ["own/a@net1"]);
        assert!(read("[{").is_empty() && read("").is_empty());
    }

    #[test]
    fn an_entry_without_a_namespace_means_the_agents_or_the_pods() {
        let is_meant = |namespace: Option<&str>, entry: &str| {
            let identity = Identity { namespace: namespace.map(str::to_owned), name: "n".into() };
            identity.is_meant_by(entry, "agent", "pod")
        };
        for (namespace, entry, expected) in [
            (Some("agent"), "n", true),
            (Some("pod"), "n", true),
            (Some("other"), "n", false),
            (Some("other"), "other/n", true),
            (Some("pod"), "agent/n", false),
            (Some("pod"), "pod/m", false),
            (None, "n", true),
            (None, "any/n", true),
            (None, "m", false),
        ] {
            assert_eq!(is_meant(namespace, entry), expected, "{namespace:?} {entry}");
        }
    }
}
