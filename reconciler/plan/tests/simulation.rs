//! Properties of plan and diff over simulated kernels: whatever the state, the steps lead to what is wanted, touch nothing
//! foreign, and cut no path that works before and after.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

mod kernel;
mod world;

use std::net::IpAddr;

use kernel::{Kernel, Way};
use plan::tables::{self, MAIN, PROTOCOL};
use plan::{Address, Desired, Neighbour, Prune, RP_FILTER, Rule, Scope, Step, diff};
use proptest::prelude::*;
use world::{Foreign, World, nic, world_of_any_mode};

type Flow = (Option<IpAddr>, IpAddr);

/// Packets worth watching: from nowhere in particular and from every address that the pod has.
fn flows(kernel: &Kernel) -> Vec<Flow> {
    const DESTINATIONS: [&str; 25] = [
        "10.6.212.131",
        "10.233.65.96",
        "169.254.1.1",
        "10.233.100.5",
        "10.233.3.7",
        "169.254.20.1",
        "10.6.212.132",
        "10.7.1.1",
        "10.8.1.1",
        "10.6.0.1",
        "10.9.9.9",
        "8.8.8.8",
        "172.17.0.5",
        "192.168.7.9",
        "192.168.9.9",
        "fd00:6::131",
        "fd85::96",
        "fd85::505",
        "fd86::7",
        "fd00:6::132",
        "fd00:7::9",
        "fd00:8::9",
        "fd00:6::1",
        "fd00:99::9",
        "2001:db8::8",
    ];
    let sources: Vec<Option<IpAddr>> =
        std::iter::once(None).chain(kernel.addresses.iter().map(|it| Some(it.address.ip()))).collect();
    sources
        .iter()
        .flat_map(|source| DESTINATIONS.iter().map(|destination| (*source, destination.parse().unwrap())))
        .filter(|(source, destination): &Flow| source.is_none_or(|source| source.is_ipv4() == destination.is_ipv4()))
        .collect()
}

/// The node, pods, services and hijacked networks of the worlds.
fn is_inside(ip: IpAddr) -> bool {
    const INSIDE: [&str; 9] = [
        "10.6.212.131/32",
        "10.233.65.96/32",
        "10.233.64.0/18",
        "10.233.0.0/18",
        "169.254.0.0/16",
        "fd00:6::131/128",
        "fd85::96/128",
        "fd85::/64",
        "fd86::/108",
    ];
    INSIDE.iter().any(|network| network.parse::<ipnetwork::IpNetwork>().unwrap().contains(ip))
}

/// The default CNI's gateway, which asks nobody; of IPv6 without an eth0 that has it nothing is inside.
fn is_nobodys(ip: IpAddr) -> bool {
    ip == IpAddr::from([169, 254, 1, 1]) || ip == IpAddr::from([10, 233, 65, 96])
}

/// How much a way may differ on the way from one to the other.
#[derive(Clone, Copy, PartialEq)]
enum Continuity {
    /// Every packet goes as before or as after.
    Strict,
    /// Every packet goes somewhere: repairs of tables that somebody has torn already.
    Reachable,
    /// A withdrawn link of ours that has another one's name goes first, and its packets with it.
    Any,
}

