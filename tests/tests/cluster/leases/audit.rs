//! Which controller has written what, by the API server's own audit log.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::fleet::Controller;

/// Writes of the controllers' account; of those to Leases also what was written.
const POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
    {"level": "Request", "users": ["system:serviceaccount:kube-system:dragline-controller"],
     "verbs": ["create", "update", "patch", "delete"]},
    {"level": "None"}
]}"#;

/// The log.
pub(super) struct Audit {
    log: PathBuf,
}

/// A write that was done.
#[derive(Debug)]
pub(super) struct Write {
    /// When the API server began with it, as text that can be compared.
    begun: String,
    /// When it was done with it.
    ended: String,
    /// The controller.
    pub(super) by: String,
    /// What was written.
    what: String,
    /// It is neither an Event, which is what somebody says, nor the Lease, which is what they compete for.
    is_act: bool,
    /// Whom it made the Lease's holder, where it did.
    holder: Option<Option<String>>,
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.begun, self.by, self.what)
    }
}

impl Audit {
    /// Where an API server with these files, which is not started yet, is to write it, and the arguments by which it does.
    pub(super) fn prepare(folder: &Path) -> (Self, Vec<String>) {
        fs::create_dir_all(folder).unwrap();
        let (policy, log) = (folder.join("audit.json"), folder.join("audit.log"));
        fs::write(&policy, POLICY).unwrap();
        let arguments =
            vec![format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log.display())];
        (Self { log }, arguments)
    }

    /// The writes of these controllers in the order in which they were begun.
    pub(super) fn writes(&self, controllers: &[Controller]) -> Vec<Write> {
        let names: BTreeMap<String, &str> =
            controllers.iter().map(|one| (one.address.to_string(), one.name.as_str())).collect();
        let text = fs::read_to_string(&self.log).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let done = lines.filter(|event| event["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300));
        let mut writes: Vec<Write> = done
            .map(|event| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let object = &event["objectRef"];
                let parts = [&object["resource"], &object["subresource"], &object["name"]].map(text);
                let is_lease = parts[0] == "leases" && parts[2] == "dragline-controller";
                let holder = event["requestObject"]["spec"].get("holderIdentity").filter(|_| is_lease);
                Write {
                    begun: text(&event["requestReceivedTimestamp"]),
                    ended: text(&event["stageTimestamp"]),
                    by: names[event["sourceIPs"][0].as_str().unwrap()].to_owned(),
                    what: format!("{} {}", text(&event["verb"]), parts.join(" ")),
                    is_act: !is_lease && parts[0] != "events",
                    holder: holder.map(|holder| holder.as_str().map(ToOwned::to_owned)),
                }
            })
            .collect();
        writes.sort_by(|one, other| one.begun.cmp(&other.begun));
        writes
    }
}

/// The acts of somebody who did not hold the Lease when the API server began with them.
pub(super) fn without_lease(writes: &[Write]) -> Vec<&Write> {
    let mut terms: Vec<(&str, Option<&str>)> =
        writes.iter().filter_map(|write| Some((write.ended.as_str(), write.holder.as_ref()?.as_deref()))).collect();
    terms.sort_unstable();
    let holder_at = |time: &str| terms.iter().rev().find(|(since, _)| *since <= time).and_then(|(_, holder)| *holder);
    let acting = writes.iter().filter(|write| write.is_act);
    acting.filter(|write| holder_at(&write.begun) != Some(write.by.as_str())).collect()
}
