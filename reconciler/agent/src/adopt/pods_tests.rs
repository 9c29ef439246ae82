use schemas::intent::{LinkIdentity, NetnsIdentity};
use schemas::name::Mac;

use super::super::namespaces::Nic;
use super::*;

fn nic(interface: &str, ipv4: &str) -> IpAllocationDetail {
    IpAllocationDetail {
        interface: interface.into(),
        ipv4: Some(ipv4.into()),
        ipv4_pool: Some("p4".into()),
        ipv4_gateway: Some("10.6.0.1".into()),
        ..IpAllocationDetail::default()
    }
}

fn endpoint(name: &str, nics: &[(&str, &str)]) -> Endpoint {
    Endpoint {
        pod: PodRef { namespace: "d".into(), name: name.into(), uid: format!("uid-{name}") },
        nics: nics.iter().map(|(ifname, address)| nic(ifname, address)).collect(),
    }
}

fn namespace(name: &str, nics: &[(&str, &str)]) -> Namespace {
    let nic = |(index, (ifname, address)): (u32, &(&str, &str))| {
        let link = LinkIdentity { index, mac: Mac([2, 0, 0, 0, 0, 1]) };
        ((*ifname).to_owned(), Nic { link, addresses: vec![address.parse().unwrap()] })
    };
    let identity = NetnsIdentity { path: format!("/run/netns/{name}"), cookie: 7, boot_id: "boot".into() };
    Namespace { identity, nics: (2..).zip(nics).map(nic).collect() }
}

fn cached(container: &str, ifname: &str, netns: &str) -> Cached {
    Cached {
        network: format!("of-{ifname}").parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: ifname.parse().unwrap(),
        netns: vec![format!("/run/netns/{netns}")],
        pod_uid: None,
        has_coordinator: ifname == "net1",
    }
}

/// Pod a with eth0 and net1, all well.
fn well() -> Known {
    Known {
        endpoints: vec![endpoint("a", &[("net1", "10.6.0.9/16"), ("eth0", "10.6.0.8/16")])],
        pools: [("p4".to_owned(), "10.6.0.0/16".parse().unwrap())].into(),
        users: BTreeMap::new(),
        pods: ["d/a".to_owned()].into(),
        namespaces: vec![namespace("x", &[("eth0", "10.6.0.8"), ("net1", "10.6.0.9")]), namespace("y", &[])],
        cached: vec![cached("ca", "eth0", "x"), cached("ca", "net1", "x"), cached("cb", "eth0", "y")],
    }
}

/// Why the only pod is left alone.
fn reason(known: &Known, store: &Snapshot) -> String {
    let (adoptions, rows) = decide(known, store);
    assert_eq!(adoptions, []);
    assert!(!rows.is_empty() && rows.iter().all(|row| row.state == State::Left), "{rows:?}");
    rows[0].note.clone()
}

#[test]
fn a_pod_that_all_agree_on_is_taken_over_with_all_its_interfaces() {
    let (adoptions, rows) = decide(&well(), &Snapshot::default());
    assert_eq!((adoptions.len(), rows), (1, vec![]));
    let [eth0, net1] = &adoptions[0].attachments[..] else { panic!("{adoptions:?}") };
    assert_eq!((eth0.key.to_string(), eth0.ordinal, eth0.network.as_str()), ("ca/eth0".into(), 0, "of-eth0"));
    assert_eq!((net1.key.to_string(), net1.ordinal, net1.network.as_str()), ("ca/net1".into(), 1, "of-net1"));
    assert_eq!(net1.foreign_link.unwrap().index, 3);
    assert!(net1.allocated && net1.link.is_none() && net1.coordinate.is_none() && !net1.link_wanted);
    assert_eq!(net1.addresses[0].address, "10.6.0.9/16".parse().unwrap());
    assert_eq!(net1.routes, [RouteIntent { dst: "0.0.0.0/0".parse().unwrap(), gateway: ip("10.6.0.1") }]);
    assert_eq!(adoptions[0].sandbox.netns, Some(well().namespaces[0].identity.clone()));
    assert_eq!(adoptions[0].note, "routing stays as it is");
    // Recorded, all of it holds, and it is known from then on.
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open(&folder.path().join("store"), "node", "boot").unwrap();
    let change = super::super::change(&adoptions[0], store::Change::new());
    store.commit(change).unwrap();
    let snapshot = store.load().unwrap();
    assert_eq!(store::check::check(&snapshot), []);
    let (adoptions, rows) = decide(&well(), &snapshot);
    assert_eq!(adoptions, []);
    assert!(rows.iter().all(|row| row.state == State::Known) && rows.len() == 2, "{rows:?}");
}

