//! Links.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_core::NLM_F_EXCL;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoVeth, IpVlanMode, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage,
    MacVlanMode,
};
use plan::desired::PairIntent;
use plan::object::{Link, LinkKind};
use rtnetlink::{LinkIpVlan, LinkMacVlan, LinkMessageBuilder, LinkUnspec};
use schemas::intent::{IpvlanMode, LinkIntent, LinkKindIntent, MacvlanMode};
use schemas::name::Mac;

use crate::attributes::{Attributes, Malformed, split, text_of, u16_at, u32_at, u32_of};
use crate::exchange::{Exchange, ExchangeError, Request};
use crate::uplink;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFF_UP: u32 = 1;

/// Asks for all links, without their counters.
pub(crate) fn dump() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

/// Reads a link's message.
pub(crate) fn parse(payload: &[u8]) -> Result<Link, Malformed> {
    let (header, attributes) = split::<16>(payload)?;
    let mut link = Link {
        name: String::new(),
        index: u32_at(header, 4),
        kind: LinkKind::Other(String::new()),
        mac: None,
        mtu: 0,
        up: u32_at(header, 8) & IFF_UP != 0,
        alias: None,
        lower: None,
        master: None,
        tx_queue_len: 0,
    };
    for attribute in attributes {
        match attribute? {
            (IFLA_ADDRESS, value) => link.mac = value.try_into().ok().map(Mac),
            (IFLA_IFNAME, value) => link.name = text_of(value),
            (IFLA_MTU, value) => link.mtu = u32_of(value)?,
            (IFLA_LINK, value) => link.lower = Some(u32_of(value)?),
            (IFLA_MASTER, value) => link.master = Some(u32_of(value)?),
            (IFLA_TXQLEN, value) => link.tx_queue_len = u32_of(value)?,
            (IFLA_IFALIAS, value) => link.alias = Some(text_of(value)).filter(|alias| !alias.is_empty()),
            (IFLA_LINKINFO, value) => link.kind = parse_kind(value)?,
            _ => {}
        }
    }
    if link.name.is_empty() { Err(Malformed::Bytes("a link without a name")) } else { Ok(link) }
}

fn parse_kind(information: &[u8]) -> Result<LinkKind, Malformed> {
    let (mut name, mut details) = (String::new(), &[][..]);
    for attribute in Attributes(information) {
        match attribute? {
            (IFLA_INFO_KIND, value) => name = text_of(value),
            (IFLA_INFO_DATA, value) => details = value,
            _ => {}
        }
    }
    match name.as_str() {
        "macvlan" => parse_macvlan(details).map(|mode| mode.map_or(LinkKind::Other(name), LinkKind::Macvlan)),
        "ipvlan" => parse_ipvlan(details).map(|mode| mode.map_or(LinkKind::Other(name), LinkKind::Ipvlan)),
        "veth" => Ok(LinkKind::Veth),
        "vlan" => uplink::parse_vlan(details),
        "bond" => uplink::parse_bond(details),
        _ => Ok(LinkKind::Other(name)),
    }
}

/// None is a mode that dragline never makes.
fn parse_macvlan(details: &[u8]) -> Result<Option<MacvlanMode>, Malformed> {
    for attribute in Attributes(details) {
        if let (IFLA_MACVLAN_MODE, value) = attribute? {
            let mode = match MacVlanMode::from(u32_of(value)?) {
                MacVlanMode::Bridge => MacvlanMode::Bridge,
                MacVlanMode::Private => MacvlanMode::Private,
                MacVlanMode::Vepa => MacvlanMode::Vepa,
                MacVlanMode::Passthrough => MacvlanMode::Passthru,
                // `source` and what is yet to come: never made by dragline.
                _ => break,
            };
            return Ok(Some(mode));
        }
    }
    Ok(None)
}

/// None is a mode that dragline never makes.
fn parse_ipvlan(details: &[u8]) -> Result<Option<IpvlanMode>, Malformed> {
    for attribute in Attributes(details) {
        if let (IFLA_IPVLAN_MODE, value) = attribute? {
            if value.len() < 2 {
                return Err(Malformed::Bytes("an ipvlan without a whole mode"));
            }
            return Ok(match u16_at(value, 0) {
                0 => Some(IpvlanMode::L2),
                1 => Some(IpvlanMode::L3),
                2 => Some(IpvlanMode::L3s),
                _ => None,
            });
        }
    }
    Ok(None)
}

/// All links of the socket's namespace.
pub(crate) fn list(exchange: &mut Exchange) -> Result<Vec<Link>, ExchangeError> {
    let mut links = Vec::new();
    exchange.dump(dump(), |frame| {
        links.push(parse(frame.payload)?);
        Ok(())
    })?;
    Ok(links)
}

