//! The main plugins of networks whose interfaces are given out as resources of the node, or by a switch on it: sriov,
//! ib-sriov, ipoib and ovs (../spec/controller.md 2.1).

use super::multus_config::{
    CniType, IbSriovConfig, IpoibConfig, NadError, NadFault, NetworkPools, OvsConfig, SpiderMultusConfigSpec,
    SriovConfig, Trunk,
};
use super::nad_plugin::{Detect, IbSriovPlugin, Ipam, IpoibPlugin, OvsPlugin, Plugin, RdmaPlugin, SriovPlugin};

/// How the device plugin of Open vSwitch names the resource of a bridge.
const OVS_RESOURCE: &str = "ovs-cni.network.kubevirt.io";

/// The resource of which a pod of the network gets one.
pub(super) fn resource(spec: &SpiderMultusConfigSpec) -> Option<String> {
    let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    match spec.cni_type {
        CniType::Sriov => named(&spec.sriov.as_ref()?.resource_name),
        CniType::IbSriov => named(&spec.ibsriov.as_ref()?.resource_name),
        CniType::Ovs => {
            let block = spec.ovs.as_ref()?;
            named(&block.device_id).map(|_| format!("{OVS_RESOURCE}/{}", block.bridge))
        }
        CniType::Macvlan | CniType::Ipvlan | CniType::Vlan | CniType::Ipoib | CniType::Custom => None,
    }
}

pub(super) fn sriov<'a>(spec: &'a SpiderMultusConfigSpec, block: &'a SriovConfig) -> Result<Vec<Plugin<'a>>, NadError> {
    required(spec, "spec.sriov.resourceName", block.resource_name.as_deref())?;
    let vlan = vlan("spec.sriov.vlanID", block.vlan_id)?;
    if block.mtu < 0 {
        return Err(NadError::new("spec.sriov.mtu", NadFault::Mtu(block.mtu)));
    }
    let (min_tx_rate, max_tx_rate) = (block.min_tx_rate_mbps.unwrap_or(0), block.max_tx_rate_mbps.unwrap_or(0));
    // A greatest rate of 0 is none.
    if max_tx_rate != 0 && min_tx_rate > max_tx_rate {
        return Err(NadError::new("spec.sriov.minTxRateMbps", NadFault::Rates));
    }
    let mut ipam = ipam(spec, block.ippools.as_ref());
    if let Some(ipam) = &mut ipam {
        ipam.match_master_subnet = block.ippools.as_ref().is_some_and(|pools| pools.match_master_subnet);
    }
    let mut plugins = vec![Plugin::Sriov(SriovPlugin { vlan, min_tx_rate, max_tx_rate, kind: "sriov", ipam })];
    if block.rdma_isolation {
        plugins.push(Plugin::Rdma(RdmaPlugin { kind: "rdma" }));
    }
    Ok(plugins)
}

pub(super) fn ib_sriov<'a>(
    spec: &'a SpiderMultusConfigSpec,
    block: &'a IbSriovConfig,
) -> Result<Vec<Plugin<'a>>, NadError> {
    required(spec, "spec.ibsriov.resourceName", block.resource_name.as_deref())?;
    Ok(vec![Plugin::IbSriov(IbSriovPlugin {
        kind: "ib-sriov",
        pkey: block.pkey.as_deref().unwrap_or_default(),
        link_state: block.link_state,
        rdma_isolation: block.rdma_isolation,
        ib_kubernetes_enabled: block.enable_ib_kubernetes,
        ipam: ipam(spec, block.ippools.as_ref()),
    })])
}

pub(super) fn ipoib<'a>(spec: &'a SpiderMultusConfigSpec, block: &'a IpoibConfig) -> Result<Vec<Plugin<'a>>, NadError> {
    let master = required(spec, "spec.ipoib.master", block.master.as_deref())?;
    Ok(vec![Plugin::Ipoib(IpoibPlugin { kind: "ipoib", master, ipam: ipam(spec, block.ippools.as_ref()) })])
}

