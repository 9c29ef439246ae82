//! The rules of SpiderCoordinator, and of the same settings in a SpiderMultusConfig.

use super::cel::filled;
use super::{Placed, said, text};

/// The rules of a SpiderCoordinator.
pub(in super::super) fn coordinator() -> Vec<Placed> {
    let mut rules = vec![
        text(
            ".spec",
            "has(self.podCIDRType)",
            "it is missing, supported values: \"auto\", \"cluster\", \"calico\", \"cilium\", \"none\"",
        )
        .about(".podCIDRType")
        .required(),
    ];
    rules.extend(settings().map(|rule| rule.below(".spec")));
    rules
}

/// The rules of the settings; the places are below them.
pub(super) fn settings() -> [Placed; 11] {
    let destination = "isCIDR(self) || isIP(self)";
    let prefix = "self.matches('^[0-9a-fA-F]{2}:[0-9a-fA-F]{2}$')";
    [
        said(
            ".hijackCIDR[]",
            destination,
            filled("invalid CIDR: %s, write a CIDR like 10.0.0.0/8 or an address", &["self"]),
        ),
        said(
            ".policyRoutes[].dst",
            destination,
            filled("invalid CIDR: %s, write a CIDR like 10.0.0.0/8 or an address", &["self"]),
        ),
        said(".policyRoutes[].gw", "isIP(self)", filled("gw is an invalid IP address: %s", &["self"])),
        said(
            ".policyRoutes[]",
            "!(isCIDR(self.dst) || isIP(self.dst)) || !isIP(self.gw) || self.dst.contains(':') == self.gw.contains(':')",
            filled("dst and gw must use the same IP family, not %s and %s", &["self.dst", "self.gw"]),
        ),
        said(
            ".podMACPrefix",
            format!("self == '' || {prefix}"),
            filled("not a valid MAC prefix: %s, write two bytes like 0a:1b", &["self"]),
        ),
        said(
            ".podMACPrefix",
            format!("!({prefix}) || self.matches('^.[02468aceACE]')"),
            filled("not a unicast MAC: the lowest bit of the first byte must be 0, which it is not in %s", &["self"]),
        ),
        said(
            ".hostRuleTable",
            "self <= 4294967295 && !(self in [253, 254, 255])",
            filled(
                "%d is one of the kernel's own tables or no table, use one of 1 to 4294967295 without 253, 254 and 255",
                &["self"],
            ),
        ),
        said(
            ".podRPFilter",
            "self <= 2",
            filled("%d is not supported, use 0, 1, 2, or a negative number to leave the sysctl alone", &["self"]),
        ),
        said(".txQueueLen", "self >= 0", filled("txQueueLen can't be less than 0, it is %d", &["self"])),
        said(".txQueueLen", "self <= 4294967295", filled("%d is no queue length, use 0 to 4294967295", &["self"])),
        said(
            ".vethLinkAddress",
            "self == '' || isIP(self)",
            filled("vethLinkAddress is an invalid IP address: %s", &["self"]),
        ),
    ]
}
