//! Sysctls of the node that pods need set otherwise: what they were is written down first, and comes back when no pod
//! needs them any more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plan::Desired;
use store::{Change, ReadError, Store};

use crate::agent::Agent;

const KEY: &str = "sysctl/";

/// Sysctls by path below /proc/sys, with the values that they had.
#[derive(Debug, Default)]
pub struct Borrowed {
    before: Mutex<BTreeMap<String, String>>,
}

impl Borrowed {
    /// What the store has of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(store: &Store) -> Result<Self, ReadError> {
        let texts = store.catalogue(KEY)?.texts.into_iter();
        let before = texts.filter_map(|(key, value)| Some((key.strip_prefix(KEY)?.to_owned(), value)));
        Ok(Self { before: Mutex::new(before.collect()) })
    }

    fn before(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sysctls among these that were never looked at.
    fn unknown(&self, wanted: &Desired) -> Vec<String> {
        let before = self.before();
        wanted.sysctls.keys().filter(|path| !before.contains_key(*path)).cloned().collect()
    }

    /// Wants what is not needed any more to be what it was.
    pub fn give_back(&self, wanted: &mut Desired) {
        for (path, value) in self.before().iter() {
            wanted.sysctls.entry(path.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Those that are set to less than they were, as `dragline status` says it.
    pub fn weakened(&self, wanted: &Desired) -> Vec<String> {
        let before = self.before();
        let lowered = before.iter().filter_map(|(path, old)| {
            let new =
                wanted.sysctls.get(path).filter(|new| path.ends_with("/rp_filter") && strength(new) < strength(old))?;
            Some(format!("{path} is set from {old} to {new}, as hostRPFilter asks: fewer spoofed packets are dropped"))
        });
        lowered.collect()
    }
}

/// Strict before loose before none.
fn strength(value: &str) -> u8 {
    match value {
        "1" => 2,
        "2" => 1,
        _ => 0,
    }
}

/// Writes down what the sysctls are that are wanted otherwise. False when that cannot be done: nothing is changed then.
pub async fn note(agent: &Agent, wanted: &Desired) -> bool {
    let unknown = agent.borrowed.unknown(wanted);
    if unknown.is_empty() {
        return true;
    }
    let kernel = agent.kernel.clone();
    let read = tokio::task::spawn_blocking(move || -> Result<BTreeMap<String, String>, String> {
        let pass = kernel.node_pass().map_err(|error| error.to_string())?;
        pass.sysctls(&unknown).map_err(|error| error.to_string())
    });
    let found = match read.await.map_err(|error| error.to_string()).and_then(|found| found) {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(error, "the node's sysctls cannot be read: none is changed");
            return false;
        }
    };
    let changed = found.iter().filter(|(path, value)| wanted.sysctls.get(*path) != Some(value));
    let change = changed
        .clone()
        .fold(Change::new(), |change, (path, value)| change.put_catalogue(&format!("{KEY}{path}"), value));
    if changed.clone().next().is_none() {
        return true;
    }
    if let Err(error) = agent.ledger.record(change).await {
        tracing::error!(%error, "what the node's sysctls are cannot be written down: none is changed");
        return false;
    }
    agent.borrowed.before().extend(changed.map(|(path, value)| (path.clone(), value.clone())));
    true
}

/// Forgets those that are what they were, and those whose link is gone.
pub async fn settle(agent: &Agent, needed: &Desired, observed: &BTreeMap<String, String>) {
    let settled: Vec<String> = {
        let before = agent.borrowed.before();
        let is_settled = |(path, value): &(&String, &String)| {
            !needed.sysctls.contains_key(*path) && observed.get(*path).is_none_or(|found| found == *value)
        };
        before.iter().filter(is_settled).map(|(path, _)| path.clone()).collect()
    };
    if settled.is_empty() {
        return;
    }
    let forget = |change: Change, path: &String| change.delete_catalogue(&format!("{KEY}{path}"));
    match agent.ledger.record(settled.iter().fold(Change::new(), forget)).await {
        Ok(()) => agent.borrowed.before().retain(|path, _| !settled.contains(path)),
        Err(error) => tracing::error!(%error, "that the node's sysctls are back could not be written down"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "net/ipv4/conf/ens192/rp_filter";

    #[test]
    fn what_is_not_needed_comes_back() {
        let borrowed = Borrowed::default();
        borrowed.before().insert(PATH.into(), "1".into());
        let mut wanted = Desired::default();
        borrowed.give_back(&mut wanted);
        assert_eq!(wanted.sysctls[PATH], "1");
        wanted.sysctls.insert(PATH.into(), "0".into());
        borrowed.give_back(&mut wanted);
        assert_eq!(wanted.sysctls[PATH], "0");
        assert_eq!(borrowed.weakened(&wanted).len(), 1);
        wanted.sysctls.insert(PATH.into(), "1".into());
        assert!(borrowed.weakened(&wanted).is_empty());
    }

    #[test]
    fn loose_is_less_than_strict() {
        assert!(strength("1") > strength("2") && strength("2") > strength("0"));
    }
}
