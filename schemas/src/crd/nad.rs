//! The text of the NetworkAttachmentDefinition that a SpiderMultusConfig stands for, a CNI configuration list
//! (../spec/controller.md 2). The order of keys and plugins is part of the contract.

use std::collections::BTreeMap;

use serde_json::Value;

use super::address::{AddressError, parse_address, parse_destination};
use super::coordinator::SpiderCoordinatorSpec;
use super::field::FieldError;
use super::ip_version::IpVersion;
use super::multus_config::{
    BondConfig, CniType, NetworkPools, OlderNetworkPools, SpiderMultusConfig, SpiderMultusConfigSpec, UplinkConfig,
    VlanConfig, VlanMode,
};
use super::nad_hardware as hardware;
use super::nad_plugin::{
    ConfigList, Coordinator, Detect, Ifacer, IfacerBond, Ipam, Plugin, TuningPlugin, UplinkPlugin, VlanPlugin,
};
use super::route::Route;
use crate::cni::version::CniVersion;
use crate::name::{NameError, NetworkName};

/// The annotation that names the definition.
const NAME_ANNOTATION: &str = "multus.spidernet.io/cr-name";
/// The annotation that gives the CNI version.
const VERSION_ANNOTATION: &str = "multus.spidernet.io/cni-version";
/// The annotation that names the network inside the text.
const NETWORK_ANNOTATION: &str = "cni.spidernet.io/cniconfig-name";

/// The annotation of a definition that names the resource, as multus and the device plugins know it.
const RESOURCE_ANNOTATION: &str = "k8s.v1.cni.cncf.io/resourceName";

/// The rule that a SpiderMultusConfig breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NadFault {
    /// An object without a name.
    #[error("the object has no name")]
    Unnamed,
    /// Not a network's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a version that dragline speaks.
    #[error("unsupported CNI version {0:?}, use one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0")]
    Version(String),
    /// The block of the type is missing.
    #[error("it is missing, cniType {0} requires it")]
    Missing(CniType),
    /// A block of another type is there.
    #[error("the cniType {0} only supports its own block, please remove other CNI configs")]
    Foreign(CniType),
    /// A field that the type cannot go without.
    #[error("it is empty, cniType {0} requires it")]
    Empty(CniType),
    /// The least rate is above the greatest.
    #[error("minTxRateMbps must be less than maxTxRateMbps, or equal")]
    Rates,
    /// Not VLANs of a trunk.
    #[error("{0}; give minID and maxID, 0 to 4094 and in that order, or id alone")]
    Trunk(&'static str),
    /// No uplink.
    #[error("master can't be empty")]
    NoMaster,
    /// Several uplinks and nothing to join them.
    #[error("the bond property is nil with multiple Interfaces")]
    NoBond,
    /// A bond without a name.
    #[error("bond name can't be empty")]
    UnnamedBond,
    /// A number outside its range.
    #[error("invalid vlanId {0}, please make sure vlanId in range [0,4094]")]
    VlanId(i32),
    /// The VLAN is to be given by hand and is not.
    #[error("vlanId must not be nil when vlanMode is manual")]
    NoVlanId,
    /// The VLAN is not to be given by hand and is.
    #[error("vlanId must not be specified when vlanMode is auto")]
    UnwantedVlanId,
    /// A negative MTU.
    #[error("MTU must be greater than or equal to 0, not {0}")]
    Mtu(i32),
    /// Pools cannot be chosen by the uplink here.
    #[error("MatchMasterSubnet feature is not supported for {0}")]
    MatchMasterSubnet(CniType),
    /// Not JSON, or not a plugin's configuration.
    #[error("invalid {text}: {reason}")]
    Json {
        /// The beginning of the text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not an address or CIDR.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// A field of a SpiderMultusConfig that breaks a rule.
pub type NadError = FieldError<NadFault>;

/// The name of the NetworkAttachmentDefinition: the annotation `multus.spidernet.io/cr-name`, else the object's own name.
///
/// # Errors
/// The object has no name.
pub fn nad_name(config: &SpiderMultusConfig) -> Result<String, NadError> {
    let name = annotation(config, NAME_ANNOTATION).or(config.metadata.name.as_deref());
    name.map(str::to_owned).ok_or_else(|| NadError::new("metadata.name", NadFault::Unnamed))
}

/// The definition's `spec.config`: the JSON text of a CNI configuration list. For custom it is `customCNI` as written, and
/// empty where that is: the node's own configuration of that name is meant then.
///
/// # Errors
/// The first field that breaks a rule, and the rule.
pub fn nad_config(config: &SpiderMultusConfig) -> Result<String, NadError> {
    let spec = &config.spec;
    refuse_foreign_blocks(spec)?;
    if spec.cni_type == CniType::Custom {
        let text = spec.custom_cni.clone().unwrap_or_default();
        if !text.is_empty() {
            parse_json("spec.customCNI", &text)?;
        }
        return Ok(text);
    }
    let list = ConfigList { cni_version: version(config)?, name: network(config)?, plugins: plugins(spec)? };
    Ok(serde_json::to_string(&list).expect("plain structs and JSON values have a JSON form"))
}

/// The definition's annotations: those of the object, and the name of the resource of which each of its pods gets one.
pub fn nad_annotations(config: &SpiderMultusConfig) -> BTreeMap<String, String> {
    let mut annotations = config.metadata.annotations.clone().unwrap_or_default();
    if let Some(resource) = hardware::resource(&config.spec) {
        annotations.insert(RESOURCE_ANNOTATION.to_owned(), resource);
    }
    annotations
}

fn annotation<'a>(config: &'a SpiderMultusConfig, key: &str) -> Option<&'a str> {
    config.metadata.annotations.as_ref()?.get(key).map(String::as_str).filter(|value| !value.is_empty())
}

