//! The objects that an installation starts with: a SpiderCoordinator, pools for pods that ask for none, and the network
//! of the node's default CNI. Each is created where it is missing when a term begins, and never changed afterwards.

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use kube::api::PostParams;
use kube::runtime::watcher::DefaultBackoff;
use kube::{Api, Resource, ResourceExt};
use schemas::crd::multus_config::{CniType, SpiderMultusConfigSpec};
use schemas::crd::{SpiderCoordinator, SpiderIPPool, SpiderMultusConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cni_dir::{self, CniConf};
use super::health::Wait;
use super::{Context, watched};
use crate::kubernetes::FIELD_MANAGER;

/// The name of the network where the node has no CNI configuration.
const NO_CNI: &str = "default";
/// The name of Calico's network in its configuration, and what its SpiderMultusConfig is called.
const CALICO: (&str, &str) = ("k8s-pod-network", "calico");
/// The annotation that names the definition.
const NAME_ANNOTATION: &str = "multus.spidernet.io/cr-name";

/// What is created where it is missing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Defaults {
    /// The coordinator.
    pub coordinator: Option<SpiderCoordinator>,
    /// Pools with `default: true`.
    pub pools: Vec<SpiderIPPool>,
    /// The default CNI's network, in the controller's namespace.
    pub network: Option<DefaultNetwork>,
}

/// How the default CNI's network is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultNetwork {
    /// As the node's first CNI configuration says.
    OfNode,
    /// So.
    Named(String),
}

/// Creates them, trying again until each is there.
pub(super) async fn run(context: Context) {
    let defaults = context.config.defaults.clone();
    for pool in &defaults.pools {
        create(&context, Api::all(context.client.clone()), pool).await;
    }
    if let Some(coordinator) = &defaults.coordinator {
        create(&context, Api::all(context.client.clone()), coordinator).await;
    }
    if let Some(network) = &defaults.network {
        let network = self::network(&context, network).await;
        create(&context, Api::namespaced(context.client.clone(), &context.config.namespace), &network).await;
    }
}

async fn network(context: &Context, name: &DefaultNetwork) -> SpiderMultusConfig {
    let name = match name {
        DefaultNetwork::Named(name) => name.clone(),
        DefaultNetwork::OfNode => name_of(&context.config.cni_conf_dir),
    };
    network_of(&name)
}

/// The name in the first configuration. Without one that can be used it is `default`, as without any.
fn name_of(directory: &Path) -> String {
    match cni_dir::first(directory) {
        Ok(Some(CniConf { name, .. })) if is_object_name(&name) => name,
        Ok(Some(CniConf { name, .. })) => {
            tracing::warn!(network = name, "no object can have the default CNI's name: its network is {NO_CNI}");
            NO_CNI.into()
        }
        Ok(None) => NO_CNI.into(),
        Err(error) => {
            tracing::warn!(error, "the default CNI is not known: its network is {NO_CNI}");
            NO_CNI.into()
        }
    }
}

/// custom without text: the node's own configuration of that name is meant, whatever its plugins.
fn network_of(name: &str) -> SpiderMultusConfig {
    let spec = SpiderMultusConfigSpec {
        cni_type: CniType::Custom,
        enable_coordinator: false,
        ..SpiderMultusConfigSpec::default()
    };
    if name == CALICO.0 {
        let mut network = SpiderMultusConfig::new(CALICO.1, spec);
        network.annotations_mut().insert(NAME_ANNOTATION.into(), name.into());
        return network;
    }
    SpiderMultusConfig::new(name, spec)
}

/// A DNS-1123 subdomain.
pub(crate) fn is_object_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().copied().is_some_and(is_plain)
            && bytes.last().copied().is_some_and(is_plain)
            && bytes.iter().all(|byte| is_plain(*byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

async fn create<K>(context: &Context, api: Api<K>, object: &K)
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let what = format!("default {} {}", K::kind(&()), object.name_any());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let mut backoff = DefaultBackoff::default();
    loop {
        match context.within(api.create(&parameters, object)).await {
            Ok(_) => {
                tracing::info!("{what} created");
                break;
            }
            // There already: whose it is and what it says is nobody's concern here.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => break,
            Err(error) => {
                context.health.failures.inc();
                let wait = Wait::Lacking(format!("{what} cannot be created: {error}"));
                if context.health.waits_for(&what, Some(wait)) {
                    // Without the CRD, which may be applied at the same time, that is to be expected.
                    if watched::is_not_found(&error) {
                        tracing::info!("{what}: its CRD is not served yet; trying again");
                    } else {
                        tracing::warn!(%error, "{what} cannot be created; trying again");
                    }
                }
            }
        }
        tokio::time::sleep(backoff.next().unwrap_or(Duration::from_secs(30))).await;
    }
    context.health.waits_for(&what, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_called_as_the_first_configuration_says() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(name_of(folder.path()), "default");
        assert_eq!(name_of(&folder.path().join("none")), "default");
        std::fs::write(folder.path().join("20-x.conf"), r#"{"name":"No_Object","type":"x"}"#).unwrap();
        assert_eq!(name_of(folder.path()), "default");
        std::fs::write(folder.path().join("10-x.conf"), r#"{"name":"cilium","type":"cilium-cni"}"#).unwrap();
        assert_eq!(name_of(folder.path()), "cilium");
    }

    #[test]
    fn calicos_network_has_calicos_name_and_a_definition_of_its_networks() {
        let calico = network_of("k8s-pod-network");
        assert_eq!(calico.name_any(), "calico");
        assert_eq!(calico.annotations()["multus.spidernet.io/cr-name"], "k8s-pod-network");
        let cilium = network_of("cilium");
        assert_eq!((cilium.name_any().as_str(), cilium.annotations().len()), ("cilium", 0));
        assert_eq!(schemas::crd::multus_config::nad_config(&cilium).unwrap(), "");
    }

    #[test]
    fn names_of_objects() {
        for good in ["a", "0-a.b", "default-v4-ippool"] {
            assert!(is_object_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "A", "a_b", &"a".repeat(254)] {
            assert!(!is_object_name(bad), "{bad}");
        }
    }
}
