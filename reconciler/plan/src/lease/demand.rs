//! How many addresses a node should have.
//!
//! ```text
//! need              used and pods that have none yet
//! need + fair share more than that is given back soon
//! ```
//!
//! A node keeps spare addresses between the two, so that most pods start without a word to the API server. It fetches some
//! when it runs short and gives some back when it has too many, and both bring it to the middle: a node whose pods come and
//! go does not write at every one of them.

use super::draw::Draw;

/// The most spare addresses that a node fetches ahead of its pods.
pub const WARM_MAX: u64 = 16;
/// How long spare addresses within the fair share are kept unused, in milliseconds.
pub const KEEP_MS: u64 = 15 * 60_000;
/// The longest that a node waits between two looks for an address when there is none, in milliseconds.
pub const LOOK_MS: u64 = 2_000;
/// Over how long nodes spread what they give back when the fair share drops, in milliseconds.
pub const SPREAD_MS: u64 = 10_000;
/// The same when it drops because somebody waits.
pub const URGENT_MS: u64 = 4_000;
/// The fewest spare addresses that are fetched at once where the fair share allows it, so that a node with few starts has
/// not to write for every one of them.
pub const BATCH: u64 = 4;
/// Over how long the starts of pods are averaged, in milliseconds.
const AVERAGE_MS: u64 = 60_000;
/// For how long warm addresses should last, in milliseconds.
const AHEAD_MS: u64 = 10_000;

/// How many spare addresses each of `nodes` may keep: what is left of `total` without the `used` ones and a reserve of 2 %
/// (at least 1), by the number of nodes; 0 while somebody waits for an address.
///
/// Steps of about a quarter (0 to 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, …), rounded down: a few pods more or less do not
/// change it. See [`steady_fair_share`] for what remains at the edge of a step.
pub fn fair_share(total: u128, used: u128, nodes: u128, someone_waits: bool) -> u128 {
    if someone_waits { 0 } else { quantised(exact(total, used, nodes)) }
}

/// The fair share when `before` is the published one: it falls at once, but rises only where it would with an eighth less.
pub fn steady_fair_share(before: Option<u128>, total: u128, used: u128, nodes: u128, someone_waits: bool) -> u128 {
    let now = fair_share(total, used, nodes, someone_waits);
    match before {
        Some(before) if now > before => {
            let exact = exact(total, used, nodes);
            // From 0 it rises to 1 when it would be 2: one address more or less must not move it up and down.
            quantised(exact - exact.div_ceil(8)).max(before)
        }
        _ => now,
    }
}

fn exact(total: u128, used: u128, nodes: u128) -> u128 {
    let reserve = (total / 50).max(1);
    total.saturating_sub(used).saturating_sub(reserve) / nodes.max(1)
}

/// Rounded down to three significant binary digits.
fn quantised(share: u128) -> u128 {
    match share {
        0 => 0,
        _ => {
            let dropped = share.ilog2().saturating_sub(2);
            share >> dropped << dropped
        }
    }
}

/// How many addresses a node should have: those it needs, and spare ones for the next pods.
///
/// The spare ones are as many as pods are expected soon (`warm`, and at least [`BATCH`]), but at most half of the fair share,
/// so that as many pods may go as may come until there is something to write.
pub fn target(need: u64, fair_share: u64, warm: u64) -> u64 {
    need.saturating_add(warm.max(BATCH).min(fair_share.div_ceil(2)))
}

/// Whether a node with `held` addresses is to fetch more, up to its [`target`]: fewer are spare than a
/// quarter of what the target has.
pub fn is_short(held: u64, need: u64, fair_share: u64, warm: u64) -> bool {
    held < need.saturating_add((target(need, fair_share, warm) - need) / 4)
}

/// How many pods start: a moving average over a minute.
#[derive(Debug, Clone, Default)]
pub struct Warm {
    /// Starts, weighted by how long ago they were.
    weight: f64,
    at_ms: u64,
}

impl Warm {
    /// A pod has been bound to the node. Times are of a clock that does not jump; one that does only delays or hastens.
    pub fn started(&mut self, now_ms: u64) {
        self.weight = self.weight_at(now_ms) + 1.0;
        self.at_ms = now_ms;
    }

    /// How many addresses are to be ready for the next ten seconds: 1 to 16.
    pub fn addresses(&self, now_ms: u64) -> u64 {
        let starts = self.weight_at(now_ms) * AHEAD_MS as f64 / AVERAGE_MS as f64;
        // A float becomes the nearest integer of the range; it is never negative.
        (starts.ceil() as u64).clamp(1, WARM_MAX)
    }

    fn weight_at(&self, now_ms: u64) -> f64 {
        self.weight * (-(now_ms.saturating_sub(self.at_ms) as f64) / AVERAGE_MS as f64).exp()
    }
}

/// When what is given back.
#[derive(Debug, Clone, Default)]
pub struct Surplus {
    fair_share: u64,
    /// When what is above the fair share goes.
    above_due: Option<u64>,
    /// When what is above the target goes.
    idle_due: Option<u64>,
    /// The smallest number of spare addresses above the target since it was due later.
    idle_least: u64,
}

