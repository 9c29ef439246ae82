//! Which free addresses of a shard to take.

use schemas::slot::{Holder, Slot};

use super::draw::Draw;
use super::layout::SLOTS;
use super::shard::{Shard, SlotEdit};
use super::windows::Windows;

/// Takes up to `wanted` free and usable addresses of a shard for a holder: never more, so that nobody sits on a slot for
/// the sake of one pod.
///
/// First the holder's own slots are filled; then whole free slots are taken at random, as long as all of a slot is wanted;
/// then single addresses, of the fullest slots first, so that whole ones stay free for others; of whole free ones last.
/// Among equals, chance decides, so that two who look at the same text seldom want the same slot. Addresses whose
/// quarantine has ended at `now` (seconds since 1970) come last of all, and are named as suspect.
///
/// Every edit is valid on its own: it may be sent with the others in one patch or without them.
pub fn claim(view: &Shard, windows: &Windows, me: &Holder, wanted: u64, now: u64, seed: u64) -> Vec<SlotEdit> {
    let mut draw = Draw::new(seed);
    let mut taken = [0; SLOTS];
    let mut missing = wanted;
    let free = |slot: &Slot| slot.free(view.layout().width());
    let is_free_again = |slot: &Slot| slot.expired(now);
    missing -= pick(view, windows, me, missing, &free, &mut taken, &mut draw);
    if missing > 0 {
        pick(view, windows, me, missing, &is_free_again, &mut taken, &mut draw);
    }
    view.slots().filter_map(|(place, slot)| edit(view, place, slot, me, taken[place], now)).collect()
}

fn edit(view: &Shard, place: usize, slot: &Slot, me: &Holder, mask: u64, now: u64) -> Option<SlotEdit> {
    let mut new = slot.clone();
    let gained = new.claim(me, mask, now);
    if gained == 0 {
        return None;
    }
    let addresses = |mask| view.layout().addresses(view.number(), place, mask);
    let edit = view.edit(place, &new)?;
    Some(SlotEdit { gained: addresses(gained), suspect: addresses(gained & slot.expired(now)), ..edit })
}

/// How eagerly a slot is taken from: the lesser, the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Own,
    Whole,
    Shared,
    Opened,
}

/// Marks addresses of those that `available` names; gives how many.
fn pick(
    view: &Shard,
    windows: &Windows,
    me: &Holder,
    wanted: u64,
    available: &dyn Fn(&Slot) -> u64,
    taken: &mut [u64; SLOTS],
    draw: &mut Draw,
) -> u64 {
    let width = view.layout().width();
    let mut missing = wanted;
    // A name, a mask, and what sets them apart.
    let room = schemas::slot::TEXT_MAX.saturating_sub(me.to_string().len() + 19);
    let mut slots: Vec<(Rank, u64, usize, u64)> = Vec::new();
    for (place, slot) in view.slots() {
        let usable = windows.usable(view.number(), place);
        let mask = available(slot) & usable & !taken[place];
        let count = u64::from(mask.count_ones());
        if count == 0 || view.text(place).len() > room {
            continue;
        }
        let rank = match slot.of(me) | taken[place] {
            0 if mask == usable && width > 1 => Rank::Whole,
            0 => Rank::Shared,
            _ => Rank::Own,
        };
        // A slot that is a little less full may come first: two do not all go for the same one.
        let fill = count + draw.below(u64::from(width / 4) + 1);
        slots.push((rank, if rank == Rank::Whole { 0 } else { fill }, place, mask));
    }
    draw.shuffle(&mut slots);
    slots.sort_by_key(|(rank, fill, _, _)| (*rank, *fill));
    // Whole ones that are not wanted whole are opened only when nothing else is left.
    let mut opened = Vec::new();
    for (rank, fill, place, mask) in slots {
        if rank == Rank::Whole && u64::from(mask.count_ones()) > missing {
            opened.push((Rank::Opened, fill, place, mask));
            continue;
        }
        missing -= take(place, mask, missing, taken);
    }
    for (_, _, place, mask) in opened {
        missing -= take(place, mask, missing, taken);
    }
    wanted - missing
}

