//! What holds for one attachment, of all that is said.

use ipnetwork::IpNetwork;
use schemas::intent::{CoordinateIntent, CoordinatorSettings};

/// The network configuration over what the cluster says now over what it said at ADD.
pub(super) fn settings(intent: &CoordinateIntent, cluster: Option<&CoordinatorSettings>) -> CoordinatorSettings {
    let conf = &intent.conf;
    let cluster = cluster.unwrap_or(&intent.cluster);
    let list = |own: &Vec<IpNetwork>, other: &Vec<IpNetwork>| if own.is_empty() { other } else { own }.clone();
    CoordinatorSettings {
        mode: conf.mode.unwrap_or(cluster.mode),
        tune_pod_routes: conf.tune_pod_routes.unwrap_or(cluster.tune_pod_routes),
        default_route_nic: conf
            .default_route_nic
            .clone()
            .or_else(|| match &intent.annotated_default_nic {
                Some(annotated) => Some(annotated.clone()),
                None => cluster.default_route_nic.clone(),
            })
            .filter(|name| !name.is_empty()),
        overlay_pod_cidr: list(&conf.overlay_pod_cidr, &cluster.overlay_pod_cidr),
        service_cidr: list(&conf.service_cidr, &cluster.service_cidr),
        hijack_cidr: list(&conf.hijack_cidr, &cluster.hijack_cidr),
        host_rule_table: conf.host_rule_table.unwrap_or(cluster.host_rule_table),
        pod_rp_filter: conf.pod_rp_filter.unwrap_or(cluster.pod_rp_filter),
        tx_queue_len: conf.tx_queue_len.unwrap_or(cluster.tx_queue_len),
        policy_routes: if conf.policy_routes.is_empty() { &cluster.policy_routes } else { &conf.policy_routes }.clone(),
        mac_prefix: conf.mac_prefix.or(cluster.mac_prefix),
        veth_link_address: conf.veth_link_address.or(cluster.veth_link_address),
        veth_mtu: conf.veth_mtu.or(cluster.veth_mtu),
        host_rp_filter: conf.host_rp_filter.or(cluster.host_rp_filter),
    }
}
