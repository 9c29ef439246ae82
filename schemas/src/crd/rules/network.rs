//! The rules of SpiderMultusConfig.

use super::cel::filled;
use super::{Placed, coordinator, said, text};

/// The types, the keys of their blocks, and the blocks' names in the original's texts.
const BLOCKS: [(&str, &str, &str); 7] = [
    ("macvlan", "macvlan", "spec.macvlanConfig"),
    ("ipvlan", "ipvlan", "spec.ipvlanConfig"),
    ("vlan", "vlan", "spec.vlan"),
    ("sriov", "sriov", "spec.sriovConfig"),
    ("ib-sriov", "ibsriov", "spec.ibsriovConfig"),
    ("ipoib", "ipoib", "spec.ipoibConfig"),
    ("ovs", "ovs", "spec.ovsConfig"),
];

/// The rules of a SpiderMultusConfig.
pub(in super::super) fn network() -> Vec<Placed> {
    let mut rules = blocks();
    for kind in ["macvlan", "ipvlan", "vlan"] {
        rules.extend(uplinks(kind));
    }
    rules.extend(vlan());
    rules.extend(virtual_functions());
    rules.extend(open_vswitch());
    rules.extend(texts());
    rules.extend(coordinator::settings().map(|rule| rule.below(".spec.coordinator")));
    rules
}

/// The block of the type is there, and no other one.
fn blocks() -> Vec<Placed> {
    let mut rules = Vec::new();
    for (kind, key, name) in BLOCKS {
        rules.push(
            text(
                ".spec",
                format!("self.cniType != '{kind}' || has(self.{key})"),
                format!("no {name} specified, cniType {kind} requires 'spec.{key}'"),
            )
            .about(&format!(".{key}"))
            .required(),
        );
        rules.push(
            text(
                ".spec",
                format!("self.cniType != '{kind}' || ({})", only(key)),
                format!("the cniType {kind} only supports {name}, please remove other CNI configs"),
            )
            .about(".cniType")
            .forbidden(),
        );
    }
    rules.push(
        text(
            ".spec",
            format!("self.cniType != 'custom' || ({})", only("customCNI")),
            "the cniType custom only supports spec.customCniTypeConfig, please remove other CNI configs",
        )
        .about(".cniType")
        .forbidden(),
    );
    rules
}

fn only(own: &str) -> String {
    let others = BLOCKS.iter().map(|(_, key, _)| *key).filter(|key| *key != own);
    let mut absent: Vec<String> = others.map(|key| format!("!has(self.{key})")).collect();
    if own != "customCNI" {
        // The original's client writes an empty one.
        absent.push("(!has(self.customCNI) || self.customCNI == '')".to_owned());
    }
    absent.join(" && ")
}

fn uplinks(kind: &str) -> [Placed; 4] {
    let at = format!(".spec.{kind}");
    [
        text(
            &at,
            "self.master.size() > 0 && self.master.all(m, m != '')",
            "master can't be empty, name an interface of the node",
        )
        .about(".master"),
        text(
            &at,
            "self.master.size() < 2 || has(self.bond)",
            "the bond property is nil with multiple Interfaces, name the bond that joins them or one master",
        ),
        text(&at, "self.master.size() < 2 || !has(self.bond) || self.bond.name != ''", "bond name can't be empty"),
        text(
            format!("{at}.ippools"),
            "!has(self.matchMasterSubnet) || !self.matchMasterSubnet",
            format!("MatchMasterSubnet feature is not supported for {kind}"),
        )
        .about(".matchMasterSubnet"),
    ]
}

fn vlan() -> [Placed; 2] {
    [
        text(
            ".spec.vlan",
            "self.vlanMode != 'manual' || has(self.vlanID)",
            "vlanId must not be nil when vlanMode is manual, write vlanID",
        ),
        text(
            ".spec.vlan",
            "self.vlanMode != 'auto' || !has(self.vlanID)",
            "vlanId must not be specified when vlanMode is auto, remove vlanID",
        ),
    ]
}

fn virtual_functions() -> [Placed; 4] {
    let named = |kind: &str, key: &str, name: &str| {
        let holds = format!("has(self.{key}) && self.{key} != ''");
        text(format!(".spec.{kind}"), holds, format!("no {name}[{key}] specified")).about(&format!(".{key}")).required()
    };
    [
        named("sriov", "resourceName", "spec.sriovConfig"),
        named("ibsriov", "resourceName", "spec.ibsriovConfig"),
        named("ipoib", "master", "spec.ipoibConfig"),
        said(
            ".spec.sriov",
            "!has(self.minTxRateMbps) || !has(self.maxTxRateMbps) || self.minTxRateMbps <= self.maxTxRateMbps",
            filled(
                "minTxRateMbps must be less than maxTxRateMbps, not %d with %d",
                &["self.minTxRateMbps", "self.maxTxRateMbps"],
            ),
        ),
    ]
}

fn open_vswitch() -> [Placed; 3] {
    let trunk = ".spec.ovs.trunk[]";
    [
        text(".spec.ovs.bridge", "self != ''", "no spec.ovsConfig[bridge] specified"),
        text(trunk, "!has(self.maxID) || has(self.minID)", "minID is required beside maxID in trunk parameter"),
        said(
            trunk,
            "!has(self.maxID) || !has(self.minID) || self.minID <= self.maxID",
            filled("minID is greater than maxID in trunk parameter: %d and %d", &["self.minID", "self.maxID"]),
        ),
    ]
}

/// JSON, as far as it is seen from outside: the controller reads it.
fn texts() -> [Placed; 3] {
    let beginning = "self.substring(0, self.size() < 80 ? self.size() : 80)";
    let object = "self.trim().startsWith('{') && self.trim().endsWith('}')";
    [
        text(
            ".spec.customCNI",
            format!("self == '' || ({object})"),
            "customCniConfig isn't a valid JSON encoding of an object, write {\"cniVersion\": …}",
        )
        .forbidden(),
        said(".spec.chainCNIJsonData[]", object, filled("invalid %s: not the JSON of an object", &[beginning]))
            .forbidden(),
        said(
            ".spec.chainCNIJsonData[]",
            format!("!({object}) || self.contains('\"type\"')"),
            filled("invalid %s: missing 'type'", &[beginning]),
        )
        .forbidden(),
    ]
}
