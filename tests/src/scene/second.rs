//! A second underlay network beside the first, for a scene with both families.
//!
//! | piece | addresses |
//! |---|---|
//! | worker01, controller: ens224 | 10.8.212.131 and .132/24, fd00:8::131 and ::132/64 |
//! | router: eth2 | 10.8.212.1/24, fd00:8::1/64 |
//! | external addresses whose traffic the router gives to worker01 | 10.96.0.0/24, fd96::/64 |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink::testbed::End;

use super::{Scene, SceneError, WORKER_ADDRESS, dual};

/// The nodes' uplink to it.
pub const UPLINK: &str = "ens224";
/// The controller's addresses in it.
pub const CONTROLLER_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 8, 212, 132)), IpAddr::V6(Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 0x132))];
const WORKER_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 8, 212, 131)), IpAddr::V6(Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 0x131))];
const ROUTER_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 8, 212, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 1))];
const EXTERNAL: [(IpAddr, u8); 2] =
    [(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 24), (IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0)), 64)];

/// Lays it.
///
/// # Errors
/// When the kernel refuses something.
pub fn lay(scene: &Scene) -> Result<(), SceneError> {
    let mut switch = scene.switch.scene()?;
    switch.bridge("br1")?;
    switch.up("br1")?;
    let ends = [
        (&scene.worker, UPLINK, WORKER_ADDRESSES),
        (&scene.controller, UPLINK, CONTROLLER_ADDRESSES),
        (&scene.router, "eth2", ROUTER_ADDRESSES),
    ];
    for (number, (netns, link, addresses)) in ends.into_iter().enumerate() {
        let port = format!("second{number}");
        switch.veth(End::here(&port), End::inside(netns, link))?;
        switch.port(&port, "br1")?;
        switch.up(&port)?;
        let mut inside = netns.scene()?;
        for address in addresses {
            inside.address(link, network(address, if address.is_ipv4() { 24 } else { 64 }))?;
        }
        inside.up(link)?;
    }
    let mut router = scene.router.scene()?;
    let worker: [IpAddr; 2] = [WORKER_ADDRESS.into(), dual::WORKER_ADDRESS.into()];
    for ((address, prefix), gateway) in EXTERNAL.into_iter().zip(worker) {
        router.route(network(address, prefix), Some(gateway), "eth0")?;
    }
    Ok(())
}

fn network(address: IpAddr, prefix: u8) -> IpNetwork {
    // The prefixes are this file's constants.
    IpNetwork::new(address, prefix).unwrap_or_else(|_| IpNetwork::from(address))
}
