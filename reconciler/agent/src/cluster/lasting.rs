//! What an endpoint goes on saying while its pod comes to an end.
//!
//! | the pod | its endpoint |
//! |---|---|
//! | is not declared any more, and its sandbox is there still: it was deleted by force | stays as it stands; where there is none, none is made |
//! | gives its interfaces back one after the other, and its addresses are kept | names all of them, also those of interfaces that are gone |
//!
//! By it the next pod of the identity finds its addresses, all or none.

use std::collections::BTreeMap;

use kube::ResourceExt;
use schemas::crd::SpiderEndpoint;
use schemas::crd::endpoint::{IpAllocationDetail, SpiderEndpointStatus};
use schemas::intent::PodRef;

use super::fixed;
use crate::endpoint::Endpoint;

type Key = (String, String);
type Endpoints = BTreeMap<Key, Endpoint>;

/// What is to stand. `kept` is what was to stand before of pods that keep their addresses.
pub(super) fn wanted<'a>(
    all: Endpoints,
    kept: &Endpoints,
    standing: &'a BTreeMap<Key, SpiderEndpoint>,
    is_declared: impl Fn(&PodRef) -> bool,
) -> Endpoints {
    let kept_of: BTreeMap<&str, &Key> =
        kept.iter().map(|(key, before)| (before.status.current.uid.as_str(), key)).collect();
    let uid_of = |stands: &'a SpiderEndpoint| stands.status.as_ref().map(|status| status.current.uid.as_str());
    let standing_of: BTreeMap<&str, &Key> =
        standing.iter().filter_map(|(key, stands)| Some((uid_of(stands)?, key))).collect();
    let lasting = |(key, mut endpoint): (Key, Endpoint)| {
        let uid = endpoint.pod.uid.clone();
        let is_its = |status: &SpiderEndpointStatus| !uid.is_empty() && status.current.uid == uid;
        if uid.is_empty() || is_declared(&endpoint.pod) {
            let before = kept.get(&key).map(|before| &before.status);
            let before = before.or_else(|| standing.get(&key)?.status.as_ref());
            if let Some(before) = before.filter(|before| endpoint.is_kept && is_its(before)) {
                endpoint.status.current.ips = with_gone(&before.current.ips, endpoint.status.current.ips);
            }
            return Some((key, endpoint));
        }
        if let Some(key) = kept_of.get(uid.as_str()) {
            return Some(((*key).clone(), kept.get(*key)?.clone()));
        }
        let key = *standing_of.get(uid.as_str())?;
        Some((key.clone(), as_it_stands(standing.get(key)?, &endpoint.pod)?))
    };
    all.into_iter().filter_map(lasting).collect()
}

/// The interfaces that there are, with those of before that there are no longer, in the places where those were.
fn with_gone(before: &[IpAllocationDetail], now: Vec<IpAllocationDetail>) -> Vec<IpAllocationDetail> {
    let has =
        |all: &[IpAllocationDetail], nic: &IpAllocationDetail| all.iter().any(|one| one.interface == nic.interface);
    if before.iter().all(|nic| has(&now, nic)) {
        return now;
    }
    let found = |nic: &IpAllocationDetail| now.iter().find(|one| one.interface == nic.interface).unwrap_or(nic).clone();
    let new = now.iter().filter(|nic| !has(before, nic)).cloned();
    before.iter().map(found).chain(new).collect()
}

/// What stands, as that which is to stand; None when it is another pod's.
fn as_it_stands(stands: &SpiderEndpoint, pod: &PodRef) -> Option<Endpoint> {
    let status = stands.status.clone().filter(|status| status.current.uid == pod.uid)?;
    let is_kept = !stands.owner_references().iter().any(|owner| owner.kind == "Pod");
    Some(Endpoint { pod: pod.clone(), status, owner: Some(fixed::owner_of(stands)), is_kept })
}

#[cfg(test)]
mod tests {
    use schemas::crd::endpoint::{PodIpAllocation, SpiderEndpointSpec};

