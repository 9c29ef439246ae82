//! The rules of SpiderIPPool, SpiderSubnet and SpiderReservedIP.

use super::cel::{FEW, family, filled, first, first_offender, ipv4_numbers, ipv6_at_most, is_range, last};
use super::{Placed, has_spec, kept, said, text};

/// The rules of a SpiderIPPool.
pub(in super::super) fn pool() -> Vec<Placed> {
    let mut rules = addresses("IPPool");
    let some = |key: &str| format!("(has(self.{key}) && self.{key}.size() > 0)");
    rules.push(text(
        ".spec.podAffinity",
        format!("{} || {}", some("matchLabels"), some("matchExpressions")),
        "empty podAffinity is invalid for SpiderIPPool, write at least one label or expression, or leave it out for all pods",
    ));
    for selector in ["podAffinity", "namespaceAffinity", "nodeAffinity"] {
        rules.extend(expressions(&format!(".spec.{selector}.matchExpressions[]")));
    }
    rules
}

/// The rules of a SpiderSubnet: those of a pool, without whom it is for.
pub(in super::super) fn subnet() -> Vec<Placed> {
    addresses("Subnet")
}

/// The rules of a SpiderReservedIP.
pub(in super::super) fn reserved() -> Vec<Placed> {
    let missing =
        "is not generated correctly, 'spec.ips' is empty or 'spec.ips[0]' may be invalid; name at least one address";
    let mut rules = vec![
        has_spec(),
        kept(".spec", "ipVersion"),
        text(".spec", "has(self.ips) && self.ips.size() > 0", missing).about(".ips"),
    ];
    rules.extend(entries(".spec.ips"));
    let known = format!("(has(self.ipVersion) || {})", is_range("self.ips[0]"));
    let version = format!("(has(self.ipVersion) ? self.ipVersion : ip({}).family())", first("self.ips[0]"));
    let right = format!("!({}) || ip({}).family() == {version}", is_range("r"), first("r"));
    rules.push(
        said(
            ".spec",
            format!("!has(self.ips) || self.ips.size() == 0 || !{known} || self.ips.all(r, {right})"),
            filled(
                "invalid IP range format in IPv%d '%s', all entries are of one family",
                &[&version, &first_offender("self.ips", "r", &right)],
            ),
        )
        .about(".ips"),
    );
    rules
}

fn addresses(kind: &str) -> Vec<Placed> {
    let mut rules = vec![has_spec(), kept(".spec", "ipVersion")];
    rules.extend(network());
    rules.extend(entries(".spec.ips"));
    rules.extend(entries(".spec.excludeIPs"));
    rules.push(inside("ips"));
    rules.push(inside("excludeIPs"));
    rules.extend(gateway(kind));
    rules.extend(routes(kind));
    rules
}

fn network() -> [Placed; 4] {
    let subnet = ".spec.subnet";
    [
        text(subnet, "self == oldSelf", "subnet is not changeable").forbidden(),
        said(
            subnet,
            "isCIDR(self)",
            filled("invalid CIDR format in %s '%s', write one like 10.6.0.0/16", &[&family("self"), "self"]),
        ),
        said(
            subnet,
            "!isCIDR(self) || cidr(self) == cidr(self).masked()",
            filled("unformatted subnet %s, please change it to %s", &["self", "string(cidr(self).masked())"]),
        ),
        said(
            ".spec",
            "!has(self.ipVersion) || !isCIDR(self.subnet) || cidr(self.subnet).ip().family() == self.ipVersion",
            filled("invalid CIDR format in IPv%d '%s', it is of the other family", &["self.ipVersion", "self.subnet"]),
        )
        .about(".subnet"),
    ]
}

/// What one entry of a list of addresses and ranges tells alone.
fn entries(list: &str) -> [Placed; 4] {
    let at = format!("{list}[]");
    let (first, last, range) = (first("self"), last("self"), is_range("self"));
    let kind = "(self.contains('-') || self.contains('/') ? 'range' : 'IP address')";
    let reversed = filled("invalid range: %s is reversed, write %s-%s", &["self", &last, &first]);
    let unless = |holds: &str| format!("!self.contains('-') || !({range}) || {holds}");
    [
        said(&at, &range, filled("invalid %s: %s, write an address A or a range A-B", &[kind, "self"])),
        said(
            &at,
            unless(&format!("ip({first}).family() == ip({last}).family()")),
            filled("invalid range: %s begins and ends in different families", &["self"]),
        ),
        said(&at, unless(&format!("self.contains(':') || {}.isSorted()", ipv4_numbers(&[&first, &last]))), &reversed),
        said(&at, unless(&format!("self.contains('.') || {}", ipv6_at_most(&first, &last))), &reversed),
    ]
}

/// The entries of a list are in the subnet.
fn inside(key: &str) -> Placed {
    let list = format!("self.{key}");
    let contains = |address: &str| format!("cidr(self.subnet).containsIP({address})");
    let right = format!("!({}) || ({} && {})", is_range("r"), contains(&first("r")), contains(&last("r")));
    said(
        ".spec",
        format!("!has({list}) || !isCIDR(self.subnet) || {list}.all(r, {right})"),
        filled("not match base subnet: %s is not in %s", &[&first_offender(&list, "r", &right), "self.subnet"]),
    )
    .about(&format!(".{key}"))
}

