//! What of a pool's shards has to change so that addresses in use are whose they are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use plan::lease::tenant::{Reply, Seen};
use plan::lease::{Layout, SlotEdit};
use schemas::slot::{Slot, Subject, TEXT_MAX};

use crate::cluster::leases::requests::Shards;

/// Slots per shard.
const SLOTS: usize = 64;
/// How often a shard is read again after others have changed it.
const ATTEMPTS: usize = 10;
/// No Kubernetes namespace has this name: what is kept so is kept by `dragline adopt` alone.
const RESERVED: &str = "_adopt/";

/// As whose an address is kept until that node has adopted its pods; `_` where no node is known.
pub(super) fn reservation(node: Option<&str>) -> Subject {
    Subject::Fixed { owner: format!("{RESERVED}{}", node.unwrap_or("_")) }
}

fn is_reservation(subject: &Subject) -> bool {
    matches!(subject, Subject::Fixed { owner } if owner.starts_with(RESERVED))
}

/// What is to become of one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Slots to change.
    pub(super) edits: Vec<SlotEdit>,
    /// Wishes that cannot be fulfilled, and why.
    pub(super) refused: BTreeMap<IpAddr, String>,
    /// Reservations that nobody needs any more.
    pub(super) freed: Vec<IpAddr>,
}

/// Whether an address may change hands.
enum Verdict {
    Take,
    Has,
    Refused(String),
}

fn judge(current: Option<&Subject>, wanted: &Subject) -> Verdict {
    match (current, wanted) {
        (None, _) => Verdict::Take,
        (Some(current), wanted) if current == wanted => Verdict::Has,
        // Who was seen to use it is known now.
        (Some(Subject::Quarantined { .. }), _) => Verdict::Take,
        (Some(current), Subject::Node(me)) if *current == reservation(Some(me.node())) => Verdict::Take,
        (Some(current), Subject::Fixed { .. }) if is_reservation(current) => Verdict::Take,
        // That node has adopted it before.
        (Some(Subject::Node(holder)), wanted) if *wanted == reservation(Some(holder.node())) => Verdict::Has,
        (Some(current), _) => Verdict::Refused(format!("the pool's shards have it as {current}'s")),
    }
}

/// What is to become of the shard with these slots. `frees` lets reservations go that are not among the wishes.
pub(super) fn settle(
    layout: &Layout,
    number: u128,
    texts: &[String],
    wishes: &BTreeMap<IpAddr, Subject>,
    frees: bool,
) -> Settled {
    let mut by_slot: BTreeMap<usize, Vec<(u64, IpAddr, &Subject)>> = BTreeMap::new();
    for (address, subject) in wishes {
        if let Some((shard, slot, bit)) = layout.place(*address)
            && shard == number
        {
            by_slot.entry(slot).or_default().push((1 << bit, *address, subject));
        }
    }
    let mut settled = Settled::default();
    for place in 0..SLOTS {
        let wanted = by_slot.remove(&place).unwrap_or_default();
        if !wanted.is_empty() || frees {
            slot(layout, number, (place, texts.get(place).map(String::as_str)), &wanted, frees, &mut settled);
        }
    }
    settled
}

