//! Where the routes of a pod's own annotation go (../spec/ipam.md 6): each to the first interface that has an address in
//! whose subnet the gateway is, once in the pod.

use schemas::intent::{AssignedAddress, RouteIntent};
use schemas::name::IfName;
use schemas::wire::Place;

use super::allocate::Given;
use crate::agent::Agent;
use crate::cluster::Notice;
use crate::ledger::SandboxRecords;
use crate::selection::{multus, pod_marks};

/// Gives them to what was chosen; `order` is that of the pod's annotation, where one is about several interfaces. What
/// another interface has already is not given again, and what fits nowhere stands in `given.unplaced`.
pub(super) fn place(
    mut routes: Vec<RouteIntent>,
    at: &IfName,
    order: &[IfName],
    records: Option<&SandboxRecords>,
    given: &mut Given,
) {
    let Given { addresses, routes: own, others, unplaced, .. } = given;
    let is_replaced = |ifname: &IfName| ifname == at || others.iter().any(|(other, _)| other == ifname);
    let others_have = |route: &RouteIntent| {
        let mut known = records.into_iter().flat_map(|records| records.attachments.values());
        known.any(|known| {
            !known.closing && !known.is_withdrawn() && !is_replaced(&known.key.ifname) && known.routes.contains(route)
        })
    };
    routes.retain(|route| !others_have(route));
    let rank = |ifname: &IfName| order.iter().position(|one| one == ifname);
    let mut results = vec![(rank(at), &*addresses, own)];
    results.extend(others.iter_mut().map(|(ifname, other)| (rank(ifname), &other.addresses, &mut other.routes)));
    results.sort_by_key(|(rank, ..)| *rank);
    for route in routes {
        let fits = |assigned: &AssignedAddress| route.gateway.is_some_and(|gw| assigned.address.contains(gw));
        match results.iter_mut().find(|(_, addresses, _)| addresses.iter().any(fits)) {
            Some((_, _, own)) if own.contains(&route) => {}
            Some((_, _, own)) => {
                // Before the default route of its family, which comes last.
                let is_default = |it: &RouteIntent| it.dst.prefix() == 0 && it.dst.is_ipv4() == route.dst.is_ipv4();
                let index = own.iter().position(is_default).unwrap_or(own.len());
                own.insert(index, route);
            }
            None => unplaced.push(route),
        }
    }
}

