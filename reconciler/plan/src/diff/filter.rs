//! Our nftables table: there whole, or not at all.

use super::Prune;
use crate::desired::Desired;
use crate::object::Observed;
use crate::step::Step;

pub(super) fn diff(desired: &Desired, observed: &Observed, prune: Prune) -> Option<Step> {
    match (&desired.filter, &observed.filter) {
        (Some(wanted), found) if found.as_ref() != Some(wanted) => Some(Step::SetFilter(wanted.clone())),
        (None, Some(_)) if prune == Prune::Yes => Some(Step::DeleteFilter),
        (Some(_) | None, _) => None,
    }
}
