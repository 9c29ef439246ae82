//! Policy rules.

use super::Prune;
use crate::desired::Desired;
use crate::object::{Observed, Rule};
use crate::ownership;

#[derive(Debug, Default)]
pub(super) struct RuleChanges {
    pub(super) add: Vec<Rule>,
    pub(super) delete: Vec<Rule>,
}

pub(super) fn diff(desired: &Desired, observed: &Observed, prune: Prune) -> RuleChanges {
    let is_there = |wanted: &&Rule| observed.rules.iter().any(|it| it.is_same(wanted));
    let is_wanted = |it: &&Rule| desired.rules.iter().any(|wanted| it.is_same(wanted));
    let add = desired.rules.iter().filter(|wanted| !is_there(wanted)).cloned().collect();
    let ours = observed.rules.iter().filter(|it| ownership::is_our_rule(it));
    let delete = match prune {
        Prune::Yes => ours.filter(|it| !is_wanted(it)).cloned().collect(),
        Prune::No => Vec::new(),
    };
    RuleChanges { add, delete }
}
