//! Which way packets are to go, by the case alone; and which way they go.

use std::net::{IpAddr, SocketAddr};

use netlink::testbed::Netns;
use tests::dnat;
use tests::probe::{Protocol, passage_from};
use tests::scene::{self, OVERLAY_POD_ADDRESS, PORT, dual, second};

use crate::case::{Case, Families, Mode, Network, Nic};
use crate::lane::{Lane, SERVICE};

/// A pod as it stands.
pub(crate) struct Stand<'a> {
    pub(crate) case: &'a Case,
    pub(crate) lane: &'a Lane,
    pub(crate) pod: &'a Netns,
    /// eth0's addresses in overlay mode.
    pub(crate) inside: Vec<IpAddr>,
    /// The NICs that are attached, with their addresses.
    pub(crate) nics: Vec<(&'a Nic, Vec<IpAddr>)>,
}

/// What is to be seen.
enum Must<'a> {
    LeaveBy(Vec<&'a str>),
    ReplyBy(&'a str),
}

impl Stand<'_> {
    /// Every way there is.
    ///
    /// # Errors
    /// Those that are gone wrong, a line each.
    pub(crate) fn walk(&self) -> (usize, Vec<String>) {
        let mut walk = Walk { stand: self, count: 0, wrong: Vec::new() };
        for v6 in [false, true] {
            let nics: Vec<(&Nic, IpAddr)> = self
                .nics
                .iter()
                .filter_map(|(nic, own)| Some((*nic, own.iter().copied().find(|ip| ip.is_ipv6() == v6)?)))
                .collect();
            if !nics.is_empty() {
                self.to_the_cluster(v6, &mut walk);
                self.to_the_world(v6, &nics, &mut walk);
                self.the_world_asks(v6, &nics, &mut walk);
            }
        }
        (walk.count, walk.wrong)
    }

    fn to_the_cluster(&self, v6: bool, walk: &mut Walk<'_>) {
        let scene = &self.lane.scene;
        let inside = || Must::LeaveBy(vec![self.case.inside()]);
        let node: IpAddr = if v6 { dual::WORKER_ADDRESS.into() } else { scene::WORKER_ADDRESS.into() };
        walk.pod_asks("node", None, &scene.worker, node, inside());
        // The scene's overlay pods have IPv4 alone; an eth0 without it has no way to them back.
        let has_v4 = !v6 && self.case.mode != Mode::Overlay(Families::V6);
        if has_v4 {
            let overlay = &scene.overlay_pod.netns;
            walk.pod_asks("overlay pod", None, overlay, OVERLAY_POD_ADDRESS.into(), inside());
            walk.pod_asks("service", None, overlay, SERVICE.parse().unwrap(), inside());
        }
    }

    fn to_the_world(&self, v6: bool, nics: &[(&Nic, IpAddr)], walk: &mut Walk<'_>) {
        let scene = &self.lane.scene;
        let outside: IpAddr = if v6 { dual::OUTSIDE_ADDRESS.into() } else { scene::OUTSIDE_ADDRESS.into() };
        let attached: Vec<&Nic> = self.nics.iter().map(|(nic, _)| *nic).collect();
        let is_tuned = attached.iter().any(|nic| nic.is_tuned());
        if let Some(default) = self.case.default_nic(&attached, v6).filter(|_| is_tuned) {
            // By eth0 it goes as an overlay packet, which has a way back in this scene.
            walk.pod_asks("outside", None, &scene.outside, outside, Must::LeaveBy(vec![default]));
        }
        for network in [Network::First, Network::Second] {
            let here: Vec<&str> =
                nics.iter().filter(|(nic, _)| nic.network == network).map(|(nic, _)| nic.name).collect();
            if !here.is_empty() {
                walk.pod_asks("peer", None, &scene.controller, peer(network, v6), Must::LeaveBy(here));
            }
        }
        for (nic, own) in nics.iter().filter(|(nic, _)| nic.is_tuned()) {
            let by = || Must::LeaveBy(vec![nic.name]);
            if nic.has_gateway {
                walk.pod_asks(&format!("outside as {}", nic.name), Some(*own), &scene.outside, outside, by());
            }
            let name = format!("peer as {}", nic.name);
            walk.pod_asks(&name, Some(*own), &scene.controller, peer(nic.network, v6), by());
        }
        if let (true, Some(own)) = (is_tuned, self.inside.iter().find(|ip| ip.is_ipv6() == v6)) {
            walk.pod_asks("outside as eth0", Some(*own), &scene.outside, outside, Must::LeaveBy(vec!["eth0"]));
        }
    }

    fn the_world_asks(&self, v6: bool, nics: &[(&Nic, IpAddr)], walk: &mut Walk<'_>) {
        let scene = &self.lane.scene;
        for (nic, own) in nics {
            let inside = || Must::ReplyBy(self.case.inside());
            walk.pod_is_asked(&format!("node to {}", nic.name), &scene.worker, *own, inside());
            if nic.is_tuned() {
                let by = || Must::ReplyBy(nic.name);
                walk.pod_is_asked(&format!("peer to {}", nic.name), &scene.controller, *own, by());
                // Asked by who is in another NIC's network, by way of the router.
                let other = peer(if nic.network == Network::First { Network::Second } else { Network::First }, v6);
                if nic.has_gateway {
                    walk.pod_is_asked_by(
                        &format!("peer elsewhere to {}", nic.name),
                        &scene.controller,
                        other,
                        *own,
                        by(),
                    );
                    walk.pod_is_asked(&format!("outside to {}", nic.name), &scene.outside, *own, by());
                }
            }
            if self.case.mode == Mode::Underlay {
                // Through the node, as a service of type LoadBalancer with externalTrafficPolicy Local does.
                let external = external(v6);
                dnat::redirect(&scene.worker, external, *own).unwrap();
                walk.pod_is_asked(
                    &format!("outside through the node to {}", nic.name),
                    &scene.outside,
                    external,
                    inside(),
                );
            }
        }
        for own in self.inside.iter().filter(|ip| ip.is_ipv6() == v6) {
            walk.pod_is_asked("node to eth0", &scene.worker, *own, Must::ReplyBy("eth0"));
            if nics.iter().any(|(nic, _)| nic.is_tuned()) {
                walk.pod_is_asked("other node to eth0", &scene.controller, *own, Must::ReplyBy("eth0"));
            }
        }
    }
}

