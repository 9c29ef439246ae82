//! From whatever state, with the agent running or not: what is wanted comes back whole, and what is foreign stays.
//!
//! The cases are random and repeatable: `DRAGLINE_SEED` repeats a run, which prints its seed; `DRAGLINE_CASES` makes it
//! longer.

// Tests with a main of their own are not tests to clippy, whose configuration permits this there.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use libtest_mimic::{Arguments, Failed, Trial};
use netlink::testbed::{Netns, Scene};
use plan::RP_FILTER;
use plan::object::{Neighbour, Observed, Route, RouteKind, Rule, Scope};
use plan::tables::{DEFAULT_NIC, MAIN, NODE_TABLE, PROTOCOL};
use schemas::name::Mac;
use tests::agent::AgentProcess;
use tests::binaries::Binaries;
use tests::metrics::Metrics;
use tests::picture::{Picture, neighbour_line, route_line, rule_line};
use tests::stage::{self, MainPlugin, Stage};
use tests::witness::Witness;

const CASES: u64 = 60;
/// How much is done to one place in one case at most.
const DEEDS: u64 = 5;
/// One case in so many finds the agent stopped.
const STOPPED: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(15);
/// `RTPROT_STATIC`.
const BY_HAND: u8 = 4;
/// A link of another program in every namespace.
const FOREIGN: &str = "docker0";

fn main() {
    let arguments = Arguments::from_args();
    Binaries::build().unwrap();
    // Before any thread is started.
    if let Err(error) = netlink::testbed::enter_private_world() {
        eprintln!("these tests need a network namespace of their own: {error}");
        std::process::exit(1);
    }
    let trial = Trial::test("every_dirty_state_converges", || {
        std::panic::catch_unwind(every_dirty_state_converges).map_err(|panic| Failed::from(text_of(&*panic)))
    });
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".into())
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(of.len()).unwrap();
        (count > 0).then(|| &of[usize::try_from(self.below(count)).unwrap()])
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// What another program has put there, to stay until it takes it away itself.
enum Junk {
    Route(Route),
    Rule(Rule),
    Neighbour(Neighbour),
}

impl Junk {
    fn put(&self, scene: &mut Scene) {
        match self {
            Self::Route(route) => scene.add_route(route).unwrap(),
            Self::Rule(rule) => scene.add_rule(rule).unwrap(),
            Self::Neighbour(neighbour) => scene.set_neighbour(neighbour).unwrap(),
        }
    }

    fn take_away(&self, scene: &mut Scene) {
        match self {
            Self::Route(route) => scene.delete_route(route).unwrap(),
            Self::Rule(rule) => scene.delete_rule(rule).unwrap(),
            Self::Neighbour(neighbour) => scene.delete_neighbour(neighbour).unwrap(),
        }
    }

    fn line(&self) -> String {
        match self {
            Self::Route(route) => route_line(route),
            Self::Rule(rule) => rule_line(rule),
            Self::Neighbour(neighbour) => neighbour_line(neighbour),
        }
    }
}

/// A namespace and what it should be.
struct Place<'a> {
    netns: &'a Netns,
    is_pod: bool,
    wanted: Picture,
}

impl<'a> Place<'a> {
    /// Puts another program's link there first.
    fn new(netns: &'a Netns, is_pod: bool) -> Self {
        let mut scene = netns.scene().unwrap();
        scene.bridge(FOREIGN).unwrap();
        scene.address(FOREIGN, net("172.17.0.1/16")).unwrap();
        scene.up(FOREIGN).unwrap();
        Self { netns, is_pod, wanted: comparable(Picture::take(netns).unwrap()) }
    }

    /// Does one random thing; what of it is to stay.
    fn deed(&self, dice: &mut Dice, scene: &mut Scene, told: &mut Vec<String>) -> Option<Junk> {
        let observed = scene.observe().unwrap();
        if dice.below(3) == 0 {
            let junk = self.junk(dice);
            // Twice the same is refused.
            let is_there = comparable(Picture::of(self.netns, &observed).unwrap()).has(&junk.line());
            if is_there {
                return None;
            }
            told.push(format!("{} by others: {}", self.netns.path(), junk.line()));
            junk.put(scene);
            return Some(junk);
        }
        let text =
            if self.is_pod { spoil_pod(dice, self.netns, scene, &observed) } else { spoil(dice, scene, &observed) };
        told.push(format!("{}: {text}", self.netns.path()));
        None
    }

