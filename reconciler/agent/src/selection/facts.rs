//! What the agent knows of a pod besides what is declared.

use std::net::IpAddr;

use schemas::cni::netconf::SpiderpoolIpam;
use schemas::intent::PodRef;
use schemas::name::{IfName, NetworkName};
use schemas::wire::Place;

use super::{Request, Top, Uplink, pod_marks};
use crate::agent::Agent;
use crate::catalogue::Catalogue;

/// What holds for all pods of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The agent's own namespace: there networks are that are named without one.
    pub namespace: String,
    /// The network of eth0 where a pod does not choose one, as Multus is set up: `name` or `namespace/name`.
    pub cluster_network: Option<String>,
}

/// What is known of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    top: Top,
    uplink: Uplink,
}

impl Facts {
    /// As of now.
    pub fn of(agent: &Agent, catalogue: &Catalogue, pod: &PodRef, ipam: &SpiderpoolIpam) -> Self {
        Self { top: top(agent, catalogue, pod), uplink: uplink(agent, ipam) }
    }

    /// The request of an attachment.
    pub fn request<'a>(&'a self, agent: &'a Agent, place: &'a Place, ipam: &'a SpiderpoolIpam) -> Request<'a> {
        self.request_of(agent, &place.pod, (&place.key.ifname, Some(&place.network)), ipam)
    }

    /// The request of an interface, by its name and that of its network configuration where that is known.
    pub fn request_of<'a>(
        &'a self,
        agent: &'a Agent,
        pod: &'a PodRef,
        (ifname, network): (&'a IfName, Option<&'a NetworkName>),
        ipam: &'a SpiderpoolIpam,
    ) -> Request<'a> {
        let (node, site) = (agent.config.node_name.as_str(), &agent.config.site);
        Request { pod, ifname, network, ipam, node, site, top: &self.top, uplink: &self.uplink }
    }
}

/// Who controls the pod, without asking anybody.
pub(crate) fn top(agent: &Agent, catalogue: &Catalogue, pod: &PodRef) -> Top {
    let Some(marks) = pod_marks(catalogue, pod) else { return Top::None };
    match (&agent.cluster, &marks.owner) {
        (Some(cluster), Some(owner)) => cluster.owners.top(&pod.namespace, owner),
        _ => Top::by_name(marks),
    }
}

/// The uplink: a virtual function's physical one, else the one that the configuration names, else that of the node's
/// default route, which main plugins take then.
fn uplink(agent: &Agent, ipam: &SpiderpoolIpam) -> Uplink {
    if !ipam.match_master_subnet {
        return Uplink::Unasked;
    }
    let facts = agent.node.facts();
    let default = || {
        let routes = facts.routes.iter().filter(|route| route.is_default());
        routes.min_by_key(|route| route.metric).and_then(|route| route.dev.clone())
    };
    let name = match &ipam.device_id {
        Some(device) => physical_function(device),
        None => ipam.master.clone().or_else(default).ok_or_else(|| {
            "the network configuration names neither master nor deviceID, and the node has no default route".to_owned()
        }),
    };
    match name {
        Ok(name) => {
            let own = facts.addresses.iter().filter(|address| address.dev == name);
            let addresses: Vec<IpAddr> = own.map(|address| address.address.ip()).collect();
            Uplink::Known { name, addresses }
        }
        Err(why) => Uplink::Unknown(why),
    }
}

/// The link of the physical function that a virtual function is of.
fn physical_function(device: &str) -> Result<String, String> {
    let is_address = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    if device.is_empty() || !device.bytes().all(is_address) || device.starts_with('.') {
        return Err(format!("deviceID {device:?} is no PCI address"));
    }
    let path = format!("/sys/bus/pci/devices/{device}/physfn/net");
    let entries = std::fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.into_iter().next().ok_or_else(|| format!("{path} names no link"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pci_address_is_not_looked_for() {
        for device in ["", "..", "../../net", "0000:00:00.0/x", "eth0"] {
            assert!(physical_function(device).unwrap_err().contains("no PCI address"), "{device}");
        }
        assert!(physical_function("ffff:ff:1f.7").unwrap_err().contains("physfn"));
    }
}
