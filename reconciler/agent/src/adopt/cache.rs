//! What the runtime's CNI library remembers of the attachments that it has made: for each a file
//! `NETWORK-CONTAINER-IFNAME` with a JSON object of kind `cniCacheV1`.

use std::io;
use std::path::Path;

use k8s_openapi::ByteString;
use schemas::name::{ContainerId, IfName, NetworkName};
use serde::Deserialize;
use serde_json::Value;

/// Where the library keeps them, unless it is told otherwise.
pub const DEFAULT_DIR: &str = "/var/lib/cni/results";

/// One attachment as the runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cached {
    /// The network configuration's name.
    pub(super) network: NetworkName,
    /// The sandbox.
    pub(super) container: ContainerId,
    /// The interface.
    pub(super) ifname: IfName,
    /// Paths of the sandbox's namespace; older libraries tell it only by the result.
    pub(super) netns: Vec<String>,
    /// The pod's UID, where the runtime told it.
    pub(super) pod_uid: Option<String>,
    /// The coordinator was one of the plugins.
    pub(super) has_coordinator: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: String,
    container_id: ContainerId,
    if_name: IfName,
    network_name: NetworkName,
    #[serde(default)]
    netns: String,
    #[serde(default)]
    cni_args: Option<Vec<Vec<String>>>,
    #[serde(default)]
    config: Option<ByteString>,
    #[serde(default)]
    result: Value,
}

/// All that can be read of a folder, and what cannot; none is no fault.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn read(dir: &Path) -> io::Result<(Vec<Cached>, Vec<String>)> {
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((all, faults)),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            continue;
        }
        let parsed = std::fs::read(&path).map_err(|error| error.to_string()).and_then(|text| parse(&text));
        match parsed {
            Ok(cached) => all.push(cached),
            Err(error) => faults.push(format!("{}: {error}", path.display())),
        }
    }
    all.sort_by(|a, b| (&a.container, &a.ifname).cmp(&(&b.container, &b.ifname)));
    Ok((all, faults))
}

fn parse(text: &[u8]) -> Result<Cached, String> {
    let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if file.kind != "cniCacheV1" {
        return Err(format!("its kind is {:?}, not cniCacheV1", file.kind));
    }
    let mut netns = vec![file.netns];
    let interfaces = file.result.get("interfaces").and_then(Value::as_array).into_iter().flatten();
    netns.extend(interfaces.filter_map(|interface| interface.get("sandbox")?.as_str().map(str::to_owned)));
    netns.retain(|path| path.starts_with('/'));
    netns.iter_mut().for_each(|path| *path = short(path));
    netns.sort();
    netns.dedup();
    let arguments = file.cni_args.unwrap_or_default();
    let uid = arguments.iter().find(|pair| pair.first().is_some_and(|key| key == "K8S_POD_UID"));
    let config: Value = file.config.and_then(|ByteString(text)| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let is_coordinator = |plugin: &Value| plugin.get("type").and_then(Value::as_str) == Some("coordinator");
    let mut plugins = config.get("plugins").and_then(Value::as_array).into_iter().flatten();
    Ok(Cached {
        network: file.network_name,
        container: file.container_id,
        ifname: file.if_name,
        netns,
        pod_uid: uid.and_then(|pair| pair.get(1)).filter(|uid| !uid.is_empty()).cloned(),
        has_coordinator: plugins.any(is_coordinator),
    })
}

/// `/run` and `/var/run` are one.
pub(super) fn short(path: &str) -> String {
    match path.strip_prefix("/var/run/") {
        Some(rest) => format!("/run/{rest}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = r#"{"name":"macvlan","plugins":[{"type":"macvlan"},{"type":"coordinator"}]}"#;

    fn file(config: &str, more: &str) -> Vec<u8> {
        let config = serde_json::to_string(&ByteString(config.as_bytes().to_vec())).unwrap();
        format!(
            r#"{{"kind":"cniCacheV1","containerId":"c1","ifName":"net1","networkName":"macvlan","config":{config}{more}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn what_the_library_wrote_is_read() {
        let more = r#","netns":"/var/run/netns/a","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_UID","u1"]]"#;
        let cached = parse(&file(CHAIN, more)).unwrap();
        assert_eq!(
            (cached.container.as_str(), cached.ifname.as_str(), cached.network.as_str()),
            ("c1", "net1", "macvlan")
        );
        assert_eq!((cached.netns, cached.pod_uid), (vec!["/run/netns/a".to_owned()], Some("u1".to_owned())));
        assert!(cached.has_coordinator);
        let older = r#","result":{"interfaces":[{"name":"eth0"},{"name":"net1","sandbox":"/var/run/netns/b"}]}"#;
        let cached = parse(&file("{}", older)).unwrap();
        assert_eq!(
            (cached.netns, cached.pod_uid, cached.has_coordinator),
            (vec!["/run/netns/b".to_owned()], None, false)
        );
    }

    #[test]
    fn what_else_lies_there_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join("none")).unwrap(), (vec![], vec![]));
        std::fs::write(folder.path().join("a"), file(CHAIN, "")).unwrap();
        std::fs::write(folder.path().join("b"), "{").unwrap();
        std::fs::write(folder.path().join("c"), r#"{"kind":"x","containerId":"c","ifName":"e","networkName":"n"}"#)
            .unwrap();
        let (all, faults) = read(folder.path()).unwrap();
        assert_eq!((all.len(), faults.len()), (1, 2));
    }
}
