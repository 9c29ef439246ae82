//! Sysctls.

use crate::desired::Desired;
use crate::object::Observed;
use crate::step::Step;

#[derive(Debug, Default)]
pub(super) struct SysctlChanges {
    pub(super) set: Vec<Step>,
    pub(super) blocked: Vec<String>,
}

pub(super) fn diff(desired: &Desired, observed: &Observed) -> SysctlChanges {
    let mut changes = SysctlChanges::default();
    for (path, value) in &desired.sysctls {
        match observed.sysctls.get(path) {
            Some(present) if present == value => {}
            Some(_) => changes.set.push(Step::SetSysctl { path: path.clone(), value: value.clone() }),
            None => changes.blocked.push(format!("sysctl {path} does not exist in this namespace")),
        }
    }
    changes
}
