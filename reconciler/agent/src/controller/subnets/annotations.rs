//! What a pod template asks for (../spec/controller.md 6.2).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::naming::{IP_NUMBER, RECLAIM};

/// The annotation that asks for pools of several interfaces.
const SUBNETS: &str = "ipam.spidernet.io/subnets";
/// The annotation that asks for pools of one interface.
const SUBNET: &str = "ipam.spidernet.io/subnet";
/// The interface where none is named.
const ETH0: &str = "eth0";

/// What a template asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The interfaces, at least one, each once.
    pub interfaces: Vec<Interface>,
    /// How many addresses each of its pools has.
    pub number: Number,
    /// Whether its pools go when the workload does.
    pub is_reclaimed: bool,
}

/// An interface and its subnets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the pods.
    pub name: String,
    /// The SpiderSubnet of its IPv4 addresses.
    pub ipv4: Option<String>,
    /// The SpiderSubnet of its IPv6 addresses.
    pub ipv6: Option<String>,
}

/// How many addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// So many.
    Fixed(u32),
    /// So many more than there are pods; None: as the cluster's configuration says.
    Beyond(Option<u32>),
}

impl Number {
    /// The number of a workload with so many pods. `beyond` is the cluster's.
    pub fn of(self, pods: u64, beyond: u32) -> u128 {
        match self {
            Self::Fixed(number) => number.into(),
            Self::Beyond(own) => u128::from(pods) + u128::from(own.unwrap_or(beyond)),
        }
    }

    /// As in the annotation.
    pub fn text(self, beyond: u32) -> String {
        match self {
            Self::Fixed(number) => number.to_string(),
            Self::Beyond(own) => format!("+{}", own.unwrap_or(beyond)),
        }
    }
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    ipv4: Vec<String>,
    #[serde(default)]
    ipv6: Vec<String>,
}

/// Whether a template asks for anything.
pub fn is_asking(annotations: &BTreeMap<String, String>) -> bool {
    annotations.contains_key(SUBNETS) || annotations.contains_key(SUBNET)
}

/// What a template asks for; None when it asks for nothing.
///
/// # Errors
/// The annotation that cannot be followed, and why.
pub fn asked(annotations: &BTreeMap<String, String>) -> Result<Option<Asked>, String> {
    let items = if let Some(text) = annotations.get(SUBNETS) {
        let items: Vec<Item> = parsed(SUBNETS, text)?;
        if items.len() > 1 && items.iter().any(|item| item.interface.is_empty()) {
            return Err(format!("annotation {SUBNETS}: with several entries each needs an interface"));
        }
        (SUBNETS, items)
    } else if let Some(text) = annotations.get(SUBNET) {
        (SUBNET, vec![parsed::<Item>(SUBNET, text)?])
    } else {
        return Ok(None);
    };
    let interfaces = interfaces(items.0, items.1)?;
    let number = annotations.get(IP_NUMBER).map_or(Ok(Number::Beyond(None)), |text| number(text))?;
    let is_reclaimed = annotations.get(RECLAIM).map_or(Ok(true), |text| truth(text))?;
    Ok(Some(Asked { interfaces, number, is_reclaimed }))
}

fn parsed<'a, T: Deserialize<'a>>(annotation: &str, text: &'a str) -> Result<T, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("annotation {annotation} is not the JSON that it should be: {error}"))
}

fn interfaces(annotation: &str, items: Vec<Item>) -> Result<Vec<Interface>, String> {
    let wrong = |text: String| Err(format!("annotation {annotation}: {text}"));
    if items.is_empty() {
        return wrong("at least one entry is needed".into());
    }
    let (mut names, mut subnets) = (BTreeSet::new(), BTreeSet::new());
    let mut interfaces = Vec::with_capacity(items.len());
    for item in items {
        let name = if item.interface.is_empty() { ETH0.to_owned() } else { item.interface };
        if !is_label(&name) {
            return wrong(format!(
                "{:?} is no interface that a pool can be named after",
                name.chars().take(80).collect::<String>()
            ));
        }
        // In the pools' names letters are small, and all other signs are dashes.
        if !names.insert(name.to_ascii_lowercase().replace('_', "-")) {
            return wrong(format!("interface {name} is there twice"));
        }
        for subnet in item.ipv4.iter().chain(&item.ipv6) {
            if !subnets.insert(subnet.clone()) {
                return wrong(format!("SpiderSubnet {subnet} is there twice"));
            }
        }
        let first = |list: Vec<String>| list.into_iter().next().filter(|name| !name.is_empty());
        let (ipv4, ipv6) = (first(item.ipv4), first(item.ipv6));
        if ipv4.is_none() && ipv6.is_none() {
            return wrong(format!("interface {name} names no SpiderSubnet"));
        }
        interfaces.push(Interface { name, ipv4, ipv6 });
    }
    Ok(interfaces)
}

