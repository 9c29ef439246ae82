//! Stores and dumps of every format version, kept under `tests/formats`, are opened and brought to today's.
//!
//! `UPDATE=1 cargo test -p store upgrade` writes those of version 0 and of the newest version anew; those of released
//! versions in between are never touched again. A folder per version has `store.tar.gz` (sled and journal, closed) and
//! `dump.jsonl`; what both must be after the upgrade is the newest version's `dump.jsonl`.

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use schemas::intent::{Learned, Outcome, PodRef, Sandbox};
use schemas::lease::Lease;

use super::*;
use crate::dump::dump_offline;
use crate::restore::{RestoreOptions, restore};
use crate::{Change, Store};

const NODE: &str = "node1";
const BOOT: &str = "5d1a3b2e-0000-4000-8000-000000000001";

fn formats() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

fn allocations() -> Vec<Allocation> {
    let allocation = |number: u32| Allocation {
        address: if number.is_multiple_of(3) {
            format!("fd00::{number}").parse().unwrap()
        } else {
            format!("10.6.0.{number}").parse().unwrap()
        },
        pool: "pool".into(),
        owner: AttachmentKey { container: format!("c{number}").parse().unwrap(), ifname: "net1".parse().unwrap() },
        state: AllocationState::Held,
    };
    let mut allocations: Vec<_> = (1..=9).map(allocation).collect();
    allocations.sort_by_key(|allocation| allocation.address);
    allocations
}

/// What each kept store holds, whatever its version.
fn content() -> Change {
    let mut change = Change::new();
    for (number, allocation) in allocations().iter().enumerate() {
        let container = allocation.owner.container.clone();
        let sandbox = Sandbox {
            container,
            netns: None,
            baseline: None,
            auxiliary: None,
            sysctls_before: Vec::new(),
            generation: number as u64,
            outcome: Outcome { generation: 1.min(number as u64), error: "no such device".repeat(number) },
        };
        let attachment = schemas::intent::Attachment {
            key: allocation.owner.clone(),
            network: "macvlan-conf".parse().unwrap(),
            pod: PodRef { namespace: "default".into(), name: format!("pod-{number}"), uid: "uid".into() },
            ordinal: 0,
            generation: number as u64,
            addresses: Vec::new(),
            routes: Vec::new(),
            allocated: true,
            link: None,
            link_wanted: false,
            learned: Learned::default(),
            foreign_link: None,
            coordinate: None,
            uplink: None,
            closing: number % 2 == 1,
            prepared: false,
        };
        change = change.put_sandbox(&sandbox).put_attachment(&attachment).put_allocation(allocation);
    }
    let [first, last] = ["10.6.0.0", "10.6.0.255"].map(|address| address.parse().unwrap());
    let v6 = ["fd00::", "fd00::ffff"].map(|address| address.parse().unwrap());
    let leases = [(first, last), (v6[0], v6[1])];
    let leases = leases.map(|(first, last)| Lease { pool: "pool".into(), first, last, epoch: 2 });
    leases.iter().fold(change, |change, lease| change.put_lease(lease)).put_catalogue("pool/pool", "{\"spec\":{}}")
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn dump_of(path: &Path) -> String {
    let mut text = Vec::new();
    dump_offline(path, now(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn pack(dir: &Path, to: &Path) {
    let status = Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--mtime=@0", "-czf"])
        .arg(to)
        .args(["-C".as_ref(), dir.as_os_str(), "store".as_ref(), "store.journal".as_ref()])
        .status();
    assert!(status.unwrap().success());
}

fn unpack(archive: &Path, dir: &Path) {
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(dir).status();
    assert!(status.unwrap().success());
}

/// Writes the newest version's folder.
fn keep_newest() {
    let folder = formats().join(FORMAT_VERSION.to_string());
    fs::create_dir_all(&folder).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, NODE, BOOT).unwrap();
    store.commit(content()).unwrap();
    store.close();
    pack(dir.path(), &folder.join("store.tar.gz"));
    fs::write(folder.join("dump.jsonl"), dump_of(&path)).unwrap();
}

/// Writes version 0's folder: a store as a dragline of version 0 would have left it.
fn keep_version_0() {
    let folder = formats().join("0");
    fs::create_dir_all(&folder).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, NODE, BOOT).unwrap();
    store.commit(content()).unwrap();
    store.close();
    let dump = dump_of(&path).replace(",\"state\":\"Held\"", "").replacen("\"format\":1", "\"format\":0", 1);
    let (body, _) = dump.trim_end().rsplit_once('\n').unwrap();
    let body = format!("{body}\n");
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&body));
    let lines = body.lines().count();
    fs::write(folder.join("dump.jsonl"), format!("{body}{{\"lines\":{lines},\"sha256\":\"{sha256}\"}}\n")).unwrap();
    // The same records in the old shape, put in as any group is.
    let store = Store::open(&path, NODE, BOOT).unwrap();
    let mut change = Change::new();
    for Allocation { address, pool, owner, .. } in allocations() {
        let old = AllocationV0 { address, pool, owner };
        change.ops.push(crate::change::Op {
            tree: TreeName::Allocations,
            key: trees::allocation_key(address),
            value: Some(codec::encode(&old).unwrap()),
            claim: None,
        });
    }
    change.ops.push(crate::change::Op {
        tree: TreeName::Meta,
        key: trees::META_FORMAT.to_vec(),
        value: Some(codec::encode(&MetaText("0".to_owned())).unwrap()),
        claim: None,
    });
    store.commit(change).unwrap();
    store.close();
    pack(dir.path(), &folder.join("store.tar.gz"));
}

