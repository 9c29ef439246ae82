//! Many pods are damaged at once, each in one of the ways that there are.

use std::time::Instant;

use netlink::Kernel;
use netlink::testbed::{Netns, Scene};
use plan::object::{LinkKind, Observed, Route};
use plan::{RP_FILTER, Step};
use tests::full_node::{Kind, Occupant, Seen, quantile};

use crate::ground::{CALM, Ground, times};

/// One pod in so many is damaged.
const EVERY: u64 = 2;

/// What is done to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Rules,
    Routes,
    Addresses,
    NicDeleted,
    NicRenamed,
    NicDown,
    Sysctl,
    Filter,
    HostEnd,
}

/// Of every pod, and of underlay pods beyond that.
const OF_ALL: [Damage; 7] = [
    Damage::Rules,
    Damage::Routes,
    Damage::Addresses,
    Damage::NicDeleted,
    Damage::NicRenamed,
    Damage::NicDown,
    Damage::Sysctl,
];
const OF_UNDERLAY: [Damage; 2] = [Damage::Filter, Damage::HostEnd];

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn damage(&mut self, kind: Kind) -> Option<Damage> {
        let all: Vec<Damage> = match kind {
            Kind::Overlay { .. } => OF_ALL.to_vec(),
            Kind::Underlay { .. } => [OF_UNDERLAY.as_slice(), &OF_ALL, &OF_UNDERLAY].concat(),
        };
        let at = usize::try_from(self.below(all.len() as u64)).unwrap();
        (self.below(EVERY) == 0).then(|| all[at])
    }
}

pub(crate) fn at_once() {
    let seed = std::env::var("DRAGLINE_SEED").map_or(5, |text| text.parse().unwrap());
    println!("DRAGLINE_SEED={seed}");
    let mut dice = Dice(seed);
    let ground = Ground::lay("storm-pieces");
    let kernel = ground.node.scene.worker.run(Kernel::new).unwrap().unwrap();
    let watch = ground.watch();
    for round in 1..=3 {
        let mut worker = ground.node.scene.worker.scene().unwrap();
        let mut hits: Vec<Option<Hit<'_>>> = ground
            .node
            .occupants
            .iter()
            .map(|occupant| Some(Hit::prepare(occupant, dice.damage(occupant.kind)?)))
            .collect();
        let count = hits.iter().flatten().count();
        let start = ground.start();
        let act = |calm: &tests::full_node::Calm| {
            let began: Vec<Option<Instant>> =
                hits.iter_mut().map(|hit| Some(hit.as_mut()?.deal(&kernel, &mut worker))).collect();
            calm.wait(CALM);
            began
        };
        let (began, seen) = watch.during(act).unwrap();
        let cost = start.cost(&ground);
        cost.tell(&format!("damage {round}"), &times(&began, &seen));
        tell_each(&hits, &began, &seen);
        // A link that was made anew has another index.
        ground.is_as_before("index ");
        assert!(cost.repairs >= count as u64, "{} repairs of {count} pods", cost.repairs);
        for ((occupant, hit), seen) in ground.node.occupants.iter().zip(&hits).zip(&seen) {
            assert!(hit.is_some() || seen.count == 0, "{} was touched", occupant.attachment.container);
        }
    }
}

/// Each kind of damage by itself.
fn tell_each(hits: &[Option<Hit<'_>>], began: &[Option<Instant>], seen: &[Seen]) {
    for damage in OF_ALL.iter().chain(&OF_UNDERLAY) {
        let of_it = hits.iter().zip(began).map(|(hit, began)| {
            let is_it = hit.as_ref().is_some_and(|hit| hit.damage == *damage);
            began.filter(|_| is_it)
        });
        let times = times(&of_it.collect::<Vec<_>>(), seen);
        let at = |part| quantile(&times, part);
        println!("    {damage:?}: {} pods, p50 {:.1?}, at most {:.1?}", times.len(), at(0.5), at(1.0));
    }
}

/// A damage that is about to be done.
struct Hit<'a> {
    occupant: &'a Occupant,
    damage: Damage,
    scene: Scene,
    observed: Observed,
}

impl<'a> Hit<'a> {
    fn prepare(occupant: &'a Occupant, damage: Damage) -> Self {
        let mut scene = occupant.netns().scene().unwrap();
        let observed = scene.observe().unwrap();
        Self { occupant, damage, scene, observed }
    }

    /// When it began.
    fn deal(&mut self, kernel: &Kernel, worker: &mut Scene) -> Instant {
        let began = Instant::now();
        let (netns, nic) = (self.occupant.netns(), self.occupant.nic());
        let Self { scene, observed, .. } = self;
        match self.damage {
            Damage::Rules => {
                let ours = observed.rules.iter().filter(|rule| rule.protocol == plan::tables::PROTOCOL);
                ours.for_each(|rule| scene.delete_rule(rule).unwrap());
            }
            Damage::Routes => flush_routes(scene, observed),
            Damage::Addresses => {
                let of_nic = observed.addresses.iter().filter(|address| address.dev == nic);
                let global = of_nic.filter(|address| address.scope.0 == 0);
                global.for_each(|address| scene.delete_address(nic, address.address).unwrap());
            }
            Damage::NicDeleted => scene.delete_link(nic).unwrap(),
            Damage::NicRenamed => {
                if scene.rename(nic, "stolen").is_err() {
                    scene.down(nic).unwrap();
                    scene.rename(nic, "stolen").unwrap();
                }
            }
            Damage::NicDown => scene.down(nic).unwrap(),
            Damage::Sysctl => netns.set_sysctl(RP_FILTER, "1").unwrap(),
            Damage::Filter => delete_filter(kernel, netns),
            Damage::HostEnd => {
                let end = host_end(observed, worker);
                worker.delete_link(&end).unwrap();
            }
        }
        began
    }
}

/// All routes of dragline's, of all tables; one that went with another is no fault.
fn flush_routes(scene: &mut Scene, observed: &Observed) {
    let is_ours = |route: &&Route| route.protocol == plan::tables::PROTOCOL;
    let deleted = observed.routes.iter().filter(is_ours).filter(|route| scene.delete_route(route).is_ok()).count();
    assert!(deleted > 0);
}

fn delete_filter(kernel: &Kernel, netns: &Netns) {
    let mut pass = kernel.pass(&kernel.identify(netns.path()).unwrap()).unwrap();
    pass.apply(&[Step::DeleteFilter]).into_iter().collect::<Result<(), _>>().unwrap();
}

/// The node's end of the pod's veth0.
fn host_end(observed: &Observed, worker: &mut Scene) -> String {
    let lower = observed.link("veth0").unwrap().lower;
    let links = worker.observe().unwrap().links;
    let is_it = |link: &&plan::Link| Some(link.index) == lower && link.kind == LinkKind::Veth;
    links.iter().find(is_it).unwrap().name.clone()
}
