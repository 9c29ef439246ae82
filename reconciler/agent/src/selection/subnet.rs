//! The pools that the controller makes for an application out of SpiderSubnets.

use schemas::crd::ip_version::IpVersion;
use schemas::name::IfName;

use super::annotation::{self, Annotation, Item};
use super::owner::{self, Top};
use super::rule::Rule;
use super::{Request, SelectionError, fit};
use crate::catalogue::{Catalogue, Marks};

/// Whether a pod asks for pools of SpiderSubnets.
pub(crate) fn asks_for_subnet(marks: &Marks) -> bool {
    [annotation::SUBNETS, annotation::SUBNET].iter().any(|annotation| marks.annotations.contains_key(annotation.key))
}

/// What an annotation asks for this interface. The original goes on with no pools at all where it lists others only.
pub(super) fn of_nic<'i>(
    annotation: Annotation,
    items: &'i [Item],
    ifname: &IfName,
) -> Result<&'i Item, SelectionError> {
    items.iter().find(|item| item.interface == ifname.as_str()).ok_or_else(|| {
        let listed: Vec<&str> = items.iter().map(|item| item.interface.as_str()).collect();
        annotation.wrong(format!("interface {ifname} must be specified, it names {} alone", listed.join(", ")))
    })
}

/// The pools of the first SpiderSubnet of each family, by family.
pub(super) fn pools(
    catalogue: &Catalogue,
    request: Request<'_>,
    rule: Rule,
    item: &Item,
) -> Result<(Vec<String>, Vec<String>), SelectionError> {
    if !(catalogue.conf.enable_spider_subnet && catalogue.conf.enable_auto_pool_for_application) {
        return Err(SelectionError::SubnetsOff);
    }
    let top = match request.top {
        Top::Known(top) => top,
        Top::None => return Err(SelectionError::NoController),
        Top::Unknown(owner) => return Err(SelectionError::NoOwnerYet(owner.to_string())),
    };
    if item.names_none() {
        return Err(SelectionError::NoPool(rule));
    }
    let namespace = &request.pod.namespace;
    let of_family = |version: IpVersion, is_on: bool, subnets: Vec<String>| {
        let Some(subnet) = subnets.into_iter().next().filter(|_| is_on) else { return Ok(Vec::new()) };
        let label = format!("IPv{version}");
        let found = catalogue
            .pools
            .iter()
            .filter(|(_, pool)| owner::is_made_for(pool, &subnet, request.ifname.as_str(), &label, namespace, top));
        let found = fit::in_order(found);
        if found.is_empty() {
            let owner = format!("{} {namespace}/{}", top.kind, top.name);
            return Err(SelectionError::NoAutoPool { version, subnet, ifname: request.ifname.clone(), owner });
        }
        Ok(found)
    };
    let found = (
        of_family(IpVersion::V4, catalogue.conf.enable_ipv4, item.v4())?,
        of_family(IpVersion::V6, catalogue.conf.enable_ipv6, item.v6())?,
    );
    if found.0.is_empty() && found.1.is_empty() {
        let version = if item.v4().is_empty() { IpVersion::V6 } else { IpVersion::V4 };
        return Err(SelectionError::FamilyOff { rule, version });
    }
    Ok(found)
}
