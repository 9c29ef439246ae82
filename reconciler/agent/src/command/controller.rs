//! `dragline controller`.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemas::crd::coordinator::{Mode, PodCidrType, SpiderCoordinatorSpec};
use schemas::crd::ip_version::IpVersion;
use schemas::crd::ippool::SpiderIPPoolSpec;
use schemas::crd::{SpiderCoordinator, SpiderIPPool};
use serde::de::DeserializeOwned;

use super::{Failure, log};
use crate::controller::defaults::{DefaultNetwork, Defaults, is_object_name};
use crate::controller::{self, Config};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How the API server is reached; the pod's service account when absent
    #[arg(long, env = "DRAGLINE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, env = "DRAGLINE_HTTP", default_value = "127.0.0.1:9811")]
    http: SocketAddr,
    /// The namespace of the Lease and of the default network; POD_NAMESPACE or kube-system when absent
    #[arg(long, env = "DRAGLINE_NAMESPACE")]
    namespace: Option<String>,
    /// Who this controller is, unlike all others; POD_NAME or the host's name and a random number when absent
    #[arg(long, env = "DRAGLINE_IDENTITY")]
    identity: Option<String>,
    /// Where the node's CNI configurations are
    #[arg(long, env = "DRAGLINE_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Cilium's ConfigMap as namespace/name
    #[arg(long, env = "DRAGLINE_CILIUM_CONFIG", default_value = "kube-system/cilium-config")]
    cilium_config: String,
    #[command(flatten)]
    coordinator: InitCoordinator,
    #[command(flatten)]
    ipv4: InitIpv4,
    #[command(flatten)]
    ipv6: InitIpv6,
    /// Create the default CNI's network where it is missing, called as the node's first CNI configuration says
    #[arg(long, env = "DRAGLINE_INIT_NETWORK", num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    init_network: bool,
    /// Call it so instead
    #[arg(long, env = "DRAGLINE_INIT_NETWORK_NAME")]
    init_network_name: Option<String>,
    #[command(flatten)]
    log: log::Logging,
}

/// The coordinator that is created where it is missing.
#[derive(Debug, clap::Args)]
struct InitCoordinator {
    /// Create a SpiderCoordinator of this name where it is missing, usually `default`
    #[arg(long, env = "DRAGLINE_INIT_COORDINATOR")]
    init_coordinator: Option<String>,
    /// Its mode: auto, underlay, overlay, disabled
    #[arg(long, env = "DRAGLINE_INIT_COORDINATOR_MODE", default_value = "auto")]
    init_coordinator_mode: String,
    /// Its podCIDRType: auto, cluster, calico, cilium, none
    #[arg(long, env = "DRAGLINE_INIT_COORDINATOR_POD_CIDR_TYPE", default_value = "auto")]
    init_coordinator_pod_cidr_type: String,
    /// Its tunePodRoutes
    #[arg(long, env = "DRAGLINE_INIT_COORDINATOR_TUNE_POD_ROUTES", default_value_t = true,
          action = clap::ArgAction::Set)]
    init_coordinator_tune_pod_routes: bool,
    /// Its hijackCIDR, separated by commas
    #[arg(long, env = "DRAGLINE_INIT_COORDINATOR_HIJACK_CIDR", value_delimiter = ',')]
    init_coordinator_hijack_cidr: Vec<String>,
    /// Its policyRoutes as JSON: [{"dst":"10.0.0.0/8","gw":"10.6.0.1"}]
    #[arg(long, env = "DRAGLINE_INIT_COORDINATOR_POLICY_ROUTES")]
    init_coordinator_policy_routes: Option<String>,
    /// Its vethLinkAddress
    #[arg(long, env = "DRAGLINE_INIT_COORDINATOR_VETH_LINK_ADDRESS")]
    init_coordinator_veth_link_address: Option<String>,
    /// Its vethMTU
    #[arg(long, env = "DRAGLINE_INIT_COORDINATOR_VETH_MTU")]
    init_coordinator_veth_mtu: Option<i32>,
}

/// The IPv4 pool that is created where it is missing.
#[derive(Debug, clap::Args)]
struct InitIpv4 {
    /// Create a default SpiderIPPool of this name for IPv4 where it is missing
    #[arg(long, env = "DRAGLINE_INIT_IPV4_POOL", requires = "init_ipv4_subnet")]
    init_ipv4_pool: Option<String>,
    /// Its subnet
    #[arg(long, env = "DRAGLINE_INIT_IPV4_SUBNET")]
    init_ipv4_subnet: Option<String>,
    /// Its ips, separated by commas
    #[arg(long, env = "DRAGLINE_INIT_IPV4_RANGES", value_delimiter = ',')]
    init_ipv4_ranges: Vec<String>,
    /// Its gateway
    #[arg(long, env = "DRAGLINE_INIT_IPV4_GATEWAY")]
    init_ipv4_gateway: Option<String>,
}

