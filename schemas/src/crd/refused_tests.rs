//! What the API server refuses, the agent refuses too, and the other way round, but for what the table names. The same table
//! is asked of a real API server by the tests of the cluster.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::multus_config::nad_config;
use super::{SpiderCoordinator, SpiderIPPool, SpiderMultusConfig, SpiderReservedIP};

/// A row of `refused.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    kind: String,
    /// Absent in an object without one.
    spec: Option<Value>,
    /// What the API server says.
    server: Option<String>,
    /// What the agent says.
    agent: Option<String>,
    /// Why one of the two says nothing.
    alone: Option<String>,
}

fn table<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/tests/cluster/crds").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the agent says of an object; None for kinds that it does not read.
fn read(kind: &str, spec: Option<&Value>) -> Option<Result<(), String>> {
    fn parsed<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
        serde_json::from_value(object.clone()).map_err(|error| error.to_string())
    }
    fn checked<T, E: ToString>(outcome: Result<T, E>) -> Result<(), String> {
        outcome.map(drop).map_err(|error| error.to_string())
    }
    let mut object =
        json!({"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": kind, "metadata": {"name": "one"}});
    if let Some(spec) = spec {
        object["spec"] = spec.clone();
    }
    Some(match kind {
        "SpiderIPPool" => parsed::<SpiderIPPool>(&object).and_then(|pool| checked(pool.spec.ranges())),
        "SpiderReservedIP" => parsed::<SpiderReservedIP>(&object).and_then(|reserved| checked(reserved.spec.ranges())),
        "SpiderCoordinator" => parsed::<SpiderCoordinator>(&object).and_then(|one| checked(one.settings())),
        "SpiderMultusConfig" => parsed::<SpiderMultusConfig>(&object).and_then(|network| checked(nad_config(&network))),
        _ => return None,
    })
}

#[test]
fn the_agent_refuses_what_the_api_server_refuses() {
    let cases: Vec<Case> = table("refused.yaml");
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut kinds = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in &cases {
        kinds.insert(case.kind.as_str());
        let both = case.server.is_some() && case.agent.is_some();
        assert!(case.server.is_some() || case.agent.is_some(), "nobody refuses: {case:?}");
        assert_eq!(both, case.alone.is_none(), "the reason is missing or too much: {case:?}");
        let said = read(&case.kind, case.spec.as_ref());
        let right = match (&case.agent, &said) {
            (Some(words), Some(Err(error))) => error.contains(words.as_str()),
            (None, Some(Ok(())) | None) => true,
            (Some(_), Some(Ok(())) | None) | (None, Some(Err(_))) => false,
        };
        if !right {
            wrong.push(format!("{case:?}: {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(kinds.len(), 5, "{kinds:?}");
}

#[test]
fn the_agent_accepts_what_the_api_server_accepts() {
    let cases: Vec<Case> = table("accepted.yaml");
    assert!(!cases.is_empty());
    for case in cases {
        // In the API server, an absent spec of this kind is that of its defaults.
        let spec = case.spec.unwrap_or_else(|| json!({}));
        let said = read(&case.kind, Some(&spec)).unwrap_or(Ok(()));
        // Texts of these types are not made yet.
        let unsupported = said.as_ref().is_err_and(|error| error.contains("is not supported yet"));
        assert!(said.is_ok() || unsupported, "{} {spec}: {said:?}", case.kind);
    }
}
