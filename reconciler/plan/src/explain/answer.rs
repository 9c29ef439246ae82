//! What an explanation consists of.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Arrival, Basis, Flow};

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The pod's name.
    pub pod: String,
    /// What was asked.
    pub flow: Flow,
    /// What it is made of.
    pub basis: Basis,
    /// All of it in a sentence.
    pub headline: String,
    /// Of a packet that arrives: what the pod does with it.
    pub arrival: Option<Arrival>,
    /// Where the packet goes.
    pub request: Way,
    /// Of a packet without source: which one it gets.
    pub source: Option<Source>,
    /// The way back; None when the packet stays in the pod or is refused.
    pub return_path: Option<ReturnPath>,
    /// What could not be seen to the ground, and what to look at.
    pub notes: Vec<String>,
}

/// One lookup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// The rules in the order in which they were asked, up to the one that decided.
    pub rules: Vec<RuleStep>,
    /// How it ended.
    pub fate: Fate,
    /// The route that decided.
    pub route: Option<Taken>,
    /// Why it is refused; empty when it is not.
    pub why: String,
}

/// How a lookup ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// By a NIC.
    Leaves,
    /// The destination is the pod itself.
    Stays,
    /// No way.
    Refused,
}

/// A rule that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleStep {
    /// As a line of `ip rule`.
    pub rule: String,
    /// Its priority.
    pub priority: u32,
    /// What became of it.
    pub verdict: RuleVerdict,
    /// Why.
    pub why: String,
    /// Why the rule is there.
    pub reason: Option<String>,
}

/// What became of the question to a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleVerdict {
    /// For other packets.
    NotMatched,
    /// It asks for something that is not understood: taken for one that does not match.
    Unknown,
    /// It matches and leads nowhere.
    Empty,
    /// It decides.
    Decides,
}

/// The route that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// As a line of `ip route`.
    pub route: String,
    /// Its table.
    pub table: u32,
    /// The NIC; `lo` for what stays in the pod; None when it is one of several that are not known.
    pub dev: Option<String>,
    /// The next hop; None is on the link.
    pub gateway: Option<IpAddr>,
    /// Other ways of the same worth, one of which the kernel may take instead.
    pub others: Vec<Hop>,
    /// Who answers for the packet on the link.
    pub next_hop: Option<NextHop>,
    /// Why the route is there.
    pub reason: Option<String>,
}

/// A way that is as good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The NIC.
    pub dev: Option<String>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// Its source for a packet that has none.
    pub source: Option<IpAddr>,
}

/// The next hop and its hardware address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NextHop {
    /// The gateway, or the destination itself.
    pub address: IpAddr,
    /// How its hardware address is known.
    pub neighbour: String,
    /// Why the entry is there.
    pub reason: Option<String>,
}

/// A source that the kernel chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The address; None when there is none.
    pub address: Option<IpAddr>,
    /// Why this one.
    pub why: String,
}

/// What the other side's packet meets, and by which NIC it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReturnPath {
    /// The other side's packet, at the NIC that has the pod's address.
    pub arrival: Arrival,
    /// How the pod answers.
    pub answer: Way,
    /// Both directions use one NIC.
    pub is_same: bool,
    /// In words.
    pub text: String,
}
