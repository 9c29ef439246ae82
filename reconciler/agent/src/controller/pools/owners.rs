//! Whether the controller of a pod that is not there will make another one of that name.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, discovery};
use serde_json::Value;

use crate::catalogue::Owner;
use crate::identity::ordinal;

/// The version of KubeVirt's API that is asked.
const KUBEVIRT: (&str, &str) = ("kubevirt.io", "v1");

/// Whether a pod of that identity may come again (../spec/ipam.md 9).
///
/// # Errors
/// When the API server does not say.
pub(super) async fn may_return(client: &Client, namespace: &str, name: &str, owner: &Owner) -> kube::Result<bool> {
    match (owner.group(), owner.kind.as_str()) {
        ("apps", "StatefulSet") => {
            let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
            let Some(set) = sets.get_opt(&owner.name).await? else { return Ok(false) };
            let spec = serde_json::to_value(&set.spec).map_err(kube::Error::SerdeError)?;
            Ok(counts(&spec, owner, name).unwrap_or(false))
        }
        ("kubevirt.io", "VirtualMachineInstance" | "VirtualMachine") => {
            let is_there = async |kind: &str, plural: &str| {
                let kind = GroupVersionKind::gvk(KUBEVIRT.0, KUBEVIRT.1, kind);
                let resource = ApiResource::from_gvk_with_plural(&kind, plural);
                let machines: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
                let found = machines.get_metadata_opt(name).await?;
                Ok::<bool, kube::Error>(found.is_some_and(|found| found.metadata.deletion_timestamp.is_none()))
            };
            Ok(is_there("VirtualMachineInstance", "virtualmachineinstances").await?
                || is_there("VirtualMachine", "virtualmachines").await?)
        }
        (group, kind) => {
            let (_, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
            let kind = GroupVersionKind::gvk(group, version, kind);
            let resource = match discovery::pinned_kind(client, &kind).await {
                Ok((resource, _)) => resource,
                // Its definition is gone, and all objects with it.
                Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(false),
                Err(kube::Error::Discovery(_)) => return Ok(false),
                Err(error) => return Err(error),
            };
            let owners: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            let Some(found) = owners.get_opt(&owner.name).await? else { return Ok(false) };
            // One that does not number its pods may make one of that name for as long as it is there.
            Ok(counts(&found.data["spec"], owner, name).unwrap_or(true))
        }
    }
}

/// Whether a pod's number is one that its controller counts to; None when it does not number that pod.
fn counts(spec: &Value, owner: &Owner, pod: &str) -> Option<bool> {
    let number = ordinal(&owner.name, pod)?;
    let replicas = match &spec["replicas"] {
        Value::Null if owner.kind == "StatefulSet" => 1,
        replicas => replicas.as_i64()?,
    };
    let start = spec["ordinals"]["start"].as_i64().unwrap_or(0);
    // Numbers that OpenKruise leaves out.
    let left_out = spec["reserveOrdinals"].as_array().map_or(0, |all| i64::try_from(all.len()).unwrap_or(i64::MAX));
    let end = start.saturating_add(replicas).saturating_add(left_out);
    Some((start..end).contains(&number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn which_numbers_come_again() {
        let set = Owner {
            api_version: "apps/v1".into(),
            kind: "StatefulSet".into(),
            name: "cart".into(),
            uid: String::new(),
        };
        let counts = |spec: Value, pod: &str| counts(&spec, &set, pod);
        assert_eq!(counts(json!({"replicas": 3}), "cart-2"), Some(true));
        assert_eq!(counts(json!({"replicas": 3}), "cart-3"), Some(false));
        assert_eq!(counts(json!({}), "cart-0"), Some(true));
        assert_eq!(counts(json!({"replicas": 0}), "cart-0"), Some(false));
        assert_eq!(counts(json!({"replicas": 2, "ordinals": {"start": 5}}), "cart-4"), Some(false));
        assert_eq!(counts(json!({"replicas": 2, "ordinals": {"start": 5}}), "cart-6"), Some(true));
        assert_eq!(counts(json!({"replicas": 2, "reserveOrdinals": [0]}), "cart-2"), Some(true));
        assert_eq!(counts(json!({"replicas": 2}), "cart-x"), None);
        let other = Owner { kind: "Database".into(), ..set.clone() };
        assert_eq!(super::counts(&json!({}), &other, "cart-7"), None, "it does not say how many");
    }
}
