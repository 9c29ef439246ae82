//! Standard input: read within bounds, and turned into the configuration structs with errors that name the key.

use std::io::Read;
use std::path::PathBuf;

use schemas::cni::error::CniError;
use schemas::cni::netconf::{CommonConf, SpiderpoolIpam};
use schemas::cni::version::CniVersion;
use schemas::wire::MAX_MESSAGE;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::plugin::Plugin;

/// All of standard input.
///
/// # Errors
/// [`CniError::IO`] when it cannot be read, or is larger than [`MAX_MESSAGE`]: it would not fit into a request.
pub fn read(input: impl Read) -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_MESSAGE).unwrap_or(u64::MAX);
    input
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| CniError::new(CniError::IO, format!("cannot read the network configuration: {error}")))?;
    if bytes.len() > MAX_MESSAGE {
        let text = format!("the network configuration is longer than the {MAX_MESSAGE} bytes allowed");
        return Err(CniError::new(CniError::IO, text));
    }
    Ok(bytes)
}

/// A network configuration whose version is spoken.
#[derive(Debug, Clone)]
pub struct NetConf {
    /// The JSON object, without `prevResult`.
    pub object: Value,
    /// The keys of any plugin.
    pub common: CommonConf,
}

impl NetConf {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`CniError::DECODE`] for what is no JSON object or has wrong types, [`CniError::INCOMPATIBLE_VERSION`], and
    /// [`CniError::INVALID_CONFIG`] for missing keys and invalid values.
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let mut object: Value = serde_json::from_slice(bytes)
            .map_err(|error| CniError::new(CniError::DECODE, format!("network configuration is not JSON: {error}")))?;
        if !object.is_object() {
            return Err(CniError::new(CniError::DECODE, "network configuration is not a JSON object"));
        }
        check_version(&object)?;
        drop_go_null(&mut object);
        if object["name"].is_null() || object["name"] == "" {
            return Err(CniError::new(CniError::INVALID_CONFIG, "network configuration: missing network name"));
        }
        let common = decode("", &object)?;
        if let Some(keys) = object.as_object_mut() {
            // It is in `common`, and may be the larger part of what is sent to the agent.
            keys.remove("prevResult");
        }
        Ok(Self { object, common })
    }

    /// The `agentSocket` of the configuration itself or of its `ipam`.
    pub fn socket(&self) -> Option<PathBuf> {
        socket_of(&self.object)
    }

    /// The `ipam` object.
    ///
    /// # Errors
    /// [`CniError::DECODE`] for wrong types, [`CniError::INVALID_CONFIG`] for a type that cannot be an IPAM plugin.
    pub fn ipam(&self) -> Result<Ipam, CniError> {
        let ipam = match &self.object["ipam"] {
            Value::Null => return Ok(Ipam::None),
            ipam @ Value::Object(_) => ipam,
            _ => return Err(CniError::new(CniError::DECODE, "network configuration: ipam: it is not a JSON object")),
        };
        match &ipam["type"] {
            Value::Null => Ok(Ipam::None),
            Value::String(plugin) if plugin.is_empty() => Ok(Ipam::None),
            Value::String(plugin) if plugin == Plugin::Spiderpool.name() => {
                let ours: SpiderpoolIpam = decode("ipam.", ipam)?;
                Ok(Ipam::Ours(ours.inside(&self.object)))
            }
            Value::String(plugin) if can_be_foreign(plugin) => Ok(Ipam::Foreign(plugin.clone())),
            Value::String(plugin) => Err(CniError::new(
                CniError::INVALID_CONFIG,
                format!("network configuration: ipam.type: {plugin:?} is not the name of an IPAM plugin"),
            )),
            _ => Err(CniError::new(CniError::DECODE, "network configuration: ipam.type: it is not a string")),
        }
    }
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipam {
    /// From nowhere.
    None,
    /// From the agent.
    Ours(SpiderpoolIpam),
    /// From another plugin of this type.
    Foreign(String),
}

/// What DEL takes from a configuration: no key of it is needed, and none that is wrong is in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    /// `agentSocket`.
    pub socket: Option<PathBuf>,
    /// The type of another IPAM plugin.
    pub foreign_ipam: Option<String>,
}

impl Remains {
    /// What can be found in whatever was given.
    pub fn of(bytes: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let foreign = object["ipam"]["type"].as_str().filter(|plugin| *plugin != Plugin::Spiderpool.name());
        Self {
            socket: socket_of(&object),
            foreign_ipam: foreign.filter(|plugin| can_be_foreign(plugin)).map(str::to_owned),
        }
    }
}

