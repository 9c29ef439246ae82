//! What pools made for workloads are called, and how they say whose they are (../spec/controller.md 6.3).

use std::collections::BTreeMap;

use schemas::crd::SpiderIPPool;
use schemas::crd::ip_version::IpVersion;

pub use crate::auto_pool::label_value;

/// The label with the SpiderSubnet of a pool.
pub const OWNER_SUBNET: &str = "ipam.spidernet.io/owner-spider-subnet";
/// The label with a SpiderSubnet's subnet.
pub const SUBNET_CIDR: &str = "ipam.spidernet.io/subnet-cidr";
/// The label that says whether a pool goes with its workload; also the annotation that asks for it.
pub const RECLAIM: &str = "ipam.spidernet.io/ippool-reclaim";
/// The annotation with the number of addresses, on pod templates and on the pools made for them.
pub const IP_NUMBER: &str = "ipam.spidernet.io/ippool-ip-number";
/// The label with the UID of a pool's workload.
pub const APP_UID: &str = "ipam.spidernet.io/owner-application-uid";
/// The label with the interface that a pool is for.
pub const INTERFACE: &str = "ipam.spidernet.io/interface";
/// The label with the family, `IPv4` or `IPv6`.
pub const IP_VERSION: &str = "ipam.spidernet.io/ip-version";
/// The label of a pool from which addresses are being taken back ([`PENDING`]), or have been ([`DONE`]).
pub const WITHDRAWN: &str = "ipam.dragline.io/withdrawn";
/// Slots of the pool may have to be changed.
pub const PENDING: &str = "pending";
/// Slots of addresses that are no longer in the pool are kept from everybody.
pub const DONE: &str = "done";
const APP_GV: &str = "ipam.spidernet.io/owner-application-gv";
const APP_KIND: &str = "ipam.spidernet.io/owner-application-kind";
const APP_NAMESPACE: &str = "ipam.spidernet.io/owner-application-namespace";
const APP_NAME: &str = "ipam.spidernet.io/owner-application-name";
/// The longest name of a pool: 253 without the longest end that the name of one of its shards has.
const NAME: usize = 253 - 40;

/// A workload: what controls pods, and is controlled by nothing that is one, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct App {
    /// The group, `apps`; empty for the core's.
    pub group: String,
    /// The version, `v1`.
    pub version: String,
    /// `Deployment`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// By what a pool is known to be a workload's: the values of four labels. A later workload of the same kind and name has
/// the same ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// `apps_v1`.
    pub gv: String,
    /// `Deployment`.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
    /// The name, see [`label_value`].
    pub name: String,
}

impl App {
    /// `apiVersion` and `kind` of an owner reference, with namespace and name.
    pub fn of(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As in `status.controlledIPPools`.
    pub fn text(&self) -> String {
        format!("{}_{}_{}_{}_{}", self.group, self.version, self.kind, self.namespace, self.name)
    }

    /// What its pools say.
    pub fn owner(&self) -> Owner {
        let gv = if self.group.is_empty() { self.version.clone() } else { format!("{}_{}", self.group, self.version) };
        Owner {
            gv: label_value(&gv),
            kind: label_value(&self.kind),
            namespace: label_value(&self.namespace),
            name: label_value(&self.name),
        }
    }

    /// The labels by which an agent knows the pods that may use a pool; these are whole, however long.
    pub fn affinity(&self) -> BTreeMap<String, String> {
        let label = |key: &str, value: &str| (format!("ipam.spidernet.io/app-{key}"), value.to_owned());
        BTreeMap::from([
            label("api-group", &self.group),
            label("api-version", &self.version),
            label("kind", &self.kind),
            label("namespace", &self.namespace),
            label("name", &self.name),
        ])
    }
}

impl Owner {
    /// Whose a pool says that it is; None for one that nobody made for a workload.
    pub fn of(pool: &SpiderIPPool) -> Option<Self> {
        let labels = pool.metadata.labels.as_ref()?;
        let label = |key: &str| labels.get(key).cloned();
        Some(Self {
            gv: label(APP_GV)?,
            kind: label(APP_KIND)?,
            namespace: label(APP_NAMESPACE)?,
            name: label(APP_NAME)?,
        })
    }