fn slot(
    layout: &Layout,
    number: u128,
    (place, text): (usize, Option<&str>),
    wanted: &[(u64, IpAddr, &Subject)],
    frees: bool,
    settled: &mut Settled,
) {
    let width = layout.width();
    let refuse = |reason: &str| -> Vec<(IpAddr, String)> {
        wanted.iter().map(|(_, address, _)| (*address, reason.to_owned())).collect()
    };
    let known = match text.map(|text| (text, Slot::parse(text, width))) {
        Some((text, Ok(slot))) => (text, slot),
        Some((_, Err(error))) => {
            settled.refused.extend(refuse(&format!("slot {place} of shard {number} cannot be read: {error}")));
            return;
        }
        None => {
            settled.refused.extend(refuse(&format!("shard {number} has no slot {place}")));
            return;
        }
    };
    let (text, slot) = known;
    let mut parts: BTreeMap<&Subject, u64> = slot.parts().iter().map(|(subject, mask)| (subject, *mask)).collect();
    let mut taken = Vec::new();
    for (bit, address, subject) in wanted {
        let current = slot.parts().iter().find(|(_, mask)| mask & bit != 0).map(|(subject, _)| subject);
        match judge(current, subject) {
            Verdict::Take => {
                parts.values_mut().for_each(|mask| *mask &= !bit);
                *parts.entry(subject).or_default() |= bit;
                taken.push(*address);
            }
            Verdict::Has => {}
            Verdict::Refused(reason) => drop(settled.refused.insert(*address, reason)),
        }
    }
    let mut freed = Vec::new();
    if frees {
        let wished = wanted.iter().fold(0, |all, (bit, _, _)| all | bit);
        for mask in parts.iter_mut().filter(|(subject, _)| is_reservation(subject)).map(|(_, mask)| mask) {
            freed.extend(layout.addresses(number, place, *mask & !wished));
            *mask &= wished;
        }
    }
    parts.retain(|_, mask| *mask != 0);
    let written: Vec<String> = parts.iter().map(|(subject, mask)| format!("{subject}:{mask:x}")).collect();
    // Read again, it gets the one text that this slot may have.
    let to = Slot::parse(&written.join(","), width).map(|slot| slot.to_text(width)).unwrap_or_default();
    if to.len() > TEXT_MAX || (to.is_empty() && !parts.is_empty()) {
        let reason = format!("slot {place} of shard {number} has no room for it");
        settled.refused.extend(taken.into_iter().map(|address| (address, reason.clone())));
        return;
    }
    settled.freed.extend(freed);
    if to != text {
        settled.edits.push(SlotEdit { slot: place, from: text.to_owned(), to, ..SlotEdit::default() });
    }
}

/// A pool's shards as they were read.
pub(super) struct View {
    shards: Shards,
    seen: BTreeMap<u128, Seen>,
}

impl View {
    /// Reads them all.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(super) async fn read(shards: Shards) -> Result<Self, String> {
        match shards.clone().list().await {
            Reply::Listed(all) => Ok(Self { shards, seen: all.into_iter().map(|seen| (seen.number, seen)).collect() }),
            _ => Err(format!("the shards of pool {} cannot be listed", shards.pool)),
        }
    }

    /// What would become of it, without changing anything.
    pub(super) fn judge(&self, wishes: &BTreeMap<IpAddr, Subject>, frees: bool) -> Settled {
        let mut all = Settled::default();
        let layout = &self.shards.layout;
        for address in wishes.keys().filter(|address| layout.number(**address).is_none()) {
            all.refused.insert(*address, "it is not of the pool's subnet".to_owned());
        }
        for number in self.numbers(wishes, frees) {
            let settled = settle(layout, number, &self.texts(number), wishes, frees);
            all.edits.extend(settled.edits);
            all.refused.extend(settled.refused);
            all.freed.extend(settled.freed);
        }
        all
    }

    /// Makes it so. What is refused is what others have done since the shards were read.
    ///
    /// # Errors
    /// When it could not be finished: what has been done stands, and doing it again is right.
    pub(super) async fn apply(mut self, wishes: &BTreeMap<IpAddr, Subject>, frees: bool) -> Result<Settled, String> {
        let mut all = Settled::default();
        for number in self.numbers(wishes, frees) {
            let mut left = ATTEMPTS;
            loop {
                if !self.seen.contains_key(&number) {
                    let made = self.shards.clone().create(number).await;
                    self.look(number, made).await?;
                }
                let settled = settle(&self.shards.layout, number, &self.texts(number), wishes, frees);
                if settled.edits.is_empty() {
                    all.refused.extend(settled.refused);
                    all.freed.extend(settled.freed);
                    break;
                }
                left -= 1;
                if left == 0 {
                    return Err(format!("shard {number} of pool {} cannot be written: try again", self.shards.pool));
                }
                let written = self.shards.clone().patch(number, settled.edits).await;
                all.freed.extend(settled.freed);
                self.look(number, written).await?;
            }
        }
        all.freed.sort_unstable();
        all.freed.dedup();
        Ok(all)
    }

    /// Takes what a write shows, or looks what came of it.
    async fn look(&mut self, number: u128, reply: Reply) -> Result<(), String> {
        let reply = match reply {
            Reply::Seen(_) => reply,
            _ => self.shards.clone().get(number, true).await,
        };
        match reply {
            Reply::Seen(seen) => drop(self.seen.insert(number, seen)),
            Reply::Absent => drop(self.seen.remove(&number)),
            Reply::Void => {
                return Err(format!("shard {number} of pool {} is of another pool of that name", self.shards.pool));
            }
            _ => return Err(format!("shard {number} of pool {} cannot be read", self.shards.pool)),
        }
        Ok(())
    }

    fn numbers(&self, wishes: &BTreeMap<IpAddr, Subject>, frees: bool) -> Vec<u128> {
        let wished = wishes.keys().filter_map(|address| self.shards.layout.number(*address));
        let known = self.seen.keys().copied().filter(|_| frees);
        let mut numbers: Vec<u128> = wished.chain(known).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn texts(&self, number: u128) -> Vec<String> {
        self.seen.get(&number).map_or_else(|| vec![String::new(); SLOTS], |seen| seen.slots.clone())
    }
}

