//! Who controls a pod in the end, and which pools are made for it alone.

use std::collections::BTreeMap;

use crate::auto_pool::label_value;
use crate::catalogue::{Marks, Owner, Pool};

/// On the pool of a SpiderSubnet: whose it is.
const LABEL_OWNER: &str = "ipam.spidernet.io/owner-application-name";
/// The label that the Deployment's controller puts on pods and ReplicaSets.
const LABEL_HASH: &str = "pod-template-hash";

/// The object at the top of those that control a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Top {
    /// Nothing controls the pod, or the pod is not known.
    None,
    /// This one does.
    Known(Owner),
    /// This one controls the pod, and whether another controls it is not known yet.
    Unknown(Owner),
}

impl Top {
    /// As far as the pod itself tells: a Deployment's ReplicaSet has its name and the hash that is a label of the pod.
    pub(crate) fn by_name(marks: &Marks) -> Self {
        let Some(owner) = &marks.owner else { return Self::None };
        let hash = marks.labels.get(LABEL_HASH).filter(|_| owner.is_replica_set());
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        Self::Known(match deployment.filter(|name| !name.is_empty()) {
            Some(name) => Owner {
                api_version: owner.api_version.clone(),
                kind: "Deployment".into(),
                name: name.into(),
                uid: String::new(),
            },
            None => owner.clone(),
        })
    }
}

/// Whether a pool is one of a SpiderSubnet's, made for one application.
pub fn is_auto(pool: &Pool) -> bool {
    labels(pool).contains_key(LABEL_OWNER)
}

/// Whether such a pool is this application's: the five labels that the pool's podAffinity has say so.
pub(super) fn is_pool_of(pool: &Pool, namespace: &str, top: &Owner) -> bool {
    let (group, version) = top.group_version();
    let affinity = pool.object.spec.pod_affinity.as_ref();
    let wanted = affinity.and_then(|affinity| affinity.match_labels.as_ref());
    let says = |key: &str, value: &str| {
        let found = wanted.and_then(|labels| labels.get(&format!("ipam.spidernet.io/app-{key}")));
        found.map_or("", String::as_str) == value
    };
    says("api-group", group)
        && says("api-version", version)
        && says("kind", &top.kind)
        && says("namespace", namespace)
        && says("name", &top.name)
}

/// The labels of the pools that are made for an application's interface out of a SpiderSubnet.
pub(super) fn is_made_for(
    pool: &Pool,
    subnet: &str,
    ifname: &str,
    version: &str,
    namespace: &str,
    top: &Owner,
) -> bool {
    let (group, api_version) = top.group_version();
    let gv = || if group.is_empty() { api_version.to_owned() } else { format!("{group}_{api_version}") };
    let found = labels(pool);
    let says =
        |key: &str, value: &str| found.get(&format!("ipam.spidernet.io/{key}")).is_some_and(|found| found == value);
    says("interface", ifname)
        && says("ip-version", version)
        && says("owner-spider-subnet", &label_value(subnet))
        && says("owner-application-gv", &label_value(&gv()))
        && says("owner-application-kind", &label_value(&top.kind))
        && says("owner-application-namespace", &label_value(namespace))
        && says("owner-application-name", &label_value(&top.name))
}

fn labels(pool: &Pool) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    pool.object.metadata.labels.as_ref().unwrap_or(&NONE)
}
