//! Addresses of pods that have an identity, when the identity is over.
//!
//! | what | goes when | after asking |
//! |---|---|---|
//! | the endpoint of an identity | its pod is not there, **and** its controller does not make another one of that name, or the switch is off | for the pod, and for the controller |
//! | a reservation of an address | its endpoint is not there, or names another address for the same interface, for a while | for the endpoint |
//!
//! In that order: who looks for its addresses finds them all or none. Controllers are asked for, not watched: of kinds that
//! anybody may define, and only while a pod is missing, ever more seldom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::reservation::Reservation;
use schemas::slot::Subject;

use super::agents::Moment;
use super::cleanup::{COOLDOWN, Chore, Findings};
use super::cluster::{Cluster, Endpoint};
use super::read::Name;
use super::shard::Shard;
use crate::catalogue::Owner;

/// How long a pod of an identity is missing before its controller is asked for, and the longest time between two such
/// questions (the period of the original's scan).
const ASKS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// How long a reservation is without an endpoint that names it before it ends.
const LOOSE: Duration = Duration::from_secs(10);

/// What is remembered.
#[derive(Debug, Default)]
pub struct Memory {
    asked: BTreeMap<Arc<Name>, Asked>,
    loose: BTreeMap<(String, usize, String), Instant>,
}

/// When a controller was asked for.
#[derive(Debug, Clone)]
struct Asked {
    pod_uid: String,
    last: Instant,
    wait: Duration,
}

/// An endpoint whose pod is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub name: Name,
    /// Its UID.
    pub uid: String,
    /// The UID of the pod that must not be there.
    pub pod_uid: String,
    /// Who would make the next one.
    pub owner: Owner,
    /// It would not keep its addresses.
    pub is_off: bool,
    /// What has to go before it can go.
    pub finalizers: Vec<String>,
}

/// Reservations of one owner in one shard that end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The shard.
    pub shard: String,
    /// For whom.
    pub owner: Reservation,
    /// The addresses, as numbers, and whether they are IPv4's.
    pub addresses: (bool, Vec<u128>),
    /// Index, old and new text of each slot.
    pub edits: Vec<(usize, String, String)>,
}

/// Looks for what is over.
pub(super) fn find(cluster: &Cluster, memory: &mut Memory, now: Moment, findings: &mut Findings) {
    find_missing(cluster, memory, now, findings);
    find_loose(cluster, memory, now, findings);
}

fn find_missing(cluster: &Cluster, memory: &mut Memory, now: Moment, findings: &mut Findings) {
    let mut asked = BTreeMap::new();
    for (name, since) in &cluster.orphans {
        let Some(endpoint) = cluster.endpoints.get(name) else { continue };
        let Some(owner) = endpoint.keeper() else { continue };
        let before = memory.asked.remove(name).filter(|asked| asked.pod_uid == endpoint.pod_uid);
        let (last, wait) = before.as_ref().map_or((*since, ASKS.0), |asked| (asked.last, asked.wait));
        let rest = wait.saturating_sub(now.steady.saturating_duration_since(last));
        if !rest.is_zero() {
            findings.wait(rest);
            asked.extend(before.map(|before| (name.clone(), before)));
            continue;
        }
        let wait = before.map_or(ASKS.0, |before| (before.wait * 2).min(ASKS.1));
        asked.insert(name.clone(), Asked { pod_uid: endpoint.pod_uid.clone(), last: now.steady, wait });
        findings.wait(wait);
        findings.chores.push(Chore::Missing(Missing {
            name: Name::clone(name),
            uid: endpoint.uid.clone(),
            pod_uid: endpoint.pod_uid.clone(),
            owner: owner.clone(),
            is_off: !cluster.is_kept(endpoint),
            finalizers: endpoint.finalizers.clone(),
        }));
    }
    memory.asked = asked;
}

