//! What a call comes to, decided from its bytes and its environment alone.
//!
//! DEL is decided leniently: a runtime repeats a DEL that failed for as long as the pod exists, so the pod would never
//! go. Once container and interface are known the withdrawal is known whole, and whatever else is wrong - standard
//! input that is no JSON, another version or type, missing keys, arguments - has nothing to say about it.

use schemas::cni::error::CniError;
use schemas::cni::netconf::CoordinatorConf;
use schemas::cni::result::{CniResult, ResultDns};
use schemas::cni::version::CniVersion;
use schemas::intent::CoordinatorMode;
use schemas::wire::{Call, CollectCall, Place, ReadyCall, VerifyCall, Withdrawal};

use crate::add;
use crate::agent::Agent;
use crate::environment::{Environment, Verb};
use crate::netconf::{Ipam, NetConf, Remains, decode, version_spoken};
use crate::plugin::Plugin;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The version to answer in.
    pub version: CniVersion,
    /// The one step.
    pub step: Step,
}

/// A step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// VERSION.
    PrintVersions,
    /// A coordinator that is switched off: its ADD hands on what it was given, the others have nothing to say.
    StandAside(Option<CniResult>),
    /// One question to the agent.
    Ask(Question),
}

/// A question to the agent, and what stands around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Whom.
    pub agent: Agent,
    /// What.
    pub call: Call,
    /// Another IPAM plugin that has the same verb to do. On ADD it comes first, and its addresses into `call`.
    pub foreign_ipam: Option<String>,
    /// `dns` of the configuration, which a main plugin's result repeats.
    pub dns: Option<ResultDns>,
}

/// Decides a call. `stdin` is an error when it could not be read.
///
/// # Errors
/// With the specification's codes (1.1.0, section 5, "Error").
pub fn decide(
    plugin: Option<Plugin>,
    environment: &Environment,
    stdin: Result<&[u8], CniError>,
) -> Result<Order, CniError> {
    let verb = environment.verb()?;
    if verb == Verb::Version {
        return Ok(Order { version: version_spoken(stdin.unwrap_or_default()), step: Step::PrintVersions });
    }
    let plugin = plugin.ok_or_else(|| {
        let names = Plugin::ALL.map(Plugin::name).join(", ");
        CniError::new(
            CniError::INVALID_ENVIRONMENT,
            format!(
                "the program is called by a name that is no plugin's ({names}); `dragline-cni install DIR` makes them"
            ),
        )
    })?;
    if verb == Verb::Del {
        return withdraw(plugin, environment, stdin.unwrap_or_default());
    }
    // The environment first: it is told apart from the configuration by its code, and cheaper to correct.
    let place = if matches!(verb, Verb::Add | Verb::Check) { Some(environment.key_and_netns()?) } else { None };
    let caller = Caller { plugin, verb, environment, conf: NetConf::parse(stdin?)? };
    caller.allow_version()?;
    let step = match (verb, place) {
        (Verb::Add, Some((key, netns))) => add::decide(&caller, caller.place(key, netns)?)?,
        (Verb::Check, Some((key, netns))) => check(&caller, caller.place(key, netns)?)?,
        (Verb::Gc, _) => collect(&caller)?,
        _ => ready(&caller)?,
    };
    Ok(Order { version: caller.conf.common.cni_version, step })
}

/// A call with a configuration.
pub(crate) struct Caller<'a> {
    pub(crate) plugin: Plugin,
    pub(crate) conf: NetConf,
    verb: Verb,
    environment: &'a Environment,
}

