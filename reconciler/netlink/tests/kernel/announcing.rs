//! What the other end of a cable is told.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use plan::step::Step;
use schemas::name::Mac;

use crate::fixture::{MAC, Pod};
use crate::trial;

const NEW_MAC: Mac = Mac([0x0a, 0x1b, 10, 9, 0, 2]);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_announcement_is_one_packet_an_address", told),
        trial("an_announcement_of_a_link_that_is_not_there_is_only_logged", nowhere),
        trial("a_neighbour_believes_an_announcement", believed),
    ]
}

/// Hears all that comes and goes on the node.
fn ear() -> OwnedFd {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap()
}

/// The frames of that sender so far.
fn heard(ear: &OwnedFd, from: Mac) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut frame = [0; 2048];
    loop {
        match recv(ear.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(length) if frame[6..12] == from.0 => found.push(frame[..length].to_vec()),
            Ok(_) => {}
            Err(Errno::EAGAIN) => return found,
            Err(error) => panic!("{error}"),
        }
    }
}

fn told() {
    let pod = Pod::new("told");
    pod.apply_all(&[Step::SetLinkMac { dev: "eth0".into(), mac: NEW_MAC }]);
    let ear = ear();
    let (v4, v6): (IpAddr, IpAddr) = ("10.9.0.2".parse().unwrap(), "fd00:9::2".parse().unwrap());
    pod.pass().announce("eth0", vec![v4, v6]);
    let frames = heard(&ear, NEW_MAC);
    let arp = frames.iter().filter(|frame| frame[12..14] == [8, 6]).collect::<Vec<_>>();
    assert_eq!(arp.len(), 1, "{frames:?}");
    assert_eq!(
        (&arp[0][..6], &arp[0][28..32], &arp[0][38..42]),
        (&[0xff; 6][..], &[10, 9, 0, 2][..], &[10, 9, 0, 2][..])
    );
    let is_advertisement = |frame: &&Vec<u8>| frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 136;
    let advertised: Vec<_> = frames.iter().filter(is_advertisement).collect();
    assert_eq!(advertised.len(), 1, "{frames:?}");
    let IpAddr::V6(address) = v6 else { unreachable!() };
    assert_eq!((&advertised[0][62..78], &advertised[0][80..86]), (&address.octets()[..], &NEW_MAC.0[..]));
}

fn nowhere() {
    let pod = Pod::new("nowhere");
    let ear = ear();
    pod.pass().announce("net9", vec!["10.9.0.2".parse().unwrap()]);
    assert!(heard(&ear, MAC).is_empty());
}

/// What a neighbour has learnt is replaced.
fn believed() {
    let pod = Pod::new("believed");
    let mut node = netlink::testbed::Scene::here().unwrap();
    node.address(&pod.peer, "10.9.0.1/24".parse().unwrap()).unwrap();
    let known = || std::fs::read_to_string("/proc/self/net/arp").unwrap();
    // Refused, which takes its hardware address to hear.
    assert!(std::net::TcpStream::connect("10.9.0.2:9").is_err());
    assert!(known().contains(&MAC.to_string()), "{}", known());
    pod.apply_all(&[Step::SetLinkMac { dev: "eth0".into(), mac: NEW_MAC }]);
    pod.pass().announce("eth0", vec!["10.9.0.2".parse().unwrap()]);
    assert!(known().contains(&NEW_MAC.to_string()) && !known().contains(&MAC.to_string()), "{}", known());
}