fn find_loose(cluster: &Cluster, memory: &mut Memory, now: Moment, findings: &mut Findings) {
    let mut loose = BTreeMap::new();
    for (name, shard) in cluster.shards.iter().filter(|(_, shard)| shard.has_kept) {
        let mut ends: BTreeMap<Reservation, Vec<usize>> = BTreeMap::new();
        for (index, reservation) in reservations(shard) {
            let addresses = kept_numbers(shard, index, &reservation);
            let endpoint = cluster.endpoints.get(&named(&reservation));
            if !endpoint.is_none_or(|endpoint| is_superseded(endpoint, &reservation, shard.is_v4, &addresses)) {
                continue;
            }
            let key = (name.clone(), index, reservation.to_string());
            let since = memory.loose.get(&key).copied().unwrap_or(now.steady);
            loose.insert(key, since);
            let rest = LOOSE.saturating_sub(now.steady.saturating_duration_since(since));
            if rest.is_zero() {
                ends.entry(reservation).or_default().push(index);
            } else {
                findings.wait(rest);
            }
        }
        findings
            .chores
            .extend(ends.into_iter().map(|(owner, slots)| Chore::Ended(end(name, shard, owner, &slots, now))));
    }
    memory.loose = loose;
}

fn end(name: &str, shard: &Shard, owner: Reservation, slots: &[usize], now: Moment) -> Ended {
    // What has not been looked for since its node died is looked for by whoever claims it.
    let until = owner.is_unsure.then(|| now.unix() + COOLDOWN.as_secs());
    let text = owner.to_string();
    let mut edits = Vec::new();
    let mut addresses = Vec::new();
    for index in slots {
        let Some((held, slot)) = shard.slots.get(*index).and_then(|held| Some((held, held.slot.as_ref()?))) else {
            continue;
        };
        addresses.extend(kept_numbers(shard, *index, &owner));
        let mut changed = slot.clone();
        changed.let_go(&text, u64::MAX, until);
        edits.push((*index, held.text.clone(), changed.to_text(shard.width)));
    }
    Ended { shard: name.to_owned(), addresses: (shard.is_v4, addresses), owner, edits }
}

/// The reservations of a shard's slots. Those of which it is not clear for whom they are stay.
fn reservations(shard: &Shard) -> impl Iterator<Item = (usize, Reservation)> {
    let slots = shard.slots.iter().enumerate().filter_map(|(index, held)| Some((index, held.slot.as_ref()?)));
    slots.flat_map(|(index, slot)| {
        slot.parts().iter().filter_map(move |(subject, _)| match subject {
            Subject::Fixed { owner } => Some((index, owner.parse().ok()?)),
            Subject::Node(_) | Subject::Quarantined { .. } => None,
        })
    })
}

fn kept_numbers(shard: &Shard, index: usize, owner: &Reservation) -> Vec<u128> {
    let text = owner.to_string();
    let mask =
        shard.slots.get(index).and_then(|held| held.slot.as_ref()).map_or(0, |slot| slot.kept(|kept| kept == text));
    (0..shard.width).filter(|bit| mask & (1 << bit) != 0).map(|bit| shard.first_of(index) + u128::from(bit)).collect()
}

/// The endpoint of an identity.
pub(super) fn named(reservation: &Reservation) -> Name {
    Name { namespace: reservation.namespace.clone(), name: reservation.name.clone() }
}

/// Whether the identity has other addresses for that interface by now. An interface that its endpoint does not name may
/// be about to get its own.
pub(super) fn is_superseded(endpoint: &Endpoint, owner: &Reservation, is_v4: bool, addresses: &[u128]) -> bool {
    let mut same = endpoint.nics().iter().filter(|nic| nic.ifname == owner.ifname && nic.is_v4 == is_v4).peekable();
    same.peek().is_some() && same.all(|nic| !addresses.contains(&nic.number))
}

/// For whom an address of a dead node is kept, if it is: of a pod that is not there any more, and that had it on that node.
pub(super) fn heir(cluster: &Cluster, name: &Arc<Name>, number: u128, node: &str) -> Option<String> {
    let endpoint = cluster.endpoints.get(name).filter(|endpoint| cluster.is_kept(endpoint) && endpoint.node == node)?;
    let nic = endpoint.nics().iter().find(|nic| nic.number == number)?;
    cluster
        .orphans
        .contains_key(name)
        .then(|| Reservation::new(&name.namespace, &name.name, &nic.ifname).unsure().to_string())
}
