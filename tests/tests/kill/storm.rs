//! The kills.

use std::sync::{Condvar, Mutex, RwLock};
use std::thread;
use std::time::Instant;

use libtest_mimic::Trial;

use crate::bench::{Bench, PATIENCE, caller};
use crate::dice::Dice;
use crate::lane::Lane;

/// Kills, unless `DRAGLINE_KILLS` says otherwise.
const KILLS: usize = 200;
const CHAIN_LANES: u8 = 4;
const IPAM_LANES: u8 = 3;
/// The longest that traffic runs before a kill, in milliseconds.
const LONGEST_RUN: usize = 120;
/// The longest that an agent may live that is killed while it starts, in milliseconds.
const LONGEST_START: usize = 30;

pub(crate) fn trials() -> Vec<Trial> {
    vec![crate::trial("storm::what_was_acknowledged_survives_kills_at_any_moment", survives)]
}

/// How the lanes hear what becomes of the agent.
#[derive(Default)]
struct Signals {
    /// Lanes act under a share of it; who has it alone has silence.
    traffic: RwLock<()>,
    /// How often the agent was started, and whether all is over.
    starts: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Signals {
    fn started(&self) {
        self.starts.lock().unwrap().0 += 1;
        self.changed.notify_all();
    }

    fn finish(&self) {
        self.starts.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn starts(&self) -> (usize, bool) {
        *self.starts.lock().unwrap()
    }

    fn wait_for_start_after(&self, seen: usize) {
        let starts = self.starts.lock().unwrap();
        drop(self.changed.wait_while(starts, |(starts, is_over)| *starts == seen && !*is_over).unwrap());
    }
}

fn survives() {
    let kills = std::env::var("DRAGLINE_KILLS").map_or(KILLS, |text| text.parse().expect("DRAGLINE_KILLS: a number"));
    let seed = Dice::seed();
    eprintln!("kill: {kills} kills, seed {seed} (DRAGLINE_KILLS, DRAGLINE_SEED)");
    let started = Instant::now();
    let mut dice = Dice::new(seed);
    let mut bench = Bench::new("storm");
    let lanes: Vec<Mutex<Lane>> = bench.lanes(CHAIN_LANES, IPAM_LANES).into_iter().map(Mutex::new).collect();
    let signals = Signals::default();
    // The bench's own parts, so that its agent stays free to be killed.
    let state = bench.state_dir().to_owned();
    let Bench { scene, agent, book, .. } = &mut bench;
    let (scene, book) = (&*scene, &*book);
    let mut during_start = 0;
    let failure = thread::scope(|scope| {
        for lane in &lanes {
            let (signals, state, mut dice) = (&signals, &state, dice.split());
            scope.spawn(move || run(lane, &caller(scene, book, state), signals, &mut dice));
        }
        let mut done = 0;
        let mut failure = None;
        while done < kills && failure.is_none() {
            thread::sleep(dice.up_to_ms(LONGEST_RUN));
            agent.kill().unwrap();
            done += 1;
            while done < kills && dice.one_in(3) {
                agent.launch().unwrap();
                signals.started();
                thread::sleep(dice.up_to_ms(LONGEST_START));
                agent.kill().unwrap();
                done += 1;
                during_start += 1;
            }
            if let Err(error) = agent.restart() {
                failure = Some(format!("after kill {done} the agent does not come up: {error}"));
                break;
            }
            signals.started();
            let wrong = {
                let _silence = signals.traffic.write().unwrap();
                let lanes: Vec<_> = lanes.iter().map(|lane| lane.lock().unwrap()).collect();
                let lanes: Vec<&Lane> = lanes.iter().map(|lane| &**lane).collect();
                let judged = crate::bench::judge(agent, book, &state, &lanes, PATIENCE);
                judged.into_iter().chain(book.pages().complaints.drain(..)).collect::<Vec<_>>()
            };
            if !wrong.is_empty() {
                failure = Some(format!("after kill {done}:\n{}\nlog:\n{}", wrong.join("\n"), agent.log_end()));
            }
        }
        signals.finish();
        failure
    });
    assert!(failure.is_none(), "seed {seed}: {}", failure.unwrap_or_default());
    let log = std::fs::read_to_string(&agent.settings().log).unwrap();
    let by_spool = log.lines().filter(|line| line.contains("withdrawal taken from the spool")).count();
    withdraw_all(&bench, lanes);
    let pages = bench.book.pages();
    eprintln!(
        "kill: {kills} kills ({during_start} of them while the agent started) in {:.0?}: {} ADDs and {} DELs acknowledged, \
         {by_spool} of the DELs by the spool, {} ADDs not answered",
        started.elapsed(),
        pages.added,
        pages.deleted,
        pages.failed,
    );
    // Otherwise the kills hit an idle agent.
    assert!(pages.added > kills && pages.deleted > kills, "there was hardly any traffic");
    assert!(kills < 20 || (by_spool > 0 && during_start > 0 && pages.failed > 0), "no kill hit anything");
}

/// One lane's thread.
fn run(lane: &Mutex<Lane>, caller: &crate::lane::Caller<'_>, signals: &Signals, dice: &mut Dice) {
    loop {
        let (seen, is_over) = signals.starts();
        if is_over {
            return;
        }
        let is_served = {
            let _traffic = signals.traffic.read().unwrap();
            lane.lock().unwrap().step(caller, dice)
        };
        // A runtime tries again later; some of the calls go on hitting the gap.
        if !is_served && !dice.one_in(4) {
            signals.wait_for_start_after(seen);
        }
    }
}

/// In the end every DEL is answered, every address is back and every pod is as it was.
fn withdraw_all(bench: &Bench, lanes: Vec<Mutex<Lane>>) {
    let mut lanes: Vec<Lane> = lanes.into_iter().map(|lane| lane.into_inner().unwrap()).collect();
    let caller = caller(&bench.scene, &bench.book, bench.state_dir());
    lanes.iter_mut().for_each(|lane| lane.withdraw(&caller));
    let wrong = bench.judge(&lanes.iter().collect::<Vec<_>>(), PATIENCE);
    assert!(wrong.is_empty(), "after the last DEL:\n{}", wrong.join("\n"));
    assert_eq!(bench.agent.list("attachments").unwrap(), Vec::<serde_json::Value>::new());
    for pool in bench.agent.list("ippools").unwrap() {
        assert_eq!(pool["status"]["allocatedIPCount"], 0, "{pool}");
    }
    let node = bench.scene.worker.scene().unwrap().observe().unwrap();
    assert!(!node.rules.iter().any(plan::ownership::is_our_rule), "rules are left on the node: {:?}", node.rules);
}
