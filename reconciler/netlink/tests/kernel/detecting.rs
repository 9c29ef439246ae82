use std::net::IpAddr;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use netlink::testbed::{End, Netns};
use netlink::{DetectError, Kernel, Pace, Paces, Question};
use schemas::intent::NetnsIdentity;
use schemas::name::Mac;

use crate::fixture::net;
use crate::trial;
use crate::watching::block_on;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("who_has_an_address_is_told_with_the_hardware_address", conflict),
        trial("an_address_that_nobody_has_is_free_after_one_budget", free),
        trial("two_that_try_one_address_out_hear_of_each_other", both_try),
        trial("fifty_addresses_are_asked_for_in_one_budget", fifty),
        trial("a_gateway_answers_a_pod_that_has_no_address_yet", gateway),
        trial("a_gateway_that_is_gone_is_told_within_its_budget", no_gateway),
        trial("what_the_pods_own_links_say_is_no_conflict", own),
        trial("an_address_that_is_the_links_own_already_is_no_conflict", assigned),
        trial("silence_on_a_link_that_cannot_speak_says_nothing", mute),
        trial("an_announcement_is_heard", announcement),
        trial("a_look_leaves_nothing_in_the_namespace", nothing_left),
    ]
}

const HOST: Mac = Mac([2, 0, 0, 0, 9, 2]);

/// A switch, a host on it that has .2 of 10.31.0.0/24 and fd31::/64, and pods whose links have no address.
struct Wire {
    kernel: Kernel,
    switch: Netns,
    host: Netns,
    name: String,
}

struct Pod {
    netns: Netns,
    identity: NetnsIdentity,
}

impl Wire {
    fn new(name: &str) -> Self {
        let switch = Netns::create(&format!("sw-{name}")).unwrap();
        let mut scene = switch.scene().unwrap();
        scene.bridge("br0").unwrap();
        scene.up("br0").unwrap();
        let host = Netns::create(&format!("ho-{name}")).unwrap();
        let wire = Self { kernel: Kernel::new().unwrap(), switch, host, name: name.to_owned() };
        wire.plug(&wire.host, "eth0", "p0", HOST);
        for setting in ["all/accept_dad", "default/accept_dad", "eth0/accept_dad"] {
            wire.host.set_sysctl(&format!("net/ipv6/conf/{setting}"), "0").unwrap();
        }
        let mut scene = wire.host.scene().unwrap();
        scene.up("eth0").unwrap();
        for address in ["10.31.0.2/24", "fe80::2/64", "fd31::2/64"] {
            scene.address("eth0", net(address)).unwrap();
        }
        wire
    }

    fn plug(&self, netns: &Netns, link: &str, port: &str, mac: Mac) {
        let mut scene = self.switch.scene().unwrap();
        scene.veth(End::here(port), End::inside(netns, link).with_mac(mac)).unwrap();
        scene.port(port, "br0").unwrap();
        scene.up(port).unwrap();
    }

    /// One with eth0, which is up; its hardware address ends so.
    fn pod(&self, last: u8) -> Pod {
        let netns = Netns::create(&format!("po-{}-{last}", self.name)).unwrap();
        self.plug(&netns, "eth0", &format!("p{last}"), mac(last));
        netns.scene().unwrap().up("eth0").unwrap();
        let identity = self.kernel.identify(netns.path()).unwrap();
        Pod { netns, identity }
    }

    fn detect(&self, pod: &Pod, questions: &[Question]) -> Result<Vec<Option<Mac>>, DetectError> {
        block_on(self.kernel.detect(&pod.identity, "eth0", questions, Paces::default()))
    }

    /// Whether anybody else has the address.
    fn conflict(&self, pod: &Pod, address: &str) -> Option<Mac> {
        self.detect(pod, &[Question::Conflict(ip(address))]).unwrap()[0]
    }
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 10, last])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ask(gateway: &str, source: &str) -> Question {
    Question::Gateway { gateway: ip(gateway), source: ip(source) }
}

