//! What has happened to each sandbox, for people: a bounded number of entries, written with the change that they tell of.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use schemas::history::{HistoryEntry, HistoryEvent};
use schemas::intent::{Attachment, LinkKindIntent};
use schemas::name::ContainerId;
use store::Change;

use crate::ledger::{SandboxRecords, Update};

/// Entries kept of a sandbox.
const ENTRIES: usize = 32;
/// Sandboxes that have ended and are still told of.
const ENDED: usize = 256;
/// The most of them that one change forgets. Sandboxes that end at the same time all see the same ones as the oldest: were
/// it as many as end, there would be more of them with every such time.
const FORGOTTEN: usize = 64;
/// Steps told in one entry; of more, how many there were.
const STEPS: usize = 16;
/// The longest text of an entry, in characters.
const TEXT: usize = 800;

/// Which entries of all sandboxes there are, as far as they are durable. The entries themselves are in the store alone.
#[derive(Debug, Default)]
pub struct History {
    entries: BTreeMap<ContainerId, Told>,
    /// Those that have no records any more, the longest ago first.
    ended: VecDeque<ContainerId>,
}

/// What is told of a sandbox.
#[derive(Debug, Default)]
struct Told {
    /// Ascending.
    numbers: VecDeque<u64>,
    /// When the last was, in milliseconds since 1970.
    last_ms: u64,
}

/// Entries on their way into the store, and what they push out.
#[derive(Debug, Default)]
pub struct Telling {
    put: Vec<HistoryEntry>,
    deleted: Vec<(ContainerId, u64)>,
    forgotten: Vec<ContainerId>,
}

impl Telling {
    /// The change with these entries in it.
    #[must_use]
    pub fn into_change(&self, change: Change) -> Change {
        let change = self.put.iter().fold(change, |change, entry| change.put_history(entry));
        self.deleted.iter().fold(change, |change, (container, number)| change.delete_history(container, *number))
    }
}

impl History {
    /// What the store has; `lives` says which sandboxes have records.
    pub fn load(entries: Vec<HistoryEntry>, lives: impl Fn(&ContainerId) -> bool) -> Self {
        let mut history = Self::default();
        entries.iter().for_each(|entry| history.add(entry));
        let mut ended: Vec<_> = history.entries.iter().filter(|(container, _)| !lives(container)).collect();
        ended.sort_by_key(|(_, told)| told.last_ms);
        history.ended = ended.into_iter().map(|(container, _)| container.clone()).collect();
        history
    }

    /// What an update is to people.
    pub fn tell(
        &self,
        container: &ContainerId,
        before: Option<&SandboxRecords>,
        update: &Update,
        now: SystemTime,
    ) -> Telling {
        let events = events(before, update);
        if events.is_empty() {
            return Telling::default();
        }
        let known = self.entries.get(container);
        let is_ended = events.last() == Some(&HistoryEvent::Ended);
        let first = known.and_then(|told| told.numbers.back()).map_or(1, |number| number + 1);
        let time_ms = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let generation = update.sandbox.as_ref().or(before.map(|before| &before.sandbox)).map_or(0, |it| it.generation);
        let attachments = update.put.iter().chain(before.into_iter().flat_map(|before| before.attachments.values()));
        let pod = attachments.map(|attachment| &attachment.pod).find(|pod| pod.is_named());
        let pod = pod.map(ToString::to_string).unwrap_or_default();
        let entry = |(number, event)| HistoryEntry {
            container: container.clone(),
            number,
            time_ms,
            generation,
            pod: pod.clone(),
            event,
        };
        let put: Vec<HistoryEntry> = (first..).zip(events).map(entry).collect();
        let known = known.into_iter().flat_map(|told| &told.numbers);
        let too_many = (known.clone().count() + put.len()).saturating_sub(ENTRIES);
        let mut deleted: Vec<_> = known.take(too_many).map(|number| (container.clone(), *number)).collect();
        let too_many = if is_ended { (self.ended.len() + 1).saturating_sub(ENDED).min(FORGOTTEN) } else { 0 };
        let forgotten: Vec<ContainerId> = self.ended.iter().take(too_many).cloned().collect();
        let gone = forgotten.iter().filter_map(|oldest| self.entries.get_key_value(oldest));
        deleted.extend(gone.flat_map(|(gone, told)| told.numbers.iter().map(|number| (gone.clone(), *number))));
        Telling { put, deleted, forgotten }
    }

