//! Validated names: what is a [`ContainerId`] or an [`IfName`] has been checked where it came in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the name it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is invalid: {rule}")]
pub struct NameError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl NameError {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        // An error line stays a line whatever was sent.
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err(NameError::new($what, text, $rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// CNI spec 1.1.0, section 2: alphanumeric first, then alphanumeric, `_`, `.`, `-`.
fn is_cni_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 255
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// What the kernel's `dev_valid_name` accepts, and the CNI spec with it.
fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

name!(
    /// `CNI_CONTAINERID`: names one sandbox of the runtime.
    ContainerId,
    "container ID",
    "it starts with a letter or digit, goes on with letters, digits, '_', '.' or '-', and has at most 255 characters",
    is_cni_identifier
);
name!(
    /// The `name` of a CNI network configuration.
    NetworkName,
    "network name",
    "it starts with a letter or digit, goes on with letters, digits, '_', '.' or '-', and has at most 255 characters",
    is_cni_identifier
);
name!(
    /// The name of a network interface.
    IfName,
    "interface name",
    "it has 1 to 15 bytes without '/', ':' and white space, and is not '.' or '..'",
    is_interface_name
);

/// A hardware address of six bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let invalid = || NameError::new("MAC address", text, "six bytes in hexadecimal, separated by ':'");
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The first two bytes of hardware addresses, written `0a:1b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacPrefix(pub [u8; 2]);

/// Why a text is no [`MacPrefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacPrefixError {
    /// Not two bytes.
    #[error("not a valid MAC prefix: {0:?}, write two bytes like 0a:1b")]
    Shape(String),
    /// A prefix of addresses of groups, which no interface may have.
    #[error("not a unicast MAC: the lowest bit of the first byte must be 0, which it is not in {0:?}")]
    Group(String),
}

impl MacPrefix {
    /// The hardware address of an interface whose first address is `ip`: the prefix, then its last four bytes
    /// (../spec/coordinator.md 4, item 14).
    pub fn mac(self, ip: std::net::IpAddr) -> Mac {
        let [.., a, b, c, d] = match ip {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(ip) => ip.octets(),
        };
        Mac([self.0[0], self.0[1], a, b, c, d])
    }
}

impl fmt::Display for MacPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}", self.0[0], self.0[1])
    }
}

impl FromStr for MacPrefix {
    type Err = MacPrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || MacPrefixError::Shape(text.chars().take(80).collect());
        let byte = |text: &str| match text.len() {
            2 if text.bytes().all(|digit| digit.is_ascii_hexdigit()) => u8::from_str_radix(text, 16).ok(),
            _ => None,
        };
        let (first, second) = text.split_once(':').ok_or_else(shape)?;
        let bytes = [byte(first).ok_or_else(shape)?, byte(second).ok_or_else(shape)?];
        if bytes[0] & 1 == 1 { Err(MacPrefixError::Group(text.to_owned())) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for MacPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One interface of one sandbox: what the CNI specification calls an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The sandbox.
    pub container: ContainerId,
    /// The interface inside it.
    pub ifname: IfName,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identifiers_follow_the_cni_specification() {
        for good in ["a", "0", "abc_1.2-3", &"x".repeat(255)] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "ä", &"x".repeat(256)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
            assert!(bad.parse::<NetworkName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mac_prefix_is_two_bytes_of_no_group() {
        let prefix: MacPrefix = "0A:1b".parse().unwrap();
        assert_eq!(prefix.to_string(), "0a:1b");
        assert_eq!(prefix.mac("10.6.212.202".parse().unwrap()).to_string(), "0a:1b:0a:06:d4:ca");
        assert_eq!(prefix.mac("fd00::1:2".parse().unwrap()).to_string(), "0a:1b:00:01:00:02");
        for bad in ["", "0a", "0a:1", "0a:1b:2c", "0a-1b", "0b:11", "+a:1b", "zz:00"] {
            assert!(bad.parse::<MacPrefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for good in ["eth0", "net1", "a", "x@y", "veth0123456789a", "bond0.100"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "0123456789abcdef", "a\u{7}"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_mac_prints_as_it_parses(bytes: [u8; 6]) {
            let mac = Mac(bytes);
            prop_assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<Mac>();
            let _ = text.parse::<MacPrefix>();
            let _ = text.parse::<IfName>();
            let _ = text.parse::<ContainerId>();
        }
    }
}