    fn junk(&self, dice: &mut Dice) -> Junk {
        let third = dice.below(200);
        let table =
            [77, MAIN, if self.is_pod { DEFAULT_NIC } else { NODE_TABLE }][usize::try_from(dice.below(3)).unwrap()];
        let priority = u32::try_from(if self.is_pod { 32_758 + dice.below(8) } else { 1000 }).unwrap();
        match dice.below(3) {
            0 => Junk::Route(route(table, &format!("192.0.{third}.0/24"), None, FOREIGN, BY_HAND)),
            1 => Junk::Rule(Rule {
                priority,
                v6: false,
                from: Some(net(&format!("198.51.{third}.0/24"))),
                to: None,
                table: 77,
                mark: None,
                other: None,
                protocol: BY_HAND,
            }),
            _ => Junk::Neighbour(Neighbour {
                dev: FOREIGN.into(),
                address: format!("172.17.9.{third}").parse().unwrap(),
                mac: Some(Mac([2, 0, 0, 0, 0, 9])),
                permanent: true,
                protocol: BY_HAND,
            }),
        }
    }

    /// Waits until all is as wanted with the junk beside it.
    fn until_converged(&self, junk: &[Junk]) -> Result<(), String> {
        let expected = self.wanted.clone().with(junk.iter().map(Junk::line));
        let unlike = |found: &Picture| {
            let found = comparable(found.clone());
            if found == expected { String::new() } else { expected.difference(&found) }
        };
        let mut witness = Witness::open(self.netns).unwrap();
        witness.until("as wanted", PATIENCE, unlike).map_err(|error| error.to_string())
    }
}

