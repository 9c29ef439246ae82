//! Every manifest of the quick start reads as it stands, and broken ones say where.

use ipnetwork::IpNetwork;

use super::coordinator::{Mode, PodCidrType};
use super::multus_config::{CniType, nad_config};
use super::{SpiderCoordinator, SpiderIPPool, SpiderMultusConfig};

const COORDINATOR: &str = "\
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderCoordinator
metadata:
  finalizers:
  - spiderpool.spidernet.io
  name: default
spec:
  detectGateway: false
  detectIPConflict: false
  hijackCIDR:
  - 169.254.0.0/16
  hostRPFilter: 0
  hostRuleTable: 500
  mode: auto
  podCIDRType: calico
  podDefaultRouteNIC: \"\"
  podMACPrefix: \"\"
  tunePodRoutes: true
status:
  overlayPodCIDR:
  - 10.244.64.0/18
  phase: Synced
  serviceCIDR:
  - 10.233.0.0/18
";

const POOL: &str = "\
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata:
  name: 10-6-v4
spec:
  disable: false
  gateway: 10.6.0.1
  ipVersion: 4
  ips:
  - 10.6.212.200-10.6.212.240
  subnet: 10.6.0.0/16
";

const NETWORK: &str = "\
apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderMultusConfig
metadata:
  name: macvlan-ens192
spec:
  cniType: macvlan
  macvlan:
    master:
    - ens192
    ippools:
      ipv4:
      - 10-6-v4
    vlanID: 0
";

/// What `kubectl apply` of the older release left in the annotation of its NetworkAttachmentDefinition.
const OLDER_NETWORK: &str = r#"{"apiVersion":"spiderpool.spidernet.io/v2beta1","kind":"SpiderMultusConfig","metadata":{"annotations":{},"name":"macvlan-ens192","namespace":"default"},"spec":{"cniType":"macvlan","coordinator":{"podCIDRType":"cluster","tuneMode":"overlay"},"enableCoordinator":true,"macvlan":{"master":["ens192"],"spiderpoolConfigPools":{"IPv4IPPool":["10-6-v4"]},"vlanID":0}}}"#;

#[test]
fn the_coordinator_reads_with_its_older_fields_and_its_status() {
    let coordinator: SpiderCoordinator = serde_saphyr::from_str(COORDINATOR).unwrap();
    let spec = &coordinator.spec;
    assert_eq!(
        (spec.detect_gateway, spec.detect_ip_conflict, spec.host_rp_filter),
        (Some(false), Some(false), Some(0))
    );
    assert_eq!((spec.mode, spec.pod_cidr_type), (Mode::Auto, Some(PodCidrType::Calico)));
    coordinator.synced().unwrap();
    let settings = coordinator.settings().unwrap();
    let cidr = |text: &str| vec![text.parse::<IpNetwork>().unwrap()];
    assert_eq!(settings.overlay_pod_cidr, cidr("10.244.64.0/18"));
    assert_eq!(settings.service_cidr, cidr("10.233.0.0/18"));
    assert_eq!(settings.hijack_cidr, cidr("169.254.0.0/16"));
    assert_eq!((settings.host_rule_table, settings.default_route_nic), (500, None));
}

#[test]
fn the_pool_reads() {
    let pool: SpiderIPPool = serde_saphyr::from_str(POOL).unwrap();
    assert_eq!(pool.metadata.name.as_deref(), Some("10-6-v4"));
    assert_eq!(pool.spec.ranges().unwrap().total(), 41);
    assert!(!pool.spec.default && !pool.spec.disable);
}

#[test]
fn the_network_reads_in_both_spellings() {
    let network: SpiderMultusConfig = serde_saphyr::from_str(NETWORK).unwrap();
    assert_eq!(network.spec.cni_type, CniType::Macvlan);
    assert!(nad_config(&network).unwrap().contains(r#""default_ipv4_ippool":["10-6-v4"]"#));
    let older: SpiderMultusConfig = serde_json::from_str(OLDER_NETWORK).unwrap();
    let text = nad_config(&older).unwrap();
    assert!(text.contains(r#""default_ipv4_ippool":["10-6-v4"]"#) && text.contains(r#""mode":"overlay""#), "{text}");
}

#[test]
fn what_is_written_reads_back() {
    let pool: SpiderIPPool = serde_saphyr::from_str(POOL).unwrap();
    let text = serde_saphyr::to_string(&pool).unwrap();
    assert!(text.starts_with("apiVersion: spiderpool.spidernet.io/v2beta1\nkind: SpiderIPPool\n"), "{text}");
    assert_eq!(serde_saphyr::from_str::<SpiderIPPool>(&text).unwrap(), pool);
}

#[test]
fn unknown_keys_and_empty_ones_are_passed_over() {
    let text = "{metadata: {name: p}, extra: 1, spec: {subnet: 10.0.0.0/24, vlan: 0, ips: , excludeIPs: null, routes: , gateway: }}";
    let pool: SpiderIPPool = serde_saphyr::from_str(text).unwrap();
    assert!(pool.spec.ips.is_empty() && pool.spec.routes.is_none() && pool.spec.gateway.is_none());
}

#[test]
fn errors_name_the_path() {
    fn path<T: serde::de::DeserializeOwned>(json: &str) -> String {
        let error =
            serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(json)).err().unwrap();
        format!("{}: {}", error.path(), error.inner())
    }
    let pool = |spec: &str| path::<SpiderIPPool>(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{spec}}}"#));
    for (spec, text) in [
        (r#"{"subnet":4}"#, "spec.subnet: invalid type"),
        (r#"{"subnet":"10.0.0.0/8","ips":["10.0.0.1",7]}"#, "spec.ips[1]: invalid type"),
        (r#"{"subnet":"10.0.0.0/8","ipVersion":5}"#, "spec.ipVersion: IP version 5 is neither 4 nor 6"),
        (r#"{"subnet":"10.0.0.0/8","routes":[{"dst":"10.0.0.0/8"}]}"#, "spec.routes[0]: missing field `gw`"),
        (r#"{}"#, "spec: missing field `subnet`"),
    ] {
        let error = pool(spec);
        assert!(error.starts_with(text), "{error}");
    }
    let network = |spec: &str| path::<SpiderMultusConfig>(&format!(r#"{{"metadata":{{"name":"n"}},"spec":{spec}}}"#));
    let error = network(r#"{"cniType":"what"}"#);
    assert!(error.starts_with("spec.cniType: unknown variant `what`, expected one of `macvlan`"), "{error}");
    let error = network(r#"{"coordinator":{"mode":"what"}}"#);
    assert!(error.starts_with("spec.coordinator.mode: unknown variant `what`"), "{error}");
    let error = network(r#"{"macvlan":{"master":"ens192"}}"#);
    assert!(error.starts_with("spec.macvlan.master: invalid type: string"), "{error}");
    let error = path::<super::SpiderEndpoint>(r#"{"metadata":{"name":"e"},"status":{"current":{"uid":1}}}"#);
    assert!(error.starts_with("status.current.uid: invalid type"), "{error}");
}