/// The IPv6 pool that is created where it is missing.
#[derive(Debug, clap::Args)]
struct InitIpv6 {
    /// Create a default SpiderIPPool of this name for IPv6 where it is missing
    #[arg(long, env = "DRAGLINE_INIT_IPV6_POOL", requires = "init_ipv6_subnet")]
    init_ipv6_pool: Option<String>,
    /// Its subnet
    #[arg(long, env = "DRAGLINE_INIT_IPV6_SUBNET")]
    init_ipv6_subnet: Option<String>,
    /// Its ips, separated by commas
    #[arg(long, env = "DRAGLINE_INIT_IPV6_RANGES", value_delimiter = ',')]
    init_ipv6_ranges: Vec<String>,
    /// Its gateway
    #[arg(long, env = "DRAGLINE_INIT_IPV6_GATEWAY")]
    init_ipv6_gateway: Option<String>,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    arguments.log.start()?;
    let config = config(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("threads cannot be started: {error}")))?;
    runtime.block_on(controller::run(config)).map_err(|error| Failure::Failed(error.to_string()))
}

fn config(arguments: Arguments) -> Result<Config, Failure> {
    let Some((namespace, name)) = arguments.cilium_config.split_once('/') else {
        return Err(usage("cilium-config", &arguments.cilium_config, "write namespace/name"));
    };
    let mut pools = Vec::new();
    let (ipv4, ipv6) = (arguments.ipv4, arguments.ipv6);
    pools.extend(pool(4, ipv4.init_ipv4_pool, ipv4.init_ipv4_subnet, ipv4.init_ipv4_ranges, ipv4.init_ipv4_gateway)?);
    pools.extend(pool(6, ipv6.init_ipv6_pool, ipv6.init_ipv6_subnet, ipv6.init_ipv6_ranges, ipv6.init_ipv6_gateway)?);
    let network = match given(arguments.init_network_name) {
        Some(name) => Some(DefaultNetwork::Named(checked_name("init-network-name", name)?)),
        None => arguments.init_network.then_some(DefaultNetwork::OfNode),
    };
    Ok(Config {
        kubeconfig: arguments.kubeconfig,
        http: arguments.http,
        namespace: given(arguments.namespace)
            .or_else(|| given(std::env::var("POD_NAMESPACE").ok()))
            .unwrap_or_else(|| "kube-system".into()),
        identity: identity(arguments.identity)?,
        cni_conf_dir: arguments.cni_conf_dir,
        cilium_config: (namespace.into(), name.into()),
        defaults: Defaults { coordinator: coordinator(arguments.coordinator)?, pools, network },
    })
}

/// A variable that is set to nothing is one that is not set.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// The random number keeps two controllers of one host apart.
fn identity(name: Option<String>) -> Result<String, Failure> {
    if let Some(name) = given(name).or_else(|| given(std::env::var("POD_NAME").ok())) {
        return Ok(name);
    }
    let random =
        getrandom::u32().map_err(|error| Failure::Failed(format!("no random number ({error}): give --identity")))?;
    Ok(format!("{}_{random:08x}", super::node_name(None)?))
}

fn coordinator(arguments: InitCoordinator) -> Result<Option<SpiderCoordinator>, Failure> {
    let Some(name) = given(arguments.init_coordinator) else { return Ok(None) };
    let name = checked_name("init-coordinator", name)?;
    let mode: Mode = word("init-coordinator-mode", &arguments.init_coordinator_mode)?;
    let kind: PodCidrType = word("init-coordinator-pod-cidr-type", &arguments.init_coordinator_pod_cidr_type)?;
    let routes = given(arguments.init_coordinator_policy_routes).unwrap_or_else(|| "[]".into());
    let policy_routes = serde_json::from_str(&routes)
        .map_err(|error| usage("init-coordinator-policy-routes", &routes, &error.to_string()))?;
    let spec = SpiderCoordinatorSpec {
        mode,
        pod_cidr_type: Some(kind),
        tune_pod_routes: arguments.init_coordinator_tune_pod_routes,
        hijack_cidr: listed(arguments.init_coordinator_hijack_cidr),
        policy_routes,
        veth_link_address: given(arguments.init_coordinator_veth_link_address),
        veth_mtu: arguments.init_coordinator_veth_mtu,
        ..SpiderCoordinatorSpec::default()
    };
    let coordinator = SpiderCoordinator::new(&name, spec);
    coordinator.settings().map_err(|error| usage("init-coordinator", &name, &error.to_string()))?;
    Ok(Some(coordinator))
}