    /// Group, version and kind.
    pub fn group_version_kind(&self) -> (String, String, String) {
        let (group, version) = self.gv.split_once('_').unwrap_or(("", &self.gv));
        (group.into(), version.into(), self.kind.clone())
    }
}

/// `IPv4` or `IPv6`.
pub fn family(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "IPv4",
        IpVersion::V6 => "IPv6",
    }
}

/// The labels of a pool made for a workload's interface.
pub fn labels(
    app: &App,
    uid: &str,
    subnet: &str,
    interface: &str,
    version: IpVersion,
    is_reclaimed: bool,
) -> BTreeMap<String, String> {
    let owner = app.owner();
    let label = |key: &str, value: String| (key.to_owned(), value);
    BTreeMap::from([
        label(OWNER_SUBNET, label_value(subnet)),
        label(APP_GV, owner.gv),
        label(APP_KIND, owner.kind),
        label(APP_NAMESPACE, owner.namespace),
        label(APP_NAME, owner.name),
        label(APP_UID, label_value(uid)),
        label(INTERFACE, interface.to_owned()),
        label(IP_VERSION, family(version).to_owned()),
        label(RECLAIM, is_reclaimed.to_string()),
    ])
}

/// The name of a pool made for a workload's interface. Of a long one the workload's part is shortened.
pub fn pool_name(version: IpVersion, app: &str, interface: &str, uid: &str) -> String {
    let plain = |text: &str| -> String {
        let byte = |letter: char| match letter.to_ascii_lowercase() {
            letter if letter.is_ascii_alphanumeric() || letter == '.' => letter,
            _ => '-',
        };
        text.chars().map(byte).collect()
    };
    let block: String = uid.rsplit('-').next().unwrap_or_default().chars().take(5).collect();
    let number = match version {
        IpVersion::V4 => 4,
        IpVersion::V6 => 6,
    };
    let end = plain(&format!("-{interface}-{block}"));
    let mut app = plain(app);
    app.truncate(NAME.saturating_sub("auto4-".len() + end.len()));
    format!("auto{number}-{}{end}", app.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::defaults::is_object_name;

    #[test]
    fn a_pool_is_called_by_family_workload_interface_and_uid() {
        let uid = "8a4c4f61-98ab-4a3e-9b64-2c1f0a7e55d1";
        assert_eq!(pool_name(IpVersion::V4, "Web", "eth0", uid), "auto4-web-eth0-2c1f0");
        assert_eq!(pool_name(IpVersion::V6, "web", "net1", "ab"), "auto6-web-net1-ab");
    }

    #[test]
    fn i00017_long_names_are_shortened_to_names_that_the_api_takes() {
        for (app, interface) in
            [("a".repeat(253), "eth0"), (format!("{}.b", "a.".repeat(98)), "net_1"), ("-".into(), "Eth0")]
        {
            let name = pool_name(IpVersion::V4, &app, interface, "0-12345678");
            assert!(is_object_name(&name) && name.len() <= NAME, "{name}");
            assert!(name.ends_with("-12345"), "{name}");
        }
    }

    #[test]
    fn a_workload_is_known_again_by_the_labels_of_its_pool() {
        let app = App::of("apps/v1", "Deployment", "shop", "cart");
        assert_eq!(app.text(), "apps_v1_Deployment_shop_cart");
        let mut pool = SpiderIPPool::new("p", Default::default());
        assert_eq!(Owner::of(&pool), None);
        pool.metadata.labels = Some(labels(&app, "u", "s4", "eth0", IpVersion::V4, true));
        assert_eq!(Owner::of(&pool), Some(app.owner()));
        assert_eq!(app.owner().group_version_kind(), ("apps".into(), "v1".into(), "Deployment".into()));
        assert_ne!(app.owner(), App::of("apps/v1", "StatefulSet", "shop", "cart").owner());
        assert_eq!(App::of("v1", "ReplicationController", "a", "b").owner().gv, "v1");
    }
}
