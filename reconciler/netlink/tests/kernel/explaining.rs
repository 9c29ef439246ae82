//! Explanations against the kernel's own lookup, in pods as the plan makes them and with what others put there.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use libtest_mimic::Trial;
use netlink::Kernel;
use netlink::testbed::{End, KernelRoute, Netns, Scene};
use nix::errno::Errno;
use plan::desired::LinkOrigin;
use plan::explain::{Basis, Context, Explanation, Fate, Flow, Question, Verdict, explain, sysctls};
use plan::object::{Observed, Route, RouteKind, Rule, Scope};
use plan::tables::MAIN;
use plan::{Plan, PlanInput, Prune, diff};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use schemas::intent::MacvlanMode;
use schemas::name::IfName;

use crate::trial;
use crate::world::{World, world};

/// Pods, and packets asked about in each.
const PODS: usize = 100;
const FLOWS: usize = 200;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("explanations_are_the_kernels_own_lookups", random_flows)]
}

/// What happened, and what did not agree.
#[derive(Debug, Default)]
struct Tally {
    flows: usize,
    v6: usize,
    with_source: usize,
    arriving: usize,
    refused: usize,
    stays: usize,
    /// The kernel chose among several of one worth.
    one_of_several: usize,
    mismatches: Vec<String>,
}

fn random_flows() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut tally = Tally::default();
    for number in 0..PODS {
        let world = draw(&mut runner, &world(true));
        pod(number, &world, &mut runner, &mut tally);
    }
    println!(
        "{} flows ({} IPv6, {} with a source, {} arriving): {} refused, {} stay, {} one of several, {} mismatches",
        tally.flows,
        tally.v6,
        tally.with_source,
        tally.arriving,
        tally.refused,
        tally.stays,
        tally.one_of_several,
        tally.mismatches.len()
    );
    assert_eq!(tally.flows, PODS * FLOWS);
    for covered in [tally.v6, tally.with_source, tally.arriving, tally.refused, tally.stays] {
        assert!(covered > tally.flows / 50, "{tally:?}");
    }
    let shown: Vec<&str> = tally.mismatches.iter().take(5).map(String::as_str).collect();
    assert!(shown.is_empty(), "{} mismatches, the first:\n{}", tally.mismatches.len(), shown.join("\n\n"));
}

fn draw<T: std::fmt::Debug>(runner: &mut TestRunner, strategy: &impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).unwrap().current()
}