pub(super) fn ovs<'a>(spec: &'a SpiderMultusConfigSpec, block: &'a OvsConfig) -> Result<Vec<Plugin<'a>>, NadError> {
    let bridge = required(spec, "spec.ovs.bridge", Some(&block.bridge))?;
    for (index, trunk) in block.trunk.iter().enumerate() {
        checked_trunk(trunk)
            .map_err(|fault| NadError::new(format!("spec.ovs.trunk[{index}]"), NadFault::Trunk(fault)))?;
    }
    Ok(vec![Plugin::Ovs(OvsPlugin {
        vlan: vlan("spec.ovs.vlan", block.vlan)?,
        kind: "ovs",
        bridge,
        device_id: block.device_id.as_deref().unwrap_or_default(),
        ipam: ipam(spec, block.ippools.as_ref()),
        trunk: &block.trunk,
    })])
}

fn required<'a>(spec: &SpiderMultusConfigSpec, field: &str, value: Option<&'a str>) -> Result<&'a str, NadError> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| NadError::new(field, NadFault::Empty(spec.cni_type)))
}

fn vlan(field: &str, id: Option<i32>) -> Result<i32, NadError> {
    let id = id.unwrap_or(0);
    if (0..=4094).contains(&id) { Ok(id) } else { Err(NadError::new(field, NadFault::VlanId(id))) }
}

fn ipam<'a>(spec: &SpiderMultusConfigSpec, pools: Option<&'a NetworkPools>) -> Option<Ipam<'a>> {
    let (ipv4, ipv6) = pools.map(|pools| (&pools.ipv4[..], &pools.ipv6[..])).unwrap_or_default();
    (!spec.disable_ipam).then_some(Ipam {
        kind: "spiderpool",
        ipv4,
        ipv6,
        match_master_subnet: false,
        detect: Detect::in_network(spec),
    })
}

