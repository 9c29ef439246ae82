use std::net::IpAddr;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use netlink::testbed::{End, Netns, Scene};
use netlink::{Events, Kernel, ProbeError};
use netlink_packet_route::link::LinkAttribute;
use plan::object::Neighbour;
use schemas::name::Mac;

use crate::fixture::net;
use crate::trial;
use crate::watching::block_on;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("who_answers_is_found_by_its_hardware_address", answers),
        trial("what_was_known_of_an_address_is_no_answer", moved),
        trial("nobody_answers_for_a_free_address", silent),
        trial("several_look_for_one_address_at_once", at_once),
        trial("an_address_of_the_node_is_in_use", local),
        trial("an_address_that_is_not_on_a_link_is_not_asked_for", not_on_link),
        trial("silence_on_a_link_that_is_down_says_nothing", down),
        trial("silence_without_a_source_address_says_nothing", no_source),
        trial("a_fixed_entry_says_nothing_and_stays", fixed),
    ]
}

const IFA_F_TENTATIVE: u8 = 0x40;
const MAC: Mac = Mac([2, 0, 0, 0, 8, 1]);
const OTHER_MAC: Mac = Mac([2, 0, 0, 0, 8, 2]);

/// A host of the node's network, at the other end of `wire`. Everything is in a node of its own.
struct Wire {
    kernel: Kernel,
    node: Netns,
    host: Netns,
}