/// A dump without its first and last line: the header's boot and time are those of the opening.
fn records(dump: &str) -> Vec<&str> {
    let lines: Vec<_> = dump.lines().collect();
    lines[1..lines.len() - 1].to_vec()
}

fn versions() -> Vec<u32> {
    let folders = fs::read_dir(formats()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut versions: Vec<u32> = folders.map(|name| name.parse().unwrap()).collect();
    versions.sort_unstable();
    versions
}

#[test]
fn every_format_is_opened_and_brought_to_the_newest() {
    if std::env::var_os("UPDATE").is_some() {
        keep_newest();
        keep_version_0();
    }
    assert_eq!(versions(), (0..=FORMAT_VERSION).collect::<Vec<_>>());
    let newest = fs::read_to_string(formats().join(FORMAT_VERSION.to_string()).join("dump.jsonl")).unwrap();
    for version in versions() {
        let folder = formats().join(version.to_string());
        let dir = tempfile::tempdir().unwrap();
        unpack(&folder.join("store.tar.gz"), dir.path());
        let path = dir.path().join("store");
        let store = Store::open(&path, NODE, BOOT).unwrap();
        assert_eq!(store.meta().format_version, FORMAT_VERSION);
        let mended = &store.recovery().mended;
        assert_eq!(
            mended.iter().any(|text| text.contains("format was brought")),
            version < FORMAT_VERSION,
            "{mended:?}"
        );
        assert_eq!(store.load().unwrap().allocations, allocations(), "version {version}");
        store.close();
        assert_eq!(records(&dump_of(&path)), records(&newest), "version {version}");
        assert!(Store::open(&path, NODE, BOOT).unwrap().recovery().is_empty());

        let other = dir.path().join("other/store");
        let dump = fs::File::open(folder.join("dump.jsonl")).unwrap();
        let options = RestoreOptions { node: NODE.into(), ..RestoreOptions::default() };
        restore(&other, BufReader::new(dump), &options, |_| {}).unwrap();
        assert_eq!(records(&dump_of(&other)), records(&newest), "dump of version {version}");
    }
}

#[test]
fn an_upgrade_that_is_interrupted_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    unpack(&formats().join("0/store.tar.gz"), dir.path());
    let path = dir.path().join("store");
    let journal = path.with_extension("journal");
    // Before the rename that makes it count: an unfinished file, and all else as it was.
    fs::write(journal.join("snapshot-00000002-0000000000000000.new"), b"DLF\x01half").unwrap();
    let store = Store::open(&path, NODE, BOOT).unwrap();
    assert_eq!(store.load().unwrap().allocations, allocations());
    store.close();
    // After it, with the old sled still there and the old logs too.
    let again = tempfile::tempdir().unwrap();
    unpack(&formats().join("0/store.tar.gz"), again.path());
    let published = fs::read_dir(&journal).unwrap().map(|entry| entry.unwrap().path());
    let published: Vec<_> = published.filter(|path| path.to_str().unwrap().contains("snapshot-00000002")).collect();
    let [published] = &published[..] else { panic!("{published:?}") };
    let to = again.path().join("store.journal").join(published.file_name().unwrap());
    fs::copy(published, to).unwrap();
    let store = Store::open(&again.path().join("store"), NODE, BOOT).unwrap();
    assert_eq!(store.load().unwrap().allocations, allocations());
}

#[test]
fn a_damaged_record_stays_damaged_and_hinders_nothing() {
    let record = RawRecord {
        tree: TreeName::Allocations,
        key: trees::allocation_key("10.0.0.1".parse().unwrap()),
        value: b"no envelope".to_vec(),
    };
    assert_eq!(upgraded(record.clone(), 0), Ok(record));
}
