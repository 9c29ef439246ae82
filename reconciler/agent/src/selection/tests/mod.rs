//! Tests of the selection, named after the original's cases where they cover one.

mod filters;
mod ignoring;
mod interfaces;
mod properties;
mod rules;
mod subnets;

use schemas::cni::netconf::SpiderpoolIpam;
use schemas::crd::ip_version::IpVersion;
use schemas::intent::PodRef;
use schemas::name::{IfName, NetworkName};
use serde_json::{Value, json};

use super::{Request, Selection, SelectionError, Site, Top, Uplink, select, select_all};
use crate::catalogue::{Catalogue, Metadata, Object, Owner};
use crate::document::Document;

/// What a selection goes by: pod `app/web` on node `n1`, whose interface net1 is of a network configuration `conf`.
#[derive(Debug)]
struct World {
    objects: Vec<Object>,
    pod: PodRef,
    ifname: IfName,
    network: Option<NetworkName>,
    ipam: SpiderpoolIpam,
    site: Site,
    top: Top,
    uplink: Uplink,
}

impl World {
    fn new() -> Self {
        Self {
            objects: Vec::new(),
            pod: PodRef { namespace: "app".into(), name: "web".into(), uid: "u".into() },
            ifname: "net1".parse().unwrap(),
            network: Some("conf".parse().unwrap()),
            ipam: SpiderpoolIpam::default(),
            site: Site { namespace: "kube-system".into(), cluster_network: None },
            top: Top::None,
            uplink: Uplink::Unasked,
        }
    }

    /// With pools of these names, IPv6 ones where the name ends in `6`, open to all.
    fn with_pools(names: &[&str]) -> Self {
        names.iter().fold(Self::new(), |world, name| world.pool(name, json!({})))
    }

    fn object(mut self, object: &Value) -> Self {
        let text = object.to_string();
        let (_, object) = (Document { first_line: 1, text: &text }).parse().unwrap().unwrap();
        self.objects.push(object);
        self
    }

    /// A pool whose spec has these fields besides the addresses; `labels` and `deletionTimestamp` are its metadata's.
    fn pool(self, name: &str, fields: Value) -> Self {
        let number = self.objects.len();
        let mut spec = if name.ends_with('6') {
            let net = format!("fd00:{number:x}::");
            json!({"subnet": format!("{net}/64"), "ips": [format!("{net}1-{net}9")]})
        } else {
            json!({"subnet": format!("10.{number}.0.0/16"), "ips": [format!("10.{number}.0.1-10.{number}.0.9")]})
        };
        let mut metadata = json!({"name": name});
        for (key, value) in fields.as_object().unwrap() {
            let whole = if ["labels", "deletionTimestamp"].contains(&key.as_str()) { &mut metadata } else { &mut spec };
            whole[key] = value.clone();
        }
        let api = "spiderpool.spidernet.io/v2beta1";
        self.object(&json!({"apiVersion": api, "kind": "SpiderIPPool", "metadata": metadata, "spec": spec}))
    }

    /// The pod, with these annotations, each a JSON value or a text as it is.
    fn annotated(self, annotations: Value) -> Self {
        self.marked(json!({}), annotations)
    }

    fn marked(mut self, labels: Value, annotations: Value) -> Self {
        let PodRef { namespace, name, uid } = &self.pod;
        let annotations = texts(&annotations);
        let metadata =
            json!({"namespace": namespace, "name": name, "uid": uid, "labels": labels, "annotations": annotations});
        // Not as a document: JSON may have characters that YAML may not.
        let pod: Metadata = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        self.objects.push(Object::Pod(Box::new(pod)));
        self
    }

    fn namespace(self, labels: Value, annotations: Value) -> Self {
        let metadata = json!({"name": "app", "labels": labels, "annotations": texts(&annotations)});
        self.object(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    }

    fn node(self, labels: Value) -> Self {
        let metadata = json!({"name": "n1", "labels": labels});
        self.object(&json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}))
    }

    fn conf(self, text: &str) -> Self {
        let metadata = json!({"name": "spiderpool-conf", "namespace": "kube-system"});
        let data = json!({"conf.yml": text});
        self.object(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}))
    }

    /// The network configuration names these.
    fn configured(mut self, v4: &[&str], v6: &[&str]) -> Self {
        self.ipam.default_ipv4_ippool = v4.iter().map(ToString::to_string).collect();
        self.ipam.default_ipv6_ippool = v6.iter().map(ToString::to_string).collect();
        self
    }

    fn nic(mut self, ifname: &str) -> Self {
        self.ifname = ifname.parse().unwrap();
        self
    }

    fn controlled_by(mut self, api_version: &str, kind: &str, name: &str) -> Self {
        self.top = Top::Known(owner(api_version, kind, name));
        self
    }

    fn catalogue(&self) -> Catalogue {
        Catalogue::of(self.objects.clone())
    }

    fn request(&self) -> Request<'_> {
        Request {
            pod: &self.pod,
            ifname: &self.ifname,
            network: self.network.as_ref(),
            ipam: &self.ipam,
            node: "n1",
            site: &self.site,
            top: &self.top,
            uplink: &self.uplink,
        }
    }

    fn select(&self) -> Result<Selection, SelectionError> {
        select(&self.catalogue(), self.request())
    }

    /// The pools that fit, IPv4 before IPv6.
    #[track_caller]
    fn pools(&self) -> Vec<String> {
        let selection = self.select().unwrap_or_else(|error| panic!("{error}"));
        selection.families.into_iter().flat_map(|candidates| candidates.pools).collect()
    }

    /// Why there are none.
    #[track_caller]
    fn refusal(&self) -> String {
        self.select().expect_err("nothing is to be chosen").to_string()
    }

    fn all(&self) -> Result<Option<Vec<(IfName, Selection)>>, SelectionError> {
        select_all(&self.catalogue(), self.request())
    }
}

fn owner(api_version: &str, kind: &str, name: &str) -> Owner {
    Owner { api_version: api_version.into(), kind: kind.into(), name: name.into(), uid: "o".into() }
}

/// Values of annotations are texts.
fn texts(annotations: &Value) -> Value {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    annotations.as_object().unwrap().iter().map(|(key, value)| (key.clone(), json!(text(value)))).collect()
}

fn of(selection: &Selection, version: IpVersion) -> &[String] {
    let found = selection.families.iter().find(|candidates| candidates.version == version);
    found.map(|candidates| candidates.pools.as_slice()).unwrap_or_default()
}
