//! The agent is killed, its store is damaged, and it starts: nothing is forgotten, nothing is given twice, and what was
//! mended is told once.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use tests::runtime::Attachment;

use crate::bench::{Bench, assert_ends};
use crate::dump::Dump;
use crate::node::{eventually, holds, trial};
use crate::ruin::{self, flip, fullest_log, halve, journal, of_journal, store};

/// One kind of damage.
struct Damage {
    name: &'static str,
    /// What is to be done to the files below the state directory.
    act: fn(&Path),
    /// What the agent tells of it; nothing where sled is behind the journal, as after any kill.
    told: &'static [&'static str],
}

const MENDED: &str = "the store was mended";
const ANEW: &str = "sled was made anew from the journal";
const BEGUN: &str = "it was begun anew from sled";

const ALL: [Damage; 9] = [
    Damage { name: "sled_deleted", act: |dir| fs::remove_dir_all(store(dir)).unwrap(), told: &[MENDED, ANEW] },
    Damage {
        name: "file_of_sled_deleted",
        act: |dir| fs::remove_file(store(dir).join("db")).unwrap(),
        told: &[MENDED, "no file db", ANEW, "store.damaged-1"],
    },
    Damage { name: "file_of_sled_flipped", act: |dir| flip(&store(dir).join("db")), told: &[] },
    Damage { name: "file_of_sled_truncated", act: |dir| halve(&store(dir).join("db")), told: &[] },
    Damage {
        name: "file_of_sled_emptied",
        act: |dir| fs::write(store(dir).join("db"), "").unwrap(),
        told: &[MENDED, ANEW, "store.damaged-1"],
    },
    Damage { name: "journal_deleted", act: |dir| fs::remove_dir_all(journal(dir)).unwrap(), told: &[MENDED, BEGUN] },
    Damage { name: "log_deleted", act: |dir| fs::remove_file(fullest_log(dir)).unwrap(), told: &[MENDED, BEGUN] },
    Damage { name: "log_flipped", act: |dir| flip(&fullest_log(dir)), told: &[MENDED, "one of the two copies"] },
    Damage {
        name: "snapshot_flipped",
        act: |dir| of_journal(dir, "snapshot-").iter().for_each(|path| flip(path)),
        told: &[MENDED, "snapshot-", BEGUN],
    },
];

pub(crate) fn trials() -> Vec<Trial> {
    let each = ALL.into_iter().enumerate().map(|(number, damage)| {
        let name = format!("damage::{}", damage.name);
        trial(name, move || {
            let mut bench = Bench::new(&format!("d{number}"), 2);
            let whole = sled_has_caught_up(&bench);
            bench.node.agent.kill().unwrap();
            (damage.act)(&bench.state_dir());
            let is_whole = |copy| alone(&bench, copy).is_ok_and(|found| found.content() == whole.content());
            let is_harmed = !(is_whole(store) && is_whole(journal));
            assert!(is_harmed || !damage.told.is_empty(), "nothing was damaged");
            lives_on(&mut bench, damage.told);
        })
    });
    let further = [
        trial("damage::yesterdays_sled_put_back", yesterdays_sled),
        trial("damage::yesterdays_sled_put_back_behind_the_journals_snapshot", much_older_sled),
        trial("damage::yesterdays_journal_put_back", yesterdays_journal),
        trial("damage::both_copies_damaged", both_damaged),
        trial("damage::both_copies_deleted", both_deleted),
    ];
    each.chain(further).collect()
}

/// What one copy of the store says by itself, without the other; nothing if it cannot be read.
fn alone(bench: &Bench, copy: fn(&Path) -> PathBuf) -> Result<Dump, String> {
    let aside = bench.beside("alone");
    if aside.exists() {
        fs::remove_dir_all(&aside).unwrap();
    }
    let of_state = copy(&bench.state_dir());
    if of_state.exists() {
        ruin::copy(&of_state, &copy(&aside));
    }
    let output = bench.dragline(&["dump", "--state-dir", aside.to_str().unwrap()]);
    holds(output.status.success(), &output)?;
    Ok(Dump::new(String::from_utf8(output.stdout).unwrap()))
}

/// Waits until sled alone holds what was acknowledged, as it does within milliseconds: what happens to the journal in
/// between is the end of both copies.
fn sled_has_caught_up(bench: &Bench) -> Dump {
    eventually("a sled that has caught up", || {
        let (found, wanted) = (alone(bench, store)?, bench.dump());
        holds(found.content() == wanted.content(), &found)?;
        Ok(wanted)
    })
}

/// Starts the agent: it has everything, says what it mended, and serves; and the next one has nothing to say.
fn lives_on(bench: &mut Bench, told: &[&str]) {
    bench.node.agent.restart().unwrap();
    bench.knows_its_pods_and_touches_nothing();
    let warnings = bench.node.warnings();
    let all = warnings.join("\n");
    if told.is_empty() {
        // Behind the journal or cut off: it got from there what it had lost, or was made anew.
        assert!(warnings.iter().all(|warning| warning.contains("store")), "{all}");
    } else {
        assert!(told.iter().all(|word| all.contains(word)), "{told:?}: {all}");
        assert!(bench.node.log().contains(told[told.len() - 1]));
    }
    assert!(!all.contains("lost"), "{all}");
    assert_eq!(bench.metric("store_faults"), warnings.len() as u64);
    serves(bench);
    bench.node.agent.kill().unwrap();
    bench.node.agent.restart().unwrap();
    assert_eq!(bench.node.warnings(), Vec::<String>::new());
    assert_eq!(bench.metric("store_faults"), 0);
    bench.knows_its_pods_and_touches_nothing();
}

