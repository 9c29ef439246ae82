//! Addresses: added where they should be; ours deleted where they should not.

use super::Prune;
use super::view::{Readiness, View};
use crate::desired::Desired;
use crate::object::Address;
use crate::ownership;
use crate::tables::MAIN;

#[derive(Debug, Default)]
pub(super) struct AddressChanges {
    /// IPv6 addresses of ours with another prefix length: the kernel takes the right one only after they are gone.
    pub(super) replace: Vec<Address>,
    pub(super) add: Vec<Address>,
    pub(super) delete: Vec<Address>,
    pub(super) blocked: Vec<String>,
}

/// Tells the view which addresses come, and what the kernel will make of that.
pub(super) fn diff(desired: &Desired, view: &mut View, prune: Prune) -> AddressChanges {
    let mut changes = AddressChanges::default();
    for wanted in &desired.addresses {
        if view.addresses.iter().any(|it| is_same(it, wanted)) {
            continue;
        }
        if !view.links.contains_key(&wanted.dev) {
            let address = wanted.address;
            changes.blocked.push(format!("address {address}: link {} is not there", wanted.dev));
            continue;
        }
        changes.add.push(wanted.clone());
    }
    for it in view.addresses.iter().filter(|it| ownership::is_our_address(it) && !view.doomed.contains(&it.dev)) {
        if desired.addresses.iter().any(|wanted| is_same(it, wanted)) {
            continue;
        }
        let replacing = changes.add.iter().any(|new| new.dev == it.dev && new.address.ip() == it.address.ip());
        match (replacing, prune) {
            (true, _) if it.address.is_ipv6() => changes.replace.push(it.clone()),
            (true, _) | (false, Prune::Yes) => changes.delete.push(it.clone()),
            (false, Prune::No) => {}
        }
    }
    arrive(&changes.add, desired, view);
    changes
}

fn is_same(one: &Address, other: &Address) -> bool {
    one.dev == other.dev && one.address == other.address
}

fn arrive(added: &[Address], desired: &Desired, view: &mut View) {
    let raised: Vec<Address> =
        view.addresses.iter().filter(|it| view.links.get(&it.dev) == Some(&Readiness::Fresh)).cloned().collect();
    for address in added {
        if !view.addresses.iter().any(|it| it.address.ip() == address.address.ip()) {
            view.arriving.insert(address.address.ip());
        }
        if let Some(readiness @ Readiness::Ready) = view.links.get_mut(&address.dev) {
            *readiness = Readiness::Fresh;
        }
    }
    // Links whose routes stand in a table of their own first: another link of the same subnet would get their packets
    // for as long as it is the only one that is up.
    let fresh =
        view.links.iter().filter(|(_, readiness)| **readiness == Readiness::Fresh).map(|(name, _)| name.clone());
    let (own_table, main): (Vec<String>, Vec<String>) = fresh.partition(|name| {
        desired.routes.iter().any(|wanted| wanted.route.table != MAIN && wanted.route.dev.as_ref() == Some(name))
    });
    view.arrivals = [own_table, main].concat();
    for name in view.arrivals.clone() {
        for address in raised.iter().chain(added).filter(|address| address.dev == name) {
            view.connect(address);
        }
    }
}
