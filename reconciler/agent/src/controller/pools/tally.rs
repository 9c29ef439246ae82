//! How many of a pool's addresses are in use, held, or left.

use std::collections::BTreeSet;
use std::sync::Arc;

use schemas::crd::ip_shard::SLOTS;
use schemas::slot::Subject;

use super::read::Name;
use super::shard::Shard;
use super::space::Space;

/// Addresses that endpoints name, each with its endpoint; one address may be named twice.
pub type Named = BTreeSet<(u128, Arc<Name>)>;

/// The counts of a pool. `used` ≤ `leased` ≤ `total`, whatever was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// The pool's addresses.
    pub total: i64,
    /// Those of the total that an endpoint names, or that a silent node holds, or whose slot is unclear.
    pub used: i64,
    /// Those of the total that a node holds, and the used ones.
    pub leased: i64,
    /// Addresses that endpoints name and that are not in the total any more.
    pub outside: i64,
    /// How many may be given at all.
    pub givable: i64,
    /// Those of the givable that are in use, as `used` counts.
    pub busy: i64,
    /// Those of the total that silent nodes hold.
    pub unheard: i64,
    /// A slot whose text is unclear, as `shard/slot`; all of its addresses count as in use.
    pub unclear: Option<String>,
}

/// Counts. The cost grows with the shards and the named addresses, not with the pool.
pub fn tally<'a>(
    space: &Space,
    shards: impl IntoIterator<Item = (&'a str, &'a Shard)>,
    named: &Named,
    mut is_silent: impl FnMut(&str) -> bool,
) -> Tally {
    let mut tally = Tally { total: space.all.count(), givable: space.givable.count(), ..Tally::default() };
    let mut rest = named.iter().map(|(number, _)| *number).peekable();
    let mut windows: Vec<(&str, &Shard)> = shards.into_iter().collect();
    windows.sort_by_key(|(_, shard)| shard.first);
    for (name, shard) in windows {
        tally.loose(space, &mut rest, |number| number < shard.first);
        let mut named = [0_u64; SLOTS];
        while let Some(number) = rest.next_if(|number| *number <= shard.last()) {
            // Windows do not overlap, but shards are what others have written.
            let Some(offset) = number.checked_sub(shard.first) else { continue };
            let (slot, bit) = (offset / u128::from(shard.width), offset % u128::from(shard.width));
            if let Some(mask) = usize::try_from(slot).ok().and_then(|slot| named.get_mut(slot)) {
                *mask |= 1 << bit;
            }
        }
        for (index, (held, named)) in shard.slots.iter().zip(named).enumerate() {
            let first = shard.first_of(index);
            let all = space.all.mask(first, shard.width);
            tally.outside += ones(named & !all);
            if all == 0 || held.text.is_empty() && named == 0 {
                continue;
            }
            let (mut nodes, mut silent, mut unclear) = (0, 0, 0);
            match &held.slot {
                Some(slot) => {
                    for (subject, mask) in slot.parts() {
                        if let Subject::Node(holder) = subject {
                            nodes |= mask;
                            silent |= if is_silent(holder.node()) { *mask } else { 0 };
                        }
                    }
                }
                None => {
                    unclear = shard.whole();
                    tally.unclear.get_or_insert_with(|| format!("{name}/{index}"));
                }
            }
            let used = named | silent | unclear;
            tally.used += ones(all & used);
            tally.leased += ones(all & (used | nodes));
            tally.unheard += ones(all & silent);
            tally.busy += ones(space.givable.mask(first, shard.width) & used);
        }
    }
    tally.loose(space, &mut rest, |_| true);
    tally
}

impl Tally {
    /// Counts named addresses that no shard covers, as long as they are meant.
    fn loose(
        &mut self,
        space: &Space,
        rest: &mut std::iter::Peekable<impl Iterator<Item = u128>>,
        is_meant: impl Fn(u128) -> bool,
    ) {
        let mut before = None;
        while let Some(number) = rest.next_if(|number| is_meant(*number)) {
            if before.replace(number) == Some(number) {
                continue;
            }
            if space.all.contains(number) {
                self.used += 1;
                self.leased += 1;
                self.busy += i64::from(space.givable.contains(number));
            } else {
                self.outside += 1;
            }
        }
    }
}

fn ones(mask: u64) -> i64 {
    mask.count_ones().into()
}
