//! Dumps: the store as text and back, byte for byte; and everything that is refused.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use schemas::history::{HistoryEntry, HistoryEvent};
use schemas::intent::*;
use schemas::lease::Lease;
use store::restore::{RestoreError, RestoreOptions, restore};
use store::{Change, Store};

use crate::sample::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn later() -> SystemTime {
    now() + Duration::from_secs(60)
}

fn text_of(store: &Store, when: SystemTime) -> String {
    let mut text = Vec::new();
    store.dump(when, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn offline(path: &Path, when: SystemTime) -> String {
    let mut text = Vec::new();
    let dumped = store::dump::dump_offline(path, when, &mut text).unwrap();
    assert_eq!(dumped.damaged, Vec::<String>::new());
    String::from_utf8(text).unwrap()
}

fn ours() -> RestoreOptions {
    RestoreOptions { node: NODE.into(), ..Default::default() }
}

fn put_back(path: &Path, text: &str, options: &RestoreOptions) -> Result<(), RestoreError> {
    restore(path, BufReader::new(text.as_bytes()), options, |_| {}).map(drop)
}

/// A store with something of each tree.
fn filled(dir: &Path) -> (PathBuf, Store) {
    let path = dir.join("store");
    let store = open(&path);
    (1..=20).for_each(|number| store.commit(put(number)).unwrap());
    let lease = Lease { pool: "pool".into(), first: address(0), last: address(200), epoch: 3 };
    let entry = HistoryEntry {
        container: container(3),
        number: 1,
        time_ms: 12,
        generation: 1,
        pod: "default/pod-3".into(),
        event: HistoryEvent::Applied { steps: vec!["ip route add \"quoted\" \u{1f577}".into()] },
    };
    let rest = Change::new().put_lease(&lease).put_history(&entry).put_catalogue("pool/p/\u{e4}\0", "{\"spec\": \n1}");
    store.commit(rest).unwrap();
    (path, store)
}

#[test]
fn what_is_restored_dumps_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, store) = filled(dir.path());
    let online = text_of(&store, now());
    store.close();
    assert_eq!(offline(&path, now()), online);
    let other = dir.path().join("other/store");
    put_back(&other, &online, &ours()).unwrap();
    // Its time is that of the dump, as long as nothing has changed.
    assert_eq!(offline(&other, later()), online);
    let again = open(&other);
    assert_eq!(text_of(&again, later()), online);
    assert!(again.recovery().is_empty(), "{:?}", again.recovery());
    again.commit(put(99)).unwrap();
    assert!(text_of(&again, later()).contains("\"time\":\"2023-11-14T22:14:20.000Z\""));
    // Over a store that holds something else.
    drop(again);
    put_back(&other, &online, &ours()).unwrap();
    assert_eq!(offline(&other, later()), online);
    assert_eq!(open(&other).load().unwrap(), open(&path).load().unwrap());
}

/// `DRAGLINE_DUMP_ATTACHMENTS` says how large.
#[test]
fn a_large_store_is_restored_to_the_same_bytes() {
    let wanted = std::env::var("DRAGLINE_DUMP_ATTACHMENTS").map_or(100_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    for first in (0..wanted).step_by(4000) {
        (first..wanted.min(first + 4000)).for_each(|number| store.submit(put(number), |answer| answer.unwrap()));
        // As many as the queue takes, then all of them durable.
        store.commit(Change::new().put_catalogue("so far", &first.to_string())).unwrap();
    }
    let text = text_of(&store, now());
    assert_eq!(text.lines().count() as u32, 3 * wanted + 3);
    let other = dir.path().join("other/store");
    put_back(&other, &text, &ours()).unwrap();
    assert!(offline(&other, later()) == text, "it is not the same");
}

#[test]
fn a_dump_is_one_instant_while_commits_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store"));
    (0..2000).for_each(|number| store.submit(put(number), |answer| answer.unwrap()));
    store.commit(put(2000)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::SeqCst) {
                    break;
                }
                // Whole intents come and go at both ends of the keys.
                store.commit(delete(number % 2000)).unwrap();
                store.commit(put(number % 2000)).unwrap();
                store.commit(put(5000 + number)).unwrap();
            }
        });
        for _ in 0..10 {
            let text = text_of(&store, now());
            let other = dir.path().join("other/store");
            // A contradiction would be refused: half an intent, or an attachment without its address.
            put_back(&other, &text, &ours()).unwrap();
            let snapshot = open(&other).load().unwrap();
            assert_eq!(snapshot.attachments.len(), snapshot.allocations.len());
            assert_eq!(snapshot.attachments.len(), snapshot.sandboxes.len());
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}

