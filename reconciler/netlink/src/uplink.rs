//! Links of the node that pods stand on: VLAN sub-interfaces and bonds.

use std::collections::BTreeMap;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoBond, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use plan::desired::Uplink;
use plan::object::{Bond, LinkKind};
use plan::ownership::{self, UNFINISHED_UPLINK};
use rtnetlink::{LinkBond, LinkUnspec, LinkVlan};
use schemas::uplink::{BondIntent, BondOption, BondSetting, BondValue};

use crate::apply::StepError;
use crate::attributes::{Attributes, Malformed, u16_at, u32_at};
use crate::exchange::{ExchangeError, Request};
use crate::link::{self, State};
use crate::pass::Pass;

const IFLA_VLAN_ID: u16 = 1;
const IFLA_BOND_MODE: u16 = 1;

/// The attribute of an option and the width of its number; 0 for what is no number.
fn attribute(option: BondOption) -> (u16, usize) {
    match option {
        BondOption::MiiMon => (3, 4),
        BondOption::UpDelay => (4, 4),
        BondOption::DownDelay => (5, 4),
        BondOption::UseCarrier => (6, 1),
        BondOption::ArpInterval => (7, 4),
        BondOption::ArpIpTarget => (8, 0),
        BondOption::ArpValidate => (9, 4),
        BondOption::ArpAllTargets => (10, 4),
        BondOption::Primary => (11, 0),
        BondOption::PrimaryReselect => (12, 1),
        BondOption::FailOverMac => (13, 1),
        BondOption::XmitHashPolicy => (14, 1),
        BondOption::ResendIgmp => (15, 4),
        BondOption::AllSlavesActive => (17, 1),
        BondOption::MinLinks => (18, 4),
        BondOption::LpInterval => (19, 4),
        BondOption::PacketsPerSlave => (20, 4),
        BondOption::LacpRate => (21, 1),
        BondOption::AdSelect => (22, 1),
        BondOption::AdActorSysPrio => (24, 2),
        BondOption::AdUserPortKey => (25, 2),
        BondOption::AdActorSystem => (26, 0),
        BondOption::TlbDynamicLb => (27, 1),
        BondOption::PeerNotifDelay => (28, 4),
    }
}

/// Reads a VLAN sub-interface's details.
pub(crate) fn parse_vlan(details: &[u8]) -> Result<LinkKind, Malformed> {
    for attribute in Attributes(details) {
        if let (IFLA_VLAN_ID, value) = attribute? {
            if value.len() < 2 {
                return Err(Malformed::Bytes("a VLAN without a whole ID"));
            }
            return Ok(LinkKind::Vlan(u16_at(value, 0)));
        }
    }
    Err(Malformed::Bytes("a VLAN without ID"))
}

/// Reads a bond's details.
pub(crate) fn parse_bond(details: &[u8]) -> Result<LinkKind, Malformed> {
    let options: BTreeMap<u16, (BondOption, usize)> = BondOption::ALL
        .into_iter()
        .map(|option| {
            let (kind, width) = attribute(option);
            (kind, (option, width))
        })
        .collect();
    let mut bond = Bond::default();
    for attribute in Attributes(details) {
        let (kind, value) = attribute?;
        if kind == IFLA_BOND_MODE {
            bond.mode = value.first().copied().unwrap_or_default();
        }
        let Some((option, width)) = options.get(&kind).filter(|(_, width)| *width > 0 && value.len() == *width) else {
            continue;
        };
        let number = match width {
            1 => u32::from(value[0]),
            2 => u32::from(u16_at(value, 0)),
            _ => u32_at(value, 0),
        };
        bond.numbers.insert(*option, number);
    }
    Ok(LinkKind::Bond(bond))
}

/// Makes a VLAN sub-interface.
pub(crate) fn create_vlan(name: &str, parent: u32, id: u16) -> Request {
    made(LinkVlan::new(name, parent, id).build())
}

/// Makes a bond, without slaves. `index_of` finds a link's index by name; the error says what of the options cannot be.
pub(crate) fn create_bond(
    name: &str,
    intent: &BondIntent,
    index_of: impl FnMut(&str) -> Option<u32>,
) -> Result<Request, String> {
    let mut link =
        LinkBond::new(name).append_info_data(InfoBond::Other(DefaultNla::new(IFLA_BOND_MODE, vec![intent.mode])));
    for details in self::details(&intent.options, index_of)? {
        link = link.append_info_data(details);
    }
    Ok(made(link.build()))
}

fn set_bond(index: u32, options: &[BondSetting], index_of: impl FnMut(&str) -> Option<u32>) -> Result<Request, String> {
    let mut message = LinkUnspec::new_with_index(index).build();
    message.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bond),
        LinkInfo::Data(InfoData::Bond(details(options, index_of)?)),
    ])];
    // Details are changed by the message that makes a link, as iproute2 sends it.
    Ok(Request { message: RouteNetlinkMessage::NewLink(message), flags: 0 })
}