impl Wire {
    /// The node has .1 and the host .2 of 10.31.0.0/24 and fd31::/64.
    fn new(name: &str) -> Self {
        let (node, host) = (Netns::create(&format!("n-{name}")).unwrap(), Netns::create(&format!("w-{name}")).unwrap());
        for netns in [&node, &host] {
            // No address is tried out for a second, and none comes by itself.
            netns.set_sysctl("net/ipv6/conf/all/accept_dad", "0").unwrap();
            netns.set_sysctl("net/ipv6/conf/default/accept_dad", "0").unwrap();
            netns.set_sysctl("net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
        }
        let mut scene = node.scene().unwrap();
        scene.veth(End::here("wire"), End::inside(&host, "eth0").with_mac(MAC)).unwrap();
        for (netns, link, last) in [(&node, "wire", 1), (&host, "eth0", 2)] {
            let mut scene = netns.scene().unwrap();
            scene.up(link).unwrap();
            scene.address(link, net(&format!("10.31.0.{last}/24"))).unwrap();
            scene.address(link, net(&format!("fe80::{last}/64"))).unwrap();
            scene.address(link, net(&format!("fd31::{last}/64"))).unwrap();
        }
        settle(&host);
        settle(&node);
        let kernel = node.run(Kernel::new).unwrap().unwrap();
        Self { kernel, node, host }
    }

    fn scene(&self) -> Scene {
        self.node.scene().unwrap()
    }

    fn look_for(&self, address: &str) -> Result<Option<Mac>, ProbeError> {
        self.kernel.look_for(ip(address))
    }
}

/// Waits until all addresses are ready for use, which they are once the kernel has noticed the link's carrier.
fn settle(netns: &Netns) {
    let is_settling = || {
        let flags_of = |line: &str| line.split_whitespace().nth(4).and_then(|flags| u8::from_str_radix(flags, 16).ok());
        let addresses = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6")).unwrap().unwrap();
        addresses.lines().any(|line| flags_of(line).unwrap() & IFA_F_TENTATIVE != 0)
    };
    let kernel = netns.run(Kernel::new).unwrap().unwrap();
    block_on(async {
        let mut events = Events::open(&kernel).unwrap();
        while is_settling() {
            tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("no address settles").unwrap();
        }
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn answers() {
    let wire = Wire::new("answers");
    for address in ["10.31.0.2", "fd31::2"] {
        let begun = Instant::now();
        assert_eq!(wire.look_for(address).unwrap(), Some(MAC), "{address}");
        assert_eq!(wire.look_for(address).unwrap(), Some(MAC), "{address} again");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    let lasting = wire.scene().observe().unwrap().neighbours;
    assert_eq!(lasting, [], "nothing lasting is left");
}

fn moved() {
    let wire = Wire::new("moved");
    for address in ["10.31.0.2", "fd31::2"] {
        assert_eq!(wire.look_for(address).unwrap(), Some(MAC));
    }
    let mut host = wire.host.scene().unwrap();
    host.set_link("eth0", LinkAttribute::Address(OTHER_MAC.0.to_vec())).unwrap();
    for address in ["10.31.0.2", "fd31::2"] {
        assert_eq!(wire.look_for(address).unwrap(), Some(OTHER_MAC), "{address}");
    }
    host.delete_address("eth0", net("10.31.0.2/24")).unwrap();
    assert_eq!(wire.look_for("10.31.0.2").unwrap(), None);
}

fn silent() {
    let wire = Wire::new("silent");
    for address in ["10.31.0.9", "fd31::9"] {
        let begun = Instant::now();
        assert_eq!(wire.look_for(address).unwrap(), None, "{address}");
        let taken = begun.elapsed();
        assert!(taken > Duration::from_secs(2), "not asked three times in {taken:?}");
    }
    let lasting = wire.scene().observe().unwrap().neighbours;
    assert_eq!(lasting, [], "nothing lasting is left");
}

fn at_once() {
    let wire = Wire::new("atonce");
    std::thread::scope(|scope| {
        let looks: Vec<_> = (0..4).map(|_| scope.spawn(|| wire.look_for("10.31.0.2"))).collect();
        for look in looks {
            // One that is disturbed every time says so; none takes another's deletion of the entry for silence.
            match look.join().unwrap() {
                Ok(found) => assert_eq!(found, Some(MAC)),
                Err(error) => assert!(matches!(error, ProbeError::Unsettled { .. }), "{error}"),
            }
        }
    });
}

fn local() {
    let wire = Wire::new("local");
    let own = wire.scene().link("wire").unwrap().mac;
    for address in ["10.31.0.1", "fd31::1"] {
        assert_eq!(wire.look_for(address).unwrap(), own, "{address}");
    }
}

fn not_on_link() {
    let wire = Wire::new("offlink");
    for address in ["10.77.0.9", "fd77::9", "10.31.0.255", "224.0.0.9"] {
        let error = wire.look_for(address).unwrap_err();
        assert!(matches!(error, ProbeError::NotOnLink { .. }), "{address}: {error}");
    }
    for (dst, gateway) in [("0.0.0.0/0", "10.31.0.2"), ("::/0", "fd31::2")] {
        wire.scene().route(net(dst), Some(ip(gateway)), "wire").unwrap();
    }
    for address in ["10.77.0.9", "fd77::9"] {
        let error = wire.look_for(address).unwrap_err().to_string();
        assert!(error.ends_with("it lies behind a gateway"), "{error}");
    }
}

fn down() {
    let wire = Wire::new("down");
    // No carrier: the node's routes stay.
    wire.host.scene().unwrap().down("eth0").unwrap();
    for address in ["10.31.0.2", "fd31::2", "10.31.0.9"] {
        let error = wire.look_for(address).unwrap_err();
        assert!(matches!(error, ProbeError::LinkDown { .. } | ProbeError::NotOnLink { .. }), "{address}: {error}");
    }
    let error = wire.look_for("10.31.0.9").unwrap_err();
    assert_eq!(error.to_string(), "10.31.0.9 cannot be asked for while link wire is down");
    // Its routes are gone, so it is nowhere.
    wire.scene().down("wire").unwrap();
    let error = wire.look_for("10.31.0.2").unwrap_err();
    assert!(matches!(error, ProbeError::NotOnLink { .. }), "{error}");
}

fn no_source() {
    let wire = Wire::new("nosource");
    wire.scene().delete_address("wire", net("fe80::1/64")).unwrap();
    let error = wire.look_for("fd31::2").unwrap_err();
    assert!(matches!(error, ProbeError::NoSource { .. }), "{error}");
    assert_eq!(wire.look_for("10.31.0.2").unwrap(), Some(MAC));
}

fn fixed() {
    let wire = Wire::new("fixed");
    let entry =
        Neighbour { dev: "wire".into(), address: ip("10.31.0.9"), mac: Some(OTHER_MAC), permanent: true, protocol: 4 };
    wire.scene().set_neighbour(&entry).unwrap();
    let error = wire.look_for("10.31.0.9").unwrap_err();
    assert!(matches!(error, ProbeError::Fixed { .. }), "{error}");
    assert_eq!(wire.scene().observe().unwrap().neighbours, [entry]);
}
