//! The pools that the controller makes for an application out of SpiderSubnets.

use schemas::crd::ip_version::IpVersion;
use schemas::name::IfName;

use super::annotation::{self, Annotation};
use super::owner::{self, Top};
use super::rule::Rule;
use super::{Request, SelectionError, fit};
use crate::auto_pool::Interface;
use crate::catalogue::{Catalogue, Marks};

/// Whether a pod asks for pools of SpiderSubnets.
pub(crate) fn asks_for_subnet(marks: &Marks) -> bool {
    [annotation::SUBNETS, annotation::SUBNET].iter().any(|annotation| marks.annotations.contains_key(annotation.key))
}

/// What an annotation asks for this interface. The original goes on with no pools at all where it lists others only.
pub(super) fn of_nic<'i>(
    annotation: Annotation,
    items: &'i [Interface],
    ifname: &IfName,
) -> Result<&'i Interface, SelectionError> {
    items.iter().find(|item| item.name == ifname.as_str()).ok_or_else(|| {
        let listed: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
        annotation.wrong(format!("interface {ifname} must be specified, it names {} alone", listed.join(", ")))
    })
}

/// The pools of the first SpiderSubnet of each family, by family.
pub(super) fn pools(
    catalogue: &Catalogue,
    request: Request<'_>,
    rule: Rule,
    item: &Interface,
) -> Result<(Vec<String>, Vec<String>), SelectionError> {
    if !(catalogue.conf.enable_spider_subnet && catalogue.conf.enable_auto_pool_for_application) {
        return Err(SelectionError::SubnetsOff);
    }
    let top = match request.top {
        Top::Known(top) => top,
        Top::None => return Err(SelectionError::NoController),
        Top::Unknown(owner) => return Err(SelectionError::NoOwnerYet(owner.to_string())),
    };
    let namespace = &request.pod.namespace;
    let of_family = |version: IpVersion, is_on: bool, subnet: Option<&String>| {
        let Some(subnet) = subnet.filter(|_| is_on) else { return Ok(Vec::new()) };
        let label = format!("IPv{version}");
        let found = catalogue
            .pools
            .iter()
            .filter(|(_, pool)| owner::is_made_for(pool, subnet, request.ifname.as_str(), &label, namespace, top));
        let found = fit::in_order(found);
        if found.is_empty() {
            let owner = format!("{} {namespace}/{}", top.kind, top.name);
            let (subnet, ifname) = (subnet.clone(), request.ifname.clone());
            return Err(SelectionError::NoAutoPool { version, subnet, ifname, owner });
        }
        Ok(found)
    };
    let found = (
        of_family(IpVersion::V4, catalogue.conf.enable_ipv4, item.ipv4.as_ref())?,
        of_family(IpVersion::V6, catalogue.conf.enable_ipv6, item.ipv6.as_ref())?,
    );
    if found.0.is_empty() && found.1.is_empty() {
        let version = if item.ipv4.is_none() { IpVersion::V6 } else { IpVersion::V4 };
        return Err(SelectionError::FamilyOff { rule, version });
    }
    Ok(found)
}
