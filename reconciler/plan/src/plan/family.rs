//! The two families, which are planned alike and apart.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn has(self, ip: IpAddr) -> bool {
        Self::of(ip) == self
    }

    pub(super) fn has_network(self, network: IpNetwork) -> bool {
        self.has(network.ip())
    }
}
