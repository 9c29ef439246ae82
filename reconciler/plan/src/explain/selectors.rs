//! What a rule asks of a packet besides source and destination, and what it does.

use crate::object::Rule;

/// What a rule does with a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Looks into its table.
    Table,
    /// Goes on at the rule of that priority.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Ends the lookup as a route of that kind would: blackhole, unreachable, prohibit.
    Refuse(u8),
    /// Something that is not understood here.
    Unknown,
}

/// A rule's other selectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selectors {
    /// The rest is turned round.
    pub(super) is_inverted: bool,
    pub(super) iif: Option<String>,
    pub(super) oif: Option<String>,
    /// (mark, mask).
    pub(super) mark: Option<(u32, u32)>,
    pub(super) tos: bool,
    /// Routes no longer than this do not count.
    pub(super) suppress_prefix: Option<u8>,
    /// What nothing can be said about.
    pub(super) unknown: Vec<String>,
    pub(super) action: Action,
}

const FRA_GOTO: u32 = 4;
const FRA_FWMARK: u32 = 10;
const FRA_SUPPRESS_PREFIXLEN: u32 = 14;
const FRA_FWMASK: u32 = 16;
const RTN_BLACKHOLE: u8 = 6;

impl Selectors {
    pub(super) fn of(rule: &Rule) -> Self {
        let mut found = Self {
            is_inverted: false,
            iif: None,
            oif: None,
            mark: None,
            tos: false,
            suppress_prefix: None,
            unknown: Vec::new(),
            action: if rule.table == 0 { Action::Nop } else { Action::Table },
        };
        found.read(rule.other.as_deref().unwrap_or_default());
        found.mark = rule.mark.map(|mark| (mark, u32::MAX)).or(found.mark);
        found
    }

    /// `iif NAME`, `oif NAME`, `not`, `tos 0x..`, `fwmark MARK[/MASK]`, `action N`, `ATTRIBUTE=[bytes]`.
    fn read(&mut self, text: &str) {
        let (mut mark, mut mask, mut target) = (None, None, None);
        for (word, value) in words(text) {
            match (word, value) {
                ("not", _) => self.is_inverted = true,
                ("tos", _) => self.tos = true,
                ("iif", Some(name)) => self.iif = Some(name.to_owned()),
                ("oif", Some(name)) => self.oif = Some(name.to_owned()),
                ("fwmark", Some(value)) => match value.split_once('/') {
                    Some((value, of)) => (mark, mask) = (number(value), number(of)),
                    None => mark = number(value),
                },
                ("action", Some("2")) => self.action = Action::Unknown,
                ("action", Some("3")) => self.action = Action::Nop,
                ("action", Some("6")) => self.action = Action::Refuse(RTN_BLACKHOLE),
                ("action", Some("7")) => self.action = Action::Refuse(RTN_BLACKHOLE + 1),
                ("action", Some("8")) => self.action = Action::Refuse(RTN_BLACKHOLE + 2),
                ("action", _) => self.action = Action::Unknown,
                (_, Some(value)) => match attribute(word, value) {
                    Some((FRA_FWMARK, value)) => mark = Some(value),
                    Some((FRA_FWMASK, value)) => mask = Some(value),
                    Some((FRA_GOTO, value)) => target = Some(value),
                    Some((FRA_SUPPRESS_PREFIXLEN, value)) => self.suppress_prefix = u8::try_from(value).ok(),
                    _ => self.unknown.push(format!("{word}={value}")),
                },
                (_, None) => self.unknown.push(word.to_owned()),
            }
        }
        self.mark = mark.or(mask.map(|_| 0)).map(|mark| (mark, mask.unwrap_or(u32::MAX)));
        if let Some(target) = target {
            self.action = Action::Goto(target);
        }
    }
}

/// Words with their values; bytes of an attribute stay together.
fn words(text: &str) -> Vec<(&str, Option<&str>)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let word = &rest[..end];
        if let Some((name, _)) = word.split_once("=[") {
            let close = rest.find(']').map_or(rest.len(), |at| at + 1);
            found.push((name, rest.get(name.len() + 1..close)));
            rest = rest[close..].trim_start();
            continue;
        }
        rest = rest[end..].trim_start();
        if word == "not" {
            found.push((word, None));
            continue;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let value = Some(&rest[..end]).filter(|value| !value.is_empty());
        found.push((word, value));
        rest = rest[end..].trim_start();
    }
    found
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The kernel's number of an attribute, and its value when that has four bytes.
fn attribute(name: &str, bytes: &str) -> Option<(u32, u32)> {
    let bytes = bytes.trim_start_matches('[').trim_end_matches(']');
    let bytes: Vec<u8> = bytes.split(", ").map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    Some((name.parse().ok()?, u32::from_ne_bytes(bytes.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::MAIN;

    fn of(other: &str, table: u32) -> Selectors {
        let other = (!other.is_empty()).then(|| other.to_owned());
        Selectors::of(&Rule { priority: 1, v6: false, from: None, to: None, table, mark: None, other, protocol: 0 })
    }

    #[test]
    fn selectors_are_read_as_the_observer_writes_them() {
        let both = of("not iif eth0 oif net1 tos 0x10", MAIN);
        assert!(both.is_inverted && both.tos);
        assert_eq!((both.iif.as_deref(), both.oif.as_deref()), (Some("eth0"), Some("net1")));
        let bytes = |value: u32| format!("{:02x?}", value.to_ne_bytes());
        assert_eq!(of(&format!("10={} 16={}", bytes(0x200), bytes(0xf00)), MAIN).mark, Some((0x200, 0xf00)));
        assert_eq!(of(&format!("10={}", bytes(7)), MAIN).mark, Some((7, u32::MAX)));
        assert_eq!(of("fwmark 0x200/0xf00", MAIN).mark, Some((0x200, 0xf00)));
        assert_eq!(of(&format!("4={} action 2", bytes(100)), 0).action, Action::Goto(100));
        assert_eq!(of("action 8", 0).action, Action::Refuse(8));
        assert_eq!(of(&format!("14={}", bytes(0)), MAIN).suppress_prefix, Some(0));
        assert_eq!(of("22=[06]", MAIN).unknown, ["22=[06]"]);
        for text in ["", "=", "=[", "a=[zz", "iif", "not", "10=[", "é=[é"] {
            of(text, 1);
        }
    }
}