/// The link of that name.
pub(crate) fn find(exchange: &mut Exchange, name: &str) -> Result<Link, ExchangeError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Ok(parse(&exchange.ask(RouteNetlinkMessage::GetLink(message))?)?)
}

/// Makes a link with its final name; in another namespace when a descriptor of one is given, so that it never has to be
/// moved: a move waits for all readers of the kernel's tables, which costs a hundred times as much.
pub(crate) fn create(
    name: &str,
    intent: &LinkIntent,
    master: u32,
    tx_queue_len: Option<u32>,
    target: Option<std::os::fd::RawFd>,
) -> Request {
    let message = match intent.kind {
        LinkKindIntent::Macvlan(mode) => {
            let link = LinkMacVlan::new(name, master, macvlan_mode(mode));
            with_properties(link, intent, tx_queue_len, target)
        }
        LinkKindIntent::Ipvlan(mode) => {
            let mode = InfoIpVlan::Mode(ipvlan_mode(mode));
            let link = LinkMessageBuilder::<LinkIpVlan>::new(name).link(master).append_info_data(mode);
            with_properties(link, intent, tx_queue_len, target)
        }
    };
    Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

fn with_properties<T>(
    mut link: LinkMessageBuilder<T>,
    intent: &LinkIntent,
    tx_queue_len: Option<u32>,
    target: Option<std::os::fd::RawFd>,
) -> LinkMessage {
    // A link that shares its uplink's takes none when it is made.
    if let Some(mac) = intent.mac.filter(|_| !intent.kind.shares_mac()) {
        link = link.address(mac.0.to_vec());
    }
    if let Some(mtu) = intent.mtu {
        link = link.mtu(mtu);
    }
    if let Some(length) = tx_queue_len {
        link = link.txqueuelen(length);
    }
    if let Some(descriptor) = target {
        link = link.setns_by_fd(descriptor);
    }
    link.build()
}

fn ipvlan_mode(mode: IpvlanMode) -> IpVlanMode {
    match mode {
        IpvlanMode::L2 => IpVlanMode::L2,
        IpvlanMode::L3 => IpVlanMode::L3,
        IpvlanMode::L3s => IpVlanMode::L3S,
    }
}

/// Makes a veth pair: this end in the namespace of the descriptor, the other in the socket's own.
pub(crate) fn create_pair(
    name: &str,
    pair: &PairIntent,
    tx_queue_len: Option<u32>,
    target: std::os::fd::RawFd,
) -> Request {
    let end = |name: &str, mac: Mac| {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        message.attributes.push(LinkAttribute::Mtu(pair.mtu));
        message
    };
    let mut message = end(name, pair.mac);
    if let Some(length) = tx_queue_len {
        message.attributes.push(LinkAttribute::TxQueueLen(length));
    }
    message.attributes.push(LinkAttribute::NetNsFd(target));
    let peer = InfoData::Veth(InfoVeth::Peer(end(&pair.peer, pair.peer_mac)));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(peer)]));
    Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

fn macvlan_mode(mode: MacvlanMode) -> MacVlanMode {
    match mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
    }
}

/// Changes a link's attributes.
pub(crate) fn set(index: u32, attributes: Vec<LinkAttribute>) -> Request {
    let mut message = LinkUnspec::new_with_index(index).build();
    message.attributes = attributes;
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Gives a link another mode.
#[cfg(feature = "testbed")]
pub(crate) fn set_mode(index: u32, kind: &LinkKindIntent) -> Request {
    let mut message = match kind {
        LinkKindIntent::Macvlan(mode) => LinkMacVlan::new("", 0, macvlan_mode(*mode)).build(),
        LinkKindIntent::Ipvlan(mode) => {
            let mode = InfoIpVlan::Mode(ipvlan_mode(*mode));
            LinkMessageBuilder::<LinkIpVlan>::new("").append_info_data(mode).build()
        }
    };
    message.header.index = index;
    message.attributes.retain(|attribute| matches!(attribute, LinkAttribute::LinkInfo(_)));
    Request { message: RouteNetlinkMessage::NewLink(message), flags: 0 }
}

/// Sets a link up or down.
pub(crate) fn set_state(index: u32, state: State) -> Request {
    let link = LinkUnspec::new_with_index(index);
    let link = match state {
        State::Up => link.up(),
        State::Down => link.down(),
    };
    Request { message: RouteNetlinkMessage::SetLink(link.build()), flags: 0 }
}

/// The administrative state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Up,
    Down,
}

/// Deletes a link.
pub(crate) fn delete(index: u32) -> Request {
    let message = LinkUnspec::new_with_index(index).build();
    Request { message: RouteNetlinkMessage::DelLink(message), flags: 0 }
}
