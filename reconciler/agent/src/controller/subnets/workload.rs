//! Of the objects that control pods, what counts here.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, ObjectMeta};
use kube::core::DynamicResourceScope;
use kube::{Resource, ResourceExt};
use serde::Deserialize;

use super::annotations::{Asked, asked, is_asking};
use super::naming::App;

/// The kinds that are followed in any case: group, version, kind, plural.
pub const KINDS: [(&str, &str, &str, &str); 6] = [
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("batch", "v1", "Job", "jobs"),
    ("batch", "v1", "CronJob", "cronjobs"),
];

/// How such a kind is asked for.
pub fn resource((group, version, kind, plural): (&str, &str, &str, &str)) -> ApiResource {
    ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: format!("{group}/{version}"),
        kind: kind.into(),
        plural: plural.into(),
    }
}

/// An object of one of [`KINDS`]: of it no more is read.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Object {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `spec`.
    #[serde(default)]
    pub spec: Spec,
    /// `status`.
    #[serde(default)]
    pub status: Status,
}

/// Of any of the kinds' specs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    replicas: Option<u64>,
    completions: Option<u64>,
    parallelism: Option<u64>,
    template: Option<Template>,
    job_template: Option<JobTemplate>,
}

/// Of a DaemonSet.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    desired_number_scheduled: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct JobTemplate {
    #[serde(default)]
    spec: Box<Spec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Template {
    #[serde(default)]
    metadata: Option<TemplateMeta>,
    #[serde(default)]
    spec: Option<TemplateSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct TemplateMeta {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TemplateSpec {
    #[serde(default)]
    host_network: Option<bool>,
}

impl Resource for Object {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A workload that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its UID.
    pub uid: String,
    /// What its template asks for, and for how many pods. None: nothing, or somebody else asks for it.
    pub asks: Option<Box<Asking>>,
}

/// What a workload asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asking {
    /// By its annotations, or what is wrong with them.
    pub asked: Result<Asked, String>,
    /// How many pods there are to be.
    pub pods: u64,
}

/// What is asked for on behalf of another kind of object: one of [`KINDS`], or a pod, that it controls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnBehalf {
    /// Whose.
    pub app: App,
    /// Its UID.
    pub uid: String,
    /// By the annotations, or what is wrong with them.
    pub asked: Result<Asked, String>,
}

/// The one that an object belongs to.
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether a kind is one of [`KINDS`], in any version.
pub fn is_known(group: &str, kind: &str) -> bool {
    KINDS.iter().any(|known| (known.0, known.2) == (group, kind))
}

/// What annotations of a foreign kind's pods ask for. That many addresses as are pods cannot be known, so a number is.
pub fn on_behalf(owner: &OwnerReference, namespace: &str, annotations: &BTreeMap<String, String>) -> Option<OnBehalf> {
    let app = App::of(&owner.api_version, &owner.kind, namespace, &owner.name);
    if is_known(&app.group, &app.kind) {
        return None;
    }
    let asked = asked(annotations).transpose()?;
    let asked = asked.and_then(|asked| match asked.number {
        super::annotations::Number::Fixed(_) => Ok(asked),
        super::annotations::Number::Beyond(_) => Err(format!(
            "annotation {} is needed, with a fixed number: how many pods a {} has is not known",
            super::naming::IP_NUMBER,
            app.kind
        )),
    });
    Some(OnBehalf { app, uid: owner.uid.clone(), asked })
}

