//! Steps into messages, and answers into outcomes. Nothing is decided here but the wire format: what is already done
//! counts as done, what is already gone as gone.
//!
//! Steps are done in their order. Those that need nothing from each other's answers go out in one send; adding and
//! removing are separate sends, because of the one rule that protects a working path: **when a step fails, steps that do
//! not depend on it go on, and a removal that the failed step was to replace is withheld** (see [`depends_on`]).

use std::collections::BTreeMap;
use std::io;

use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;
use plan::desired::{DesiredLink, LinkOrigin, PairIntent};
use plan::object::{Link, LinkKind};
use plan::ownership;
use plan::step::Step;

use crate::exchange::{ExchangeError, Request};
use crate::link::State;
use crate::namespace::NamespaceError;
use crate::pass::Pass;
use crate::{address, link, neighbour, route, rule, sysctl};

/// Why a step was not done. The step's own text says what it was; this says why not.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The kernel refused, or could not be asked.
    #[error(transparent)]
    Kernel(#[from] ExchangeError),
    /// The link is not there.
    #[error("there is no link {dev} in {place}")]
    NoLink {
        /// Its name.
        dev: String,
        /// Where.
        place: String,
    },
    /// The uplink is not there.
    #[error("there is no uplink {master} in {place} to make {dev} on: set `master` to a link that exists")]
    NoMaster {
        /// The uplink's name.
        master: String,
        /// The link to be made.
        dev: String,
        /// Where the uplink was looked for.
        place: String,
    },
    /// Another link has the name.
    #[error("{place} already has another link named {dev} ({found}): remove or rename it")]
    NameTaken {
        /// The name.
        dev: String,
        /// Where.
        place: String,
        /// What it is.
        found: String,
    },
    /// The link has another name by now.
    #[error("link {index} is named {found} by now, not {dev}: it is left alone")]
    Renamed {
        /// Its index.
        index: u32,
        /// The name it had.
        dev: String,
        /// The name it has.
        found: String,
    },
    /// The step asks for what is never done.
    #[error("{0}")]
    NeverDone(&'static str),
    /// A bond's option cannot be set.
    #[error("bond option: {0}")]
    Option(String),
    /// A sysctl could not be written.
    #[error("writing sysctl {path}: {source}")]
    Sysctl {
        /// Its path below /proc/sys.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// What was to take its place failed.
    #[error("withheld, because what takes its place could not be put there")]
    Withheld,
}

impl StepError {
    /// Whether trying again may help without anybody doing something.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Kernel(_) | Self::Renamed { .. } | Self::NoLink { .. } | Self::Withheld => true,
            Self::Namespace(error) => error.is_retryable(),
            Self::NoMaster { .. }
            | Self::NameTaken { .. }
            | Self::NeverDone(_)
            | Self::Option(_)
            | Self::Sysctl { .. } => false,
        }
    }
}

/// What happens to a step's neighbours in the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Adds or sets; goes out with others of its kind.
    Adding,
    /// Removes; goes out with others of its kind.
    Removing,
    /// Changes which links there are or enters the namespace: alone.
    Alone,
}

fn kind(step: &Step) -> Kind {
    match step {
        Step::SetLinkAlias { .. }
        | Step::SetLinkMtu { .. }
        | Step::SetLinkMac { .. }
        | Step::SetLinkQueue { .. }
        | Step::SetLinkUp { .. }
        | Step::AddAddress(_)
        | Step::AddRoute(..)
        | Step::AddRule(_)
        | Step::SetNeighbour(_) => Kind::Adding,
        Step::DeleteAddress(_) | Step::DeleteRoute(_) | Step::DeleteRule(_) | Step::DeleteNeighbour(_) => {
            Kind::Removing
        }
        Step::CreateLink(_)
        | Step::RenameLink { .. }
        | Step::DeleteLink { .. }
        | Step::EnslaveLink { .. }
        | Step::SetBond { .. }
        | Step::SetSysctl { .. }
        | Step::SetFilter(_)
        | Step::DeleteFilter => Kind::Alone,
    }
}