/// The version to print an error in: the configuration's when it is spoken, else the newest.
pub fn version_spoken(bytes: &[u8]) -> CniVersion {
    let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    object["cniVersion"].as_str().and_then(CniVersion::parse).unwrap_or(CniVersion::NEWEST)
}

fn socket_of(object: &Value) -> Option<PathBuf> {
    let of = |object: &Value| object["agentSocket"].as_str().filter(|path| !path.is_empty()).map(PathBuf::from);
    of(object).or_else(|| of(&object["ipam"]))
}

/// A file name; and none of our own, which would call itself for addresses without end.
fn can_be_foreign(plugin: &str) -> bool {
    let ours = Plugin::ALL.into_iter().any(|our| plugin == our.name());
    !(plugin.is_empty() || plugin == "." || plugin == ".." || plugin.contains(['/', '\0']) || ours)
}

/// Text and details as the reference library has them.
fn check_version(object: &Value) -> Result<(), CniError> {
    let text = match &object["cniVersion"] {
        // The first specification had no such key.
        Value::Null => "0.1.0",
        Value::String(text) if text.is_empty() => "0.1.0",
        Value::String(text) => text,
        _ => return Err(CniError::new(CniError::DECODE, "network configuration: cniVersion: it is not a string")),
    };
    if CniVersion::parse(text).is_some() {
        return Ok(());
    }
    let spoken: Vec<String> = CniVersion::ALL.iter().map(|version| format!("{:?}", version.as_str())).collect();
    Err(CniError::new(CniError::INCOMPATIBLE_VERSION, "incompatible CNI versions")
        .with_details(format!("config is {text:?}, plugin supports [{}]", spoken.join(" "))))
}

/// Go writes an empty list as null: "no attachment is valid" must not be read as "not told".
fn drop_go_null(object: &mut Value) {
    if let Some(valid) = object.get_mut("cni.dev/valid-attachments").filter(|valid| valid.is_null()) {
        *valid = json!([]);
    }
}

/// Turns an object into `T`; `at` is where the object stands, `ipam.` or nothing.
///
/// # Errors
/// [`CniError::DECODE`] for a key of a wrong type, [`CniError::INVALID_CONFIG`] for an invalid value or a missing key.
pub fn decode<T: DeserializeOwned>(at: &str, object: &Value) -> Result<T, CniError> {
    T::deserialize(object).map_err(|error| {
        let error = error.to_string();
        let path = refused_path::<T>(&error, &[], object);
        // serde's words for a value of another JSON type, in its error for every struct; a test holds them.
        let code = if error.starts_with("invalid type") { CniError::DECODE } else { CniError::INVALID_CONFIG };
        let separator = if path.is_empty() { "" } else { ": " };
        CniError::new(code, format!("network configuration: {at}{path}{separator}{error}"))
    })
}

/// The innermost value that a struct refuses with `error`. serde names no key for a value inside JSON that is parsed
/// already, so each is tried alone; that happens only on the way to an error.
fn refused_path<T: DeserializeOwned>(error: &str, path: &[Inward], value: &Value) -> String {
    let children: Vec<(Inward, &Value)> = match value {
        Value::Object(keys) => keys.iter().map(|(key, child)| (Inward::Key(key.clone()), child)).collect(),
        Value::Array(list) => list.iter().map(|child| (Inward::Element, child)).collect(),
        _ => Vec::new(),
    };
    // What has no room for a field does not lack one.
    let lacks_field = error.starts_with("missing field");
    for (index, (step, child)) in children.into_iter().enumerate() {
        if lacks_field && !child.is_object() && !child.is_array() {
            continue;
        }
        let inward = [path, std::slice::from_ref(&step)].concat();
        if T::deserialize(&alone(&inward, child.clone())).is_err_and(|found| found.to_string() == error) {
            let rest = refused_path::<T>(error, &inward, child);
            let here = match step {
                Inward::Key(key) if path.is_empty() => key,
                Inward::Key(key) => format!(".{key}"),
                Inward::Element => format!("[{index}]"),
            };
            return here + &rest;
        }
    }
    String::new()
}

/// A step into JSON.
#[derive(Clone)]
enum Inward {
    Key(String),
    Element,
}

/// A configuration of nothing but what every one must have, and `value` at `path`.
fn alone(path: &[Inward], value: Value) -> Value {
    let mut inner = value;
    for step in path.iter().rev() {
        inner = match step {
            Inward::Key(key) => Value::Object(Map::from_iter([(key.clone(), inner)])),
            Inward::Element => Value::Array(vec![inner]),
        };
    }
    let mut whole = json!({ "cniVersion": CniVersion::NEWEST, "name": "x", "type": "x" });
    if let (Some(whole), Value::Object(keys)) = (whole.as_object_mut(), inner) {
        whole.extend(keys);
    }
    whole
}

