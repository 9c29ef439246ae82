//! What holds for whatever is declared.

use proptest::prelude::*;
use schemas::cni::error::CniError;
use serde_json::{Value, json};

use super::World;
use crate::selection::{annotated_routes, decide, fit};

const KEYS: [&str; 7] = [
    "ipam.spidernet.io/subnets",
    "ipam.spidernet.io/subnet",
    "ipam.spidernet.io/ippools",
    "ipam.spidernet.io/ippool",
    "ipam.spidernet.io/routes",
    "k8s.v1.cni.cncf.io/networks",
    "v1.multus-cni.io/default-network",
];

/// Some of what a pool may say, each with one that fits and one that does not.
fn fields() -> impl Strategy<Value = Value> {
    let choices = [
        ("nodeName", json!(["n1"]), json!(["n2"])),
        ("namespaceName", json!(["app"]), json!(["x"])),
        ("podAffinity", json!({"matchLabels": {"app": "web"}}), json!({"matchLabels": {"app": "db"}})),
        ("multusName", json!(["conf"]), json!(["elsewhere/net"])),
        ("disable", json!(false), json!(true)),
        ("default", json!(true), json!(false)),
    ];
    let pick = |(key, good, bad): (&'static str, Value, Value)| {
        let (good, bad) = (Just(Some((key, good))), Just(Some((key, bad))));
        prop_oneof![4 => Just(None), 2 => good, 1 => bad]
    };
    let all: Vec<_> = choices.into_iter().map(pick).collect();
    all.prop_map(|fields| fields.into_iter().flatten().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Names of pools and patterns, of which some are there.
fn names() -> impl Strategy<Value = Vec<String>> {
    let name = prop_oneof![
        6 => "p[0-3]",
        1 => Just("p*".to_owned()),
        1 => Just("p[0-2]".to_owned()),
        1 => Just("?3".to_owned()),
        1 => Just("q*".to_owned()),
        1 => "[p*?\\[\\]!0-3-]{0,4}",
    ];
    proptest::collection::vec(name, 0..4)
}

fn annotations() -> impl Strategy<Value = Value> {
    let pools = (names(), names()).prop_map(|(v4, v6)| json!({"ipv4": v4, "ipv6": v6}));
    let ippools = proptest::collection::vec((names(), prop_oneof!["", "net[0-2]", "eth0"]), 0..3).prop_map(|items| {
        let items: Vec<Value> = items.into_iter().map(|(v4, nic)| json!({"interface": nic, "ipv4": v4})).collect();
        json!(items)
    });
    let garbage = prop_oneof![".*", "[\\[\\]{}\":,a-z0-9 ]{0,40}"].prop_map(Value::String);
    let one = prop_oneof![
        3 => pools.prop_map(|value| (KEYS[3], value)),
        3 => ippools.prop_map(|value| (KEYS[2], value)),
        2 => (0..KEYS.len(), garbage).prop_map(|(key, value)| (KEYS[key], value)),
    ];
    proptest::collection::vec(one, 0..3)
        .prop_map(|all| all.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn world() -> impl Strategy<Value = World> {
    let pools = proptest::collection::vec(fields(), 3..6);
    (pools, annotations(), names(), names(), any::<bool>()).prop_map(|(pools, annotations, v4, v6, is_eth0)| {
        let named = pools.into_iter().enumerate();
        // Their names do not end in the family: it is every third one's to be IPv6.
        let world = named.fold(World::new(), |world, (number, fields)| {
            let mut fields = fields;
            if number % 3 == 2 {
                fields["subnet"] = json!(format!("fd00:{number}::/64"));
                fields["ips"] = json!([format!("fd00:{number}::1")]);
            }
            world.pool(&format!("p{number}"), fields)
        });
        let mut world = world.marked(json!({"app": "web"}), annotations);
        (world.ipam.default_ipv4_ippool, world.ipam.default_ipv6_ippool) = (v4, v6);
        if is_eth0 { world.nic("eth0") } else { world }
    })
}

proptest! {
    #[test]
    fn what_is_chosen_fits_comes_once_and_is_the_same_again(world in world()) {
        let catalogue = world.catalogue();
        let found = world.select();
        prop_assert_eq!(&found, &world.select());
        let mut others = world.objects.clone();
        others.reverse();
        let reversed = crate::catalogue::Catalogue::of(others);
        prop_assert_eq!(&found, &crate::selection::select(&reversed, world.request()));
        let decision = decide(&catalogue, world.request(), |_| None);
        match found {
            Ok(selection) => {
                prop_assert!(!selection.families.is_empty());
                prop_assert_eq!(decision.error, world.all().err().map(|error| error.to_string()));
                prop_assert_eq!(decision.families.len(), selection.families.len());
                for (candidates, told) in selection.families.iter().zip(&decision.families) {
                    prop_assert!(!candidates.pools.is_empty());
                    for (index, name) in candidates.pools.iter().enumerate() {
                        prop_assert!(!candidates.pools[..index].contains(name));
                        let pool = &catalogue.pools[name];
                        let misfit = fit::unfit(&catalogue, world.request(), candidates.version, name, pool);
                        prop_assert!(misfit.is_none(), "{:?}", misfit);
                    }
                    for (name, _) in &candidates.rejected {
                        prop_assert!(!candidates.pools.contains(name));
                    }
                    let fitting = told.pools.iter().filter(|pool| pool.unfit.is_none());
                    let fitting: Vec<&String> = fitting.map(|pool| &pool.name).collect();
                    prop_assert_eq!(fitting, candidates.pools.iter().collect::<Vec<_>>());
                    prop_assert_eq!(told.pools.iter().filter(|pool| pool.is_next).count(), 1);
                }
            }
            Err(error) => {
                prop_assert_eq!(decision.error, Some(error.to_string()));
                prop_assert!([CniError::INVALID_CONFIG, CniError::TRY_AGAIN].contains(&error.code()));
            }
        }
        // All interfaces at once agree with each alone.
        if let Ok(Some(all)) = world.all() {
            let own = all.into_iter().find(|(ifname, _)| *ifname == world.ifname).map(|(_, selection)| selection);
            prop_assert_eq!(own, world.select().ok());
        }
    }

    #[test]
    fn no_annotation_panics(key in 0..KEYS.len(), text in ".*", shaped in "[\\[\\]{}\":,a-z0-9./@ \\n]{0,60}") {
        for text in [text, shaped] {
            let world = World::with_pools(&["a"]).annotated(json!({KEYS[key]: text}));
            let _ = world.select();
            let _ = world.all();
            let _ = annotated_routes(&world.catalogue(), &world.pod);
        }
    }
}
