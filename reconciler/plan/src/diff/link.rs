//! Links: found again by name, alias or hardware address; made, named, set up, deleted.

use std::collections::{BTreeMap, BTreeSet};

use schemas::intent::LinkIdentity;
use schemas::uplink::{BondIntent, BondSetting, BondValue};

use super::Prune;
use super::view::{Readiness, View};
use crate::desired::{Desired, DesiredLink, LinkOrigin, Uplink};
use crate::object::{Link, LinkKind, Observed};
use crate::ownership;
use crate::step::Step;

/// The link steps by the place they have in the order.
#[derive(Debug, Default)]
pub(super) struct LinkChanges {
    /// Before everything: wrong ones deleted, names, new links, their properties.
    pub(super) prepare: Vec<Step>,
    /// After the addresses, which the kernel announces when the link goes up.
    pub(super) up: Vec<Step>,
    /// After everything.
    pub(super) delete: Vec<Step>,
    pub(super) blocked: Vec<String>,
}

pub(super) fn diff(desired: &Desired, observed: &Observed, prune: Prune) -> (LinkChanges, View) {
    let mut changes = LinkChanges::default();
    let claims = claim(desired, observed);
    let mut names = Names::of(observed);
    let mut pending: Vec<Pending<'_>> = Vec::new();
    for (wanted, link) in desired.links.iter().zip(&claims) {
        if link.is_none_or(|link| link.name != wanted.name) {
            pending.push(Pending { wanted, link: *link });
        }
    }
    let unclaimed: Vec<&Link> = observed
        .links
        .iter()
        .filter(|link| !claims.iter().flatten().any(|claimed| claimed.index == link.index))
        .filter(|link| ownership::is_our_link(link, desired))
        .collect();
    let mut gone: BTreeSet<u32> = BTreeSet::new();
    if prune == Prune::Yes {
        for link in &unclaimed {
            if desired.links.iter().any(|wanted| wanted.name == link.name) {
                changes.prepare.push(Step::DeleteLink { dev: link.name.clone(), index: link.index });
                names.taken.remove(link.name.as_str());
                gone.insert(link.index);
            } else {
                changes.delete.push(Step::DeleteLink { dev: link.name.clone(), index: link.index });
            }
        }
    }
    let unnamed = settle_names(pending, &mut names, &mut changes);
    let named = names.final_names(observed, &gone);
    let mut view = View::of(observed, &named);
    for link in observed.links.iter().filter(|link| !gone.contains(&link.index)) {
        let readiness = if link.up { Readiness::Ready } else { Readiness::Down };
        view.links.insert(named[link.name.as_str()].to_owned(), readiness);
    }
    view.doomed.extend(changes.delete.iter().filter_map(|step| match step {
        Step::DeleteLink { dev, .. } => Some(dev.clone()),
        _ => None,
    }));
    for (wanted, link) in desired.links.iter().zip(&claims).filter(|(wanted, _)| !unnamed.contains(&wanted.name)) {
        properties(wanted, *link, observed, &mut changes.prepare);
        let is_awaited = link.is_none() && matches!(wanted.origin, LinkOrigin::PairEnd { .. });
        if link.is_none_or(|link| !link.up) && !is_awaited {
            changes.up.push(Step::SetLinkUp { dev: wanted.name.clone() });
            view.links.insert(wanted.name.clone(), Readiness::Fresh);
        }
    }
    (changes, view)
}

/// Which observed link each desired one is, best evidence first; no link is two desired ones.
fn claim<'o>(desired: &Desired, observed: &'o Observed) -> Vec<Option<&'o Link>> {
    let mut claims: Vec<Option<&Link>> = vec![None; desired.links.len()];
    // Certainty over all links before guesses for any: a renamed link must not be taken for its neighbour.
    for evidence in (0..=3).rev() {
        for (index, wanted) in desired.links.iter().enumerate() {
            if claims[index].is_some() {
                continue;
            }
            let is_free = |link: &&Link| !claims.iter().flatten().any(|claimed| claimed.index == link.index);
            claims[index] = observed.links.iter().filter(is_free).find(|link| likeness(wanted, link) == Some(evidence));
        }
    }
    claims
}