#[test]
fn dumps_that_are_not_whole_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, store) = filled(dir.path());
    let text = text_of(&store, now());
    store.close();
    let there = dir.path().join("there/store");
    put_back(&there, &text, &ours()).unwrap();
    let refused = |text: &str, options: &RestoreOptions| {
        let error = put_back(&there, text, options).unwrap_err().to_string();
        assert_eq!(offline(&there, now()), offline(&path, now()), "{error}");
        error
    };
    let starts = |error: String, start: &str| assert!(error.starts_with(start), "{error}");
    for end in [0, 1, text.len() / 2, text.len() - 1] {
        let error = refused(&text[..end], &ours());
        assert!(error.contains("cut off") || error.starts_with("line "), "{error}");
    }
    let lines: Vec<&str> = text.lines().collect();
    let without = |number: usize| {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != number).map(|(_, line)| *line);
        kept.collect::<Vec<_>>().join("\n") + "\n"
    };
    starts(refused(&without(lines.len() - 1), &ours()), "the dump is cut off after line ");
    starts(refused(&without(4), &ours()), "the dump is not as it was written: its SHA-256 is ");
    starts(refused(&text.replace("pod-7", "pod-8"), &ours()), "the dump is not as it was written: its SHA-256 is ");
    starts(refused(&without(0), &ours()), "line 1 of the dump: it is no dump of dragline");
    starts(refused(&format!("{text}{{}}\n"), &ours()), &format!("line {} of the dump: it follows", lines.len() + 1));
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    starts(refused(&(swapped.join("\n") + "\n"), &ours()), "line 5 of the dump: it does not stand in the order");
    starts(refused(&text.replacen("\"format\":1", "\"format\":7", 1), &ours()), "the dump has format version 7");
    starts(refused("ELF\n", &ours()), "line 1 of the dump: it is no dump");
    starts(refused(&"x".repeat(2 << 20), &ours()), "line 1 of the dump: it is longer");
    starts(refused(&text.replace("10.0.0.7\"", "10.0.0.777\""), &ours()), "line ");
    let elsewhere = RestoreOptions { node: "node2".into(), ..Default::default() };
    starts(refused(&text, &elsewhere), "the dump is of node \"node1\", and this is node \"node2\"");
    // Edited on purpose: two attachments with one address are still refused.
    let edited = RestoreOptions { recompute_checksum: true, ..ours() };
    let twice = text.replace("\"address\":\"10.0.0.8/16\"", "\"address\":\"10.0.0.7/16\"");
    starts(refused(&twice, &edited), "the dump contradicts itself: address 10.0.0.7 is ");
    let error = refused("", &ours());
    starts(error, "the dump is cut off after line 0");
}

#[test]
fn an_edited_dump_is_taken_on_purpose_and_another_nodes_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let (path, store) = filled(dir.path());
    let text = text_of(&store, now());
    store.close();
    let edited = text.replace("\"pod-7\"", "\"pod-seven\"");
    put_back(&path, &edited, &RestoreOptions { recompute_checksum: true, ..ours() }).unwrap();
    let snapshot = open(&path).load().unwrap();
    assert_eq!(snapshot.attachments[6].pod.name, "pod-seven");
    let other = dir.path().join("other/store");
    let force = RestoreOptions { node: "node2".into(), force: true, ..Default::default() };
    put_back(&other, &text, &force).unwrap();
    let store = Store::open(&other, "node2", BOOT).unwrap();
    assert_eq!(store.load().unwrap().attachments.len(), 20);
}

#[test]
fn a_store_in_use_is_not_restored_and_not_dumped_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, store) = filled(dir.path());
    let text = text_of(&store, now());
    let error = put_back(&path, &text, &ours()).unwrap_err().to_string();
    assert!(error.contains("is in use by process"), "{error}");
    let error = store::dump::dump_offline(&path, now(), std::io::sink()).unwrap_err().to_string();
    assert!(error.contains("is in use by process"), "{error}");
}