/// A new pod gets an address that nobody has, and one that was there can go.
fn serves(bench: &mut Bench) {
    let before = bench.expected();
    let next = bench.attached(120);
    assert!(before.values().all(|addresses| !addresses.contains(&next.address())), "{} of {before:?}", next.address());
    bench.members.push(next);
    let first = bench.members.remove(0);
    bench.leave(first);
    assert_eq!(bench.holders(), bench.expected());
}

/// A bench whose second pod has come after a copy was made of a part of the store.
fn with_copy(name: &str, part: fn(&Path) -> PathBuf) -> Bench {
    let mut bench = Bench::new(name, 1);
    bench.node.agent.terminate().unwrap();
    ruin::copy(&part(&bench.state_dir()), &bench.beside("yesterday"));
    bench.node.agent.restart().unwrap();
    bench.join();
    bench
}

fn yesterdays_sled() {
    let mut bench = with_copy("dy1", store);
    bench.node.agent.kill().unwrap();
    ruin::put_back(&bench.beside("yesterday"), &store(&bench.state_dir()));
    lives_on(&mut bench, &[]);
}

fn much_older_sled() {
    let mut bench = with_copy("dy2", store);
    let snapshot = of_journal(&bench.state_dir(), "snapshot-");
    // Each start begins a log: there come to be so many that a snapshot replaces them.
    for _ in 0..60 {
        bench.node.agent.restart().unwrap();
        if of_journal(&bench.state_dir(), "snapshot-") != snapshot {
            break;
        }
    }
    eventually("another snapshot alone", || {
        let found = of_journal(&bench.state_dir(), "snapshot-");
        holds(found.len() == 1 && found != snapshot, found)
    });
    bench.node.agent.kill().unwrap();
    ruin::put_back(&bench.beside("yesterday"), &store(&bench.state_dir()));
    lives_on(&mut bench, &[MENDED, "the journal does not lead on from there", ANEW, "store.damaged-1"]);
}

fn yesterdays_journal() {
    let mut bench = with_copy("dy3", journal);
    sled_has_caught_up(&bench);
    bench.node.agent.kill().unwrap();
    ruin::put_back(&bench.beside("yesterday"), &journal(&bench.state_dir()));
    lives_on(&mut bench, &[MENDED, BEGUN, "store.damaged-1"]);
}

/// Refused with what to do; DEL succeeds all the same, and is carried out when a dump has been restored.
fn both_damaged() {
    let mut bench = Bench::new("db1", 2);
    let dump = bench.dump();
    bench.node.agent.kill().unwrap();
    let state_dir = bench.state_dir();
    fs::write(store(&state_dir).join("db"), "").unwrap();
    of_journal(&state_dir, "snapshot-").iter().for_each(|path| flip(path));
    // Refused as often as it is tried, and nothing is made up in between.
    for _ in 0..2 {
        assert_ends(
            &bench.agent_that_ends(),
            1,
            &["store", "is damaged", "snapshot-", "restore a dump (`dragline restore`)"],
        );
    }
    let first = bench.members.remove(0);
    bench.node.runtime().del(&bench.conflist, &first.it, Some(&first.result)).unwrap();
    let spooled = fs::read_dir(state_dir.join("spool")).unwrap().count();
    assert!(spooled > 0, "DEL left nothing behind");
    bench.restore(&state_dir, &dump, &[]);
    bench.node.agent.restart().unwrap();
    bench.has_forgotten(&first);
    assert_eq!(bench.holders(), bench.expected());
    assert!(first.pod.netns.scene().unwrap().observe().unwrap().link("net1").is_none());
    eventually("an empty spool", || {
        let left = fs::read_dir(state_dir.join("spool")).unwrap().count();
        holds(left == 0, left)
    });
    assert_eq!(bench.node.warnings(), Vec::<String>::new());
    serves(&mut bench);
}

/// The lock file alone tells that there has been a store: nobody gets an address that a pod still has.
fn both_deleted() {
    let mut bench = Bench::new("db2", 2);
    bench.node.agent.kill().unwrap();
    fs::remove_dir_all(store(&bench.state_dir())).unwrap();
    fs::remove_dir_all(journal(&bench.state_dir())).unwrap();
    bench.node.agent.restart().unwrap();
    assert_eq!(bench.holders().len(), 0);
    let lost = bench.expected();
    let warnings = bench.node.warnings().join("\n");
    assert!(warnings.contains("the store has lost something"), "{warnings}");
    let next = bench.attached(120);
    assert!(lost.values().all(|addresses| !addresses.contains(&next.address())), "{} of {lost:?}", next.address());
    // Nor do they get one later: nobody has found out meanwhile whose these addresses are.
    bench.leave(next);
    bench.node.agent.restart().unwrap();
    let warnings = bench.node.warnings();
    let told =
        |address: &String| warnings.iter().any(|warning| warning.starts_with(&format!("address {address} is in use")));
    assert_eq!(warnings.len(), lost.len(), "{warnings:?}");
    assert!(lost.values().flatten().all(told), "{warnings:?}");
    let next = bench.attached(120);
    assert!(lost.values().all(|addresses| !addresses.contains(&next.address())), "{} of {lost:?}", next.address());
    // What was there is not touched, and can go.
    for member in &bench.members {
        let observed = member.pod.netns.scene().unwrap().observe().unwrap();
        assert!(observed.addresses.iter().any(|found| found.address.ip().to_string() == member.address()));
        bench.node.runtime().del(&bench.conflist, &member.it, Some(&member.result)).unwrap();
    }
    bench.leave(next);
    // A runtime that asks again is answered.
    let member = &bench.members[0];
    let it = Attachment { container: "another".into(), ..member.it.clone() };
    bench.node.runtime().del(&bench.conflist, &it, None).unwrap();
}
