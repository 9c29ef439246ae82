//! One change of one kernel object; prints as the `ip` command that does the same.

use schemas::name::Mac;
use schemas::uplink::BondSetting;
use serde::{Deserialize, Serialize};

use crate::desired::DesiredLink;
use crate::filter::FilterTable;
use crate::object::{Address, Neighbour, Route, Rule};

/// A change. Each is idempotent: done already counts as done, gone already as gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Make a link of ours, with its name, MTU and hardware address, and mark it with its alias.
    CreateLink(DesiredLink),
    /// Mark a link of ours whose alias is missing.
    SetLinkAlias {
        /// Its name.
        dev: String,
        /// The alias.
        alias: String,
    },
    /// Give a link its name back.
    RenameLink {
        /// Its index.
        index: u32,
        /// Its present name.
        from: String,
        /// The name it should have.
        to: String,
    },
    /// Set its MTU.
    SetLinkMtu {
        /// Its name.
        dev: String,
        /// Bytes.
        mtu: u32,
    },
    /// Set its hardware address.
    SetLinkMac {
        /// Its name.
        dev: String,
        /// The address.
        mac: Mac,
    },
    /// Put it into a bond; it is down for that moment.
    EnslaveLink {
        /// Its name.
        dev: String,
        /// The bond's.
        bond: String,
    },
    /// Set options of a bond of ours.
    SetBond {
        /// Its name.
        dev: String,
        /// Those that differ.
        options: Vec<BondSetting>,
    },
    /// Set its transmit queue's length.
    SetLinkQueue {
        /// Its name.
        dev: String,
        /// Packets.
        length: u32,
    },
    /// Set it up.
    SetLinkUp {
        /// Its name.
        dev: String,
    },
    /// Delete a link of ours.
    DeleteLink {
        /// Its name.
        dev: String,
        /// Its index, so that another link that has the name by now is not meant.
        index: u32,
    },
    /// Add an address.
    AddAddress(Address),
    /// Delete an address.
    DeleteAddress(Address),
    /// Add a route.
    AddRoute(Route, Placement),
    /// Delete exactly this route, its protocol included.
    DeleteRoute(Route),
    /// Add a rule.
    AddRule(Rule),
    /// Delete exactly this rule, its protocol included.
    DeleteRule(Rule),
    /// Add a permanent neighbour, or make an entry that is there permanent.
    SetNeighbour(Neighbour),
    /// Delete a neighbour entry.
    DeleteNeighbour(Neighbour),
    /// Set a sysctl.
    SetSysctl {
        /// Path below /proc/sys.
        path: String,
        /// The value.
        value: String,
    },
    /// Put our nftables table there in place of what is there of its name, all at once.
    SetFilter(FilterTable),
    /// Delete our nftables table.
    DeleteFilter,
}

/// How a new route stands to others of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// There is none, and there must be none.
    Alone,
    /// Before those that are there (`ip route prepend`): the old one goes, if it goes, after the new one stands.
    Before,
    /// Behind those that are there (`ip route append`): one that is wanted but must not take the packets of the other.
    After,
}
