//! One namespace, whole or an error: never a smaller world.
//!
//! One dump at a time, each kind by its own file. A dump that the kernel marks as interrupted, a message that cannot be
//! read, or an object of a link that came after the links were listed: all of it is thrown away and asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use plan::object::{Link, Observed, Route};
use plan::tables::{MAIN, PROTOCOL};

use crate::attributes::{Malformed, V4, V6};
use crate::exchange::{Exchange, ExchangeError};
use crate::namespace::NamespaceError;
use crate::route::Filter;
use crate::{address, link, neighbour, route, rule};

/// A busy node changes while it is read; one that changes every time is not settled, and will be looked at again.
const ATTEMPTS: usize = 8;

/// Why a namespace was not observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The kernel did not give a whole dump.
    #[error("observing {kind}: {source}")]
    Dump {
        /// Of what.
        kind: &'static str,
        /// Why.
        source: ExchangeError,
    },
    /// The namespace could not be entered for its sysctls.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A sysctl could not be read.
    #[error("reading sysctl {path}: {source}")]
    Sysctl {
        /// Its path below /proc/sys.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl ObserveError {
    fn is_passing(&self) -> bool {
        matches!(self, Self::Dump { source: ExchangeError::Interrupted | ExchangeError::Malformed(_), .. })
    }

    /// Whether trying again may help without anybody doing something.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Dump { .. } => true,
            Self::Namespace(error) => error.is_retryable(),
            Self::Sysctl { .. } => false,
        }
    }
}

/// Names by index.
#[derive(Debug, Default)]
pub(crate) struct LinkNames(BTreeMap<u32, String>);

impl LinkNames {
    pub(crate) fn of(links: &[Link]) -> Self {
        Self(links.iter().map(|link| (link.index, link.name.clone())).collect())
    }

    pub(crate) fn name(&self, index: u32) -> Result<String, Malformed> {
        self.0.get(&index).cloned().ok_or(Malformed::UnknownLink(index))
    }
}

/// Which routes to observe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RouteScope {
    /// All but those of table local.
    All,
    /// Those of table main and of these tables, and our own wherever they are.
    Node(BTreeSet<u32>),
}

/// Everything but sysctls.
pub(crate) fn observe(exchange: &mut Exchange, scope: &RouteScope) -> Result<Observed, ObserveError> {
    let mut attempt = 1;
    loop {
        match observe_once(exchange, scope) {
            Err(error) if error.is_passing() && attempt < ATTEMPTS => {
                tracing::debug!(%error, attempt, "observing again");
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

fn observe_once(exchange: &mut Exchange, scope: &RouteScope) -> Result<Observed, ObserveError> {
    let links = link::list(exchange).map_err(|source| ObserveError::Dump { kind: "links", source })?;
    let names = LinkNames::of(&links);
    let addresses = dump(exchange, "addresses", address::dump(), |payload| address::parse(payload, &names))?;
    let routes = observe_routes(exchange, scope, &names)?;
    let mut rules = dump(exchange, "rules", rule::dump(), rule::parse)?;
    // Stable: rules of one priority stay in the kernel's order.
    rules.sort_by_key(|rule| (rule.v6, rule.priority));
    let neighbours = dump(exchange, "neighbours", neighbour::dump(), |payload| neighbour::parse(payload, &names))?;
    Ok(Observed { links, addresses, routes, rules, neighbours, sysctls: BTreeMap::new(), filter: None })
}

/// Routes in the kernel's order: of one destination, the first match first.
fn observe_routes(exchange: &mut Exchange, scope: &RouteScope, names: &LinkNames) -> Result<Vec<Route>, ObserveError> {
    let mut routes = Vec::new();
    for family in [V4, V6] {
        let all = Filter { family, table: None, protocol: None };
        match scope {
            RouteScope::All => routes.extend(dump_routes(exchange, all, names)?),
            RouteScope::Node(tables) => {
                let whole: BTreeSet<u32> = tables.iter().copied().chain([MAIN]).collect();
                for table in &whole {
                    routes.extend(dump_routes(exchange, Filter { table: Some(*table), ..all }, names)?);
                }
                let ours = dump_routes(exchange, Filter { protocol: Some(PROTOCOL), ..all }, names)?;
                routes.extend(ours.into_iter().filter(|route| !whole.contains(&route.table)));
            }
        }
    }
    Ok(routes)
}

fn dump_routes(exchange: &mut Exchange, filter: Filter, names: &LinkNames) -> Result<Vec<Route>, ObserveError> {
    let dumped = dump(exchange, "routes", route::dump(filter), |payload| {
        let mut routes = route::parse(payload, names)?;
        routes.retain(|route| filter.takes(route));
        Ok(routes)
    });
    match dumped {
        // A table that no route was ever put into does not exist.
        Err(ObserveError::Dump { source: ExchangeError::Refused { errno: Errno::ENOENT, .. }, .. })
            if filter.table.is_some() =>
        {
            Ok(Vec::new())
        }
        dumped => dumped,
    }
}

fn dump<T, S: IntoIterator<Item = T>>(
    exchange: &mut Exchange,
    kind: &'static str,
    request: RouteNetlinkMessage,
    parse: impl Fn(&[u8]) -> Result<S, Malformed>,
) -> Result<Vec<T>, ObserveError> {
    let mut objects = Vec::new();
    exchange
        .dump(request, |frame| {
            objects.extend(parse(frame.payload)?);
            Ok(())
        })
        .map_err(|source| ObserveError::Dump { kind, source })?;
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(payload: Vec<u8>) {
            let names = LinkNames::default();
            let _ = link::parse(&payload);
            let _ = address::parse(&payload, &names);
            let _ = route::parse(&payload, &names);
            let _ = rule::parse(&payload);
            let _ = neighbour::parse(&payload, &names);
        }

        #[test]
        fn no_attributes_panic(
            header in prop::collection::vec(any::<u8>(), 16),
            v4: bool,
            attributes in prop::collection::vec((0u16..40, prop::collection::vec(any::<u8>(), 0..20)), 0..12),
        ) {
            let mut bytes = Vec::new();
            for (kind, value) in attributes {
                bytes.extend((4 + value.len() as u16).to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(&value);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            let mut header = header;
            header[0] = if v4 { V4 } else { V6 };
            let names = LinkNames((0..4).map(|index| (index, format!("eth{index}"))).collect());
            let with = |length: usize| [&header[..length], &bytes[..]].concat();
            let _ = link::parse(&with(16));
            let _ = address::parse(&with(8), &names);
            let _ = route::parse(&with(12), &names);
            let _ = rule::parse(&with(12));
            let _ = neighbour::parse(&with(12), &names);
        }
    }
}
