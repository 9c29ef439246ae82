//! ADD of each plugin, up to the question that the agent is asked.

use schemas::cni::error::CniError;
use schemas::cni::ifacer::IfacerConf;
use schemas::cni::netconf::{IpvlanConf, MacvlanConf};
use schemas::cni::result::{CniResult, ResultDns};
use schemas::intent::LinkKindIntent;
use schemas::name::IfName;
use schemas::uplink::UplinkIntent;
use schemas::wire::{AllocateCall, AttachCall, AttachIpam, Call, CoordinateCall, Place, UplinkCall};
use serde_json::Value;

use crate::netconf::{Ipam, decode};
use crate::order::{Caller, Step};
use crate::plugin::Plugin;

pub(crate) fn decide(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    match caller.plugin {
        Plugin::Spiderpool => allocate(caller, place),
        Plugin::Macvlan => macvlan(caller, place),
        Plugin::Ipvlan => ipvlan(caller, place),
        Plugin::Ifacer => uplink(caller, place),
        Plugin::Coordinator => coordinate(caller, place),
    }
}

fn allocate(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    let wrong = |what: &str| {
        let text = format!("network configuration: ipam.type: {what}, but the plugin called is \"spiderpool\"");
        Err(CniError::new(CniError::INVALID_CONFIG, text))
    };
    match caller.conf.ipam()? {
        Ipam::Ours(ipam) => caller.ask(Call::Allocate(AllocateCall { place, ipam }), None),
        Ipam::Foreign(plugin) => wrong(&format!("it is {plugin:?}")),
        Ipam::None => wrong("it is missing"),
    }
}

fn macvlan(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    let conf: MacvlanConf = decode("", &caller.conf.object)?;
    let asked = caller.environment().arguments()?.mac;
    // The reference plugin's order, with `args.cni` where its sister `bridge` has it.
    let mac = conf.runtime_config.mac.or(conf.args.cni.mac).or(asked).or(conf.mac);
    let call = AttachCall {
        place,
        kind: LinkKindIntent::Macvlan(conf.mode),
        master: conf.master,
        master_in_container: conf.link_in_container,
        mtu: Some(conf.mtu).filter(|mtu| *mtu > 0),
        mac,
        ipam: AttachIpam::None,
    };
    attach(caller, call)
}

fn ipvlan(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    let conf: IpvlanConf = decode("", &caller.conf.object)?;
    let master = match conf.master {
        None if caller.conf.common.prev_result.is_some() => Some(chained_master(&caller.prev_result()?)?),
        master => master,
    };
    let call = AttachCall {
        place,
        kind: LinkKindIntent::Ipvlan(conf.mode),
        master,
        master_in_container: conf.link_in_container,
        mtu: Some(conf.mtu).filter(|mtu| *mtu > 0),
        mac: None,
        ipam: AttachIpam::None,
    };
    attach(caller, call)
}

/// Chained behind a plugin that makes one link, the uplink is that one, as the reference plugin has it.
fn chained_master(result: &CniResult) -> Result<IfName, CniError> {
    let text = "chained master failure. PrevResult lacks a single named interface: name the uplink by `master`";
    let lacks = || CniError::new(CniError::INVALID_CONFIG, text);
    match result.interfaces.as_slice() {
        [only] => only.name.parse().map_err(|_| lacks()),
        _ => Err(lacks()),
    }
}

fn uplink(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    let uplink = asked_uplink(caller)?;
    if uplink.is_nothing() {
        return Ok(Step::StandAside(Some(CniResult::default())));
    }
    caller.ask(Call::Uplink(UplinkCall { place, uplink }), None)
}

/// What the configuration of an `ifacer` asks for.
pub(crate) fn asked_uplink(caller: &Caller<'_>) -> Result<UplinkIntent, CniError> {
    let conf: IfacerConf = decode("", &caller.conf.object)?;
    conf.intent()
}

fn attach(caller: &Caller<'_>, mut call: AttachCall) -> Result<Step, CniError> {
    let foreign = match caller.conf.ipam()? {
        Ipam::None => None,
        Ipam::Ours(ipam) => {
            call.ipam = AttachIpam::Spiderpool(ipam);
            None
        }
        Ipam::Foreign(plugin) => Some(plugin),
    };
    let mut step = caller.ask(Call::Attach(call), foreign)?;
    if let Step::Ask(question) = &mut step {
        question.dns = dns(&caller.conf.object["dns"])?;
    }
    Ok(step)
}

fn dns(value: &Value) -> Result<Option<ResultDns>, CniError> {
    match value {
        Value::Null => Ok(None),
        Value::Object(_) => decode("dns.", value).map(Some),
        _ => Err(CniError::new(CniError::DECODE, "network configuration: dns: it is not a JSON object")),
    }
}

fn coordinate(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    let prev_result = caller.prev_result()?;
    let (conf, disabled) = caller.coordinator()?;
    if disabled {
        return Ok(Step::StandAside(Some(prev_result)));
    }
    caller.ask(Call::Coordinate(CoordinateCall { place, conf, prev_result }), None)
}
