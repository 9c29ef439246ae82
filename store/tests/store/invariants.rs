//! What must hold between records: found when it does not, mended where one answer is right.

use schemas::intent::AllocationState;
use schemas::lease::Lease;
use store::check::{Violation, check, repair};
use store::{Change, Snapshot, Store};

use crate::sample::*;

fn sound() -> Snapshot {
    Snapshot {
        sandboxes: (1..=3).map(sandbox).collect(),
        attachments: (1..=3).map(attachment).collect(),
        allocations: (1..=3).map(allocation).collect(),
        ..Snapshot::default()
    }
}

fn texts(snapshot: &Snapshot) -> Vec<String> {
    check(snapshot).iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_store_has_no_violation() {
    assert_eq!(check(&sound()), []);
    assert_eq!(check(&Snapshot::default()), []);
    // On its way back, an address is still somebody's.
    let mut releasing = sound();
    releasing.attachments[0].allocated = false;
    releasing.allocations[0].state = AllocationState::Releasing;
    assert_eq!(check(&releasing), []);
    let mut leased = sound();
    leased.leases = vec![Lease { pool: "pool".into(), first: address(0), last: address(9), epoch: 1 }];
    assert_eq!(check(&leased), []);
}

#[test]
fn each_violation_is_named() {
    let with = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = sound();
        change(&mut snapshot);
        texts(&snapshot)
    };
    assert_eq!(
        with(&|it| drop(it.attachments.remove(1))),
        ["address 10.0.0.2 is allocated to c0000002/net1, and there is no such attachment"]
    );
    assert_eq!(
        with(&|it| drop(it.allocations.remove(1))),
        ["attachment c0000002/net1 has address 10.0.0.2 of pool pool, which is not allocated"]
    );
    assert_eq!(
        with(&|it| it.attachments[2].addresses = it.attachments[1].addresses.clone()),
        ["address 10.0.0.2 is c0000002/net1's, and attachment c0000003/net1 has it as well"]
    );
    assert_eq!(with(&|it| drop(it.sandboxes.remove(0))), ["attachment c0000001/net1 has no sandbox"]);
    assert_eq!(
        with(&|it| it.attachments[0].generation = 7),
        ["sandbox c0000001 has given generations up to 1, and 7 is there"]
    );
    assert_eq!(
        with(&|it| it.sandboxes[0].outcome.generation = 9),
        ["sandbox c0000001 has given generations up to 1, and 9 is there"]
    );
    let second = |it: &mut Snapshot| {
        let mut second = attachment(1);
        second.key.ifname = "net2".parse().unwrap();
        second.addresses.clear();
        it.attachments.insert(1, second);
    };
    assert_eq!(with(&second), ["attachments c0000001/net1 and c0000001/net2 both have place 0 in their sandbox"]);
    let elsewhere = Lease { pool: "pool".into(), first: address(2), last: address(3), epoch: 1 };
    assert_eq!(
        with(&|it| it.leases = vec![elsewhere.clone()]),
        ["address 10.0.0.1 of pool pool is allocated, and no lease of the pool covers it"]
    );
}

#[test]
fn what_has_one_right_answer_is_mended_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store: Store = open(&dir.path().join("store"));
    (1..=3).for_each(|number| store.commit(put(number)).unwrap());
    let mut ahead = attachment(2);
    ahead.generation = 5;
    let mut twice = attachment(3);
    twice.addresses.extend(attachment(1).addresses);
    let broken = Change::new().put_attachment(&ahead).put_attachment(&twice).delete_allocation(address(2));
    store.commit(broken).unwrap();
    let (change, left) = repair(&store.load().unwrap());
    let [Violation::AddressTwice { owner, also, .. }] = &left[..] else { panic!("{left:?}") };
    assert_eq!((owner, also), (&key(1), &key(3)));
    store.commit(change).unwrap();
    let mended = store.load().unwrap();
    assert_eq!(check(&mended), left);
    assert_eq!(mended.allocations[1], allocation(2));
    assert_eq!(mended.sandboxes[1].generation, 5);
    // Mended, there is nothing more to do.
    assert!(repair(&mended).0.is_empty());
}

#[test]
fn nobody_gets_an_address_that_two_have() {
    let mut snapshot = sound();
    snapshot.allocations.clear();
    snapshot.attachments[1].addresses = snapshot.attachments[0].addresses.clone();
    let (_, left) = repair(&snapshot);
    let contested = |violation: &&Violation| matches!(violation, Violation::AddressTwice { .. });
    assert_eq!(left.iter().filter(contested).count(), 1, "{left:?}");
    assert!(left.iter().any(|violation| matches!(violation, Violation::AddressWithoutAllocation { .. })));
}

#[test]
fn unusable_records_are_kept_in_a_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    store.commit(put(1)).unwrap();
    let now = std::time::SystemTime::now();
    let mut snapshot = store.load().unwrap();
    assert_eq!(store.quarantine(&snapshot, now).unwrap(), 0);
    assert!(!store.quarantine_path().exists());
    let record = |key: &str, value: &[u8]| store::Unreadable {
        tree: store::trees::TreeName::Allocations,
        key: key.into(),
        reason: "malformed: 3 bytes are less than an envelope".into(),
        value: value.to_vec(),
    };
    snapshot.unreadable = vec![record("10.0.0.1", b"abc"), record("10.0.0.2", b"abc")];
    assert_eq!(store.quarantine(&snapshot, now).unwrap(), 2);
    // A crash has cut the last line off.
    let text = std::fs::read_to_string(store.quarantine_path()).unwrap();
    std::fs::write(store.quarantine_path(), &text[..text.len() - 10]).unwrap();
    assert_eq!(store.quarantine(&snapshot, now).unwrap(), 1);
    assert_eq!(store.quarantine(&snapshot, now).unwrap(), 0);
    let text = std::fs::read_to_string(store.quarantine_path()).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(
        text.contains("\"tree\":\"allocations\",\"key\":\"10.0.0.1\"") && text.contains("\"value\":\"616263\""),
        "{text}"
    );
}
