//! A pod as the default CNI leaves it.

use std::net::{IpAddr, Ipv4Addr};

use netlink::testbed::{End, Netns};
use schemas::name::Mac;

use super::{CILIUM_HOST, PORT, SceneError, host, subnet};
use crate::probe::Responder;

/// The default CNI's interface in a pod.
const NIC: &str = "eth0";

/// A pod: a namespace with eth0, and a server that tells who asks.
pub struct Pod {
    /// Its name, also its namespace's.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// eth0's address.
    pub address: Ipv4Addr,
    /// eth0's hardware address.
    pub mac: Mac,
    /// The node's end of eth0.
    pub host_link: String,
    /// The node's end's hardware address.
    pub host_mac: Mac,
    node: String,
    responder: Option<Responder>,
}

impl Pod {
    pub(super) fn create(name: &str, node: &Netns, address: Ipv4Addr) -> Result<Self, SceneError> {
        let netns = Netns::create(name)?;
        let octets = address.octets();
        let host_link = format!("lxc{:08x}", u32::from(address));
        // Stable, so that what a pod shows is the same each time.
        let mac = |kind| Mac([0x0a, kind, octets[0], octets[1], octets[2], octets[3]]);
        let (pod_mac, host_mac) = (mac(0x58), mac(0x00));
        let mut on_node = node.scene()?;
        on_node.veth(End::here(&host_link).with_mac(host_mac), End::inside(&netns, NIC).with_mac(pod_mac))?;
        on_node.up(&host_link)?;
        on_node.route(host(address), None, &host_link)?;
        let mut inside = netns.scene()?;
        inside.address(NIC, host(address))?;
        inside.up(NIC)?;
        inside.route(host(CILIUM_HOST), None, NIC)?;
        inside.route(subnet(Ipv4Addr::UNSPECIFIED, 0), Some(IpAddr::V4(CILIUM_HOST)), NIC)?;
        let responder = Some(Responder::start(&netns, PORT)?);
        let node = node.path().to_owned();
        Ok(Self { name: name.to_owned(), netns, address, mac: pod_mac, host_link, host_mac, node, responder })
    }

    /// What of the scene is inside ends, so that nothing holds the namespace when it is deleted.
    pub fn stop_answering(&mut self) {
        self.responder = None;
    }

    /// The default CNI's DEL, and the namespace's end.
    ///
    /// # Errors
    /// When the node's end of eth0 cannot be deleted; one that has gone with the namespace is no error.
    pub fn delete(mut self, node: &Netns) -> Result<(), SceneError> {
        debug_assert_eq!(self.node, node.path());
        self.stop_answering();
        let mut on_node = node.scene()?;
        if on_node.observe()?.link(&self.host_link).is_some() {
            on_node.delete_link(&self.host_link)?;
        }
        self.netns.delete();
        Ok(())
    }
}