fn version(config: &SpiderMultusConfig) -> Result<CniVersion, NadError> {
    let Some(text) = annotation(config, VERSION_ANNOTATION) else { return Ok(CniVersion::V0_3_1) };
    let fault = || NadFault::Version(text.chars().take(80).collect());
    CniVersion::parse(text).ok_or_else(|| NadError::new(format!("metadata.annotations[{VERSION_ANNOTATION}]"), fault()))
}

fn network(config: &SpiderMultusConfig) -> Result<NetworkName, NadError> {
    match annotation(config, NETWORK_ANNOTATION) {
        Some(name) => name
            .parse()
            .map_err(|fault: NameError| NadError::new(format!("metadata.annotations[{NETWORK_ANNOTATION}]"), fault)),
        None => nad_name(config)?.parse().map_err(|fault: NameError| NadError::new("metadata.name", fault)),
    }
}

fn refuse_foreign_blocks(spec: &SpiderMultusConfigSpec) -> Result<(), NadError> {
    let blocks = [
        ("spec.macvlan", CniType::Macvlan, spec.macvlan.is_some()),
        ("spec.ipvlan", CniType::Ipvlan, spec.ipvlan.is_some()),
        ("spec.vlan", CniType::Vlan, spec.vlan.is_some()),
        ("spec.sriov", CniType::Sriov, spec.sriov.is_some()),
        ("spec.ibsriov", CniType::IbSriov, spec.ibsriov.is_some()),
        ("spec.ipoib", CniType::Ipoib, spec.ipoib.is_some()),
        ("spec.ovs", CniType::Ovs, spec.ovs.is_some()),
        ("spec.customCNI", CniType::Custom, spec.custom_cni.as_deref().is_some_and(|text| !text.is_empty())),
    ];
    match blocks.iter().find(|(_, of, present)| *present && *of != spec.cni_type) {
        Some((field, ..)) => Err(NadError::new(*field, NadFault::Foreign(spec.cni_type))),
        None => Ok(()),
    }
}

