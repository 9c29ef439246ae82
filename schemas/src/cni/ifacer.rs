//! The configuration of plugin `ifacer` (../spec/controller.md 4), checked with the original's texts.

use serde::Deserialize;

use crate::cni::error::CniError;
use crate::name::IfName;
use crate::uplink::{BondIntent, BondOption, BondSetting, BondValue, UplinkIntent};

/// A bond that has no name is called so.
const DEFAULT_BOND: &str = "sp_bond0";
/// The highest VLAN ID.
const LAST_VLAN: i64 = 4094;
/// The highest number of a bond's mode.
const LAST_MODE: i64 = 6;

/// The keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct IfacerConf {
    /// `interfaces`.
    #[serde(default)]
    pub interfaces: Option<Vec<String>>,
    /// `vlanID`; 0 is none.
    #[serde(default, rename = "vlanID")]
    pub vlan_id: Option<i64>,
    /// `bond`.
    #[serde(default)]
    pub bond: Option<IfacerBond>,
}

/// `bond`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct IfacerBond {
    /// `name`.
    #[serde(default)]
    pub name: Option<String>,
    /// `mode`, the kernel's number.
    #[serde(default)]
    pub mode: Option<i64>,
    /// `options`: `key=value;key=value`.
    #[serde(default)]
    pub options: Option<String>,
}

impl IfacerConf {
    /// What is asked for. Of several interfaces without bond, and of one without VLAN ID, nothing is made.
    ///
    /// # Errors
    /// [`CniError::INVALID_CONFIG`] with the original's text and what to do.
    pub fn intent(&self) -> Result<UplinkIntent, CniError> {
        let invalid = |text: String| CniError::new(CniError::INVALID_CONFIG, format!("ifacer: {text}"));
        let name = |key: &str, text: &str| -> Result<IfName, CniError> {
            text.parse().map_err(|error| invalid(format!("{key}: {error}")))
        };
        let texts = self.interfaces.as_deref().unwrap_or_default();
        let interfaces: Vec<IfName> = texts.iter().map(|text| name("interfaces", text)).collect::<Result<_, _>>()?;
        if interfaces.is_empty() {
            return Err(invalid("invalid config: interfaces have at least one interface".into()));
        }
        let vlan = self.vlan_id.unwrap_or_default();
        if !(0..=LAST_VLAN).contains(&vlan) {
            return Err(invalid(format!("invalid vlanID {vlan}: vlanID must be in range [0,4094]")));
        }
        let vlan = u16::try_from(vlan).ok().filter(|vlan| *vlan > 0);
        // A bond of one interface is none, as the original has it.
        let conf = self.bond.as_ref().filter(|_| interfaces.len() > 1);
        let bond = conf
            .map(|conf| {
                let mode = conf.mode.unwrap_or_default();
                if !(0..=LAST_MODE).contains(&mode) {
                    return Err(invalid(format!("unknown bond mode: {mode}, available mode: [0,6]")));
                }
                let text = conf.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_BOND);
                Ok(BondIntent {
                    name: name("bond.name", text)?,
                    mode: u8::try_from(mode).unwrap_or_default(),
                    options: options(conf.options.as_deref().unwrap_or_default()).map_err(|error| {
                        invalid(format!("bond.options: failed to convert options to BondOptions: {error}"))
                    })?,
                })
            })
            .transpose()?;
        let is_apart = interfaces.len() > 1 && bond.is_none();
        let intent = UplinkIntent { interfaces, bond, vlan: vlan.filter(|_| !is_apart) };
        if let Some(long) = intent.vlan_name() {
            name("vlanID", &long)?;
        }
        Ok(intent)
    }
}

fn options(text: &str) -> Result<Vec<BondSetting>, String> {
    let mut settings: Vec<BondSetting> = Vec::new();
    for pair in text.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not written as key=value"))?;
        let (key, value) = (key.trim(), value.trim());
        if key == "active_slave" {
            return Err("active_slave is only taken by a bond that has its slaves already; use primary".into());
        }
        let option = BondOption::named(key).ok_or_else(|| format!("there is no option {key:?}"))?;
        let value = self::value(option, value).map_err(|error| format!("{key}: {error}"))?;
        settings.retain(|known| known.option != option);
        settings.push(BondSetting { option, value });
    }
    settings.sort();
    Ok(settings)
}