/// A link of ours that was deleted comes back with another index.
fn comparable(picture: Picture) -> Picture {
    picture.without("index ")
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn route(table: u32, dst: &str, gateway: Option<&str>, dev: &str, protocol: u8) -> Route {
    Route {
        table,
        dst: net(dst),
        metric: 0,
        dev: Some(dev.into()),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        src: None,
        scope: if gateway.is_some() { Scope::GLOBAL } else { Scope::LINK },
        onlink: false,
        kind: RouteKind::Unicast,
        protocol,
    }
}

/// Damages what is ours in a namespace. A running agent may be faster with what was just seen: refusals are no fault.
fn spoil(dice: &mut Dice, scene: &mut Scene, observed: &Observed) -> String {
    let rules: Vec<&Rule> = observed.rules.iter().filter(|rule| rule.protocol == PROTOCOL).collect();
    let routes: Vec<&Route> = observed.routes.iter().filter(|route| route.protocol == PROTOCOL).collect();
    let neighbours: Vec<&Neighbour> =
        observed.neighbours.iter().filter(|neighbour| neighbour.protocol == PROTOCOL).collect();
    match dice.below(7) {
        0 | 1 => dice.one(&rules).map_or_else(String::new, |rule| {
            let _ = scene.delete_rule(rule);
            format!("deleted rule {rule}")
        }),
        2 | 3 => dice.one(&routes).map_or_else(String::new, |route| {
            let _ = scene.delete_route(route);
            format!("deleted route {route}")
        }),
        4 => dice.one(&neighbours).map_or_else(String::new, |neighbour| {
            let _ = scene.delete_neighbour(neighbour);
            format!("deleted neighbour {}", neighbour.address)
        }),
        5 => dice.one(&neighbours).map_or_else(String::new, |neighbour| {
            let _ = scene.set_neighbour(&Neighbour { mac: Some(Mac([2, 0, 0, 0, 0, 66])), ..(*neighbour).clone() });
            format!("changed neighbour {}", neighbour.address)
        }),
        // As an earlier agent might have left it.
        _ => {
            let stale = Rule {
                priority: 32_700,
                v6: false,
                from: None,
                to: Some(net("203.0.113.0/24")),
                table: 77,
                mark: None,
                other: None,
                protocol: PROTOCOL,
            };
            let _ = scene.add_rule(&stale);
            format!("stale rule {stale}")
        }
    }
}

/// The same with what only pods have.
fn spoil_pod(dice: &mut Dice, netns: &Netns, scene: &mut Scene, observed: &Observed) -> String {
    let owned = |dev: &str| observed.link(dev).is_some();
    let own_address = observed.addresses.iter().find(|address| address.dev == "net1" && address.address.is_ipv4());
    match dice.below(13) {
        0 if owned("net1") => {
            let _ = scene.down("net1");
            "net1 down".into()
        }
        1 if owned("net1") => {
            let _ = scene.rename("net1", "stolen");
            "net1 renamed".into()
        }
        2 if owned("net1") => {
            let _ = scene.delete_link("net1");
            "net1 deleted".into()
        }
        3 => own_address.map_or_else(String::new, |address| {
            let _ = scene.delete_address("net1", address.address);
            format!("deleted {}", address.address)
        }),
        4 => {
            let _ = netns.set_sysctl(RP_FILTER, "2");
            "rp_filter changed".into()
        }
        // The default CNI, or somebody's hands, put back what was moved; somebody takes our place.
        5 => add(scene, route(MAIN, "0.0.0.0/0", Some("10.233.65.96"), "eth0", BY_HAND)),
        6 => add(scene, route(MAIN, "10.6.0.0/16", None, "eth0", BY_HAND)),
        7 => add(scene, route(DEFAULT_NIC, "10.233.0.0/18", None, FOREIGN, BY_HAND)),
        8 => {
            let replacing = route(DEFAULT_NIC, "10.233.64.0/18", None, "eth0", BY_HAND);
            let _ = scene.replace_route(&replacing);
            format!("replaced by {replacing}")
        }
        // As an earlier agent might have left it.
        9 => add(scene, route(150, "203.0.113.0/24", None, FOREIGN, PROTOCOL)),
        _ => spoil(dice, scene, observed),
    }
}

fn add(scene: &mut Scene, route: Route) -> String {
    let _ = scene.add_route(&route);
    format!("added {route} to table {}", route.table)
}

fn every_dirty_state_converges() {
    let seed = number("DRAGLINE_SEED").unwrap_or(1);
    let cases = number("DRAGLINE_CASES").unwrap_or(CASES);
    let mut stage = Stage::set("convergence", MainPlugin::Own).unwrap();
    let members = [stage.join(1).unwrap(), stage.join(2).unwrap()];
    stage.check().unwrap();
    let Stage { agent, scene, .. } = &mut stage;
    let node = Place::new(&scene.worker, false);
    let pods = members.iter().map(|member| Place::new(&member.pod.netns, true));
    let places: Vec<Place<'_>> = std::iter::once(node).chain(pods).collect();
    let started = Instant::now();
    let (mut slowest, mut deeds) = (Duration::ZERO, 0);
    for case in 0..cases {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(case));
        let mut told = Vec::new();
        let took = converges(agent, &places, &mut dice, &mut told)
            .unwrap_or_else(|text| panic!("case {case} of seed {seed}: {text}\nafter:\n{}", told.join("\n")));
        slowest = slowest.max(took);
        deeds += told.len();
    }
    println!("seed {seed}: {cases} cases, {deeds} deeds in {:?}; the slowest took {slowest:?}", started.elapsed());
    members.iter().for_each(|member| stage.leave(member).unwrap());
}

/// One case: how long it took to converge. The first place is the node.
fn converges(
    agent: &mut AgentProcess,
    places: &[Place<'_>],
    dice: &mut Dice,
    told: &mut Vec<String>,
) -> Result<Duration, String> {
    let is_stopped = dice.below(STOPPED) == 0;
    if is_stopped && dice.below(2) == 0 {
        told.push("agent killed".into());
        agent.kill().unwrap();
    } else if is_stopped {
        told.push("agent stopped".into());
        assert!(agent.terminate().unwrap().success());
    }
    let mut junk: Vec<Vec<Junk>> = Vec::new();
    for place in places {
        let mut scene = place.netns.scene().unwrap();
        junk.push((0..dice.below(DEEDS + 1)).filter_map(|_| place.deed(dice, &mut scene, told)).collect());
    }
    let started = Instant::now();
    if is_stopped {
        agent.restart().unwrap();
    }
    for (place, junk) in places.iter().zip(&junk) {
        place.until_converged(junk)?;
    }
    let took = started.elapsed();
    stage::check(agent).map_err(|error| error.to_string())?;
    let changes = || Metrics::fetch(places[0].netns).unwrap().of("netlink_changes").unwrap();
    let before = changes();
    stage::check(agent).map_err(|error| error.to_string())?;
    assert_eq!(changes(), before, "a converged system was changed");
    for (place, junk) in places.iter().zip(&junk) {
        let mut scene = place.netns.scene().unwrap();
        junk.iter().for_each(|it| it.take_away(&mut scene));
        place.until_converged(&[])?;
    }
    Ok(took)
}
