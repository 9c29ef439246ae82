//! What is asked of all sandboxes at each ADD, kept as they change: a node with many pods answers as fast as one with few.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemas::intent::{Allocation, AllocationState, LinkIntent, PodRef};
use schemas::name::{AttachmentKey, ContainerId, IfName};
use schemas::uplink::UplinkIntent;

use super::{Ledger, SandboxRecords};

/// Where to find what sandboxes share.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Attachments whose links stand on one of the node's.
    on_master: BTreeMap<IfName, BTreeSet<AttachmentKey>>,
    /// Attachments with an uplink of their own.
    uplinks: BTreeSet<AttachmentKey>,
    /// The node's ends of pairs to underlay pods.
    host_ends: BTreeMap<IfName, BTreeSet<ContainerId>>,
    /// Sandboxes by namespace and name of their pods.
    of_pod: BTreeMap<(String, String), BTreeSet<ContainerId>>,
    /// How many addresses of a pool are on their way back.
    releasing: BTreeMap<String, u128>,
}

impl Index {
    pub(super) fn add(&mut self, records: &SandboxRecords) {
        for attachment in records.attachments.values() {
            if let Some(master) = master(attachment.link_wanted, attachment.link.as_ref()) {
                self.on_master.entry(master.clone()).or_default().insert(attachment.key.clone());
            }
            if attachment.uplink.is_some() {
                self.uplinks.insert(attachment.key.clone());
            }
            self.of_pod.entry(name(&attachment.pod)).or_default().insert(attachment.key.container.clone());
        }
        if let Some(pair) = &records.sandbox.auxiliary {
            self.host_ends.entry(pair.host_name.clone()).or_default().insert(records.sandbox.container.clone());
        }
    }

    pub(super) fn remove(&mut self, records: &SandboxRecords) {
        for attachment in records.attachments.values() {
            if let Some(master) = master(attachment.link_wanted, attachment.link.as_ref()) {
                remove(&mut self.on_master, master, &attachment.key);
            }
            self.uplinks.remove(&attachment.key);
            remove(&mut self.of_pod, &name(&attachment.pod), &attachment.key.container);
        }
        if let Some(pair) = &records.sandbox.auxiliary {
            remove(&mut self.host_ends, &pair.host_name, &records.sandbox.container);
        }
    }

    /// An address is another's, or in another state, than before.
    pub(super) fn count(&mut self, before: Option<&Allocation>, after: Option<&Allocation>) {
        let is_releasing = |it: &&Allocation| it.state == AllocationState::Releasing;
        if let Some(after) = after.filter(is_releasing) {
            *self.releasing.entry(after.pool.clone()).or_default() += 1;
        }
        if let Some(before) = before.filter(is_releasing)
            && let Some(count) = self.releasing.get_mut(&before.pool)
        {
            *count -= 1;
            if *count == 0 {
                self.releasing.remove(&before.pool);
            }
        }
    }

    pub(super) fn releasing(&self, pool: &str) -> u128 {
        self.releasing.get(pool).copied().unwrap_or_default()
    }
}

/// The link of the node that an attachment's stands on.
fn master(is_wanted: bool, link: Option<&LinkIntent>) -> Option<&IfName> {
    link.filter(|link| is_wanted && !link.master_in_container).map(|link| &link.master)
}

fn name(pod: &PodRef) -> (String, String) {
    (pod.namespace.clone(), pod.name.clone())
}

fn remove<K: Ord, T: Ord>(of: &mut BTreeMap<K, BTreeSet<T>>, key: &K, it: &T) {
    if let Some(found) = of.get_mut(key) {
        found.remove(it);
        if found.is_empty() {
            of.remove(key);
        }
    }
}

impl Ledger {
    /// The sandboxes of the pods of that namespace and name, whatever their UIDs.
    pub fn of_pod(&self, namespace: &str, pod: &str) -> Vec<Arc<SandboxRecords>> {
        let state = self.state();
        let containers = state.index.of_pod.get(&(namespace.to_owned(), pod.to_owned())).into_iter().flatten();
        containers.filter_map(|container| state.sandboxes.get(container).cloned()).collect()
    }

    /// The interfaces of such pods that have addresses of ours.
    pub fn interfaces_of(&self, namespace: &str, pod: &str) -> BTreeSet<String> {
        let sandboxes = self.of_pod(namespace, pod);
        let attachments = sandboxes.iter().flat_map(|records| records.attachments.values());
        let own =
            attachments.filter(|found| found.allocated && found.pod.name == pod && found.pod.namespace == namespace);
        own.map(|attachment| attachment.key.ifname.to_string()).collect()
    }

    /// One of the links that stand on a link of the node, besides an attachment's own: all of them are of one kind.
    pub fn company(&self, master: &IfName, own: &AttachmentKey) -> Option<(AttachmentKey, LinkIntent)> {
        let state = self.state();
        let key = state.index.on_master.get(master)?.iter().find(|key| *key != own)?;
        let link = state.sandboxes.get(&key.container)?.attachments.get(&key.ifname)?.link.clone()?;
        Some((key.clone(), link))
    }

    /// The uplinks of all attachments but one.
    pub fn uplinks_but(&self, own: &AttachmentKey) -> Vec<UplinkIntent> {
        let state = self.state();
        let others = state.index.uplinks.iter().filter(|key| *key != own);
        let attachments = others.filter_map(|key| state.sandboxes.get(&key.container)?.attachments.get(&key.ifname));
        attachments.filter_map(|attachment| attachment.uplink.as_deref().cloned()).collect()
    }

    /// Whether another sandbox's pair has that name on the node.
    pub fn is_host_end_of_another(&self, name: &IfName, own: &ContainerId) -> bool {
        self.state().index.host_ends.get(name).is_some_and(|of| of.iter().any(|container| container != own))
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