impl Surplus {
    /// How many addresses to give back now, of `held` ones of which `need` are needed.
    ///
    /// Above the fair share they go after 1 to 2 s; when it was the fair share that dropped, spread over 10 s, or over 4 s if
    /// `somebody_waits`; at once when somebody waits and the fair share is what it was. Those within it go when so many were not needed for 15
    /// minutes. What is left is never less than the target.
    pub fn due(&mut self, now_ms: u64, level: Level, somebody_waits: bool, draw: &mut Draw) -> u64 {
        let Level { held, need, fair_share, warm } = level;
        let spare = held.saturating_sub(need);
        let kept = target(need, fair_share, warm) - need;
        let has_dropped = fair_share < std::mem::replace(&mut self.fair_share, fair_share);

        let idle = spare.saturating_sub(kept);
        if idle == 0 {
            self.idle_due = None;
        } else {
            self.idle_least = if self.idle_due.is_some() { self.idle_least.min(idle) } else { idle };
            self.idle_due.get_or_insert(now_ms.saturating_add(KEEP_MS + draw.below(KEEP_MS / 10)));
        }
        if spare <= fair_share {
            self.above_due = None;
        } else if has_dropped {
            let delay = if somebody_waits { urgent(draw) } else { draw.below(SPREAD_MS) };
            self.above_due = Some(now_ms.saturating_add(delay));
        } else {
            let delay = if somebody_waits { 0 } else { 1_000 + draw.below(1_000) };
            self.above_due.get_or_insert(now_ms.saturating_add(delay));
        }

        if self.above_due.is_some_and(|due| due <= now_ms) {
            // To the middle of what may be kept.
            self.above_due = None;
            return spare - fair_share.div_ceil(2);
        }
        if self.idle_due.is_some_and(|due| due <= now_ms) {
            self.idle_due = None;
            return self.idle_least.min(idle);
        }
        0
    }

    /// When to ask again, if nothing else happens.
    pub fn wake_ms(&self) -> Option<u64> {
        [self.above_due, self.idle_due].into_iter().flatten().min()
    }
}

/// Few nodes go early and many late: of thousands that have something for one who waits, a dozen write before all have
/// heard that he was served; and of one alone nobody waits for long.
fn urgent(draw: &mut Draw) -> u64 {
    let (one, two) = (draw.below(URGENT_MS), draw.below(URGENT_MS));
    one.max(two)
}

/// What a node has and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Addresses that it holds.
    pub held: u64,
    /// Those that pods use, and pods that have none yet.
    pub need: u64,
    /// What each node may keep beyond that; 0 while somebody waits.
    pub fair_share: u64,
    /// What [`Warm`] says.
    pub warm: u64,
}

/// How long to wait before another try: doubled each time, with chance, and never longer than a most.
#[derive(Debug, Clone)]
pub struct Backoff {
    first_ms: u64,
    most_ms: u64,
    tries: u32,
}

impl Backoff {
    /// From `first_ms` to `most_ms`.
    pub fn new(first_ms: u64, most_ms: u64) -> Self {
        Self { first_ms, most_ms, tries: 0 }
    }

    /// The next wait, in milliseconds: half of it is certain, the other half chance.
    pub fn next_ms(&mut self, draw: &mut Draw) -> u64 {
        let wait = self.first_ms.saturating_mul(1 << self.tries.min(20)).min(self.most_ms);
        self.tries = self.tries.saturating_add(1);
        wait / 2 + draw.below(wait / 2 + 1)
    }

