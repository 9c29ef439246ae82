//! Does what was decided.

use schemas::cni::error::CniError;
use schemas::cni::result::{CniResult, ResultIp, ResultRoute};
use schemas::cni::version::CniVersion;
use schemas::intent::{AssignedAddress, RouteIntent};
use schemas::name::AttachmentKey;
use schemas::wire::{Answer, AttachCall, AttachIpam, Call, Difference, Part, Withdrawal};
use serde_json::{Value, json};

use crate::agent::{Agent, AgentError};
use crate::delegate::Delegate;
use crate::environment::Verb;
use crate::order::{Order, Question, Step};
use crate::spool::Spool;

/// Performs an order; what comes back is to be printed.
///
/// # Errors
/// What the runtime is to be told.
pub fn perform(order: Order, delegate: &Delegate<'_>, spool: &Spool) -> Result<Option<Value>, CniError> {
    let question = match order.step {
        Step::PrintVersions => return Ok(Some(versions(order.version))),
        Step::StandAside(result) => return Ok(result.map(|result| result.to_json(order.version))),
        Step::Ask(question) => question,
    };
    let Question { agent, call, foreign_ipam, dns } = question;
    let foreign = foreign_ipam.as_deref();
    match call {
        Call::Withdraw(withdrawal) => {
            // Ours first: it is durable at once, and the address comes free after the link was told to go.
            withdraw(&agent, withdrawal, spool)?;
            foreign.map_or(Ok(()), |plugin| delegate.delete(plugin))?;
            Ok(None)
        }
        Call::Verify(_) => {
            foreign.map_or(Ok(()), |plugin| delegate.call(plugin, Verb::Check))?;
            no_difference(&agent, call)
        }
        Call::Collect(_) => {
            let ours = done(&agent, call);
            let theirs = foreign.map_or(Ok(()), |plugin| delegate.call(plugin, Verb::Gc));
            ours.and_then(|nothing| theirs.map(|()| nothing))
        }
        Call::Ready(_) => {
            ready(&agent, call)?;
            foreign.map_or(Ok(()), |plugin| delegate.call(plugin, Verb::Status))?;
            Ok(None)
        }
        Call::Coordinate(ref asked) => {
            let handed_on = asked.prev_result.to_json(order.version);
            done(&agent, call)?;
            Ok(Some(handed_on))
        }
        Call::Uplink(_) => {
            done(&agent, call)?;
            // The next plugin of the chain begins from nothing.
            Ok(Some(CniResult::default().to_json(order.version)))
        }
        Call::Attach(asked) => {
            let mut result = match foreign {
                Some(plugin) => attach_with(&agent, asked, plugin, delegate, spool)?,
                None => result(&agent, Call::Attach(asked)).map_err(AgentError::into_cni)?,
            };
            result.dns = dns.unwrap_or(result.dns);
            Ok(Some(result.to_json(order.version)))
        }
        call => {
            let allocated = result(&agent, call).map_err(AgentError::into_cni)?;
            Ok(Some(without_interfaces(allocated).to_json(order.version)))
        }
    }
}

fn versions(version: CniVersion) -> Value {
    json!({ "cniVersion": version, "supportedVersions": CniVersion::ALL })
}

/// DEL at the agent, else in the spool: whatever the agent has to say against it, nothing may be lost.
fn withdraw(agent: &Agent, withdrawal: Withdrawal, spool: &Spool) -> Result<(), CniError> {
    let refusal = match agent.ask(Call::Withdraw(withdrawal.clone())) {
        Ok(Answer::Done) => return Ok(()),
        Ok(answer) => agent.answered_otherwise(&answer),
        Err(error) => error,
    };
    spool.add(&withdrawal).map_err(|error| CniError::new(CniError::TRY_AGAIN, format!("{refusal}; and {error}")))
}

fn done(agent: &Agent, call: Call) -> Result<Option<Value>, CniError> {
    match agent.ask(call).map_err(AgentError::into_cni)? {
        Answer::Done => Ok(None),
        answer => Err(agent.answered_otherwise(&answer).into_cni()),
    }
}