/// Whether the removal would cut a path that the failed step was to keep: a route whose destination the failed route or
/// rule was to lead on, a rule whose selectors the failed one has. A failed rule by source may be for any destination.
fn depends_on(removal: &Step, failed: &Step) -> bool {
    match (removal, failed) {
        (Step::DeleteRoute(old), Step::AddRoute(new, _)) => old.dst == new.dst,
        (Step::DeleteRoute(old), Step::AddRule(new)) => {
            old.dst.is_ipv6() == new.v6 && new.to.is_none_or(|to| to == old.dst)
        }
        (Step::DeleteRule(old), Step::AddRule(new)) => (old.v6, old.from, old.to) == (new.v6, new.from, new.to),
        (Step::DeleteRule(old), Step::AddRoute(new, _)) => old.to == Some(new.dst),
        _ => false,
    }
}

impl Pass {
    /// Does the steps; the outcomes stand in the steps' order. Doing them again changes nothing.
    pub fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        let mut outcomes = Vec::with_capacity(steps.len());
        let mut links: Option<Links> = None;
        for group in steps.chunk_by(|a, b| kind(a) != Kind::Alone && kind(a) == kind(b)) {
            if let [step] = group
                && kind(step) == Kind::Alone
            {
                outcomes.push(self.apply_alone(step));
                if !matches!(step, Step::SetSysctl { .. } | Step::SetFilter(_) | Step::DeleteFilter) {
                    links = None;
                }
                continue;
            }
            let known = match links.take().map_or_else(|| self.links(), Ok) {
                Ok(known) => known,
                Err(error) => {
                    outcomes.extend(group.iter().map(|_| Err(StepError::Kernel(error.clone()))));
                    continue;
                }
            };
            let failed: Vec<&Step> =
                steps.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_err()).map(|(step, _)| step).collect();
            let applied = self.apply_group(group, &failed, &known);
            outcomes.extend(applied);
            links = Some(known);
        }
        outcomes
    }

    pub(crate) fn links(&mut self) -> Result<Links, ExchangeError> {
        let mut last = ExchangeError::Interrupted;
        for _ in 0..8 {
            match link::list(self.exchange()) {
                Ok(links) => return Ok(links.into_iter().map(|link| (link.name.clone(), link)).collect()),
                Err(error @ (ExchangeError::Interrupted | ExchangeError::Malformed(_))) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Steps of one kind, in one send.
    fn apply_group(&mut self, group: &[Step], failed: &[&Step], links: &Links) -> Vec<Result<(), StepError>> {
        let mut requests = Vec::new();
        let prepared: Vec<Result<Prepared, StepError>> = group
            .iter()
            .map(|step| {
                if failed.iter().any(|failed| depends_on(step, failed)) {
                    return Err(StepError::Withheld);
                }
                let prepared = prepare(step, links, self.place())?;
                Ok(match prepared {
                    Some(request) => {
                        requests.push(request);
                        Prepared::Sent
                    }
                    None => Prepared::Gone,
                })
            })
            .collect();
        let mut answers = self.change(requests).into_iter();
        let outcome = |(step, prepared)| match prepared {
            Err(error) => Err(error),
            Ok(Prepared::Gone) => Ok(()),
            Ok(Prepared::Sent) => match answers.next() {
                Some(Err(error)) if error.errno().is_some_and(|errno| is_done(step, errno)) => Ok(()),
                Some(answer) => answer.map_err(StepError::from),
                None => Err(ExchangeError::Timeout.into()),
            },
        };
        group.iter().zip(prepared).map(outcome).collect()
    }

    fn apply_alone(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::CreateLink(link) => match &link.origin {
                LinkOrigin::Uplink(kind) => self.create_uplink(&link.name, kind),
                LinkOrigin::Made { .. }
                | LinkOrigin::Pair { .. }
                | LinkOrigin::PairEnd { .. }
                | LinkOrigin::Found(_) => self.create_link(link),
            },
            Step::EnslaveLink { dev, bond } => self.enslave(dev, bond),
            Step::SetBond { dev, options } => self.set_bond(dev, options),
            Step::RenameLink { index, from, to } => self.rename_link(*index, from, to),
            Step::DeleteLink { dev, index } => self.delete_link(dev, *index),
            Step::SetSysctl { path, value } => self.set_sysctl(path, value),
            Step::SetFilter(table) => Ok(self.change_filter(Some(table))?),
            Step::DeleteFilter => Ok(self.change_filter(None)?),
            _ => Err(StepError::NeverDone("this step is never done alone")),
        }
    }

    fn create_link(&mut self, wanted: &DesiredLink) -> Result<(), StepError> {
        let (intent, alias) = match &wanted.origin {
            LinkOrigin::Made { intent, alias } => (intent, alias),
            LinkOrigin::Pair { pair, alias } => return self.create_pair(wanted, pair, alias),
            LinkOrigin::PairEnd { .. } => {
                return Err(StepError::NeverDone("the node's end of a pair is made together with the pod's"));
            }
            LinkOrigin::Found(_) | LinkOrigin::Uplink(_) => {
                return Err(StepError::NeverDone("a link of another plugin is never made by dragline"));
            }
        };
        let made = if intent.master_in_container {
            let place = self.place().to_owned();
            let master = find_master(link::find(self.exchange(), intent.master.as_str()), wanted, intent, &place)?;
            let request = link::create(&wanted.name, intent, master, wanted.tx_queue_len, None);
            self.kernel().count_changes(1);
            self.exchange().change(vec![request]).pop()
        } else {
            let descriptor = self.descriptor();
            self.kernel().with_node_socket(|exchange| {
                let master = find_master(link::find(exchange, intent.master.as_str()), wanted, intent, "the node")?;
                let request = link::create(&wanted.name, intent, master, wanted.tx_queue_len, descriptor);
                self.kernel().count_changes(1);
                Ok::<_, StepError>(exchange.change(vec![request]).pop())
            })?
        };
        match made {
            Some(Err(error)) if error.errno() != Some(Errno::EEXIST) => return Err(error.into()),
            _ => {}
        }
        let found = link::find(self.exchange(), &wanted.name)?;
        if !found.kind.is(&intent.kind) || !ownership::is_as_made(&found, intent) {
            return Err(StepError::NameTaken {
                dev: wanted.name.clone(),
                place: self.place().to_owned(),
                found: text_of(&found),
            });
        }
        self.mark(&found, alias)
    }

    /// Both ends; the node's end is marked and set up by the node's own pass.
    fn create_pair(&mut self, wanted: &DesiredLink, pair: &PairIntent, alias: &str) -> Result<(), StepError> {
        let Some(descriptor) = self.descriptor() else {
            return Err(StepError::NeverDone("a pair is never made with both ends on the node"));
        };
        self.kernel().count_changes(1);
        let request = link::create_pair(&wanted.name, pair, wanted.tx_queue_len, descriptor);
        let made = self.kernel().with_node_socket(|exchange| exchange.change(vec![request]).pop());
        let is_taken = match made {
            Some(Err(error)) if error.errno() == Some(Errno::EEXIST) => true,
            Some(Err(error)) => return Err(error.into()),
            _ => false,
        };
        let is_ours = |link: &Link| link.kind == LinkKind::Veth && link.mac == Some(pair.mac);
        match link::find(self.exchange(), &wanted.name) {
            Ok(found) if is_ours(&found) => self.mark(&found, alias),
            Ok(found) => Err(StepError::NameTaken {
                dev: wanted.name.clone(),
                place: self.place().to_owned(),
                found: text_of(&found),
            }),
            // The name was free here, so it was the other end's that was not.
            Err(error) if is_taken && error.errno() == Some(Errno::ENODEV) => Err(StepError::NameTaken {
                dev: pair.peer.clone(),
                place: "the node".to_owned(),
                found: "not the end of this pair".to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn mark(&mut self, found: &Link, alias: &str) -> Result<(), StepError> {
        if found.alias.as_deref() == Some(alias) {
            return Ok(());
        }
        self.change_one(link::set(found.index, vec![LinkAttribute::IfAlias(alias.to_owned())]))
    }

    fn rename_link(&mut self, index: u32, from: &str, to: &str) -> Result<(), StepError> {
        let links = self.links()?;
        let Some(link) = links.values().find(|link| link.index == index) else {
            return Err(StepError::NoLink { dev: from.to_owned(), place: self.place().to_owned() });
        };
        if link.name == to {
            return Ok(());
        }
        if let Some(other) = links.get(to) {
            let found = format!("{:?}, index {}", other.kind, other.index);
            return Err(StepError::NameTaken { dev: to.to_owned(), place: self.place().to_owned(), found });
        }
        let rename = || link::set(index, vec![LinkAttribute::IfName(to.to_owned())]);
        match self.change_one(rename()) {
            // Older kernels rename no link that is up. Down, it loses its routes: they are seen missing on verifying.
            Err(StepError::Kernel(ExchangeError::Refused { errno: Errno::EBUSY, .. })) => {
                let sequence = [link::set_state(index, State::Down), rename(), link::set_state(index, State::Up)];
                let answers: Result<(), ExchangeError> = self.change(sequence.into()).into_iter().collect();
                Ok(answers?)
            }
            outcome => outcome,
        }
    }

    fn delete_link(&mut self, dev: &str, index: u32) -> Result<(), StepError> {
        let links = self.links()?;
        match links.values().find(|link| link.index == index) {
            None => Ok(()),
            Some(link) if link.name != dev => {
                Err(StepError::Renamed { index, dev: dev.to_owned(), found: link.name.clone() })
            }
            Some(_) => match self.change_one(link::delete(index)) {
                Err(StepError::Kernel(ExchangeError::Refused { errno: Errno::ENODEV, .. })) => Ok(()),
                outcome => outcome,
            },
        }
    }

    fn set_sysctl(&mut self, path: &str, value: &str) -> Result<(), StepError> {
        self.kernel().count_changes(1);
        let (file, content) = (path.to_owned(), value.to_owned());
        let written = self.inside(move || sysctl::write(&file, &content))?;
        written.map_err(|source| StepError::Sysctl { path: path.to_owned(), source })
    }

    pub(crate) fn change(&mut self, requests: Vec<Request>) -> Vec<Result<(), ExchangeError>> {
        self.kernel().count_changes(requests.len());
        self.exchange().change(requests)
    }

    pub(crate) fn change_one(&mut self, request: Request) -> Result<(), StepError> {
        let answers: Result<(), ExchangeError> = self.change(vec![request]).into_iter().collect();
        Ok(answers?)
    }
}

pub(crate) type Links = BTreeMap<String, Link>;

enum Prepared {
    Sent,
    /// The link is not there, so nothing on it is.
    Gone,
}

/// The step's message; None when what it removes went with its link.
fn prepare(step: &Step, links: &Links, place: &str) -> Result<Option<Request>, StepError> {
    let index = |dev: &String| {
        let missing = || StepError::NoLink { dev: dev.clone(), place: place.to_owned() };
        links.get(dev).map(|link| link.index).ok_or_else(missing)
    };
    let present = |dev: &String| links.get(dev).map(|link| link.index);
    Ok(match step {
        Step::SetLinkAlias { dev, alias } => Some(link::set(index(dev)?, vec![LinkAttribute::IfAlias(alias.clone())])),
        Step::SetLinkMtu { dev, mtu } => Some(link::set(index(dev)?, vec![LinkAttribute::Mtu(*mtu)])),
        Step::SetLinkMac { dev, mac } => Some(link::set(index(dev)?, vec![LinkAttribute::Address(mac.0.to_vec())])),
        Step::SetLinkQueue { dev, length } => Some(link::set(index(dev)?, vec![LinkAttribute::TxQueueLen(*length)])),
        Step::SetLinkUp { dev } => Some(link::set_state(index(dev)?, State::Up)),
        Step::AddAddress(wanted) => Some(address::add(wanted, index(&wanted.dev)?)),
        Step::AddRoute(wanted, placement) => {
            Some(route::add(wanted, wanted.dev.as_ref().map(index).transpose()?, *placement))
        }
        Step::AddRule(wanted) => {
            if wanted.other.is_some() {
                return Err(StepError::NeverDone("a rule with other selectors or actions is never made by dragline"));
            }
            Some(rule::add(wanted))
        }
        Step::SetNeighbour(wanted) => Some(neighbour::set(wanted, index(&wanted.dev)?)),
        Step::DeleteAddress(old) => present(&old.dev).map(|index| address::delete(old, index)),
        Step::DeleteRoute(old) => match &old.dev {
            Some(dev) => present(dev).map(|index| route::delete(old, Some(index))),
            None => Some(route::delete(old, None)),
        },
        Step::DeleteRule(old) => {
            if old.other.is_some() {
                return Err(StepError::NeverDone(
                    "a rule with other selectors or actions is never deleted by dragline",
                ));
            }
            Some(rule::delete(old))
        }
        Step::DeleteNeighbour(old) => present(&old.dev).map(|index| neighbour::delete(old, index)),
        Step::CreateLink(_)
        | Step::RenameLink { .. }
        | Step::DeleteLink { .. }
        | Step::EnslaveLink { .. }
        | Step::SetBond { .. }
        | Step::SetSysctl { .. }
        | Step::SetFilter(_)
        | Step::DeleteFilter => None,
    })
}

/// Whether a refusal says that the step is already done.
fn is_done(step: &Step, errno: Errno) -> bool {
    match step {
        Step::AddAddress(_) | Step::AddRoute(..) | Step::AddRule(_) => errno == Errno::EEXIST,
        Step::DeleteAddress(_) => matches!(errno, Errno::EADDRNOTAVAIL | Errno::ENODEV),
        Step::DeleteRoute(_) => matches!(errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV),
        Step::DeleteRule(_) | Step::DeleteNeighbour(_) => matches!(errno, Errno::ENOENT | Errno::ENODEV),
        Step::SetLinkAlias { .. }
        | Step::SetLinkMtu { .. }
        | Step::SetLinkMac { .. }
        | Step::EnslaveLink { .. }
        | Step::SetBond { .. }
        | Step::SetLinkQueue { .. }
        | Step::SetLinkUp { .. }
        | Step::SetNeighbour(_)
        | Step::CreateLink(_)
        | Step::RenameLink { .. }
        | Step::DeleteLink { .. }
        | Step::SetSysctl { .. }
        | Step::SetFilter(_)
        | Step::DeleteFilter => false,
    }
}

fn text_of(link: &Link) -> String {
    format!("{:?}{}", link.kind, link.mac.map_or_else(String::new, |mac| format!(", {mac}")))
}

fn find_master(
    found: Result<Link, ExchangeError>,
    wanted: &DesiredLink,
    intent: &schemas::intent::LinkIntent,
    place: &str,
) -> Result<u32, StepError> {
    match found {
        Ok(link) => Ok(link.index),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Err(StepError::NoMaster {
            master: intent.master.to_string(),
            dev: wanted.name.clone(),
            place: place.to_owned(),
        }),
        Err(error) => Err(error.into()),
    }
}
