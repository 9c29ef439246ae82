//! What a pass costs, against the real kernel, in a world of its own.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use criterion::Criterion;
use ipnetwork::IpNetwork;
use netlink::testbed::{End, Netns, Scene, enter_private_world};
use netlink::{Kernel, Pass};
use plan::desired::{DesiredLink, LinkOrigin};
use plan::object::{Neighbour, Route, RouteKind, Rule, Scope};
use plan::step::{Placement, Step};
use plan::tables::PROTOCOL;
use schemas::intent::{LinkIntent, LinkKindIntent, MacvlanMode};
use schemas::name::Mac;

fn main() {
    // Before criterion starts any thread.
    enter_private_world().expect("a namespace of one's own; see enter_private_world");
    let mut criterion =
        Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion) {
    let kernel = Kernel::new().expect("a netlink socket");
    let netns = Netns::create("bench").expect("a namespace");
    Scene::here().and_then(|mut node| node.veth(End::here("uplink0"), End::inside(&netns, "eth0"))).expect("a veth");
    let mut scene = netns.scene().expect("a socket inside");
    scene.address("eth0", network(9, 24)).expect("an address");
    scene.up("eth0").expect("a link that goes up");
    drop(scene);
    let identity = kernel.identify(netns.path()).expect("a namespace");
    let (additions, deletions) = steps();

    criterion.bench_function("open and close a pass", |b| b.iter(|| kernel.pass(&identity).map(drop)));
    let mut pass = kernel.pass(&identity).expect("a pass");
    criterion.bench_function("apply 17 steps, delete them", |b| {
        b.iter(|| {
            apply(&mut pass, &additions);
            apply(&mut pass, &deletions);
        });
    });
    apply(&mut pass, &additions);
    criterion.bench_function("apply 17 steps that are done", |b| b.iter(|| apply(&mut pass, &additions)));
    criterion.bench_function("observe the pod", |b| b.iter(|| pass.observe(&[])));
    let sysctls: Vec<String> = ["all", "eth0"].iter().map(|conf| format!("net/ipv4/conf/{conf}/rp_filter")).collect();
    criterion.bench_function("observe the pod with 2 sysctls", |b| b.iter(|| pass.observe(&sysctls)));
    criterion.bench_function("open, observe, close", |b| {
        b.iter(|| kernel.pass(&identity).map(|mut pass| pass.observe(&sysctls)));
    });
    criterion.bench_function("make a macvlan in the pod", |b| b.iter_custom(|rounds| make_links(&mut pass, rounds)));
}

fn apply(pass: &mut Pass, steps: &[Step]) {
    for outcome in pass.apply(steps) {
        outcome.expect("a step that can be done");
    }
}

/// Deleting waits for readers of the kernel's tables and is not what is measured.
fn make_links(pass: &mut Pass, rounds: u64) -> Duration {
    let wanted = DesiredLink {
        name: "net1".into(),
        origin: LinkOrigin::Made {
            intent: LinkIntent {
                kind: LinkKindIntent::Macvlan(MacvlanMode::Bridge),
                master: "uplink0".parse().expect("a name"),
                master_in_container: false,
                mtu: None,
                mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            },
            alias: "dragline:bench/net1".into(),
        },
        mac: None,
        tx_queue_len: None,
    };
    let step = [Step::CreateLink(wanted)];
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let start = Instant::now();
        apply(pass, &step);
        total += start.elapsed();
        let index = pass.observe(&[]).expect("an observation").link("net1").expect("a link").index;
        apply(pass, &[Step::DeleteLink { dev: "net1".into(), index }]);
    }
    total
}

/// 8 routes, 8 rules, 1 neighbour.
fn steps() -> (Vec<Step>, Vec<Step>) {
    let (mut additions, mut deletions) = (Vec::new(), Vec::new());
    for n in 0..8 {
        let route = Route {
            table: 100,
            dst: network(100 + n, 24),
            metric: 0,
            dev: Some("eth0".into()),
            gateway: None,
            src: None,
            scope: Scope::LINK,
            onlink: false,
            kind: RouteKind::Unicast,
            protocol: PROTOCOL,
        };
        let rule = Rule {
            priority: 32765 - u32::from(n),
            v6: false,
            from: None,
            to: Some(route.dst),
            table: 100,
            mark: None,
            other: None,
            protocol: PROTOCOL,
        };
        additions.extend([Step::AddRoute(route.clone(), Placement::Alone), Step::AddRule(rule.clone())]);
        deletions.extend([Step::DeleteRule(rule), Step::DeleteRoute(route)]);
    }
    let neighbour = Neighbour {
        dev: "eth0".into(),
        address: IpAddr::from([10, 9, 0, 7]),
        mac: Some(Mac([2, 0, 0, 0, 0, 7])),
        permanent: true,
        protocol: PROTOCOL,
    };
    additions.push(Step::SetNeighbour(neighbour.clone()));
    deletions.push(Step::DeleteNeighbour(neighbour));
    (additions, deletions)
}

fn network(third: u8, prefix: u8) -> IpNetwork {
    IpNetwork::new(IpAddr::from([10, third, 0, 0]), prefix).expect("a prefix that fits")
}
