//! Which packet is asked about.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::object::Observed;

/// One packet: made in the pod, or, with `iif`, one that arrives there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Flow {
    /// Its destination.
    pub to: IpAddr,
    /// Its source; None leaves the choice to the kernel.
    pub from: Option<IpAddr>,
    /// The NIC by which it arrives; None is a packet that the pod makes itself.
    pub iif: Option<String>,
}

/// Why a packet cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// 0.0.0.0 or ::.
    #[error("{which} {address} is the unspecified address: name one host")]
    Unspecified {
        /// The option.
        which: &'static str,
        /// Its value.
        address: IpAddr,
    },
    /// A group's address.
    #[error("{which} {address} is a multicast or broadcast address: name one host")]
    Group {
        /// The option.
        which: &'static str,
        /// Its value.
        address: IpAddr,
    },
    /// Two families.
    #[error("--from {from} and --to {to} are not of one family: a packet is IPv4 or IPv6")]
    Families {
        /// The source.
        from: IpAddr,
        /// The destination.
        to: IpAddr,
    },
    /// A packet that arrives has a source.
    #[error("--iif {0} is for a packet that arrives, which has a source: name it with --from")]
    NoSource(String),
    /// No such link.
    #[error("--iif {nic}: the pod has no such NIC; it has {has}")]
    UnknownNic {
        /// Which.
        nic: String,
        /// Those that are there.
        has: String,
    },
}

impl Flow {
    /// Whether it can be followed at all.
    ///
    /// # Errors
    /// When an address is not one host's, the families differ, or a packet that arrives has no source.
    pub fn check(&self) -> Result<(), FlowError> {
        host("--to", self.to)?;
        let Some(from) = self.from else {
            return match &self.iif {
                Some(nic) => Err(FlowError::NoSource(nic.clone())),
                None => Ok(()),
            };
        };
        host("--from", from)?;
        if from.is_ipv4() == self.to.is_ipv4() { Ok(()) } else { Err(FlowError::Families { from, to: self.to }) }
    }

    /// The same against what is in the pod.
    ///
    /// # Errors
    /// As [`Flow::check`], and when the NIC is not there.
    pub fn check_in(&self, seen: &Observed) -> Result<(), FlowError> {
        self.check()?;
        match &self.iif {
            Some(nic) if seen.link(nic).is_none() => {
                let names: Vec<&str> = seen.links.iter().map(|link| link.name.as_str()).collect();
                Err(FlowError::UnknownNic { nic: nic.clone(), has: names.join(", ") })
            }
            _ => Ok(()),
        }
    }
}

fn host(which: &'static str, address: IpAddr) -> Result<(), FlowError> {
    let is_broadcast = matches!(address, IpAddr::V4(ip) if ip.is_broadcast());
    if address.is_unspecified() {
        Err(FlowError::Unspecified { which, address })
    } else if address.is_multicast() || is_broadcast {
        Err(FlowError::Group { which, address })
    } else {
        Ok(())
    }
}