fn pool(
    family: u8,
    name: Option<String>,
    subnet: Option<String>,
    ranges: Vec<String>,
    gateway: Option<String>,
) -> Result<Option<SpiderIPPool>, Failure> {
    let Some(name) = given(name) else { return Ok(None) };
    let flag = format!("init-ipv{family}-pool");
    let name = checked_name(&flag, name)?;
    let subnet = given(subnet).ok_or_else(|| Failure::Usage(format!("--{flag} needs --init-ipv{family}-subnet")))?;
    let version = if family == 4 { IpVersion::V4 } else { IpVersion::V6 };
    let spec = SpiderIPPoolSpec {
        ip_version: Some(version),
        subnet,
        ips: listed(ranges),
        gateway: given(gateway),
        default: true,
        ..SpiderIPPoolSpec::default()
    };
    spec.ranges().map_err(|error| usage(&flag, &name, &error.to_string()))?;
    Ok(Some(SpiderIPPool::new(&name, spec)))
}

fn listed(texts: Vec<String>) -> Vec<String> {
    texts.into_iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

/// A word of one of our kinds, as it is written there.
fn word<T: DeserializeOwned>(flag: &str, text: &str) -> Result<T, Failure> {
    let text = if text.is_empty() { "auto" } else { text };
    serde_json::from_value(text.into()).map_err(|error| usage(flag, text, &error.to_string()))
}

fn checked_name(flag: &str, name: String) -> Result<String, Failure> {
    let rule = "an object's name is made of small letters, digits, '-' and '.'";
    if is_object_name(&name) { Ok(name) } else { Err(usage(flag, &name, rule)) }
}

fn usage(flag: &str, value: &str, error: &str) -> Failure {
    Failure::Usage(format!("controller: --{flag} {value:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn asked(arguments: &[&str]) -> Result<Config, String> {
        let line = Line::try_parse_from([&["controller"], arguments].concat()).map_err(|error| error.to_string())?;
        config(line.arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_created_that_was_not_asked_for() {
        let config = asked(&[]).unwrap();
        assert_eq!(config.defaults, Defaults::default());
        assert_eq!(config.cilium_config, ("kube-system".to_owned(), "cilium-config".to_owned()));
        assert_ne!(config.identity, asked(&[]).unwrap().identity);
    }

    #[test]
    fn default_objects_are_what_the_flags_say() {
        let config = asked(&[
            "--init-coordinator=default",
            "--init-coordinator-hijack-cidr=169.254.0.0/16,10.0.0.1",
            "--init-coordinator-veth-mtu=1400",
            "--init-ipv4-pool=default-v4-ippool",
            "--init-ipv4-subnet=10.6.0.0/16",
            "--init-ipv4-ranges=10.6.0.2-10.6.0.9,10.6.1.1",
            "--init-ipv4-gateway=10.6.0.1",
            "--init-network",
        ])
        .unwrap();
        let spec = config.defaults.coordinator.unwrap().spec;
        assert_eq!((spec.mode, spec.pod_cidr_type), (Mode::Auto, Some(PodCidrType::Auto)));
        assert_eq!((spec.hijack_cidr.len(), spec.veth_mtu), (2, Some(1400)));
        let [pool] = &config.defaults.pools[..] else { panic!("one pool") };
        assert!(pool.spec.default);
        assert_eq!(pool.spec.ranges().unwrap().total(), 9);
        assert_eq!(config.defaults.network, Some(DefaultNetwork::OfNode));
        let named = asked(&["--init-network-name=calico"]).unwrap();
        assert_eq!(named.defaults.network, Some(DefaultNetwork::Named("calico".into())));
    }

    #[test]
    fn what_could_not_be_created_is_refused_at_once() {
        for (arguments, text) in [
            (&["--cilium-config=x"][..], "--cilium-config \"x\": write namespace/name"),
            (&["--init-coordinator=A"], "--init-coordinator \"A\": an object's name"),
            (&["--init-coordinator=a", "--init-coordinator-mode=x"], "--init-coordinator-mode \"x\": unknown variant"),
            (&["--init-coordinator=a", "--init-coordinator-hijack-cidr=x"], "spec.hijackCIDR[0]"),
            (&["--init-coordinator=a", "--init-coordinator-policy-routes=x"], "policy-routes \"x\": expected value"),
            (&["--init-ipv4-pool=a"], "--init-ipv4-subnet"),
            (&["--init-ipv6-pool=a", "--init-ipv6-subnet=10.0.0.0/8"], "--init-ipv6-pool \"a\": "),
        ] {
            let error = asked(arguments).unwrap_err();
            assert!(error.contains(text), "{arguments:?}: {error}");
        }
    }
}
