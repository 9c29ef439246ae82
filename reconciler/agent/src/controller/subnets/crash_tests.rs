//! The controller ends anywhere, two lead at once, nodes take and give back addresses: no address is ever in two pools, and
//! none is lost.

use std::net::IpAddr;

use plan::allocate::AddressSet;
use proptest::prelude::*;
use serde_json::json;

use super::decision::Memory;
use super::record::both;
use super::world::World;

#[derive(Debug, Clone)]
enum Happening {
    /// A workload has so many pods, and keeps its pool or not.
    Scale(u8, u8, bool),
    Delete(u8),
    Claim(u8),
    GiveBack(u8),
    /// Somebody writes a pool's addresses, or the subnet's status.
    EditPool(u8, u8),
    Dirty(u8),
    Manual(u8, u8),
    /// Of what is decided so much is done; then the controller is another one, or the same.
    Act(u8, bool),
    /// Another controller has read everything by now, and decides from that when it is its turn.
    Stale,
    /// The other one does what it has decided.
    StaleActs,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0u8..3, 0u8..6, any::<bool>()).prop_map(|(app, pods, keeps)| Happening::Scale(app, pods, keeps)),
        1 => (0u8..3).prop_map(Happening::Delete),
        3 => (0u8..4).prop_map(Happening::Claim),
        3 => (0u8..8).prop_map(Happening::GiveBack),
        1 => (0u8..4, 0u8..12).prop_map(|(pool, ip)| Happening::EditPool(pool, ip)),
        1 => (0u8..3).prop_map(Happening::Dirty),
        1 => (0u8..2, 0u8..10).prop_map(|(pool, ip)| Happening::Manual(pool, ip)),
        9 => (1u8..6, any::<bool>()).prop_map(|(number, is_new)| Happening::Act(number, is_new)),
        1 => Just(Happening::Stale),
        2 => Just(Happening::StaleActs),
    ]
}

const APPS: [&str; 3] = ["a", "b", "c"];

fn pool_named(world: &World, number: u8) -> Option<String> {
    let names: Vec<&String> = world.view.pools.keys().filter(|name| name.starts_with("auto")).collect();
    names.get(usize::from(number) % names.len().max(1)).map(|name| (*name).clone())
}