    /// Takes over what has become durable.
    pub fn publish(&mut self, told: Telling) {
        for (container, number) in told.deleted {
            if let Some(known) = self.entries.get_mut(&container) {
                known.numbers.retain(|known| *known != number);
            }
        }
        if !told.forgotten.is_empty() {
            told.forgotten.iter().for_each(|container| drop(self.entries.remove(container)));
            self.ended.retain(|container| !told.forgotten.contains(container));
        }
        for entry in told.put {
            self.ended.retain(|container| *container != entry.container);
            if entry.event == HistoryEvent::Ended {
                self.ended.push_back(entry.container.clone());
            }
            self.add(&entry);
        }
    }

    fn add(&mut self, entry: &HistoryEntry) {
        let told = self.entries.entry(entry.container.clone()).or_default();
        told.numbers.push_back(entry.number);
        told.last_ms = entry.time_ms;
    }
}

fn events(before: Option<&SandboxRecords>, update: &Update) -> Vec<HistoryEvent> {
    let mut events = Vec::new();
    for attachment in &update.put {
        let known = before.and_then(|before| before.attachments.get(&attachment.key.ifname));
        let ifname = attachment.key.ifname.clone();
        if attachment.closing && !known.is_some_and(|known| known.closing) {
            events.push(HistoryEvent::Withdrawn { ifname });
        } else if !attachment.closing && known.map(wanted) != Some(wanted(attachment)) {
            events.push(HistoryEvent::Intended { ifname, wanted: wanted(attachment) });
        }
    }
    if let Some(told) = &update.told {
        let steps = shortened(&told.steps);
        match (told.steps.is_empty(), told.is_repair) {
            (true, _) => {}
            (false, true) => events.push(HistoryEvent::Repaired { steps }),
            (false, false) => events.push(HistoryEvent::Applied { steps }),
        }
        let known = before.map(|before| before.sandbox.outcome.error.as_str()).unwrap_or_default();
        if !told.error.is_empty() && told.error != known {
            events.push(HistoryEvent::Failed { error: cut(&told.error) });
        }
    }
    if update.sandbox.is_none() {
        events.push(HistoryEvent::Ended);
    }
    events
}

/// What is wanted of an attachment, as a sentence.
fn wanted(attachment: &Attachment) -> String {
    let mut parts = vec![format!("network {}", attachment.network)];
    if let Some(link) = attachment.link.as_ref().filter(|_| attachment.link_wanted) {
        let kind = match link.kind {
            LinkKindIntent::Macvlan(mode) => format!("macvlan ({mode:?})").to_lowercase(),
            LinkKindIntent::Ipvlan(mode) => format!("ipvlan ({mode:?})").to_lowercase(),
        };
        parts.push(format!("{kind} on {}", link.master));
    }
    for assigned in &attachment.addresses {
        match assigned.pool.as_str() {
            "" => parts.push(format!("address {}", assigned.address)),
            pool => parts.push(format!("address {} of pool {pool}", assigned.address)),
        }
    }
    for route in &attachment.routes {
        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        parts.push(format!("route {}{via}", route.dst));
    }
    if let Some(uplink) = &attachment.uplink {
        let name = uplink.vlan_name().or(uplink.base().map(ToString::to_string)).unwrap_or_default();
        parts.push(format!("uplink {name}"));
    }
    if attachment.coordinate.is_some() {
        parts.push("routes in order".to_owned());
    }
    cut(&parts.join(", "))
}

fn shortened(steps: &[String]) -> Vec<String> {
    let mut told: Vec<String> = steps.iter().take(STEPS).map(|step| cut(step)).collect();
    if steps.len() > STEPS {
        told.push(format!("and {} more", steps.len() - STEPS));
    }
    told
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
