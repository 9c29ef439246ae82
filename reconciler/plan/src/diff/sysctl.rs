//! Sysctls.

use std::collections::BTreeSet;

use super::link::LinkChanges;
use super::view::View;
use crate::desired::Desired;
use crate::object::Observed;
use crate::step::Step;

#[derive(Debug, Default)]
pub(super) struct SysctlChanges {
    pub(super) set: Vec<Step>,
    pub(super) blocked: Vec<String>,
}

pub(super) fn diff(desired: &Desired, observed: &Observed, view: &View, links: &LinkChanges) -> SysctlChanges {
    // A link that gets its name in this diff gets its sysctls with it: what was observed under that name, if anything,
    // was another link's.
    let named: BTreeSet<&str> = links
        .prepare
        .iter()
        .filter_map(|step| match step {
            Step::CreateLink(link) => Some(link.name.as_str()),
            Step::RenameLink { to, .. } => Some(to.as_str()),
            _ => None,
        })
        .collect();
    let mut changes = SysctlChanges::default();
    // A link that is not there is told of as such.
    let has_link = |path: &str| link_of(path).is_none_or(|link| view.links.contains_key(link));
    for (path, value) in desired.sysctls.iter().filter(|(path, _)| has_link(path)) {
        match observed.sysctls.get(path) {
            _ if link_of(path).is_some_and(|link| named.contains(link))
                && !path.ends_with(crate::plan::ADVERTISED_METRIC) =>
            {
                changes.set.push(Step::SetSysctl { path: path.clone(), value: value.clone() });
            }
            Some(present) if present == value => {}
            Some(_) => changes.set.push(Step::SetSysctl { path: path.clone(), value: value.clone() }),
            // Older kernels have none: there such routes are taken out of main each time they come.
            None if path.ends_with(crate::plan::ADVERTISED_METRIC) => {}
            None => changes.blocked.push(format!("sysctl {path} does not exist in this namespace")),
        }
    }
    changes
}

/// The link that a sysctl belongs to: `net/ipv4/conf/LINK/name`.
fn link_of(path: &str) -> Option<&str> {
    let link = path.split("/conf/").nth(1)?.split('/').next()?;
    (!matches!(link, "all" | "default")).then_some(link)
}
