//! A shard as it was read, and what is to change of it.

use std::net::IpAddr;

use schemas::slot::{Holder, Slot};
use serde_json::{Value, json};

use super::layout::{Layout, SLOTS};

/// One shard as an answer of the API server showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    layout: Layout,
    number: u128,
    /// At most 64: the text, and what it says unless it is unclear.
    slots: Vec<(String, Option<Slot>)>,
}

impl Shard {
    /// Reads the texts of a shard's slots. One that is unclear or missing is nobody's to change; those after the 64th are
    /// left out.
    pub fn read(layout: Layout, number: u128, texts: &[String]) -> Self {
        let slots =
            texts.iter().take(SLOTS).map(|text| (text.clone(), Slot::parse(text, layout.width()).ok())).collect();
        Self { layout, number, slots }
    }

    /// Which shard.
    pub fn number(&self) -> u128 {
        self.number
    }

    /// How the pool is cut.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The slots whose text is clear, by their places.
    pub fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter_map(|(place, (_, slot))| slot.as_ref().map(|slot| (place, slot)))
    }

    /// One slot; none when its text is unclear or missing.
    pub fn slot(&self, place: usize) -> Option<&Slot> {
        self.slots.get(place).and_then(|(_, slot)| slot.as_ref())
    }

    /// A slot's text as it was read; empty when there is no such slot.
    pub fn text(&self, place: usize) -> &str {
        self.slots.get(place).map_or("", |(text, _)| text)
    }

    /// The places and texts of those that cannot be read, to be reported.
    pub fn unclear(&self) -> impl Iterator<Item = (usize, &str)> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, (_, slot))| slot.is_none())
            .map(|(place, (text, _))| (place, text.as_str()))
    }

    /// The addresses that a holder has here, ascending.
    pub fn held(&self, holder: &Holder) -> Vec<IpAddr> {
        self.slots().flat_map(|(place, slot)| self.layout.addresses(self.number, place, slot.of(holder))).collect()
    }

    /// The addresses that a holder has here and does not know of: others have handed them over, or an answer was lost.
    pub fn handed(&self, holder: &Holder, is_known: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let mut handed = self.held(holder);
        handed.retain(|address| !is_known(*address));
        handed
    }

    /// What changes a slot's text to that of `new`; none when it is no other, or longer than the API server takes it.
    pub(super) fn edit(&self, place: usize, new: &Slot) -> Option<SlotEdit> {
        let (from, _) = self.slots.get(place)?;
        let to = new.to_text(self.layout.width());
        let is_edit = *from != to && to.len() <= schemas::slot::TEXT_MAX;
        is_edit.then(|| SlotEdit { slot: place, from: from.clone(), to, ..SlotEdit::default() })
    }
}

/// The change of one slot, valid only while it has its old text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotEdit {
    /// Which slot of the shard, 0 to 63.
    pub slot: usize,
    /// The text that it must have, as it was read.
    pub from: String,
    /// The text that it is to have.
    pub to: String,
    /// The addresses that the holder has by it and had not before.
    pub gained: Vec<IpAddr>,
    /// Those of the gained ones that were in quarantine: to be looked for on the wire before they are given.
    pub suspect: Vec<IpAddr>,
    /// The addresses that the holder does not have any more.
    pub lost: Vec<IpAddr>,
}

/// The edits as a JSON patch (RFC 6902) of the shard's status: all of them happen, or none.
pub fn json_patch(edits: &[SlotEdit]) -> Value {
    let path = |edit: &SlotEdit| format!("/status/slots/{}", edit.slot);
    let tests = edits.iter().map(|edit| json!({"op": "test", "path": path(edit), "value": edit.from}));
    let replacements = edits.iter().map(|edit| json!({"op": "replace", "path": path(edit), "value": edit.to}));
    tests.chain(replacements).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_read() {
        let layout = Layout::new("10.6.0.0/16".parse().unwrap(), 256).unwrap();
        let mut texts = vec![String::new(); 65];
        texts[1] = "a".into();
        texts[2] = "b:1,a:2".into();
        texts[3] = "what?".into();
        let shard = Shard::read(layout, 1, &texts);
        assert_eq!(shard.slots().count(), 63);
        assert_eq!(shard.unclear().collect::<Vec<_>>(), [(3, "what?")]);
        let a: Holder = "a".parse().unwrap();
        let texts = |addresses: Vec<IpAddr>| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(texts(shard.held(&a)), ["10.6.1.4", "10.6.1.5", "10.6.1.6", "10.6.1.7", "10.6.1.9"]);
        let known = shard.held(&a)[0];
        assert_eq!(shard.handed(&a, |address| address == known).len(), 4);
        assert_eq!(Shard::read(layout, 1, &[]).slots().count(), 0);
    }

    #[test]
    fn a_patch_tests_first_and_then_replaces() {
        let edits = [
            SlotEdit { slot: 3, from: String::new(), to: "a".into(), ..SlotEdit::default() },
            SlotEdit { slot: 9, from: "b:1".into(), to: "b:1,a:2".into(), ..SlotEdit::default() },
        ];
        assert_eq!(
            json_patch(&edits).to_string(),
            concat!(
                r#"[{"op":"test","path":"/status/slots/3","value":""},{"op":"test","path":"/status/slots/9","value":"b:1"},"#,
                r#"{"op":"replace","path":"/status/slots/3","value":"a"},{"op":"replace","path":"/status/slots/9","value":"b:1,a:2"}]"#,
            )
        );
    }
}
