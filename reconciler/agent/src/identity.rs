//! Which pods keep their addresses: those that are followed by another of the same name, which takes the place over.
//!
//! | controlled by | while | the address belongs to |
//! |---|---|---|
//! | a StatefulSet (`apps`) | `enableStatefulSet` | namespace and name of the pod |
//! | a VirtualMachineInstance (`kubevirt.io`) | `enableKubevirtStaticIP` | namespace and name of the machine |
//! | a kind of `fixedAddressControllers` | it is listed, as `GROUP/KIND` | namespace and name of the pod |

use std::collections::BTreeSet;

use schemas::intent::PodRef;
use schemas::reservation::Reservation;

use crate::catalogue::{Catalogue, Conf, Marks, Owner};
use crate::selection;

/// Of a SpiderEndpoint whose addresses are kept: the `apiVersion` of the pod's controller, which no field of it tells.
pub const OWNER_API_VERSION: &str = "dragline.io/owner-api-version";

/// Whose an address is for good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The namespace.
    pub namespace: String,
    /// The pod's name, or that of its virtual machine: so is its SpiderEndpoint called.
    pub name: String,
}

/// Why a controller's pods keep their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It numbers them.
    StatefulSet,
    /// The pod is a virtual machine's.
    Machine,
    /// Its kind is listed.
    Listed,
}

impl Keeping {
    /// Whether pods of that controller keep their addresses, and why.
    pub fn of(conf: &Conf, owner: &Owner) -> Option<Self> {
        let keeping = Self::known(owner);
        match keeping {
            Self::StatefulSet => conf.enable_stateful_set,
            Self::Machine => conf.enable_kubevirt_static_ip,
            Self::Listed => {
                let kind = format!("{}/{}", owner.group(), owner.kind);
                conf.fixed_address_controllers.contains(&kind)
            }
        }
        .then_some(keeping)
    }

    /// The reason that there would be.
    fn known(owner: &Owner) -> Self {
        match (owner.group(), owner.kind.as_str()) {
            ("apps", "StatefulSet") => Self::StatefulSet,
            ("kubevirt.io", "VirtualMachineInstance" | "VirtualMachine") => Self::Machine,
            _ => Self::Listed,
        }
    }
}

impl Identity {
    /// That of a pod; None when it has none, or is not declared.
    pub fn of(catalogue: &Catalogue, pod: &PodRef) -> Option<Self> {
        let marks = selection::pod_marks(catalogue, pod)?;
        Self::of_marks(&catalogue.conf, &pod.namespace, &pod.name, marks)
    }

    /// That of a pod with these marks.
    pub fn of_marks(conf: &Conf, namespace: &str, name: &str, marks: &Marks) -> Option<Self> {
        let owner = controller(marks)?;
        let name = match Keeping::of(conf, owner)? {
            Keeping::StatefulSet => ordinal(&owner.name, name).map(|_| name)?,
            Keeping::Machine => &owner.name,
            Keeping::Listed => name,
        };
        Some(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// For whom the address of an interface is kept.
    pub fn reservation(&self, ifname: &str) -> Reservation {
        Reservation::new(&self.namespace, &self.name, ifname)
    }
}

/// The controller that decides: the topmost one, which for the pods of these kinds is the pod's own.
fn controller(marks: &Marks) -> Option<&Owner> {
    marks.owner.as_ref()
}

/// The controller that a SpiderEndpoint names, with the `apiVersion` that is noted beside it; without one it is that of the
/// kinds that Spiderpool keeps addresses for.
pub fn endpoint_owner(noted: Option<&String>, kind: String, name: String) -> Owner {
    let known = match kind.as_str() {
        "StatefulSet" => "apps/v1",
        "VirtualMachine" | "VirtualMachineInstance" => "kubevirt.io/v1",
        _ => "",
    };
    Owner { api_version: noted.cloned().unwrap_or_else(|| known.to_owned()), kind, name, uid: String::new() }
}

/// Which of its controller's pods this is, by its name: `cart-3` of `cart` is the one with number 3.
pub fn ordinal(controller: &str, pod: &str) -> Option<i64> {
    let number = pod.strip_prefix(controller)?.strip_prefix('-')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

/// The identities of the pods that are declared and are not being deleted.
pub fn present(catalogue: &Catalogue) -> BTreeSet<Identity> {
    let living = catalogue.pods.iter().filter(|(_, marks)| !marks.is_terminating);
    living
        .filter_map(|((namespace, name), marks)| Identity::of_marks(&catalogue.conf, namespace, name, marks))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(api_version: &str, kind: &str, name: &str) -> Marks {
        let owner = Owner { api_version: api_version.into(), kind: kind.into(), name: name.into(), uid: String::new() };
        Marks { owner: Some(owner), ..Marks::default() }
    }

    #[test]
    fn who_keeps_an_address_and_under_which_name() {
        let conf = Conf { fixed_address_controllers: vec!["apps.kruise.io/StatefulSet".into()], ..Conf::default() };
        let name = |conf: &Conf, pod: &str, marks: &Marks| {
            Identity::of_marks(conf, "shop", pod, marks).map(|identity| identity.reservation("net1").to_string())
        };
        let set = owned("apps/v1", "StatefulSet", "cart");
        assert_eq!(name(&conf, "cart-12", &set).as_deref(), Some("shop/cart-12/net1"));
        assert_eq!(name(&conf, "cart-x", &set), None, "no name that the StatefulSet gives");
        let machine = owned("kubevirt.io/v1", "VirtualMachineInstance", "vm1");
        assert_eq!(name(&conf, "virt-launcher-vm1-x7k2p", &machine).as_deref(), Some("shop/vm1/net1"));
        let third = owned("apps.kruise.io/v1beta1", "StatefulSet", "cart");
        assert_eq!(name(&conf, "cart-0", &third).as_deref(), Some("shop/cart-0/net1"));
        assert_eq!(name(&conf, "cart-5d4f-x", &owned("apps/v1", "ReplicaSet", "cart-5d4f")), None);
        assert_eq!(name(&conf, "cart", &Marks::default()), None);
        let off = Conf { enable_stateful_set: false, enable_kubevirt_static_ip: false, ..Conf::default() };
        for (pod, marks) in [("cart-12", &set), ("virt-launcher-vm1-x7k2p", &machine), ("cart-0", &third)] {
            assert_eq!(name(&off, pod, marks), None);
        }
    }

    #[test]
    fn ordinals_are_numbers_after_the_controllers_name() {
        assert_eq!(ordinal("cart", "cart-0"), Some(0));
        assert_eq!(ordinal("cart-1", "cart-1-17"), Some(17));
        for pod in ["cart", "cart-", "cart-+1", "cart-1-2", "cart--1", "other-1", "cart-99999999999999999999"] {
            assert_eq!(ordinal("cart", pod), None, "{pod}");
        }
    }
}