fn details(options: &[BondSetting], mut index_of: impl FnMut(&str) -> Option<u32>) -> Result<Vec<InfoBond>, String> {
    let mut details = Vec::new();
    for BondSetting { option, value } in options {
        let (kind, width) = attribute(*option);
        let bytes = match value {
            BondValue::Number(number) => {
                let (bytes, room) = (number.to_ne_bytes(), 8 * u32::try_from(width).unwrap_or_default());
                if room < 32 && *number >> room != 0 {
                    return Err(format!("{}: {number} is too large", option.name()));
                }
                match width {
                    1 => vec![number.to_le_bytes()[0]],
                    2 => u16::try_from(*number).unwrap_or_default().to_ne_bytes().to_vec(),
                    _ => bytes.to_vec(),
                }
            }
            BondValue::Link(name) => {
                let index = index_of(name.as_str());
                index.ok_or_else(|| format!("{}: there is no link {name}", option.name()))?.to_ne_bytes().to_vec()
            }
            BondValue::Mac(mac) => mac.0.to_vec(),
            BondValue::Addresses(addresses) => {
                details.push(InfoBond::ArpIpTarget(addresses.clone()));
                continue;
            }
        };
        details.push(InfoBond::Other(DefaultNla::new(kind, bytes)));
    }
    Ok(details)
}

fn made(message: LinkMessage) -> Request {
    Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

impl Pass {
    /// Under a name of its own until it has its alias, so that an unfinished one is not taken for somebody else's.
    pub(crate) fn create_uplink(&mut self, name: &str, kind: &Uplink) -> Result<(), StepError> {
        let links = self.links()?;
        let index_of = |name: &str| links.get(name).map(|link| link.index);
        if let Some(left) = links.get(UNFINISHED_UPLINK) {
            self.change_one(link::delete(left.index))?;
        }
        let request = match kind {
            Uplink::Vlan { parent, id } => {
                let missing = || StepError::NoMaster {
                    master: parent.to_string(),
                    dev: name.to_owned(),
                    place: self.place().to_owned(),
                };
                create_vlan(UNFINISHED_UPLINK, index_of(parent.as_str()).ok_or_else(missing)?, *id)
            }
            Uplink::Bond { intent, .. } => {
                create_bond(UNFINISHED_UPLINK, intent, index_of).map_err(StepError::Option)?
            }
            Uplink::Present => return Err(StepError::NeverDone("a link of the node's own is never made by dragline")),
        };
        self.change_one(request)?;
        let index = link::find(self.exchange(), UNFINISHED_UPLINK)?.index;
        let attributes =
            vec![LinkAttribute::IfAlias(ownership::uplink_alias(name)), LinkAttribute::IfName(name.to_owned())];
        self.change_one(link::set(index, attributes))
    }

    pub(crate) fn enslave(&mut self, dev: &str, bond: &str) -> Result<(), StepError> {
        let links = self.links()?;
        let missing = |dev: &str| StepError::NoLink { dev: dev.to_owned(), place: self.place().to_owned() };
        let slave = links.get(dev).ok_or_else(|| missing(dev))?.index;
        let controller = links.get(bond).ok_or_else(|| missing(bond))?.index;
        let sequence = [
            link::set_state(slave, State::Down),
            link::set(slave, vec![LinkAttribute::Controller(controller)]),
            link::set_state(slave, State::Up),
        ];
        let answers: Result<(), ExchangeError> = self.change(sequence.into()).into_iter().collect();
        Ok(answers?)
    }

    /// Sets options of a bond.
    pub(crate) fn set_bond(&mut self, dev: &str, options: &[BondSetting]) -> Result<(), StepError> {
        let links = self.links()?;
        let missing = || StepError::NoLink { dev: dev.to_owned(), place: self.place().to_owned() };
        let index = links.get(dev).ok_or_else(missing)?.index;
        let request = set_bond(index, options, |name| links.get(name).map(|link| link.index));
        self.change_one(request.map_err(StepError::Option)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_an_attribute_of_its_own() {
        let kinds: std::collections::BTreeSet<u16> =
            BondOption::ALL.into_iter().map(|option| attribute(option).0).collect();
        assert_eq!(kinds.len(), BondOption::ALL.len());
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() {
        let setting = |option, number| BondSetting { option, value: BondValue::Number(number) };
        assert!(details(&[setting(BondOption::LacpRate, 256)], |_| None).unwrap_err().contains("lacp_rate"));
        assert_eq!(details(&[setting(BondOption::MiiMon, u32::MAX)], |_| None).unwrap().len(), 1);
    }
}
