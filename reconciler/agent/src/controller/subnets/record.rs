//! `status.controlledIPPools`: which addresses of a subnet are whose.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use plan::allocate::AddressSet;
use serde::{Deserialize, Serialize};

/// What a pool has of a subnet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The addresses.
    pub ips: AddressSet,
    /// The workload that the pool was made for.
    pub application: Option<String>,
}

/// By the pool's name.
pub type Records = BTreeMap<String, Entry>;

#[derive(Serialize, Deserialize)]
struct Text {
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    application: Option<String>,
}

/// Reads the text. Entries that cannot be read are not in it: what they should say is found out from the pools.
pub fn parse(text: Option<&str>) -> Records {
    let Some(text) = text else { return Records::new() };
    let Ok(read) = serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text) else { return Records::new() };
    let entry = |(name, value)| {
        let Text { ips, application } = serde_json::from_value(value).ok()?;
        Some((name, Entry { ips: set(&ips)?, application }))
    };
    read.into_iter().filter_map(entry).collect()
}

/// The text; None when there is nothing to say.
pub fn text(records: &Records) -> Option<String> {
    let text = |entry: &Entry| Text { ips: texts(&entry.ips), application: entry.application.clone() };
    let texts: BTreeMap<&String, Text> = records.iter().map(|(name, entry)| (name, text(entry))).collect();
    // Maps with text keys always have a JSON form.
    if texts.is_empty() { None } else { serde_json::to_string(&texts).ok() }
}

/// A set as `spec.ips` writes it.
pub fn texts(set: &AddressSet) -> Vec<String> {
    let text = |(first, last): (IpAddr, IpAddr)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    set.iter().map(text).collect()
}

fn set(texts: &[String]) -> Option<AddressSet> {
    let mut set = AddressSet::default();
    for text in texts {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || first.is_ipv4() != last.is_ipv4() {
            return None;
        }
        set.insert_range(first, last);
    }
    Some(set)
}

/// The lowest `number` addresses of a set, or all of them. It costs as much as these have ranges.
pub fn lowest(set: &AddressSet, number: u128) -> AddressSet {
    let mut taken = AddressSet::default();
    let mut rest = number;
    for (first, last) in set.iter() {
        if rest == 0 {
            break;
        }
        let (from, to) = (bits(first), bits(last));
        let end = to.min(from.saturating_add(rest - 1));
        taken.insert_range(first, like(first, end));
        rest -= (end - from).saturating_add(1).min(rest);
    }
    taken
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn like(family: IpAddr, bits: u128) -> IpAddr {
    match family {
        // Never above the last address of a range of that family.
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// One set without another.
pub fn without(set: &AddressSet, other: &AddressSet) -> AddressSet {
    let mut rest = set.clone();
    rest.subtract(other);
    rest
}

/// What is in both.
pub fn common(set: &AddressSet, other: &AddressSet) -> AddressSet {
    let mut both = set.clone();
    both.intersect(other);
    both
}

/// What is in either.
pub fn both(set: &AddressSet, other: &AddressSet) -> AddressSet {
    let mut all = set.clone();
    for (first, last) in other.iter() {
        all.insert_range(first, last);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_originals() {
        let text_of = r#"{"auto4-web-eth0-2c1f0":{"ips":["10.0.0.1-10.0.0.3","10.0.0.9"],"application":"apps_v1_Deployment_d_web"},"manual":{"ips":["fd00::1"]}}"#;
        let records = parse(Some(text_of));
        assert_eq!(records["auto4-web-eth0-2c1f0"].ips.len(), 4);
        assert_eq!(text(&records).as_deref(), Some(text_of));
        assert_eq!(text(&parse(None)), None);
    }

    #[test]
    fn i00022_what_cannot_be_read_is_left_out() {
        for dirty in
            ["", "x", "[]", "null", r#"{"a":1}"#, r#"{"a":{"ips":["x"]}}"#, r#"{"a":{"ips":["10.0.0.2-10.0.0.1"]}}"#]
        {
            assert_eq!(parse(Some(dirty)), Records::new(), "{dirty}");
        }
        assert_eq!(parse(Some(r#"{"a":{"ips":["x"]},"b":{"ips":["10.0.0.1"]}}"#)).len(), 1);
    }

    #[test]
    fn the_lowest_of_a_large_set_are_as_cheap_as_of_a_small_one() {
        let set = set(&["::".into(), "::5-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".into()]).unwrap();
        assert_eq!(texts(&lowest(&set, 3)), ["::", "::5-::6"]);
        assert_eq!(lowest(&set, u128::MAX), set);
        assert_eq!(lowest(&set, 0), AddressSet::default());
    }
}