/// Marks the lowest addresses, at most `missing`; gives how many.
fn take(place: usize, mask: u64, missing: u64, taken: &mut [u64; SLOTS]) -> u64 {
    let mut left = mask;
    let mut count = 0;
    while left != 0 && count < missing {
        taken[place] |= left & left.wrapping_neg();
        left &= left - 1;
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use super::super::layout::Layout;
    use super::*;

    fn holder(text: &str) -> Holder {
        text.parse().unwrap()
    }

    /// A pool of one shard of 64 times `width` addresses, the first 208 of which, at most, are usable.
    fn pool(width: u32) -> Windows {
        let layout = Layout::new("10.6.0.0/16".parse().unwrap(), width * 64).unwrap();
        Windows::new(layout, &[("10.6.0.0".parse().unwrap(), "10.6.0.207".parse().unwrap())])
    }

    fn shard(windows: &Windows, texts: &[(usize, &str)]) -> Shard {
        let mut slots = vec![String::new(); SLOTS];
        for (place, text) in texts {
            slots[*place] = (*text).to_owned();
        }
        Shard::read(*windows.layout(), 0, &slots)
    }

    fn gained(edits: &[SlotEdit]) -> BTreeSet<IpAddr> {
        let all: Vec<IpAddr> = edits.iter().flat_map(|edit| edit.gained.clone()).collect();
        let set: BTreeSet<IpAddr> = all.iter().copied().collect();
        assert_eq!(set.len(), all.len());
        set
    }

    #[test]
    fn as_many_as_are_wanted_and_no_more() {
        let (windows, me) = (pool(16), holder("me"));
        let view = shard(&windows, &[(0, "b:ff"), (1, "b"), (2, "what?"), (3, "b,c")]);
        for wanted in 0..=300 {
            // 208 usable ones, without 8 and 16 that are b's and two slots that are unclear.
            assert_eq!(
                gained(&claim(&view, &windows, &me, wanted, 0, wanted)).len() as u64,
                wanted.min(152),
                "{wanted}"
            );
        }
        assert!(claim(&view, &windows, &me, u64::MAX, 0, 1).iter().all(|edit| edit.slot != 2 && edit.slot != 3));
    }

    #[test]
    fn the_own_slot_first_then_the_fullest_and_whole_ones_only_whole() {
        let (windows, me) = (pool(16), holder("me"));
        let view = shard(&windows, &[(0, "b:fff"), (1, "b:f"), (2, "me:1")]);
        let slots = |wanted: u64, seed: u64| -> BTreeSet<usize> {
            claim(&view, &windows, &me, wanted, 0, seed).iter().map(|edit| edit.slot).collect()
        };
        for seed in 0..50 {
            assert_eq!(slots(1, seed), [2].into());
            assert_eq!(slots(15, seed), [2].into());
            assert!(slots(16, seed) == [0, 2].into());
            // 15 of its own, a whole one, then one of the fullest.
            let many = slots(15 + 16 + 1, seed);
            assert!(many.contains(&0) && many.contains(&2) && !many.contains(&1) && many.len() == 3, "{many:?}");
        }
        let empty = shard(&windows, &[]);
        let chosen: BTreeSet<usize> =
            (0..50).flat_map(|seed| claim(&empty, &windows, &me, 16, 0, seed)).map(|edit| edit.slot).collect();
        assert!(chosen.len() > 8, "at random: {chosen:?}");
        assert_eq!(claim(&empty, &windows, &me, 16, 0, 3)[0].to, "me");
    }

    #[test]
    fn quarantine_is_broken_only_when_it_has_ended_and_nothing_else_is_left() {
        let (windows, me) = (pool(1), holder("me"));
        let mut texts = vec!["b".to_owned(); SLOTS];
        texts[4] = "!100".into();
        texts[5] = "!101".into();
        texts[6] = "=shop/cart".into();
        texts[7] = String::new();
        let view = Shard::read(*windows.layout(), 0, &texts);
        let early = claim(&view, &windows, &me, 1, 100, 1);
        assert_eq!((early[0].slot, early[0].suspect.len()), (7, 0));
        let all = claim(&view, &windows, &me, 9, 100, 1);
        assert_eq!(all.iter().map(|edit| edit.slot).collect::<Vec<_>>(), [4, 7]);
        assert_eq!(all[0].suspect, all[0].gained);
        assert_eq!(all[0].from, "!100");
    }

    #[test]
    fn a_slot_with_no_place_for_another_name_is_left() {
        let (windows, me) = (pool(64), holder(&"m".repeat(253)));
        let parts: Vec<String> = (0..56).map(|bit| format!("{}{bit}:{:x}", "n".repeat(60), 1u64 << bit)).collect();
        let view = shard(&windows, &[(0, &parts.join(","))]);
        assert!(view.slot(0).is_some());
        let edits = claim(&view, &windows, &me, 1, 0, 0);
        assert_eq!((edits.len(), gained(&edits).len()), (1, 1));
        assert_ne!(edits[0].slot, 0);
    }
}
