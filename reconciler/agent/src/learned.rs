//! What a pod's links have by router advertisements.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use plan::tables::MAIN;
use plan::{Address, Observed, Route, ownership};
use schemas::intent::{Attachment, Learned};

/// `RTPROT_RA`.
const BY_ADVERTISEMENT: u8 = 9;
/// More than that many are a network's fault; privacy addresses (RFC 8981) make some.
const MOST: usize = 16;

/// What that attachment's link has now. A router is known for as long as the link has addresses by one: a route that was
/// taken out of main comes back with the next advertisement only.
pub fn of(attachment: &Attachment, observed: &Observed) -> Learned {
    let dev = attachment.key.ifname.as_str();
    let is_given = |ip: IpAddr| attachment.addresses.iter().any(|assigned| assigned.address.ip() == ip);
    let is_learned = |address: &&Address| {
        let IpAddr::V6(ip) = address.address.ip() else { return false };
        let is_global = !ip.is_unicast_link_local() && !ip.is_loopback() && !ip.is_multicast();
        address.dev == dev && is_global && !ownership::is_our_address(address) && !is_given(ip.into())
    };
    let mut addresses: Vec<IpNetwork> =
        observed.addresses.iter().filter(is_learned).map(|address| address.address).collect();
    addresses.sort();
    addresses.truncate(MOST);
    if addresses.is_empty() {
        return Learned::default();
    }
    let is_router = |route: &&Route| {
        let is_default = route.table == MAIN && route.is_default() && route.dst.is_ipv6();
        is_default && route.dev.as_deref() == Some(dev) && route.protocol == BY_ADVERTISEMENT
    };
    let routers = observed.routes.iter().filter(is_router).min_by_key(|route| route.metric);
    let gateway = routers.and_then(|route| route.gateway).or(attachment.learned.gateway);
    Learned { addresses, gateway }
}
