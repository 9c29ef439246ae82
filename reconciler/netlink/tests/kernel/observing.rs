use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Trial;
use netlink::Kernel;
use netlink::testbed::Scene;
use plan::object::{LinkKind, Neighbour, Route, RouteKind, Rule, Scope};
use plan::step::{Placement, Step};
use plan::tables::{MAIN, PROTOCOL};
use schemas::intent::MacvlanMode;
use schemas::name::Mac;

use crate::fixture::{MAC, Pod, neighbour, net, route, rule};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("observe_sees_all_kinds", all_kinds),
        trial("observe_sees_special_routes", special_routes),
        trial("observe_sees_300_routes_whole", three_hundred_routes),
        trial("observe_keeps_the_order_of_routes", order_of_routes),
        trial("observe_node_takes_its_tables_only", node_tables),
        trial("observe_reads_the_pods_sysctls", sysctls),
        trial("observing_sends_no_change", no_change),
        trial("an_observation_is_whole_while_others_change_things", whole_under_change),
    ]
}

fn all_kinds() {
    let pod = Pod::new("kinds");
    let mut scene = pod.scene();
    scene.address("eth0", net("fd00::2/64")).unwrap();
    scene.route(net("10.20.0.0/16"), Some("10.9.0.1".parse().unwrap()), "eth0").unwrap();
    let foreign_rule = Rule { protocol: 4, ..rule(900, Some("10.9.0.2/32"), None, 1000) };
    scene.add_rule(&foreign_rule).unwrap();
    scene.set_neighbour(&Neighbour { protocol: 0, ..neighbour("10.9.0.7", 7) }).unwrap();
    let uplink = "eth0".parse().unwrap();
    scene.macvlan("mv0", &uplink, MacvlanMode::Private, Mac([2, 0, 0, 0, 0, 8])).unwrap();

    let observed = pod.observe();
    assert_eq!(observed.links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "eth0", "mv0"]);
    let eth0 = observed.link("eth0").unwrap();
    assert_eq!((&eth0.kind, eth0.mac, eth0.up, eth0.mtu), (&LinkKind::Veth, Some(MAC), true, 1500));
    let peer = Scene::here().unwrap().link(&pod.peer).unwrap();
    assert_eq!((eth0.lower, peer.lower), (Some(peer.index), Some(eth0.index)));
    let macvlan = observed.link("mv0").unwrap();
    assert_eq!((&macvlan.kind, macvlan.lower), (&LinkKind::Macvlan(MacvlanMode::Private), Some(eth0.index)));
    assert_eq!(observed.link("lo").unwrap().kind, LinkKind::Other(String::new()));
    for address in ["10.9.0.2/24", "fd00::2/64"] {
        assert!(
            observed.addresses.iter().any(|found| found.address == net(address) && found.dev == "eth0"),
            "{address}"
        );
    }
    let connected = Route { protocol: 2, src: Some("10.9.0.2".parse().unwrap()), ..route(MAIN, "10.9.0.0/24", None) };
    assert!(observed.routes.contains(&connected), "{:?}", observed.routes);
    assert!(observed.routes.contains(&Route { protocol: 4, ..route(MAIN, "10.20.0.0/16", Some("10.9.0.1")) }));
    assert!(observed.routes.iter().all(|route| route.table != 255));
    let v4: Vec<u32> = observed.rules.iter().filter(|rule| !rule.v6).map(|rule| rule.priority).collect();
    assert_eq!(v4, [0, 900, 32766, 32767]);
    let v6: Vec<u32> = observed.rules.iter().filter(|rule| rule.v6).map(|rule| rule.priority).collect();
    assert_eq!(v6, [0, 32766]);
    assert!(observed.rules.contains(&foreign_rule));
    assert_eq!(observed.neighbours, [Neighbour { protocol: 0, ..neighbour("10.9.0.7", 7) }]);
}

fn special_routes() {
    let pod = Pod::new("special");
    let mut scene = pod.scene();
    let blackhole =
        Route { dev: None, kind: RouteKind::Other(6), scope: Scope::GLOBAL, ..route(7, "10.30.0.0/16", None) };
    let wide_table = route(100_000, "10.31.0.0/16", Some("10.9.0.1"));
    let onlink = Route { onlink: true, metric: 50, ..route(MAIN, "10.32.0.0/16", Some("169.254.1.1")) };
    let with_source = Route { src: Some("10.9.0.2".parse().unwrap()), ..route(MAIN, "10.33.0.0/16", None) };
    let v6 = Route { dst: net("fd01::/64"), ..route(100, "fd01::/64", None) };
    for wanted in [&blackhole, &wide_table, &onlink, &with_source, &v6] {
        scene.add_route(wanted).unwrap();
        let routes = pod.observe().routes;
        assert!(routes.contains(wanted), "{wanted:?} is not in {routes:#?}");
    }
    for old in [&blackhole, &wide_table, &onlink, &with_source, &v6] {
        pod.apply_all(&[Step::DeleteRoute(old.clone())]);
        assert!(!pod.observe().routes.contains(old), "{old:?}");
    }
}

