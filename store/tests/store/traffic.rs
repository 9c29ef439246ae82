//! Traffic of which every acknowledged commit can be checked afterwards, whatever happened to the writer.
//!
//! Change `turn` of a seed is always the same, so a writer that commits one after another need only say how far it came:
//! the store must hold exactly what the first `n` changes leave, for one `n` that covers every acknowledged one.

use std::collections::BTreeMap;

use schemas::intent::Sandbox;
use store::{Change, Snapshot};

use crate::sample;

/// How many sandboxes come and go.
const PLACES: u64 = 24;

/// A sandbox that every change touches: it tells any two states apart.
const COUNTER: u32 = 1000;

/// What the store is to hold: by the number of [`sample::put`], the generation of its sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    places: BTreeMap<u32, u64>,
    last: Option<u64>,
}

/// What one turn does to one place.
enum Turn {
    /// A whole intent, or the same place's next generation.
    Put { place: u32 },
    /// Its end.
    Delete { place: u32 },
}

/// A turn's kind: well mixed, and the same for ever.
fn turn_of(seed: u64, turn: u64) -> Turn {
    let mut mixed = (seed << 32 ^ turn).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 32;
    let place = (mixed % PLACES) as u32;
    if mixed >> 32 & 3 == 0 { Turn::Delete { place } } else { Turn::Put { place } }
}

fn aged(place: u32, generation: u64) -> Sandbox {
    let mut sandbox = sample::sandbox(place);
    sandbox.generation = generation;
    // Records of many sizes: pages fill, split and merge.
    sandbox.outcome.error = "x".repeat((generation.wrapping_mul(37) % 3000) as usize);
    sandbox
}

impl Model {
    /// What the first `turns` changes leave.
    pub(crate) fn after(seed: u64, turns: u64) -> Self {
        let mut model = Self::default();
        (0..turns).for_each(|turn| model.play(seed, turn));
        model
    }

    /// Plays one more.
    pub(crate) fn play(&mut self, seed: u64, turn: u64) {
        self.last = Some(turn);
        match turn_of(seed, turn) {
            Turn::Put { place } => self.places.insert(place, turn),
            Turn::Delete { place } => self.places.remove(&place),
        };
    }

    fn sandboxes(&self) -> impl Iterator<Item = Sandbox> {
        let counter = self.last.map(|turn| (COUNTER, turn));
        self.places.iter().map(|(&place, &turn)| (place, turn)).chain(counter).map(|(place, turn)| aged(place, turn))
    }

    /// Whether a store holds just this.
    pub(crate) fn is(&self, snapshot: &Snapshot) -> bool {
        let attachments = self.places.keys().map(|&place| sample::attachment(place));
        let allocations = self.places.keys().map(|&place| sample::allocation(place));
        snapshot.unreadable.is_empty()
            && self.sandboxes().eq(snapshot.sandboxes.iter().cloned())
            && attachments.eq(snapshot.attachments.iter().cloned())
            && allocations.eq(snapshot.allocations.iter().cloned())
    }
}

/// Change `turn` of a seed.
pub(crate) fn change(seed: u64, turn: u64) -> Change {
    let change = match turn_of(seed, turn) {
        Turn::Put { place } => Change::new()
            .put_sandbox(&aged(place, turn))
            .put_attachment(&sample::attachment(place))
            .put_allocation(&sample::allocation(place)),
        Turn::Delete { place } => sample::delete(place),
    };
    change.put_sandbox(&aged(COUNTER, turn))
}

/// How many changes a store holds, when `acknowledged` of the `asked` ones were; an error says that this is broken: a
/// lost, torn or made-up change.
pub(crate) fn turns_in(snapshot: &Snapshot, seed: u64, acknowledged: u64, asked: u64) -> Result<u64, String> {
    let mut model = Model::after(seed, acknowledged);
    for turns in acknowledged..=asked {
        if model.is(snapshot) {
            return Ok(turns);
        }
        model.play(seed, turns);
    }
    let mut earlier = Model::default();
    let mut found = Vec::new();
    for turns in 0..acknowledged {
        if earlier.is(snapshot) {
            found.push(turns);
        }
        earlier.play(seed, turns);
    }
    match found.last() {
        Some(turns) => Err(format!("{acknowledged} changes were acknowledged and only {turns} are there")),
        None => Err(format!(
            "it holds what no number of changes leaves; {acknowledged} acknowledged, {asked} asked: {} sandboxes, \
             unreadable {:?}",
            snapshot.sandboxes.len(),
            snapshot.unreadable
        )),
    }
}

#[test]
fn turns_are_told_apart() {
    const SEED: u64 = 7;
    let dir = tempfile::tempdir().unwrap();
    let store = sample::open(&dir.path().join("store"));
    for turn in 0..200 {
        store.commit(change(SEED, turn)).unwrap();
        let snapshot = store.load().unwrap();
        assert_eq!(turns_in(&snapshot, SEED, turn, turn + 1), Ok(turn + 1));
    }
    let snapshot = store.load().unwrap();
    assert!(turns_in(&snapshot, SEED, 201, 210).is_err());
    assert!(turns_in(&snapshot, SEED + 1, 0, 300).is_err());
}