fn peer(network: Network, v6: bool) -> IpAddr {
    match (network, v6) {
        (Network::First, false) => scene::CONTROLLER_ADDRESS.into(),
        (Network::First, true) => dual::CONTROLLER_ADDRESS.into(),
        (Network::Second, v6) => second::CONTROLLER_ADDRESSES[usize::from(v6)],
    }
}

/// An external address that no case has had before.
fn external(v6: bool) -> IpAddr {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    if v6 {
        IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, number])
    } else {
        IpAddr::from([10, 96, 0, u8::try_from(number % 250 + 1).unwrap()])
    }
}

struct Walk<'a> {
    stand: &'a Stand<'a>,
    count: usize,
    wrong: Vec<String>,
}

impl Walk<'_> {
    fn pod_asks(&mut self, name: &str, own: Option<IpAddr>, to: &Netns, address: IpAddr, must: Must<'_>) {
        self.go(&format!("pod to {name}"), self.stand.pod, own, to, address, &must);
    }

    fn pod_is_asked_by(&mut self, name: &str, from: &Netns, own: IpAddr, address: IpAddr, must: Must<'_>) {
        self.go(name, from, Some(own), self.stand.pod, address, &must);
    }

    fn pod_is_asked(&mut self, name: &str, from: &Netns, address: IpAddr, must: Must<'_>) {
        self.go(name, from, None, self.stand.pod, address, &must);
    }

    fn go(&mut self, name: &str, from: &Netns, own: Option<IpAddr>, to: &Netns, address: IpAddr, must: &Must<'_>) {
        self.count += 1;
        let address = SocketAddr::from((address, PORT));
        let router = &self.stand.lane.scene.router;
        let told = match passage_from(from, own, to, router, Protocol::Tcp, address) {
            Err(error) => error.to_string(),
            Ok(seen) => {
                let (found, wanted) = match must {
                    Must::LeaveBy(by) => (&seen.left_by, by.clone()),
                    Must::ReplyBy(by) => (&seen.reply_by, vec![*by]),
                };
                if found.len() == 1 && wanted.contains(&found[0].as_str()) {
                    return;
                }
                format!("goes by {found:?} as {}, wanted {wanted:?}", seen.source)
            }
        };
        self.wrong.push(format!("{name} {address}: {told}"));
    }
}
