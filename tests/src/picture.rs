//! A namespace as lines of text, whoever made what is in it: two equal pictures are the same state.

use std::net::IpAddr;

use netlink::testbed::{Netns, TestbedError};
use plan::RP_FILTER;
use plan::object::{Neighbour, Observed, Route, Rule};
use plan::tables::PROTOCOL;

/// `RTPROT_KERNEL` and `RTPROT_BOOT`, the latter that of programs which name none.
const KERNEL: u8 = 2;
const BOOT: u8 = 3;

/// What is in a namespace: links with their indices, addresses, routes of all tables, rules, permanent neighbours, and the
/// sysctl that dragline sets. What IPv6 has of link-local and multicast is left out, since the kernel makes it by itself
/// and in its own time. Of what is put back the maker changes: so an address has none here, and a route of the kernel, of
/// a plugin or of dragline shows as none's, those of all others by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    lines: Vec<String>,
}

impl Picture {
    /// Takes one.
    pub fn take(netns: &Netns) -> Result<Self, TestbedError> {
        Self::of(netns, &netns.scene()?.observe()?)
    }

    /// The same of an observation that was made there.
    pub fn of(netns: &Netns, observed: &Observed) -> Result<Self, TestbedError> {
        let mut lines: Vec<String> = Vec::new();
        for link in &observed.links {
            lines.push(format!("index {} is {}", link.name, link.index));
            lines.push(format!(
                "link {} {:?} {:?} mtu {} up {} alias {:?} queue {}",
                link.name, link.kind, link.mac, link.mtu, link.up, link.alias, link.tx_queue_len
            ));
        }
        for address in observed.addresses.iter().filter(|address| !is_links_own(address.address.ip())) {
            lines.push(format!("address {} dev {} scope {}", address.address, address.dev, address.scope));
        }
        lines.extend(observed.routes.iter().filter(|route| !is_links_own(route.dst.ip())).map(route_line));
        lines.extend(observed.rules.iter().map(rule_line));
        let lasting = |neighbour: &&Neighbour| neighbour.permanent && !is_links_own(neighbour.address);
        lines.extend(observed.neighbours.iter().filter(lasting).map(neighbour_line));
        let filter = netns.sysctl(RP_FILTER)?.unwrap_or_default();
        lines.push(format!("sysctl {RP_FILTER} = {filter}"));
        lines.sort();
        Ok(Self { lines })
    }

    /// The same without the lines that begin so.
    pub fn without(mut self, beginning: &str) -> Self {
        self.lines.retain(|line| !line.starts_with(beginning));
        self
    }

    /// The same with further lines.
    pub fn with(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines.extend(lines);
        self.lines.sort();
        self
    }

    /// Whether that line is there.
    pub fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|it| it == line)
    }

    /// Each line.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// All lines.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// There is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What of `self` is missing in `other`, with `-`, and what is too much there, with `+`.
    pub fn difference(&self, other: &Self) -> String {
        let lacking = |from: &Self, other: &Self, sign: char| -> Vec<String> {
            let mut rest = other.lines.clone();
            let is_lacking = |line: &&String| match rest.iter().position(|it| it == *line) {
                Some(position) => {
                    rest.remove(position);
                    false
                }
                None => true,
            };
            from.lines.iter().filter(is_lacking).map(|line| format!("{sign} {line}")).collect()
        };
        [lacking(self, other, '-'), lacking(other, self, '+')].concat().join("\n")
    }
}

/// What the kernel gives each link for itself in IPv6, some time after it is up.
fn is_links_own(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast())
}

/// The line of a route.
pub fn route_line(route: &Route) -> String {
    let (table, kind) = (route.table, route.kind);
    let owner = match route.protocol {
        KERNEL | BOOT | PROTOCOL => 0,
        other => other,
    };
    format!("route table {table} metric {} {route} {kind:?} onlink {} owner {owner}", route.metric, route.onlink)
}

/// The line of a rule.
pub fn rule_line(rule: &Rule) -> String {
    let family = if rule.v6 { "-6 " } else { "" };
    format!("rule {family}{rule} other {:?} owner {}", rule.other, rule.protocol)
}

/// The line of a permanent neighbour.
pub fn neighbour_line(neighbour: &Neighbour) -> String {
    let Neighbour { dev, address, mac, protocol, .. } = neighbour;
    format!("neighbour {address} dev {dev} {mac:?} owner {protocol}")
}
