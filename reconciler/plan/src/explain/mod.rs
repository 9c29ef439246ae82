//! Why a packet goes where it goes: the kernel's own lookup over what a pod holds, with the object behind each decision.
//!
//! ```text
//! Observed (or what is wanted) + Flow ──explain──▶ Explanation: rules asked, route, source, next hop, way back
//!                                        ▲
//! Context (what the plan was made of) ───┘ reasons
//! ```
//!
//! What the kernel decides by things that an observation lacks (marks that a firewall sets, neighbours that come and go,
//! next hops of IPv4 multipath routes) is said in [`Explanation::notes`].

mod answer;
mod arrival;
mod flow;
mod local;
mod lookup;
mod reason;
mod selectors;
mod source;
mod teller;
mod text;
mod wanted;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::object::Observed;
pub use answer::{Explanation, Fate, Hop, NextHop, ReturnPath, RuleStep, RuleVerdict, Source, Taken, Way};
pub use arrival::{Arrival, RpFilter, Verdict, sysctls};
pub use flow::{Flow, FlowError};
use local::TO_ALL;
use lookup::{Key, World};
pub use reason::{Context, Thing};
use teller::Teller;
pub(crate) use text::route as route_text;
pub use wanted::wanted;

/// What an explanation is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Basis {
    /// The kernel, as it was observed.
    Kernel,
    /// What is wanted: nobody looked at the kernel.
    Wanted,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The pod's name.
    pub pod: &'a str,
    /// Its namespace; [`sysctls`] says what else should be in it.
    pub seen: &'a Observed,
    /// Where that comes from.
    pub basis: Basis,
    /// What the plan was made of.
    pub context: Context<'a>,
    /// The packet.
    pub flow: &'a Flow,
}

/// Answers a question.
///
/// # Errors
/// When the packet cannot be one, or the pod has no such NIC.
pub fn explain(question: Question<'_>) -> Result<Explanation, FlowError> {
    let flow = question.flow;
    flow.check_in(question.seen)?;
    let world = World::of(question.seen);
    let teller = Teller { world: &world, context: &question.context };
    let mut notes = Vec::new();
    let (arrival, walk) = match (&flow.iif, flow.from) {
        (Some(nic), Some(from)) => {
            let (arrival, walk) = arrival::arrive(&world, flow.to, from, nic);
            (Some(teller.reasoned(arrival)), walk)
        }
        _ => (None, world.walk(Key { to: flow.to, from: flow.from, iif: None })),
    };
    notes.extend(walk.doubts.iter().cloned());
    let mut request = teller.way(&walk, flow.to);
    if let Some(why) = unsendable(&world, flow, &request) {
        request.fate = Fate::Refused;
        request.why = why;
    }
    if let (Some(_), Some(route)) = (&flow.iif, &mut request.route)
        && walk.route().is_some_and(|route| route.kind == TO_ALL)
    {
        request.fate = Fate::Stays;
        route.dev = Some("lo".to_owned());
    }
    let mut source = None;
    if flow.from.is_none()
        && request.fate != Fate::Refused
        && let Some(route) = walk.route()
    {
        let (address, why) = source::choose(question.seen, route, flow.to);
        let origin = address.and_then(|address| question.context.address(address));
        let why = origin.map_or(why.clone(), |origin| format!("{why}, {origin}"));
        source = Some(Source { address, why });
    }
    let own = flow.from.or(source.as_ref().and_then(|source| source.address));
    if flow.from.is_none()
        && let Some(own) = own.filter(|_| request.fate == Fate::Leaves)
    {
        notes.extend(teller.looked_up_again(flow.to, own, &request));
    }
    let return_path = match (&arrival, own) {
        _ if request.fate == Fate::Refused && arrival.is_none() => None,
        (Some(arrival), Some(from)) if arrival.verdict == Verdict::Delivered => {
            Some(teller.answer_to_arrival(arrival, from, flow.to, &mut notes))
        }
        (None, Some(own)) if request.fate == Fate::Leaves => teller.way_back(flow.to, own, &request, &mut notes),
        _ => None,
    };
    notes.dedup();
    let headline = headline(question.pod, flow, &request, own, arrival.as_ref());
    Ok(Explanation {
        pod: question.pod.to_owned(),
        flow: flow.clone(),
        basis: question.basis,
        headline,
        arrival,
        request,
        source,
        return_path,
        notes,
    })
}

/// Why IPv4 refuses to send although there is a route.
fn unsendable(world: &World<'_>, flow: &Flow, request: &Way) -> Option<String> {
    if flow.iif.is_some() || flow.to.is_ipv6() || request.fate == Fate::Refused {
        return None;
    }
    if matches!(flow.to, IpAddr::V4(to) if to.octets()[0] == 0) {
        return Some(format!("{} is of this network (0.0.0.0/8): nobody sends there (EINVAL)", flow.to));
    }
    let from = flow.from?;
    let dev = request.route.as_ref().and_then(|route| route.dev.as_deref());
    if !world.is_local(from) {
        Some(format!("{from} is not the pod's address: the kernel lets nobody send from it (EINVAL)"))
    } else if from.is_loopback() && dev.is_some_and(|dev| dev != "lo" && !arrival::is_loopback_let(world.seen, dev)) {
        Some(format!("{from} may not leave the pod (EINVAL)"))
    } else {
        None
    }
}

fn headline(pod: &str, flow: &Flow, request: &Way, own: Option<IpAddr>, arrival: Option<&Arrival>) -> String {
    let to = flow.to;
    let because = request
        .rules
        .iter()
        .find(|step| step.verdict == RuleVerdict::Decides)
        .and_then(|step| step.reason.as_deref())
        .filter(|reason| !reason.starts_with(reason::KERNELS_OWN))
        .or(request.route.as_ref().and_then(|route| route.reason.as_deref()))
        // Why a table is asked at all stands with the rule.
        .map(|reason| format!(", because of {}", reason.split("; in table").next().unwrap_or(reason)))
        .unwrap_or_default();
    if let (Some(arrival), Some(from)) = (arrival, flow.from) {
        let what = match arrival.verdict {
            Verdict::Delivered => "is delivered",
            Verdict::Forwarded => "is sent on",
            Verdict::Dropped => "is dropped",
        };
        return format!("{from} → {to} by {} {what} in {pod}: {}", arrival.nic, arrival.why);
    }
    match (request.fate, &request.route) {
        (Fate::Refused, _) | (_, None) => format!("{pod} → {to} is refused: {}", request.why),
        (Fate::Stays, Some(_)) => format!("{pod} → {to} stays in the pod: the address is its own"),
        (Fate::Leaves, Some(route)) => {
            let dev = route.dev.as_deref().unwrap_or("one of several NICs");
            let source = own.map_or_else(|| "without source".to_owned(), |own| format!("with source {own}"));
            format!("{pod} → {to} leaves by {dev} {source}{because}")
        }
    }
}
