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
        prepared: false,
    }
}

fn records(number: usize) -> SandboxRecords {
    let attachment = attachment(number);
    let attachments = [(attachment.key.ifname.clone(), attachment)].into();
    SandboxRecords { sandbox: sandbox(number), attachments }
}

/// A history with what of it is in the store.
#[derive(Default)]
struct Book {
    history: History,
    stored: BTreeMap<(ContainerId, u64), HistoryEntry>,
}

impl Book {
    fn commit(&mut self, number: usize, before: Option<&SandboxRecords>, update: &Update) -> Vec<HistoryEvent> {
        let told = self.history.tell(&sandbox(number).container, before, update, SystemTime::now());
        let events = told.put.iter().map(|entry| entry.event.clone()).collect();
        self.publish(told);
        events
    }

    fn publish(&mut self, told: Telling) {
        self.stored.extend(told.put.iter().map(|entry| ((entry.container.clone(), entry.number), entry.clone())));
        // Those that end together may name the same one.
        told.deleted.iter().for_each(|gone| drop(self.stored.remove(gone)));
        self.history.publish(told);
        let known = self.history.entries.iter();
        let known = known.flat_map(|(container, told)| told.numbers.iter().map(|number| (container.clone(), *number)));
        assert!(self.stored.keys().cloned().eq(known));
    }
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
    let mut book = Book::default();
    let put = Update { sandbox: Some(sandbox(1)), put: vec![attachment(1)], ..Update::default() };
    let ifname: schemas::name::IfName = "net1".parse().unwrap();
    let intended = HistoryEvent::Intended { ifname: ifname.clone(), wanted: "network macvlan-conf".into() };
    assert_eq!(book.commit(1, None, &put), [intended]);
    let before = records(1);
    // The same again is nothing to tell.
    assert_eq!(book.commit(1, Some(&before), &put), []);
    let [HistoryEvent::Repaired { steps }] = &book.commit(1, Some(&before), &repaired())[..] else { panic!() };
    assert_eq!((steps.len(), steps[STEPS].as_str()), (STEPS + 1, "and 24 more"));
    let failed = Some(Steps { steps: Vec::new(), is_repair: false, error: "x".repeat(5000) });
    let failed = Update { sandbox: Some(sandbox(1)), told: failed, ..Update::default() };
    let [HistoryEvent::Failed { error }] = &book.commit(1, Some(&before), &failed)[..] else { panic!() };
    assert_eq!(error.chars().count(), TEXT + 1);
    let closing = Update { put: vec![Attachment { closing: true, ..attachment(1) }], ..put };
    assert_eq!(book.commit(1, Some(&before), &closing), [HistoryEvent::Withdrawn { ifname }]);
    assert_eq!(book.commit(1, Some(&before), &ended()), [HistoryEvent::Ended]);
    assert!(book.stored.keys().map(|(_, number)| *number).eq([1, 2, 3, 4, 5]));
    assert!(book.stored.values().all(|entry| entry.pod == "default/pod-1"));
}

#[test]
fn it_stays_bounded_and_says_what_goes() {
    let mut book = Book::default();
    let before = records(1);
    for _ in 0..100 {
        book.commit(1, Some(&before), &repaired());
        assert!(book.stored.len() <= ENTRIES);
    }
    for number in 0..2 * ENDED {
        book.commit(number, Some(&records(number)), &ended());
        assert!(book.stored.len() <= ENTRIES + ENDED);
    }
    // Loaded again it goes on where it was.
    let mut again = Book { history: History::load(book.stored.values().cloned().collect(), |_| false), ..book };
    assert_eq!(again.history.ended.len(), ENDED);
    again.commit(1, Some(&before), &repaired());
}

#[test]
fn sandboxes_that_end_at_the_same_time_are_forgotten_too() {
    let mut book = Book::default();
    for together in 0..100 {
        let end = |number: usize| {
            book.history.tell(&sandbox(number).container, Some(&records(number)), &ended(), SystemTime::now())
        };
        let told: Vec<Telling> = (together * 16..(together + 1) * 16).map(end).collect();
        told.into_iter().for_each(|told| book.publish(told));
        assert!(book.history.ended.len() <= ENDED + FORGOTTEN, "{} after {together}", book.history.ended.len());
    }
}