fn conflict() {
    let wire = Wire::new("conflict");
    let pod = wire.pod(1);
    let questions = ["10.31.0.2", "10.31.0.9", "fd31::2", "fd31::9"].map(|text| Question::Conflict(ip(text)));
    assert_eq!(wire.detect(&pod, &questions).unwrap(), [Some(HOST), None, Some(HOST), None]);
    let mut host = wire.host.scene().unwrap();
    for address in ["10.31.0.2/24", "fd31::2/64"] {
        host.delete_address("eth0", net(address)).unwrap();
    }
    assert_eq!(wire.detect(&pod, &questions).unwrap(), [None; 4]);
}

fn free() {
    let wire = Wire::new("free");
    let pod = wire.pod(1);
    for address in ["10.31.0.9", "fd31::9"] {
        let begun = Instant::now();
        assert_eq!(wire.conflict(&pod, address), None, "{address}");
        let (taken, longest) = (begun.elapsed(), Pace::CONFLICT.longest());
        assert!(taken >= longest, "silence was believed after {taken:?}");
        assert!(taken < longest * 5, "{taken:?}");
    }
}

fn both_try() {
    let wire = Wire::new("both");
    let (first, second) = (wire.pod(1), wire.pod(2));
    for address in ["10.31.0.9", "fd31::9"] {
        let question = [Question::Conflict(ip(address))];
        let (of_first, of_second) = block_on(async {
            // Each asks long enough for the other to have begun.
            let pace = Pace { tries: 40, interval: Duration::from_millis(50), patience: Duration::from_millis(50) };
            let paces = Paces { conflict: pace, ..Paces::default() };
            tokio::join!(
                wire.kernel.detect(&first.identity, "eth0", &question, paces),
                wire.kernel.detect(&second.identity, "eth0", &question, paces),
            )
        });
        // Who hears of the other first stops asking.
        let found = [of_first.unwrap()[0], of_second.unwrap()[0]];
        assert!(found.contains(&Some(mac(2))) || found.contains(&Some(mac(1))), "{address}: {found:?}");
        assert!(found[0] != Some(mac(1)) && found[1] != Some(mac(2)), "one heard itself: {found:?}");
    }
}

fn fifty() {
    let wire = Wire::new("fifty");
    let pod = wire.pod(1);
    let mut host = wire.host.scene().unwrap();
    let is_used = |number: usize| number.is_multiple_of(5);
    let address = |number: usize| match number % 2 {
        0 => format!("10.31.0.{}", 100 + number),
        _ => format!("fd31::{:x}:1", 100 + number),
    };
    for number in (0..50).filter(|number| is_used(*number)) {
        let length = if number % 2 == 0 { 24 } else { 64 };
        host.address("eth0", net(&format!("{}/{length}", address(number)))).unwrap();
    }
    let questions: Vec<Question> = (0..50).map(|number| Question::Conflict(ip(&address(number)))).collect();
    let begun = Instant::now();
    let found = wire.detect(&pod, &questions).unwrap();
    let taken = begun.elapsed();
    let wanted: Vec<Option<Mac>> = (0..50).map(|number| is_used(number).then_some(HOST)).collect();
    assert_eq!(found, wanted);
    // One after another would take 40 budgets for those that are free alone.
    assert!(taken < Pace::CONFLICT.longest() * 5, "{taken:?}");
}

fn gateway() {
    let wire = Wire::new("gateway");
    let pod = wire.pod(1);
    let questions = [ask("10.31.0.2", "10.31.0.77"), ask("fd31::2", "fd31::77"), ask("fe80::2", "fd31::77")];
    let begun = Instant::now();
    assert_eq!(wire.detect(&pod, &questions).unwrap(), [Some(HOST); 3]);
    assert!(begun.elapsed() < Pace::GATEWAY.longest(), "it waited although all had answered");
}

fn no_gateway() {
    let wire = Wire::new("nogateway");
    let pod = wire.pod(1);
    let questions = [ask("10.31.0.1", "10.31.0.77"), ask("fd31::1", "fd31::77"), ask("10.31.0.2", "10.31.0.77")];
    let begun = Instant::now();
    assert_eq!(wire.detect(&pod, &questions).unwrap(), [None, None, Some(HOST)]);
    let taken = begun.elapsed();
    assert!(taken >= Pace::GATEWAY.longest() && taken < Pace::GATEWAY.longest() * 4, "{taken:?}");
}