/// What an object of a kind of [`KINDS`] means.
pub fn read(kind: &str, object: &Object) -> (Workload, Option<OnBehalf>) {
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let idle = |on_behalf| (Workload { uid: uid.clone(), asks: None }, on_behalf);
    let spec = object.spec.job_template.as_ref().map_or(&object.spec, |template| &template.spec);
    let Some(template) = spec.template.as_ref().filter(|_| object.metadata.deletion_timestamp.is_none()) else {
        return idle(None);
    };
    let annotations = template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    let is_host = template.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let Some(annotations) = annotations.filter(|annotations| !is_host && is_asking(annotations)) else {
        return idle(None);
    };
    // Deployments control ReplicaSets and CronJobs Jobs; what controls another kind is as if nothing did.
    if matches!(kind, "ReplicaSet" | "Job")
        && let Some(owner) = controller(&object.metadata)
    {
        return idle(on_behalf(owner, &object.namespace().unwrap_or_default(), annotations));
    }
    let pods = match kind {
        "DaemonSet" => object.status.desired_number_scheduled.unwrap_or_default(),
        "Job" | "CronJob" => spec.completions.or(spec.parallelism).unwrap_or_default().max(1),
        _ => spec.replicas.unwrap_or(1),
    };
    let Some(asked) = asked(annotations).transpose() else { return idle(None) };
    (Workload { uid, asks: Some(Box::new(Asking { asked, pods })) }, None)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(spec: Value) -> Object {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "d", "uid": "u"}, "spec": spec,
            "status": {"desiredNumberScheduled": 7, "conditions": []}}))
        .unwrap()
    }

    fn template(number: &str) -> Value {
        json!({"metadata": {"labels": {}, "annotations": {"ipam.spidernet.io/subnet": r#"{"ipv4":["s"]}"#,
            "ipam.spidernet.io/ippool-ip-number": number}}, "spec": {"containers": []}})
    }

    fn pods(kind: &str, spec: Value) -> Option<u64> {
        read(kind, &object(spec)).0.asks.map(|asks| asks.pods)
    }

    #[test]
    fn pods_are_counted_as_each_kind_says() {
        let with = |mut spec: Value| {
            spec["template"] = template("+1");
            spec
        };
        assert_eq!(pods("Deployment", with(json!({"replicas": 3}))), Some(3));
        assert_eq!(pods("Deployment", with(json!({"replicas": 0}))), Some(0));
        assert_eq!(pods("StatefulSet", with(json!({}))), Some(1));
        assert_eq!(pods("ReplicaSet", with(json!({"replicas": 2}))), Some(2));
        assert_eq!(pods("DaemonSet", with(json!({}))), Some(7));
        assert_eq!(pods("Job", with(json!({"completions": 5, "parallelism": 2}))), Some(5));
        assert_eq!(pods("Job", with(json!({"parallelism": 2}))), Some(2));
        assert_eq!(pods("Job", with(json!({"parallelism": 0}))), Some(1));
        assert_eq!(
            pods("CronJob", json!({"schedule": "* * * * *", "jobTemplate": {"spec": with(json!({"completions": 4}))}})),
            Some(4)
        );
        assert_eq!(pods("Deployment", json!({"template": {}})), None);
        let mut host = with(json!({}));
        host["template"]["spec"]["hostNetwork"] = json!(true);
        assert_eq!(pods("Deployment", host), None);
    }

    #[test]
    fn what_a_workload_controls_asks_for_nothing_itself() {
        let owned = |kind: &str, owner: &str, api: &str, number: &str| {
            let mut object = object(json!({"template": template(number)}));
            object.metadata.owner_references = Some(vec![OwnerReference {
                api_version: api.into(),
                kind: owner.into(),
                name: "o".into(),
                uid: "v".into(),
                controller: Some(true),
                block_owner_deletion: None,
            }]);
            read(kind, &object)
        };
        assert_eq!(owned("ReplicaSet", "Deployment", "apps/v1", "1"), (Workload { uid: "u".into(), asks: None }, None));
        assert!(owned("StatefulSet", "Prometheus", "x/v1", "1").0.asks.is_some());
        let (_, rollout) = owned("ReplicaSet", "Rollout", "argoproj.io/v1alpha1", "2");
        let rollout = rollout.unwrap();
        assert_eq!((rollout.app.text().as_str(), rollout.uid.as_str()), ("argoproj.io_v1alpha1_Rollout_d_o", "v"));
        assert!(rollout.asked.is_ok());
        let (_, flexible) = owned("ReplicaSet", "Rollout", "argoproj.io/v1alpha1", "+2");
        assert!(flexible.unwrap().asked.unwrap_err().contains("fixed number"));
    }
}
