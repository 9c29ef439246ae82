use super::*;
use crate::lease::layout::{Layout, SLOTS};

fn holder(text: &str) -> Holder {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(ms: u64) -> Now {
    Now { ms, unix: 1_000 + ms / 1000 }
}

/// A pool of 10.6.0.0 to 10.6.0.63: one shard, a slot an address.
fn tenant(recorded: &[(&str, Recorded)]) -> Tenant {
    let layout = Layout::new("10.6.0.0/16".parse().unwrap(), 64).unwrap();
    let windows = Windows::new(layout, &[(ip("10.6.0.0"), ip("10.6.0.63"))]);
    let recorded = recorded.iter().map(|(address, recorded)| (ip(address), *recorded));
    Tenant::new(holder("me"), windows, recorded, at(0), 1)
}

fn seen(version: u64, texts: &[(usize, &str)], rest: &str) -> Seen {
    let mut slots = vec![rest.to_owned(); SLOTS];
    for (slot, text) in texts {
        slots[*slot] = (*text).to_owned();
    }
    Seen { number: 0, version, slots }
}

/// What is wanted, without when to ask again.
fn wanted(tenant: &mut Tenant, ms: u64) -> Vec<Action> {
    let mut actions = tenant.want(at(ms));
    actions.retain(|action| !matches!(action, Action::Sleep { .. }));
    actions
}

fn started(recorded: &[(&str, Recorded)], shard: Seen) -> Tenant {
    let mut tenant = tenant(recorded);
    assert_eq!(wanted(&mut tenant, 0), [Action::List]);
    tenant.took(at(1), Reply::Listed(vec![shard]));
    tenant
}

fn patch(actions: &[Action]) -> &[SlotEdit] {
    match actions {
        [Action::Patch { edits, .. }] => edits,
        other => panic!("a patch, not {other:?}"),
    }
}

#[test]
fn an_address_is_given_from_its_record_on() {
    let mut tenant = started(&[], seen(1, &[(7, "")], "b"));
    tenant.missing(1);
    assert_eq!(wanted(&mut tenant, 2), [Action::Get { number: 0, is_fresh: false }]);
    tenant.took(at(3), Reply::Seen(seen(1, &[(7, "")], "b")));
    let actions = wanted(&mut tenant, 4);
    assert_eq!(patch(&actions)[0].gained, [ip("10.6.0.7")]);
    assert!(wanted(&mut tenant, 5).is_empty(), "one request at a time");
    tenant.took(at(6), Reply::Seen(seen(2, &[(7, "me")], "b")));
    assert_eq!(wanted(&mut tenant, 7), [Action::Record { addresses: vec![ip("10.6.0.7")], suspect: vec![] }]);
    assert!(tenant.spare().is_empty() && !tenant.give(ip("10.6.0.7")), "not durable yet");
    tenant.took(at(8), Reply::Recorded);
    assert_eq!(tenant.spare(), [ip("10.6.0.7")]);
    tenant.fence(true);
    assert!(tenant.spare().is_empty() && !tenant.give(ip("10.6.0.7")), "fenced");
    tenant.fence(false);
    assert!(tenant.give(ip("10.6.0.7")) && !tenant.give(ip("10.6.0.7")));
}

#[test]
fn it_is_forgotten_before_it_is_released_and_handed_to_who_waits() {
    let shard = || seen(5, &[(7, "me")], "b");
    let mut tenant = started(&[("10.6.0.7", Recorded::Used)], shard());
    tenant.shares(0, vec![Waiter { since: 9, holder: holder("c~2") }]);
    assert!(wanted(&mut tenant, 3).is_empty(), "a pod has it");
    tenant.take_back(ip("10.6.0.7"), at(4_000));
    assert_eq!(wanted(&mut tenant, 4_001), [Action::Forget { addresses: vec![ip("10.6.0.7")] }]);
    assert!(tenant.spare().is_empty());
    tenant.took(at(4_006), Reply::Forgotten);
    assert_eq!(wanted(&mut tenant, 4_007), [Action::Get { number: 0, is_fresh: true }]);
    tenant.took(at(4_008), Reply::Seen(shard()));
    let actions = wanted(&mut tenant, 4_009);
    assert_eq!((patch(&actions)[0].from.as_str(), patch(&actions)[0].to.as_str()), ("me", "c~2"));
    tenant.took(at(4_010), Reply::Seen(seen(6, &[(7, "c~2")], "b")));
    assert_eq!(wanted(&mut tenant, 4_011), [Action::Erase { addresses: vec![ip("10.6.0.7")] }]);
}

#[test]
fn what_the_pool_has_lost_goes_as_soon_as_no_pod_has_it() {
    let mut tenant = started(&[("10.6.0.7", Recorded::Used)], seen(5, &[(7, "me")], ""));
    let layout = Layout::new("10.6.0.0/16".parse().unwrap(), 64).unwrap();
    tenant.pool(Windows::new(layout, &[(ip("10.6.0.8"), ip("10.6.0.63"))]), 0, Vec::new());
    tenant.missing(1);
    let actions = wanted(&mut tenant, 3);
    assert!(!actions.iter().any(|action| matches!(action, Action::Forget { .. })), "a pod has it: {actions:?}");
    tenant.take_back(ip("10.6.0.7"), at(4));
    let actions = wanted(&mut tenant, 5);
    assert!(actions.contains(&Action::Forget { addresses: vec![ip("10.6.0.7")] }), "{actions:?}");
}

#[test]
fn what_is_not_recorded_at_the_start_goes_back_and_is_not_claimed_for_long() {
    for recorded in [&[][..], &[("10.6.0.7", Recorded::Forgotten)]] {
        let mut tenant = started(recorded, seen(1, &[(7, "me")], "b"));
        tenant.missing(1);
        let mut now = 2;
        let mut claims = 0;
        let (mut version, mut text) = (1, "me".to_owned());
        while now < 2 * LATE_MS {
            for action in wanted(&mut tenant, now) {
                let shard = |version, text: &str| Reply::Seen(seen(version, &[(7, text)], "b"));
                match action {
                    Action::Get { .. } => tenant.took(at(now), shard(version, &text)),
                    Action::List => tenant.took(at(now), Reply::Listed(vec![seen(version, &[(7, &text)], "b")])),
                    Action::Patch { edits, .. } => {
                        assert_eq!(edits[0].from, text);
                        version += 1;
                        text.clone_from(&edits[0].to);
                        if text == "me" {
                            assert!(now >= LATE_MS, "claimed after {now} ms");
                            claims += 1;
                        }
                        tenant.took(at(now), shard(version, &text));
                    }
                    Action::Register | Action::Unregister => tenant.took(at(now), Reply::Done),
                    Action::Record { suspect, .. } => {
                        assert_eq!(suspect, [ip("10.6.0.7")], "it may have been claimed at the end of a quarantine");
                        tenant.took(at(now), Reply::Recorded);
                    }
                    Action::Forget { .. } => tenant.took(at(now), Reply::Forgotten),
                    _ => {}
                }
            }
            now += 100;
        }
        assert_eq!(claims, 1);
        assert!(tenant.spare().is_empty(), "looked for first");
        tenant.cleared(ip("10.6.0.7"), at(now));
        assert_eq!(tenant.spare(), [ip("10.6.0.7")]);
    }
}

#[test]
fn a_lost_claim_that_came_through_is_found() {
    let mut tenant = started(&[], seen(1, &[(7, "")], "b"));
    tenant.missing(1);
    wanted(&mut tenant, 2);
    tenant.took(at(3), Reply::Seen(seen(1, &[(7, "!5")], "b")));
    let actions = wanted(&mut tenant, 4);
    assert_eq!(patch(&actions)[0].suspect, [ip("10.6.0.7")]);
    tenant.took(at(5), Reply::Unknown);
    assert!(wanted(&mut tenant, 6).is_empty(), "not at once");
    assert_eq!(wanted(&mut tenant, 1_000), [Action::Get { number: 0, is_fresh: true }]);
    tenant.took(at(1_001), Reply::Seen(seen(2, &[(7, "me")], "b")));
    let addresses = vec![ip("10.6.0.7")];
    assert_eq!(wanted(&mut tenant, 1_002), [Action::Record { addresses: addresses.clone(), suspect: addresses }]);
    tenant.took(at(1_003), Reply::Recorded);
    assert!(tenant.spare().is_empty(), "looked for first");
    tenant.occupied(ip("10.6.0.7"), 77);
    assert_eq!(wanted(&mut tenant, 1_004)[0], Action::Forget { addresses: vec![ip("10.6.0.7")] });
}

#[test]
fn an_old_view_says_nothing_and_a_lost_address_is_told() {
    let mut tenant = started(&[("10.6.0.7", Recorded::Used), ("10.6.0.8", Recorded::Spare)], seen(5, &[], "me"));
    assert!(!tenant.spare().is_empty());
    tenant.took(at(2), Reply::Watched(seen(4, &[], "b")));
    assert_eq!(tenant.spare(), [ip("10.6.0.8")]);
    tenant.took(at(3), Reply::Watched(seen(6, &[(8, "what?")], "b")));
    let actions = wanted(&mut tenant, 4);
    assert_eq!(actions[0], Action::Lost { spare: vec![], used: vec![ip("10.6.0.7")] });
    assert_eq!(tenant.spare(), [ip("10.6.0.8")], "an unclear text takes nothing away");
}

#[test]
fn who_waits_is_told_once_and_looks_again_after_that() {
    let mut tenant = started(&[], seen(1, &[], "b"));
    tenant.missing(1);
    let (mut now, mut registrations, mut watches, mut lists) = (2, 0, vec![], 0);
    let mut version = 1;
    while now < 600_000 {
        // Somebody hands an address over after two minutes; the pod goes after three.
        let is_handed = (120_000..180_000).contains(&now);
        if now == 120_002 {
            version = 2;
            tenant.took(at(now), Reply::Watched(seen(2, &[(3, "me")], "b")));
        }
        if now == 130_002 {
            tenant.missing(0);
            assert!(tenant.give(ip("10.6.0.3")));
        }
        let texts = [(3, if is_handed || now >= 180_000 { "me" } else { "b" })];
        for action in wanted(&mut tenant, now) {
            match action {
                Action::Register => {
                    registrations += 1;
                    tenant.took(at(now), Reply::Done);
                    tenant.shares(0, vec![Waiter { since: 1, holder: holder("me") }]);
                }
                Action::Unregister => {
                    registrations += 1;
                    tenant.took(at(now), Reply::Done);
                    tenant.shares(0, vec![]);
                }
                Action::Watch(is_on) => watches.push(is_on),
                Action::Get { .. } => tenant.took(at(now), Reply::Seen(seen(version, &texts, "b"))),
                Action::List => {
                    lists += u32::from(now > 200_000);
                    tenant.took(at(now), Reply::Listed(vec![seen(version, &texts, "b")]));
                }
                Action::Record { .. } => tenant.took(at(now), Reply::Recorded),
                _ => {}
            }
        }
        now += 100;
    }
    assert_eq!((registrations, watches, lists), (2, vec![true, false], 1));
}

#[test]
fn one_who_waits_gets_one_address_by_name_and_then_has_to_take_them() {
    let recorded: Vec<(String, Recorded)> = (0..6).map(|last| (format!("10.6.0.{last}"), Recorded::Used)).collect();
    let recorded: Vec<(&str, Recorded)> = recorded.iter().map(|(address, state)| (address.as_str(), *state)).collect();
    let mut texts: Vec<String> = vec!["me".into(); 6];
    let shard = |version: u64, texts: &[String]| {
        let texts: Vec<(usize, &str)> = texts.iter().map(String::as_str).enumerate().collect();
        seen(version, &texts, "b")
    };
    let mut tenant = started(&recorded, shard(1, &texts));
    let dead = |since| vec![Waiter { since, holder: holder("dead") }];
    tenant.shares(0, dead(1));
    for last in 0..6 {
        // Whoever waits from anew is served anew.
        if last == 4 {
            tenant.shares(0, dead(2));
        }
        let begun = 10_000 * (last as u64 + 1);
        tenant.take_back(ip(&format!("10.6.0.{last}")), at(begun));
        for now in (begun..begun + 9_000).step_by(100) {
            for action in wanted(&mut tenant, now) {
                match action {
                    Action::Forget { .. } => tenant.took(at(now), Reply::Forgotten),
                    Action::Get { .. } => tenant.took(at(now), Reply::Seen(shard(now, &texts))),
                    Action::Patch { edits, .. } => {
                        edits.iter().for_each(|edit| texts[edit.slot].clone_from(&edit.to));
                        tenant.took(at(now), Reply::Seen(shard(now, &texts)));
                    }
                    _ => {}
                }
            }
        }
    }
    assert_eq!(texts, ["dead", "", "", "", "dead", ""]);
}
