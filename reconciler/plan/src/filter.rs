//! The one nftables table of ours in a pod: it lets the replies to what came by `veth0` leave by it.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

/// The table's name; its family is `inet`, so that it sees both kinds of packets. Whatever is in a table of that name is
/// dragline's.
pub const TABLE: &str = "dragline";

/// The table, whole. Two tables are the same when they do the same: counters and handles are not in here.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilterTable {
    /// Its chains, by name.
    pub chains: Vec<FilterChain>,
    /// What else is in it (sets, maps, flow tables and objects): never made by dragline.
    #[serde(default)]
    pub others: Vec<String>,
}

/// A base chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilterChain {
    /// Its name.
    pub name: String,
    /// Its type: `filter`, or `route`, which looks the route up again when a packet's mark was changed. Empty for a chain
    /// that hangs on no hook.
    pub kind: String,
    /// `NF_INET_*`: 0 before routing, 3 of the pod's own packets.
    pub hook: u32,
    /// The lower the earlier.
    pub priority: i32,
    /// What becomes of packets that no rule decides: true lets them pass.
    pub accepts: bool,
    /// Its rules, in their order.
    pub rules: Vec<FilterRule>,
}

/// A rule: its expressions, which work on one register after another, as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilterRule(pub Vec<Expression>);

/// One expression of a rule. All of ours use the kernel's first register.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Expression {
    /// Load what is known of the packet.
    Load(Key),
    /// Keep these bits of it.
    Mask(u32),
    /// Go on only when it is this.
    Equal(Vec<u8>),
    /// Go on only when it is not this.
    Unequal(Vec<u8>),
    /// Load a number.
    Number(u32),
    /// Make it the packet's or the connection's.
    Store(Key),
    /// Anything else, which dragline never makes: as a text that is only compared.
    Other(String),
}

/// What is known of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// `meta iifname`: the link that it came by.
    InputName,
    /// `meta mark`.
    Mark,
    /// `ct state`.
    ConnectionState,
    /// `ct mark`: the mark of its connection.
    ConnectionMark,
}

/// `NF_INET_PRE_ROUTING`.
const BEFORE_ROUTING: u32 = 0;
/// `NF_INET_LOCAL_OUT`.
const OWN_PACKETS: u32 = 3;
/// `NF_IP_PRI_MANGLE`: after the connection is known, before addresses are translated.
const MANGLE: i32 = -150;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const NEW: u32 = 8;
/// `IFNAMSIZ`.
const NAME_BYTES: usize = 16;

impl FilterTable {
    /// Connections that begin by `link` are marked, and so are the packets that come by it and the replies, wherever these
    /// would have gone (../spec/coordinator.md 7f). The packets' own mark makes a strict `rp_filter` find the way back by
    /// that link.
    pub fn of_replies(link: &str, mark: u32) -> Self {
        let mut name = link.as_bytes().to_vec();
        name.resize(NAME_BYTES, 0);
        let comes_by_it = || vec![Expression::Load(Key::InputName), Expression::Equal(name.clone())];
        let set = |key| vec![Expression::Number(mark), Expression::Store(key)];
        let is_new = vec![
            Expression::Load(Key::ConnectionState),
            Expression::Mask(NEW),
            Expression::Unequal(0_u32.to_ne_bytes().to_vec()),
        ];
        let has_mark = vec![Expression::Load(Key::ConnectionMark), Expression::Equal(mark.to_ne_bytes().to_vec())];
        let rule = |parts: Vec<Vec<Expression>>| FilterRule(parts.concat());
        let chain = |name: &str, kind: &str, hook, rules| FilterChain {
            name: name.to_owned(),
            kind: kind.to_owned(),
            hook,
            priority: MANGLE,
            accepts: true,
            rules,
        };
        let output = vec![rule(vec![has_mark, set(Key::Mark)])];
        let prerouting = vec![
            rule(vec![comes_by_it(), set(Key::Mark)]),
            rule(vec![comes_by_it(), is_new, set(Key::ConnectionMark)]),
        ];
        Self {
            chains: vec![
                chain("output", "route", OWN_PACKETS, output),
                chain("prerouting", "filter", BEFORE_ROUTING, prerouting),
            ],
            others: Vec::new(),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InputName => "iifname",
            Self::Mark => "meta mark",
            Self::ConnectionState => "ct state",
            Self::ConnectionMark => "ct mark",
        })
    }
}

/// As the nft command takes it, on one line.
impl Display for FilterTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "table inet {TABLE} {{")?;
        for other in &self.others {
            write!(f, " {other};")?;
        }
        for chain in &self.chains {
            write!(f, " {chain}")?;
        }
        f.write_str(" }")
    }
}

impl Display for FilterChain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, kind, hook, priority, accepts, rules } = self;
        write!(f, "chain {name} {{")?;
        if !kind.is_empty() {
            let hook = match hook {
                0 => "prerouting",
                1 => "input",
                2 => "forward",
                3 => "output",
                4 => "postrouting",
                _ => "?",
            };
            let policy = if *accepts { "accept" } else { "drop" };
            write!(f, " type {kind} hook {hook} priority {priority}; policy {policy};")?;
        }
        for rule in rules {
            write!(f, " {rule};")?;
        }
        f.write_str(" }")
    }
}

impl Display for FilterRule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let (mut loaded, mut mask, mut number) = (None, None, 0);
        for expression in &self.0 {
            let text = match expression {
                Expression::Load(key) => {
                    (loaded, mask) = (Some(*key), None);
                    continue;
                }
                Expression::Mask(bits) => {
                    mask = Some(*bits);
                    continue;
                }
                Expression::Number(value) => {
                    number = *value;
                    continue;
                }
                Expression::Equal(value) => comparison(loaded, mask, value, true),
                Expression::Unequal(value) => comparison(loaded, mask, value, false),
                Expression::Store(key) => format!("{key} set {number:#x}"),
                Expression::Other(text) => text.clone(),
            };
            write!(f, "{separator}{text}")?;
            separator = " ";
        }
        Ok(())
    }
}

fn comparison(key: Option<Key>, mask: Option<u32>, value: &[u8], equal: bool) -> String {
    let name = key.map_or_else(|| "?".to_owned(), |key| key.to_string());
    let number = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let sign = if equal { "" } else { "!= " };
    match (key, mask) {
        (Some(Key::ConnectionState), Some(NEW)) if !equal && number == 0 => format!("{name} new"),
        (Some(Key::InputName), None) => {
            let text: String = value.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
            format!("{name} {sign}{text:?}")
        }
        (_, Some(mask)) => format!("{name} & {mask:#x} {}{number:#x}", if equal { "== " } else { sign }),
        (_, None) => format!("{name} {sign}{number:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_nft_would_read() {
        assert_eq!(
            FilterTable::of_replies("veth0", 1).to_string(),
            "table inet dragline { \
             chain output { type route hook output priority -150; policy accept; ct mark 0x1 meta mark set 0x1; } \
             chain prerouting { type filter hook prerouting priority -150; policy accept; \
             iifname \"veth0\" meta mark set 0x1; iifname \"veth0\" ct state new ct mark set 0x1; } }"
        );
    }
}
