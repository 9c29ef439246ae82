//! Annotations by which pools and routes are chosen count when an interface is added; changed later, they wait for the
//! pod's successor.

use std::collections::{BTreeMap, BTreeSet};

use schemas::intent::PodRef;

use super::{annotation, pod_marks};
use crate::catalogue::Catalogue;

const KEYS: [&str; 6] = [
    annotation::SUBNETS.key,
    annotation::SUBNET.key,
    annotation::POOLS.key,
    annotation::POOL.key,
    annotation::ROUTES.key,
    annotation::ANNOTATION_DEFAULT_NIC,
];

/// Of pods that have interfaces, those of which such annotations differ between two catalogues, and which.
pub(crate) fn changes(
    before: &Catalogue,
    after: &Catalogue,
    pods: impl IntoIterator<Item = PodRef>,
) -> BTreeMap<PodRef, Vec<&'static str>> {
    let pods: BTreeSet<PodRef> = pods.into_iter().collect();
    let changed = |pod: PodRef| {
        let (old, new) = (pod_marks(before, &pod)?, pod_marks(after, &pod)?);
        // A pod made anew under the same name has annotations of its own.
        if old.uid != new.uid || new.is_terminating {
            return None;
        }
        let differs = |key: &&str| old.annotations.get(*key) != new.annotations.get(*key);
        let keys: Vec<&str> = KEYS.into_iter().filter(differs).collect();
        (!keys.is_empty()).then_some((pod, keys))
    };
    pods.into_iter().filter_map(changed).collect()
}

/// What is to be said of a pod.
pub(crate) fn note(keys: &[&str]) -> String {
    let (what, takes) = if keys.len() == 1 { ("annotation", "takes") } else { ("annotations", "take") };
    format!(
        "{what} {} changed while the pod runs, and {takes} effect when the pod is made anew: its addresses and routes \
         stay as they are until then",
        keys.join(", ")
    )
}
