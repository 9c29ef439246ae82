//! Pods with an identity: who moves to another node gets its own address there, and nobody else does.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use plan::lease::Tenant;
use plan::lease::tenant::{Kept, Recorded};
use schemas::slot::{Slot, Subject};

use super::{Event, Pod, World};

/// What is known of identities.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// Of every pod that has ever had one.
    owners: HashMap<Pod, String>,
    /// Their pods that are in the API server.
    live: BTreeMap<String, (Pod, usize)>,
    /// What the SpiderEndpoints say.
    named: HashMap<String, IpAddr>,
    /// Who has each of these addresses.
    users: HashMap<IpAddr, Pod>,
}

impl World {
    /// The next pod of that identity, on a node; the one before is out of the API server by then.
    pub(crate) fn bind_fixed_after(&mut self, delay_ms: u64, owner: &str, node: usize) -> Pod {
        let pod = self.bind_after(delay_ms, node);
        self.identities.owners.insert(pod, owner.to_owned());
        pod
    }

    /// Whether the pod has an identity.
    pub(super) fn begin_fixed(&mut self, node: usize, pod: Pod) -> bool {
        let Some(owner) = self.identities.owners.get(&pod).cloned() else { return false };
        let before = self.identities.live.insert(owner, (pod, node));
        self.nodes[node].pending_fixed.push_back((pod, self.now_ms));
        if let Some((_, before)) = before {
            self.step(before);
        }
        true
    }

    /// Its sandbox has ended.
    pub(super) fn end_fixed(&mut self, node: usize, pod: Pod) {
        self.nodes[node].pending_fixed.retain(|(pending, _)| *pending != pod);
        self.identities.users.retain(|_, user| *user != pod);
        if let Some(owner) = self.identities.owners.get(&pod)
            && self.identities.live.get(owner).is_some_and(|(live, _)| *live == pod)
        {
            self.identities.live.remove(owner);
        }
    }

    fn is_awaited(&self, owner: &str, node: usize) -> bool {
        self.identities.live.get(owner).is_some_and(|(_, at)| *at == node)
    }

    pub(super) fn tell_kept(&self, node: usize, tenant: &mut Tenant) {
        let kept = self.nodes[node].kept.iter().map(|(address, owner)| {
            (*address, Kept { owner: owner.clone(), is_awaited: self.is_awaited(owner, node) })
        });
        tenant.keep(kept.collect());
    }

    /// Gives what can be given; how many have no address to wait for.
    pub(super) fn serve_fixed(&mut self, node: usize, tenant: &mut Tenant) -> u64 {
        let pending: Vec<(Pod, u64)> = self.nodes[node].pending_fixed.iter().copied().collect();
        self.tell_kept(node, tenant);
        let mut without = 0;
        for (pod, bound_ms) in pending {
            let owner = self.identities.owners[&pod].clone();
            let named = self.identities.named.get(&owner).copied();
            let address = match named {
                Some(address) => {
                    self.nodes[node].kept.insert(address, owner.clone());
                    self.tell_kept(node, tenant);
                    tenant.give_kept(address, &owner, false).then_some(address)
                }
                None => tenant.spare().first().copied().filter(|address| tenant.give(*address)),
            };
            let Some(address) = address else {
                without += u64::from(named.is_none());
                continue;
            };
            self.assert_held(node, address);
            let before = self.identities.users.insert(address, pod);
            assert_eq!(before, None, "{address} of {owner} is given to {pod} while {before:?} has it");
            assert_eq!(self.owners.get(&address), Some(&node), "{address} is given and not owned");
            let held = self.nodes[node].store.insert(address, Recorded::Used);
            assert_eq!(held, Some(Recorded::Spare));
            self.nodes[node].kept.insert(address, owner.clone());
            self.tell_kept(node, tenant);
            self.identities.named.insert(owner, address);
            self.nodes[node].pending_fixed.retain(|(pending, _)| *pending != pod);
            self.pods.insert(pod, (node, Some(address)));
            self.used += 1;
            self.waits.push((self.now_ms - bound_ms).saturating_sub(super::BEFORE_ADD_MS));
        }
        without
    }

