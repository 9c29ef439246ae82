//! What the pod does with a packet that arrives: delivered, sent on or dropped, and what rp_filter says of its source.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::local::{TO_ALL, TO_US};
use super::lookup::{End, Key, Walk, World};
use crate::object::{Observed, RouteKind};

/// What becomes of a packet that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The pod takes it.
    Delivered,
    /// The pod sends it on.
    Forwarded,
    /// The pod throws it away.
    Dropped,
}

/// A packet at its arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// The NIC.
    pub nic: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub why: String,
    /// The kernel's check of its source.
    pub rp_filter: RpFilter,
}

/// What the kernel makes of a packet's source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RpFilter {
    /// 0 off, 1 strict, 2 loose: the larger of `all` and the NIC's own; None when it is not known, or of IPv6.
    pub mode: Option<u8>,
    /// It lets the packet in.
    pub passes: bool,
    /// In words.
    pub text: String,
    /// Which object set `all`; None when nothing of ours did.
    pub reason: Option<String>,
}

/// The sysctls that a lookup depends on, of these NICs.
pub fn sysctls(seen: &Observed) -> Vec<String> {
    let names = seen.links.iter().map(|link| link.name.as_str());
    let v4 = names.flat_map(|name| {
        ["rp_filter", "accept_local", "src_valid_mark", "forwarding", "route_localnet"]
            .map(|leaf| format!("net/ipv4/conf/{name}/{leaf}"))
    });
    let all = ["rp_filter", "accept_local", "src_valid_mark", "route_localnet"]
        .map(|leaf| format!("net/ipv4/conf/all/{leaf}"));
    all.into_iter().chain(["net/ipv6/conf/all/forwarding".to_owned()]).chain(v4).collect()
}

/// A packet with a source arrives by a NIC.
pub(super) fn arrive<'w>(world: &'w World<'_>, to: IpAddr, from: IpAddr, nic: &str) -> (Arrival, Walk<'w>) {
    let walk = world.walk(Key { to, from: Some(from), iif: Some(nic) });
    let checked = |oif: Option<&str>, answers: Option<IpAddr>| match to {
        IpAddr::V4(_) => validate(world, from, answers, oif, nic),
        IpAddr::V6(_) => RpFilter { mode: None, passes: true, text: "IPv6 has no rp_filter".into(), reason: None },
    };
    let (verdict, why, rp_filter) = match (martian(world.seen, to, from, nic), &walk.end) {
        (Some(why), _) => (Verdict::Dropped, why, None),
        (None, End::Routes { routes, .. }) => match routes.first() {
            Some(route) if route.kind == TO_US => {
                (Verdict::Delivered, format!("{to} is the pod's own address"), Some(checked(None, Some(to))))
            }
            // Nobody answers from it.
            Some(route) if route.kind == TO_ALL => {
                (Verdict::Delivered, format!("{to} is a broadcast address of the pod's"), Some(checked(None, None)))
            }
            Some(route) if matches!(route.kind, RouteKind::Unicast | RouteKind::Multipath) => {
                let by = route.dev.as_deref().unwrap_or("another NIC");
                if forwards(world.seen, to, nic) {
                    (
                        Verdict::Forwarded,
                        format!("forwarding is on: it leaves by {by}"),
                        Some(checked(route.dev.as_deref(), Some(to))),
                    )
                } else {
                    (Verdict::Dropped, format!("{to} is not the pod's, and forwarding is off on {nic}"), None)
                }
            }
            Some(route) => (Verdict::Dropped, format!("`{}` refuses it", super::text::route(route)), None),
            None => (Verdict::Dropped, "no route".into(), None),
        },
        (None, End::Refused { rule, .. }) => (Verdict::Dropped, format!("rule `{rule}` refuses it"), None),
        (None, End::Nothing) => (Verdict::Dropped, format!("no route to {to}"), None),
    };
    let (verdict, why) = match &rp_filter {
        Some(check) if !check.passes => (Verdict::Dropped, check.text.clone()),
        _ => (verdict, why),
    };
    // Of a packet that is dropped before, the check is told all the same.
    let rp_filter = rp_filter.unwrap_or_else(|| checked(None, Some(to)));
    (Arrival { nic: nic.to_owned(), verdict, why, rp_filter }, walk)
}

