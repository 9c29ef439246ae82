//! Policy rules.

use std::fmt::Write as _;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use plan::object::Rule;

use crate::attributes::{Malformed, V4, V6, any_of, ip_of, split, text_of, u8_of, u32_at, u32_of};
use crate::exchange::Request;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;

const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 2;
const RT_TABLE_COMPAT: u8 = 252;

/// Asks for all rules of both families.
pub(crate) fn dump() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetRule(RuleMessage::default())
}

/// Reads a rule's message; None for the families of multicast routing.
pub(crate) fn parse(payload: &[u8]) -> Result<Option<Rule>, Malformed> {
    let (header, attributes) = split::<12>(payload)?;
    let [family, to_prefix, from_prefix, tos, table, _, _, action, ..] = *header;
    if family != V4 && family != V6 {
        return Ok(None);
    }
    let (mut to, mut from) = (any_of(family), any_of(family));
    let (mut priority, mut protocol, mut table) = (0, 0, u32::from(table));
    let mut other = String::new();
    let (mut mark, mut mask) = (0, 0);
    if u32_at(header, 8) & FIB_RULE_INVERT != 0 {
        other.push_str("not ");
    }
    if tos != 0 {
        // Writing to a String cannot fail.
        let _ = write!(other, "tos {tos:#x} ");
    }
    for attribute in attributes {
        let _ = match attribute? {
            (FRA_DST, value) => {
                to = ip_of(value)?;
                Ok(())
            }
            (FRA_SRC, value) => {
                from = ip_of(value)?;
                Ok(())
            }
            (FRA_PRIORITY, value) => {
                priority = u32_of(value)?;
                Ok(())
            }
            (FRA_TABLE, value) => {
                table = u32_of(value)?;
                Ok(())
            }
            (FRA_PROTOCOL, value) => {
                protocol = u8_of(value)?;
                Ok(())
            }
            (FRA_FWMARK, value) => {
                mark = u32_of(value)?;
                Ok(())
            }
            (FRA_FWMASK, value) => {
                mask = u32_of(value)?;
                Ok(())
            }
            // All ones is "none"; the kernel says so in every rule.
            (FRA_SUPPRESS_IFGROUP | FRA_SUPPRESS_PREFIXLEN, [0xff, 0xff, 0xff, 0xff]) | (FRA_PAD, _) => Ok(()),
            (FRA_IIFNAME, value) => write!(other, "iif {} ", text_of(value)),
            (FRA_OIFNAME, value) => write!(other, "oif {} ", text_of(value)),
            (kind, value) => write!(other, "{kind}={value:02x?} "),
        };
    }
    if !matches!((mark, mask), (0, 0) | (_, u32::MAX)) {
        let _ = write!(other, "fwmark {mark:#x}/{mask:#x} ");
    }
    if action != FR_ACT_TO_TBL {
        table = 0;
        let _ = write!(other, "action {action} ");
    }
    let other = other.trim_end().to_owned();
    Ok(Some(Rule {
        priority,
        v6: family == V6,
        from: selector(from, from_prefix)?,
        to: selector(to, to_prefix)?,
        mark: (mask == u32::MAX).then_some(mark),
        table,
        other: (!other.is_empty()).then_some(other),
        protocol,
    }))
}

fn selector(ip: std::net::IpAddr, prefix: u8) -> Result<Option<IpNetwork>, Malformed> {
    if prefix == 0 {
        return Ok(None);
    }
    IpNetwork::new(ip, prefix).map(Some).map_err(|_| Malformed::Bytes("a rule with an impossible prefix"))
}

/// Adds a rule. EXCL compares all of it; without it, or with REPLACE, the kernel adds the same rule again.
pub(crate) fn add(rule: &Rule) -> Request {
    Request { message: RouteNetlinkMessage::NewRule(message(rule)), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Deletes a rule: of its priority, protocol, selectors and table.
pub(crate) fn delete(rule: &Rule) -> Request {
    Request { message: RouteNetlinkMessage::DelRule(message(rule)), flags: 0 }
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.table = u8::try_from(rule.table).unwrap_or(RT_TABLE_COMPAT);
    message.header.action = RuleAction::ToTable;
    let attributes = &mut message.attributes;
    if let Some(from) = rule.from {
        message.header.src_len = from.prefix();
        attributes.push(RuleAttribute::Source(from.network()));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.prefix();
        attributes.push(RuleAttribute::Destination(to.network()));
    }
    if let Some(mark) = rule.mark {
        attributes.push(RuleAttribute::FwMark(mark));
        attributes.push(RuleAttribute::FwMask(u32::MAX));
    }
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.push(RuleAttribute::Protocol(rule.protocol.into()));
    message
}