    pub(super) fn unkeep(&mut self, node: usize, addresses: &[IpAddr]) {
        for address in addresses {
            let Some(owner) = self.nodes[node].kept.get(address).cloned() else { continue };
            if !self.is_awaited(&owner, node) {
                self.nodes[node].kept.remove(address);
            }
        }
    }

    /// What the controller does for an owner that is gone: the endpoint goes, then the reservation.
    pub(crate) fn end_owner(&mut self, owner: &str) {
        assert!(!self.identities.live.contains_key(owner));
        self.identities.named.remove(owner);
        let width = self.windows.layout().width();
        let is_its_own = |kept: &str| kept == owner || kept == format!("{owner}/unsure");
        let mut edits = Vec::new();
        for seen in self.server.shards() {
            for (place, text) in seen.slots.iter().enumerate() {
                let mut slot = Slot::parse(text, width).unwrap();
                let mask = slot.kept(is_its_own);
                slot.let_go(owner, mask, None);
                slot.let_go(&format!("{owner}/unsure"), mask, None);
                if mask != 0 {
                    edits.push((seen.number, place, slot.to_text(width)));
                }
            }
        }
        edits.iter().for_each(|(number, place, text)| self.server.write(*number, *place, text));
    }

    /// What the controller does about a node that is off and silent: nothing of it runs any more. Its addresses of pods with
    /// an identity are kept for them, to be looked for; the others are in quarantine.
    pub(crate) fn bury(&mut self, node: usize) {
        self.happen(Event::Crash(node));
        let holder = self.nodes[node].holder.clone();
        let gone: Vec<Pod> = self.pods.iter().filter(|(_, (at, _))| *at == node).map(|(pod, _)| *pod).collect();
        for pod in gone {
            let Some((_, address)) = self.pods.remove(&pod) else { continue };
            self.used -= u128::from(address.is_some());
            self.end_fixed(node, pod);
        }
        self.owners.retain(|_, at| *at != node);
        self.nodes[node].store.clear();
        self.nodes[node].kept.clear();
        let width = self.windows.layout().width();
        let mut edits = Vec::new();
        for seen in self.server.shards() {
            for (place, text) in seen.slots.iter().enumerate() {
                let mut slot = Slot::parse(text, width).unwrap();
                for (owner, address) in &self.identities.named {
                    if let Some((number, at, bit)) = self.windows.layout().place(*address)
                        && (number, at) == (seen.number, place)
                    {
                        slot.reserve(&holder, &format!("{owner}/unsure"), 1 << bit);
                    }
                }
                slot.quarantine(&holder, u64::MAX, super::EPOCH + self.now_ms / 1000 + 60);
                if slot.to_text(width) != *text {
                    edits.push((seen.number, place, slot.to_text(width)));
                }
            }
        }
        edits.iter().for_each(|(number, place, text)| self.server.write(*number, *place, text));
    }

    /// Who is kept what in the API server's books.
    pub(crate) fn reservations(&self) -> Vec<String> {
        let width = self.windows.layout().width();
        let slots = self.server.shards().flat_map(|seen| &seen.slots).map(|text| Slot::parse(text, width).unwrap());
        let mut found: Vec<String> = slots
            .flat_map(|slot| slot.parts().to_vec())
            .filter_map(|(subject, _)| match subject {
                Subject::Fixed { owner } => Some(owner),
                Subject::Node(_) | Subject::Quarantined { .. } => None,
            })
            .collect();
        found.sort();
        found
    }

    /// What the endpoints say.
    pub(crate) fn named(&self) -> BTreeMap<String, IpAddr> {
        self.identities.named.iter().map(|(owner, address)| (owner.clone(), *address)).collect()
    }

    /// What nodes remember as kept.
    pub(crate) fn remembered(&self) -> usize {
        self.nodes.iter().map(|node| node.kept.len()).sum()
    }
}
