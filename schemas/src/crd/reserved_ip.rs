//! SpiderReservedIP: addresses that no pod gets, whatever pool holds them.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{AddressError, parse_range};
use super::field::{FieldError, null_is_empty};
use super::ip_version::IpVersion;
use super::ranges::{self, Range};

/// What is reserved.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "spiderpool.spidernet.io",
    version = "v2beta1",
    kind = "SpiderReservedIP",
    plural = "spiderreservedips",
    shortname = "sr",
    category = "spiderpool",
    derive = "PartialEq",
    doc = "A SpiderReservedIP names addresses that no pod gets, whatever pool holds them.",
    printcolumn(name = "VERSION", type_ = "string", json_path = ".spec.ipVersion")
)]
#[serde(rename_all = "camelCase")]
pub struct SpiderReservedIPSpec {
    /// The address family, 4 or 6; that of the first entry of ips when absent. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "IpVersion")]
    pub ip_version: Option<IpVersion>,
    /// The reserved addresses, each entry one address A or a range A-B.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 80)))]
    pub ips: Vec<String>,
}

/// The rule that a reservation breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReservedFault {
    /// There is nothing to find the family from, and nothing to reserve.
    #[error("it is empty, name at least one address")]
    Empty,
    /// Not an address or range of the family.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl SpiderReservedIPSpec {
    /// The reserved addresses, ascending and disjoint, all of one family.
    ///
    /// # Errors
    /// The first entry that breaks a rule, such as `spec.ips[1]`, and the rule.
    pub fn ranges(&self) -> Result<Vec<Range>, FieldError<ReservedFault>> {
        let Some(first) = self.ips.first() else { return Err(FieldError::new("spec.ips", ReservedFault::Empty)) };
        let start = first.split('-').next().and_then(|start| start.parse().ok());
        // A first entry that does not parse is refused below, whatever the family.
        let version = self.ip_version.or(start.map(IpVersion::of)).unwrap_or(IpVersion::V4);
        let entry = |(index, text): (usize, &String)| {
            parse_range(text, version).map_err(|fault| FieldError::new(format!("spec.ips[{index}]"), fault))
        };
        Ok(ranges::merge(self.ips.iter().enumerate().map(entry).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(version: Option<IpVersion>, ips: &[&str]) -> Result<Vec<Range>, String> {
        let ips = ips.iter().map(|text| text.to_string()).collect();
        SpiderReservedIPSpec { ip_version: version, ips }.ranges().map_err(|error| error.to_string())
    }

    #[test]
    fn the_family_is_that_of_the_first_entry() {
        let pair = |start: &str, end: &str| (start.parse().unwrap(), end.parse().unwrap());
        assert_eq!(ranges(None, &["fd00::1-fd00::2", "fd00::3"]), Ok(vec![pair("fd00::1", "fd00::3")]));
        assert_eq!(
            ranges(None, &["10.0.0.9", "10.0.0.1"]),
            Ok(vec![pair("10.0.0.1", "10.0.0.1"), pair("10.0.0.9", "10.0.0.9")])
        );
    }

    #[test]
    fn every_rule_names_its_entry() {
        assert_eq!(ranges(None, &[]).unwrap_err(), "spec.ips: it is empty, name at least one address");
        assert_eq!(ranges(None, &["10.0.0.1", "fd00::1"]).unwrap_err(), "spec.ips[1]: fd00::1 is not IPv4");
        assert_eq!(ranges(Some(IpVersion::V6), &["10.0.0.1"]).unwrap_err(), "spec.ips[0]: 10.0.0.1 is not IPv6");
        assert!(ranges(None, &["x"]).unwrap_err().starts_with("spec.ips[0]: \"x\" is neither"));
    }
}
