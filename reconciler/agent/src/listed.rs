//! What annotations name for each interface, and how much one may name.
//!
//! It is read as the original reads it: `null` says nothing, keys are known in whatever case, unknown ones are passed over,
//! and of a key that comes twice the last counts.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// As many items an annotation may have, and as many names each list of them.
pub(crate) const MOST: usize = 64;
/// No object's name is longer.
const LONGEST: usize = 253;

/// What is named for one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Item {
    /// Empty where it is not said.
    pub(crate) interface: String,
    pub(crate) ipv4: Vec<String>,
    pub(crate) ipv6: Vec<String>,
    pub(crate) cleangateway: bool,
}

impl Item {
    pub(crate) fn names_none(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Item, M::Error> {
                let mut item = Item::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.to_ascii_lowercase().as_str() {
                        "interface" => item.interface = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "ipv4" => item.ipv4 = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "ipv6" => item.ipv6 = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "cleangateway" => item.cleangateway = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(item)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// That there are not too many items, nor names in them.
///
/// # Errors
/// What there is too much of.
pub(crate) fn bounded(items: &[Item]) -> Result<(), String> {
    if items.len() > MOST {
        return Err(format!("it has {} items, and {MOST} are the most", items.len()));
    }
    for item in items {
        names_bounded("interface", std::slice::from_ref(&item.interface))?;
        names_bounded("ipv4", &item.ipv4)?;
        names_bounded("ipv6", &item.ipv6)?;
    }
    Ok(())
}

/// That a list does not have too many names, nor too long ones.
///
/// # Errors
/// What there is too much of; `list` is what the list is called.
pub(crate) fn names_bounded(list: &str, names: &[String]) -> Result<(), String> {
    if names.len() > MOST {
        return Err(format!("{list} has {} names, and {MOST} are the most", names.len()));
    }
    match names.iter().find(|name| name.len() > LONGEST) {
        Some(name) => Err(format!("{list} has a name of {} characters, and {LONGEST} are the most", name.len())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_read_as_the_original_reads_it() {
        for (text, expected) in [
            ("{}", Ok(("", vec![], vec![], false))),
            (r#"{"interface":null,"ipv4":null,"ipv6":null,"cleangateway":null}"#, Ok(("", vec![], vec![], false))),
            (
                r#"{"Interface":"a","IPv4":["x"],"ipv6":["y","z"],"cleanGateway":true}"#,
                Ok(("a", vec!["x"], vec!["y", "z"], true)),
            ),
            (r#"{"ipv4":["x"],"more":{"a":[1]},"ipv4":["y"]}"#, Ok(("", vec!["y"], vec![], false))),
            ("null", Err("invalid type: null, expected an object")),
            (r#"["a"]"#, Err("invalid type: sequence, expected an object")),
            (r#"{"ipv4":"x"}"#, Err("invalid type: string \"x\", expected a sequence")),
            (r#"{"ipv4":[null]}"#, Err("invalid type: null, expected a string")),
        ] {
            let found = serde_json::from_str::<Item>(text);
            match (found, expected) {
                (Ok(item), Ok((interface, ipv4, ipv6, cleangateway))) => {
                    let texts = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
                    let expected =
                        Item { interface: interface.into(), ipv4: texts(ipv4), ipv6: texts(ipv6), cleangateway };
                    assert_eq!(item, expected, "{text}");
                }
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{text}: {error}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn too_much_is_told() {
        let names = |number: usize| vec!["p".to_owned(); number];
        let item = |ipv4: Vec<String>| Item { ipv4, ..Item::default() };
        assert_eq!(bounded(&vec![item(names(MOST)); MOST]), Ok(()));
        assert_eq!(bounded(&vec![Item::default(); MOST + 1]), Err("it has 65 items, and 64 are the most".into()));
        assert_eq!(bounded(&[item(names(MOST + 1))]), Err("ipv4 has 65 names, and 64 are the most".into()));
        assert_eq!(bounded(&[item(vec!["p".repeat(253)])]), Ok(()));
        let long = bounded(&[item(vec!["*".repeat(254)])]);
        assert_eq!(long, Err("ipv4 has a name of 254 characters, and 253 are the most".into()));
    }
}