/// Whether it can be the value of a label.
fn is_label(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn number(text: &str) -> Result<Number, String> {
    let wrong = || {
        let shown: String = text.chars().take(80).collect();
        format!(
            "annotation {IP_NUMBER}: {shown:?} is no number; write \"5\", or \"+1\" for one more than there are pods"
        )
    };
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    Ok(if digits.len() < text.len() { Number::Beyond(Some(number)) } else { Number::Fixed(number) })
}

/// A truth value, as Go's `strconv.ParseBool` reads it.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!(
            "annotation {RECLAIM}: {:?} is neither true nor false",
            text.chars().take(80).collect::<String>()
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Option<Asked>, String> {
        asked(&pairs.iter().map(|(key, value)| (format!("ipam.spidernet.io/{key}"), (*value).to_owned())).collect())
    }

    #[test]
    fn i00012_one_or_several_interfaces() {
        assert_eq!(of(&[("ippool", "{}")]), Ok(None));
        let one = of(&[("subnet", r#"{"ipv4":["s4","other"],"ipv6":["s6"]}"#)]).unwrap().unwrap();
        let eth0 = Interface { name: "eth0".into(), ipv4: Some("s4".into()), ipv6: Some("s6".into()) };
        assert_eq!(one, Asked { interfaces: vec![eth0], number: Number::Beyond(None), is_reclaimed: true });
        let two = [
            ("subnets", r#"[{"interface":"eth0","ipv4":["a"]},{"interface":"net1","ipv6":["b"]}]"#),
            ("subnet", "ignored"),
            ("ippool-ip-number", "+2"),
            ("ippool-reclaim", "False"),
        ];
        let two = of(&two).unwrap().unwrap();
        assert_eq!((two.interfaces.len(), two.number, two.is_reclaimed), (2, Number::Beyond(Some(2)), false));
        assert_eq!((two.number.of(3, 7), two.number.text(7)), (5, "+2".into()));
        assert_eq!((one.number.of(3, 7), one.number.text(7)), (10, "+7".into()));
        assert_eq!((Number::Fixed(4).of(3, 7), Number::Fixed(4).text(7)), (4, "4".into()));
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        for (pairs, text) in [
            (vec![("subnet", "")], "ipam.spidernet.io/subnet is not the JSON"),
            (vec![("subnet", "{}")], "names no SpiderSubnet"),
            (vec![("subnets", "[]")], "at least one entry"),
            (vec![("subnets", r#"[{"ipv4":["a"]},{"interface":"x","ipv4":["b"]}]"#)], "each needs an interface"),
            (
                vec![("subnets", r#"[{"interface":"x","ipv4":["a"]},{"interface":"X","ipv4":["b"]}]"#)],
                "interface X is there twice",
            ),
            (
                vec![("subnets", r#"[{"interface":"x","ipv4":["a"]},{"interface":"y","ipv4":["a"]}]"#)],
                "SpiderSubnet a is there twice",
            ),
            (vec![("subnet", r#"{"interface":"a/b","ipv4":["a"]}"#)], "is no interface"),
            (vec![("subnet", r#"{"ipv4":["a"]}"#), ("ippool-ip-number", "-1")], "is no number"),
            (vec![("subnet", r#"{"ipv4":["a"]}"#), ("ippool-ip-number", "5000000000")], "is no number"),
            (vec![("subnet", r#"{"ipv4":["a"]}"#), ("ippool-reclaim", "maybe")], "neither true nor false"),
        ] {
            let error = of(&pairs).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(subnets in ".*", number in ".*|[+-]?[0-9]{0,12}", reclaim in ".*") {
            let _ = of(&[("subnets", &subnets), ("ippool-ip-number", &number), ("ippool-reclaim", &reclaim)]);
        }
    }
}
