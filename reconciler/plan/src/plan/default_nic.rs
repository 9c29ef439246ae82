//! Which NIC holds the default route.

use super::Nic;
use super::family::Family;
use super::inside::Inside;
use super::own::has_family;
use super::routes::has_default;

/// Which tuned NIC holds the default route; None is the default CNI's.
///
/// The latest network configuration that names one decides, else annotation and SpiderCoordinator; a NIC that is not there
/// (yet) or has no default route leaves it to the first attached NIC that has one.
pub(super) fn default_nic(
    nics: &[Nic<'_>],
    inside: Inside<'_>,
    family: Family,
    notes: &mut Vec<String>,
) -> Option<usize> {
    let can_hold = |nic: &Nic<'_>| nic.settings.tune_pod_routes && has_default(nic.attachment, family);
    let first = nics.iter().position(can_hold);
    let named_by_conf = nics
        .iter()
        .rev()
        .find(|nic| nic.attachment.coordinate.as_ref().is_some_and(|c| c.conf.default_route_nic.is_some()));
    let Some(wanted) = named_by_conf.or(nics.last()).and_then(|nic| nic.settings.default_route_nic.as_deref()) else {
        return first;
    };
    if inside.baseline().is_some_and(|baseline| wanted == baseline.nic.as_str()) {
        return None;
    }
    match nics.iter().position(|nic| nic.name == wanted) {
        Some(index) if can_hold(&nics[index]) => Some(index),
        // It has nothing to do with this family.
        Some(index) if !has_family(nics[index].attachment, family) => first,
        Some(_) => {
            notes.push(format!("default route NIC {wanted} has no gateway: {} is used", name_of(nics, first, inside)));
            first
        }
        None => {
            notes.push(format!(
                "podDefaultRouteNIC: {wanted} don't exist in pod (yet): {} is used until it does",
                name_of(nics, first, inside)
            ));
            first
        }
    }
}

pub(super) fn name_of(nics: &[Nic<'_>], index: Option<usize>, inside: Inside<'_>) -> String {
    index.map_or_else(|| inside.name().to_owned(), |index| nics[index].name.clone())
}