#[cfg(test)]
mod tests {
    use schemas::cni::netconf::{CoordinatorConf, MacvlanConf};

    use super::*;

    fn refused<T: DeserializeOwned + std::fmt::Debug>(at: &str, object: Value) -> (u32, String) {
        let error = decode::<T>(at, &object).unwrap_err();
        (error.code, error.msg)
    }

    #[test]
    fn the_uplink_goes_with_ipam_where_its_subnet_matters() {
        let uplink = |ipam: Value, top: Value| {
            let mut object = json!({"cniVersion": "1.0.0", "name": "n", "type": "sriov", "ipam": ipam});
            let keys = top.as_object().unwrap().clone();
            object.as_object_mut().unwrap().extend(keys);
            match NetConf::parse(object.to_string().as_bytes()).unwrap().ipam().unwrap() {
                Ipam::Ours(ipam) => (ipam.master, ipam.device_id),
                other => panic!("{other:?}"),
            }
        };
        let asks = json!({"type": "spiderpool", "match_master_subnet": true});
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(uplink(asks.clone(), json!({"master": "ens1"})), (text("ens1"), None));
        assert_eq!(uplink(asks.clone(), json!({"deviceID": "0000:03:02.1"})), (None, text("0000:03:02.1")));
        assert_eq!(uplink(asks, json!({"master": "", "deviceID": 5})), (None, None));
        assert_eq!(uplink(json!({"type": "spiderpool"}), json!({"master": "ens1"})), (None, None));
    }

    #[test]
    fn a_refused_value_is_named_by_its_path() {
        for (code, text, (found_code, found)) in [
            (
                6,
                "hijackCIDR[1]: invalid type",
                refused::<CoordinatorConf>("", json!({"hijackCIDR": ["10.0.0.0/8", 5]})),
            ),
            (6, "hostRuleTable: invalid type", refused::<CoordinatorConf>("", json!({"a": 1, "hostRuleTable": "x"}))),
            (
                6,
                "ipam.default_ipv4_ippool: invalid type",
                refused::<SpiderpoolIpam>("ipam.", json!({"type": "spiderpool", "default_ipv4_ippool": "a"})),
            ),
            (7, "mode: unknown variant", refused::<MacvlanConf>("", json!({"mode": "what"}))),
            (
                7,
                "runtimeConfig.mac: MAC address \"zz\"",
                refused::<MacvlanConf>("", json!({"runtimeConfig": {"mac": "zz"}})),
            ),
            (7, "mtu: invalid value", refused::<MacvlanConf>("", json!({"mtu": -1}))),
            (6, "master: invalid type", refused::<MacvlanConf>("", json!({"master": {}}))),
            (
                6,
                "[1].ifname: invalid type",
                refused::<CommonConf>(
                    "",
                    json!({"cniVersion": "1.1.0", "name": "n", "type": "t",
                "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "b"}, {"containerID": "a", "ifname": 5}]}),
                ),
            ),
            (
                7,
                "[0]: missing field `ifname`",
                refused::<CommonConf>(
                    "",
                    json!({"cniVersion": "1.1.0", "name": "n", "type": "t",
                "cni.dev/valid-attachments": [{"containerID": "a"}]}),
                ),
            ),
            (
                7,
                "configuration: missing field `type`",
                refused::<CommonConf>("", json!({"cniVersion": "1.1.0", "name": "n"})),
            ),
        ] {
            assert!(found_code == code && found.contains(text), "{code} {text}: {found_code} {found}");
        }
    }

    #[test]
    fn only_so_much_is_read() {
        assert_eq!(read(std::io::repeat(b' ')).unwrap_err().code, CniError::IO);
        assert_eq!(read(std::io::repeat(b' ').take(1 << 20)).unwrap().len(), MAX_MESSAGE);
    }

    #[test]
    fn what_is_left_of_a_configuration_is_enough_for_del() {
        assert_eq!(Remains::of(b"{"), Remains::default());
        let remains = Remains::of(br#"{"cniVersion":"9","ipam":{"type":"host-local","agentSocket":"/a"}}"#);
        assert_eq!(remains, Remains { socket: Some("/a".into()), foreign_ipam: Some("host-local".into()) });
        for ours in ["spiderpool", "macvlan", "../x", ""] {
            assert_eq!(
                Remains::of(json!({"ipam": {"type": ours}}).to_string().as_bytes()).foreign_ipam,
                None,
                "{ours}"
            );
        }
    }
}
