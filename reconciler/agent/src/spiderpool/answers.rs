//! What is answered to each request: the same calls as of our own plugins, in the original's words.

use std::sync::Arc;

use hyper::StatusCode;
use ipnetwork::IpNetwork;
use schemas::agent_api::{
    CoordinatorConfig, EndpointInterface, GetCoordinatorConfig, IpConfig, IpamAddArgs, IpamAddResponse,
    IpamBatchDelArgs, IpamDelArgs, NicRoute, WorkloadEndpoint,
};
use schemas::cni::netconf::SpiderpoolIpam;
use schemas::crd::route::Route;
use schemas::intent::{Attachment, CoordinatorMode, PodRef};
use schemas::name::{AttachmentKey, ContainerId, NetworkName};
use schemas::wire::{AllocateCall, Answer, Call, Part, Place, Withdrawal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Answered;
use crate::agent::Agent;
use crate::identity::Identity;
use crate::{call, endpoint, selection};

/// The name under which an attachment is recorded whose network configuration is not told.
const NETWORK: &str = "spiderpool";
/// The original's answer where an address belongs to a pod's name.
const STATEFUL_FORBIDDEN: u16 = 522;

/// A refusal.
pub(super) fn error(status: StatusCode, text: &str) -> Answered {
    (status, serde_json::Value::from(text).to_string())
}

fn failed(text: &str) -> Answered {
    error(StatusCode::INTERNAL_SERVER_ERROR, text)
}

fn given(answer: &impl Serialize) -> Answered {
    serde_json::to_string(answer).map_or_else(|fault| failed(&fault.to_string()), |text| (StatusCode::OK, text))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Answered> {
    let text = |fault| error(StatusCode::UNPROCESSABLE_ENTITY, &format!("the request's body: {fault}"));
    serde_json::from_slice(body).map_err(text)
}

/// A name of the request, checked.
fn name<T: std::str::FromStr<Err: std::fmt::Display>>(key: &str, value: &str) -> Result<T, Answered> {
    let text = |fault| error(StatusCode::UNPROCESSABLE_ENTITY, &format!("{key} in body: {fault}"));
    value.parse().map_err(text)
}

fn key(container: &str, ifname: &str) -> Result<AttachmentKey, Answered> {
    Ok(AttachmentKey { container: name("containerID", container)?, ifname: name("ifName", ifname)? })
}

/// `GET /v1/ipam/healthy`.
pub(super) fn healthy(agent: &Agent) -> Answered {
    match agent.ledger.store().poisoned() {
        None => (StatusCode::OK, String::new()),
        Some(reason) => failed(&format!("the store is poisoned: {reason}")),
    }
}

/// `POST /v1/ipam/ip`.
pub(super) async fn add(agent: &Arc<Agent>, body: &[u8], deadline: Instant) -> Answered {
    add_args(agent, body, deadline).await.unwrap_or_else(|refused| refused)
}

async fn add_args(agent: &Arc<Agent>, body: &[u8], deadline: Instant) -> Result<Answered, Answered> {
    let asked: IpamAddArgs = read(body)?;
    let key = key(&asked.container_id, &asked.if_name)?;
    let network: NetworkName = name("network", NETWORK)?;
    let pod = PodRef { namespace: asked.pod_namespace, name: asked.pod_name, uid: asked.pod_uid };
    let ipam = SpiderpoolIpam {
        plugin: "spiderpool".to_owned(),
        default_ipv4_ippool: asked.default_ipv4_ippool,
        default_ipv6_ippool: asked.default_ipv6_ippool,
        clean_gateway: asked.clean_gateway,
        match_master_subnet: asked.match_master_subnet,
        ..SpiderpoolIpam::default()
    };
    let place = Place { key: key.clone(), network, netns: Some(asked.net_namespace), pod };
    match call::answer(agent, Call::Allocate(AllocateCall { place, ipam }), deadline).await {
        Answer::Result(_) => Ok(given(&response(agent, &key.container))),
        Answer::Error(refused) => Err(failed(&refused.to_string())),
        _ => Err(failed("the agent gave another answer than addresses")),
    }
}

/// All that a sandbox has: the plugin takes its own interface's.
fn response(agent: &Agent, container: &ContainerId) -> IpamAddResponse {
    let records = agent.ledger.sandbox(container);
    let attachments: Vec<Attachment> = records.map(|records| records.by_ordinal()).unwrap_or_default();
    let conf = &agent.catalogue().conf;
    let mut found = IpamAddResponse { ips: Vec::new(), routes: Vec::new() };
    for attachment in attachments.iter().filter(|attachment| attachment.allocated && !attachment.closing) {
        let nic = attachment.key.ifname.to_string();
        for assigned in &attachment.addresses {
            found.ips.push(IpConfig {
                version: if assigned.address.is_ipv4() { 4 } else { 6 },
                address: assigned.address.to_string(),
                ip_pool: assigned.pool.clone(),
                gateway: assigned.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
                nic: nic.clone(),
                vlan: 0,
                enable_gateway_detection: conf.enable_gateway_detection && assigned.gateway.is_some(),
                enable_ip_conflict_detection: conf.enable_ip_conflict_detection,
            });
        }
        let routes = attachment.routes.iter().filter_map(|route| Some((route.dst, route.gateway?)));
        found.routes.extend(routes.map(|(dst, gateway)| NicRoute {
            if_name: nic.clone(),
            dst: dst.to_string(),
            gw: gateway.to_string(),
        }));
    }
    found
}

/// `DELETE /v1/ipam/ip`. As with our own plugin, the sandbox decides, and not what the API server says of the pod.
pub(super) async fn delete(agent: &Arc<Agent>, body: &[u8], deadline: Instant) -> Answered {
    let asked = read::<IpamDelArgs>(body).and_then(|asked| key(&asked.container_id, &asked.if_name));
    match asked {
        Ok(key) => withdraw(agent, key, deadline).await.unwrap_or_else(|refused| refused),
        Err(refused) => refused,
    }
}

async fn withdraw(agent: &Arc<Agent>, key: AttachmentKey, deadline: Instant) -> Result<Answered, Answered> {
    let withdrawal = Withdrawal { key, part: Part::Addresses };
    match call::answer(agent, Call::Withdraw(withdrawal), deadline).await {
        Answer::Done => Ok((StatusCode::OK, String::new())),
        Answer::Error(refused) => Err(failed(&refused.to_string())),
        _ => Err(failed("the agent gave another answer than that it is done")),
    }
}

/// `DELETE /v1/ipam/ips`.
pub(super) async fn delete_all(agent: &Arc<Agent>, body: &[u8], deadline: Instant) -> Answered {
    let withdrawn = async {
        let asked: IpamBatchDelArgs = read(body)?;
        let container: ContainerId = name("containerID", &asked.container_id)?;
        let Some(records) = agent.ledger.sandbox(&container) else { return Ok((StatusCode::OK, String::new())) };
        for attachment in records.by_ordinal().into_iter().filter(|attachment| attachment.allocated) {
            let pod = &attachment.pod;
            if !asked.pod_uid.is_empty() && !pod.uid.is_empty() && pod.uid != asked.pod_uid {
                let text =
                    format!("sandbox {container} is that of pod {pod} with UID {}, not {}", pod.uid, asked.pod_uid);
                return Err(failed(&text));
            }
            if asked.is_release_conflict_ips && Identity::of(&agent.catalogue(), pod).is_some() {
                let status = StatusCode::from_u16(STATEFUL_FORBIDDEN).unwrap_or(StatusCode::FORBIDDEN);
                return Err(error(status, "forbid releasing IPs for stateful workload"));
            }
            withdraw(agent, attachment.key, deadline).await?;
        }
        Ok((StatusCode::OK, String::new()))
    };
    withdrawn.await.unwrap_or_else(|refused: Answered| refused)
}

/// `GET /v1/workloadendpoint?podNamespace=&podName=`.
pub(super) fn endpoint(agent: &Agent, query: &str) -> Answered {
    let parameter = |wanted: &str| {
        let pairs = form_urlencoded::parse(query.as_bytes());
        pairs.into_iter().find(|(key, _)| key == wanted).map(|(_, value)| value.into_owned())
    };
    let (Some(namespace), Some(name)) = (parameter("podNamespace"), parameter("podName")) else {
        return error(StatusCode::BAD_REQUEST, "podNamespace and podName in query are required");
    };
    let Some(found) = endpoint::all(agent).remove(&(namespace.clone(), name.clone())) else {
        let text = format!("SpiderEndpoint not found for pod {namespace}/{name}");
        return error(StatusCode::NOT_FOUND, &text);
    };
    let current = found.status.current;
    let interfaces = current.ips.into_iter().map(|ip| EndpointInterface {
        interface: ip.interface,
        ipv4: ip.ipv4,
        ipv6: ip.ipv6,
        ipv4_pool: ip.ipv4_pool,
        ipv6_pool: ip.ipv6_pool,
        ipv4_gateway: ip.ipv4_gateway,
        ipv6_gateway: ip.ipv6_gateway,
        mac: ip.mac,
        routes: ip.routes,
    });
    given(&WorkloadEndpoint {
        pod_namespace: namespace,
        pod_name: name,
        pod_uid: current.uid,
        node: current.node,
        interfaces: interfaces.collect(),
    })
}

/// `GET /v1/coordinator/config`, with a body.
pub(super) fn coordinator(agent: &Agent, body: &[u8]) -> Answered {
    let asked: GetCoordinatorConfig = match read(body) {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let catalogue = agent.catalogue();
    let Some(declared) = &catalogue.coordinator else { return failed("coordinator config not found") };
    if let Err(reason) = &declared.synced {
        let name = declared.object.metadata.name.as_deref().unwrap_or_default();
        return failed(&format!("spidercoordinator: {name} no ready: {reason}"));
    }
    let settings = match &declared.settings {
        Ok(settings) => settings,
        Err(reason) => return failed(&format!("SpiderCoordinator: {reason}")),
    };
    let pod = PodRef { namespace: asked.pod_namespace, name: asked.pod_name, uid: String::new() };
    let annotated = selection::pod_marks(&catalogue, &pod)
        .and_then(|marks| marks.annotations.get(selection::ANNOTATION_DEFAULT_NIC).cloned());
    let texts = |networks: &[IpNetwork]| networks.iter().map(ToString::to_string).collect();
    let route = |route: &schemas::intent::RouteIntent| {
        Some(Route { dst: route.dst.to_string(), gw: route.gateway?.to_string() })
    };
    given(&CoordinatorConfig {
        mode: mode(settings.mode).to_owned(),
        overlay_pod_cidr: texts(&settings.overlay_pod_cidr),
        service_cidr: texts(&settings.service_cidr),
        hijack_cidr: texts(&settings.hijack_cidr),
        policy_routes: settings.policy_routes.iter().filter_map(route).collect(),
        pod_mac_prefix: settings.mac_prefix.map(|prefix| prefix.to_string()).unwrap_or_default(),
        tune_pod_routes: settings.tune_pod_routes,
        pod_default_route_nic: annotated.or_else(|| settings.default_route_nic.clone()).unwrap_or_default(),
        host_rule_table: settings.host_rule_table.into(),
        pod_rp_filter: settings.pod_rp_filter.into(),
        tx_queue_len: settings.tx_queue_len.into(),
        veth_link_address: settings.veth_link_address.map(|address| address.to_string()).unwrap_or_default(),
        veth_mtu: settings.veth_mtu.unwrap_or(1500).into(),
    })
}

/// The original's plugin knows `disable`, and fails at what its own custom resource says (../design/deviations.md).
fn mode(mode: CoordinatorMode) -> &'static str {
    match mode {
        CoordinatorMode::Auto => "auto",
        CoordinatorMode::Underlay => "underlay",
        CoordinatorMode::Overlay => "overlay",
        CoordinatorMode::Disabled => "disable",
    }
}