/// Applies the diff and checks what holds for every diff; gives the kernel afterwards.
fn converge(kernel: &Kernel, desired: &Desired, continuity: Continuity) -> Result<Kernel, TestCaseError> {
    let observed = kernel.observe();
    let changes = diff(desired, &observed, Prune::Yes);
    prop_assert_eq!(&changes, &diff(desired, &observed, Prune::Yes), "equal inputs");
    let listing = || changes.steps.iter().map(Step::to_string).collect::<Vec<_>>().join("\n");

    let mut states = vec![kernel.clone()];
    for step in &changes.steps {
        let mut next = states.last().unwrap().clone();
        let done = next.apply(step);
        prop_assert!(done.is_ok(), "{step}: {done:?} in\n{}", listing());
        states.push(next);
    }
    let after = states.last().unwrap().clone();

    let again = diff(desired, &after.observe(), Prune::Yes);
    prop_assert!(again.steps.is_empty(), "a second diff: {:#?} after\n{}", again.steps, listing());
    prop_assert_eq!(&again.blocked, &changes.blocked);

    let mut twice = after.clone();
    for step in &changes.steps {
        let _ = twice.apply(step);
    }
    for step in &diff(desired, &twice.observe(), Prune::Yes).steps {
        twice.apply(step).unwrap();
    }
    prop_assert_eq!(sorted(&twice), sorted(&after), "applied twice");

    for flow in flows(kernel) {
        let (source, destination) = flow;
        let ways: Vec<Option<Way>> = states.iter().map(|state| state.lookup(source, destination)).collect();
        let (Some(before), Some(last)) = (&ways[0], &ways[ways.len() - 1]) else { continue };
        if source.is_some_and(|source| !after.addresses.iter().any(|it| it.address.ip() == source)) {
            continue;
        }
        for (done, way) in ways.iter().enumerate() {
            let step = changes.steps.get(done.wrapping_sub(1)).map(Step::to_string);
            let is_fine = match (way, continuity) {
                (Some(way), Continuity::Strict) => way == before || way == last,
                (Some(_), Continuity::Reachable) => true,
                (_, Continuity::Any) => true,
                (None, Continuity::Strict | Continuity::Reachable) => false,
            };
            prop_assert!(
                is_fine,
                "{flow:?} goes {way:?} after {step:?}; before {before:?}, in the end {last:?}\n{}",
                listing()
            );
        }
    }
    Ok(after)
}

fn sorted(kernel: &Kernel) -> Kernel {
    let mut sorted = kernel.clone();
    sorted.links.iter_mut().for_each(|link| link.index = 0);
    sorted.links.sort();
    sorted.addresses.sort();
    sorted.routes.sort();
    sorted.rules.sort();
    sorted.neighbours.sort();
    sorted
}

