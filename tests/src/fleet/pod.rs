//! A pod as the API server has it.

use std::sync::Mutex;

use netlink::testbed::Netns;
use schemas::cni::netconf::SpiderpoolIpam;
use schemas::intent::PodRef;
use schemas::name::{AttachmentKey, IfName, NameError, NetworkName};
use schemas::wire::Place;
use serde_json::{Value, json};

use super::{Family, FleetError, Objects};

/// The label by which the pods of an application are found.
const LABEL: &str = "app";
/// The interface that its network makes.
const INTERFACE: &str = "net1";

/// What pods are of.
#[derive(Debug, Clone, Copy)]
pub struct Application<'a> {
    /// Its Kubernetes namespace.
    pub namespace: &'a str,
    /// Its name, and the beginning of those of its pods.
    pub name: &'a str,
    /// Its SpiderMultusConfig, in the same namespace.
    pub network: &'a str,
    /// Its pool.
    pub pool: &'a str,
    /// The pool's family.
    pub family: Family,
}

impl Application<'_> {
    /// Makes a pod on each of these nodes: `NAME-0`, `NAME-1` and so on.
    pub fn bind<'n>(
        &self,
        objects: &Objects,
        nodes: impl IntoIterator<Item = &'n str>,
    ) -> Result<Vec<Pod>, FleetError> {
        let manifests: Vec<Value> =
            nodes.into_iter().enumerate().map(|(number, node)| self.manifest(number, node)).collect();
        let made = objects.create_all(&self.kind(), &manifests)?;
        Ok(made.iter().map(|object| self.pod(object)).collect())
    }

    /// Makes the pod `NAME` on a node, which that object controls.
    pub fn bind_owned(&self, objects: &Objects, name: &str, node: &str, controller: &Value) -> Result<Pod, FleetError> {
        let mut manifest = self.manifest(0, node);
        manifest["metadata"]["name"] = json!(name);
        manifest["metadata"]["ownerReferences"] = json!([{
            "apiVersion": controller["apiVersion"], "kind": controller["kind"], "name": controller["metadata"]["name"],
            "uid": controller["metadata"]["uid"], "controller": true,
        }]);
        Ok(self.pod(&objects.create(&self.kind(), &manifest)?))
    }

    /// Deletes its pods at once.
    pub fn delete(&self, objects: &Objects) -> Result<(), FleetError> {
        objects.delete_labelled(&self.kind(), &format!("{LABEL}={}", self.name))
    }

    fn kind(&self) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace)
    }

    fn manifest(&self, number: usize, node: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{}-{number}", self.name),
                "labels": {LABEL: self.name},
                "annotations": {
                    "k8s.v1.cni.cncf.io/networks": format!("{}/{}", self.namespace, self.network),
                    "ipam.spidernet.io/ippool": json!({self.family.key(): [self.pool]}).to_string(),
                },
            },
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "app"}],
            },
        })
    }

    fn pod(&self, object: &Value) -> Pod {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        Pod {
            namespace: self.namespace.to_owned(),
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            node: text(&object["spec"]["nodeName"]),
            network: self.network.to_owned(),
            pool: self.pool.to_owned(),
            family: self.family,
            sandbox: Mutex::new(None),
        }
    }
}

/// A pod, bound to a node.
#[derive(Debug)]
pub struct Pod {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The name of its node.
    pub node: String,
    network: String,
    pool: String,
    family: Family,
    pub(super) sandbox: Mutex<Option<Sandbox>>,
}

/// A sandbox of a pod: a namespace, and what the runtime calls it.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) container: String,
    pub(super) netns: Netns,
}

impl Pod {
    /// As CNI names it.
    pub fn reference(&self) -> PodRef {
        PodRef { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }

    /// The pool that its network names.
    pub(super) fn ipam(&self) -> SpiderpoolIpam {
        let pools = |family: Family| if family == self.family { vec![self.pool.clone()] } else { Vec::new() };
        SpiderpoolIpam {
            plugin: "spiderpool".into(),
            default_ipv4_ippool: pools(Family::V4),
            default_ipv6_ippool: pools(Family::V6),
            ..SpiderpoolIpam::default()
        }
    }

    pub(super) fn key(container: &str) -> Result<AttachmentKey, NameError> {
        Ok(AttachmentKey { container: container.parse()?, ifname: INTERFACE.parse::<IfName>()? })
    }

    pub(super) fn place(&self, sandbox: &Sandbox) -> Result<Place, NameError> {
        Ok(Place {
            key: Self::key(&sandbox.container)?,
            network: self.network.parse::<NetworkName>()?,
            netns: Some(sandbox.netns.path().to_owned()),
            pod: self.reference(),
        })
    }

    /// Deletes it, as a kubelet does when nothing is left of it.
    pub fn delete(&self, objects: &Objects) -> Result<(), FleetError> {
        objects.delete(&format!("/api/v1/namespaces/{}/pods", self.namespace), &self.name)
    }
}
