//! Names of the trees and shapes of their keys: the one file that knows either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use schemas::lease::Lease;
use schemas::name::{AttachmentKey, ContainerId};

/// One tree of the store. Names and numbers are on disk: never reorder, never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TreeName {
    /// Interfaces as wanted. Key: container ID, 0x00, interface name.
    Attachments,
    /// Addresses that are not free. Key: 4 or 6, then the address in network order: the keys' order is the addresses'.
    Allocations,
    /// Sandboxes. Key: container ID.
    Sandboxes,
    /// Addresses that this node holds of each pool. Key: pool, 0x00, the first address as an allocation's key.
    Leases,
    /// What was last seen of the outside. Key: a text.
    Catalogue,
    /// Status writes that the API server has not confirmed.
    Outbox,
    /// Bounded history. Key: container ID, 0x00, the entry's number (8 bytes, big endian).
    Journal,
    /// The store itself. Keys: format, node, boot, origin, position.
    Meta,
}

/// Every tree, each at the index that its `TreeName` casts to.
pub(crate) const ALL: [TreeName; 8] = [
    TreeName::Attachments,
    TreeName::Allocations,
    TreeName::Sandboxes,
    TreeName::Leases,
    TreeName::Catalogue,
    TreeName::Outbox,
    TreeName::Journal,
    TreeName::Meta,
];

/// Meta key under which sled remembers how far it has followed; it is no part of the state.
pub(crate) const META_POSITION: &[u8] = b"position";
/// Meta key of the dump that the content came from, see [`dump`](crate::dump).
pub(crate) const META_ORIGIN: &[u8] = b"origin";
/// Meta key of the format version, a decimal text.
pub(crate) const META_FORMAT: &[u8] = b"format";
/// Meta key of the node's name.
pub(crate) const META_NODE: &[u8] = b"node";
/// Meta key of the boot ID under which the store was last opened.
pub(crate) const META_BOOT: &[u8] = b"boot";

impl TreeName {
    /// The one that casts to this number.
    pub(crate) fn from_index(index: u8) -> Option<Self> {
        ALL.get(usize::from(index)).copied()
    }

    /// The name on disk.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attachments => "attachments",
            Self::Allocations => "allocations",
            Self::Sandboxes => "sandboxes",
            Self::Leases => "leases",
            Self::Catalogue => "catalogue",
            Self::Outbox => "outbox",
            Self::Journal => "journal",
            Self::Meta => "meta",
        }
    }
}

impl std::fmt::Display for TreeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All trees, opened.
#[derive(Debug, Clone)]
pub(crate) struct Trees(Vec<sled::Tree>);

impl Trees {
    /// Opens every tree, making those that are not there yet.
    pub(crate) fn open(db: &sled::Db) -> Result<Self, sled::Error> {
        ALL.iter().map(|name| db.open_tree(name.as_str())).collect::<Result<_, _>>().map(Self)
    }

    /// One of them.
    pub(crate) fn tree(&self, name: TreeName) -> &sled::Tree {
        &self.0[name as usize]
    }

    /// All of them, each at its name's index: what one transaction goes over.
    pub(crate) fn as_slice(&self) -> &[sled::Tree] {
        &self.0
    }
}

/// Key of an attachment. No container ID has a 0x00, so one sandbox's interfaces stand together under one prefix.
pub(crate) fn attachment_key(key: &AttachmentKey) -> Vec<u8> {
    let (container, ifname) = (key.container.as_str(), key.ifname.as_str());
    let mut bytes = Vec::with_capacity(container.len() + 1 + ifname.len());
    bytes.extend_from_slice(container.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(ifname.as_bytes());
    bytes
}

/// Key of an allocation.
pub(crate) fn allocation_key(address: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(17);
    match address {
        IpAddr::V4(v4) => {
            bytes.push(4);
            bytes.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(6);
            bytes.extend_from_slice(&v6.octets());
        }
    }
    bytes
}

/// Key of a lease. No pool's name has a 0x00.
pub(crate) fn lease_key(lease: &Lease) -> Vec<u8> {
    [lease.pool.as_bytes(), &[0], &allocation_key(lease.first)].concat()
}

/// Key of a line of history: a sandbox's stand together, in their order.
pub(crate) fn history_key(container: &ContainerId, number: u64) -> Vec<u8> {
    [container.as_str().as_bytes(), &[0], &number.to_be_bytes()].concat()
}

/// Key of a sandbox.
pub(crate) fn sandbox_key(container: &ContainerId) -> Vec<u8> {
    container.as_str().as_bytes().to_vec()
}

/// A key as a person would write it, whatever bytes it has.
pub(crate) fn readable_key(tree: TreeName, key: &[u8]) -> String {
    let zero = key.iter().position(|&byte| byte == 0);
    let parts = zero.map(|zero| (String::from_utf8(key[..zero].to_vec()), &key[zero + 1..]));
    let readable = match (tree, parts) {
        (TreeName::Allocations, _) => readable_address(key),
        (TreeName::Leases, Some((Ok(pool), first))) => readable_address(first).map(|first| format!("{pool}/{first}")),
        (TreeName::Journal, Some((Ok(container), number))) => {
            number.try_into().ok().map(|number| format!("{container}/{}", u64::from_be_bytes(number)))
        }
        (TreeName::Catalogue, _) => String::from_utf8(key.to_vec()).ok(),
        _ => None,
    };
    if let Some(readable) = readable {
        return readable;
    }
    let slashed: Vec<u8> = key.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect();
    slashed.escape_ascii().to_string()
}

fn readable_address(key: &[u8]) -> Option<String> {
    match key.split_first()? {
        (4, rest) => Some(Ipv4Addr::from(<[u8; 4]>::try_from(rest).ok()?).to_string()),
        (6, rest) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?).to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_tree_stands_at_its_own_index() {
        for (index, name) in ALL.into_iter().enumerate() {
            assert_eq!(name as usize, index);
        }
    }

    #[test]
    fn keys_read_as_people_write_them() {
        let key = AttachmentKey { container: "abc".parse().unwrap(), ifname: "net1".parse().unwrap() };
        assert_eq!(readable_key(TreeName::Attachments, &attachment_key(&key)), "abc/net1");
        for text in ["10.6.168.101", "fd00::6:1"] {
            assert_eq!(readable_key(TreeName::Allocations, &allocation_key(text.parse().unwrap())), text);
        }
        assert_eq!(readable_key(TreeName::Allocations, &[9, b'a']), "\\ta");
        assert_eq!(readable_key(TreeName::Allocations, &[4, 1]), "\\x04\\x01");
    }

    proptest! {
        #[test]
        fn allocation_keys_sort_as_addresses(a: IpAddr, b: IpAddr) {
            prop_assert_eq!(allocation_key(a).cmp(&allocation_key(b)), a.cmp(&b));
        }

        #[test]
        fn no_key_panics(key: Vec<u8>) {
            for tree in ALL {
                let _ = readable_key(tree, &key);
            }
        }
    }
}