/// How surely the observed link is the desired one, 3 the most; None when it is not.
fn likeness(wanted: &DesiredLink, link: &Link) -> Option<u8> {
    let has_name = link.name == wanted.name;
    match &wanted.origin {
        LinkOrigin::Made { intent, alias } => {
            if !link.kind.is(&intent.kind) {
                return None;
            }
            let has_alias = link.alias.as_deref() == Some(alias);
            // Decided once, the hardware address tells most; of a kind that takes over its uplink's, the alias.
            let (first, second) = if intent.kind.shares_mac() {
                (has_alias, has_name)
            } else {
                (ownership::is_as_made(link, intent), has_alias)
            };
            match (first, has_name, second) {
                (true, true, _) => Some(3),
                (true, false, true) => Some(2),
                (true, false, false) => Some(1),
                // A hardware address that somebody changed, or an alias that is not there yet.
                (false, _, true) => Some(0),
                (false, _, false) => None,
            }
        }
        LinkOrigin::Pair { pair, alias } => {
            if link.kind != LinkKind::Veth || link.mac != Some(pair.mac) {
                return None;
            }
            let has_alias = link.alias.as_deref() == Some(alias);
            Some(if has_name {
                3
            } else if has_alias {
                2
            } else {
                1
            })
        }
        LinkOrigin::PairEnd { pair, alias } => {
            let evidence = [has_name, link.mac == Some(pair.peer_mac), link.alias.as_deref() == Some(alias)];
            match evidence.into_iter().filter(|agrees| *agrees).count() {
                3 => Some(3),
                2 => Some(2),
                _ => None,
            }
            .filter(|_| link.kind == LinkKind::Veth)
        }
        // Two of three: its index changes when it was made again, its hardware address when the pod sets another.
        LinkOrigin::Found(LinkIdentity { index, mac }) => {
            let has_mac = link.mac == Some(*mac) || (wanted.mac.is_some() && link.mac == wanted.mac);
            let evidence = [has_name, link.index == *index, has_mac];
            match evidence.into_iter().filter(|agrees| *agrees).count() {
                3 => Some(3),
                2 => Some(2),
                _ => None,
            }
        }
        LinkOrigin::Uplink(uplink) => {
            let is_ours = link.alias.as_deref() == Some(&*ownership::uplink_alias(&wanted.name));
            let is_kind = match (uplink, &link.kind) {
                (Uplink::Present, _) => true,
                (Uplink::Vlan { id, .. }, LinkKind::Vlan(found)) => found == id,
                // One of others is used whatever its mode is; ours has the mode for which it was made.
                (Uplink::Bond { intent, .. }, LinkKind::Bond(found)) => !is_ours || found.mode == intent.mode,
                (Uplink::Vlan { .. } | Uplink::Bond { .. }, _) => false,
            };
            match (is_kind, has_name, is_ours) {
                (true, true, _) => Some(3),
                (true, false, true) => Some(2),
                _ => None,
            }
        }
    }
}

/// A desired link without its name: to be renamed when it is there, else to be made.
#[derive(Clone, Copy)]
struct Pending<'a> {
    wanted: &'a DesiredLink,
    link: Option<&'a Link>,
}

/// Who has which name while the renames go on.
struct Names {
    /// Name → index.
    taken: BTreeMap<String, u32>,
}

impl Names {
    fn of(observed: &Observed) -> Self {
        Self { taken: observed.links.iter().map(|link| (link.name.clone(), link.index)).collect() }
    }

    fn of_index(&self, index: u32) -> Option<&str> {
        self.taken.iter().find(|(_, taken)| **taken == index).map(|(name, _)| name.as_str())
    }

    fn rename(&mut self, index: u32, to: &str, steps: &mut Vec<Step>) {
        if let Some(from) = self.of_index(index).map(str::to_owned) {
            self.taken.remove(&from);
            self.taken.insert(to.to_owned(), index);
            steps.push(Step::RenameLink { index, from, to: to.to_owned() });
        }
    }

    /// From the observed names to the final ones.
    fn final_names<'a>(&'a self, observed: &'a Observed, gone: &BTreeSet<u32>) -> BTreeMap<&'a str, &'a str> {
        observed
            .links
            .iter()
            .filter(|link| !gone.contains(&link.index))
            .map(|link| (link.name.as_str(), self.of_index(link.index).unwrap_or(&link.name)))
            .collect()
    }
}

/// Renames and creates; gives the names that nobody could get.
fn settle_names(mut pending: Vec<Pending<'_>>, names: &mut Names, changes: &mut LinkChanges) -> BTreeSet<String> {
    let mut unnamed = BTreeSet::new();
    refuse(&mut pending, names, &mut unnamed, changes);
    // What is left waits for a free name or for another one of these: every round frees one, a ring by way of a
    // temporary name.
    while !pending.is_empty() {
        let next = pending.iter().position(|one| !names.taken.contains_key(&one.wanted.name));
        let Some(position) = next else {
            let Some(index) = pending.iter().find_map(|one| one.link).map(|link| link.index) else { break };
            names.rename(index, &format!("dragline{index}"), &mut changes.prepare);
            continue;
        };
        let Pending { wanted, link } = pending.remove(position);
        match link {
            Some(link) => names.rename(link.index, &wanted.name, &mut changes.prepare),
            None => changes.prepare.push(Step::CreateLink(wanted.clone())),
        }
    }
    unnamed
}

