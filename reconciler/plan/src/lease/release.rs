//! Giving addresses back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemas::slot::{Holder, Slot};

use super::shard::{Shard, SlotEdit};

/// Gives addresses of a shard back: to everybody, or `to` another holder. Also names those of them that the holder does
/// not have here, of which nothing is changed.
pub fn release(view: &Shard, me: &Holder, addresses: &[IpAddr], to: Option<&Holder>) -> (Vec<SlotEdit>, Vec<IpAddr>) {
    let (edits, not_mine) = give_up(view, addresses, |slot, mask| match to {
        Some(to) => slot.hand_over(me, to, mask),
        None => slot.release(me, mask),
    });
    match to {
        // A slot of many long names has no place for another: then it goes to everybody.
        Some(_) if edits.iter().any(Option::is_none) => release(view, me, addresses, None),
        _ => (edits.into_iter().flatten().collect(), not_mine),
    }
}

/// Keeps addresses of a holder for an owner, see [`schemas::reservation`]. Also names those that the holder does not have
/// here.
pub fn reserve(view: &Shard, me: &Holder, addresses: &[IpAddr], owner: &str) -> (Vec<SlotEdit>, Vec<IpAddr>) {
    let (edits, not_mine) = give_up(view, addresses, |slot, mask| slot.reserve(me, owner, mask));
    // A slot of many long names has no place for another: what cannot be kept goes to everybody.
    if edits.iter().any(Option::is_none) {
        return release(view, me, addresses, None);
    }
    (edits.into_iter().flatten().collect(), not_mine)
}

/// Keeps addresses of a holder from everybody until then (seconds since 1970, UTC): somebody else uses them. Also names
/// those that the holder does not have here.
pub fn quarantine(view: &Shard, me: &Holder, addresses: &[IpAddr], until: u64) -> (Vec<SlotEdit>, Vec<IpAddr>) {
    let (edits, not_mine) = give_up(view, addresses, |slot, mask| slot.quarantine(me, mask, until));
    (edits.into_iter().flatten().collect(), not_mine)
}

/// An edit is none when it cannot be written.
fn give_up(
    view: &Shard,
    addresses: &[IpAddr],
    change: impl Fn(&mut Slot, u64) -> u64,
) -> (Vec<Option<SlotEdit>>, Vec<IpAddr>) {
    let mut not_mine = Vec::new();
    let mut masks: BTreeMap<usize, u64> = BTreeMap::new();
    for address in addresses {
        match view.layout().place(*address) {
            Some((number, slot, bit)) if number == view.number() && view.slot(slot).is_some() => {
                *masks.entry(slot).or_default() |= 1 << bit;
            }
            _ => not_mine.push(*address),
        }
    }
    let mut edits = Vec::new();
    for (place, mask) in masks {
        let Some(slot) = view.slot(place) else { continue };
        let mut new = slot.clone();
        let lost = change(&mut new, mask);
        let named = |mask| view.layout().addresses(view.number(), place, mask);
        not_mine.extend(named(mask & !lost));
        if lost != 0 {
            edits.push(view.edit(place, &new).map(|edit| SlotEdit { lost: named(lost), ..edit }));
        }
    }
    (edits, not_mine)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::claim::claim;
    use super::super::layout::{Layout, SLOTS};
    use super::super::windows::Windows;
    use super::*;

    fn holder(text: &str) -> Holder {
        text.parse().unwrap()
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_what_is_mine_is_given_back() {
        let layout = Layout::new("10.6.0.0/16".parse().unwrap(), 256).unwrap();
        let mut texts = vec![String::new(); SLOTS];
        texts[0] = "b:1,me:e".into();
        texts[1] = "me".into();
        texts[2] = "what?".into();
        let view = Shard::read(layout, 0, &texts);
        let me = holder("me");
        let all = addresses(&["10.6.0.0", "10.6.0.1", "10.6.0.4", "10.6.0.5", "10.6.0.8", "10.6.1.0", "10.7.0.0"]);
        let (edits, not_mine) = release(&view, &me, &all, None);
        assert_eq!(edits.iter().map(|edit| edit.to.as_str()).collect::<Vec<_>>(), ["b:1,me:c", "me:c"]);
        assert_eq!(edits[1].lost, addresses(&["10.6.0.4", "10.6.0.5"]));
        assert_eq!(not_mine, addresses(&["10.6.0.8", "10.6.1.0", "10.7.0.0", "10.6.0.0"]));
        let (edits, _) = release(&view, &me, &all, Some(&holder("c~3")));
        assert_eq!(edits[0].to, "b:1,c~3:2,me:c");
        let (edits, _) = quarantine(&view, &me, &all, 77);
        assert_eq!(edits[1].to, "!77:3,me:c");
        assert_eq!(release(&view, &me, &[], None), (vec![], vec![]));
    }

    /// What the API server does with a patch: all of it or nothing.
    fn patch(texts: &mut [String], edits: &[SlotEdit]) -> bool {
        let is_valid = edits.iter().all(|edit| texts[edit.slot] == edit.from);
        if is_valid {
            edits.iter().for_each(|edit| texts[edit.slot].clone_from(&edit.to));
        }
        is_valid
    }

    proptest! {
        /// Claims, releases and hand-overs of four holders, each deciding from an older text: what an answer says one has
        /// is what the texts say, and nobody has what another one has.
        #[test]
        fn no_address_has_two_owners(
            width in prop::sample::select(vec![1u32, 2, 16, 64]),
            steps in prop::collection::vec((0usize..4, 0usize..3, 0u64..40, 0usize..6, any::<u64>()), 0..60),
        ) {
            let layout = Layout::new("10.6.0.0/16".parse().unwrap(), width * 64).unwrap();
            let windows = Windows::new(layout, &[("10.6.0.3".parse().unwrap(), "10.6.0.60".parse().unwrap())]);
            let holders = ["a", "b", "c~2", "c"].map(holder);
            let mut owned: Vec<std::collections::BTreeSet<IpAddr>> = vec![Default::default(); 4];
            let mut history = vec![vec![String::new(); SLOTS]];
            for (who, kind, count, age, seed) in steps {
                let view = Shard::read(layout, 0, &history[history.len().saturating_sub(1 + age)]);
                let mut texts = history.last().unwrap().clone();
                let chosen: Vec<IpAddr> = owned[who].iter().copied().take(count as usize).collect();
                let to = (who + 1) % 4;
                let edits = match kind {
                    0 => claim(&view, &windows, &holders[who], count, 5, seed),
                    1 => release(&view, &holders[who], &chosen, None).0,
                    _ => release(&view, &holders[who], &chosen, Some(&holders[to])).0,
                };
                if !patch(&mut texts, &edits) {
                    continue;
                }
                for edit in &edits {
                    for address in &edit.gained {
                        prop_assert!(windows.is_usable(*address));
                        prop_assert!(owned.iter().all(|set| !set.contains(address)), "{} has an owner", address);
                        owned[who].insert(*address);
                    }
                    for address in &edit.lost {
                        prop_assert!(owned[who].remove(address));
                        if kind == 2 { owned[to].insert(*address); }
                    }
                }
                let now = Shard::read(layout, 0, &texts);
                for (holder, owned) in holders.iter().zip(&owned) {
                    prop_assert_eq!(&now.held(holder), &owned.iter().copied().collect::<Vec<_>>());
                }
                history.push(texts);
            }
        }
    }
}