fn pod(number: usize, world: &World, runner: &mut TestRunner, tally: &mut Tally) {
    let kernel = Kernel::new().unwrap();
    let netns = Netns::create(&format!("explain{number}")).unwrap();
    // The kernel's link-local addresses would come some time later.
    netns.set_sysctl("net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
    let mut scene = netns.scene().unwrap();
    default_cni(number, world, &netns, &mut scene);
    let plan = world.plan();
    let identity = kernel.identify(netns.path()).unwrap();
    let mut pass = kernel.pass(&identity).unwrap();
    // Hardware addresses are the same in all pods.
    let uplink = format!("u{number}");
    let mut node = Scene::here().unwrap();
    node.bridge(&uplink).unwrap();
    node.up(&uplink).unwrap();
    apply(&plan, &uplink.parse().unwrap(), &mut pass);
    others(&netns, &mut scene, &pass.observe(&[]).unwrap(), runner);
    let wanted = sysctls(&pass.observe(&[]).unwrap());
    let seen = pass.observe(&wanted).unwrap();
    let sandbox = schemas::intent::Sandbox {
        container: "c0".parse().unwrap(),
        netns: None,
        baseline: None,
        auxiliary: None,
        sysctls_before: Vec::new(),
        generation: 1,
        outcome: schemas::intent::Outcome::default(),
    };
    let facts = plan::NodeFacts::default();
    let input = PlanInput { sandbox: &sandbox, attachments: &[], node: &facts, cluster: None };
    let context = Context { input, plan: &plan, coordinator: "default" };
    settle(&mut scene, &seen);
    for flow in flows(&seen, runner) {
        let question = Question { pod: "pod", seen: &seen, basis: Basis::Kernel, context, flow: &flow };
        let explained = explain(question).unwrap();
        let iif = flow.iif.as_deref().map(|nic| seen.link(nic).unwrap().index);
        let found = scene.lookup(flow.to, flow.from, iif).map_err(|error| error.errno().unwrap());
        count(tally, &flow, &explained);
        if let Err(why) = agree(&explained, &found, &seen) {
            let rules: Vec<String> = seen.rules.iter().map(ToString::to_string).collect();
            let routes: Vec<String> =
                seen.routes.iter().map(|it| format!("{it} table {} proto {}", it.table, it.protocol)).collect();
            let links: Vec<String> = seen.links.iter().map(|it| format!("{} up={}", it.name, it.up)).collect();
            let addresses: Vec<String> =
                seen.addresses.iter().map(|it| format!("{} {} {:?}", it.dev, it.address, it.scope)).collect();
            tally.mismatches.push(format!(
                "pod {number}: {flow:?}: {why}; kernel {found:?}\n{}\n{rules:#?}\n{routes:#?}\n{links:?} {addresses:?} {:?}",
                explained.to_text(),
                seen.sysctls
            ));
        }
    }
}

/// The kernel makes an IPv6 address usable in a task of its own, and tells nobody in this namespace when it has.
fn settle(scene: &mut Scene, seen: &Observed) {
    let until = Instant::now() + Duration::from_secs(5);
    for address in seen.addresses.iter().filter(|it| it.address.is_ipv6()) {
        let iif = seen.link(&address.dev).map(|link| link.index);
        while !scene.lookup(address.address.ip(), None, iif).is_ok_and(|found| found.kind == 2) {
            assert!(Instant::now() < until, "{address:?} is not usable");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn count(tally: &mut Tally, flow: &Flow, explained: &Explanation) {
    tally.flows += 1;
    tally.v6 += usize::from(flow.to.is_ipv6());
    tally.with_source += usize::from(flow.from.is_some());
    tally.arriving += usize::from(flow.iif.is_some());
    tally.refused += usize::from(explained.request.fate == Fate::Refused);
    tally.stays += usize::from(explained.request.fate == Fate::Stays);
    tally.one_of_several += usize::from(explained.request.route.as_ref().is_some_and(|it| !it.others.is_empty()));
}

fn agree(explained: &Explanation, found: &Result<KernelRoute, Errno>, seen: &Observed) -> Result<(), String> {
    let flow = &explained.flow;
    // IPv6 looks up what it then drops.
    let is_refused = match &explained.arrival {
        Some(arrival) if flow.to.is_ipv4() => arrival.verdict == Verdict::Dropped,
        _ => explained.request.fate == Fate::Refused,
    };
    let found = match found {
        Ok(_) if is_refused => return Err("not refused by the kernel".into()),
        Err(_) if is_refused => return Ok(()),
        Err(errno) => return Err(format!("refused by the kernel: {errno}")),
        Ok(found) => found,
    };
    let taken = explained.request.route.as_ref().ok_or("no route")?;
    let source = explained.source.as_ref().and_then(|source| source.address);
    let dev = found.oif.and_then(|oif| seen.links.iter().find(|link| link.index == oif)).map(|link| link.name.as_str());
    let first = (taken.dev.as_deref(), taken.gateway, source);
    let others = taken.others.iter().map(|it| (it.dev.as_deref(), it.gateway, it.source));
    let found_source = if flow.from.is_none() { found.source } else { None };
    let is_hop = std::iter::once(first).chain(others).any(|(by, gateway, source)| {
        let source = if flow.from.is_none() { source } else { None };
        (by, gateway) == (dev, found.gateway) && source == found_source
    });
    if !is_hop {
        return Err(format!("hop {first:?}, others {:?}, kernel {dev:?}", taken.others));
    }
    // Without rules of anybody the kernel has main and local in one.
    let is_local = taken.table == 255;
    if taken.table != found.table && !is_local {
        return Err(format!("table {} and not {}", taken.table, found.table));
    }
    Ok(())
}

/// eth0 as the default CNI leaves it, and the NICs that other plugins make.
fn default_cni(number: usize, world: &World, netns: &Netns, scene: &mut Scene) {
    let start = world.start().observe();
    let mut node = Scene::here().unwrap();
    for link in start.links.iter().filter(|link| link.name != "lo") {
        let peer = format!("p{number}-{}", link.name);
        let inside = End::inside(netns, &link.name).with_mac(link.mac.unwrap());
        node.veth(End::here(&peer), inside).unwrap();
        node.up(&peer).unwrap();
        scene.up(&link.name).unwrap();
    }
    for address in &start.addresses {
        scene.address(&address.dev, address.address).unwrap();
    }
    let mut routes: Vec<&Route> = start.routes.iter().filter(|route| route.protocol != 2).collect();
    routes.sort_by_key(|route| route.gateway.is_some());
    for route in routes {
        scene.add_route(route).unwrap();
    }
}

/// As far as it goes: the comparison is good for any state.
fn apply(plan: &Plan, uplink: &IfName, pass: &mut netlink::Pass) {
    for _ in 0..3 {
        let observed = pass.observe(&[]).unwrap();
        let mut pod = plan.pod.clone();
        for wanted in &mut pod.links {
            match (&mut wanted.origin, observed.link(&wanted.name)) {
                (LinkOrigin::Found(identity), Some(link)) => identity.index = link.index,
                (LinkOrigin::Found(_), None)
                | (LinkOrigin::Pair { .. } | LinkOrigin::PairEnd { .. } | LinkOrigin::Uplink(_), _) => {}
                (LinkOrigin::Made { intent, .. }, _) => intent.master.clone_from(uplink),
            }
        }
        let steps = diff(&pod, &observed, Prune::No).steps;
        pass.apply(&steps);
    }
}

fn route(table: u32, dst: &str, gateway: Option<IpAddr>, dev: Option<&str>, kind: RouteKind, metric: u32) -> Route {
    let dst: IpNetwork = dst.parse().unwrap();
    let scope = if gateway.is_none() && dev.is_some() && dst.is_ipv4() { Scope::LINK } else { Scope::GLOBAL };
    let metric = if dst.is_ipv6() { metric + 1024 } else { metric };
    Route { table, dst, metric, dev: dev.map(Into::into), gateway, src: None, scope, onlink: false, kind, protocol: 4 }
}

/// What other programs may have put there: kinds of routes, metrics, sources, rules, sysctls, links that are down.
fn others(netns: &Netns, scene: &mut Scene, seen: &Observed, runner: &mut TestRunner) {
    let nics: Vec<String> = seen.links.iter().map(|it| it.name.clone()).filter(|name| name != "lo").collect();
    let any_nic = proptest::sample::select(nics.clone());
    let number = 0u32..1000;
    let tables = proptest::sample::select(vec![MAIN, 100, 101, 102, 7]);
    for _ in 0..draw(runner, &(0u32..8)) {
        let (nic, table, metric) = draw(runner, &(any_nic.clone(), tables.clone(), 0u32..4));
        let dsts = ["10.6.212.0/24", "10.233.0.0/24", "10.99.0.0/16", "10.99.7.0/24", "fd00:6::200/120", "fd86::/112"];
        let dst = draw(runner, &proptest::sample::select(dsts.to_vec()));
        let by: &str = if dst.starts_with("fd") { "fd00:6::9" } else { "10.6.0.9" };
        let kind = draw(runner, &proptest::sample::select(vec![1u8, 1, 1, 6, 7, 8, 9]));
        let via = draw(runner, &any::<bool>()).then(|| by.parse().unwrap());
        let made = match kind {
            1 => Route { onlink: via.is_some(), ..route(table, dst, via, Some(&nic), RouteKind::Unicast, metric) },
            kind => route(table, dst, None, None, RouteKind::Other(kind), metric),
        };
        // Some are refused: the same twice, a next hop that nobody reaches.
        let _ = scene.add_route(&made);
    }
    for _ in 0..draw(runner, &(0u32..4)) {
        let (priority, table, which) = draw(runner, &(31000u32..32766, tables.clone(), 0u8..6));
        let v6 = draw(runner, &any::<bool>());
        let of = |v4: &str, other: &str| Some(if v6 { other } else { v4 }.parse().unwrap());
        let plain = Rule { priority, v6, from: None, to: None, table, mark: None, other: None, protocol: 4 };
        let nic = draw(runner, &any_nic);
        let _ = match which {
            0 => scene.add_rule_for_input(&plain, &nic),
            1 => scene.add_rule_for_mark(&plain, 0x200),
            2 => scene.add_rule_for_input(&plain, "lo"),
            3 => scene.add_rule(&Rule { to: of("10.99.0.0/16", "fd99::/16"), ..plain }),
            4 => scene.add_rule(&Rule { from: of("10.0.0.0/8", "fd00::/16"), ..plain }),
            _ => scene.add_rule_for_input(&plain, "nothere"),
        };
    }
    for _ in 0..draw(runner, &(0u32..4)) {
        let (nic, n) = draw(runner, &(any_nic.clone(), number.clone()));
        let last = n % 200 + 2;
        let addresses = [
            format!("10.6.212.{last}/16"),
            format!("10.77.{last}.1/24"),
            format!("fd00:6::{last}/64"),
            format!("fe80::{last}/64"),
        ];
        let address = draw(runner, &proptest::sample::select(addresses.to_vec()));
        // It may be there already.
        let _ = scene.address(&nic, address.parse().unwrap());
        if draw(runner, &any::<bool>()) && !address.contains(':') {
            let src = address.split('/').next().unwrap().parse().unwrap();
            let made = route(MAIN, "10.98.0.0/16", None, Some(&nic), RouteKind::Unicast, n % 3);
            let _ = scene.add_route(&Route { src: Some(src), ..made });
        }
    }
    if draw(runner, &prop::bool::weighted(0.15)) {
        scene
            .macvlan("mv0", &"eth0".parse().unwrap(), MacvlanMode::Bridge, schemas::name::Mac([2, 9, 9, 9, 9, 9]))
            .unwrap();
        scene.up("mv0").unwrap();
    }
    if draw(runner, &prop::bool::weighted(0.2)) {
        scene.down(&draw(runner, &any_nic)).unwrap();
    }
    for of in nics.iter().map(String::as_str).chain(["all"]) {
        for (leaf, most) in [("rp_filter", 3u8), ("forwarding", 2), ("accept_local", 2)] {
            if of == "all" && leaf == "forwarding" {
                continue;
            }
            let value = draw(runner, &(0..most)).to_string();
            netns.set_sysctl(&format!("net/ipv4/conf/{of}/{leaf}"), &value).unwrap();
        }
    }
}

/// Packets to, from and beside everything that the pod knows.
fn flows(seen: &Observed, runner: &mut TestRunner) -> Vec<Flow> {
    let mut known: Vec<IpAddr> = ["8.8.8.8", "10.233.0.3", "10.233.70.9", "10.99.7.7", "10.98.1.1", "169.254.20.10"]
        .iter()
        .chain(&["2001:db8::8", "fd86::3", "fd85::77", "fd99::1", "fd00:6::4242", "10.6.9.9", "127.0.0.1", "::1"])
        .map(|text| text.parse().unwrap())
        .collect();
    for network in seen.routes.iter().map(|it| it.dst).chain(seen.addresses.iter().map(|it| it.address)) {
        known.push(network.ip());
        known.push(match network {
            IpNetwork::V4(network) => network.broadcast().into(),
            IpNetwork::V6(network) => IpAddr::from((network.ip().to_bits() ^ 0x55).to_be_bytes()),
        });
    }
    known.extend(seen.routes.iter().filter_map(|route| route.gateway));
    known.retain(|ip| !ip.is_unspecified() && !ip.is_multicast() && *ip != IpAddr::from([255; 4]));
    let own: Vec<IpAddr> = seen.addresses.iter().map(|it| it.address.ip()).collect();
    let nics: Vec<String> = seen.links.iter().map(|it| it.name.clone()).filter(|name| name != "lo").collect();
    let family =
        |list: &[IpAddr], v6: bool| -> Vec<IpAddr> { list.iter().copied().filter(|ip| ip.is_ipv6() == v6).collect() };
    let mut flows = Vec::new();
    while flows.len() < FLOWS {
        let v6 = draw(runner, &prop::bool::weighted(0.4));
        let (near, mine) = (family(&known, v6), family(&own, v6));
        let random: IpAddr = if v6 {
            IpAddr::from((draw(runner, &any::<u128>()) >> 3 | 0x2000 << 112).to_be_bytes())
        } else {
            IpAddr::from(draw(runner, &(1u32 << 24..0xdfff_ffff)).to_be_bytes())
        };
        let one = |runner: &mut TestRunner, list: &[IpAddr]| match draw(runner, &(0u8..10)) {
            0 => random,
            _ if list.is_empty() => random,
            _ => draw(runner, &proptest::sample::select(list.to_vec())),
        };
        let iif =
            draw(runner, &prop::bool::weighted(0.3)).then(|| draw(runner, &proptest::sample::select(nics.clone())));
        let to = if iif.is_some() && draw(runner, &any::<bool>()) { one(runner, &mine) } else { one(runner, &near) };
        let from = match (&iif, draw(runner, &(0u8..10))) {
            (Some(_), _) => Some(one(runner, &near)),
            (None, 0..4) => None,
            (None, 4..9) => Some(one(runner, &mine)),
            (None, _) => Some(one(runner, &near)),
        };
        let flow = Flow { to, from, iif };
        if flow.check().is_ok() {
            flows.push(flow);
        }
    }
    flows
}
