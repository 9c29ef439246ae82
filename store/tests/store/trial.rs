//! Trials: a harmed store is put down, opened, looked at and opened again; many of them, on all processors.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use store::{OpenError, Store};

use crate::images::{Image, STORE, scratch};
use crate::sample::{BOOT, NODE};
use crate::traffic;

/// How long one trial may take: beyond that the store hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a store is to hold: the changes of [`traffic`] that were acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) seed: u64,
    pub(crate) acknowledged: u64,
}

/// How the store took a harm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Taken {
    /// All acknowledged changes are there; nothing was said.
    Unnoticed,
    /// All are there, and what was mended was said.
    Mended,
    /// Less is there, and that was said.
    Lost,
    /// Less is there. It was said that something was mended, and not that anything may be lost.
    LostAsMended,
    /// Less is there and nothing at all was said.
    LostInSilence,
    /// Not opened, because of what is damaged.
    Corrupt,
    /// Not opened, because the file system refuses.
    Refused,
}

/// Opens what an image holds. An error says what must never be, whatever was harmed: a panic, a torn change, an open
/// that finds something again, a refusal that has changed something.
pub(crate) fn open(image: &Image, expected: Expected) -> Result<Taken, String> {
    let dir = scratch();
    image.put(dir.path());
    let path = dir.path().join(STORE);
    let caught = |act: &str, payload: Box<dyn std::any::Any + Send>| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        format!("{act} panics: {}", text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("?"))
    };
    let opened = catch_unwind(AssertUnwindSafe(|| Store::open(&path, NODE, BOOT)));
    let store = match opened.map_err(|payload| caught("opening", payload))? {
        Ok(store) => store,
        Err(error) => return refused(&error, image, &Image::taken(dir.path())),
    };
    let recovery = store.recovery().clone();
    let loaded = catch_unwind(AssertUnwindSafe(|| store.load())).map_err(|payload| caught("loading", payload))?;
    let snapshot = loaded.map_err(|error| format!("it opened ({recovery:?}) and does not load: {error}"))?;
    let Expected { seed, acknowledged } = expected;
    let turns = match (0..=acknowledged).rev().find(|&turns| traffic::turns_in(&snapshot, seed, turns, turns).is_ok()) {
        Some(turns) => turns,
        None => traffic::turns_in(&snapshot, seed, acknowledged, acknowledged)?,
    };
    // It goes on from there.
    let went_on = catch_unwind(AssertUnwindSafe(|| store.commit(traffic::change(seed, turns))));
    let went_on = went_on.map_err(|payload| caught("committing", payload))?;
    went_on.map_err(|error| format!("with {turns} turns it takes no change: {error}"))?;
    catch_unwind(AssertUnwindSafe(|| store.close())).map_err(|payload| caught("closing", payload))?;
    let again = Store::open(&path, NODE, BOOT).map_err(|error| format!("the second open: {error}"))?;
    // Some damage shows only when something has been written behind it: then the second open tells of it for the first
    // time, and nothing is lost by it.
    let late = again.recovery().clone();
    if !late.is_empty() && (!recovery.is_empty() || late.lost.is_some()) {
        return Err(format!("the second open mends again: {late:?}; the first one: {recovery:?}"));
    }
    let snapshot = again.load().map_err(|error| format!("the second open does not load: {error}"))?;
    traffic::turns_in(&snapshot, seed, turns + 1, turns + 1).map_err(|error| format!("the second open: {error}"))?;
    again.close();
    if !late.is_empty() {
        let third = Store::open(&path, NODE, BOOT).map_err(|error| format!("the third open: {error}"))?;
        if !third.recovery().is_empty() {
            return Err(format!("the third open mends again: {:?}; the second one: {late:?}", third.recovery()));
        }
    }
    Ok(match (turns < acknowledged, recovery.lost.is_some(), recovery.is_empty() && late.is_empty()) {
        (false, true, _) => return Err(format!("nothing is lost, and it says: {recovery:?}")),
        (false, false, true) => Taken::Unnoticed,
        (false, false, false) => Taken::Mended,
        (true, true, _) => Taken::Lost,
        (true, false, false) => Taken::LostAsMended,
        (true, false, true) => Taken::LostInSilence,
    })
}

fn refused(error: &OpenError, before: &Image, after: &Image) -> Result<Taken, String> {
    let changed = before.differs(after);
    if !changed.is_empty() {
        return Err(format!("it is refused ({error}), and changed: {changed:?}"));
    }
    match error {
        OpenError::Corrupt { .. } => Ok(Taken::Corrupt),
        OpenError::Io { .. } => Ok(Taken::Refused),
        other => Err(format!("it is refused as what it is not: {other}")),
    }
}

