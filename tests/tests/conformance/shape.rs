//! The shape of results, as each version of the specification has it; stricter than any runtime.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

/// Who printed a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Printer<'a> {
    /// An IPAM plugin: an abbreviated result, without interfaces.
    Ipam,
    /// A main plugin or a chain: the interface of that name, in the namespace at that path.
    Main { ifname: &'a str, sandbox: &'a str },
}

/// What is wrong with a result of that version, if anything.
pub(crate) fn check(result: &Value, version: &str, printer: Printer<'_>) -> Result<(), String> {
    let shape = Shape { version, is_newest: version == "1.1.0", has_ip_version: version.starts_with("0.") };
    let object = keys(result, "the result", &["cniVersion", "ips", "dns"], &["interfaces", "routes"])?;
    if object["cniVersion"] != version {
        return Err(format!("cniVersion is {}, not {version}", object["cniVersion"]));
    }
    let interfaces = list(object.get("interfaces"), "interfaces")?;
    interfaces.iter().try_for_each(|interface| shape.interface(interface))?;
    let ips = list(object.get("ips"), "ips")?;
    ips.iter().try_for_each(|ip| shape.ip(ip, interfaces.len(), printer))?;
    list(object.get("routes"), "routes")?.iter().try_for_each(|route| shape.route(route))?;
    dns(&object["dns"])?;
    match printer {
        Printer::Ipam if object.contains_key("interfaces") => Err("an IPAM plugin's result has interfaces".into()),
        Printer::Main { ifname, sandbox } => {
            let is_ours = |found: &&Value| found["name"] == ifname && found["sandbox"] == sandbox;
            let own = interfaces.iter().filter(is_ours).count();
            if own == 1 { Ok(()) } else { Err(format!("{own} interfaces {ifname} in {sandbox}: {interfaces:?}")) }
        }
        Printer::Ipam => Ok(()),
    }
}

struct Shape<'a> {
    version: &'a str,
    is_newest: bool,
    has_ip_version: bool,
}

impl Shape<'_> {
    fn interface(&self, value: &Value) -> Result<(), String> {
        let newest: &[&str] = if self.is_newest { &["mtu", "socketPath", "pciID"] } else { &[] };
        let object = keys(value, "an interface", &["name"], &[&["mac", "sandbox"], newest].concat())?;
        text(&object["name"], "interface name")?;
        if let Some(mac) = object.get("mac") {
            let mac = text(mac, "mac")?;
            let octets: Vec<&str> = mac.split(':').collect();
            let is_octet = |octet: &&str| octet.len() == 2 && u8::from_str_radix(octet, 16).is_ok();
            if octets.len() != 6 || !octets.iter().all(is_octet) {
                return Err(format!("{mac:?} is no hardware address"));
            }
        }
        number(object.get("mtu"), "mtu")
    }

    fn ip(&self, value: &Value, interfaces: usize, printer: Printer<'_>) -> Result<(), String> {
        let required: &[&str] = if self.has_ip_version { &["address", "version"] } else { &["address"] };
        let object = keys(value, "an address", required, &["gateway", "interface"])?;
        let address: IpNetwork = parse(&object["address"], "address")?;
        if !text(&object["address"], "address")?.contains('/') {
            return Err(format!("{address} is printed without prefix length in {}", self.version));
        }
        let family = if address.is_ipv4() { "4" } else { "6" };
        if self.has_ip_version && object["version"] != family {
            return Err(format!("version of {address} is {}, not \"{family}\"", object["version"]));
        }
        if let Some(gateway) = object.get("gateway") {
            let gateway: IpAddr = parse(gateway, "gateway")?;
            if !address.contains(gateway) {
                return Err(format!("gateway {gateway} is not in {address}"));
            }
        }
        match (object.get("interface"), printer) {
            (None, Printer::Ipam) => Ok(()),
            (Some(index), Printer::Main { .. }) => {
                let index = index.as_u64().ok_or("interface is no index")?;
                let is_there = usize::try_from(index).is_ok_and(|index| index < interfaces);
                if is_there { Ok(()) } else { Err(format!("interface {index} of {interfaces}")) }
            }
            (found, printer) => Err(format!("interface {found:?} of an address printed by {printer:?}")),
        }
    }

    fn route(&self, value: &Value) -> Result<(), String> {
        let newest: &[&str] = if self.is_newest { &["mtu", "advmss", "priority", "table", "scope"] } else { &[] };
        let object = keys(value, "a route", &["dst"], &[&["gw"], newest].concat())?;
        let dst: IpNetwork = parse(&object["dst"], "dst")?;
        if dst.ip() != dst.network() {
            return Err(format!("dst {dst} has host bits"));
        }
        if let Some(gateway) = object.get("gw") {
            let gateway: IpAddr = parse(gateway, "gw")?;
            if gateway.is_ipv4() != dst.is_ipv4() {
                return Err(format!("gw {gateway} is of another family than {dst}"));
            }
        }
        newest.iter().try_for_each(|key| number(object.get(*key), key))
    }
}

fn dns(value: &Value) -> Result<(), String> {
    let object = keys(value, "dns", &[], &["nameservers", "domain", "search", "options"])?;
    for key in ["nameservers", "search", "options"] {
        list(object.get(key), key)?.iter().try_for_each(|entry| text(entry, key).map(drop))?;
    }
    object.get("domain").map_or(Ok(()), |domain| text(domain, "domain").map(drop))
}

fn keys<'a>(
    value: &'a Value,
    what: &str,
    required: &[&str],
    optional: &[&str],
) -> Result<&'a Map<String, Value>, String> {
    let object = value.as_object().ok_or_else(|| format!("{what} is no object: {value}"))?;
    if let Some(missing) = required.iter().find(|key| !object.contains_key(**key)) {
        return Err(format!("{what} has no {missing}: {value}"));
    }
    let is_known = |key: &&String| required.contains(&key.as_str()) || optional.contains(&key.as_str());
    match object.keys().find(|key| !is_known(key)) {
        Some(unknown) => Err(format!("{what} has {unknown}, which this version does not know: {value}")),
        None => Ok(object),
    }
}

fn list<'a>(value: Option<&'a Value>, what: &str) -> Result<&'a [Value], String> {
    match value {
        None => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(format!("{what} is no list: {other}")),
    }
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{what} is no text: {value}"))
}

fn number(value: Option<&Value>, what: &str) -> Result<(), String> {
    if value.is_none_or(Value::is_u64) { Ok(()) } else { Err(format!("{what} is no number: {value:?}")) }
}

fn parse<T: std::str::FromStr>(value: &Value, what: &str) -> Result<T, String> {
    text(value, what)?.parse().map_err(|_| format!("{what} is not understood: {value}"))
}
