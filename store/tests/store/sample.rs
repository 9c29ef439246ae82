//! One intent per number: a sandbox, its attachment and its address, which belong together.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use schemas::intent::*;
use schemas::name::{AttachmentKey, ContainerId, Mac};
use store::{Change, Store};

pub(crate) const NODE: &str = "node1";
pub(crate) const BOOT: &str = "5d1a3b2e-0000-4000-8000-000000000001";

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, NODE, BOOT).unwrap()
}

pub(crate) fn container(number: u32) -> ContainerId {
    format!("c{number:07}").parse().unwrap()
}

pub(crate) fn key(number: u32) -> AttachmentKey {
    AttachmentKey { container: container(number), ifname: "net1".parse().unwrap() }
}

pub(crate) fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

pub(crate) fn sandbox(number: u32) -> Sandbox {
    let route = |text: &str| BaselineRoute {
        dst: text.parse().unwrap(),
        gateway: None,
        src: None,
        scope: 253,
        metric: 0,
        onlink: false,
        protocol: 3,
    };
    Sandbox {
        container: container(number),
        netns: Some(NetnsIdentity {
            path: format!("/run/netns/{number}"),
            cookie: u64::from(number),
            boot_id: BOOT.into(),
        }),
        baseline: Some(Baseline {
            nic: "eth0".parse().unwrap(),
            index: 2,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec!["10.244.0.7/24".parse().unwrap()],
            routes: vec![route("10.244.0.0/24"), route("10.244.0.0/16"), route("0.0.0.0/0")],
            peer: None,
        }),
        auxiliary: None,
        sysctls_before: Vec::new(),
        generation: 1,
        outcome: Outcome::default(),
    }
}

pub(crate) fn attachment(number: u32) -> Attachment {
    Attachment {
        key: key(number),
        network: "macvlan-conf".parse().unwrap(),
        pod: PodRef { namespace: "default".into(), name: format!("pod-{number}"), uid: String::new() },
        ordinal: 0,
        generation: 1,
        addresses: vec![AssignedAddress {
            address: ipnetwork::IpNetwork::new(address(number), 16).unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            pool: "pool".into(),
        }],
        routes: Vec::new(),
        allocated: true,
        link: None,
        link_wanted: false,
        learned: schemas::intent::Learned::default(),
        foreign_link: None,
        coordinate: None,
        uplink: None,
        closing: false,
        prepared: false,
    }
}

pub(crate) fn allocation(number: u32) -> Allocation {
    Allocation { address: address(number), pool: "pool".into(), owner: key(number), state: AllocationState::Held }
}

/// The whole intent.
pub(crate) fn put(number: u32) -> Change {
    Change::new().put_sandbox(&sandbox(number)).put_attachment(&attachment(number)).put_allocation(&allocation(number))
}

/// Its end.
pub(crate) fn delete(number: u32) -> Change {
    Change::new().delete_attachment(&key(number)).delete_allocation(address(number)).delete_sandbox(&container(number))
}