    use super::*;
    use crate::catalogue::Owner;

    fn nic(ifname: &str, address: &str) -> IpAllocationDetail {
        IpAllocationDetail { interface: ifname.into(), ipv4: Some(address.into()), ..IpAllocationDetail::default() }
    }

    fn endpoint(uid: &str, is_kept: bool, nics: &[(&str, &str)]) -> Endpoint {
        let ips = nics.iter().map(|(ifname, address)| nic(ifname, address)).collect();
        let current = PodIpAllocation { uid: uid.into(), node: "n".into(), ips };
        let kind = if is_kept { "StatefulSet" } else { "Pod" };
        Endpoint {
            pod: PodRef { namespace: "shop".into(), name: "db-0".into(), uid: uid.into() },
            status: SpiderEndpointStatus {
                current,
                owner_controller_type: kind.into(),
                owner_controller_name: "db".into(),
            },
            owner: is_kept.then(|| Owner {
                api_version: "apps/v1".into(),
                kind: kind.into(),
                name: "db".into(),
                uid: String::new(),
            }),
            is_kept,
        }
    }

    fn of(name: &str, endpoint: Endpoint) -> Endpoints {
        [(("shop".to_owned(), name.to_owned()), endpoint)].into()
    }

    fn object(name: &str, endpoint: &Endpoint) -> BTreeMap<Key, SpiderEndpoint> {
        let mut object = SpiderEndpoint::new(name, SpiderEndpointSpec {});
        object.status = Some(endpoint.status.clone());
        [(("shop".to_owned(), name.to_owned()), object)].into()
    }

    #[test]
    fn interfaces_that_are_gone_are_named_for_as_long_as_the_pod_is_the_same() {
        let both = [("net1", "10.0.0.1/16"), ("net2", "10.1.0.1/16")];
        let before = endpoint("u", true, &both);
        let rest = |uid: &str, is_kept| of("db-0", endpoint(uid, is_kept, &both[1..]));
        for (kept, standing) in
            [(of("db-0", before.clone()), BTreeMap::new()), (Endpoints::new(), object("db-0", &before))]
        {
            assert_eq!(wanted(rest("u", true), &kept, &standing, |_| true), of("db-0", before.clone()));
            assert_eq!(wanted(rest("v", true), &kept, &standing, |_| true), rest("v", true), "the next pod");
            assert_eq!(wanted(rest("u", false), &kept, &standing, |_| true), rest("u", false));
        }
        let changed = of("db-0", endpoint("u", true, &[("net3", "10.2.0.1/16"), ("net1", "10.0.0.9/16")]));
        let found = wanted(changed, &of("db-0", before), &BTreeMap::new(), |_| true);
        let told = endpoint("u", true, &[("net1", "10.0.0.9/16"), both[1], ("net3", "10.2.0.1/16")]);
        assert_eq!(found, of("db-0", told));
    }

    #[test]
    fn of_a_pod_that_nobody_declares_stays_what_stands() {
        let stands = endpoint("u", true, &[("net1", "10.0.0.1/16"), ("net2", "10.1.0.1/16")]);
        let left = || of("virt-launcher-1", endpoint("u", false, &[("net1", "10.0.0.1/16")]));
        let nobody = |_: &PodRef| false;
        assert_eq!(wanted(left(), &of("vm1", stands.clone()), &BTreeMap::new(), nobody), of("vm1", stands.clone()));
        assert_eq!(wanted(left(), &Endpoints::new(), &object("vm1", &stands), nobody), of("vm1", stands));
        let others = object("vm1", &endpoint("v", true, &[]));
        assert_eq!(wanted(left(), &Endpoints::new(), &others, nobody), Endpoints::new());
        // One whose UID nobody knows is taken for declared.
        let unknown = || of("db-0", endpoint("", false, &[("net1", "10.0.0.1/16")]));
        assert_eq!(wanted(unknown(), &Endpoints::new(), &BTreeMap::new(), nobody), unknown());
    }
}
