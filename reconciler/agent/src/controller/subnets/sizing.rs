//! How many addresses a workload's pool has, and how it comes to more or fewer.
//!
//! Three things hold addresses: the subnet's record, the pool's `spec.ips`, and the slots of the pool's shards, from which
//! nodes take them. An address is always recorded before it is in the pool. It leaves in four steps, each of which is
//! decided from what the API server has: its slot is kept from everybody (a node that does not know yet cannot take it any
//! more), it is taken out of the pool, and out of the record; only then can another pool get it. A slot that somebody has
//! stays, and so does its address. Ending between any two steps harms nothing: the next one follows from what is there.

use plan::allocate::AddressSet;

use super::naming::{DONE, PENDING};
use super::record::{both, common, lowest, without};

/// So many addresses at most are taken from a pool in one turn: each is a slot to be written.
const AT_ONCE: u128 = 4096;

/// Whose the addresses of a pool's shards are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Those that a node, an owner or a quarantine has.
    pub held: AddressSet,
    /// Those that are kept from everybody because the pool loses, or has lost them.
    pub fenced: AddressSet,
}

/// What is known of a pool.
#[derive(Debug)]
pub struct Known<'a> {
    /// What the subnet's record says.
    pub recorded: &'a AddressSet,
    /// What the pool has; None while it is not there.
    pub actual: Option<&'a AddressSet>,
    /// How many it should have; None: as many as it has.
    pub wanted: Option<u128>,
    /// What of the subnet nobody else has: not reserved, in no record, in no other pool.
    pub available: &'a AddressSet,
    /// Of its shards, where it is known.
    pub usage: Option<&'a Usage>,
    /// Its label.
    pub withdrawn: Option<&'a str>,
}