/// ifacer, the main plugin and what belongs to it, the chained ones, the coordinator, tuning.
fn plugins(spec: &SpiderMultusConfigSpec) -> Result<Vec<Plugin<'_>>, NadError> {
    let kind = spec.cni_type;
    let missing = |field: &str| NadError::new(field, NadFault::Missing(kind));
    let mut plugins = match kind {
        CniType::Macvlan => {
            uplink_plugins(spec, "spec.macvlan", spec.macvlan.as_ref().ok_or_else(|| missing("spec.macvlan"))?)?
        }
        CniType::Ipvlan => {
            uplink_plugins(spec, "spec.ipvlan", spec.ipvlan.as_ref().ok_or_else(|| missing("spec.ipvlan"))?)?
        }
        CniType::Vlan => vlan_plugins(spec, spec.vlan.as_ref().ok_or_else(|| missing("spec.vlan"))?)?,
        CniType::Sriov => hardware::sriov(spec, spec.sriov.as_ref().ok_or_else(|| missing("spec.sriov"))?)?,
        CniType::IbSriov => hardware::ib_sriov(spec, spec.ibsriov.as_ref().ok_or_else(|| missing("spec.ibsriov"))?)?,
        CniType::Ipoib => hardware::ipoib(spec, spec.ipoib.as_ref().ok_or_else(|| missing("spec.ipoib"))?)?,
        CniType::Ovs => hardware::ovs(spec, spec.ovs.as_ref().ok_or_else(|| missing("spec.ovs"))?)?,
        // Its text is what was written.
        CniType::Custom => Vec::new(),
    };
    for (index, text) in spec.chain_cni_json_data.iter().enumerate() {
        plugins.push(Plugin::Chained(chained(&format!("spec.chainCNIJsonData[{index}]"), text)?));
    }
    if spec.enable_coordinator {
        plugins.push(Plugin::Coordinator(coordinator(&spec.coordinator.clone().unwrap_or_default())?));
    }
    if let Some(block) = spec.sriov.as_ref().filter(|block| block.mtu > 0) {
        plugins.push(Plugin::Tuning(TuningPlugin { kind: "tuning", mtu: block.mtu }));
    }
    Ok(plugins)
}

fn uplink_plugins<'a>(
    spec: &'a SpiderMultusConfigSpec,
    field: &str,
    block: &'a UplinkConfig,
) -> Result<Vec<Plugin<'a>>, NadError> {
    let uplink = Uplink::checked(field, &block.master, block.bond.as_ref(), block.vlan_id, block.mtu)?;
    let ipam = ipam(spec, field, block.ippools.as_ref(), block.spiderpool_config_pools.as_ref())?;
    let master = match uplink.vlan_id {
        0 => uplink.name.to_owned(),
        id => format!("{}.{id}", uplink.name),
    };
    let mut plugins = Vec::new();
    if uplink.vlan_id != 0 || uplink.interfaces.len() > 1 {
        plugins.push(Plugin::Ifacer(uplink.ifacer(uplink.vlan_id)));
    }
    let (kind, mode) = match spec.cni_type {
        CniType::Ipvlan => ("ipvlan", None),
        _ => ("macvlan", Some("bridge")),
    };
    plugins.push(Plugin::Uplink(UplinkPlugin { kind, master, mode, mtu: block.mtu, ipam }));
    Ok(plugins)
}

fn vlan_plugins<'a>(spec: &'a SpiderMultusConfigSpec, block: &'a VlanConfig) -> Result<Vec<Plugin<'a>>, NadError> {
    let field = "spec.vlan";
    let uplink = Uplink::checked(field, &block.master, block.bond.as_ref(), block.vlan_id, block.mtu)?;
    match (block.vlan_mode, block.vlan_id) {
        (VlanMode::Manual, None) => return Err(NadError::new("spec.vlan.vlanID", NadFault::NoVlanId)),
        (VlanMode::Auto, Some(_)) => return Err(NadError::new("spec.vlan.vlanID", NadFault::UnwantedVlanId)),
        (VlanMode::Manual, Some(_)) | (VlanMode::Auto, None) => {}
    }
    let ipam = ipam(spec, field, block.ippools.as_ref(), None)?;
    let mut plugins = Vec::new();
    if uplink.interfaces.len() > 1 {
        // The VLAN is made by the vlan plugin itself.
        plugins.push(Plugin::Ifacer(uplink.ifacer(0)));
    }
    plugins.push(Plugin::Vlan(VlanPlugin {
        kind: "vlan",
        master: uplink.name,
        vlan_mode: block.vlan_mode,
        vlan_id: block.vlan_id,
        mtu: block.mtu,
        ipam,
    }));
    Ok(plugins)
}

/// The uplink of a network, its rules kept.
struct Uplink<'a> {
    /// The one interface, or the bond.
    name: &'a str,
    interfaces: &'a [String],
    bond: Option<&'a BondConfig>,
    vlan_id: i32,
}

