//! What a pod template asks for (../spec/controller.md 6.2).

use std::collections::BTreeMap;

use super::naming::{IP_NUMBER, RECLAIM};
pub use crate::auto_pool::Interface;
use crate::auto_pool::{self, SUBNET, SUBNETS};

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

/// Whether a template asks for anything.
pub fn is_asking(annotations: &BTreeMap<String, String>) -> bool {
    annotations.contains_key(SUBNETS) || annotations.contains_key(SUBNET)
}

/// What a template asks for; None when it asks for nothing.
///
/// # Errors
/// The annotation that cannot be followed, and why.
pub fn asked(annotations: &BTreeMap<String, String>) -> Result<Option<Asked>, String> {
    let (annotation, interfaces) = if let Some(text) = annotations.get(SUBNETS) {
        (SUBNETS, auto_pool::several(text))
    } else if let Some(text) = annotations.get(SUBNET) {
        (SUBNET, auto_pool::single(text))
    } else {
        return Ok(None);
    };
    let interfaces = interfaces.map_err(|problem| format!("annotation {annotation}: {problem}"))?;
    let number = annotations.get(IP_NUMBER).map_or(Ok(Number::Beyond(None)), |text| number(text))?;
    let is_reclaimed = annotations.get(RECLAIM).map_or(Ok(true), |text| truth(text))?;
    Ok(Some(Asked { interfaces, number, is_reclaimed }))
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
            (vec![("subnet", "")], "ipam.spidernet.io/subnet: it is not the JSON"),
            (vec![("subnet", "{}")], "names no SpiderSubnet"),
            (vec![("subnets", "[]")], "at least one item"),
            (vec![("subnets", r#"[{"ipv4":["a"]}]"#)], "interface is missing"),
            (vec![("subnets", r#"[{"ipv4":["a"]},{"interface":"x","ipv4":["b"]}]"#)], "interface is missing"),
            (
                vec![("subnets", r#"[{"interface":"x","ipv4":["a"]},{"interface":"X","ipv4":["b"]}]"#)],
                "duplicate interface X",
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