fn three_hundred_routes() {
    let pod = Pod::new("many");
    let wanted: BTreeSet<Route> =
        (0..300).map(|n| route(100, &format!("10.{}.{}.0/24", 100 + n / 250, n % 250), Some("10.9.0.1"))).collect();
    let steps: Vec<Step> = wanted.iter().map(|route| Step::AddRoute(route.clone(), Placement::Alone)).collect();
    pod.apply_all(&steps);
    let observed: BTreeSet<Route> = pod.observe().routes.into_iter().filter(|route| route.table == 100).collect();
    assert_eq!(observed, wanted);
}

fn order_of_routes() {
    let pod = Pod::new("order");
    let first = route(MAIN, "0.0.0.0/0", Some("10.9.0.1"));
    let second = route(MAIN, "0.0.0.0/0", Some("10.9.0.3"));
    pod.apply_all(&[
        Step::AddRoute(second.clone(), Placement::Alone),
        Step::AddRoute(first.clone(), Placement::Before),
    ]);
    let defaults: Vec<Route> = pod.observe().routes.into_iter().filter(Route::is_default).collect();
    assert_eq!(defaults, [first, second]);
}

fn node_tables() {
    let pod = Pod::new("tables");
    let mut scene = pod.scene();
    let foreign = |table, dst| Route { protocol: 4, ..route(table, dst, None) };
    let wanted = [
        foreign(MAIN, "10.40.0.0/16"),
        foreign(500, "10.41.0.0/16"),
        route(500, "10.42.0.0/16", None),
        route(9, "10.43.0.0/16", None),
    ];
    let unwanted = foreign(7, "10.44.0.0/16");
    for route in wanted.iter().chain([&unwanted]) {
        scene.add_route(route).unwrap();
    }
    // A kernel whose node this namespace is.
    let observed = pod.netns.run(|| {
        let kernel = Kernel::new().unwrap();
        // Table 4242 does not exist.
        kernel.node_pass().unwrap().observe_node(&[500, 4242].into(), &[]).unwrap()
    });
    let routes = observed.unwrap().routes;
    for route in &wanted {
        assert_eq!(routes.iter().filter(|found| *found == route).count(), 1, "{route:?} in {routes:#?}");
    }
    assert!(!routes.contains(&unwanted));
}

fn sysctls() {
    let pod = Pod::new("sysctls");
    pod.netns.set_sysctl("net/ipv4/conf/eth0/rp_filter", "2").unwrap();
    let asked = ["net/ipv4/conf/eth0/rp_filter".to_owned(), "net/ipv4/conf/nothere/rp_filter".to_owned()];
    let observed = pod.pass().observe(&asked).unwrap();
    assert_eq!(observed.sysctls.into_iter().collect::<Vec<_>>(), [(asked[0].clone(), "2".to_owned())]);
    let outside = pod.pass().observe(&["kernel/hostname".to_owned()]);
    assert!(outside.unwrap_err().to_string().contains("kernel/hostname"));
}

fn no_change() {
    let pod = Pod::new("idle");
    pod.apply_all(&[Step::AddRule(rule(800, None, Some("10.50.0.0/16"), 100))]);
    let after_one = pod.kernel.changes_sent();
    assert_eq!(after_one, 1);
    let rules = |observed: plan::Observed| observed.rules.into_iter().filter(|rule| rule.protocol == PROTOCOL).count();
    assert_eq!(rules(pod.observe()), 1);
    pod.kernel.nsid_of(&pod.identity).unwrap();
    pod.apply_all(&[]);
    assert_eq!(pod.kernel.changes_sent(), after_one);
}

fn whole_under_change() {
    let pod = Pod::new("churn");
    let stable: Vec<Route> = (0..200).map(|n| route(100, &format!("10.90.{n}.0/24"), None)).collect();
    let steps: Vec<Step> = stable.iter().map(|route| Step::AddRoute(route.clone(), Placement::Alone)).collect();
    pod.apply_all(&steps);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut scene = pod.scene();
            while !is_over.load(Ordering::Relaxed) {
                scene.bridge("br0").unwrap();
                scene.up("br0").unwrap();
                let passing = Route { dev: Some("br0".into()), ..route(100, "10.91.0.0/16", None) };
                scene.add_route(&passing).unwrap();
                scene.delete_link("br0").unwrap();
            }
        });
        let mut whole = 0;
        for _ in 0..300 {
            // Unsettled is a good answer; a smaller world is not.
            if let Ok(observed) = pod.pass().observe(&[]) {
                whole += 1;
                assert!(observed.link("lo").is_some() && observed.link("eth0").is_some());
                let kept = stable.iter().filter(|route| observed.routes.contains(route)).count();
                assert_eq!(kept, stable.len());
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(whole > 0);
    });
}
