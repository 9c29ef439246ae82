//! What Spiderpool's webhook does to every pool, done afterwards: finalizer, `ipVersion`, the label of the subnet.

use kube::ResourceExt;
use schemas::crd::SpiderIPPool;
use serde_json::{Map, Value, json};

use super::cluster::Pool;

/// The finalizer of every object of ours.
pub const FINALIZER: &str = "spiderpool.spidernet.io";
/// The label with a pool's subnet.
pub const LABEL_CIDR: &str = "ipam.spidernet.io/ippool-cidr";

/// The merge patch that brings a pool into shape; None when it is, and for one that is being deleted. It holds for the
/// version that was read.
pub fn shape(pool: &Pool) -> Option<Value> {
    let object = &pool.object;
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let (mut metadata, mut spec) = (Map::new(), Map::new());
    if !object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        let finalizers: Vec<&str> = object.finalizers().iter().map(String::as_str).chain([FINALIZER]).collect();
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    if let Ok(ranges) = &pool.ranges {
        if object.spec.ip_version.is_none() {
            spec.insert("ipVersion".into(), json!(ranges.version));
        }
        if let Some(label) = cidr_label(&object.spec.subnet)
            && object.labels().get(LABEL_CIDR) != Some(&label)
        {
            metadata.insert("labels".into(), json!({ LABEL_CIDR: label }));
        }
    }
    if metadata.is_empty() && spec.is_empty() {
        return None;
    }
    metadata.insert("resourceVersion".into(), json!(object.metadata.resource_version));
    let mut patch = Map::from_iter([("metadata".to_owned(), Value::Object(metadata))]);
    if !spec.is_empty() {
        patch.insert("spec".into(), Value::Object(spec));
    }
    Some(Value::Object(patch))
}

/// The merge patch that lets a pool go; None when something else holds it, or nothing does.
pub fn release(object: &SpiderIPPool) -> Option<Value> {
    object.metadata.deletion_timestamp.as_ref()?;
    let others: Vec<&String> = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    let is_ours = others.len() < object.finalizers().len();
    let version = &object.metadata.resource_version;
    is_ours.then(|| json!({"metadata": {"resourceVersion": version, "finalizers": others}}))
}

/// The subnet as a label; None for the few that no label can say (`::/0`).
pub(in crate::controller) fn cidr_label(subnet: &str) -> Option<String> {
    let label = subnet.replace(['.', ':', '/'], "-");
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    (is_edge(label.as_bytes().first()) && is_edge(label.as_bytes().last()) && label.len() <= 63).then_some(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(json: Value) -> Pool {
        let object: SpiderIPPool = serde_json::from_value(json).unwrap();
        let ranges = object.spec.ranges().map_err(|error| error.to_string());
        Pool { object, ranges, space: None, overlap: None, rival: None }
    }

    fn bare(metadata: Value, spec: Value) -> Pool {
        pool(
            json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": metadata, "spec": spec}),
        )
    }

    #[test]
    fn a_bare_pool_gets_what_the_webhook_gave() {
        let bare_pool =
            bare(json!({"name": "a", "resourceVersion": "7", "finalizers": ["x/y"]}), json!({"subnet": "10.6.0.0/16"}));
        assert_eq!(
            shape(&bare_pool),
            Some(json!({
                "metadata": {
                    "resourceVersion": "7",
                    "finalizers": ["x/y", "spiderpool.spidernet.io"],
                    "labels": {"ipam.spidernet.io/ippool-cidr": "10-6-0-0-16"},
                },
                "spec": {"ipVersion": 4},
            }))
        );
        let labels = json!({"ipam.spidernet.io/ippool-cidr": "10-6-0-0-16"});
        let shaped = bare(
            json!({"name": "a", "finalizers": [FINALIZER], "labels": labels}),
            json!({"subnet": "10.6.0.0/16", "ipVersion": 4}),
        );
        assert_eq!(shape(&shaped), None);
    }

    #[test]
    fn nothing_is_done_to_a_pool_that_ends_but_to_let_it_go() {
        let ending = json!({"name": "a", "resourceVersion": "7", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y", FINALIZER]});
        let ending = bare(ending, json!({"subnet": "10.6.0.0/16"}));
        assert_eq!(shape(&ending), None);
        assert_eq!(release(&ending.object), Some(json!({"metadata": {"resourceVersion": "7", "finalizers": ["x/y"]}})));
        assert_eq!(
            release(&bare(json!({"name": "a", "finalizers": [FINALIZER]}), json!({"subnet": "10.6.0.0/16"})).object),
            None
        );
    }

    #[test]
    fn labels_are_what_labels_may_be() {
        assert_eq!(cidr_label("172.18.40.0/24").as_deref(), Some("172-18-40-0-24"));
        assert_eq!(cidr_label("abcd:1234::/120").as_deref(), Some("abcd-1234---120"));
        assert_eq!(cidr_label("::/0"), None);
        let unusable = bare(json!({"name": "a", "finalizers": [FINALIZER]}), json!({"subnet": "x"}));
        assert_eq!(shape(&unusable), None, "nothing can be said of a subnet that is none");
    }
}
