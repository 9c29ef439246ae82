//! Addresses, networks and address ranges as the custom resources write them: texts in, checked values out.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ip_version::IpVersion;

/// A text that is no address, network or range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// Not a network.
    #[error("{0:?} is not a CIDR, that is an address, '/' and a prefix length")]
    Network(String),
    /// Neither an address nor a range.
    #[error("{0:?} is neither an IP address nor a range of two addresses joined by '-'")]
    Range(String),
    /// A range that ends before it begins.
    #[error("the range {0}-{1} is reversed, write {1}-{0}")]
    Reversed(IpAddr, IpAddr),
    /// The wrong family.
    #[error("{0} is not IPv{1}")]
    Family(IpAddr, IpVersion),
}

/// An error line stays a line whatever was written.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// An address without a prefix length.
pub(super) fn parse_address(text: &str) -> Result<IpAddr, AddressError> {
    text.parse().map_err(|_| AddressError::Address(shown(text)))
}

/// A network as written, host bits kept. `IpNetwork`'s own parser also takes netmasks and lone addresses, which the API
/// server's rules refuse.
pub(super) fn parse_network(text: &str) -> Result<IpNetwork, AddressError> {
    let invalid = || AddressError::Network(shown(text));
    let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let address = address.parse().map_err(|_| invalid())?;
    let prefix = prefix.parse().map_err(|_| invalid())?;
    IpNetwork::new(address, prefix).map_err(|_| invalid())
}

/// A destination: a network, its host bits cleared, or an address alone, which is a network of full length.
pub(super) fn parse_destination(text: &str) -> Result<IpNetwork, AddressError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNetwork::from(address));
    }
    parse_network(text).map(canonical)
}

/// The network with its host bits cleared.
pub(super) fn canonical(network: IpNetwork) -> IpNetwork {
    // The prefix length comes from a network of the same family, so `new` cannot refuse it.
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

/// An entry of `ips` or `excludeIPs`: `A`, or `A-B` with A not above B.
pub(super) fn parse_range(text: &str, version: IpVersion) -> Result<(IpAddr, IpAddr), AddressError> {
    let invalid = || AddressError::Range(shown(text));
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let start: IpAddr = start.parse().map_err(|_| invalid())?;
    let end: IpAddr = end.parse().map_err(|_| invalid())?;
    for address in [start, end] {
        if IpVersion::of(address) != version {
            return Err(AddressError::Family(address, version));
        }
    }
    if start > end { Err(AddressError::Reversed(start, end)) } else { Ok((start, end)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_network_is_written_with_a_prefix_length() {
        assert_eq!(parse_network("10.6.0.0/16").unwrap().to_string(), "10.6.0.0/16");
        assert_eq!(parse_network("fd00::/8").unwrap().to_string(), "fd00::/8");
        for bad in
            ["10.6.0.0", "10.6.0.0/", "10.6.0.0/33", "10.6.0.0/+8", "10.6.0.0/255.255.0.0", "/8", " 10.6.0.0/16", "x"]
        {
            assert!(parse_network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_destination_loses_its_host_bits() {
        assert_eq!(parse_destination("10.6.1.2/16").unwrap().to_string(), "10.6.0.0/16");
        assert_eq!(parse_destination("10.6.1.2").unwrap().to_string(), "10.6.1.2/32");
        assert_eq!(parse_destination("fd00::1").unwrap().to_string(), "fd00::1/128");
    }

    #[test]
    fn a_range_is_ordered_and_of_one_family() {
        let range = |text| parse_range(text, IpVersion::V4);
        assert_eq!(range("10.0.0.1").unwrap(), (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 1])));
        assert_eq!(range("10.0.0.1-10.0.1.0").unwrap(), (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 1, 0])));
        assert!(matches!(range("10.0.1.0-10.0.0.1"), Err(AddressError::Reversed(..))));
        assert!(matches!(range("10.0.0.1-fd00::1"), Err(AddressError::Family(..))));
        for bad in
            ["", "-", "10.0.0.1-", "10.0.0.1-10.0.0.2-10.0.0.3", "10.0.0.0/24", "10.0.0.1 - 10.0.0.2", "10.0.0.01"]
        {
            assert!(matches!(range(bad), Err(AddressError::Range(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-f.:/ -]{0,40}|.*") {
            let _ = parse_address(&text);
            let _ = parse_network(&text);
            let _ = parse_destination(&text);
            let _ = parse_range(&text, IpVersion::V6);
        }
    }
}
