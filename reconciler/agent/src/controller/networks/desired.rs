//! What the NetworkAttachmentDefinitions are to be, and what has to be done for it (../spec/controller.md 2). Nothing
//! is read or written here.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use schemas::crd::SpiderMultusConfig;
use schemas::crd::multus_config::{nad_annotations, nad_config, nad_name};
use serde_json::{Map, Value, json};

use crate::controller::watched::Key;

/// Why a SpiderMultusConfig has no definition. The texts are its Events' notes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum Fault {
    /// It breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// The name is somebody else's.
    #[error("the net-attach-def {0} already exists and is managed by {1}")]
    Managed(String, String),
    /// The name is asked for by another one, too.
    #[error("the net-attach-def {0} is asked for by the older SpiderMultusConfig {1}, too; choose another name")]
    Claimed(String, String),
}

impl Fault {
    /// The Event's reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "InvalidNetworkConfig",
            Self::Managed(..) | Self::Claimed(..) => "NetworkNameTaken",
        }
    }
}

/// What to do with a definition.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// It is missing.
    Create(Value),
    /// It differs; the patch names the state that it rests on.
    Patch(Value),
}

/// What is to be done, and what cannot be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Todo {
    /// By the definition's key.
    pub(super) steps: BTreeMap<Key, Step>,
    /// By the SpiderMultusConfig's key.
    pub(super) faults: BTreeMap<Key, Fault>,
}

/// A definition as one SpiderMultusConfig wants it.
struct Wanted {
    source: Key,
    uid: String,
    created: Option<Time>,
    annotations: BTreeMap<String, String>,
    owner: OwnerReference,
    /// None: the node's own configuration of that name is meant.
    config: Option<String>,
}

/// Compares all SpiderMultusConfigs with all definitions.
pub(super) fn compare(networks: &BTreeMap<Key, DynamicObject>, definitions: &BTreeMap<Key, DynamicObject>) -> Todo {
    let mut todo = Todo::default();
    let mut claims: BTreeMap<Key, Vec<Wanted>> = BTreeMap::new();
    let mut living = BTreeSet::new();
    for (source, object) in networks {
        living.extend(object.uid());
        if object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match wanted(source, object) {
            Ok((target, wanted)) => claims.entry(target).or_default().push(wanted),
            Err(fault) => {
                todo.faults.insert(source.clone(), fault);
            }
        }
    }
    for (target, mut claims) in claims {
        let there = definitions.get(&target);
        let owner = there.and_then(controller).filter(|owner| living.contains(&owner.uid) || !is_ours(owner));
        claims.sort_by_key(|wanted| {
            let is_owner = owner.is_some_and(|owner| owner.uid == wanted.uid);
            (!is_owner, wanted.created.clone(), wanted.source.clone())
        });
        let name = |(namespace, name): &Key| format!("{namespace}/{name}");
        let mut claims = claims.into_iter();
        let Some(first) = claims.next() else { continue };
        for later in claims {
            let fault = Fault::Claimed(name(&target), name(&first.source));
            todo.faults.insert(later.source, fault);
        }
        match owner {
            Some(owner) if owner.uid != first.uid => {
                let by = format!("{} {}/{}", owner.kind, target.0, owner.name);
                todo.faults.insert(first.source, Fault::Managed(name(&target), by));
            }
            _ => {
                if let Some(step) = step(&target, first, there) {
                    todo.steps.insert(target, step);
                }
            }
        }
    }
    todo
}

fn wanted(source: &Key, object: &DynamicObject) -> Result<(Key, Wanted), Fault> {
    let invalid = |error: &dyn std::fmt::Display| Fault::Invalid(error.to_string());
    let config: SpiderMultusConfig = object.clone().try_parse().map_err(|error| invalid(&error))?;
    let name = nad_name(&config).map_err(|error| invalid(&error))?;
    let text = nad_config(&config).map_err(|error| invalid(&error))?;
    let owner = config.controller_owner_ref(&()).ok_or_else(|| Fault::Invalid("it has no uid".into()))?;
    let wanted = Wanted {
        source: source.clone(),
        uid: owner.uid.clone(),
        created: config.metadata.creation_timestamp.clone(),
        annotations: nad_annotations(&config),
        owner: OwnerReference { block_owner_deletion: Some(true), ..owner },
        config: Some(text).filter(|text| !text.is_empty()),
    };
    Ok(((source.0.clone(), name), wanted))
}