#[test]
fn a_store_without_a_whole_copy_dumps_what_is_whole_and_says_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (path, store) = filled(dir.path());
    store.close();
    // sled is gone, and in the snapshot and the logs each group but the last has lost both copies.
    std::fs::remove_dir_all(&path).unwrap();
    for entry in std::fs::read_dir(path.with_extension("journal")).unwrap() {
        let file = entry.unwrap().path();
        let mut content = std::fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("snapshot") {
            content[60] ^= 1;
        }
        std::fs::write(&file, content).unwrap();
    }
    let error = Store::open(&path, NODE, BOOT).unwrap_err().to_string();
    assert!(error.contains("has no whole snapshot"), "{error}");
    let mut text = Vec::new();
    let dumped = store::dump::dump_offline(&path, now(), &mut text).unwrap();
    assert!(!dumped.damaged.is_empty());
    assert_eq!(dumped.counts.attachments, 20);
    let text = String::from_utf8(text).unwrap();
    let error = put_back(&path, &text, &ours()).unwrap_err().to_string();
    assert!(error.contains("damaged store") || error.contains("is of node"), "{error}");
    put_back(&path, &text, &RestoreOptions { force: true, ..ours() }).unwrap();
    assert_eq!(open(&path).load().unwrap().attachments.len(), 20);
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9.-]{0,20}", any::<String>().prop_map(|text| text.chars().take(40).collect())]
}

prop_compose! {
    fn attachments()(
        number in 0_u32..3000,
        texts in prop::array::uniform3(texts()),
        v6: u128,
        flags: [bool; 4],
        cidrs in prop::collection::vec((any::<std::net::IpAddr>(), 0_u8..=32), 0..4),
        error in texts(),
    ) -> (Sandbox, Attachment, Vec<Allocation>) {
        let (mut sandbox, mut attachment) = (sandbox(number), attachment(number));
        let [namespace, name, uid] = texts;
        attachment.pod = PodRef { namespace, name, uid };
        attachment.generation = u64::from(number);
        sandbox.generation = u64::from(number);
        sandbox.outcome = Outcome { generation: u64::from(number), error };
        if flags[0] {
            sandbox.baseline = None;
            sandbox.netns = None;
        }
        attachment.closing = flags[1];
        let networks = cidrs.into_iter().filter_map(|(address, prefix)| ipnetwork::IpNetwork::new(address, prefix).ok());
        attachment.routes = networks.map(|dst| RouteIntent { dst, gateway: flags[2].then(|| dst.ip()) }).collect();
        let mut allocations = vec![allocation(number)];
        if flags[3] {
            let address = std::net::Ipv6Addr::from(v6 & !0xffff_ffff | u128::from(number)).into();
            allocations.push(Allocation { address, state: AllocationState::Releasing, ..allocation(number) });
        }
        (sandbox, attachment, allocations)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn dump_restore_dump_is_the_same(
        intents in prop::collection::vec(attachments(), 0..60),
        catalogue in prop::collection::btree_map(texts(), texts(), 0..10),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store"));
        for (sandbox, attachment, allocations) in &intents {
            let change = Change::new().put_sandbox(sandbox).put_attachment(attachment);
            let change = allocations.iter().fold(change, |change, allocation| change.put_allocation(allocation));
            // Two of one number may want the same address.
            let _ = store.commit(change);
        }
        let texts = catalogue.iter().fold(Change::new(), |change, (key, text)| change.put_catalogue(key, text));
        store.commit(texts).unwrap();
        let text = text_of(&store, now());
        let other = dir.path().join("other/store");
        put_back(&other, &text, &RestoreOptions { force: true, ..ours() }).unwrap();
        prop_assert_eq!(offline(&other, later()), text);
        prop_assert_eq!(open(&other).load().unwrap(), store.load().unwrap());
    }

    #[test]
    fn no_text_panics(text in ".*", cut in 0_usize..4000, flips in prop::collection::vec((0_usize..20_000, any::<u8>()), 1..4)) {
        static WHOLE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
            let dir = tempfile::tempdir().unwrap();
            let (_, store) = filled(dir.path());
            text_of(&store, now())
        });
        let any = RestoreOptions { force: true, recompute_checksum: true, ..ours() };
        let read = |bytes: &[u8]| store::restore::read_dump(BufReader::new(bytes), &any);
        let _ = read(text.as_bytes());
        let header = WHOLE.lines().next().unwrap();
        let headed = format!("{header}\n{text}\n");
        prop_assert!(read(headed.as_bytes()).is_err());
        prop_assert!(read(&WHOLE.as_bytes()[..cut.min(WHOLE.len() - 1)]).is_err());
        let mut flipped = WHOLE.clone().into_bytes();
        let end = flipped.len();
        flips.iter().for_each(|(at, with)| flipped[at % end] ^= with);
        let _ = read(&flipped);
        let strict = store::restore::read_dump(BufReader::new(flipped.as_slice()), &ours());
        prop_assert_eq!(strict.is_ok(), flipped == WHOLE.as_bytes());
    }
}
