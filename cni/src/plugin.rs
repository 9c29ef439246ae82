//! Which of the plugins the program is.

use std::ffi::OsStr;
use std::path::Path;

use schemas::wire::Part;

/// A plugin that this program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// IPAM, called by a main plugin.
    Spiderpool,
    /// Chained behind the main plugin.
    Coordinator,
    /// A main plugin.
    Macvlan,
    /// A main plugin.
    Ipvlan,
    /// The head of a chain: the uplink that the main plugin needs on the node.
    Ifacer,
}

impl Plugin {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Spiderpool, Self::Coordinator, Self::Macvlan, Self::Ipvlan, Self::Ifacer];

    /// The file name that it is called by, and the `type` in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spiderpool => "spiderpool",
            Self::Coordinator => "coordinator",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Ifacer => "ifacer",
        }
    }

    /// The plugin of a program's path, if its file name is one's.
    pub fn named(path: &OsStr) -> Option<Self> {
        let name = Path::new(path).file_name()?;
        Self::ALL.into_iter().find(|plugin| name == plugin.name())
    }

    /// The part of an attachment that it is about.
    pub fn part(self) -> Part {
        match self {
            Self::Spiderpool => Part::Addresses,
            Self::Coordinator => Part::Routes,
            Self::Macvlan | Self::Ipvlan => Part::Link,
            Self::Ifacer => Part::Uplink,
        }
    }

    /// Whether it makes the pod's link, and so calls an IPAM plugin.
    pub fn is_main(self) -> bool {
        matches!(self, Self::Macvlan | Self::Ipvlan)
    }
}