#[test]
fn without_its_namespace_or_with_another_one_a_pod_is_left_alone() {
    let empty = Snapshot::default();
    let mut known = well();
    known.namespaces.remove(0);
    assert_eq!(reason(&known, &empty), "no network namespace has 10.6.0.8");
    known.namespaces = vec![namespace("x", &[("eth0", "10.6.0.8"), ("net2", "10.6.0.9")])];
    assert_eq!(reason(&known, &empty), "/run/netns/x has 10.6.0.9 on net2, not on net1");
    known.namespaces = vec![namespace("x", &[("eth0", "10.6.0.8")]), namespace("y", &[("net1", "10.6.0.9")])];
    assert_eq!(reason(&known, &empty), "no network namespace has all of its addresses");
    let both = [("eth0", "10.6.0.8"), ("net1", "10.6.0.9")];
    known.namespaces = vec![namespace("x", &both), namespace("y", &both)];
    assert_eq!(reason(&known, &empty), "both /run/netns/x and /run/netns/y have its addresses");
}

#[test]
fn without_its_container_a_pod_is_left_alone() {
    let empty = Snapshot::default();
    let mut known = well();
    known.cached.retain(|cached| cached.container.as_str() == "cb");
    assert!(reason(&known, &empty).ends_with("has nothing of /run/netns/x: its container ID is not known"));
    known.cached = vec![cached("ca", "eth0", "x"), cached("cc", "net1", "x")];
    assert!(reason(&known, &empty).ends_with("has /run/netns/x as that of ca and cc"));
    known.cached = vec![Cached { pod_uid: Some("uid-b".into()), ..cached("ca", "eth0", "x") }];
    assert!(reason(&known, &empty).ends_with("(UID uid-b)"));
    // Older libraries do not tell the namespace.
    known.cached = vec![Cached { pod_uid: Some("uid-a".into()), netns: vec![], ..cached("ca", "eth0", "x") }];
    assert_eq!(decide(&known, &empty).0.len(), 1);
}

#[test]
fn addresses_that_are_anothers_or_of_no_pool_are_left_alone() {
    let empty = Snapshot::default();
    let mut known = well();
    known.endpoints.push(endpoint("b", &[("eth0", "10.6.0.9/16")]));
    assert_eq!(reason(&known, &empty), "10.6.0.9 stands in several SpiderEndpoints: d/a, d/b");
    let mut known = well();
    known.pools.clear();
    assert_eq!(reason(&known, &empty), "there is no SpiderIPPool \"p4\"");
    known.pools.insert("p4".into(), "10.7.0.0/16".parse().unwrap());
    assert_eq!(reason(&known, &empty), "10.6.0.9/16 is not of 10.7.0.0/16, the subnet of pool p4");
    let mut known = well();
    let user = PoolIpUser { pod: "d/b".into(), pod_uid: "uid-b".into() };
    known.users.insert("p4".into(), [(ip("10.6.0.8").unwrap(), user)].into());
    assert_eq!(reason(&known, &empty), "pool p4 says that d/b has 10.6.0.8");
}

#[test]
fn an_address_that_only_the_pool_knows_of_is_told() {
    let mut known = well();
    let user = |pod: &str| PoolIpUser { pod: pod.into(), pod_uid: "u".into() };
    let users = [("10.6.0.8", "d/a"), ("10.6.0.70", "d/a"), ("10.6.0.71", "d/elsewhere")];
    let users = users.map(|(address, pod)| (ip(address).unwrap(), user(pod)));
    known.users.insert("p4".into(), users.into());
    let (adoptions, rows) = decide(&known, &Snapshot::default());
    assert_eq!(adoptions.len(), 1);
    let told: Vec<String> = rows.iter().flat_map(|row| row.addresses.clone()).collect();
    assert_eq!(told, ["10.6.0.70"]);
}
