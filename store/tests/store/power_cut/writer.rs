//! The process that is recorded: one life of a writer, from opening the store to its end.
//!
//! It says on standard output how far it is, one write for each line, which strace sees in order with all others:
//! `:try n` before it asks for the change that makes `n`, `:ack n` when it has heard that `n` changes are durable. What a
//! store holds when it has been opened counts as acknowledged: the agent acts on it.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc;

use store::{Limits, Store};

use super::random::Random;
use crate::{sample, traffic};

/// How a life ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The store is closed.
    Close,
    /// The process ends and the store is left as it is.
    Leave,
    /// The same while changes are under way.
    LeaveAtWork,
    /// Killed in its n-th call of that name, or left if there are not as many. Counted in each thread by itself.
    Killed { call: &'static str, number: u32 },
}

/// What the writer is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) seed: u64,
    pub(crate) acknowledged: u64,
    pub(crate) asked: u64,
    pub(crate) turns: u64,
}

/// Where the store is to be; without it there is nothing to do.
pub(crate) const DIR: &str = "DRAGLINE_TEST_POWER_CUT_DIR";
const TASK: &str = "DRAGLINE_TEST_POWER_CUT_TASK";

impl Task {
    /// The environment that tells a writer of it.
    pub(crate) fn environment(&self, end: &End) -> (&'static str, String) {
        let end = match end {
            End::Close => "close",
            End::Leave | End::Killed { .. } => "leave",
            End::LeaveAtWork => "leave-at-work",
        };
        let Self { seed, acknowledged, asked, turns } = self;
        (TASK, format!("{seed} {acknowledged} {asked} {turns} {end}"))
    }
}

/// One line that nobody else's comes into.
pub(crate) fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n:{line}\n").as_bytes()).unwrap();
}

/// Lives one life.
pub(crate) fn live() {
    let dir = std::env::var(DIR).expect("the parent names the store");
    let text = std::env::var(TASK).expect("the parent names the task");
    let words: Vec<_> = text.split(' ').collect();
    let [seed, acknowledged, asked, turns] = [0, 1, 2, 3].map(|at| words[at].parse::<u64>().unwrap());
    // So small that logs are replaced and sled is written anew in the middle of it.
    let limits = Limits { log_bytes: 96 << 10, sled_bytes: 3 << 20 };
    let store = Store::open_with(Path::new(&dir), sample::NODE, sample::BOOT, limits).unwrap();
    let mut turn = traffic::turns_in(&store.load().unwrap(), seed, acknowledged, asked).unwrap();
    say(&format!("ack {turn}"));
    let until = turn + turns;
    while turn < until {
        // Mostly one after another, sometimes so many that they share a sync.
        let mut random = Random::new(seed ^ turn);
        let burst = if random.percent(90) { 1 } else { 2 + random.below(6) as u64 };
        let burst = burst.min(until - turn);
        ask(&store, seed, turn, burst).into_iter().for_each(|answer| answer.recv().unwrap());
        turn += burst;
    }
    match words[4] {
        "close" => store.close(),
        "leave" => std::process::exit(0),
        "leave-at-work" => {
            let answers = ask(&store, seed, turn, 4);
            // The first one may be alone: then the others are being written now.
            answers[0].recv().unwrap();
            std::process::exit(0);
        }
        other => panic!("{other:?}"),
    }
}

/// Asks for some changes at once; each answer comes when that one is durable and that has been said.
fn ask(store: &Store, seed: u64, turn: u64, number: u64) -> Vec<mpsc::Receiver<()>> {
    let ask = |turn| {
        let (sender, receiver) = mpsc::channel();
        say(&format!("try {}", turn + 1));
        store.submit(traffic::change(seed, turn), move |answer| {
            answer.unwrap();
            say(&format!("ack {}", turn + 1));
            // When the process ends at work nobody listens.
            let _ = sender.send(());
        });
        receiver
    };
    (turn..turn + number).map(ask).collect()
}
