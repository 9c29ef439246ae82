//! The link by which a pod reaches its node and the cluster: the default CNI's own in overlay mode, `veth0` in underlay
//! mode.

use std::net::IpAddr;

use schemas::intent::{AuxiliaryLink, Baseline, CoordinatorSettings, LinkIdentity, Sandbox};
use schemas::name::Mac;

use super::family::Family;
use super::routes::baseline_routes;
use crate::desired::{DesiredLink, LinkOrigin, PairIntent};
use crate::object::Route;
use crate::ownership;

/// The pod's end of the pair of underlay mode (../spec/coordinator.md 6).
pub const AUXILIARY_LINK: &str = "veth0";
/// The MTU of the pair when nothing says otherwise: Ethernet's.
const MTU: u32 = 1500;

/// That link.
#[derive(Debug, Clone, Copy)]
pub(super) enum Inside<'a> {
    /// As the default CNI set it up.
    DefaultCni(&'a Baseline),
    /// A pair of ours; every other link of the pod is on the physical network.
    Auxiliary(&'a AuxiliaryLink),
}

impl<'a> Inside<'a> {
    /// None while no coordinator has been asked about the sandbox.
    pub(super) fn of(sandbox: &'a Sandbox) -> Option<Self> {
        let auxiliary = sandbox.auxiliary.as_ref().map(Self::Auxiliary);
        auxiliary.or(sandbox.baseline.as_ref().map(Self::DefaultCni))
    }

    pub(super) fn name(self) -> &'a str {
        match self {
            Self::DefaultCni(baseline) => baseline.nic.as_str(),
            Self::Auxiliary(_) => AUXILIARY_LINK,
        }
    }

    pub(super) fn mac(self) -> Mac {
        match self {
            Self::DefaultCni(baseline) => baseline.mac,
            Self::Auxiliary(auxiliary) => auxiliary.pod_mac,
        }
    }

    /// Name and hardware address of its other end on the node, when it has one.
    pub(super) fn peer(self) -> Option<(&'a str, Mac)> {
        match self {
            Self::DefaultCni(baseline) => baseline.peer.as_ref().map(|peer| (peer.name.as_str(), peer.mac)),
            Self::Auxiliary(auxiliary) => Some((auxiliary.host_name.as_str(), auxiliary.host_mac)),
        }
    }

    /// Its addresses before anything was put in order.
    pub(super) fn addresses(self) -> impl Iterator<Item = IpAddr> + Clone + 'a {
        let baseline = self.baseline();
        baseline.into_iter().flat_map(|baseline| baseline.addresses.iter().map(|address| address.ip()))
    }

    /// Its routes before anything was put in order, for one table.
    pub(super) fn routes(self, table: u32, family: Family) -> Vec<Route> {
        self.baseline().map(|baseline| baseline_routes(baseline, table, family)).unwrap_or_default()
    }

    pub(super) fn baseline(self) -> Option<&'a Baseline> {
        match self {
            Self::DefaultCni(baseline) => Some(baseline),
            Self::Auxiliary(_) => None,
        }
    }

    pub(super) fn auxiliary(self) -> Option<&'a AuxiliaryLink> {
        match self {
            Self::DefaultCni(_) => None,
            Self::Auxiliary(auxiliary) => Some(auxiliary),
        }
    }

    /// The link in the pod. The default CNI's is kept in place, named and up, and nothing else.
    pub(super) fn link(self, settings: &CoordinatorSettings) -> DesiredLink {
        let origin = match self {
            Self::DefaultCni(baseline) => LinkOrigin::Found(LinkIdentity { index: baseline.index, mac: baseline.mac }),
            Self::Auxiliary(auxiliary) => {
                LinkOrigin::Pair { pair: pair(auxiliary, settings.veth_mtu), alias: ownership::pair_alias() }
            }
        };
        DesiredLink { name: self.name().to_owned(), origin, tx_queue_len: None, mac: None }
    }
}

/// The pair's end in a pod that no coordinator looks after any more: it goes.
pub(super) fn withdrawn(auxiliary: &AuxiliaryLink) -> DesiredLink {
    let origin = LinkOrigin::Pair { pair: pair(auxiliary, None), alias: ownership::pair_alias() };
    DesiredLink { name: AUXILIARY_LINK.to_owned(), origin, tx_queue_len: None, mac: None }
}

/// The pair's end on the node.
pub(super) fn node_end(auxiliary: &AuxiliaryLink, settings: &CoordinatorSettings) -> DesiredLink {
    let origin = LinkOrigin::PairEnd { pair: pair(auxiliary, settings.veth_mtu), alias: ownership::pair_alias() };
    DesiredLink { name: auxiliary.host_name.to_string(), origin, tx_queue_len: None, mac: None }
}

fn pair(auxiliary: &AuxiliaryLink, mtu: Option<u32>) -> PairIntent {
    PairIntent {
        mac: auxiliary.pod_mac,
        peer: auxiliary.host_name.to_string(),
        peer_mac: auxiliary.host_mac,
        mtu: mtu.unwrap_or(MTU),
    }
}
