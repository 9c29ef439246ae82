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

    /// The destination of its default routes.
    pub(super) fn everything(self) -> IpNetwork {
        let any = match self {
            Self::V4 => IpAddr::from([0; 4]),
            Self::V6 => IpAddr::from([0; 16]),
        };
        // No prefix length is too short.
        IpNetwork::new(any, 0).unwrap_or_else(|_| IpNetwork::from(any))
    }

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