/// What somebody may have done to a converged pod.
#[derive(Debug, Clone)]
enum Damage {
    DropRoutes(Vec<prop::sample::Index>),
    DropRules(Vec<prop::sample::Index>),
    DropAddress(prop::sample::Index),
    DropNeighbours(Vec<prop::sample::Index>),
    FlushTable(prop::sample::Index),
    FlushRules,
    LinkDown(prop::sample::Index),
    LinkRenamed(prop::sample::Index),
    LinksSwapped(prop::sample::Index, prop::sample::Index),
    LinkDeleted(prop::sample::Index),
    AliasLost(prop::sample::Index),
    MtuChanged(prop::sample::Index),
    ForeignDefault,
    /// A route of somebody else on a key of ours, before ours or instead of it.
    KeyTaken(prop::sample::Index, bool),
    StaleRoute(u32),
    StaleRule(u32),
    StaleAddress(prop::sample::Index),
    WrongPrefix(prop::sample::Index),
    StaleNeighbour,
    NeighbourChanged(prop::sample::Index),
    Sysctl,
    /// A rule of ours made by somebody else once more.
    RuleCopied(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    use prop::sample::Index;
    let some = || prop::collection::vec(any::<Index>(), 1..6);
    prop_oneof![
        some().prop_map(Damage::DropRoutes),
        some().prop_map(Damage::DropRules),
        any::<Index>().prop_map(Damage::DropAddress),
        some().prop_map(Damage::DropNeighbours),
        any::<Index>().prop_map(Damage::FlushTable),
        Just(Damage::FlushRules),
        any::<Index>().prop_map(Damage::LinkDown),
        any::<Index>().prop_map(Damage::LinkRenamed),
        any::<(Index, Index)>().prop_map(|(one, two)| Damage::LinksSwapped(one, two)),
        any::<Index>().prop_map(Damage::LinkDeleted),
        any::<Index>().prop_map(Damage::AliasLost),
        any::<Index>().prop_map(Damage::MtuChanged),
        Just(Damage::ForeignDefault),
        any::<(Index, bool)>().prop_map(|(index, before)| Damage::KeyTaken(index, before)),
        (100u32..104).prop_map(Damage::StaleRoute),
        (32700u32..32766).prop_map(Damage::StaleRule),
        any::<Index>().prop_map(Damage::StaleAddress),
        any::<Index>().prop_map(Damage::WrongPrefix),
        Just(Damage::StaleNeighbour),
        any::<Index>().prop_map(Damage::NeighbourChanged),
        Just(Damage::Sysctl),
        any::<Index>().prop_map(Damage::RuleCopied),
    ]
}

impl Damage {
    fn hit(&self, kernel: &mut Kernel, foreign: &Foreign) {
        let inside = if kernel.has_default_cni() { "eth0" } else { "veth0" };
        let nics: Vec<(u32, String)> = kernel
            .links
            .iter()
            .filter(|link| matches!(link.kind, plan::LinkKind::Macvlan(_)))
            .map(|link| (link.index, link.name.clone()))
            .collect();
        let ours: Vec<plan::Route> = kernel
            .routes
            .iter()
            .filter(|it| it.protocol == PROTOCOL && !foreign.routes.contains(it))
            .cloned()
            .collect();
        let our_rules: Vec<Rule> = kernel.rules.iter().filter(|it| it.protocol == PROTOCOL).cloned().collect();
        let nic_address = |index: &prop::sample::Index| {
            let all: Vec<Address> = kernel.addresses.iter().filter(|it| it.dev != inside).cloned().collect();
            (!all.is_empty()).then(|| index.get(&all).clone())
        };
        match self {
            Self::DropRoutes(indices) if !ours.is_empty() => {
                indices.iter().for_each(|index| kernel.routes.retain(|it| it != index.get(&ours)));
            }
            Self::DropRules(indices) if !our_rules.is_empty() => {
                indices.iter().for_each(|index| kernel.rules.retain(|it| it != index.get(&our_rules)));
            }
            Self::DropAddress(index) => {
                if let Some(address) = nic_address(index) {
                    kernel.delete_address(&address);
                }
            }
            Self::DropNeighbours(indices) => {
                for index in indices {
                    if !kernel.neighbours.is_empty() {
                        kernel.neighbours.remove(index.index(kernel.neighbours.len()));
                    }
                }
            }
            Self::FlushTable(index) if !ours.is_empty() => {
                let (table, is_v4) = (index.get(&ours).table, index.get(&ours).dst.is_ipv4());
                let is_flushed = |it: &plan::Route| it.table == table && it.dst.is_ipv4() == is_v4;
                kernel.routes.retain(|it| !is_flushed(it) || foreign.routes.contains(it));
            }
            Self::FlushRules => kernel.rules.retain(|it| !our_rules.contains(it)),
            Self::LinkDown(index) if !nics.is_empty() => kernel.set_down(&index.get(&nics).1),
            Self::LinkRenamed(index) if !nics.is_empty() => {
                let _ = kernel.rename_link(index.get(&nics).0, "stolen0");
            }
            Self::LinksSwapped(one, two) if nics.len() > 1 => {
                let (one, two) = (one.get(&nics), two.get(&nics));
                if one != two && kernel.rename_link(one.0, "swap").is_ok() {
                    kernel.rename_link(two.0, &one.1).unwrap();
                    kernel.rename_link(one.0, &two.1).unwrap();
                }
            }
            Self::LinkDeleted(index) if !nics.is_empty() => kernel.delete_link(&index.get(&nics).1),
            Self::AliasLost(index) if !nics.is_empty() => {
                let wanted = index.get(&nics).0;
                kernel.links.iter_mut().filter(|link| link.index == wanted).for_each(|link| link.alias = None);
            }
            Self::MtuChanged(index) if !nics.is_empty() => {
                let wanted = index.get(&nics).0;
                kernel.links.iter_mut().filter(|link| link.index == wanted).for_each(|link| link.mtu = 1400);
            }
            // Where nothing of ours is wanted in its place it stays, and leads somewhere.
            Self::ForeignDefault
                if match inside {
                    "eth0" => kernel.rules.iter().any(|rule| !rule.v6 && rule.protocol == PROTOCOL),
                    _ => ours.iter().any(|it| it.dst.is_ipv4() && it.is_default() && it.table == MAIN),
                } =>
            {
                kernel.routes.insert(0, world::route(MAIN, "0.0.0.0/0", None, inside, 3));
            }
            Self::KeyTaken(index, is_before) if !ours.is_empty() => {
                let our = index.get(&ours);
                let position = kernel.routes.iter().position(|it| it == our).unwrap_or(0);
                let taken = plan::Route {
                    dev: Some(inside.to_owned()),
                    gateway: None,
                    src: None,
                    scope: if our.dst.is_ipv4() { Scope::LINK } else { Scope::GLOBAL },
                    metric: our.metric,
                    protocol: 3,
                    ..our.clone()
                };
                if taken.is_same(our) {
                    return;
                }
                kernel.routes.insert(position, taken);
                if !is_before {
                    kernel.routes.retain(|it| it != our);
                }
            }
            Self::StaleRoute(table) => {
                kernel.routes.push(world::route(*table, "10.99.0.0/16", None, inside, PROTOCOL));
            }
            Self::StaleRule(priority) => kernel.add_rule(&Rule {
                priority: *priority,
                v6: false,
                from: Some("10.99.0.1/32".parse().unwrap()),
                to: None,
                table: tables::of_ordinal(7),
                mark: None,
                other: None,
                protocol: PROTOCOL,
            }),
            Self::StaleAddress(index) if !nics.is_empty() => {
                let address = Address {
                    dev: index.get(&nics).1.clone(),
                    address: "10.99.0.9/16".parse().unwrap(),
                    scope: Scope::GLOBAL,
                    protocol: PROTOCOL,
                };
                kernel.apply(&Step::AddAddress(address)).unwrap();
            }
            Self::WrongPrefix(index) => {
                // One of IPv6 has to go first, and its subnet with it.
                let is_torn = |it: &Address| it.protocol == PROTOCOL && it.address.is_ipv4();
                if let Some(address) = nic_address(index).filter(is_torn) {
                    let wrong = ipnetwork::IpNetwork::new(address.address.ip(), 24).unwrap();
                    kernel.delete_address(&address);
                    kernel.apply(&Step::AddAddress(Address { address: wrong, ..address })).unwrap();
                }
            }
            Self::StaleNeighbour => kernel.neighbours.push(Neighbour {
                dev: inside.into(),
                address: "10.99.0.7".parse().unwrap(),
                mac: None,
                permanent: true,
                protocol: PROTOCOL,
            }),
            Self::NeighbourChanged(index) if !kernel.neighbours.is_empty() => {
                let position = index.index(kernel.neighbours.len());
                kernel.neighbours[position].mac = None;
            }
            Self::Sysctl => {
                kernel.sysctls.insert(RP_FILTER.to_owned(), "2".into());
            }
            Self::RuleCopied(index) if !our_rules.is_empty() => {
                kernel.add_rule(&Rule { protocol: 3, ..index.get(&our_rules).clone() });
            }
            _ => {}
        }
    }
}

/// What comes next for a pod: NICs come and go, another default, other tuning.
#[derive(Debug, Clone)]
struct Change {
    default_nic: u8,
    detached: u8,
    retuned: u8,
    recoordinated: u8,
    new: Option<world::Nic>,
    /// Foreign links of detached NICs are taken away by their plugin before ours has settled.
    links_go_first: bool,
}

fn change(wide: bool) -> impl Strategy<Value = Change> {
    let few = || prop_oneof![Just(0u8), any::<u8>()];
    (0u8..5, few(), few(), few(), prop::option::of(nic(wide)), any::<bool>()).prop_map(
        |(default_nic, detached, retuned, recoordinated, new, links_go_first)| Change {
            default_nic,
            detached,
            retuned,
            recoordinated,
            new,
            links_go_first,
        },
    )
}

impl Change {
    fn apply(&self, world: &World) -> World {
        let mut next = world.clone();
        next.default_nic = self.default_nic;
        for (place, nic) in next.nics.iter_mut().enumerate() {
            nic.attached &= self.detached & (1 << place) == 0;
            nic.tuned ^= self.retuned & (1 << place) != 0;
            nic.coordinated |= self.recoordinated & (1 << place) != 0;
        }
        next.nics.extend(self.new.clone());
        next
    }
}

/// Where two routes are wanted on one key (untuned NICs, each with a default), one comes after the other.
fn continuity_to(world: &World) -> Continuity {
    let mut keys: Vec<_> = world.desired().routes.iter().map(|wanted| wanted.route.key()).collect();
    let all = keys.len();
    keys.sort();
    keys.dedup();
    if keys.len() == all { Continuity::Strict } else { Continuity::Reachable }
}

/// NICs are attached one after another, as a runtime does.
fn grow(world: &World, foreign: &Foreign) -> Result<Kernel, TestCaseError> {
    let mut kernel = world.baseline();
    foreign.put(&mut kernel);
    for count in 1..=world.nics.len() {
        let so_far = World { nics: world.nics[..count].to_vec(), ..world.clone() };
        so_far.attach_foreign(count - 1, &mut kernel);
        kernel = converge(&kernel, &so_far.desired(), Continuity::Strict)?;
    }
    Ok(kernel)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_new_pod_converges(world in world_of_any_mode(true), foreign in any::<u8>()) {
        let foreign = Foreign::pick(foreign);
        let after = grow(&world, &foreign)?;
        prop_assert_eq!(foreign.is_untouched(&after), Ok(()));
    }

    /// A namespace that is built at once after all its attachments were recorded: packets may meet a NIC that is up
    /// before the one that will have them, but they always go somewhere.
    #[test]
    fn a_pod_made_at_once_is_the_one_that_grew(world in world_of_any_mode(true), foreign in any::<u8>()) {
        let foreign = Foreign::pick(foreign);
        let mut kernel = world.start();
        foreign.put(&mut kernel);
        let at_once = converge(&kernel, &world.desired(), Continuity::Reachable)?;
        let grown = grow(&world, &foreign)?;
        let rules = |kernel: &Kernel| {
            let mut rules = kernel.rules.clone();
            // The kernel has a list for each family.
            rules.sort_by_key(|rule| rule.v6);
            rules
        };
        prop_assert_eq!(rules(&at_once), rules(&grown));
        prop_assert_eq!(foreign.is_untouched(&at_once), Ok(()));
    }

    #[test]
    fn a_changed_pod_converges(world in world_of_any_mode(false), change in change(false), foreign in any::<u8>()) {
        let foreign = Foreign::pick(foreign);
        let mut kernel = grow(&world, &foreign)?;
        let next = change.apply(&world);
        for (place, nic) in next.nics.iter().enumerate() {
            next.attach_foreign(place, &mut kernel);
            if !nic.attached && change.links_go_first {
                next.detach_foreign(place, &mut kernel);
            }
        }
        let mut after = converge(&kernel, &next.desired(), continuity_to(&next))?;
        for (place, nic) in next.nics.iter().enumerate() {
            if !nic.attached {
                next.detach_foreign(place, &mut after);
            }
        }
        let after = converge(&after, &next.desired(), continuity_to(&next))?;
        prop_assert_eq!(foreign.is_untouched(&after), Ok(()));
    }

    /// Wide pool routes bring rules that lead to main; here a packet may go a third way for a moment, never nowhere.
    #[test]
    fn a_changed_pod_with_wide_routes_converges(world in world_of_any_mode(true), change in change(true)) {
        let mut kernel = grow(&world, &Foreign::default())?;
        let next = change.apply(&world);
        (0..next.nics.len()).for_each(|place| next.attach_foreign(place, &mut kernel));
        converge(&kernel, &next.desired(), Continuity::Reachable)?;
    }

    /// Everything withdrawn: the pod is again as the default CNI had left it.
    #[test]
    fn a_withdrawn_pod_is_as_it_was(world in world_of_any_mode(true), foreign in any::<u8>()) {
        let foreign = Foreign::pick(foreign);
        let kernel = grow(&world, &foreign)?;
        let mut gone = world.clone();
        gone.nics.iter_mut().for_each(|nic| nic.attached = false);
        let mut after = converge(&kernel, &gone.desired(), Continuity::Strict)?;
        (0..gone.nics.len()).for_each(|place| gone.detach_foreign(place, &mut after));
        let after = converge(&after, &gone.desired(), Continuity::Strict)?;
        let mut baseline = world.baseline();
        foreign.put(&mut baseline);
        let without_protocol = |kernel: &Kernel| {
            let mut kernel = sorted(kernel);
            kernel.routes.iter_mut().for_each(|route| route.protocol = 0);
            kernel.routes.sort();
            kernel.sysctls.clear();
            kernel
        };
        prop_assert_eq!(without_protocol(&after), without_protocol(&baseline));
    }

    #[test]
    fn a_damaged_pod_is_repaired(
        world in world_of_any_mode(true),
        damages in prop::collection::vec(damage(), 1..6),
        foreign in any::<u8>(),
    ) {
        let foreign = Foreign::pick(foreign);
        let desired = world.desired();
        let whole = grow(&world, &foreign)?;
        let mut damaged = whole.clone();
        damages.iter().for_each(|damage| damage.hit(&mut damaged, &foreign));
        let repaired = converge(&damaged, &desired, Continuity::Reachable)?;
        prop_assert_eq!(foreign.is_untouched(&repaired), Ok(()));
        let is_whole = diff(&desired, &repaired.observe(), Prune::Yes).is_converged()
            && world.nics.iter().all(|nic| nic.coordinated && nic.tuned);
        if is_whole {
            for flow in flows(&repaired) {
                // A foreign default stays where nothing of ours is wanted in its place.
                let is_planned = world.nics.iter().any(|nic| if flow.1.is_ipv4() { nic.v4 } else { nic.v6 });
                if whole.lookup(flow.0, flow.1).is_none() || !is_planned {
                    continue;
                }
                prop_assert_eq!(repaired.lookup(flow.0, flow.1), whole.lookup(flow.0, flow.1), "{:?}", flow);
            }
        }
    }

    /// Whoever asks a NIC's address gets the answer from that NIC, or, asking from inside the cluster, by the link to the
    /// node; so a reply takes the way of its request, whichever side began.
    #[test]
    fn a_reply_takes_the_way_of_its_request(world in world_of_any_mode(false)) {
        let nics = world.nics.iter().map(|nic| world::Nic { coordinated: true, tuned: true, ..nic.clone() });
        let world = World { nics: nics.collect(), ..world };
        let kernel = grow(&world, &Foreign::default())?;
        let inside = if world.underlay { "veth0" } else { "eth0" };
        for (place, nic) in world.nics.iter().enumerate() {
            let name = world::name(place);
            for own in kernel.addresses.iter().filter(|it| it.dev == name) {
                for (_, asker) in flows(&kernel).into_iter().filter(|(source, _)| source.is_none()) {
                    if asker.is_ipv4() != own.address.is_ipv4() || is_nobodys(asker) {
                        continue;
                    }
                    let Some(way) = kernel.lookup(Some(own.address.ip()), asker) else { continue };
                    if is_inside(asker) {
                        prop_assert_eq!(way.dev.as_str(), inside, "{} to {}", own.address, asker);
                    } else if nic.gateway || own.address.contains(asker) {
                        prop_assert_eq!(way.dev.as_str(), name.as_str(), "{} to {}", own.address, asker);
                    }
                }
            }
        }
    }

    /// Before all inputs have synced nothing goes but what gives its place to something desired.
    #[test]
    fn nothing_is_pruned_too_early(
        world in world_of_any_mode(true),
        damages in prop::collection::vec(damage(), 0..6),
        change in change(true),
    ) {
        let foreign = Foreign::default();
        let mut kernel = grow(&world, &foreign)?;
        damages.iter().for_each(|damage| damage.hit(&mut kernel, &foreign));
        let next = change.apply(&world);
        let desired = next.desired();
        let mut synced = kernel.clone();
        for step in diff(&desired, &kernel.observe(), Prune::No).steps {
            match &step {
                Step::DeleteLink { .. } | Step::DeleteRule(_) | Step::DeleteNeighbour(_) => {
                    prop_assert!(false, "{}", step);
                }
                Step::DeleteAddress(gone) => prop_assert!(
                    desired.addresses.iter().any(|it| it.dev == gone.dev && it.address.ip() == gone.address.ip())
                ),
                Step::DeleteRoute(gone) => prop_assert!(plan::ownership::is_displaced(gone, &desired), "{}", step),
                _ => {}
            }
            let done = synced.apply(&step);
            prop_assert!(done.is_ok(), "{}: {:?}", step, done);
        }
        let later = diff(&desired, &synced.observe(), Prune::No);
        prop_assert!(later.steps.is_empty(), "{:#?}", later.steps);
        converge(&synced, &desired, Continuity::Any)?;
    }
}
