//! IPv6 beside IPv4.
//!
//! | piece | IPv6 |
//! |---|---|
//! | worker01, controller, router | fd00:6::131, ::132, ::1, /64 |
//! | router, outside host | fd00:7::1, ::101, /64 |
//! | cilium_host | fd85:ee78::96/128 |
//! | the pod 10.233.120.N | fd85:ee78::N/128 |

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv6Network};
use netlink::testbed::Netns;

use super::{Pod, SceneError, UPLINK};

/// The worker's address.
pub const WORKER_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 6, 0, 0, 0, 0, 0, 0x131);
/// The controller's address.
pub const CONTROLLER_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 6, 0, 0, 0, 0, 0, 0x132);
/// The router's address towards the nodes.
pub const ROUTER_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 6, 0, 0, 0, 0, 0, 1);
/// The outside host.
pub const OUTSIDE_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 0x101);
/// Where the default CNI lets pods send everything.
pub const CILIUM_HOST: Ipv6Addr = Ipv6Addr::new(0xfd85, 0xee78, 0, 0, 0, 0, 0, 0x96);

const ROUTER_OUTSIDE: Ipv6Addr = Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1);
const SUBNET_PREFIX: u8 = 64;
const POD_NETWORK: Ipv6Addr = Ipv6Addr::new(0xfd85, 0xee78, 0, 0, 0, 0, 0, 0);

/// Before there are links: an address that is looked for first cannot be used for a second.
pub(crate) fn allow(netns: &Netns) -> Result<(), SceneError> {
    for of in ["all", "default"] {
        netns.set_sysctl(&format!("net/ipv6/conf/{of}/disable_ipv6"), "0")?;
        netns.set_sysctl(&format!("net/ipv6/conf/{of}/accept_dad"), "0")?;
    }
    Ok(())
}

pub(super) fn lay(worker: &Netns, controller: &Netns, router: &Netns, outside: &Netns) -> Result<(), SceneError> {
    let all = network(Ipv6Addr::UNSPECIFIED, 0);
    for (node, address) in [(worker, WORKER_ADDRESS), (controller, CONTROLLER_ADDRESS)] {
        node.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let mut scene = node.scene()?;
        scene.address(UPLINK, network(address, SUBNET_PREFIX))?;
        scene.address("cilium_host", network(CILIUM_HOST, 128))?;
        scene.route(all, Some(ROUTER_ADDRESS.into()), UPLINK)?;
    }
    controller.scene()?.route(network(POD_NETWORK, SUBNET_PREFIX), Some(WORKER_ADDRESS.into()), UPLINK)?;
    router.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
    let mut scene = router.scene()?;
    scene.address("eth0", network(ROUTER_ADDRESS, SUBNET_PREFIX))?;
    scene.address("eth1", network(ROUTER_OUTSIDE, SUBNET_PREFIX))?;
    scene.route(network(POD_NETWORK, SUBNET_PREFIX), Some(WORKER_ADDRESS.into()), "eth0")?;
    let mut far = outside.scene()?;
    far.address("eth0", network(OUTSIDE_ADDRESS, SUBNET_PREFIX))?;
    Ok(far.route(all, Some(ROUTER_OUTSIDE.into()), "eth0")?)
}

/// Gives a pod on that node its IPv6 part, as the default CNI leaves it; its address.
pub fn give(pod: &Pod, node: &Netns) -> Result<Ipv6Addr, SceneError> {
    allow(&pod.netns)?;
    let [.., last] = pod.address.octets();
    let address = Ipv6Addr::from_bits(POD_NETWORK.to_bits() | u128::from(last));
    for of in ["disable_ipv6", "accept_dad"] {
        pod.netns.set_sysctl(&format!("net/ipv6/conf/eth0/{of}"), "0")?;
    }
    let mut inside = pod.netns.scene()?;
    inside.address("eth0", network(address, 128))?;
    inside.route(network(CILIUM_HOST, 128), None, "eth0")?;
    inside.route(network(Ipv6Addr::UNSPECIFIED, 0), Some(IpAddr::V6(CILIUM_HOST)), "eth0")?;
    node.scene()?.route(network(address, 128), None, &pod.host_link)?;
    Ok(address)
}

fn network(address: Ipv6Addr, prefix: u8) -> IpNetwork {
    // The prefixes are this file's constants.
    IpNetwork::V6(Ipv6Network::new(address, prefix).unwrap_or_else(|_| Ipv6Network::from(address)))
}