    /// It has worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fair_shares() {
        assert_eq!(fair_share(41, 0, 3, false), 12, "13 rounded down");
        assert_eq!(fair_share(41, 40, 3, false), 0);
        assert_eq!(fair_share(41, 0, 3, true), 0);
        assert_eq!(fair_share(65_534, 0, 5_000, false), 12);
        assert_eq!(fair_share(65_534, 60_000, 5_000, false), 0, "what is left is within the reserve");
        assert_eq!(fair_share(10, 20, 0, false), 0);
        assert_eq!(fair_share(u128::MAX, 0, 1, false).count_ones(), 3);
        assert_eq!(steady_fair_share(None, 41, 0, 3, false), 12);
        assert_eq!(steady_fair_share(Some(10), 41, 0, 3, false), 10, "13 less an eighth is 11");
        assert_eq!(steady_fair_share(Some(20), 41, 0, 3, false), 12);
        assert_eq!(steady_fair_share(Some(0), 41, 0, 3, false), 10);
        assert_eq!(steady_fair_share(Some(0), 41, 37, 3, false), 0);
    }

    #[test]
    fn pods_that_come_and_go_move_no_published_number() {
        let mut published = steady_fair_share(None, 10_000, 5_000, 100, false);
        let mut changes = 0;
        let mut draw = Draw::new(1);
        let mut used: u128 = 5_000;
        for _ in 0..10_000 {
            used = if draw.below(2) == 0 { used + 1 } else { used - 1 };
            used = used.clamp(4_800, 5_200);
            let next = steady_fair_share(Some(published), 10_000, used, 100, false);
            changes += u32::from(next != published);
            published = next;
        }
        assert!(changes < 10, "{changes}");
    }

    #[test]
    fn warm_follows_the_starts() {
        let mut warm = Warm::default();
        assert_eq!(warm.addresses(0), 1);
        for start in 0..600 {
            warm.started(start * 100);
        }
        assert_eq!(warm.addresses(60_000), 16);
        assert_eq!(warm.addresses(30 * 60_000), 1);
        warm.started(5);
        assert!(warm.addresses(0) <= 16, "a clock that goes back");
    }

    #[test]
    fn targets() {
        assert_eq!((target(10, 12, 16), target(10, 12, 2), target(10, 1, 9), target(10, 0, 9)), (16, 14, 11, 10));
        assert!(is_short(9, 10, 0, 1) && !is_short(10, 10, 0, 16));
        assert!(is_short(10, 10, 12, 16) && !is_short(11, 10, 12, 16) && !is_short(10, 10, 6, 1));
        assert_eq!(target(u64::MAX, u64::MAX, 16), u64::MAX);
    }

    fn level(held: u64, need: u64, fair_share: u64, warm: u64) -> Level {
        Level { held, need, fair_share, warm }
    }

    #[test]
    fn what_is_above_goes_soon_and_what_is_idle_late() {
        let (mut surplus, mut draw) = (Surplus::default(), Draw::new(3));
        assert_eq!(surplus.due(0, level(20, 10, 4, 1), false, &mut draw), 0);
        let due = surplus.wake_ms().unwrap();
        assert!((1_000..=2_000).contains(&due));
        assert_eq!(surplus.due(due - 1, level(20, 10, 4, 1), false, &mut draw), 0);
        assert_eq!(surplus.due(due, level(20, 10, 4, 1), false, &mut draw), 8);
        // Three more than needed: within the fair share, one above the target.
        assert_eq!(surplus.due(3_000, level(13, 10, 4, 1), false, &mut draw), 0);
        let due = surplus.wake_ms().unwrap();
        assert!(due >= KEEP_MS);
        assert_eq!(surplus.due(due, level(13, 10, 4, 1), false, &mut draw), 1);
        // It was needed meanwhile.
        assert_eq!(surplus.due(due, level(12, 10, 4, 1), false, &mut draw), 0);
        assert_eq!(surplus.due(due + 1, level(12, 12, 4, 1), false, &mut draw), 0);
        assert_eq!(surplus.wake_ms(), None);
    }

    #[test]
    fn a_drop_of_the_fair_share_is_spread_and_one_who_waits_is_served_at_once() {
        let mut dues = Vec::new();
        for seed in 0..100 {
            let (mut surplus, mut draw) = (Surplus::default(), Draw::new(seed));
            surplus.due(0, level(14, 10, 4, 1), false, &mut draw);
            surplus.due(1, level(14, 10, 0, 1), true, &mut draw);
            dues.push(surplus.wake_ms().unwrap());
        }
        assert!(dues.iter().any(|due| *due < 1_500) && dues.iter().any(|due| *due > 3_000));
        assert!(dues.iter().all(|due| *due <= URGENT_MS));
        let (mut surplus, mut draw) = (Surplus::default(), Draw::new(1));
        assert_eq!(surplus.due(5, level(12, 10, 0, 1), true, &mut draw), 2);
    }

    #[test]
    fn waits_grow_to_a_most() {
        let (mut backoff, mut draw) = (Backoff::new(100, 2_000), Draw::new(1));
        let waits: Vec<u64> = (0..40).map(|_| backoff.next_ms(&mut draw)).collect();
        assert!(
            (50..=100).contains(&waits[0]) && waits[4..].iter().all(|wait| (800..=2_000).contains(wait)),
            "{waits:?}"
        );
        backoff.reset();
        assert!(backoff.next_ms(&mut draw) <= 100);
    }

    proptest! {
        #[test]
        fn shares_fit_into_the_pool(total: u128, used: u128, nodes in 1u128..10_000, before in 0u128..100) {
            let share = fair_share(total, used, nodes, false);
            let left = total.saturating_sub(used);
            prop_assert!(share <= left / nodes);
            prop_assert!(steady_fair_share(Some(before), total, used, nodes, false) <= share.max(before));
            prop_assert_eq!(quantised(share), share);
        }

        #[test]
        fn nobody_gives_back_what_it_needs(steps in prop::collection::vec((0u64..5_000_000, 0u64..40, 0u64..30, 0u64..20, 1u64..=16, any::<bool>()), 1..40)) {
            let (mut surplus, mut draw, mut now) = (Surplus::default(), Draw::new(9), 0);
            for (later, held, need, fair_share, warm, waits) in steps {
                now += later;
                let given = surplus.due(now, level(held, need, fair_share, warm), waits, &mut draw);
                prop_assert!(given == 0 || held - given >= need);
                prop_assert!(given == 0 || !is_short(held - given, need, fair_share, warm), "it would be fetched again");
            }
        }
    }
}