/// What many trials came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) taken: BTreeMap<Taken, u64>,
    /// The first few that ended each way, by what was harmed.
    pub(crate) examples: BTreeMap<Taken, Vec<String>>,
    /// What must never be: each with what was harmed.
    pub(crate) broken: Vec<String>,
    /// Harms that no time was left for.
    pub(crate) left: usize,
}

impl Outcome {
    fn note(&mut self, harm: String, taken: Result<Taken, String>) {
        match taken {
            Ok(taken) => {
                let examples = self.examples.entry(taken.clone()).or_default();
                if examples.len() < 8 {
                    examples.push(harm);
                }
                *self.taken.entry(taken).or_default() += 1;
            }
            Err(error) => self.broken.push(format!("{harm}: {error}")),
        }
    }

    /// How many trials there were.
    pub(crate) fn trials(&self) -> u64 {
        self.taken.values().sum::<u64>() + self.broken.len() as u64
    }

    /// Ends the test if anything ended otherwise than in one of these ways.
    pub(crate) fn require(&self, what: &str, allowed: &[Taken]) {
        eprintln!("{what}: {} trials, {} left out: {:?}", self.trials(), self.left, self.taken);
        let other: Vec<_> = self.examples.iter().filter(|(taken, _)| !allowed.contains(taken)).collect();
        let first: Vec<_> = self.broken.iter().take(12).collect();
        let broken = self.broken.len();
        assert!(broken == 0 && other.is_empty(), "{what}: {broken} broken, first {first:#?}; not allowed: {other:#?}");
    }
}

/// A harm to try: what it is, and how to make it when its turn comes.
pub(crate) type Harm = (String, Expected, Box<dyn FnOnce() -> Image + Send>);

/// Tries each harm, on two threads, as far as the time goes.
pub(crate) fn run(harms: Vec<Harm>, limit: Duration) -> Outcome {
    watch_panics();
    let begun = Instant::now();
    let queue = Arc::new(Mutex::new(VecDeque::from(harms)));
    let (says, hears) = channel();
    for worker in 0..2 {
        let (queue, says) = (queue.clone(), says.clone());
        // Not scoped: a trial that hangs is to end the test.
        std::thread::spawn(move || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((harm, expected, image)) = next.filter(|_| begun.elapsed() < limit) else { return };
                says.send((worker, harm.clone(), None)).unwrap();
                let taken = open(&image(), expected);
                says.send((worker, harm, Some(taken))).unwrap();
            }
        });
    }
    drop(says);
    let mut outcome = Outcome::default();
    let mut under_way = BTreeMap::new();
    let mut begun_at = BTreeMap::new();
    loop {
        match hears.recv_timeout(PATIENCE) {
            Ok((worker, harm, None)) => {
                under_way.insert(worker, harm);
                begun_at.insert(worker, Instant::now());
            }
            Ok((worker, harm, Some(taken))) => {
                under_way.remove(&worker);
                begun_at.remove(&worker);
                outcome.note(harm, taken);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("hangs: {under_way:?}"),
        }
        assert!(begun_at.values().all(|begun| begun.elapsed() < PATIENCE), "hangs: {under_way:?}");
    }
    assert!(under_way.is_empty(), "a worker ended in the middle of {under_way:?}");
    outcome.left = queue.lock().unwrap_or_else(PoisonError::into_inner).len();
    let panics = panics();
    eprintln!("panics so far, all caught: {panics:#?}");
    let own: Vec<_> = panics.keys().filter(|place| place.starts_with("store/src")).collect();
    assert!(own.is_empty(), "the store's own code panics: {own:?}");
    outcome
}

static PANICS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// Counts panics by place from now on, those of sled without a word: on damages it panics by the hundred.
pub(crate) fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map_or("?".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
            // From the crate's name on: where the registry's sources are differs from machine to machine.
            let place = place.find("sled-0").map_or(place.as_str(), |at| &place[at..]).to_owned();
            let is_sleds = place.starts_with("sled-");
            *PANICS.lock().unwrap_or_else(PoisonError::into_inner).entry(place).or_default() += 1;
            if !is_sleds {
                before(panic);
            }
        }));
    });
}

/// How often anything panicked, by place; only what a test of this binary caught is left to be read here.
pub(crate) fn panics() -> BTreeMap<String, u64> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
