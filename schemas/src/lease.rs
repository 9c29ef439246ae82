//! Addresses that this node holds, so that it may give them to pods.
//!
//! A version-1 record of the store, with the same rules as [`intent`](crate::intent). Where a pool has leases, all of its
//! allocations lie in them; a node with `--manifests` holds its pools whole, and has none.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A stretch of a pool's addresses that is this node's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lease {
    /// The pool.
    pub pool: String,
    /// The first address.
    pub first: IpAddr,
    /// The last address, of the same family.
    pub last: IpAddr,
    /// Counts the claims of this stretch: an older one's word is void.
    pub epoch: u64,
}

impl Lease {
    /// Whether an address lies in it.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}
