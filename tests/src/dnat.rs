//! A service in one DNAT rule: what kube-proxy would have put on the node.
//!
//! As `nft` would say it, which need not be installed:
//!
//! ```text
//! table inet services {
//!     chain prerouting {
//!         type nat hook prerouting priority -100;
//!         ip daddr 10.233.0.3 dnat ip to 10.233.73.195
//!     }
//! }
//! ```
//!
//! The port stays as it is. Replies are translated back by connection tracking.

use std::io;
use std::net::IpAddr;

use netlink::testbed::{Netns, TestbedError};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, Immediate, InetHookNumber, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

const TABLE: &str = "services";
const CHAIN: &str = "prerouting";
/// `NF_IP_PRI_NAT_DST`.
const PRIORITY: i32 = -100;
/// `NFNL_SUBSYS_NFTABLES`, to which a batch is addressed.
const NFTABLES: u16 = 10;
/// `NFT_PAYLOAD_NETWORK_HEADER`, and where the headers of both families have their destination.
const NETWORK_HEADER: u32 = 1;
const DESTINATION: (u32, u32) = (16, 4);
const DESTINATION_V6: (u32, u32) = (24, 16);

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
pub enum DnatError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] TestbedError),
    /// The kernel refused; without the modules nf_tables and nft_chain_nat it cannot do it.
    #[error("the DNAT rule for {service} was refused (the kernel needs nf_tables and nft_chain_nat): {source}")]
    Refused {
        /// The service's address.
        service: IpAddr,
        /// The system's word.
        source: io::Error,
    },
}

/// What the namespace forwards to `service` goes to `backend`, whatever the port.
/// Both are of one family.
pub fn redirect(netns: &Netns, service: impl Into<IpAddr>, backend: impl Into<IpAddr>) -> Result<(), DnatError> {
    let (service, backend) = (service.into(), backend.into());
    netns.run(|| send(&batch(service, backend)))?.map_err(|source| DnatError::Refused { service, source })
}

/// Sends a batch and reads the acknowledgement of each message that asks for one.
fn send(batch: &[NetlinkMessage<NetfilterMessage>]) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    let mut bytes = Vec::new();
    for message in batch {
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
    }
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut awaited = batch.iter().filter(|message| message.header.flags & NLM_F_ACK != 0).count();
    while awaited > 0 {
        let (answers, _) = socket.recv_from_full()?;
        let mut rest = answers.as_slice();
        while let Ok(answer) = NetlinkBuffer::new_checked(rest) {
            let length = answer.length() as usize;
            match NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) => awaited = awaited.saturating_sub(1),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(())
}

fn batch(service: IpAddr, backend: IpAddr) -> Vec<NetlinkMessage<NetfilterMessage>> {
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
    let chain = ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.into()),
            ChainAttribute::Name(CHAIN.into()),
            ChainAttribute::Hook(vec![
                Hook::Number(InetHookNumber::PreRouting.into()),
                Hook::Priority(PRIORITY.cast_unsigned()),
            ]),
            ChainAttribute::Type("nat".into()),
        ],
    };
    let rule = RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.into()),
            RuleAttribute::Chain(CHAIN.into()),
            RuleAttribute::Expressions(translation(service, backend).into_iter().map(Into::into).collect()),
        ],
    };
    let mut batch = vec![
        message(NetfilterProtoFamily::Unspec, NFTABLES, NLM_F_REQUEST, ControlMessage::BatchBegin),
        change(NfTablesMessage::NewTable(table)),
        change(NfTablesMessage::NewChain(chain)),
        change(NfTablesMessage::NewRule(rule)),
        message(NetfilterProtoFamily::Unspec, NFTABLES, NLM_F_REQUEST, ControlMessage::BatchEnd),
    ];
    for (number, message) in (1..).zip(&mut batch) {
        message.header.sequence_number = number;
        message.finalize();
    }
    batch
}

/// `ip daddr SERVICE dnat to BACKEND`.
fn translation(service: IpAddr, backend: IpAddr) -> [Expressions; 6] {
    // NFPROTO_IPV4 or NFPROTO_IPV6.
    let (family, destination) = if service.is_ipv4() { (2_u8, DESTINATION) } else { (10, DESTINATION_V6) };
    // NFTA_NAT_TYPE, NFTA_NAT_FAMILY, NFTA_NAT_REG_ADDR_MIN: DNAT (1), the family, register 1.
    let nat = [(1, 1u32), (2, family.into()), (3, 1)];
    [
        Expressions::Meta(vec![Meta::Key(MetaKey::Nfproto), Meta::DestinationRegister(Register::Reg1)]),
        Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(vec![family])),
        ]),
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(destination.0),
            Payload::Len(destination.1),
        ]),
        Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(octets(service))),
        ]),
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Reg1),
            Immediate::Data(DataAttribute::Value(octets(backend))),
        ]),
        Expressions::Other {
            expression_type: "nat".into(),
            attributes: nat.map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec())).to_vec(),
        },
    ]
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn change(inner: NfTablesMessage) -> NetlinkMessage<NetfilterMessage> {
    message(NetfilterProtoFamily::Inet, 0, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND, inner)
}

fn message(
    family: NetfilterProtoFamily,
    resource: u16,
    flags: u16,
    inner: impl Into<NetfilterMessageInner>,
) -> NetlinkMessage<NetfilterMessage> {
    let mut message =
        NetlinkMessage::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), inner.into()));
    message.header.flags = flags;
    message
}
