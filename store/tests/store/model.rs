//! Random histories against a plain map: whatever is committed, refused, reopened or copied away under a writer, the
//! store holds what the map holds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use schemas::intent::*;
use schemas::name::{AttachmentKey, ContainerId};
use store::{Change, CommitError, Store};

use crate::images::*;
use crate::sample;
use crate::traffic;

/// One put or delete.
#[derive(Debug, Clone)]
enum Piece {
    PutSandbox {
        number: u32,
        generation: u64,
        error: usize,
    },
    DeleteSandbox {
        number: u32,
    },
    PutAttachment {
        number: u32,
        ordinal: u32,
    },
    DeleteAttachment {
        number: u32,
    },
    /// An address claimed by an owner, who may come too late.
    Claim {
        address: u32,
        owner: u32,
        releasing: bool,
    },
    Free {
        address: u32,
    },
    PutText {
        key: u32,
        len: usize,
    },
    DeleteText {
        key: u32,
    },
}

/// What the test does next.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Piece>),
    /// Many changes that wait together.
    Batch(Vec<Vec<Piece>>),
    Reopen,
    /// The files are copied from under the open store, and the copy is gone on with.
    Crash,
    /// Only the journal survives.
    LoseSled,
    /// Only sled survives, once it has followed: the store is closed before.
    LoseJournal,
}

fn piece() -> impl Strategy<Value = Piece> {
    let few = 0..6_u32;
    prop_oneof![
        (few.clone(), 0..4_u64, prop_oneof![0..50_usize, 0..9000_usize])
            .prop_map(|(number, generation, error)| Piece::PutSandbox { number, generation, error }),
        few.clone().prop_map(|number| Piece::DeleteSandbox { number }),
        (few.clone(), 0..3_u32).prop_map(|(number, ordinal)| Piece::PutAttachment { number, ordinal }),
        few.clone().prop_map(|number| Piece::DeleteAttachment { number }),
        (few.clone(), few.clone(), any::<bool>()).prop_map(|(address, owner, releasing)| Piece::Claim {
            address,
            owner,
            releasing
        }),
        few.clone().prop_map(|address| Piece::Free { address }),
        // Some are larger than a record may be.
        (few.clone(), prop_oneof![8 => 0..200_usize, 2 => 0..32_000_usize, 1 => 33_000..40_000_usize])
            .prop_map(|(key, len)| Piece::PutText { key, len }),
        few.prop_map(|key| Piece::DeleteText { key }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => vec(piece(), 0..5).prop_map(Step::Commit),
        4 => vec(vec(piece(), 0..4), 1..40).prop_map(Step::Batch),
        2 => Just(Step::Reopen),
        2 => Just(Step::Crash),
        1 => Just(Step::LoseSled),
        1 => Just(Step::LoseJournal),
    ]
}

fn text_key(key: u32) -> String {
    format!("key/{key}")
}

fn text(len: usize) -> String {
    "text ".chars().cycle().take(len).collect()
}

fn sandbox(number: u32, generation: u64, error: usize) -> Sandbox {
    let mut sandbox = sample::sandbox(number);
    sandbox.generation = generation;
    sandbox.outcome.error = text(error);
    sandbox
}

fn attachment(number: u32, ordinal: u32) -> Attachment {
    Attachment { ordinal, ..sample::attachment(number) }
}

fn allocation(address: u32, owner: u32, releasing: bool) -> Allocation {
    let state = if releasing { AllocationState::Releasing } else { AllocationState::Held };
    Allocation { address: sample::address(address), owner: sample::key(owner), state, ..sample::allocation(address) }
}

fn change(pieces: &[Piece]) -> Change {
    pieces.iter().fold(Change::new(), |change, piece| match *piece {
        Piece::PutSandbox { number, generation, error } => change.put_sandbox(&sandbox(number, generation, error)),
        Piece::DeleteSandbox { number } => change.delete_sandbox(&sample::container(number)),
        Piece::PutAttachment { number, ordinal } => change.put_attachment(&attachment(number, ordinal)),
        Piece::DeleteAttachment { number } => change.delete_attachment(&sample::key(number)),
        Piece::Claim { address, owner, releasing } => change.put_allocation(&allocation(address, owner, releasing)),
        Piece::Free { address } => change.delete_allocation(sample::address(address)),
        Piece::PutText { key, len } => change.put_catalogue(&text_key(key), &text(len)),
        Piece::DeleteText { key } => change.delete_catalogue(&text_key(key)),
    })
}

/// What an answer is to be.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Done,
    Taken(IpAddr, AttachmentKey),
    TooLarge,
}

impl Answer {
    fn of(answer: Result<(), CommitError>) -> Result<Self, CommitError> {
        match answer {
            Ok(()) => Ok(Self::Done),
            Err(CommitError::AddressTaken { address, owner }) => Ok(Self::Taken(address, owner)),
            Err(CommitError::Record(_)) => Ok(Self::TooLarge),
            Err(other) => Err(other),
        }
    }
}

/// What the store is to hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    sandboxes: BTreeMap<ContainerId, Sandbox>,
    attachments: BTreeMap<AttachmentKey, Attachment>,
    allocations: BTreeMap<IpAddr, Allocation>,
    texts: BTreeMap<u32, String>,
}

