//! ADD of each plugin, up to the question that the agent is asked.

use schemas::cni::error::CniError;
use schemas::cni::netconf::MacvlanConf;
use schemas::cni::result::ResultDns;
use schemas::intent::LinkKindIntent;
use schemas::wire::{AllocateCall, AttachCall, AttachIpam, Call, CoordinateCall, Place};
use serde_json::Value;

use crate::netconf::{Ipam, decode};
use crate::order::{Caller, Step};
use crate::plugin::Plugin;

pub(crate) fn decide(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    match caller.plugin {
        Plugin::Spiderpool => allocate(caller, place),
        Plugin::Macvlan => attach(caller, place),
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

fn attach(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    let conf: MacvlanConf = decode("", &caller.conf.object)?;
    let asked = caller.environment().arguments()?.mac;
    // The reference plugin's order, with `args.cni` where its sister `bridge` has it.
    let mac = conf.runtime_config.mac.or(conf.args.cni.mac).or(asked).or(conf.mac);
    let (ipam, foreign) = match caller.conf.ipam()? {
        Ipam::None => (AttachIpam::None, None),
        Ipam::Ours(ipam) => (AttachIpam::Spiderpool(ipam), None),
        Ipam::Foreign(plugin) => (AttachIpam::None, Some(plugin)),
    };
    let call = AttachCall {
        place,
        kind: LinkKindIntent::Macvlan(conf.mode),
        master: conf.master,
        master_in_container: conf.link_in_container,
        mtu: Some(conf.mtu).filter(|mtu| *mtu > 0),
        mac,
        ipam,
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