fn value(option: BondOption, text: &str) -> Result<BondValue, String> {
    match option {
        BondOption::Primary => text.parse().map(BondValue::Link).map_err(|error| format!("{error}")),
        BondOption::AdActorSystem => {
            text.parse().map(BondValue::Mac).map_err(|_| format!("invalid bond ad_actor_system: {text}"))
        }
        BondOption::ArpIpTarget => {
            // A JSON list, as the original has it, or the kernel's list by commas.
            let list: Vec<String> = if text.starts_with('[') {
                serde_json::from_str(text).map_err(|error| error.to_string())?
            } else {
                text.split(',').map(|target| target.trim().to_owned()).collect()
            };
            let targets: Result<Vec<_>, String> = list
                .iter()
                .map(|target| target.parse().map_err(|_| format!("invalid bond arp_ip_target: {target}")))
                .collect();
            targets.map(BondValue::Addresses)
        }
        _ => text.parse().map(BondValue::Number).map_err(|_| format!("{text:?} is not the kernel's number of a value")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn intent(text: &str) -> Result<UplinkIntent, String> {
        serde_json::from_str::<IfacerConf>(text).unwrap().intent().map_err(|error| error.msg)
    }

    #[test]
    fn what_the_generated_configurations_ask_for_is_read() {
        let vlan = intent(r#"{"vlanID":100,"type":"ifacer","interfaces":["ens192"]}"#).unwrap();
        assert_eq!((vlan.vlan_name().as_deref(), vlan.bond.is_none()), (Some("ens192.100"), true));
        let both = intent(
            r#"{"vlanID":7,"interfaces":["a","b"],"bond":{"name":"bond0","mode":1,"options":"miimon=100;primary=a"}}"#,
        )
        .unwrap();
        assert_eq!(both.vlan_name().as_deref(), Some("bond0.7"));
        let bond = both.bond.unwrap();
        let told: Vec<_> = bond.options.iter().map(|setting| (setting.option, setting.value.clone())).collect();
        assert_eq!(
            told,
            [
                (BondOption::MiiMon, BondValue::Number(100)),
                (BondOption::Primary, BondValue::Link("a".parse().unwrap()))
            ]
        );
        let unnamed = intent(r#"{"interfaces":["a","b"],"bond":{"mode":0,"options":"up_delay=5;"}}"#).unwrap();
        assert_eq!(unnamed.bond.unwrap().name.as_str(), "sp_bond0");
        for nothing in [r#"{"interfaces":["a"]}"#, r#"{"interfaces":["a","b"],"vlanID":7}"#] {
            assert!(intent(nothing).unwrap().is_nothing(), "{nothing}");
        }
    }

    #[test]
    fn what_cannot_be_is_said_in_the_originals_words() {
        for (text, what) in [
            ("{}", "interfaces have at least one interface"),
            (r#"{"interfaces":["a"],"vlanID":4095}"#, "invalid vlanID 4095: vlanID must be in range [0,4094]"),
            (r#"{"interfaces":["a"],"vlanID":-1}"#, "invalid vlanID -1"),
            (r#"{"interfaces":["0123456789abc"],"vlanID":100}"#, "vlanID: interface name"),
            (r#"{"interfaces":["a","b"],"bond":{"mode":7}}"#, "unknown bond mode: 7, available mode: [0,6]"),
            (r#"{"interfaces":["a","b"],"bond":{"options":"x=1"}}"#, "options to BondOptions: there is no option"),
            (r#"{"interfaces":["a","b"],"bond":{"options":"miimon=fast"}}"#, "miimon: \"fast\" is not"),
            (r#"{"interfaces":["a","b"],"bond":{"options":"miimon"}}"#, "key=value"),
            (r#"{"interfaces":["a","b"],"bond":{"options":"arp_ip_target=[\"x\"]"}}"#, "invalid bond arp_ip_target: x"),
            (r#"{"interfaces":["a","b"],"bond":{"options":"active_slave=a"}}"#, "use primary"),
        ] {
            let error = intent(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(options in ".*", name in ".{0,20}", mode: i64, vlan: i64) {
            let bond = IfacerBond { name: Some(name.clone()), mode: Some(mode), options: Some(options) };
            let conf = IfacerConf { interfaces: Some(vec![name.clone(), name]), vlan_id: Some(vlan), bond: Some(bond) };
            let _ = conf.intent();
        }
    }
}