/// Tells of those that fit nowhere, once the last of the pod's interfaces is there: a later one may be what they are for.
pub(super) fn tell_unplaced(agent: &Agent, place: &Place, records: &SandboxRecords, given: &Given) {
    if given.unplaced.is_empty() {
        return;
    }
    let text = |route: &RouteIntent| match route.gateway {
        Some(gateway) => format!("{} via {gateway}", route.dst),
        None => route.dst.to_string(),
    };
    let routes: Vec<String> = given.unplaced.iter().map(text).collect();
    let note = format!(
        "annotation ipam.spidernet.io/routes: no interface has an address in the subnet of the gateway of {}: left out",
        routes.join(", ")
    );
    let is_there = |ifname: &String| {
        records.attachments.values().any(|known| !known.is_withdrawn() && known.key.ifname.as_str() == ifname)
    };
    let catalogue = agent.catalogue();
    let is_last = multus::interfaces(&catalogue, &place.pod).iter().all(is_there);
    if !is_last {
        tracing::info!(pod = %place.pod, note, "a further interface is still to come");
        return;
    }
    tracing::warn!(pod = %place.pod, note, "routes are left out");
    if let Some(cluster) = agent.cluster.as_ref().filter(|_| pod_marks(&catalogue, &place.pod).is_some()) {
        cluster.notice(Notice::Limited(place.pod.clone(), note));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemas::intent::{Outcome, PodRef, Sandbox};
    use schemas::name::AttachmentKey;

    use super::super::allocate::attachment;
    use super::*;

    fn given(addresses: &[&str], routes: &[&str]) -> Given {
        let assigned =
            |address: &&str| AssignedAddress { address: address.parse().unwrap(), gateway: None, pool: "p".into() };
        Given {
            addresses: addresses.iter().map(assigned).collect(),
            routes: routes.iter().map(|text| route(text)).collect(),
            ..Given::default()
        }
    }

    fn route(text: &str) -> RouteIntent {
        let (dst, gateway) = text.split_once(' ').unwrap();
        RouteIntent { dst: dst.parse().unwrap(), gateway: Some(gateway.parse().unwrap()) }
    }

    fn texts(routes: &[RouteIntent]) -> Vec<String> {
        routes.iter().map(|route| format!("{} {}", route.dst, route.gateway.unwrap())).collect()
    }

    #[test]
    fn a_route_goes_to_the_first_interface_whose_subnet_has_its_gateway() {
        let [eth0, net1, net2]: [IfName; 3] = ["eth0", "net1", "net2"].map(|name| name.parse().unwrap());
        let wanted = ["10.9.0.0/16 10.6.0.1", "fd99::/64 fd06::1", "10.8.0.0/16 10.7.0.1", "10.5.0.0/16 10.1.0.1"];
        let chosen = || Given {
            others: vec![
                (net2.clone(), given(&["10.6.0.12/16", "10.7.0.12/16"], &["0.0.0.0/0 10.6.0.1"])),
                (eth0.clone(), given(&["10.6.0.10/16", "fd06::10/64"], &["0.0.0.0/0 10.6.0.1", "::/0 fd06::1"])),
            ],
            ..given(&["10.6.0.11/16"], &["0.0.0.0/0 10.6.0.1"])
        };
        let placed = |order: &[IfName]| {
            let mut found = chosen();
            place(wanted.iter().map(|text| route(text)).collect(), &net1, order, None, &mut found);
            assert_eq!(texts(&found.unplaced), ["10.5.0.0/16 10.1.0.1"]);
            [&found, &found.others[0].1, &found.others[1].1].map(|given| texts(&given.routes))
        };
        let of_eth0 = ["10.9.0.0/16 10.6.0.1", "0.0.0.0/0 10.6.0.1", "fd99::/64 fd06::1", "::/0 fd06::1"];
        let of_net2 = ["10.8.0.0/16 10.7.0.1", "0.0.0.0/0 10.6.0.1"];
        let found = placed(&[eth0.clone(), net1.clone(), net2.clone()]);
        assert_eq!(found, [vec!["0.0.0.0/0 10.6.0.1"], of_net2.to_vec(), of_eth0.to_vec()]);
        let found = placed(&[net1.clone(), net2.clone(), eth0.clone()]);
        assert_eq!(found[0], ["10.9.0.0/16 10.6.0.1", "0.0.0.0/0 10.6.0.1"]);
        assert_eq!(found[2], ["0.0.0.0/0 10.6.0.1", "fd99::/64 fd06::1", "::/0 fd06::1"]);
    }

    #[test]
    fn what_another_interface_of_the_pod_has_is_not_given_again() {
        let wanted = || vec![route("10.9.0.0/16 10.6.0.1")];
        let at = |ifname: &str| Place {
            key: AttachmentKey { container: "c".parse().unwrap(), ifname: ifname.parse().unwrap() },
            network: "n".parse().unwrap(),
            netns: None,
            pod: PodRef::default(),
        };
        let mut records = SandboxRecords {
            sandbox: Sandbox {
                container: "c".parse().unwrap(),
                netns: None,
                baseline: None,
                auxiliary: None,
                sysctls_before: Vec::new(),
                generation: 1,
                outcome: Outcome::default(),
            },
            attachments: BTreeMap::new(),
        };
        let mut first = given(&["10.6.0.11/16"], &[]);
        place(wanted(), &at("net1").key.ifname, &[], Some(&records), &mut first);
        assert_eq!(texts(&first.routes), ["10.9.0.0/16 10.6.0.1"]);
        attachment(&mut records, &at("net1"), &first);
        let placed = |ifname: &str, records: &SandboxRecords| {
            let mut found = given(&["10.6.0.12/16"], &[]);
            place(wanted(), &at(ifname).key.ifname, &[], Some(records), &mut found);
            assert_eq!(found.unplaced, []);
            found.routes.len()
        };
        assert_eq!((placed("net1", &records), placed("net2", &records)), (1, 0));
        // One that goes has it no more.
        records.attachments.values_mut().for_each(|known| known.closing = true);
        assert_eq!(placed("net2", &records), 1);
    }

    #[test]
    fn what_a_pool_says_already_is_not_said_twice() {
        let mut found = given(&["10.6.0.11/16"], &["10.9.0.0/16 10.6.0.1"]);
        let routes = vec![route("10.9.0.0/16 10.6.0.1"), route("10.8.0.0/16 10.6.0.1")];
        place(routes, &"net1".parse().unwrap(), &[], None, &mut found);
        assert_eq!(texts(&found.routes), ["10.9.0.0/16 10.6.0.1", "10.8.0.0/16 10.6.0.1"]);
        assert_eq!(found.unplaced, []);
    }
}
