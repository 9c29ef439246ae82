use std::time::Duration;

use libtest_mimic::Trial;
use netlink::{Event, EventKind, EventScope, Events, Kernel};
use netlink_packet_route::link::LinkAttribute;
use plan::step::{Placement, Step};

use crate::fixture::{Pod, neighbour, net, route, rule};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("events_of_another_namespace_arrive", another_namespace),
        trial("what_a_pass_has_changed_in_a_pod_is_no_event", own),
        trial("events_of_the_node_arrive", node),
        trial("events_say_when_a_namespace_is_gone_and_nothing_keeps_it", gone),
        trial("events_say_when_some_were_lost", lost),
    ]
}

/// What a test of events runs in.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The first event that is as wanted; those of other tests' namespaces pass by.
async fn first(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    let search = async {
        loop {
            let event = events.next().await.unwrap();
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search).await.expect("the event never came")
}

fn another_namespace() {
    let pod = Pod::new("events");
    let steps = [
        Step::AddRule(rule(500, None, Some("10.80.0.0/16"), 100)),
        Step::AddRoute(route(100, "10.80.0.0/16", None), Placement::Alone),
        Step::SetNeighbour(neighbour("10.9.0.80", 80)),
    ];
    pod.apply_all(&steps);
    block_on(async {
        let mut events = Events::open(&pod.kernel).unwrap();
        assert_eq!(events.scope(), EventScope::AllNamespaces);
        let nsid = Some(pod.kernel.nsid_of(&pod.identity).unwrap());
        let mut scene = pod.scene();
        let changed = |what| move |event: &Event| *event == Event::Changed { nsid, what };
        scene.flush_rules().unwrap();
        first(&mut events, changed(EventKind::Rule)).await;
        scene.flush_routes(100).unwrap();
        first(&mut events, changed(EventKind::Route)).await;
        scene.delete_neighbour(&neighbour("10.9.0.80", 80)).unwrap();
        first(&mut events, changed(EventKind::Neighbour)).await;
        scene.delete_address("eth0", net("10.9.0.2/24")).unwrap();
        first(&mut events, changed(EventKind::Address)).await;
        scene.down("eth0").unwrap();
        first(&mut events, changed(EventKind::Link)).await;
        pod.netns.set_sysctl("net/ipv4/conf/eth0/rp_filter", "2").unwrap();
        first(&mut events, changed(EventKind::Netconf)).await;
    });
}

fn own() {
    let pod = Pod::new("own");
    // The kernel's own routes of the second family come when it has made sure of its addresses.
    pod.netns.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    block_on(async {
        let mut events = Events::open(&pod.kernel).unwrap();
        let nsid = Some(pod.kernel.nsid_of(&pod.identity).unwrap());
        pod.apply_all(&[
            Step::AddRule(rule(510, None, Some("10.83.0.0/16"), 100)),
            Step::AddRoute(route(100, "10.83.0.0/16", None), Placement::Alone),
        ]);
        pod.netns.set_sysctl("net/ipv4/conf/eth0/rp_filter", "2").unwrap();
        let of_pod = |event: &Event| match event {
            // A link comes up in its own time.
            Event::Changed { what: EventKind::Link | EventKind::Address, .. } => false,
            Event::Changed { nsid: of, .. } => *of == nsid,
            _ => false,
        };
        assert_eq!(first(&mut events, of_pod).await, Event::Changed { nsid, what: EventKind::Netconf });
        // The same of another process of dragline's is one.
        let other = Kernel::new().unwrap();
        let identity = other.identify(pod.netns.path()).unwrap();
        other.pass(&identity).unwrap().apply(&[Step::AddRule(rule(511, None, Some("10.84.0.0/16"), 100))]);
        assert_eq!(first(&mut events, of_pod).await, Event::Changed { nsid, what: EventKind::Rule });
    });
}

fn node() {
    let kernel = Kernel::new().unwrap();
    block_on(async {
        let mut events = Events::open(&kernel).unwrap();
        kernel.node_pass().unwrap().apply(&[Step::AddRule(rule(501, None, Some("10.81.0.0/16"), 100))]);
        first(&mut events, |event| *event == Event::Changed { nsid: None, what: EventKind::Rule }).await;
    });
}

fn gone() {
    let pod = Pod::new("gone");
    block_on(async {
        let mut events = Events::open(&pod.kernel).unwrap();
        let nsid = pod.kernel.nsid_of(&pod.identity).unwrap();
        // Everything that opens something inside.
        let mut pass = pod.pass();
        pass.observe(&["net/ipv4/ip_forward".to_owned()]).unwrap();
        pass.apply(&[Step::AddRule(rule(502, None, Some("10.82.0.0/16"), 100))])[0].as_ref().unwrap();
        drop(pass);
        pod.netns.delete();
        first(&mut events, |event| *event == Event::Gone { nsid }).await;
    });
}

fn lost() {
    let pod = Pod::new("lost");
    block_on(async {
        let mut events = Events::with_buffer(&pod.kernel, 4096).unwrap();
        let nsid = Some(pod.kernel.nsid_of(&pod.identity).unwrap());
        let steps: Vec<Step> = (0..300).map(|n| Step::AddRule(rule(1000 + n, None, Some("10.8.0.0/16"), 9))).collect();
        pod.apply_all(&steps);
        first(&mut events, |event| *event == Event::Lost).await;
        // From then on none is missing without a word: other tests may fill the small buffer again, and that is said.
        let link = Event::Changed { nsid, what: EventKind::Link };
        for mtu in (1280..1500).cycle() {
            // One event or two: they fit.
            pod.scene().set_link("eth0", LinkAttribute::Mtu(mtu)).unwrap();
            if first(&mut events, |event| *event == link || *event == Event::Lost).await == link {
                break;
            }
        }
    });
}