impl<'a> Uplink<'a> {
    fn checked(
        field: &str,
        interfaces: &'a [String],
        bond: Option<&'a BondConfig>,
        vlan_id: Option<i32>,
        mtu: i32,
    ) -> Result<Self, NadError> {
        let error = |key: &str, fault| Err(NadError::new(format!("{field}.{key}"), fault));
        let vlan_id = vlan_id.unwrap_or(0);
        if !(0..=4094).contains(&vlan_id) {
            return error("vlanID", NadFault::VlanId(vlan_id));
        }
        if mtu < 0 {
            return error("mtu", NadFault::Mtu(mtu));
        }
        let name = match (interfaces, bond) {
            ([], _) => return error("master", NadFault::NoMaster),
            (_, _) if interfaces.iter().any(String::is_empty) => return error("master", NadFault::NoMaster),
            ([one], _) => one,
            (_, None) => return error("bond", NadFault::NoBond),
            (_, Some(bond)) if bond.name.is_empty() => return error("bond.name", NadFault::UnnamedBond),
            (_, Some(bond)) => &bond.name,
        };
        Ok(Self { name, interfaces, bond, vlan_id })
    }

    fn ifacer(&self, vlan_id: i32) -> Ifacer<'a> {
        let bond = self.bond.map(|bond| IfacerBond {
            name: &bond.name,
            mode: bond.mode,
            options: bond.options.as_deref().unwrap_or_default(),
        });
        Ifacer { vlan_id: Some(vlan_id).filter(|id| *id != 0), kind: "ifacer", interfaces: self.interfaces, bond }
    }
}

/// None with `disableIPAM`. `older` are the pools in the older spelling, which count where the newer is absent.
fn ipam<'a>(
    spec: &SpiderMultusConfigSpec,
    field: &str,
    pools: Option<&'a NetworkPools>,
    older: Option<&'a OlderNetworkPools>,
) -> Result<Option<Ipam<'a>>, NadError> {
    if pools.is_some_and(|pools| pools.match_master_subnet) {
        let field = format!("{field}.ippools.matchMasterSubnet");
        return Err(NadError::new(field, NadFault::MatchMasterSubnet(spec.cni_type)));
    }
    let newer = pools.map(|pools| (&pools.ipv4[..], &pools.ipv6[..]));
    let (ipv4, ipv6) = newer.or(older.map(|pools| (&pools.ipv4[..], &pools.ipv6[..]))).unwrap_or_default();
    Ok((!spec.disable_ipam).then_some(Ipam {
        kind: "spiderpool",
        ipv4,
        ipv6,
        match_master_subnet: false,
        detect: Detect::in_network(spec),
    }))
}

fn coordinator(spec: &SpiderCoordinatorSpec) -> Result<Coordinator, NadError> {
    let field = |list: &str, index: usize| format!("spec.coordinator.{list}[{index}]");
    let hijack = |(index, text): (usize, &String)| match parse_destination(text) {
        Ok(network) => Ok(network.to_string()),
        Err(fault) => Err(NadError::new(field("hijackCIDR", index), fault)),
    };
    let policy = |(index, route): (usize, &Route)| {
        let error = |key: &str, fault| NadError::new(format!("{}.{key}", field("policyRoutes", index)), fault);
        let dst = parse_destination(&route.dst).map_err(|fault| error("dst", fault))?;
        let gateway = parse_address(&route.gw).map_err(|fault| error("gw", fault))?;
        let family = IpVersion::of(dst.ip());
        if IpVersion::of(gateway) != family {
            return Err(error("gw", AddressError::Family(gateway, family)));
        }
        Ok(Route { dst: dst.to_string(), gw: route.gw.clone() })
    };
    Ok(Coordinator {
        tx_queue_len: spec.tx_queue_len,
        veth_link_address: spec.veth_link_address.clone().unwrap_or_default(),
        veth_mtu: spec.veth_mtu,
        tune_pod_routes: spec.tune_pod_routes,
        pod_mac_prefix: spec.pod_mac_prefix.clone().unwrap_or_default(),
        mode: spec.effective_mode(),
        kind: "coordinator",
        pod_default_route_nic: spec.pod_default_route_nic.clone().unwrap_or_default(),
        // The original writes it only beside a podCIDRType; the SpiderCoordinator's value holds otherwise.
        pod_rp_filter: spec.pod_cidr_type.map(|_| spec.pod_rp_filter),
        hijack_cidr: spec.hijack_cidr.iter().enumerate().map(hijack).collect::<Result<_, _>>()?,
        policy_routes: spec.policy_routes.iter().enumerate().map(policy).collect::<Result<_, _>>()?,
        detect: Detect::of(spec),
    })
}

