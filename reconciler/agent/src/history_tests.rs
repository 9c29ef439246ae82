//! What is told, and that it stays bounded.

use schemas::intent::{Learned, Outcome, PodRef, Sandbox};
use schemas::name::AttachmentKey;

use super::*;
use crate::ledger::Steps;

fn sandbox(number: usize) -> Sandbox {
    Sandbox {
        container: format!("c{number}").parse().unwrap(),
        netns: None,
        baseline: None,
        auxiliary: None,
        sysctls_before: Vec::new(),
        generation: 3,
        outcome: Outcome::default(),
    }
}

fn attachment(number: usize) -> Attachment {
    Attachment {
        key: AttachmentKey { container: sandbox(number).container, ifname: "net1".parse().unwrap() },
        network: "macvlan-conf".parse().unwrap(),
        pod: PodRef { namespace: "default".into(), name: format!("pod-{number}"), uid: String::new() },
        ordinal: 0,
        generation: 3,
        addresses: Vec::new(),
        routes: Vec::new(),
        allocated: true,
        link: None,
        link_wanted: false,
        learned: Learned::default(),
        foreign_link: None,
        coordinate: None,
        uplink: None,
        closing: false,
    }
}

fn records(number: usize) -> SandboxRecords {
    let attachment = attachment(number);
    let attachments = [(attachment.key.ifname.clone(), attachment)].into();
    SandboxRecords { sandbox: sandbox(number), attachments }
}

fn commit(history: &mut History, number: usize, before: Option<&SandboxRecords>, update: &Update) -> Vec<HistoryEvent> {
    let told = history.tell(&sandbox(number).container, before, update, SystemTime::now());
    let events = told.put.iter().map(|entry| entry.event.clone()).collect();
    history.publish(told);
    events
}

fn ended() -> Update {
    Update::default()
}

fn repaired() -> Update {
    let steps = (0..40).map(|number| format!("ip rule add pref {number}")).collect();
    let told = Some(Steps { steps, is_repair: true, error: String::new() });
    Update { sandbox: Some(sandbox(1)), told, ..Update::default() }
}

#[test]
fn a_life_is_told_in_order() {
    let mut history = History::default();
    let put = Update { sandbox: Some(sandbox(1)), put: vec![attachment(1)], ..Update::default() };
    let ifname: schemas::name::IfName = "net1".parse().unwrap();
    let intended = HistoryEvent::Intended { ifname: ifname.clone(), wanted: "network macvlan-conf".into() };
    assert_eq!(commit(&mut history, 1, None, &put), [intended]);
    let before = records(1);
    // The same again is nothing to tell.
    assert_eq!(commit(&mut history, 1, Some(&before), &put), []);
    let [HistoryEvent::Repaired { steps }] = &commit(&mut history, 1, Some(&before), &repaired())[..] else { panic!() };
    assert_eq!((steps.len(), steps[STEPS].as_str()), (STEPS + 1, "and 24 more"));
    let failed = Some(Steps { steps: Vec::new(), is_repair: false, error: "x".repeat(5000) });
    let failed = Update { sandbox: Some(sandbox(1)), told: failed, ..Update::default() };
    let [HistoryEvent::Failed { error }] = &commit(&mut history, 1, Some(&before), &failed)[..] else { panic!() };
    assert_eq!(error.chars().count(), TEXT + 1);
    let closing = Update { put: vec![Attachment { closing: true, ..attachment(1) }], ..put };
    assert_eq!(commit(&mut history, 1, Some(&before), &closing), [HistoryEvent::Withdrawn { ifname }]);
    assert_eq!(commit(&mut history, 1, Some(&before), &ended()), [HistoryEvent::Ended]);
    let entries = history.entries();
    assert_eq!(entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(entries.iter().all(|entry| entry.pod == "default/pod-1" || entry.number == 2 || entry.number == 3));
}

#[test]
fn it_stays_bounded_and_says_what_goes() {
    let mut history = History::default();
    let before = records(1);
    let mut stored = std::collections::BTreeSet::new();
    let mut note = |history: &mut History, told: Told| {
        stored.extend(told.put.iter().map(|entry| (entry.container.clone(), entry.number)));
        told.deleted.iter().for_each(|gone| assert!(stored.remove(gone)));
        history.publish(told);
        stored.len()
    };
    for _ in 0..100 {
        let told = history.tell(&before.sandbox.container, Some(&before), &repaired(), SystemTime::now());
        assert!(note(&mut history, told) <= ENTRIES);
    }
    for number in 0..2 * ENDED {
        let told = history.tell(&sandbox(number).container, Some(&records(number)), &ended(), SystemTime::now());
        assert!(note(&mut history, told) <= ENTRIES + ENDED);
    }
    let entries = history.entries();
    assert_eq!(entries.len(), stored.len());
    // Loaded again it goes on where it was.
    let again = History::load(entries.clone(), |_| false);
    assert_eq!(again.ended.len(), ENDED);
    assert_eq!(again.entries().len(), entries.len());
}

#[test]
fn sandboxes_that_end_at_the_same_time_are_forgotten_too() {
    let mut history = History::default();
    let mut stored = std::collections::BTreeSet::new();
    for together in 0..100 {
        let end = |number: usize| {
            history.tell(&sandbox(number).container, Some(&records(number)), &ended(), SystemTime::now())
        };
        let told: Vec<Told> = (together * 16..(together + 1) * 16).map(end).collect();
        for told in told {
            stored.extend(told.put.iter().map(|entry| (entry.container.clone(), entry.number)));
            // Those that end together may name the same one.
            stored.retain(|entry| !told.deleted.contains(entry));
            history.publish(told);
        }
        assert!(history.ended.len() <= ENDED + FORGOTTEN, "{} after {together}", history.ended.len());
        assert_eq!(history.entries().len(), stored.len());
    }
}