/// The one that an object belongs to.
fn controller(object: &DynamicObject) -> Option<&OwnerReference> {
    object.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

fn is_ours(owner: &OwnerReference) -> bool {
    owner.kind == "SpiderMultusConfig" && owner.api_version.starts_with("spiderpool.spidernet.io/")
}

fn step(target: &Key, wanted: Wanted, there: Option<&DynamicObject>) -> Option<Step> {
    let Some(there) = there else { return Some(Step::Create(definition(target, &wanted))) };
    // It goes, and its end is an event.
    if there.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut owners: Vec<OwnerReference> = there.metadata.owner_references.clone().unwrap_or_default();
    // One of ours that is not the wanted one is of an object that is gone.
    owners.retain(|owner| owner.uid == wanted.uid || !is_ours(owner));
    match owners.iter_mut().find(|owner| owner.uid == wanted.uid) {
        Some(owner) => *owner = wanted.owner,
        None => owners.push(wanted.owner),
    }
    let empty = BTreeMap::new();
    let annotations = there.metadata.annotations.as_ref().unwrap_or(&empty);
    let config = there.data["spec"]["config"].as_str();
    let is_same = there.metadata.owner_references.as_ref() == Some(&owners)
        && *annotations == wanted.annotations
        && config.unwrap_or_default() == wanted.config.as_deref().unwrap_or_default();
    if is_same {
        return None;
    }
    let gone =
        annotations.keys().filter(|key| !wanted.annotations.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let mut changed: Map<String, Value> = gone.collect();
    changed.extend(wanted.annotations.into_iter().map(|(key, value)| (key, Value::String(value))));
    Some(Step::Patch(json!({
        "metadata": {
            "resourceVersion": there.resource_version(),
            "annotations": changed,
            "ownerReferences": owners,
        },
        "spec": {"config": wanted.config},
    })))
}

fn definition((namespace, name): &Key, wanted: &Wanted) -> Value {
    let mut spec = Map::new();
    if let Some(config) = &wanted.config {
        spec.insert("config".into(), config.clone().into());
    }
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": wanted.annotations,
            "ownerReferences": [wanted.owner],
        },
        "spec": spec,
    })
}

