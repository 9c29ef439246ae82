//! Our nftables table: read whole, written whole in one transaction.

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NetlinkDeserializable, NetlinkHeader, Nla};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, HookNumber,
    Immediate, InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Register, RuleAttribute,
    RuleMessage, SetAttribute, SetMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use nix::errno::Errno;
use plan::filter::{Expression, FilterChain, FilterRule, FilterTable, Key, TABLE};

use crate::attributes::Malformed;
use crate::exchange::{Exchange, ExchangeError, Request};

/// `NFNL_SUBSYS_NFTABLES`, to which a transaction is addressed.
const NFTABLES: u16 = 10;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFTA_CT_*`.
const CT_TO: u16 = 1;
const CT_KEY: u16 = 2;
const CT_FROM: u16 = 4;
/// `NFT_CT_*`.
const CT_STATE: u32 = 0;
const CT_MARK: u32 = 3;

fn message(inner: impl Into<NetfilterMessageInner>) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), inner)
}

fn control(inner: ControlMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES), inner)
}

/// The table of the socket's namespace; None when there is none.
pub(crate) fn observe(exchange: &mut Exchange) -> Result<Option<FilterTable>, ExchangeError> {
    let Some(is_there) = has_table(exchange)? else { return Ok(None) };
    if !is_there {
        return Ok(None);
    }
    let mut table = FilterTable::default();
    let chains = ChainMessage { attributes: vec![ChainAttribute::Table(TABLE.into())] };
    for chain in dump(exchange, NfTablesMessage::GetChain(chains))? {
        if let NfTablesMessage::NewChain(chain) = chain {
            table.chains.extend(read_chain(&chain.attributes));
        }
    }
    let rules = RuleMessage { attributes: vec![RuleAttribute::Table(TABLE.into())] };
    for rule in dump(exchange, NfTablesMessage::GetRule(rules))? {
        if let NfTablesMessage::NewRule(rule) = rule
            && let Some((chain, rule)) = read_rule(&rule.attributes)
            && let Some(chain) = table.chains.iter_mut().find(|known| known.name == chain)
        {
            chain.rules.push(rule);
        }
    }
    let sets = SetMessage { attributes: vec![SetAttribute::Table(TABLE.into())] };
    for set in dump(exchange, NfTablesMessage::GetSet(sets))? {
        if let NfTablesMessage::NewSet(set) = set {
            table.others.extend(read_set(&set.attributes));
        }
    }
    table.chains.sort_by(|a, b| a.name.cmp(&b.name));
    table.others.sort();
    Ok(Some(table))
}

/// Whether our table is there; None from a kernel that knows no nftables.
fn has_table(exchange: &mut Exchange) -> Result<Option<bool>, ExchangeError> {
    match dump(exchange, NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() })) {
        Ok(tables) => Ok(Some(tables.iter().any(|table| match table {
            NfTablesMessage::NewTable(table) => {
                table.attributes.iter().any(|it| matches!(it, TableAttribute::Name(name) if name == TABLE))
            }
            _ => false,
        }))),
        // What the kernel says of a subsystem, or of a family, that it does not have.
        Err(ExchangeError::Refused { errno: Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn dump(exchange: &mut Exchange, request: NfTablesMessage) -> Result<Vec<NfTablesMessage>, ExchangeError> {
    let mut found = Vec::new();
    exchange.dump(message(request), |frame| {
        let mut header = NetlinkHeader::default();
        header.message_type = frame.kind;
        let read = NetfilterMessage::deserialize(&header, frame.payload)
            .map_err(|_| Malformed::Bytes("an nftables message that cannot be read"))?;
        if let NetfilterMessageInner::NfTables(inner) = read.inner {
            found.push(inner);
        }
        Ok(())
    })?;
    Ok(found)
}

fn read_chain(attributes: &[ChainAttribute]) -> Option<FilterChain> {
    let mut chain = FilterChain {
        name: String::new(),
        kind: String::new(),
        hook: 0,
        priority: 0,
        accepts: true,
        rules: Vec::new(),
    };
    let mut table = None;
    for attribute in attributes {
        match attribute {
            ChainAttribute::Table(name) => table = Some(name),
            ChainAttribute::Name(name) => chain.name.clone_from(name),
            ChainAttribute::Type(kind) => chain.kind.clone_from(kind),
            ChainAttribute::Policy(policy) => chain.accepts = *policy == ACCEPT,
            ChainAttribute::Hook(hook) => {
                for part in hook {
                    match part {
                        Hook::Number(number) => chain.hook = u32::from(*number),
                        Hook::Priority(priority) => chain.priority = priority.cast_signed(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (table.map(String::as_str) == Some(TABLE)).then_some(chain)
}

fn read_set(attributes: &[SetAttribute]) -> Option<String> {
    let (mut table, mut name) = (None, None);
    for attribute in attributes {
        match attribute {
            SetAttribute::Table(found) => table = Some(found.as_str()),
            SetAttribute::Name(found) => name = Some(found),
            _ => {}
        }
    }
    name.filter(|_| table == Some(TABLE)).map(|name| format!("set {name}"))
}

fn read_rule(attributes: &[RuleAttribute]) -> Option<(String, FilterRule)> {
    let (mut table, mut chain, mut expressions) = (None, None, Vec::new());
    for attribute in attributes {
        match attribute {
            RuleAttribute::Table(name) => table = Some(name.as_str()),
            RuleAttribute::Chain(name) => chain = Some(name.clone()),
            RuleAttribute::Expressions(list) => expressions = list.iter().map(read_expression).collect(),
            _ => {}
        }
    }
    chain.filter(|_| table == Some(TABLE)).map(|chain| (chain, FilterRule(expressions)))
}

/// What of an expression is ours to write; everything else as a text.
fn read_expression(element: &ListAttribute<ExpressionAttribute>) -> Expression {
    let parts = match element {
        ListAttribute::Element(parts) => parts.as_slice(),
        _ => &[],
    };
    let known = parts.iter().find_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Meta(meta)) => read_meta(meta),
        ExpressionAttribute::Data(Expressions::Cmp(cmp)) => read_comparison(cmp),
        ExpressionAttribute::Data(Expressions::Bitwise(bitwise)) => read_mask(bitwise),
        ExpressionAttribute::Data(Expressions::Immediate(immediate)) => read_number(immediate),
        ExpressionAttribute::Data(Expressions::Other { expression_type, attributes }) if expression_type == "ct" => {
            read_ct(attributes)
        }
        _ => None,
    });
    known.unwrap_or_else(|| Expression::Other(format!("{parts:?}")))
}

fn read_meta(attributes: &[Meta]) -> Option<Expression> {
    let key = |key: MetaKey| match key {
        MetaKey::Iifname => Some(Key::InputName),
        MetaKey::Mark => Some(Key::Mark),
        _ => None,
    };
    match attributes {
        [Meta::Key(of), Meta::DestinationRegister(Register::Reg1)]
        | [Meta::DestinationRegister(Register::Reg1), Meta::Key(of)] => Some(Expression::Load(key(*of)?)),
        [Meta::Key(of), Meta::SourceRegister(Register::Reg1)]
        | [Meta::SourceRegister(Register::Reg1), Meta::Key(of)] => Some(Expression::Store(key(*of)?)),
        _ => None,
    }
}

fn read_ct(attributes: &[DefaultNla]) -> Option<Expression> {
    let (mut key, mut to, mut from) = (None, None, None);
    for attribute in attributes {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        let number = u32::from_be_bytes(value.as_slice().try_into().ok()?);
        match attribute.kind() {
            CT_KEY if number == CT_STATE => key = Some(Key::ConnectionState),
            CT_KEY if number == CT_MARK => key = Some(Key::ConnectionMark),
            CT_TO => to = Some(number),
            CT_FROM => from = Some(number),
            // A direction, or another key.
            _ => return None,
        }
    }
    match (key?, to, from) {
        (key, Some(1), None) => Some(Expression::Load(key)),
        (key, None, Some(1)) => Some(Expression::Store(key)),
        _ => None,
    }
}

fn read_comparison(attributes: &[Cmp]) -> Option<Expression> {
    let (mut is_first, mut operator, mut value) = (false, None, None);
    for attribute in attributes {
        match attribute {
            Cmp::SourceRegister(register) => is_first = *register == Register::Reg1,
            Cmp::Op(found) => operator = Some(*found),
            Cmp::Data(DataAttribute::Value(found)) => value = Some(found.clone()),
            _ => return None,
        }
    }
    match (is_first, operator?) {
        (true, Operator::Equal) => Some(Expression::Equal(value?)),
        (true, Operator::NotEqual) => Some(Expression::Unequal(value?)),
        _ => None,
    }
}

fn read_mask(attributes: &[Bitwise]) -> Option<Expression> {
    let mut mask = None;
    for attribute in attributes {
        match attribute {
            Bitwise::SourceRegister(Register::Reg1)
            | Bitwise::DestinationRegister(Register::Reg1)
            | Bitwise::Length(4)
            | Bitwise::Op(0) => {}
            Bitwise::Mask(DataAttribute::Value(value)) => mask = Some(number_of(value)?),
            Bitwise::Xor(DataAttribute::Value(value)) if value.iter().all(|byte| *byte == 0) => {}
            _ => return None,
        }
    }
    mask.map(Expression::Mask)
}

fn read_number(attributes: &[Immediate]) -> Option<Expression> {
    let mut value = None;
    for attribute in attributes {
        match attribute {
            Immediate::DestinationRegister(Register::Reg1) => {}
            Immediate::Data(DataAttribute::Value(found)) => value = Some(number_of(found)?),
            _ => return None,
        }
    }
    value.map(Expression::Number)
}

fn number_of(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// Puts the table there in place of what has its name, or takes it away; all or nothing.
pub(crate) fn change(exchange: &mut Exchange, wanted: Option<&FilterTable>) -> Result<(), ExchangeError> {
    let is_there = has_table(exchange)?.unwrap_or(false);
    let table = || TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] };
    let request = |flags: u16, inner: NfTablesMessage| Request { message: message(inner), flags };
    let mut requests = Vec::new();
    if is_there {
        requests.push(request(0, NfTablesMessage::DeleteTable(table())));
    }
    if let Some(wanted) = wanted {
        requests.push(request(NLM_F_CREATE, NfTablesMessage::NewTable(table())));
        for chain in &wanted.chains {
            requests.push(request(NLM_F_CREATE, NfTablesMessage::NewChain(chain_message(chain))));
            requests.extend(chain.rules.iter().map(|rule| {
                request(NLM_F_CREATE | NLM_F_APPEND, NfTablesMessage::NewRule(rule_message(&chain.name, rule)))
            }));
        }
    }
    if requests.is_empty() {
        return Ok(());
    }
    exchange.transact(control(ControlMessage::BatchBegin), requests, control(ControlMessage::BatchEnd))
}

fn chain_message(chain: &FilterChain) -> ChainMessage {
    let mut attributes = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(chain.name.clone())];
    if !chain.kind.is_empty() {
        attributes.push(ChainAttribute::Hook(vec![
            Hook::Number(HookNumber::Inet(InetHookNumber::from(chain.hook))),
            Hook::Priority(chain.priority.cast_unsigned()),
        ]));
        attributes.push(ChainAttribute::Policy(if chain.accepts { ACCEPT } else { 0 }));
        attributes.push(ChainAttribute::Type(chain.kind.clone()));
    }
    ChainMessage { attributes }
}

fn rule_message(chain: &str, rule: &FilterRule) -> RuleMessage {
    let expressions = rule.0.iter().filter_map(write_expression).map(Into::into).collect();
    RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.into()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions),
        ],
    }
}

/// None for what is only ever observed.
fn write_expression(expression: &Expression) -> Option<Expressions> {
    let data = |value: &[u8]| DataAttribute::Value(value.to_vec());
    let compare = |operator, value: &[u8]| {
        Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), Cmp::Data(data(value))])
    };
    Some(match expression {
        Expression::Load(key) => write_key(*key, CT_TO, Meta::DestinationRegister(Register::Reg1)),
        Expression::Store(key) => write_key(*key, CT_FROM, Meta::SourceRegister(Register::Reg1)),
        Expression::Mask(mask) => Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(4),
            Bitwise::Mask(data(&mask.to_ne_bytes())),
            Bitwise::Xor(data(&[0; 4])),
        ]),
        Expression::Equal(value) => compare(Operator::Equal, value),
        Expression::Unequal(value) => compare(Operator::NotEqual, value),
        Expression::Number(number) => Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Reg1),
            Immediate::Data(data(&number.to_ne_bytes())),
        ]),
        Expression::Other(_) => return None,
    })
}

fn write_key(key: Key, ct_register: u16, register: Meta) -> Expressions {
    let of_connection = |number: u32| Expressions::Other {
        expression_type: "ct".into(),
        attributes: [(CT_KEY, number), (ct_register, 1)]
            .map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec()))
            .to_vec(),
    };
    match key {
        Key::InputName => Expressions::Meta(vec![Meta::Key(MetaKey::Iifname), register]),
        Key::Mark => Expressions::Meta(vec![Meta::Key(MetaKey::Mark), register]),
        Key::ConnectionState => of_connection(CT_STATE),
        Key::ConnectionMark => of_connection(CT_MARK),
    }
}