/// What is to be done about a pool: the first that applies, and the others afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is as it should be.
    Rest,
    /// Nothing, until its shards have been read.
    Look,
    /// Nothing: it is to have so many, and only so many are left.
    Short {
        /// What it lacks.
        required: u128,
        /// What there is.
        left: u128,
    },
    /// The record becomes this.
    Record(AddressSet),
    /// The pool is created, without addresses.
    Create,
    /// The label becomes this.
    Label(Option<&'static str>),
    /// The pool gets these addresses and this label.
    Pool(AddressSet, Option<&'static str>),
    /// These are kept from everybody.
    Fence(AddressSet),
    /// These are no longer kept.
    Unfence(AddressSet),
    /// So many addresses more than wanted are held.
    Held(u128),
}

/// What to do next.
pub fn next(known: &Known<'_>) -> Step {
    let Some(actual) = known.actual else { return absent(known) };
    let recorded = known.recorded;
    let extra = without(actual, recorded);
    let wanted = known.wanted.unwrap_or(recorded.len());
    let is_pending = known.withdrawn == Some(PENDING);
    if !extra.is_empty() || recorded.len() > wanted || is_pending {
        let Some(usage) = known.usage else { return Step::Look };
        // Somebody uses what is not recorded: it is, if it can be.
        let used = common(&common(&extra, &usage.held), known.available);
        if !used.is_empty() {
            return Step::Record(both(recorded, &used));
        }
    }
    if recorded.len() < wanted {
        match grow(known, &extra, wanted - recorded.len()) {
            // What it has been promised before more was asked for comes all the same.
            Step::Short { .. } if actual != recorded => {}
            step => return step,
        }
    }
    match known.usage {
        Some(usage) => settle(known, actual, &extra, wanted, usage),
        None if actual == recorded => Step::Rest,
        // Only additions: whatever is taken out has been looked at.
        None => Step::Pool(recorded.clone(), label(known.withdrawn).map(|_| PENDING)),
    }
}

/// Of a pool that is not there nobody holds anything.
fn absent(known: &Known<'_>) -> Step {
    let wanted = known.wanted.unwrap_or_default();
    match known.recorded.len() {
        count if count < wanted => match grow(known, &AddressSet::default(), wanted - count) {
            // It has been promised these before more was asked for.
            Step::Short { .. } if count > 0 => Step::Create,
            step => step,
        },
        count if count > wanted => Step::Record(lowest(known.recorded, wanted)),
        _ if known.wanted.is_some() => Step::Create,
        _ => Step::Rest,
    }
}

/// What it has already, and then the lowest; all that it lacks, or nothing.
fn grow(known: &Known<'_>, extra: &AddressSet, lacks: u128) -> Step {
    let own = lowest(&common(extra, known.available), lacks);
    let rest = lacks - own.len();
    let free = without(known.available, &own);
    if free.len() < rest {
        return Step::Short { required: lacks, left: known.available.len() };
    }
    Step::Record(both(&both(known.recorded, &own), &lowest(&free, rest)))
}

fn settle(known: &Known<'_>, actual: &AddressSet, extra: &AddressSet, wanted: u128, usage: &Usage) -> Step {
    let over = known.recorded.len().saturating_sub(wanted);
    let dropped = dropped(known.recorded, actual, usage, over.min(AT_ONCE));
    let leaving = both(&dropped, &lowest(&without(extra, &usage.held), AT_ONCE));
    let open = without(&leaving, &usage.fenced);
    if !open.is_empty() {
        return if known.withdrawn == Some(PENDING) { Step::Fence(open) } else { Step::Label(Some(PENDING)) };
    }
    // What stays of the pool, and what is recorded for it.
    let target = both(&without(known.recorded, &leaving), &without(extra, &leaving));
    if target != *actual {
        return Step::Pool(target, Some(PENDING));
    }
    if !dropped.is_empty() {
        return Step::Record(without(known.recorded, &dropped));
    }
    let kept = common(&usage.fenced, actual);
    if !kept.is_empty() {
        return Step::Unfence(kept);
    }
    let held = over.saturating_add(extra.len());
    let is_fenced = !usage.fenced.is_empty();
    let label = if held > 0 { Some(PENDING) } else { is_fenced.then_some(DONE) };
    match () {
        () if known.withdrawn != label => Step::Label(label),
        () if held > 0 => Step::Held(held),
        () => Step::Rest,
    }
}

/// Which of the recorded go: what has been kept from everybody for that before others, what is not in the pool before what
/// is, and the lowest of these; never what is held.
fn dropped(recorded: &AddressSet, actual: &AddressSet, usage: &Usage, number: u128) -> AddressSet {
    let idle = without(recorded, &usage.held);
    let (outside, inside) = (without(&idle, actual), common(&idle, actual));
    let sources = [
        common(&outside, &usage.fenced),
        without(&outside, &usage.fenced),
        common(&inside, &usage.fenced),
        without(&inside, &usage.fenced),
    ];
    let mut dropped = AddressSet::default();
    for source in sources {
        dropped = both(&dropped, &lowest(&source, number - dropped.len()));
    }
    dropped
}

fn label(text: Option<&str>) -> Option<&'static str> {
    match text {
        Some(PENDING) => Some(PENDING),
        // Whatever somebody else has written: better to look once more.
        Some(_) => Some(DONE),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: impl IntoIterator<Item = u8>) -> AddressSet {
        AddressSet::from_ranges(numbers.into_iter().map(|number| {
            let address = [10, 0, 0, number].into();
            (address, address)
        }))
    }

    /// Recorded, in the pool, wanted; available are 1 to 9 without the recorded; held, fenced.
    fn step(
        recorded: &AddressSet,
        actual: &AddressSet,
        wanted: u128,
        usage: Option<(AddressSet, AddressSet)>,
        withdrawn: Option<&str>,
    ) -> Step {
        let available = without(&set(1..10), recorded);
        let usage = usage.map(|(held, fenced)| Usage { held, fenced });
        let known = Known {
            recorded,
            actual: Some(actual),
            wanted: Some(wanted),
            available: &available,
            usage: usage.as_ref(),
            withdrawn,
        };
        next(&known)
    }

    #[test]
    fn it_grows_in_the_record_first() {
        assert_eq!(step(&set(1..3), &set(1..3), 2, None, None), Step::Rest);
        assert_eq!(step(&set(2..4), &set(2..4), 4, None, None), Step::Record(set([1, 2, 3, 4])));
        assert_eq!(step(&set(1..5), &set(2..4), 4, None, None), Step::Pool(set(1..5), None));
        assert_eq!(step(&set(1..5), &set(2..4), 4, None, Some(DONE)), Step::Pool(set(1..5), Some(PENDING)));
        assert_eq!(step(&set(1..5), &set(1..5), 10, None, None), Step::Short { required: 6, left: 5 });
    }

    #[test]
    fn it_shrinks_by_the_lowest_that_nobody_holds() {
        let (four, none) = (set(1..5), AddressSet::default);
        assert_eq!(step(&four, &four, 2, None, None), Step::Look);
        let held = || set([1, 3]);
        assert_eq!(step(&four, &four, 3, Some((held(), none())), None), Step::Label(Some(PENDING)));
        assert_eq!(step(&four, &four, 3, Some((held(), none())), Some(PENDING)), Step::Fence(set([2])));
        assert_eq!(
            step(&four, &four, 3, Some((held(), set([2]))), Some(PENDING)),
            Step::Pool(set([1, 3, 4]), Some(PENDING))
        );
        let rest = set([1, 3, 4]);
        assert_eq!(step(&four, &rest, 3, Some((held(), set([2]))), Some(PENDING)), Step::Record(rest.clone()));
        assert_eq!(step(&rest, &rest, 3, Some((held(), set([2]))), Some(PENDING)), Step::Label(Some(DONE)));
        assert_eq!(step(&rest, &rest, 3, None, Some(DONE)), Step::Rest);
        // All are held: it waits.
        assert_eq!(step(&rest, &rest, 2, Some((rest.clone(), none())), Some(PENDING)), Step::Held(1));
        // It grows again before it was done, or after: the slot is opened.
        assert_eq!(step(&four, &four, 4, Some((held(), set([2]))), Some(PENDING)), Step::Unfence(set([2])));
    }

    #[test]
    fn i00018_what_somebody_has_put_in_or_taken_out_is_put_right() {
        let (two, none) = (set(1..3), AddressSet::default);
        assert_eq!(step(&two, &set([1]), 2, None, None), Step::Pool(set(1..3), None));
        let more = set([1, 2, 7, 8]);
        assert_eq!(step(&two, &more, 2, None, None), Step::Look);
        let usage = || Some((none(), set([7, 8])));
        assert_eq!(step(&two, &more, 2, usage(), Some(PENDING)), Step::Pool(two.clone(), Some(PENDING)));
        // A pod has one of them by now: it is recorded, and goes when it is given back.
        let used = Some((set([7]), none()));
        assert_eq!(step(&two, &more, 2, used, Some(PENDING)), Step::Record(set([1, 2, 7])));
    }
}