impl Model {
    /// All pieces or none.
    fn apply(&mut self, pieces: &[Piece]) -> Answer {
        if pieces.iter().any(|piece| matches!(piece, Piece::PutText { len: 33_000.., .. })) {
            return Answer::TooLarge;
        }
        let mut after = self.clone();
        for piece in pieces {
            match *piece {
                Piece::PutSandbox { number, generation, error } => {
                    after.sandboxes.insert(sample::container(number), sandbox(number, generation, error));
                }
                Piece::DeleteSandbox { number } => drop(after.sandboxes.remove(&sample::container(number))),
                Piece::PutAttachment { number, ordinal } => {
                    after.attachments.insert(sample::key(number), attachment(number, ordinal));
                }
                Piece::DeleteAttachment { number } => drop(after.attachments.remove(&sample::key(number))),
                Piece::Claim { address, owner, releasing } => {
                    let wanted = allocation(address, owner, releasing);
                    match after.allocations.get(&wanted.address) {
                        Some(there) if there.owner != wanted.owner => {
                            return Answer::Taken(there.address, there.owner.clone());
                        }
                        _ => after.allocations.insert(wanted.address, wanted),
                    };
                }
                Piece::Free { address } => drop(after.allocations.remove(&sample::address(address))),
                Piece::PutText { key, len } => drop(after.texts.insert(key, text(len))),
                Piece::DeleteText { key } => drop(after.texts.remove(&key)),
            }
        }
        *self = after;
        Answer::Done
    }

    fn of(store: &Store) -> Self {
        let snapshot = store.load().unwrap();
        assert_eq!(snapshot.unreadable, []);
        let model = Self {
            sandboxes: snapshot.sandboxes.iter().map(|record| (record.container.clone(), record.clone())).collect(),
            attachments: snapshot.attachments.iter().map(|record| (record.key.clone(), record.clone())).collect(),
            allocations: snapshot.allocations.iter().map(|record| (record.address, record.clone())).collect(),
            texts: (0..6).filter_map(|key| Some((key, store.catalogue_get(&text_key(key)).unwrap()?))).collect(),
        };
        // Each once, in the order of the keys.
        assert!(model.sandboxes.values().eq(&snapshot.sandboxes));
        assert!(model.attachments.values().eq(&snapshot.attachments));
        assert!(model.allocations.values().eq(&snapshot.allocations));
        model
    }
}

fn check_history(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut dir = scratch();
    let mut model = Model::default();
    let mut store = sample::open(&dir.path().join(STORE));
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Commit(pieces) => {
                prop_assert_eq!(Answer::of(store.commit(change(pieces))), Ok(model.apply(pieces)), "step {}", number);
            }
            Step::Batch(changes) => {
                let (says, hears) = channel();
                for (place, pieces) in changes.iter().enumerate() {
                    let says = says.clone();
                    store.submit(change(pieces), move |answer| says.send((place, answer)).unwrap());
                }
                drop(says);
                let answers: BTreeMap<_, _> = hears.into_iter().collect();
                prop_assert_eq!(answers.len(), changes.len());
                for ((place, answer), pieces) in answers.into_iter().zip(changes) {
                    prop_assert_eq!(Answer::of(answer), Ok(model.apply(pieces)), "step {}, {}", number, place);
                }
            }
            Step::Reopen => {
                store.close();
                store = sample::open(&dir.path().join(STORE));
                prop_assert!(store.recovery().is_empty(), "step {}: {:?}", number, store.recovery());
            }
            Step::Crash | Step::LoseSled => {
                let image = Image::taken(dir.path());
                let next = scratch();
                match step {
                    Step::LoseSled => image.without(STORE).put(next.path()),
                    _ => image.put(next.path()),
                }
                store.close();
                dir = next;
                store = sample::open(&dir.path().join(STORE));
                prop_assert_eq!(&store.recovery().lost, &None, "step {}", number);
            }
            Step::LoseJournal => {
                store.close();
                std::fs::remove_dir_all(dir.path().join(JOURNAL)).unwrap();
                store = sample::open(&dir.path().join(STORE));
                prop_assert_eq!(&store.recovery().lost, &None, "step {}", number);
            }
        }
        prop_assert_eq!(&Model::of(&store), &model, "step {}: {:?}", number, step);
    }
    Ok(())
}

#[test]
fn a_store_is_a_map_that_survives() {
    let limit = Duration::from_secs(25);
    let begun = Instant::now();
    let (mut histories, mut steps_done) = (0, 0);
    let steps = vec(step(), 1..60);
    let config = Config { cases: 10, failure_persistence: None, ..Config::default() };
    while begun.elapsed() < limit {
        let counted = std::cell::Cell::new((0, 0));
        let run = TestRunner::new(config.clone()).run(&steps, |steps| {
            counted.set((counted.get().0 + 1, counted.get().1 + steps.len()));
            check_history(&steps)
        });
        run.unwrap_or_else(|error| panic!("{error}"));
        histories += counted.get().0;
        steps_done += counted.get().1;
    }
    eprintln!("{histories} histories of {steps_done} steps");
}

/// Loads while one writer commits: each is the state after some number of changes, never older than what was
/// acknowledged before it, never newer than what was asked before its end.
#[test]
fn a_load_during_commits_is_one_state() {
    const TURNS: u64 = 1500;
    const SEED: u64 = 5;
    let dir = scratch();
    let store = sample::open(&dir.path().join(STORE));
    let (acknowledged, asked, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (mut loads, mut between) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..TURNS {
                asked.store(turn + 1, SeqCst);
                store.commit(traffic::change(SEED, turn)).unwrap();
                acknowledged.store(turn + 1, SeqCst);
            }
            over.store(true, SeqCst);
        });
        while !over.load(SeqCst) {
            let before = acknowledged.load(SeqCst);
            let snapshot = store.load().unwrap();
            let after = asked.load(SeqCst);
            let turns = traffic::turns_in(&snapshot, SEED, before, after).unwrap();
            loads += 1;
            between += u64::from(turns > 0 && turns < TURNS && after > before);
        }
    });
    eprintln!("{loads} loads, {between} of them while something was committed");
    assert!(between > 5, "{loads} loads, {between} of them while something was committed");
}
