//! The judge is no rubber stamp: what it stands guard over is taken away behind the agent's back, and it must say so.

use std::fs;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::bench::{Bench, PATIENCE, caller, spooled};
use crate::book::Claim;
use crate::lane::{Caller, Lane};

/// What has been thrown away does not come back: there is nothing to wait for.
const NO_PATIENCE: Duration = Duration::ZERO;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        crate::trial("sabotage::a_lost_store_is_noticed", lost_store),
        crate::trial("sabotage::lost_withdrawals_are_noticed", lost_withdrawals),
        crate::trial("sabotage::lost_rules_are_noticed", lost_rules),
    ]
}

/// Two pods and two IPAM callers, all of them there.
fn filled(name: &str) -> (Bench, Vec<Lane>) {
    let bench = Bench::new(name);
    let mut lanes = bench.lanes(2, 2);
    let caller = caller(&bench.scene, &bench.book, bench.state_dir());
    for lane in &mut lanes {
        assert!(add(lane, &caller), "{:?}", bench.book.pages().complaints);
    }
    assert_eq!(bench.judge(&lanes.iter().collect::<Vec<_>>(), PATIENCE), Vec::<String>::new());
    (bench, lanes)
}

fn add(lane: &mut Lane, caller: &Caller<'_>) -> bool {
    match lane {
        Lane::Chain(lane) => lane.add(caller),
        Lane::Ipam(lane) => lane.add_new(caller),
    }
}

fn lost_store() {
    let (mut bench, mut lanes) = filled("lost-store");
    bench.agent.kill().unwrap();
    // Both copies, and the file that tells that there has been a store.
    for copy in ["store", "store.journal"] {
        fs::remove_dir_all(bench.state_dir().join(copy)).unwrap();
    }
    fs::remove_file(bench.state_dir().join("store.lock")).unwrap();
    bench.agent.restart().unwrap();
    let wrong = bench.judge(&lanes.iter().collect::<Vec<_>>(), NO_PATIENCE);
    assert_eq!(wrong.iter().filter(|text| text.contains("is lost")).count(), 4, "{wrong:?}");
    // Whoever forgets gives addresses twice.
    let caller = caller(&bench.scene, &bench.book, bench.state_dir());
    lanes.iter_mut().filter(|lane| matches!(lane, Lane::Ipam(_))).for_each(|lane| assert!(add(lane, &caller)));
    let complaints = bench.book.pages().complaints.clone();
    assert!(complaints.iter().any(|text| text.contains("was given to")), "{complaints:?}");
}

fn lost_withdrawals() {
    let (mut bench, mut lanes) = filled("lost-spool");
    bench.agent.kill().unwrap();
    let caller = caller(&bench.scene, &bench.book, bench.state_dir());
    lanes.iter_mut().for_each(|lane| lane.withdraw(&caller));
    assert!(bench.book.pages().claims.values().all(|claim| *claim == Claim::Withdrawn));
    let files = spooled(bench.state_dir());
    // Two withdrawals of a chain, one of IPAM.
    assert_eq!(files.len(), 6, "{files:?}");
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    bench.agent.restart().unwrap();
    let wrong = bench.judge(&lanes.iter().collect::<Vec<_>>(), NO_PATIENCE);
    assert_eq!(wrong.iter().filter(|text| text.contains("is still there")).count(), 4, "{wrong:?}");
}

fn lost_rules() {
    let (mut bench, lanes) = filled("lost-rules");
    bench.agent.kill().unwrap();
    let Some(Lane::Chain(lane)) = lanes.first() else { panic!("the first lane is a chain's") };
    let pod = lane.pod.as_ref().unwrap();
    pod.netns.scene().unwrap().flush_rules().unwrap();
    let claim = bench.book.claim(&lane.key());
    let wrong = crate::judge::in_kernel(&lane.key(), claim.as_ref(), pod);
    assert!(wrong.iter().any(|text| text.contains("0 rules")), "{wrong:?}");
}