impl Caller<'_> {
    /// CHECK, GC and STATUS came with later specifications.
    fn allow_version(&self) -> Result<(), CniError> {
        let version = self.conf.common.cni_version;
        let allowed = match self.verb {
            Verb::Check => version.has_check(),
            Verb::Gc | Verb::Status => version.has_gc_and_status(),
            Verb::Add | Verb::Del | Verb::Version => true,
        };
        if allowed {
            return Ok(());
        }
        let text = format!("config version does not allow {}", self.verb.as_str());
        Err(CniError::new(CniError::INCOMPATIBLE_VERSION, text)
            .with_details(format!("config is {:?}", version.as_str())))
    }

    fn place(&self, key: schemas::name::AttachmentKey, netns: String) -> Result<Place, CniError> {
        let pod = self.environment.arguments()?.pod;
        Ok(Place { key, network: self.conf.common.name.clone(), netns: Some(netns), pod })
    }

    pub(crate) fn environment(&self) -> &Environment {
        self.environment
    }

    pub(crate) fn ask(&self, call: Call, foreign_ipam: Option<String>) -> Result<Step, CniError> {
        let agent = Agent {
            socket: self.conf.socket().unwrap_or_else(|| self.environment.socket()),
            deadline: self.environment.deadline(self.verb)?,
        };
        Ok(Step::Ask(Question { agent, call, foreign_ipam, dns: None }))
    }

    /// The plugin that has addresses to look after beside ours: only a main plugin calls one.
    fn foreign_ipam(&self) -> Result<Option<String>, CniError> {
        match (self.plugin, self.conf.ipam()?) {
            (plugin, Ipam::Foreign(foreign)) if plugin.is_main() => Ok(Some(foreign)),
            _ => Ok(None),
        }
    }

    /// A coordinator's configuration, checked, and whether it is switched off.
    pub(crate) fn coordinator(&self) -> Result<(CoordinatorConf, bool), CniError> {
        let conf: CoordinatorConf = decode("", &self.conf.object)?;
        let disabled = conf.overrides()?.mode == Some(CoordinatorMode::Disabled);
        Ok((conf, disabled))
    }

    /// What the plugins before it made, without which a coordinator has nothing to put in order.
    pub(crate) fn prev_result(&self) -> Result<CniResult, CniError> {
        let value = self.conf.common.prev_result.as_ref().ok_or_else(|| {
            let text = "coordinator: prevResult is missing; it has to be chained behind a main plugin";
            CniError::new(CniError::INVALID_CONFIG, text)
        })?;
        CniResult::from_json(value)
    }
}

fn withdraw(plugin: Plugin, environment: &Environment, stdin: &[u8]) -> Result<Order, CniError> {
    let withdrawal = Withdrawal { key: environment.key()?, part: plugin.part() };
    let remains = Remains::of(stdin);
    let question = Question {
        agent: Agent {
            socket: remains.socket.unwrap_or_else(|| environment.socket()),
            deadline: environment.deadline(Verb::Del)?,
        },
        call: Call::Withdraw(withdrawal),
        foreign_ipam: remains.foreign_ipam.filter(|_| plugin.is_main()),
        dns: None,
    };
    Ok(Order { version: version_spoken(stdin), step: Step::Ask(question) })
}

fn check(caller: &Caller<'_>, place: Place) -> Result<Step, CniError> {
    if caller.plugin == Plugin::Coordinator {
        caller.prev_result()?;
        if caller.coordinator()?.1 {
            return Ok(Step::StandAside(None));
        }
    }
    if caller.plugin == Plugin::Ifacer && add::asked_uplink(caller)?.is_nothing() {
        return Ok(Step::StandAside(None));
    }
    caller.ask(Call::Verify(VerifyCall { place, part: caller.plugin.part() }), caller.foreign_ipam()?)
}

fn collect(caller: &Caller<'_>) -> Result<Step, CniError> {
    let valid = caller.conf.common.valid_attachments.clone().ok_or_else(|| {
        // Taking "not told" for "none" would take away the network of every pod.
        let text = "network configuration: cni.dev/valid-attachments is missing; GC does nothing without it";
        CniError::new(CniError::INVALID_CONFIG, text)
    })?;
    let call = CollectCall { network: caller.conf.common.name.clone(), part: caller.plugin.part(), valid };
    caller.ask(Call::Collect(call), caller.foreign_ipam()?)
}

fn ready(caller: &Caller<'_>) -> Result<Step, CniError> {
    if caller.plugin == Plugin::Coordinator && caller.coordinator()?.1 {
        return Ok(Step::StandAside(None));
    }
    let pools = match caller.conf.ipam()? {
        Ipam::Ours(ipam) if caller.plugin.is_main() || caller.plugin == Plugin::Spiderpool => {
            [ipam.default_ipv4_ippool, ipam.default_ipv6_ippool].concat()
        }
        _ => Vec::new(),
    };
    caller.ask(Call::Ready(ReadyCall { part: caller.plugin.part(), pools }), caller.foreign_ipam()?)
}
