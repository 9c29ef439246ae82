//! What is declared, as one value.

use std::time::Instant;

use schemas::crd::ippool::SpiderIPPoolSpec;

use super::*;

fn pool(name: &str, subnet: &str, ips: &[&str]) -> Object {
    let ips = ips.iter().map(ToString::to_string).collect();
    Object::IpPool(SpiderIPPool::new(
        name,
        SpiderIPPoolSpec { subnet: subnet.into(), ips, ..SpiderIPPoolSpec::default() },
    ))
}

#[test]
fn pools_that_overlap_are_told_in_pairs_by_name() {
    let catalogue = Catalogue::of([
        pool("c", "10.0.0.0/24", &["10.0.0.7-10.0.0.9"]),
        pool("a", "10.0.0.0/24", &["10.0.0.1-10.0.0.5"]),
        pool("b", "10.0.0.0/24", &["10.0.0.4-10.0.0.8"]),
        pool("w", "10.0.0.0/16", &["10.0.1.1"]),
        pool("x", "10.9.0.0/24", &["10.9.0.1"]),
    ]);
    let tail = "; those of a pool are 'spec.ips' without 'spec.excludeIPs'";
    let expected = [
        format!("SpiderIPPools a and b: both hold the addresses 10.0.0.4-10.0.0.5{tail}"),
        format!("SpiderIPPools b and c: both hold the addresses 10.0.0.7-10.0.0.8{tail}"),
        "SpiderIPPools a and w: the subnets 10.0.0.0/24 and 10.0.0.0/16 overlap without being the same".to_owned(),
    ];
    assert_eq!(catalogue.faults, expected);
    let lost = |name: &str| catalogue.pools[name].lost.len();
    assert_eq!(["a", "b", "c", "w", "x"].map(lost), [0, 1, 1, 0, 0]);
}

#[test]
fn a_pool_that_is_not_valid_is_known_by_its_fault() {
    let mut catalogue = Catalogue::of([pool("good", "10.0.0.0/24", &[]), pool("bad", "10.0.0.0/24", &["10.1.0.1"])]);
    assert_eq!(catalogue.invalid.keys().collect::<Vec<_>>(), ["bad"]);
    assert!(catalogue.invalid["bad"].starts_with("spec.ips[0]: "), "{catalogue:?}");
    // One that is in force is not.
    catalogue.add_invalid("good".into(), "spec: no".into());
    assert_eq!(catalogue.invalid.len(), 1);
}

/// Pools of a subnet each, or all of one, with eight ranges each.
fn many(number: u16, is_one_subnet: bool) -> Vec<Object> {
    let pool = |n: u16| {
        let (subnet, net) = match is_one_subnet {
            true => ("10.0.0.0/8".to_owned(), format!("10.{}.{}", n / 250, n % 250)),
            false => (format!("10.{}.{}.0/24", n / 250, n % 250), format!("10.{}.{}", n / 250, n % 250)),
        };
        let ips: Vec<String> = (0..8).map(|k| format!("{net}.{}-{net}.{}", 20 * k + 2, 20 * k + 9)).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        self::pool(&format!("pool-{n}"), &subnet, &ips)
    };
    (0..number).map(pool).collect()
}

/// Prints what it costs; run it with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement, which has nothing to judge"]
fn the_cost_of_many_pools() {
    for number in [500, 1000, 2000] {
        for is_one_subnet in [false, true] {
            let objects = many(number, is_one_subnet);
            let begun = Instant::now();
            let catalogue = Catalogue::of(objects);
            let took = begun.elapsed();
            println!("{number} pools, one subnet {is_one_subnet}: {took:?}, {} faults", catalogue.faults.len());
        }
    }
}