fn run(happenings: Vec<Happening>, with_hands: bool) {
    let mut world = World::default();
    world.subnet("s4", "10.0.0.0/16", &["10.0.0.1-10.0.0.12"]);
    let mut memory = Memory::default();
    let mut stale = None;
    let mut claimed: Vec<(String, IpAddr)> = Vec::new();
    for (step, happening) in happenings.into_iter().enumerate() {
        match happening {
            Happening::Scale(app, pods, keeps) => {
                let name = APPS[usize::from(app)];
                let reclaim = if keeps { "false" } else { "true" };
                let known = world
                    .view
                    .workloads
                    .iter()
                    .find(|(known, _)| known.name == name)
                    .map(|(_, known)| known.uid.clone());
                let uid = known.unwrap_or_else(|| format!("u{step}"));
                world.workload(
                    "Deployment",
                    name,
                    &uid,
                    pods.into(),
                    &[("subnet", r#"{"ipv4":["s4"]}"#), ("ippool-reclaim", reclaim)],
                );
            }
            Happening::Delete(app) => {
                let name = APPS[usize::from(app)];
                // The pool's other half keeps a pool for as long as somebody holds anything of it.
                claimed.retain(|(pool, ip)| {
                    let is_its = pool.starts_with(&format!("auto4-{name}-"));
                    if is_its {
                        world.give_back(pool, *ip);
                    }
                    !is_its
                });
                world.delete_workload("Deployment", name);
            }
            Happening::Claim(number) => {
                if let Some(pool) = pool_named(&world, number)
                    && let Some(ip) = world.claim(&pool, "node")
                {
                    claimed.push((pool, ip));
                }
            }
            Happening::GiveBack(number) if !claimed.is_empty() => {
                let (pool, ip) = claimed.remove(usize::from(number) % claimed.len());
                world.give_back(&pool, ip);
            }
            Happening::EditPool(number, ip) if with_hands => {
                if let Some(pool) = pool_named(&world, number) {
                    // Out of, never into: what users put into two pools is in two pools.
                    let mut ips = world.ips(&pool);
                    ips.remove([10, 0, 0, ip].into());
                    world.edit_pool(&pool, json!({"spec": {"ips": super::record::texts(&ips)}}));
                }
            }
            Happening::Dirty(what) if with_hands => {
                let text = [json!(null), json!("x"), json!(r#"{"gone":{"ips":["10.0.0.1-10.0.0.3"]}}"#)]
                    [usize::from(what)]
                .clone();
                world.edit_subnet("s4", json!({"status": {"controlledIPPools": text}}));
                // The record is all that keeps what a former leader is still writing from others.
                stale = None;
            }
            Happening::Manual(number, ip) => {
                let name = format!("manual{number}");
                let taken: Vec<String> = world.view.pools.keys().cloned().collect();
                let address: IpAddr = [10, 0, 0, ip + 1].into();
                if taken.contains(&name) {
                    world.view.pools.remove(&name);
                } else if !taken.iter().any(|pool| world.ips(pool).contains(address)) {
                    world.pool(&name, json!({"subnet": "10.0.0.0/16", "ips": [address.to_string()]}));
                }
            }
            Happening::Act(number, is_new) => {
                if is_new {
                    memory = Memory::default();
                    world.view.usage.clear();
                }
                for action in world.decide(&mut memory).actions.iter().take(number.into()) {
                    // One that rests on another state is refused, and that is all.
                    world.perform(action);
                    world.check();
                }
            }
            Happening::Stale => stale = Some(world.decide(&mut Memory::default()).actions),
            Happening::StaleActs => {
                for action in stale.take().into_iter().flatten() {
                    world.perform(&action);
                    world.check();
                }
            }
            Happening::GiveBack(_) | Happening::EditPool(..) | Happening::Dirty(_) => {}
        }
        world.check();
    }
    // In the end, when nobody holds anything, everybody has what they ask for, as far as there is enough.
    for (pool, ip) in claimed {
        world.give_back(&pool, ip);
    }
    let decision = world.settle(&mut Memory::default());
    assert!(decision.waiting.is_empty(), "{:?}", decision.waiting);
    let status = world.view.subnets["s4"].status.clone().unwrap_or_default();
    let records = super::record::parse(status.controlled_ip_pools.as_deref());
    for (name, entry) in &records {
        assert_eq!(world.ips(name), entry.ips, "{name}");
    }
    // One made by hand may share with another: the older one gives what both have.
    let all = world.view.pools.keys().fold(AddressSet::default(), |all, name| both(&all, &world.ips(name)));
    let used = all.len();
    assert_eq!(status.allocated_ip_count, Some(i64::try_from(used).unwrap()));
    let living = &world.view.workloads;
    let is_wrong = |name: &&String| {
        let wanted: Vec<u64> = living
            .iter()
            .filter(|(app, _)| name.starts_with(&format!("auto4-{}-", app.name)))
            .filter_map(|(_, workload)| workload.asks.as_ref())
            .map(|asks| asks.pods)
            .collect();
        wanted.iter().any(|pods| u128::from(*pods) < world.ips(name).len())
    };
    let wrong: Vec<&String> = world
        .view
        .pools
        .keys()
        .filter(|name| world.view.pools[*name].metadata.labels.is_some())
        .filter(is_wrong)
        .collect();
    // A pool that an earlier one of the same name has left may be beside the new one only while it is kept.
    assert!(wrong.is_empty() || with_hands, "{wrong:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_address_is_in_two_pools_and_none_is_lost(happenings in prop::collection::vec(happening(), 1..60)) {
        run(happenings, false);
    }

    #[test]
    fn nor_when_people_change_things(happenings in prop::collection::vec(happening(), 1..60)) {
        run(happenings, true);
    }
}