#[cfg(test)]
mod tests {
    use schemas::slot::Holder;

    use super::*;

    fn wishes(all: &[(&str, Subject)]) -> BTreeMap<IpAddr, Subject> {
        all.iter().map(|(address, subject)| (address.parse().unwrap(), subject.clone())).collect()
    }

    fn node(text: &str) -> Subject {
        Subject::Node(text.parse::<Holder>().unwrap())
    }

    /// The first two slots (of four addresses each) of 10.6.0.0/24 after that.
    fn after(texts: [&str; 2], wishes: &BTreeMap<IpAddr, Subject>, frees: bool) -> ([String; 2], Settled) {
        let layout = Layout::new("10.6.0.0/24".parse().unwrap(), 256).unwrap();
        let mut slots = vec![String::new(); SLOTS];
        let mut result = texts.map(str::to_owned);
        slots[..2].clone_from_slice(&result);
        let settled = settle(&layout, 0, &slots, wishes, frees);
        for edit in &settled.edits {
            assert_eq!(edit.from, slots[edit.slot]);
            result[edit.slot].clone_from(&edit.to);
        }
        (result, settled)
    }

    #[test]
    fn a_node_takes_what_is_free_quarantined_or_kept_for_it_and_nothing_else() {
        let all = ["10.6.0.0", "10.6.0.1", "10.6.0.2", "10.6.0.3", "10.6.0.4", "10.6.0.5", "10.6.0.6", "10.6.0.7"];
        let wished = wishes(&all.map(|address| (address, node("a~2"))));
        let (texts, settled) = after(["=_adopt/a:1,!17:2,=_adopt/b:4", "b:1,a~2:2,a:4,=_adopt/_:8"], &wished, false);
        assert_eq!(texts, ["a~2:b,=_adopt/b:4", "b:1,a~2:2,a:4,=_adopt/_:8"]);
        let refused: Vec<String> = settled.refused.keys().map(ToString::to_string).collect();
        assert_eq!(refused, ["10.6.0.2", "10.6.0.4", "10.6.0.6", "10.6.0.7"]);
        assert_eq!(settled.refused.values().next().unwrap(), "the pool's shards have it as =_adopt/b's");
        assert_eq!(after(["a~2:b", ""], &wishes(&[("10.6.0.1", node("a~2"))]), false).1, Settled::default());
    }

    #[test]
    fn what_is_in_use_is_kept_and_what_is_no_longer_is_freed() {
        let wished = wishes(&[
            ("10.6.0.0", reservation(Some("a"))),
            ("10.6.0.1", reservation(None)),
            ("10.6.0.4", reservation(Some("a"))),
            ("10.6.0.5", reservation(Some("a"))),
        ]);
        let (texts, settled) = after(["=_adopt/_:9", "a:1,b:2,=shop/cart:4,=_adopt/a:8"], &wished, true);
        assert_eq!(texts, ["=_adopt/a:1,=_adopt/_:2", "a:1,b:2,=shop/cart:4"]);
        let freed: Vec<String> = settled.freed.iter().map(ToString::to_string).collect();
        assert_eq!(freed, ["10.6.0.3", "10.6.0.7"]);
        assert_eq!(settled.refused.len(), 1, "10.6.0.5 is b's: {settled:?}");
        // Once more changes nothing.
        let again = after([&texts[0], &texts[1]], &wished, true);
        assert_eq!((again.0, again.1.edits), (texts, vec![]));
    }

    #[test]
    fn a_slot_that_cannot_be_read_is_left_alone() {
        let wished = wishes(&[("10.6.0.0", node("a"))]);
        let (texts, settled) = after(["what?", ""], &wished, true);
        assert_eq!(texts, ["what?", ""]);
        assert!(settled.refused.values().next().unwrap().starts_with("slot 0 of shard 0 cannot be read"));
    }
}