fn checked_trunk(trunk: &Trunk) -> Result<(), &'static str> {
    let is_vlan = |id: Option<i32>| id.is_none_or(|id| (0..=4094).contains(&id));
    match (trunk.min_id, trunk.max_id, trunk.id) {
        (min, max, id) if !(is_vlan(min) && is_vlan(max) && is_vlan(id)) => Err("a number is no VLAN"),
        (Some(min), Some(max), _) if min > max => Err("minID is greater than maxID in trunk parameter"),
        (None, Some(_), _) => Err("maxID is there without minID"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::multus_config::{SpiderMultusConfig, nad_annotations, nad_config};

    fn config(spec: &str) -> SpiderMultusConfig {
        SpiderMultusConfig::new("fast", serde_saphyr::from_str(spec).unwrap())
    }

    fn plugins(spec: &str) -> String {
        let text = nad_config(&config(spec)).unwrap();
        let text = text.strip_prefix(r#"{"cniVersion":"0.3.1","name":"fast","plugins":["#).unwrap();
        text.strip_suffix("]}").unwrap().to_owned()
    }

    fn resource(spec: &str) -> Option<String> {
        nad_annotations(&config(spec)).remove("k8s.v1.cni.cncf.io/resourceName")
    }

    #[test]
    fn sriov_with_everything() {
        let spec = "{cniType: sriov, chainCNIJsonData: ['{\"type\":\"x\"}'], sriov: {resourceName: intel.com/vf, \
                    vlanID: 10, mtu: 4000, minTxRateMbps: 100, maxTxRateMbps: 1000, rdmaIsolation: true, \
                    ippools: {ipv4: [a], ipv6: [b], matchMasterSubnet: true}}}";
        assert_eq!(
            plugins(spec),
            [
                r#"{"vlan":10,"min_tx_rate":100,"max_tx_rate":1000,"type":"sriov","#,
                r#""ipam":{"type":"spiderpool","default_ipv4_ippool":["a"],"default_ipv6_ippool":["b"],"#,
                r#""match_master_subnet":true}},{"type":"rdma"},{"type":"x"},"#,
                r#"{"txQueueLen":0,"tunePodRoutes":true,"mode":"auto","type":"coordinator"},"#,
                r#"{"type":"tuning","mtu":4000}"#,
            ]
            .concat()
        );
        assert_eq!(resource(spec).unwrap(), "intel.com/vf");
    }

    #[test]
    fn sriov_with_nothing_has_its_zeroes() {
        let spec = "{cniType: sriov, enableCoordinator: false, disableIPAM: true, sriov: {resourceName: vf}}";
        assert_eq!(plugins(spec), r#"{"vlan":0,"min_tx_rate":0,"max_tx_rate":0,"type":"sriov"}"#);
    }

    #[test]
    fn infiniband() {
        let spec = "{cniType: ib-sriov, enableCoordinator: false, ibsriov: {resourceName: mlx/ib, pkey: '0x1'}}";
        assert_eq!(
            plugins(spec),
            concat!(
                r#"{"type":"ib-sriov","pkey":"0x1","link_state":"enable","rdmaIsolation":true,"#,
                r#""ibKubernetesEnabled":false,"ipam":{"type":"spiderpool"}}"#
            )
        );
        assert_eq!(resource(spec).unwrap(), "mlx/ib");
        let spec = "{cniType: ipoib, enableCoordinator: false, ipoib: {master: ib0, ippools: {ipv4: [a]}}}";
        assert_eq!(
            plugins(spec),
            r#"{"type":"ipoib","master":"ib0","ipam":{"type":"spiderpool","default_ipv4_ippool":["a"]}}"#
        );
        assert_eq!(resource(spec), None);
    }

    #[test]
    fn a_port_of_a_switch() {
        let spec = "{cniType: ovs, enableCoordinator: false, disableIPAM: true, ovs: {bridge: br1, vlan: 10, \
                    deviceID: '0000:01:00.1', trunk: [{minID: 1, maxID: 9}, {id: 20}]}}";
        assert_eq!(
            plugins(spec),
            concat!(
                r#"{"vlan":10,"type":"ovs","bridge":"br1","deviceID":"0000:01:00.1","#,
                r#""trunk":[{"minID":1,"maxID":9},{"id":20}]}"#
            )
        );
        assert_eq!(resource(spec).unwrap(), "ovs-cni.network.kubevirt.io/br1");
        let plain = "{cniType: ovs, enableCoordinator: false, ovs: {bridge: br1}}";
        assert_eq!(plugins(plain), r#"{"vlan":0,"type":"ovs","bridge":"br1","ipam":{"type":"spiderpool"}}"#);
        assert_eq!(resource(plain), None);
    }

    #[test]
    fn every_rule_names_its_field() {
        for (spec, text) in [
            ("{cniType: sriov}", "spec.sriov: it is missing, cniType sriov requires it"),
            ("{cniType: sriov, sriov: {}}", "spec.sriov.resourceName: it is empty, cniType sriov requires it"),
            (
                "{cniType: sriov, sriov: {resourceName: a, minTxRateMbps: 2, maxTxRateMbps: 1}}",
                "spec.sriov.minTxRateMbps: minTxRateMbps must be less than maxTxRateMbps",
            ),
            ("{cniType: sriov, sriov: {resourceName: a, vlanID: -1}}", "spec.sriov.vlanID: invalid vlanId -1"),
            ("{cniType: ib-sriov, ibsriov: {}}", "spec.ibsriov.resourceName: it is empty"),
            ("{cniType: ipoib, ipoib: {}}", "spec.ipoib.master: it is empty"),
            ("{cniType: ovs, ovs: {bridge: ''}}", "spec.ovs.bridge: it is empty"),
            ("{cniType: ovs, ovs: {bridge: b, trunk: [{maxID: 1}]}}", "spec.ovs.trunk[0]: maxID is there without"),
            ("{cniType: ovs, ovs: {bridge: b, trunk: [{minID: 2, maxID: 1}]}}", "spec.ovs.trunk[0]: minID is greater"),
            ("{cniType: ovs, ovs: {bridge: b, trunk: [{id: 4095}]}}", "spec.ovs.trunk[0]: a number is no VLAN"),
        ] {
            let error = nad_config(&config(spec)).unwrap_err().to_string();
            assert!(error.starts_with(text), "{spec}: {error}");
        }
    }
}
