//! What an attachment has of its own: link and addresses.

use ipnetwork::IpNetwork;
use schemas::intent::{Attachment, LinkKindIntent};

use super::Routed;
use super::family::Family;
use super::routes::attachment_routes;
use crate::desired::{Desired, DesiredLink, DesiredRoute, LinkOrigin};
use crate::object::{Address, Scope};
use crate::ownership;
use crate::tables::{MAIN, PROTOCOL};

/// The link and addresses of an attachment, and its routes in main while no coordinator puts them in order.
pub(super) fn own_objects(attachment: &Attachment, routed: Option<&Routed<'_>>, pod: &mut Desired) {
    let name = attachment.key.ifname.to_string();
    let settings = routed.and_then(|routed| routed.nics.iter().find(|nic| nic.name == name)).map(|nic| &nic.settings);
    let tx_queue_len = settings.map(|settings| settings.tx_queue_len).filter(|length| *length > 0);
    if let Some(intent) = &attachment.link {
        let origin = LinkOrigin::Made { intent: intent.clone(), alias: ownership::alias(&attachment.key) };
        let link = DesiredLink { name: name.clone(), origin, mac: None, tx_queue_len };
        if attachment.link_wanted {
            // An address that was another pod's comes with another hardware address: neighbours are told when the link
            // goes up, as the reference plugin has it.
            let has_neighbours = match intent.kind {
                LinkKindIntent::Macvlan(_) => true,
                LinkKindIntent::Ipvlan(mode) => mode.has_neighbours(),
            };
            if has_neighbours {
                pod.sysctls.insert(format!("net/ipv4/conf/{name}/arp_notify"), "1".to_owned());
            }
            if has_neighbours && has_family(attachment, Family::V6) {
                pod.sysctls.insert(format!("net/ipv6/conf/{name}/ndisc_notify"), "1".to_owned());
            }
            pod.links.push(link);
        } else {
            pod.withdrawn_links.push(link);
        }
    } else if let (Some(identity), Some(coordinate)) = (attachment.foreign_link, &attachment.coordinate) {
        let origin = LinkOrigin::Found(identity);
        pod.links.push(DesiredLink { name: name.clone(), origin, mac: coordinate.mac, tx_queue_len });
    }
    // Without a link of ours and without coordinator we only gave addresses: whoever asked puts them on the link.
    if !attachment.link_wanted && attachment.coordinate.is_none() {
        return;
    }
    if has_family(attachment, Family::V6) {
        pod.sysctls.insert(disable_ipv6(&name), "0".to_owned());
    }
    for assigned in &attachment.addresses {
        pod.addresses.push(Address {
            dev: name.clone(),
            address: assigned.address,
            scope: Scope::GLOBAL,
            protocol: PROTOCOL,
        });
    }
    if settings.is_none_or(|settings| !settings.tune_pod_routes) && attachment.link_wanted {
        for route in Family::ALL.into_iter().flat_map(|family| attachment_routes(attachment, MAIN, family)) {
            pod.routes.push(DesiredRoute { route, exclusive: false });
        }
    }
}

/// An attachment's addresses of a family: IPAM's, then the network's own.
pub(super) fn addresses_of(attachment: &Attachment, family: Family) -> impl Iterator<Item = IpNetwork> + Clone + '_ {
    let given = attachment.addresses.iter().map(|assigned| assigned.address);
    given.chain(attachment.learned.addresses.iter().copied()).filter(move |address| family.has_network(*address))
}

pub(super) fn has_family(attachment: &Attachment, family: Family) -> bool {
    addresses_of(attachment, family).next().is_some()
}

/// The sysctl that lets a link have no IPv6, as some images and default CNIs set it.
pub(super) fn disable_ipv6(dev: &str) -> String {
    format!("net/ipv6/conf/{dev}/disable_ipv6")
}