/// Addresses that come from no wire.
fn martian(seen: &Observed, to: IpAddr, from: IpAddr, nic: &str) -> Option<String> {
    let is_zero = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 0);
    if let Some(ip) = [from, to].into_iter().find(|ip| is_zero(*ip)) {
        return Some(format!("{ip} is of this network (0.0.0.0/8): a martian"));
    }
    let is_loopback = [from, to].into_iter().find(|ip| ip.is_ipv4() && ip.is_loopback());
    is_loopback
        .filter(|_| nic != "lo" && !is_loopback_let(seen, nic))
        .map(|ip| format!("{ip} may not come from a wire: a martian"))
}

/// 127.0.0.0/8 may come and go by that NIC.
pub(super) fn is_loopback_let(seen: &Observed, nic: &str) -> bool {
    either(seen, nic, "route_localnet")
}

fn forwards(seen: &Observed, to: IpAddr, nic: &str) -> bool {
    let path = match to {
        IpAddr::V4(_) => format!("net/ipv4/conf/{nic}/forwarding"),
        IpAddr::V6(_) => "net/ipv6/conf/all/forwarding".to_owned(),
    };
    seen.sysctls.get(&path).is_some_and(|value| value != "0")
}

fn number(seen: &Observed, of: &str, leaf: &str) -> Option<u8> {
    seen.sysctls.get(&format!("net/ipv4/conf/{of}/{leaf}"))?.parse().ok()
}

fn either(seen: &Observed, nic: &str, leaf: &str) -> bool {
    ["all", nic].into_iter().any(|of| number(seen, of, leaf).is_some_and(|value| value != 0))
}

/// `fib_validate_source`: what an answer from `answers` would do; `oif` is where a packet that is sent on would leave.
fn validate(world: &World<'_>, from: IpAddr, answers: Option<IpAddr>, oif: Option<&str>, nic: &str) -> RpFilter {
    let (all, own) = (number(world.seen, "all", "rp_filter"), number(world.seen, nic, "rp_filter"));
    let mode = match (all, own) {
        // The larger of the two counts; strict or loose in `all` may still be made another by the NIC's own.
        (Some(all), Some(own)) => Some(all.max(own)),
        _ => None,
    };
    let told = match mode {
        Some(0) => format!("rp_filter is off on {nic}"),
        Some(1) => format!("rp_filter is strict on {nic}"),
        Some(2) => format!("rp_filter is loose on {nic}"),
        Some(other) => format!("rp_filter is {other} on {nic}"),
        None => format!("rp_filter of {nic} is not known, taken for off"),
    };
    let verdict = |passes: bool, why: String| RpFilter { mode, passes, text: format!("{told}: {why}"), reason: None };
    let accepts_local = either(world.seen, nic, "accept_local");
    let strictness = mode.unwrap_or(0);
    // What would leave by the NIC that it came by is checked in full, for redirects.
    let is_short = strictness == 0 && oif != Some(nic);
    if is_short && (accepts_local || !world.has_own_rules()) {
        let is_own = world.holder(from).is_some() && !accepts_local;
        return if is_own {
            verdict(false, format!("{from} is the pod's own address, which may not come from a wire"))
        } else {
            verdict(true, format!("any source may come by {nic}"))
        };
    }
    // The mark counts only with src_valid_mark; an ordinary packet has none.
    let back = world.walk(Key { to: from, from: answers, iif: oif });
    // Of several of one worth this check takes the first.
    let first = back.route();
    let by = first.and_then(|route| route.dev.as_deref());
    match first.map(|route| route.kind) {
        Some(RouteKind::Unicast | RouteKind::Multipath) => {}
        Some(kind) if kind == TO_US && accepts_local => {}
        Some(kind) if kind == TO_US => {
            return verdict(false, format!("{from} is the pod's own address, which may not come from a wire"));
        }
        Some(kind) if kind == TO_ALL => return verdict(false, format!("{from} is a broadcast address")),
        Some(_) | None if strictness == 0 => return verdict(true, format!("no route back to {from} is asked for")),
        Some(_) | None => return verdict(false, format!("there is no route back to {from}")),
    }
    let way = match by {
        Some(dev) => format!("the way back to {from} is by {dev}"),
        None => format!("the way back to {from} is by one of several NICs"),
    };
    let is_same = by.is_none_or(|dev| dev == nic);
    let has_v4 = world.seen.addresses.iter().any(|address| address.dev == nic && address.address.is_ipv4());
    if !is_same && !has_v4 && strictness != 0 {
        return verdict(false, format!("{way}, and {nic} has no IPv4 address"));
    }
    match strictness {
        1 if is_same => verdict(true, way),
        1 => verdict(false, way),
        _ => verdict(true, way),
    }
}
