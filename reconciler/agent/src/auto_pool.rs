//! What the controller and every agent read alike of the pools that are made for workloads out of SpiderSubnets: the
//! annotations that ask for them (../spec/controller.md 6.2), and how names stand in the labels by which they are found.

use std::collections::BTreeSet;

use crate::listed::{self, Item};

/// The annotation that asks for pools of several interfaces.
pub(crate) const SUBNETS: &str = "ipam.spidernet.io/subnets";
/// The annotation that asks for pools of one interface.
pub(crate) const SUBNET: &str = "ipam.spidernet.io/subnet";
/// The interface where [`SUBNET`] names none.
const ETH0: &str = "eth0";
/// The longest value of a label.
const LABEL: usize = 63;

/// An interface and its subnets, of which there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the pods.
    pub name: String,
    /// The SpiderSubnet of its IPv4 addresses.
    pub ipv4: Option<String>,
    /// The SpiderSubnet of its IPv6 addresses.
    pub ipv6: Option<String>,
}

/// What [`SUBNETS`] asks for: at least one interface, each once.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn several(text: &str) -> Result<Vec<Interface>, String> {
    let items: Vec<Item> = serde_json::from_str(text).map_err(|error| no_json(&error))?;
    listed::bounded(&items)?;
    if items.is_empty() {
        return Err("at least one item is needed".into());
    }
    if items.iter().any(|item| item.interface.is_empty()) {
        return Err("interface is missing in an item".into());
    }
    interfaces(items)
}

/// What [`SUBNET`] asks for.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn single(text: &str) -> Result<Vec<Interface>, String> {
    let mut item: Item = serde_json::from_str(text).map_err(|error| no_json(&error))?;
    if item.interface.is_empty() {
        ETH0.clone_into(&mut item.interface);
    }
    listed::bounded(std::slice::from_ref(&item))?;
    interfaces(vec![item])
}

fn no_json(error: &serde_json::Error) -> String {
    format!("it is not the JSON that it should be: {error}")
}

fn interfaces(items: Vec<Item>) -> Result<Vec<Interface>, String> {
    let mut names = BTreeSet::new();
    for Item { interface, .. } in &items {
        if !is_label(interface) {
            let shown: String = interface.chars().take(80).collect();
            return Err(format!("{shown:?} is no interface that a pool can be named after"));
        }
        // In the pools' names letters are small, and all other signs are dashes.
        if !names.insert(interface.to_ascii_lowercase().replace('_', "-")) {
            return Err(format!("duplicate interface {interface}"));
        }
    }
    let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
    let interface = |Item { interface: name, ipv4, ipv6, .. }: Item| {
        // Only the first of a family counts.
        let [ipv4, ipv6] = [ipv4, ipv6].map(|names| names.into_iter().next());
        for (subnet, others) in [(&ipv4, &mut v4), (&ipv6, &mut v6)] {
            match subnet {
                Some(subnet) if subnet.is_empty() => {
                    return Err(format!("the name of interface {name}'s SpiderSubnet is empty"));
                }
                Some(subnet) if !others.insert(subnet.clone()) => {
                    return Err(format!("SpiderSubnet {subnet} is there twice"));
                }
                _ => {}
            }
        }
        if ipv4.is_none() && ipv6.is_none() {
            return Err(format!("interface {name} names no SpiderSubnet"));
        }
        Ok(Interface { name, ipv4, ipv6 })
    };
    items.into_iter().map(interface).collect()
}

/// Whether it can be the value of a label.
fn is_label(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A text as the value of a label: what is too long is shortened, and told apart by a number made of the whole.
pub fn label_value(text: &str) -> String {
    if text.len() <= LABEL {
        return text.to_owned();
    }
    // FNV-1a: later releases have to find the same.
    let number = text.bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // Names are of ASCII; of another text nothing is cut in two.
    let head: String = text.chars().filter(char::is_ascii).take(LABEL - 9).collect();
    format!("{}-{:08x}", head.trim_end_matches(['-', '.', '_']), number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn told(text: &str) -> Result<Vec<String>, String> {
        let shown = |it: Interface| {
            let [v4, v6] = [it.ipv4, it.ipv6].map(|name| name.unwrap_or_else(|| "-".into()));
            format!("{} {v4} {v6}", it.name)
        };
        let found = if text.starts_with('[') { several(text) } else { single(text) };
        found.map(|all| all.into_iter().map(shown).collect())
    }

    #[test]
    fn the_first_subnet_of_a_family_counts_and_null_is_none() {
        for (value, expected) in [
            (json!({"ipv4": ["a", "b"], "ipv6": null}), vec!["eth0 a -"]),
            (json!({"interface": null, "ipv4": null, "ipv6": ["b"]}), vec!["eth0 - b"]),
            (json!([{"interface": "x", "ipv4": ["a"]}]), vec!["x a -"]),
            (
                json!([{"interface": "x", "ipv4": ["a", "b"]}, {"interface": "y", "ipv4": ["b"], "ipv6": ["a"]}]),
                vec!["x a -", "y b a"],
            ),
        ] {
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(told(&value.to_string()), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_told() {
        for (value, words) in [
            (json!([]), "at least one item"),
            (json!([{"ipv4": ["a"]}]), "interface is missing"),
            (json!([{"ipv4": ["a"]}, {"interface": "x", "ipv4": ["b"]}]), "interface is missing"),
            (json!([{"interface": "x", "ipv4": ["a"]}, {"interface": "X"}]), "duplicate interface X"),
            (json!([{"interface": "a_b"}, {"interface": "a-b"}]), "duplicate interface a-b"),
            (
                json!([{"interface": "x", "ipv4": ["a"]}, {"interface": "y", "ipv4": ["a"]}]),
                "SpiderSubnet a is there twice",
            ),
            (json!([{"interface": "x", "ipv4": [""]}]), "SpiderSubnet is empty"),
            (json!({"ipv6": []}), "interface eth0 names no SpiderSubnet"),
            (json!({"interface": "a/b", "ipv4": ["a"]}), "\"a/b\" is no interface"),
            (json!({"ipv4": vec!["a"; 65]}), "ipv4 has 65 names"),
            (Value::Null, "not the JSON that it should be: invalid type: null"),
        ] {
            let error = told(&value.to_string()).unwrap_err();
            assert!(error.contains(words), "{value}: {error}");
        }
    }

    #[test]
    fn i00017_long_names_are_values_of_labels() {
        let (one, other) = ("x".repeat(64), format!("{}y", "x".repeat(63)));
        assert!(label_value(&one) != label_value(&other) && label_value(&one).len() <= 63);
        assert_eq!(label_value(&"x".repeat(63)).len(), 63);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", shaped in "[\\[\\]{}\":,a-z0-9 ]{0,40}") {
            for text in [text, shaped] {
                let _ = (several(&text), single(&text), label_value(&text));
            }
        }
    }
}