/// The objects by their keys.
#[cfg(test)]
fn keyed(objects: Value) -> BTreeMap<Key, DynamicObject> {
    let objects: Vec<DynamicObject> = serde_json::from_value(objects).unwrap();
    objects.into_iter().map(|object| (crate::controller::watched::key(&object), object)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, uid: &str) -> Value {
        json!({
            "apiVersion": "spiderpool.spidernet.io/v2beta1",
            "kind": "SpiderMultusConfig",
            "metadata": {"name": name, "namespace": "default", "uid": uid, "creationTimestamp": "2024-01-01T00:00:00Z",
                         "annotations": {"a": "b"}},
            "spec": {"cniType": "macvlan", "macvlan": {"master": ["ens192"], "ippools": {"ipv4": ["10-6-v4"]}, "vlanID": 0}},
        })
    }

    fn target(name: &str) -> Key {
        ("default".into(), name.into())
    }

    /// The definition that is made of a network, as the API server gives it back.
    fn made(network: &Value) -> Value {
        let todo = compare(&keyed(json!([network])), &BTreeMap::new());
        let Some(Step::Create(mut made)) = todo.steps.into_values().next() else { panic!("nothing was made") };
        made["metadata"]["resourceVersion"] = json!("7");
        made
    }

    #[test]
    fn the_quick_starts_definition() {
        let made = made(&network("macvlan-ens192", "u1"));
        assert_eq!(
            made,
            json!({
                "apiVersion": "k8s.cni.cncf.io/v1",
                "kind": "NetworkAttachmentDefinition",
                "metadata": {
                    "name": "macvlan-ens192", "namespace": "default", "annotations": {"a": "b"}, "resourceVersion": "7",
                    "ownerReferences": [{"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderMultusConfig",
                        "name": "macvlan-ens192", "uid": "u1", "controller": true, "blockOwnerDeletion": true}],
                },
                "spec": {"config": concat!(
                    r#"{"cniVersion":"0.3.1","name":"macvlan-ens192","plugins":[{"type":"macvlan","master":"ens192","#,
                    r#""mode":"bridge","mtu":0,"ipam":{"type":"spiderpool","default_ipv4_ippool":["10-6-v4"]}},"#,
                    r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"auto","type":"coordinator"}]}"#,
                )},
            })
        );
    }

    #[test]
    fn equal_ones_are_left_alone_and_others_brought_in_line() {
        let network = network("net", "u1");
        let good = made(&network);
        let networks = keyed(json!([network]));
        let compared = |definition: Value| compare(&networks, &keyed(json!([definition])));
        assert_eq!(compared(good.clone()), Todo::default());

        let drifts: [fn(&mut Value); 5] = [
            |nad| nad["spec"]["config"] = json!("{}"),
            |nad| drop(nad["spec"].as_object_mut().unwrap().remove("config")),
            |nad| nad["metadata"]["annotations"] = json!({"a": "b", "c": "d"}),
            |nad| drop(nad["metadata"].as_object_mut().unwrap().remove("annotations")),
            |nad| drop(nad["metadata"].as_object_mut().unwrap().remove("ownerReferences")),
        ];
        for drift in drifts {
            let mut drifted = good.clone();
            drift(&mut drifted);
            let todo = compared(drifted.clone());
            let Some(Step::Patch(patch)) = todo.steps.get(&target("net")) else { panic!("{drifted}") };
            assert_eq!(patch["metadata"]["resourceVersion"], "7");
            merge(&mut drifted, patch);
            assert_eq!(compared(drifted), Todo::default());
        }
        let mut going = good;
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        going["spec"]["config"] = json!("{}");
        assert_eq!(compared(going), Todo::default());
    }

    /// RFC 7386.
    fn merge(into: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else { return *into = patch.clone() };
        if !into.is_object() {
            *into = json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                into.as_object_mut().unwrap().remove(key);
            } else {
                merge(&mut into[key], value);
            }
        }
    }

    #[test]
    fn custom_without_text_has_an_empty_spec() {
        let mut custom = network("default", "u1");
        custom["spec"] = json!({"cniType": "custom"});
        let made = made(&custom);
        assert_eq!(made["spec"], json!({}));
        assert_eq!(compare(&keyed(json!([custom])), &keyed(json!([made]))), Todo::default());
    }

    #[test]
    fn foreign_definitions_are_not_touched_and_orphans_are_adopted() {
        let (mine, other) = (network("net", "u1"), network("other", "u2"));
        let mut definition = made(&mine);
        let owner = |kind: &str, uid: &str| json!([{"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": kind, "name": "other", "uid": uid, "controller": true}]);
        let networks = keyed(json!([mine, other]));
        definition["metadata"]["ownerReferences"] = owner("SpiderMultusConfig", "u2");
        let todo = compare(&networks, &keyed(json!([definition])));
        assert_eq!(
            todo.faults[&target("net")].to_string(),
            "the net-attach-def default/net already exists and is managed by SpiderMultusConfig default/other"
        );
        assert_eq!(todo.faults[&target("net")].reason(), "NetworkNameTaken");
        assert_eq!(todo.steps.keys().collect::<Vec<_>>(), [&target("other")]);

        definition["metadata"]["ownerReferences"] = owner("Other", "u9");
        assert!(compare(&networks, &keyed(json!([definition]))).faults.contains_key(&target("net")));

        // Its owner is gone, and the garbage collector is slow.
        definition["metadata"]["ownerReferences"] = owner("SpiderMultusConfig", "u9");
        let todo = compare(&networks, &keyed(json!([definition])));
        let Step::Patch(patch) = &todo.steps[&target("net")] else { panic!("{todo:?}") };
        let owners = patch["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!(owners.iter().map(|owner| &owner["uid"]).collect::<Vec<_>>(), [&json!("u1")]);

        // Others may hold on to it too.
        definition["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u8"}]);
        let todo = compare(&networks, &keyed(json!([definition])));
        let Step::Patch(patch) = &todo.steps[&target("net")] else { panic!("{todo:?}") };
        let owners = patch["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!(owners.iter().map(|owner| &owner["uid"]).collect::<Vec<_>>(), [&json!("u8"), &json!("u1")]);
    }

    #[test]
    fn of_two_that_ask_for_a_name_its_owner_has_it_else_the_older() {
        let (mut old, mut new) = (network("old", "u1"), network("new", "u2"));
        for network in [&mut old, &mut new] {
            network["metadata"]["annotations"] = json!({"multus.spidernet.io/cr-name": "net"});
        }
        new["metadata"]["creationTimestamp"] = json!("2025-01-01T00:00:00Z");
        let networks = keyed(json!([old, new]));
        let todo = compare(&networks, &BTreeMap::new());
        assert_eq!(todo.faults.keys().collect::<Vec<_>>(), [&target("new")]);
        let Step::Create(made_of_old) = &todo.steps[&target("net")] else { panic!("{todo:?}") };
        assert_eq!(made_of_old["metadata"]["ownerReferences"][0]["name"], "old");
        let todo = compare(&networks, &keyed(json!([made(&new)])));
        assert_eq!((todo.steps.len(), todo.faults.keys().collect::<Vec<_>>()), (0, vec![&target("old")]));
    }

    #[test]
    fn what_breaks_a_rule_is_told_and_the_others_are_made() {
        let mut broken = network("broken", "u1");
        broken["spec"]["chainCNIJsonData"] = json!(["{"]);
        let mut unknown = network("unknown", "u2");
        unknown["spec"]["cniType"] = json!("future");
        let todo = compare(&keyed(json!([broken, unknown, network("net", "u3")])), &BTreeMap::new());
        assert_eq!(todo.faults.keys().collect::<Vec<_>>(), [&target("broken"), &target("unknown")]);
        assert!(todo.faults[&target("broken")].to_string().starts_with("spec.chainCNIJsonData[0]: invalid {: "));
        assert_eq!(todo.faults[&target("broken")].reason(), "InvalidNetworkConfig");
        assert_eq!(todo.steps.keys().collect::<Vec<_>>(), [&target("net")]);
    }
}