/// A chained plugin's configuration, its keys sorted.
fn chained(field: &str, text: &str) -> Result<Value, NadError> {
    let mut plugin = parse_json(field, text)?;
    if plugin.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(json_fault(field, text, "missing 'type'"));
    }
    // Other crates of a build can make serde_json keep the order of the text.
    plugin.sort_all_objects();
    Ok(plugin)
}

fn parse_json(field: &str, text: &str) -> Result<Value, NadError> {
    serde_json::from_str(text).map_err(|error| json_fault(field, text, error))
}

fn json_fault(field: &str, text: &str, reason: impl ToString) -> NadError {
    NadError::new(field, NadFault::Json { text: text.chars().take(80).collect(), reason: reason.to_string() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(spec: &str) -> SpiderMultusConfig {
        SpiderMultusConfig::new("macvlan-ens192", serde_saphyr::from_str(spec).unwrap())
    }

    fn plugins_text(spec: &str) -> String {
        let text = nad_config(&config(spec)).unwrap();
        let text = text.strip_prefix(r#"{"cniVersion":"0.3.1","name":"macvlan-ens192","plugins":["#).unwrap();
        text.strip_suffix("]}").unwrap().to_owned()
    }

    const COORDINATOR: &str = r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"auto","type":"coordinator"}"#;

    #[test]
    fn the_quick_starts_network_is_exactly_the_originals() {
        let config = config("{cniType: macvlan, macvlan: {master: [ens192], ippools: {ipv4: [10-6-v4]}, vlanID: 0}}");
        assert_eq!(
            nad_config(&config).unwrap(),
            concat!(
                r#"{"cniVersion":"0.3.1","name":"macvlan-ens192","plugins":[{"type":"macvlan","master":"ens192","mode":"bridge","#,
                r#""mtu":0,"ipam":{"type":"spiderpool","default_ipv4_ippool":["10-6-v4"]}},"#,
                r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"auto","type":"coordinator"}]}"#
            )
        );
    }

    #[test]
    fn a_vlan_of_the_uplink_is_made_first() {
        assert_eq!(
            plugins_text("{cniType: macvlan, enableCoordinator: false, macvlan: {master: [ens192], vlanID: 100}}"),
            concat!(
                r#"{"vlanID":100,"type":"ifacer","interfaces":["ens192"]},"#,
                r#"{"type":"macvlan","master":"ens192.100","mode":"bridge","mtu":0,"ipam":{"type":"spiderpool"}}"#
            )
        );
    }

    #[test]
    fn the_older_spelling_of_the_pools_and_the_mode() {
        let older = "{cniType: macvlan, coordinator: {podCIDRType: cluster, tuneMode: overlay}, \
                     macvlan: {master: [ens192], spiderpoolConfigPools: {IPv4IPPool: [10-6-v4], IPv6IPPool: [v6]}}}";
        assert_eq!(
            plugins_text(older),
            concat!(
                r#"{"type":"macvlan","master":"ens192","mode":"bridge","mtu":0,"#,
                r#""ipam":{"type":"spiderpool","default_ipv4_ippool":["10-6-v4"],"default_ipv6_ippool":["v6"]}},"#,
                r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"overlay","type":"coordinator","podRPFilter":0}"#
            )
        );
    }

    #[test]
    fn ipvlan_has_no_mode_and_a_bond_has_its_name() {
        let spec =
            "{cniType: ipvlan, disableIPAM: true, ipvlan: {master: [a, b], mtu: 1400, bond: {name: bond0, mode: 1}}}";
        assert_eq!(
            plugins_text(spec),
            concat!(
                r#"{"type":"ifacer","interfaces":["a","b"],"bond":{"name":"bond0","mode":1,"options":""}},"#,
                r#"{"type":"ipvlan","master":"bond0","mtu":1400},"#
            )
            .to_owned()
                + COORDINATOR
        );
    }

    #[test]
    fn vlan_names_its_mode() {
        let manual =
            "{cniType: vlan, enableCoordinator: false, disableIPAM: true, vlan: {master: [ens192], vlanID: 10}}";
        assert_eq!(
            plugins_text(manual),
            r#"{"type":"vlan","master":"ens192","vlanMode":"manual","vlanId":10,"mtu":0}"#
        );
        let auto =
            "{cniType: vlan, enableCoordinator: false, disableIPAM: true, vlan: {master: [ens192], vlanMode: auto}}";
        assert_eq!(plugins_text(auto), r#"{"type":"vlan","master":"ens192","vlanMode":"auto","mtu":0}"#);
    }

    #[test]
    fn chained_plugins_stand_between_with_sorted_keys() {
        let spec = r#"{cniType: macvlan, disableIPAM: true, macvlan: {master: [ens192]},
                       chainCNIJsonData: ['{"type":"tuning","mtu":9,"a":{"z":1,"b":2}}']}"#;
        assert_eq!(
            plugins_text(spec),
            [
                r#"{"type":"macvlan","master":"ens192","mode":"bridge","mtu":0}"#,
                r#"{"a":{"b":2,"z":1},"mtu":9,"type":"tuning"}"#,
                COORDINATOR
            ]
            .join(",")
        );
    }

    #[test]
    fn every_key_of_the_coordinator_in_its_place() {
        let spec = "{cniType: macvlan, disableIPAM: true, macvlan: {master: [ens192]}, coordinator: {mode: underlay, \
                    podCIDRType: none, hijackCIDR: [1.2.3.4], policyRoutes: [{dst: 10.0.0.0/8, gw: 10.6.0.1}], txQueueLen: 7, \
                    podMACPrefix: '0a:1b', podDefaultRouteNIC: eth0, vethMTU: 1400, vethLinkAddress: 169.254.1.1, \
                    tunePodRoutes: false, podRPFilter: -1, hostRuleTable: 600}}";
        let text = plugins_text(spec);
        assert_eq!(
            text.split_once("},").unwrap().1,
            concat!(
                r#"{"txQueueLen":7,"vethLinkAddress":"169.254.1.1","vethMTU":1400,"tunePodRoutes":false,"#,
                r#""podMACPrefix":"0a:1b","mode":"underlay","type":"coordinator","podDefaultRouteNic":"eth0","#,
                r#""podRPFilter":-1,"hijackCIDR":["1.2.3.4/32"],"policyRoutes":[{"dst":"10.0.0.0/8","gw":"10.6.0.1"}]}"#
            )
        );
    }

    #[test]
    fn what_is_to_be_probed_is_asked_of_ipam_and_coordinator() {
        let network = |keys: &str, rest: &str| {
            plugins_text(&format!("{{cniType: macvlan, macvlan: {{master: [a]}}, coordinator: {{{keys}}}{rest}}}"))
        };
        let text = network("detectIPConflict: true, detectGateway: true", "");
        assert_eq!(text.matches(r#""detectGateway":true,"detectIPConflict":true"#).count(), 2, "{text}");
        let text = network("detectIPConflict: true, detectGateway: false", "");
        assert!(text.matches(r#""detectIPConflict":true"#).count() == 2 && !text.contains("detectGateway"), "{text}");
        for text in [network("detectGateway: false", ""), network("detectGateway: true", ", enableCoordinator: false")]
        {
            assert!(!text.contains("detect"), "{text}");
        }
    }

    #[test]
    fn custom_is_what_was_written() {
        let text = r#"{ "type": "bridge" }"#;
        assert_eq!(nad_config(&config(&format!("{{customCNI: '{text}'}}"))).unwrap(), text);
        assert_eq!(nad_config(&config("{cniType: custom}")).unwrap(), "");
    }

    #[test]
    fn annotations_name_the_definition_and_the_network() {
        let mut config = config("{cniType: macvlan, macvlan: {master: [ens192]}}");
        let pairs = [(NAME_ANNOTATION, "nad"), (VERSION_ANNOTATION, "1.0.0"), (NETWORK_ANNOTATION, "net")];
        config.metadata.annotations = Some(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(nad_name(&config).unwrap(), "nad");
        assert!(nad_config(&config).unwrap().starts_with(r#"{"cniVersion":"1.0.0","name":"net","#));
        config.metadata.annotations.as_mut().unwrap().remove(NETWORK_ANNOTATION);
        assert!(nad_config(&config).unwrap().starts_with(r#"{"cniVersion":"1.0.0","name":"nad","#));
        config.metadata.annotations.as_mut().unwrap().insert(VERSION_ANNOTATION.to_owned(), "0.2.0".to_owned());
        let error = nad_config(&config).unwrap_err().to_string();
        assert!(
            error.starts_with("metadata.annotations[multus.spidernet.io/cni-version]: unsupported CNI version"),
            "{error}"
        );
    }

    #[test]
    fn every_rule_names_its_field() {
        for (spec, text) in [
            ("{cniType: macvlan}", "spec.macvlan: it is missing"),
            ("{cniType: macvlan, ipvlan: {master: [a]}}", "spec.ipvlan: the cniType macvlan only supports"),
            ("{cniType: custom, macvlan: {master: [a]}}", "spec.macvlan: the cniType custom only supports"),
            ("{cniType: macvlan, macvlan: {master: []}}", "spec.macvlan.master: master can't be empty"),
            ("{cniType: macvlan, macvlan: {master: [a, b]}}", "spec.macvlan.bond: the bond property is nil"),
            ("{cniType: macvlan, macvlan: {master: [a, b], bond: {name: '', mode: 1}}}", "spec.macvlan.bond.name: "),
            ("{cniType: macvlan, macvlan: {master: [a], vlanID: 4095}}", "spec.macvlan.vlanID: invalid vlanId 4095"),
            ("{cniType: ipvlan, ipvlan: {master: [a], mtu: -1}}", "spec.ipvlan.mtu: MTU must be greater"),
            (
                "{cniType: ipvlan, ipvlan: {master: [a], ippools: {matchMasterSubnet: true}}}",
                "spec.ipvlan.ippools.matchMasterSubnet: MatchMasterSubnet feature is not supported for ipvlan",
            ),
            ("{cniType: vlan, vlan: {master: [a]}}", "spec.vlan.vlanID: vlanId must not be nil"),
            (
                "{cniType: vlan, vlan: {master: [a], vlanID: 1, vlanMode: auto}}",
                "spec.vlan.vlanID: vlanId must not be specified",
            ),
            ("{customCNI: '{'}", "spec.customCNI: invalid {: EOF"),
            (
                "{cniType: macvlan, macvlan: {master: [a]}, chainCNIJsonData: ['{}']}",
                "spec.chainCNIJsonData[0]: invalid {}: missing",
            ),
            (
                "{cniType: macvlan, macvlan: {master: [a]}, coordinator: {hijackCIDR: [x]}}",
                "spec.coordinator.hijackCIDR[0]: \"x\" is not a CIDR",
            ),
            (
                "{cniType: macvlan, macvlan: {master: [a]}, coordinator: {policyRoutes: [{dst: 10.0.0.0/8, gw: '::1'}]}}",
                "spec.coordinator.policyRoutes[0].gw: ::1 is not IPv4",
            ),
        ] {
            let error = nad_config(&config(spec)).unwrap_err().to_string();
            assert!(error.starts_with(text), "{spec}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_comes_out_is_json(name in ".*", master in ".*", chain in ".*", hijack in ".*|[0-9./]{0,20}") {
            let spec = SpiderMultusConfigSpec {
                cni_type: CniType::Macvlan,
                macvlan: Some(UplinkConfig { master: vec![master], ..UplinkConfig::default() }),
                chain_cni_json_data: vec![chain.clone()],
                coordinator: Some(SpiderCoordinatorSpec { hijack_cidr: vec![hijack], ..SpiderCoordinatorSpec::default() }),
                ..SpiderMultusConfigSpec::default()
            };
            for spec in [SpiderMultusConfigSpec { chain_cni_json_data: vec![], coordinator: None, ..spec.clone() }, spec] {
                if let Ok(text) = nad_config(&SpiderMultusConfig::new(&name, spec)) {
                    prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
                }
            }
            let custom = SpiderMultusConfigSpec { custom_cni: Some(chain), ..SpiderMultusConfigSpec::default() };
            let _ = nad_config(&SpiderMultusConfig::new("custom", custom));
        }
    }
}
