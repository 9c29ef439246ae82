//! Replays a recording and has states checked, spread over its whole length.

use std::collections::HashSet;
use std::sync::{Mutex, mpsc};

use super::check::{Case, Checker, Findings};
use super::disk::{Disk, Effect};
use super::random::Random;
use super::record::{Recording, Step};
use super::states::crash;

/// How many states are opened at once.
const CHECKERS: usize = 2;

/// Which syncs the disk obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syncs {
    All,
    None,
    /// Only those while the store is being opened.
    NoneBetweenCommits,
    /// Only those of files.
    NoneOfDirectories,
}

/// What is wanted of a replay.
pub(crate) struct Options {
    /// How many distinct states.
    pub(crate) wanted: u64,
    /// Whether a page that was being written may be garbage all over.
    pub(crate) page_garbage: bool,
    pub(crate) syncs: Syncs,
    /// Only states in which this process is being recorded, counted from 1, or any.
    pub(crate) life: Option<u64>,
}

/// Where a replay is.
struct Position {
    disk: Disk,
    acknowledged: u64,
    asked: u64,
    life: u64,
    /// No change has been asked for in this life.
    opening: bool,
}

impl Position {
    fn new(recording: &Recording) -> Self {
        let mut disk = Disk::default();
        recording.files.iter().for_each(|file| disk.add_file(*file));
        Self { disk, acknowledged: 0, asked: 0, life: 0, opening: true }
    }

    fn advance(&mut self, recording: &Recording, step: Step, syncs: Syncs) {
        match step {
            Step::Begin(number) => self.disk.begin(number, &recording.effects[number]),
            Step::End(number) => match &recording.effects[number] {
                effect @ (Effect::Sync(_) | Effect::SyncAll) if !self.obeys(effect, syncs) => self.disk.forget(number),
                effect => self.disk.end(number, effect),
            },
            Step::Forget(number) => self.disk.forget(number),
            Step::Said { acknowledged, asked } => {
                self.opening &= asked == self.asked;
                (self.acknowledged, self.asked) = (acknowledged, asked);
            }
            Step::Life => {
                self.life += 1;
                self.opening = true;
            }
        }
    }

    fn obeys(&self, sync: &Effect, syncs: Syncs) -> bool {
        match syncs {
            Syncs::All => true,
            Syncs::None => false,
            Syncs::NoneBetweenCommits => self.opening,
            Syncs::NoneOfDirectories => matches!(sync, Effect::Sync(inode) if self.disk.files.contains_key(inode)),
        }
    }

    /// How much there is to be seen here: opening is short and has the most to do with names.
    fn weight(&self, options: &Options) -> u64 {
        if options.life.is_some_and(|life| life != self.life) {
            return 0;
        }
        1 + 3 * u64::from(self.opening) + 3 * u64::from(!self.disk.names.changes.is_empty())
    }
}

/// Checks as many distinct states as are wanted, or as there are.
pub(crate) fn replay(recording: &Recording, options: &Options) -> Findings {
    let (sender, receiver) = mpsc::sync_channel::<Case>(2 * CHECKERS);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let check = || {
            let cases = std::iter::from_fn(|| receiver.lock().expect("no one panics with it").recv().ok());
            Checker::new(recording.seed).check(cases)
        };
        let checkers: Vec<_> = (0..CHECKERS).map(|_| scope.spawn(check)).collect();
        let states = choose(recording, options, &|case| sender.send(case).expect("a checker listens until the end"));
        drop(sender);
        let mut findings = Findings { states, ..Findings::default() };
        checkers.into_iter().for_each(|checker| findings.add(checker.join().expect("it panics where it says why")));
        findings
    })
}

/// Chooses the states, in passes over the recording until there are enough or two passes have found nothing new.
/// Returns how many.
fn choose(recording: &Recording, options: &Options, send: &dyn Fn(Case)) -> u64 {
    let mut total = 0;
    let mut position = Position::new(recording);
    for &step in &recording.steps {
        position.advance(recording, step, options.syncs);
        total += position.weight(options);
    }
    let mut random = Random::new(recording.seed);
    let (mut states, mut seen) = (HashSet::new(), HashSet::new());
    let mut fruitless = 0;
    while fruitless < 2 && (states.len() as u64) < options.wanted {
        let before = states.len() as u64;
        let lacking = options.wanted - before;
        let mut position = Position::new(recording);
        let mut passed = 0;
        for (at, &step) in recording.steps.iter().enumerate() {
            position.advance(recording, step, options.syncs);
            passed += position.weight(options);
            let target = before + (u128::from(lacking) * u128::from(passed)).div_ceil(u128::from(total)) as u64;
            for _ in 0..12 {
                if states.len() as u64 >= target {
                    break;
                }
                let crashed = crash(&position.disk, recording, options.page_garbage, &mut random);
                let Position { acknowledged, asked, .. } = position;
                let fresh = states.insert(crashed.essence);
                // The same state with more acknowledged is another question. What is in files that nobody syncs is
                // worth a look now and then.
                let other = seen.insert((crashed.essence, acknowledged, asked));
                if fresh || other || random.percent(20) {
                    let description = describe(recording, &position, at, &crashed.description);
                    send(Case { image: crashed.image, acknowledged, asked, description });
                }
            }
        }
        fruitless = if states.len() as u64 == before { fruitless + 1 } else { 0 };
    }
    states.len() as u64
}

fn describe(recording: &Recording, position: &Position, at: usize, crashed: &str) -> String {
    let of = |number: usize, verb| format!("{verb} of {}", recording.briefs[number]);
    let step = match recording.steps[at] {
        Step::Begin(number) => of(number, "begin"),
        Step::End(number) => of(number, "end"),
        Step::Forget(number) => of(number, "kill in"),
        said @ (Step::Said { .. } | Step::Life) => format!("{said:?}"),
    };
    let (life, opening) = (position.life, if position.opening { ", opening" } else { "" });
    format!("life {life}{opening}, step {at}, {step}: {crashed}")
}
