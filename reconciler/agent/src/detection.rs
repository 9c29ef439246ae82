//! Whether addresses are probed for conflicts, and gateways for being there: what decides it, and what has been found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink::Question;
use schemas::cni::netconf::DetectKeys;
use schemas::name::AttachmentKey;

use crate::agent::Agent;
use crate::catalogue::Conf;

/// When something is probed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// Never.
    #[default]
    Off,
    /// Before ADD answers, which fails by what is found.
    On,
    /// After ADD has answered; what is found is told, and nothing is taken away.
    Background,
}

/// The agent's own setting; where there is none, ConfigMap `spiderpool-conf` decides, as with the original.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    /// Conflicts of addresses.
    pub conflict: Option<When>,
    /// Gateways.
    pub gateway: Option<When>,
}

/// What holds for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Conflicts of addresses.
    pub conflict: When,
    /// Gateways.
    pub gateway: When,
}

impl Wanted {
    /// The agent's setting over the ConfigMap's. A network configuration may ask for what they leave off; what it does not
    /// ask for is no reason to leave it, since the seed's configurations have `false` for all networks.
    pub fn new(switches: Switches, conf: &Conf, keys: DetectKeys) -> Self {
        let one = |switch: Option<When>, conf: bool, key: Option<bool>| {
            let general = switch.unwrap_or(if conf { When::On } else { When::Off });
            if general == When::Off && key == Some(true) { When::On } else { general }
        };
        Self {
            conflict: one(switches.conflict, conf.enable_ip_conflict_detection, keys.ip_conflict),
            gateway: one(switches.gateway, conf.enable_gateway_detection, keys.gateway),
        }
    }

    /// Something is probed then.
    pub fn has(&self, when: When) -> bool {
        self.conflict == when || self.gateway == when
    }
}

/// What the agent knows of probes since it was started.
#[derive(Debug, Default)]
pub struct Findings {
    asked: Mutex<BTreeMap<AttachmentKey, BTreeSet<Question>>>,
    unreachable: Mutex<BTreeMap<AttachmentKey, String>>,
}

impl Findings {
    fn asked(&self) -> MutexGuard<'_, BTreeMap<AttachmentKey, BTreeSet<Question>>> {
        // Whole between any two calls.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreachable(&self) -> MutexGuard<'_, BTreeMap<AttachmentKey, String>> {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what an attachment needs not be asked again by the next plugin of its chain.
    pub fn note(&self, agent: &Agent, key: &AttachmentKey, questions: impl IntoIterator<Item = Question>) {
        let mut asked = self.asked();
        asked.retain(|known, _| known == key || is_there(agent, known));
        asked.entry(key.clone()).or_default().extend(questions);
    }

    /// What has been asked of an attachment.
    pub fn of(&self, key: &AttachmentKey) -> BTreeSet<Question> {
        self.asked().get(key).cloned().unwrap_or_default()
    }

    /// Remembers that gateways do not answer, for [`unreachable_gateways`](Self::unreachable_gateways).
    pub fn set_unreachable(&self, key: &AttachmentKey, text: String) {
        self.unreachable().insert(key.clone(), text);
    }

    /// A line for each attachment that lives and whose gateway did not answer.
    pub fn unreachable_gateways(&self, agent: &Agent) -> Vec<String> {
        let mut unreachable = self.unreachable();
        unreachable.retain(|key, _| is_there(agent, key));
        unreachable.values().cloned().collect()
    }
}

fn is_there(agent: &Agent, key: &AttachmentKey) -> bool {
    agent.ledger.sandbox(&key.container).is_some_and(|found| found.attachments.contains_key(&key.ifname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_setting_beats_the_config_map_and_a_network_may_ask_for_more() {
        let conf = |is_on| Conf { enable_ip_conflict_detection: is_on, ..Conf::default() };
        let keys = |ip_conflict| DetectKeys { ip_conflict, gateway: None };
        for (switch, configured, key, wanted) in [
            (None, false, None, When::Off),
            (None, true, None, When::On),
            (None, true, Some(false), When::On),
            (None, false, Some(false), When::Off),
            (None, false, Some(true), When::On),
            (Some(When::Off), true, None, When::Off),
            (Some(When::Off), false, Some(true), When::On),
            (Some(When::Background), true, Some(true), When::Background),
            (Some(When::On), false, None, When::On),
        ] {
            let switches = Switches { conflict: switch, gateway: None };
            let found = Wanted::new(switches, &conf(configured), keys(key));
            assert_eq!(found, Wanted { conflict: wanted, gateway: When::Off }, "{switch:?} {configured} {key:?}");
        }
    }
}
