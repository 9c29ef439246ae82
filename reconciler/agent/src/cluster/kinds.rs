//! The kinds of objects that an agent watches, and what it keeps of each.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Resource, ResourceExt};
use schemas::crd::ippool::SpiderIPPoolStatus;
use schemas::crd::{SpiderCoordinator, SpiderIPPool, SpiderMultusConfig, SpiderReservedIP};
use serde::de::DeserializeOwned;

use crate::catalogue::{CONF_KEY, Conf, Metadata, Object};

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Pool,
    Coordinator,
    Network,
    Reserved,
    Pod,
    Namespace,
    Node,
    Conf,
}

/// All of them.
pub(super) const ALL: [Kind; 8] =
    [Kind::Pool, Kind::Coordinator, Kind::Network, Kind::Reserved, Kind::Pod, Kind::Namespace, Kind::Node, Kind::Conf];

/// Of annotations, those are kept that begin so: whoever reads another one adds it here.
const ANNOTATIONS: [&str; 5] =
    ["ipam.spidernet.io/", "cni.spidernet.io/", "k8s.v1.cni.cncf.io/", "v1.multus-cni.io/", "kubevirt.io/"];

impl Kind {
    /// As it stands in an object.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "SpiderIPPool",
            Self::Coordinator => "SpiderCoordinator",
            Self::Network => "SpiderMultusConfig",
            Self::Reserved => "SpiderReservedIP",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Conf => "ConfigMap",
        }
    }

    /// What the client has to know of it, for kinds that are read whole; of others the metadata is all there is to read.
    pub(super) fn resource(self) -> Option<ApiResource> {
        match self {
            Self::Pool => Some(ApiResource::erase::<SpiderIPPool>(&())),
            Self::Coordinator => Some(ApiResource::erase::<SpiderCoordinator>(&())),
            Self::Network => Some(ApiResource::erase::<SpiderMultusConfig>(&())),
            Self::Reserved => Some(ApiResource::erase::<SpiderReservedIP>(&())),
            Self::Conf => Some(ApiResource::erase::<ConfigMap>(&())),
            Self::Pod | Self::Namespace | Self::Node => None,
        }
    }

    /// Whether nothing is done before these have been listed. What is not declared by any object of ours is no reason to
    /// wait: an agent may have no right to read it.
    pub(super) fn is_awaited(self) -> bool {
        self != Self::Conf
    }

    /// What is kept of an object that was read whole.
    ///
    /// # Errors
    /// When it is not what its definition says.
    pub(super) fn keep(self, object: DynamicObject) -> Result<Object, String> {
        match self {
            Self::Pool => {
                let mut pool: SpiderIPPool = typed(object)?;
                bare(&mut pool);
                // What the agent itself goes by; who has which address is for people, and how many are in use is in
                // [`Counted`](super::counted::Counted).
                pool.status = pool.status.map(|status| SpiderIPPoolStatus {
                    shard_size: status.shard_size,
                    fair_share: status.fair_share,
                    waiting: status.waiting,
                    ..SpiderIPPoolStatus::default()
                });
                Ok(Object::IpPool(pool))
            }
            Self::Coordinator => {
                let mut coordinator: SpiderCoordinator = typed(object)?;
                bare(&mut coordinator);
                Ok(Object::Coordinator(coordinator))
            }
            Self::Network => {
                let mut network: SpiderMultusConfig = typed(object)?;
                bare(&mut network);
                Ok(Object::MultusConfig(network))
            }
            Self::Reserved => {
                let mut reserved: SpiderReservedIP = typed(object)?;
                bare(&mut reserved);
                Ok(Object::ReservedIp(reserved))
            }
            Self::Conf => {
                let map: ConfigMap = typed(object)?;
                let text = map.data.unwrap_or_default().remove(CONF_KEY).unwrap_or_default();
                Conf::parse(&text).map(|conf| Object::Conf(Box::new(conf)))
            }
            Self::Pod | Self::Namespace | Self::Node => Err("its metadata is all that is read".to_owned()),
        }
    }

    /// What is kept of an object of which the metadata was read.
    pub(super) fn keep_metadata<K>(self, object: PartialObjectMeta<K>) -> Object {
        let ObjectMeta { name, namespace, uid, labels, annotations, owner_references, deletion_timestamp, .. } =
            object.metadata;
        let annotations = annotations.map(|mut annotations| {
            annotations.retain(|key, _| ANNOTATIONS.iter().any(|kept| key.starts_with(kept)));
            annotations
        });
        let owner_references = owner_references.filter(|_| self == Self::Pod);
        let metadata = ObjectMeta {
            name,
            namespace,
            uid,
            labels,
            annotations,
            owner_references,
            deletion_timestamp,
            ..ObjectMeta::default()
        };
        let kept = Box::new(Metadata { metadata });
        match self {
            Self::Namespace => Object::Namespace(kept),
            Self::Node => Object::Node(kept),
            _ => Object::Pod(kept),
        }
    }
}

/// The object of a kind by namespace and name, as manifests have it.
pub(super) fn key(kind: Kind, metadata: &ObjectMeta) -> String {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    format!("{} {namespace}/{}", kind.as_str(), metadata.name.as_deref().unwrap_or_default())
}

/// The name in such a key.
pub(super) fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

fn typed<K: DeserializeOwned>(object: DynamicObject) -> Result<K, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    serde_path_to_error::deserialize(value).map_err(|error| format!("{}: {}", error.path(), error.inner()))
}

/// Without what only the API server and its clients need.
fn bare<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.meta_mut().resource_version = None;
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
}