fn gateway(kind: &str) -> [Placed; 4] {
    // An empty text is what a form or a chart leaves behind when there is no gateway.
    let given = "!has(self.gateway) || !isIP(self.gateway)";
    let advice = "add the gateway IP address to 'spec.excludeIPs' or remove it from 'spec.ips'";
    let conflict = filled(&format!("conflicts with 'spec.gateway' %s, {advice}"), &["self.gateway"]);
    let ipv4 = |list: &str| {
        let numbers = ipv4_numbers(&[&first("r"), &last("r"), "self.gateway"]);
        let holds = format!("[{numbers}].exists(n, n[0] <= n[2] && n[2] <= n[1])");
        format!("{list}.exists(r, !r.contains(':') && {} && {holds})", is_range("r"))
    };
    // An order of IPv6 is dear: the controller looks at the others.
    let ipv6 = |list: &str| {
        let above = ipv6_at_most(&first("r"), "self.gateway");
        let below = ipv6_at_most("self.gateway", &last("r"));
        let holds = format!("!r.contains('.') && {} && {above} && {below}", is_range("r"));
        format!("{FEW}.exists(i, i < {list}.size() && [{list}[i]].exists(r, {holds}))")
    };
    let free = |guard: &str, holds: &dyn Fn(&str) -> String| {
        let excluded = holds("self.excludeIPs");
        format!(
            "{given} || {guard} || !has(self.ips) || !{} || (has(self.excludeIPs) && {excluded})",
            holds("self.ips")
        )
    };
    let ipv6_guard = "self.gateway.contains('.') || (has(self.excludeIPs) && self.excludeIPs.size() > 32)";
    [
        said(
            ".spec.gateway",
            "self == '' || isIP(self)",
            filled("invalid IP address: %s, write one address of the subnet", &["self"]),
        ),
        said(
            ".spec",
            format!("{given} || !isCIDR(self.subnet) || cidr(self.subnet).containsIP(self.gateway)"),
            filled(&format!("%s not pertains to the 'spec.subnet' %s of {kind}"), &["self.gateway", "self.subnet"]),
        )
        .about(".gateway"),
        said(".spec", free("self.gateway.contains(':')", &ipv4), &conflict).about(".ips"),
        said(".spec", free(ipv6_guard, &ipv6), &conflict).about(".ips"),
    ]
}

fn routes(kind: &str) -> [Placed; 6] {
    let given = "!has(self.routes) || !isCIDR(self.subnet)";
    let of_family = "!isCIDR(r.dst) || cidr(r.dst).ip().family() == cidr(self.subnet).ip().family()";
    let reachable = "!isIP(r.gw) || cidr(self.subnet).containsIP(r.gw)";
    let same = "isCIDR(o.dst) && cidr(o.dst).masked() == cidr(r.dst).masked()";
    let single = format!("!isCIDR(r.dst) || self.routes.exists_one(o, {same})");
    let offender = |holds: &str, key: &str| format!("{}.{key}", first_offender("self.routes", "r", holds));
    [
        said(
            ".spec.routes[].dst",
            "isCIDR(self)",
            filled("invalid CIDR format in %s '%s', write one like 10.7.0.0/16", &[&family("self"), "self"]),
        ),
        text(
            ".spec.routes[].dst",
            "!isCIDR(self) || cidr(self).prefixLength() != 0",
            "please specify 'spec.gateway' to configure the default route",
        ),
        said(
            ".spec.routes[].gw",
            "isIP(self)",
            filled("invalid IP address: %s, write one address of the subnet", &["self"]),
        ),
        said(
            ".spec",
            format!("{given} || self.routes.all(r, {of_family})"),
            filled(
                "invalid CIDR format in IPv%d '%s', a route is of the subnet's family",
                &["cidr(self.subnet).ip().family()", &offender(of_family, "dst")],
            ),
        )
        .about(".routes"),
        said(
            ".spec",
            format!("{given} || self.routes.all(r, {reachable})"),
            filled(
                &format!("%s not pertains to the 'spec.subnet' %s of {kind}"),
                &[&offender(reachable, "gw"), "self.subnet"],
            ),
        )
        .about(".routes"),
        said(
            ".spec",
            format!("!has(self.routes) || self.routes.all(r, {single})"),
            filled("duplicate route with the same dst %s", &[&offender(&single, "dst")]),
        )
        .about(".routes"),
    ]
}

/// What makes a requirement of a label selector one.
fn expressions(at: &str) -> [Placed; 3] {
    let values = "(has(self.values) && self.values.size() > 0)";
    [
        said(
            at,
            "self.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist']",
            filled(
                "'%s' is not a valid label selector operator, use In, NotIn, Exists or DoesNotExist",
                &["self.operator"],
            ),
        ),
        text(
            at,
            format!("!(self.operator in ['In', 'NotIn']) || {values}"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )
        .about(".values"),
        text(
            at,
            format!("!(self.operator in ['Exists', 'DoesNotExist']) || !{values}"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )
        .about(".values"),
    ]
}
