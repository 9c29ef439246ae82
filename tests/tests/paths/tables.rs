//! What is in a pod and on its node, as text: the same for the same case, whatever addresses it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use netlink::Kernel;
use netlink::testbed::Netns;
use plan::filter::FilterTable;
use plan::tables::{MAIN, PROTOCOL};
use plan::{Observed, Route, Rule};

/// What stands for what was given: the longer texts first, so that none is taken for the beginning of another.
pub(crate) struct Names(Vec<(String, String)>);

impl Names {
    pub(crate) fn new(mut given: Vec<(String, String)>) -> Self {
        given.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self(given)
    }

    fn stand_in(&self, text: &str) -> String {
        let whole_word = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | ':'));
        let mut changed = text.to_owned();
        for (given, name) in &self.0 {
            let mut rest = std::mem::take(&mut changed);
            while let Some(at) = rest.find(given.as_str()) {
                let end = at + given.len();
                let is_word = rest[..at].chars().next_back().is_none_or(whole_word)
                    && rest[end..].chars().next().is_none_or(whole_word);
                changed.push_str(&rest[..at]);
                changed.push_str(if is_word { name } else { given });
                rest.drain(..end);
            }
            changed.push_str(&rest);
        }
        changed
    }
}

/// The pod, then what the node has for it.
pub(crate) fn text(pod: &Netns, node: &Netns, own: &[IpAddr], names: &Names) -> String {
    let observed = pod.scene().unwrap().observe().unwrap();
    let mut text = String::new();
    links(&observed, &mut text);
    write_routing(&observed, "", |_| true, |_| true, &mut text);
    if let Some(filter) = filter(pod) {
        section("nft list ruleset", vec![filter.to_string()], &mut text);
    }
    let rp_filter = pod.sysctl(plan::RP_FILTER).unwrap().unwrap_or_default();
    section("sysctl", vec![format!("{} = {rp_filter}", plan::RP_FILTER)], &mut text);
    let observed = node.scene().unwrap().observe().unwrap();
    let is_own = |route: &Route| own.contains(&route.dst.ip()) && route.protocol == PROTOCOL;
    write_routing(&observed, "node: ", is_own, |ip| own.contains(&ip), &mut text);
    names.stand_in(text.trim_end()) + "\n"
}

fn filter(pod: &Netns) -> Option<FilterTable> {
    let kernel = Kernel::new().unwrap();
    let identity = kernel.identify(pod.path()).unwrap();
    kernel.pass(&identity).unwrap().observe_filter().unwrap()
}

fn links(observed: &Observed, text: &mut String) {
    let of = |link: &plan::Link| {
        let addresses: BTreeSet<String> = observed
            .addresses
            .iter()
            .filter(|address| address.dev == link.name && !is_links_own(address.address.ip()))
            .map(|address| address.address.to_string())
            .collect();
        let addresses: Vec<String> = addresses.into_iter().collect();
        format!("{} mtu {} {} {}", link.name, link.mtu, if link.up { "UP" } else { "DOWN" }, addresses.join(" "))
    };
    let lines = observed.links.iter().filter(|link| link.name != "lo").map(of).map(|line| line.trim_end().to_owned());
    section("ip address", lines.collect(), text);
}

fn write_routing(
    observed: &Observed,
    place: &str,
    has_route: impl Fn(&Route) -> bool,
    has_neighbour: impl Fn(IpAddr) -> bool,
    text: &mut String,
) {
    for v6 in [false, true] {
        let ip = if v6 { "ip -6" } else { "ip" };
        let mut rules: Vec<&Rule> =
            observed.rules.iter().filter(|rule| rule.v6 == v6 && (1..32766).contains(&rule.priority)).collect();
        rules.sort();
        section(&format!("{place}{ip} rule"), rules.into_iter().map(ToString::to_string).collect(), text);
        let mut tables: BTreeMap<(bool, u32), Vec<&Route>> = BTreeMap::new();
        for route in observed.routes.iter().filter(|route| {
            route.dst.is_ipv6() == v6
                && !is_links_own(route.dst.ip())
                && !is_its_own(route, observed)
                && has_route(route)
        }) {
            tables.entry((route.table != MAIN, route.table)).or_default().push(route);
        }
        for ((_, table), mut routes) in tables {
            routes.sort_by_key(|route| (route.dst.ip(), route.dst.prefix(), route.metric));
            let table = if table == MAIN { String::new() } else { format!(" show table {table}") };
            let lines = routes.into_iter().map(|route| route.to_string().trim_end().to_owned()).collect();
            section(&format!("{place}{ip} route{table}"), lines, text);
        }
    }
    let mut neighbours: Vec<String> = observed
        .neighbours
        .iter()
        .filter(|it| it.permanent && !is_links_own(it.address) && has_neighbour(it.address))
        .map(|it| format!("{} dev {} PERMANENT", it.address, it.dev))
        .collect();
    neighbours.sort();
    section(&format!("{place}ip neigh"), neighbours, text);
}

fn section(title: &str, lines: Vec<String>, text: &mut String) {
    if !lines.is_empty() {
        writeln!(text, "# {title}\n{}\n", lines.join("\n")).unwrap();
    }
}

/// What IPv6 gives each link, in its own time.
fn is_links_own(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast())
}

/// IPv6's route to an address of the link itself.
fn is_its_own(route: &Route, observed: &Observed) -> bool {
    route.dst.is_ipv6()
        && route.gateway.is_none()
        && route.table == MAIN
        && route.dst.prefix() == 128
        && observed.addresses.iter().any(|own| own.address.ip() == route.dst.ip())
}