/// Takes out what cannot be: links of other plugins that are not there, and names that a foreign link has.
fn refuse(pending: &mut Vec<Pending<'_>>, names: &Names, unnamed: &mut BTreeSet<String>, changes: &mut LinkChanges) {
    loop {
        let moving: BTreeSet<u32> = pending.iter().filter_map(|one| one.link).map(|link| link.index).collect();
        let obstacle = |position: usize, one: &Pending<'_>| {
            let name = &one.wanted.name;
            if pending[..position].iter().any(|earlier| earlier.wanted.name == *name) {
                return Some(format!("link {name}: two attachments want that name"));
            }
            match (&one.wanted.origin, one.link) {
                (LinkOrigin::Found(LinkIdentity { index, mac }), None) => {
                    return Some(format!("link {name} (index {index}, {mac}) is not there and not dragline's to make"));
                }
                (LinkOrigin::Uplink(Uplink::Present), None) => {
                    return Some(format!("link {name} is not there and not dragline's to make"));
                }
                (LinkOrigin::Uplink(Uplink::Vlan { parent, .. }), None) => {
                    let is_parent = |other: &Pending<'_>| other.wanted.name == parent.as_str();
                    if !names.taken.contains_key(parent.as_str()) && !pending.iter().any(is_parent) {
                        return Some(format!("link {name}: its parent {parent} is not there"));
                    }
                }
                (LinkOrigin::PairEnd { .. }, None) => {
                    return Some(format!("link {name} is not there: it comes with its other end in the pod"));
                }
                _ => {}
            }
            let occupant = names.taken.get(name).filter(|index| !moving.contains(index))?;
            Some(format!("link {name}: another link (index {occupant}) has that name; rename or delete it"))
        };
        let Some((position, text)) =
            pending.iter().enumerate().find_map(|(position, one)| Some((position, obstacle(position, one)?)))
        else {
            return;
        };
        changes.blocked.push(text);
        unnamed.insert(pending.remove(position).wanted.name.clone());
    }
}

/// Alias, hardware address, MTU, queue and bond of a link that has its name by now.
fn properties(wanted: &DesiredLink, link: Option<&Link>, observed: &Observed, steps: &mut Vec<Step>) {
    let dev = || wanted.name.clone();
    let mut mac = wanted.mac;
    match (&wanted.origin, link) {
        (LinkOrigin::Made { intent, alias }, Some(link)) => {
            mac = intent.mac;
            if link.alias.as_ref() != Some(alias) {
                steps.push(Step::SetLinkAlias { dev: dev(), alias: alias.clone() });
            }
            if let Some(mtu) = intent.mtu.filter(|mtu| *mtu != link.mtu) {
                steps.push(Step::SetLinkMtu { dev: dev(), mtu });
            }
        }
        (LinkOrigin::Pair { pair, alias } | LinkOrigin::PairEnd { pair, alias }, Some(link)) => {
            if matches!(wanted.origin, LinkOrigin::PairEnd { .. }) {
                mac = Some(pair.peer_mac);
            }
            if link.alias.as_ref() != Some(alias) {
                steps.push(Step::SetLinkAlias { dev: dev(), alias: alias.clone() });
            }
            if pair.mtu != link.mtu {
                steps.push(Step::SetLinkMtu { dev: dev(), mtu: pair.mtu });
            }
        }
        // The kernel gives it its uplink's, whatever it is made with.
        (LinkOrigin::Made { intent, .. }, None) if intent.kind.shares_mac() => {
            steps.extend(intent.mac.map(|mac| Step::SetLinkMac { dev: dev(), mac }));
        }
        (LinkOrigin::Uplink(Uplink::Bond { intent, slaves }), link) => {
            bond(wanted, intent, slaves, link, observed, steps)
        }
        _ => {}
    }
    if let (Some(mac), Some(link)) = (mac, link)
        && link.mac != Some(mac)
    {
        steps.push(Step::SetLinkMac { dev: dev(), mac });
    }
    if let Some(length) = wanted.tx_queue_len.filter(|length| link.map(|link| link.tx_queue_len) != Some(*length)) {
        steps.push(Step::SetLinkQueue { dev: dev(), length });
    }
}

/// Options and slaves of a bond, where it is ours: one of others is used as it is.
fn bond(
    wanted: &DesiredLink,
    intent: &BondIntent,
    slaves: &[schemas::name::IfName],
    link: Option<&Link>,
    observed: &Observed,
    steps: &mut Vec<Step>,
) {
    if let Some(link) = link {
        let LinkKind::Bond(found) = &link.kind else { return };
        if !ownership::has_our_alias(link) {
            return;
        }
        // What is no number is set when it is made: failing over changes it, or the kernel adds to it.
        let differs = |setting: &&BondSetting| match setting.value {
            BondValue::Number(number) => found.numbers.get(&setting.option) != Some(&number),
            BondValue::Link(_) | BondValue::Mac(_) | BondValue::Addresses(_) => false,
        };
        let options: Vec<BondSetting> = intent.options.iter().filter(differs).cloned().collect();
        if !options.is_empty() {
            steps.push(Step::SetBond { dev: wanted.name.clone(), options });
        }
    }
    for slave in slaves.iter().filter_map(|name| observed.link(name.as_str())) {
        if link.is_none_or(|bond| slave.master != Some(bond.index)) {
            steps.push(Step::EnslaveLink { dev: slave.name.clone(), bond: wanted.name.clone() });
        }
    }
}