fn result(agent: &Agent, call: Call) -> Result<CniResult, AgentError> {
    match agent.ask(call)? {
        Answer::Result(result) => Ok(result),
        answer => Err(agent.answered_otherwise(&answer)),
    }
}

/// STATUS: an agent that is away is not a passing condition of this call but what was asked for.
fn ready(agent: &Agent, call: Call) -> Result<(), CniError> {
    match agent.ask(call) {
        Ok(Answer::Done) => Ok(()),
        Ok(answer) => Err(agent.answered_otherwise(&answer).into_cni()),
        Err(AgentError::Refused(error)) => Err(error),
        Err(error) => Err(CniError::new(CniError::NOT_AVAILABLE, error.to_string())),
    }
}

fn no_difference(agent: &Agent, call: Call) -> Result<Option<Value>, CniError> {
    let differences = match agent.ask(call).map_err(AgentError::into_cni)? {
        Answer::Differences(differences) => differences,
        answer => return Err(agent.answered_otherwise(&answer).into_cni()),
    };
    let line = |difference: &Difference| format!("{}: {}", difference.place, difference.step);
    let Some(first) = differences.first() else { return Ok(None) };
    let all: Vec<String> = differences.iter().map(line).collect();
    let text = format!("not as wanted, it lacks: {}", line(first));
    Err(CniError::new(CniError::FAILED, text).with_details(all.join("\n")))
}

/// The abbreviated result of an IPAM plugin (specification 1.1.0, section 5).
fn without_interfaces(mut result: CniResult) -> CniResult {
    result.interfaces.clear();
    for ip in &mut result.ips {
        ip.interface = None;
    }
    result
}

/// ADD with another plugin's addresses, all or nothing.
fn attach_with(
    agent: &Agent,
    mut call: AttachCall,
    plugin: &str,
    delegate: &Delegate<'_>,
    spool: &Spool,
) -> Result<CniResult, CniError> {
    let key = call.place.key.clone();
    let undo = |error: CniError| {
        // The first error is the one to tell.
        if let Err(second) = delegate.delete(plugin) {
            eprintln!("dragline-cni: addresses of the failed ADD are not given back: {second}");
        }
        error
    };
    let given = delegate.add(plugin).map_err(undo)?;
    let dns = given.dns.clone();
    call.ipam = from_foreign(given);
    let mut attached = result(agent, Call::Attach(call)).map_err(|error| {
        take_back(agent, &error, key, spool);
        undo(error.into_cni())
    })?;
    if attached.dns == schemas::cni::result::ResultDns::default() {
        attached.dns = dns;
    }
    Ok(attached)
}

/// The agent may have recorded the link and go on making it, with addresses that are about to be given to others.
fn take_back(agent: &Agent, error: &AgentError, key: AttachmentKey, spool: &Spool) {
    if matches!(error, AgentError::Unreachable { .. } | AgentError::Unsayable(_)) {
        return;
    }
    // The runtime has waited for the ADD already.
    let agent = Agent { deadline: agent.deadline.min(Verb::Del.patience()), socket: agent.socket.clone() };
    if let Err(second) = withdraw(&agent, Withdrawal { key, part: Part::Link }, spool) {
        eprintln!("dragline-cni: the failed ADD is not taken back: {second}");
    }
}

/// Another plugin's addresses and routes; a route without next hop takes the first gateway of its family, as the
/// reference main plugins do, unless its scope says that it ends on the link.
fn from_foreign(given: CniResult) -> AttachIpam {
    const SCOPE_LINK: u32 = 253;
    let gateway_for = |route: &ResultRoute| {
        let same_family = |ip: &ResultIp| ip.gateway.filter(|gateway| gateway.is_ipv4() == route.dst.is_ipv4());
        given.ips.iter().find_map(same_family).filter(|_| route.scope != Some(SCOPE_LINK))
    };
    let routes =
        given.routes.iter().map(|route| RouteIntent { dst: route.dst, gateway: route.gw.or(gateway_for(route)) });
    let routes = routes.collect();
    let address = |ip: &ResultIp| AssignedAddress { address: ip.address, gateway: ip.gateway, pool: String::new() };
    AttachIpam::Given { addresses: given.ips.iter().map(address).collect(), routes }
}