fn own() {
    let wire = Wire::new("own");
    let (pod, other) = (wire.pod(1), wire.pod(2));
    wire.plug(&pod.netns, "eth1", "q1", mac(11));
    pod.netns.set_sysctl("net/ipv6/conf/eth1/accept_dad", "0").unwrap();
    let mut scene = pod.netns.scene().unwrap();
    scene.up("eth1").unwrap();
    scene.address("eth1", net("10.31.0.5/24")).unwrap();
    scene.address("eth1", net("fd31::5/64")).unwrap();
    for address in ["10.31.0.5", "fd31::5"] {
        assert!(wire.conflict(&other, address).is_some(), "{address} is in use, says everybody else");
        assert_eq!(wire.conflict(&pod, address), None, "{address} is the pod's own");
    }
}

fn assigned() {
    let wire = Wire::new("assigned");
    let pod = wire.pod(1);
    let mut scene = pod.netns.scene().unwrap();
    scene.address("eth0", net("10.31.0.5/24")).unwrap();
    scene.address("eth0", net("fd31::5/64")).unwrap();
    for address in ["10.31.0.5", "fd31::5"] {
        assert_eq!(wire.conflict(&pod, address), None, "{address}");
    }
    // Also then another's claim is seen.
    wire.host.scene().unwrap().address("eth0", net("10.31.0.5/24")).unwrap();
    assert_eq!(wire.conflict(&pod, "10.31.0.5"), Some(HOST));
}

fn mute() {
    let wire = Wire::new("mute");
    let pod = wire.pod(1);
    let question = [Question::Conflict(ip("10.31.0.9"))];
    let detect =
        |link: &str| block_on(wire.kernel.detect(&pod.identity, link, &question, Paces::default())).unwrap_err();
    let error = detect("net7");
    assert!(matches!(error, DetectError::NoLink { .. }) && error.to_string().contains("no link net7"), "{error}");
    let mut switch = wire.switch.scene().unwrap();
    switch.down("p1").unwrap();
    let error = detect("eth0");
    assert!(matches!(error, DetectError::LinkDown { .. } | DetectError::Unsent { .. }), "{error}");
    pod.netns.scene().unwrap().down("eth0").unwrap();
    let error = detect("eth0");
    assert!(matches!(error, DetectError::LinkDown { .. }), "{error}");
    let Pod { netns, identity } = pod;
    netns.delete();
    let error = block_on(wire.kernel.detect(&identity, "eth0", &question, Paces::default())).unwrap_err();
    assert!(matches!(error, DetectError::Namespace(_)), "{error}");
}

fn announcement() {
    let wire = Wire::new("announce");
    let (listener, speaker) = (wire.pod(1), wire.pod(2));
    let pace = Pace { tries: 1, interval: Duration::ZERO, patience: Duration::from_secs(20) };
    let paces = Paces { conflict: pace, gateway: pace };
    for address in ["10.31.0.50", "fd31::50"] {
        let question = [Question::Conflict(ip(address))];
        let heard = block_on(async {
            let announce = async {
                loop {
                    wire.kernel.announce(&speaker.identity, "eth0", &[ip(address)]).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                heard = wire.kernel.detect(&listener.identity, "eth0", &question, paces) => heard.unwrap(),
                () = announce => Vec::new(),
            }
        });
        assert_eq!(heard, [Some(mac(2))], "{address}");
    }
}

fn nothing_left() {
    let wire = Wire::new("nothing");
    let pod = wire.pod(1);
    let before = wire.kernel.changes_sent();
    assert_eq!(wire.conflict(&pod, "10.31.0.2"), Some(HOST));
    assert_eq!(wire.kernel.changes_sent(), before);
    let nsid = wire.kernel.nsid_of(&pod.identity).unwrap();
    block_on(async {
        let mut events = netlink::Events::open(&wire.kernel).unwrap();
        pod.netns.delete();
        let gone = async { while events.next().await.unwrap() != (netlink::Event::Gone { nsid }) {} };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the namespace was kept alive");
    });
}
